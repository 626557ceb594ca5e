/* export.c - copy an object and its trailer to a file of the user's.
 *
 * Everything is opened with the user's rights; the bytes come from descriptors the
 * daemon passed. A temporary name beside the target, synced, then renamed. */
#include "daemon/source/export.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/image/bytes.h"
#include "vine/limits.h"

#define STEP (1u << 20)

static pthread_mutex_t unfinished_lock = PTHREAD_MUTEX_INITIALIZER;
static char unfinished[VINE_PATH_MAX]; /* "" = none */

static void set_unfinished(const char *path)
{
    pthread_mutex_lock(&unfinished_lock);
    (void)snprintf(unfinished, sizeof(unfinished), "%s", path);
    pthread_mutex_unlock(&unfinished_lock);
}

void export_abandon(void)
{
    pthread_mutex_lock(&unfinished_lock);
    if (unfinished[0] != '\0')
        (void)unlink(unfinished);
    pthread_mutex_unlock(&unfinished_lock);
}

/* The first `size` bytes of `from` to the end of `to`. */
static int copy_bytes(int from, int to, uint64_t size, uint64_t *written,
                      const struct image_progress *progress, struct vine_err *err)
{
    auto_free char *buf = malloc(STEP);
    uint64_t done = 0;

    if (buf == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    while (done < size) {
        size_t step = size - done < STEP ? (size_t)(size - done) : STEP;
        ssize_t n = pread_whole(from, buf, step, done);

        if (n < 0)
            return vine_err_sys(err, "cannot read the object");
        if ((size_t)n < step)
            return vine_err_set(err, VINE_ECORRUPT, "the object is too short");
        if (write_whole(to, buf, step) < 0)
            return vine_err_sys(err, "cannot write '%s'", unfinished);
        done += step;
        *written += step;
        (void)progress->tell(progress->ctx, *written, 0);
    }
    return 0;
}

static int rename_over(const struct command *c, const char *temporary,
                       struct vine_err *err)
{
    int result =
        c->force ? rename(temporary, c->path)
                 : renameat2(AT_FDCWD, temporary, AT_FDCWD, c->path, RENAME_NOREPLACE);

    if (result < 0 && !c->force && (errno == EINVAL || errno == ENOSYS)) {
        /* A file system without it: the next best thing, which also never replaces. */
        result = link(temporary, c->path);
        if (result == 0)
            (void)unlink(temporary);
    }
    if (result == 0)
        return 0;
    if (errno == EEXIST)
        return vine_err_set(err, VINE_EINVAL, "'%s' exists: say --force to replace it",
                            c->path);
    return vine_err_sys(err, "cannot rename '%s' to '%s'", temporary, c->path);
}

static int write_file(const struct command *c, int fd, uint64_t *written,
                      const struct image_progress *progress, struct vine_err *err)
{
    struct stat trailer = {0};

    if (copy_bytes(c->fds[0], fd, c->size, written, progress, err) < 0)
        return -1;
    if (c->trailer && fstat(c->fds[1], &trailer) < 0)
        return vine_err_sys(err, "cannot look at the trailer");
    if (c->trailer && copy_bytes(c->fds[1], fd, (uint64_t)trailer.st_size, written,
                                 progress, err) < 0)
        return -1;
    if (fchmod(fd, c->mode) < 0 || fsync(fd) < 0)
        return vine_err_sys(err, "cannot write '%s'", unfinished);
    return 0;
}

int export_file(const struct command *c, const struct image_progress *progress,
                uint64_t *written, struct vine_err *err)
{
    char temporary[VINE_PATH_MAX];
    auto_fd int fd = -1;
    struct stat st;
    int n =
        snprintf(temporary, sizeof(temporary), "%s.tmp-%ld", c->path, (long)getpid());

    if (c->fds[0] < 0 || (c->trailer && c->fds[1] < 0))
        return vine_err_set(err, VINE_EPROTO, "export: a descriptor is missing");
    if (n < 0 || (size_t)n >= sizeof(temporary))
        return vine_err_set(err, VINE_ELIMIT, "'%s' is too long", c->path);
    if (!c->force && lstat(c->path, &st) == 0) /* early; the rename decides */
        return vine_err_set(err, VINE_EINVAL, "'%s' exists: say --force to replace it",
                            c->path);
    fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return vine_err_sys(err, "cannot create '%s'", temporary);
    set_unfinished(temporary);
    *written = 0;
    if (write_file(c, fd, written, progress, err) < 0 ||
        rename_over(c, temporary, err) < 0) {
        export_abandon();
        set_unfinished("");
        return -1;
    }
    set_unfinished("");
    return 0;
}
