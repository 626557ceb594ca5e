/* child.c - see child.h. */
#include "daemon/cli/child.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/image/bytes.h"

#define WORDS_BYTES 4096

extern char **environ;

int child_start(char *const argv[], int in_fd, int out_fd, int words_fd, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, defaults;
    int result = posix_spawn_file_actions_init(&actions);

    if (result != 0)
        return result;
    result = posix_spawnattr_init(&attributes);
    if (result == 0) {
        (void)sigemptyset(&none);
        (void)sigemptyset(&defaults);
        (void)sigaddset(&defaults, SIGPIPE);
        if (in_fd < 0)
            (void)posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY,
                                                   0);
        else
            (void)posix_spawn_file_actions_adddup2(&actions, in_fd, 0);
        (void)posix_spawn_file_actions_adddup2(&actions, out_fd, 1);
        (void)posix_spawn_file_actions_adddup2(&actions, words_fd, 2);
        (void)posix_spawnattr_setsigmask(&attributes, &none);
        (void)posix_spawnattr_setsigdefault(&attributes, &defaults);
        (void)posix_spawnattr_setpgroup(&attributes, 0);
        (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK |
                                                        POSIX_SPAWN_SETSIGDEF |
                                                        POSIX_SPAWN_SETPGROUP);
        result = posix_spawnp(pid, argv[0], &actions, &attributes, argv, environ);
        (void)posix_spawnattr_destroy(&attributes);
    }
    (void)posix_spawn_file_actions_destroy(&actions);
    return result;
}

void child_last_line(int words_fd, char out[CHILD_WORDS])
{
    char text[WORDS_BYTES + 1];
    off_t end = lseek(words_fd, 0, SEEK_END);
    off_t from = end > WORDS_BYTES ? end - WORDS_BYTES : 0;
    ssize_t n = pread_whole(words_fd, text, WORDS_BYTES, (uint64_t)from);
    const char *line;

    while (n > 0 && text[n - 1] == '\n')
        n--;
    text[n > 0 ? n : 0] = '\0';
    line = strrchr(text, '\n');
    line = line != NULL ? line + 1 : text;
    (void)snprintf(out, CHILD_WORDS, "%.159s",
                   *line != '\0' ? line : "it did not say why");
}
