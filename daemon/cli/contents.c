/* contents.c - see contents.h.
 *
 * The image is parsed by a child, in the one program that knows the format; if a
 * hostile image breaks it, only that child ends. What it writes has bounds here too. */
#include "daemon/cli/contents.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/image/builder.h"
#include "daemon/image/bytes.h"

#define FILES_MAX 16000000u
#define LIST_MAX (16u << 20) /* of one of conda's lists */

extern char **environ;

struct reading {
    struct contents *out;
    struct listed {
        char *path;
        uint64_t bytes;
    } * file; /* packages are known only when conda's lists were read */
    size_t count, room;
};

static int malformed(struct vine_err *err)
{
    return vine_err_set(err, VINE_EPROTO,
                        IMAGE_BUILDER " wrote a malformed list: is it of another "
                                      "version?");
}

static int keep_file(struct reading *r, const char *path, uint64_t bytes,
                     struct vine_err *err)
{
    if (r->count == FILES_MAX)
        return vine_err_set(err, VINE_ELIMIT, "the image has more than %u files",
                            FILES_MAX);
    if (r->count == r->room) {
        size_t room = r->room * 2 + 4096;
        void *grown = realloc(r->file, room * sizeof(*r->file));

        if (grown == NULL)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
        r->file = grown;
        r->room = room;
    }
    r->file[r->count] = (struct listed){strdup(path), bytes};
    if (r->file[r->count].path == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    r->count++;
    r->out->files++;
    r->out->bytes += bytes;
    return 0;
}

static int take_list(struct reading *r, FILE *list, uint64_t size, struct vine_err *err)
{
    auto_free char *bytes = NULL;

    if (size > LIST_MAX)
        return malformed(err);
    bytes = malloc((size_t)size + 1);
    if (bytes == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (fread(bytes, 1, (size_t)size, list) != size)
        return malformed(err);
    if (!packages_add_list(r->out->packages, bytes, (size_t)size))
        r->out->bad_lists++;
    return 0;
}

/* "f SIZE PATH" and the like, without the zero byte. 1: the end. */
static int take_record(struct reading *r, FILE *list, const char *record, size_t len,
                       struct vine_err *err)
{
    unsigned long long size;
    char *end;

    if (strcmp(record, "e") == 0)
        return 1;
    if (len < 5 || (record[0] != 'f' && record[0] != 'c') || record[1] != ' ' ||
        record[2] < '0' || record[2] > '9')
        return malformed(err);
    errno = 0;
    size = strtoull(record + 2, &end, 10);
    if (errno != 0 || *end != ' ' || end[1] == '\0' || strlen(end + 1) >= VINE_PATH_MAX)
        return malformed(err);
    return record[0] == 'f' ? keep_file(r, end + 1, size, err)
                            : take_list(r, list, size, err);
}

static int sort_into_packages(const struct reading *r, struct vine_err *err)
{
    for (size_t i = 0; i < r->count; i++)
        if (packages_add_file(r->out->packages, r->file[i].path, r->file[i].bytes,
                              false) < 0)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
    return 0;
}

int contents_parse(FILE *list, struct contents *out, struct vine_err *err)
{
    struct reading r = {.out = out};
    auto_free char *record = NULL;
    size_t room = 0;
    int result = 0;

    out->packages = packages_new();
    if (out->packages == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    while (result == 0) {
        ssize_t len = getdelim(&record, &room, '\0', list);

        if (len < 1 || record[len - 1] != '\0' || len > 2 * VINE_PATH_MAX)
            result = malformed(err);
        else
            result = take_record(&r, list, record, (size_t)len, err);
    }
    if (result > 0)
        result = sort_into_packages(&r, err);
    for (size_t i = 0; i < r.count; i++)
        free(r.file[i].path);
    free(r.file);
    return result;
}

static int start(int fd, int words_fd, int out_fd, pid_t *pid, struct vine_err *err)
{
    char program[VINE_PATH_MAX];
    char *argv[] = {program, (char *)"--list", NULL};
    posix_spawn_file_actions_t actions;
    int result = posix_spawn_file_actions_init(&actions);

    image_program_find(IMAGE_BUILDER, program);
    if (result == 0) {
        (void)posix_spawn_file_actions_adddup2(&actions, out_fd, 1);
        (void)posix_spawn_file_actions_adddup2(&actions, words_fd, 2);
        (void)posix_spawn_file_actions_adddup2(&actions, fd, IMAGE_BUILDER_BASE_FD);
        result = posix_spawn(pid, program, &actions, NULL, argv, environ);
        (void)posix_spawn_file_actions_destroy(&actions);
    }
    if (result == 0)
        return 0;
    errno = result;
    return vine_err_sys(err, "cannot start '%s'", program);
}

/* The child's own words say better what is wrong than a list that ends early. */
static int finish(pid_t pid, int words_fd, const char *name, struct vine_err *err)
{
    static const char self[] = IMAGE_BUILDER ": ";
    char words[256];
    ssize_t n;
    int status;

    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return vine_err_sys(err, "cannot wait for " IMAGE_BUILDER);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    n = pread_whole(words_fd, words, sizeof(words) - 1, 0);
    words[n > 0 ? n : 0] = '\0';
    words[strcspn(words, "\n")] = '\0';
    return vine_err_set(err, VINE_ECORRUPT, "cannot list '%.300s': %s", name,
                        strncmp(words, self, strlen(self)) == 0 ? words + strlen(self)
                                                                : "its reader failed");
}

int contents_read(int fd, const char *name, struct contents *out, struct vine_err *err)
{
    auto_fd int words = memfd_create("vine-words", MFD_CLOEXEC);
    struct vine_err list_err = {0};
    int ends[2], result;
    FILE *list;
    pid_t pid;

    *out = (struct contents){0};
    if (words < 0 || pipe2(ends, O_CLOEXEC) < 0)
        return vine_err_sys(err, "cannot start " IMAGE_BUILDER);
    result = start(fd, words, ends[1], &pid, err);
    (void)close(ends[1]);
    list = fdopen(ends[0], "r");
    if (list == NULL)
        (void)close(ends[0]);
    if (result < 0) {
        if (list != NULL)
            (void)fclose(list);
        return -1;
    }
    result = list != NULL ? contents_parse(list, out, &list_err)
                          : vine_err_set(&list_err, VINE_ENOMEM, "out of memory");
    if (list != NULL)
        (void)fclose(list);
    if (finish(pid, words, name, err) < 0)
        return -1;
    return result < 0 ? vine_err_set(err, list_err.code, "%s", list_err.text) : 0;
}

void contents_free(struct contents *contents)
{
    packages_free(contents->packages);
    contents->packages = NULL;
}
