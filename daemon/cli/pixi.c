/* pixi.c - see pixi.h. unpack_pixi.py does the work; what is said is told there.
 *
 * Our end of its standard input is the hold on the tree: the kernel closes it whatever
 * becomes of us, and no other child may have it. */
#include "daemon/cli/pixi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/cli/child.h"
#include "daemon/image/builder.h"
#include "daemon/image/bytes.h"

#define PROGRAM "unpack_pixi.py"
#define LINE_BYTES 1024

struct pipes {
    int hold[2], answer[2], words;
};

static void pipes_close(struct pipes *p)
{
    int *const fds[] = {&p->hold[0], &p->hold[1], &p->answer[0], &p->answer[1],
                        &p->words};

    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        if (*fds[i] >= 0)
            (void)close(*fds[i]);
        *fds[i] = -1;
    }
}

static int pipes_open(struct pipes *p, struct vine_err *err)
{
    *p = (struct pipes){{-1, -1}, {-1, -1}, memfd_create("vine-words", MFD_CLOEXEC)};
    if (p->words >= 0 && pipe2(p->hold, O_CLOEXEC) == 0 &&
        pipe2(p->answer, O_CLOEXEC) == 0)
        return 0;
    vine_err_sys(err, "cannot make a pipe");
    pipes_close(p);
    return -1;
}

static int place(const char *output, char out[VINE_PATH_MAX], struct vine_err *err)
{
    const char *folder = getenv("TMPDIR");
    bool given = folder != NULL && *folder == '/';
    int n =
        snprintf(out, VINE_PATH_MAX, given ? "%s/vine-env-pack-%ld" : "%s.unpack-%ld",
                 given ? folder : output, (long)getpid());

    if (n > 0 && n < VINE_PATH_MAX - (int)sizeof("/env"))
        return 0;
    return vine_err_set(err, VINE_EINVAL, "'%.200s' is too long",
                        given ? folder : output);
}

/* "installing 1000 20000": how far it is. */
static bool is_progress(struct progress *progress, const char *line)
{
    unsigned long long done, total;
    char phase[sizeof(progress->phase)];

    if (sscanf(line, "%15s %llu %llu", phase, &done, &total) != 3 ||
        strcmp(phase, "error") == 0)
        return false;
    progress_show(progress, phase, done, total);
    return true;
}

/* The line it says at last, without its end; "" if it ended without one. Takes fd. */
static void read_answer(int *fd, struct progress *progress, char line[LINE_BYTES])
{
    FILE *answer = fdopen(*fd, "r");

    line[0] = '\0';
    if (answer == NULL)
        return;
    *fd = -1;
    do {
        if (fgets(line, LINE_BYTES, answer) == NULL)
            line[0] = '\0';
        line[strcspn(line, "\n")] = '\0';
    } while (is_progress(progress, line));
    (void)fclose(answer);
}

static int judge_answer(const char *archive, char *line, int words_fd,
                        struct vine_err *err)
{
    static const char error[] = "error ";
    char words[CHILD_WORDS];
    char *code = line + sizeof(error) - 1, *text;

    if (strcmp(line, "ready") == 0)
        return 0;
    text = strncmp(line, error, sizeof(error) - 1) == 0 ? strchr(code, ' ') : NULL;
    if (text == NULL) {
        child_last_line(words_fd, words);
        return vine_err_set(err, VINE_ESYS,
                            "cannot unpack '%.200s' with python3 (3.10 or newer, "
                            "with py-rattler): %s",
                            archive, words);
    }
    *text++ = '\0';
    return vine_err_set(err, vine_code_parse(code), "cannot pack '%.150s': %s", archive,
                        text);
}

int pixi_unpack(const char *archive, const char *output, const char *prefix,
                struct progress *progress, struct pixi_tree *out, struct vine_err *err)
{
    char program[VINE_PATH_MAX], tree[VINE_PATH_MAX], line[LINE_BYTES];
    /* -E -s would forget where people install to; -B: the program's place is not ours
     * to write in. */
    char *argv[] = {(char *)"python3", (char *)"-B", program, (char *)archive, tree,
                    (char *)prefix,    NULL};
    struct pipes pipes;
    int result;

    image_program_find(PROGRAM, program);
    if (place(output, tree, err) < 0 || pipes_open(&pipes, err) < 0)
        return -1;
    result = child_start(argv, pipes.hold[0], pipes.answer[1], pipes.words, &out->pid);
    if (result != 0) {
        errno = result;
        vine_err_sys(err, "cannot run 'python3', which unpacks archives of pixi-pack");
        pipes_close(&pipes);
        return -1;
    }
    (void)close(pipes.answer[1]);
    pipes.answer[1] = -1;
    progress_show(progress, "unpacking", 0, 0);
    read_answer(&pipes.answer[0], progress, line);
    (void)snprintf(out->env, sizeof(out->env), "%s/env", tree);
    out->hold_fd = pipes.hold[1];
    pipes.hold[1] = -1;
    result = judge_answer(archive, line, pipes.words, err);
    pipes_close(&pipes);
    if (result < 0)
        pixi_end(out);
    return result;
}

void pixi_end(struct pixi_tree *tree)
{
    if (tree->pid <= 0)
        return;
    (void)close(tree->hold_fd);
    while (waitpid(tree->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    tree->pid = 0;
}
