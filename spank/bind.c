/* bind.c - mounts of one task, in order, with undo.
 *
 * All work is by descriptors: the source and the target are opened once, each with the
 * identity that may see it, and mount(2) gets /proc/self/fd/N, so no path is walked
 * twice and root never walks a path of the user's.
 *
 * Read-only comes first: within the private namespace the daemon's mount itself is
 * remounted ro,nosuid,nodev, and a bind copies the flags of what it binds. So there is
 * no moment in which the target shows a writable mount, and the target need not be
 * found again for a remount. What the user sees at the target is then checked.
 *
 * Default destinations do not exist on the node: a private tmpfs on the private
 * directory carries them. slurmstepd's umask may be the user's, so modes are set
 * explicitly. */
#include "spank/bind.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "spank/target.h"
#include "vine/limits.h"

#define READ_ONLY_FLAGS (MS_RDONLY | MS_NOSUID | MS_NODEV)
#define READ_ONLY_SEEN (ST_RDONLY | ST_NOSUID | ST_NODEV)

/* What is to be bound. */
struct opened {
    int fd; /* O_PATH; -1: none */
    bool file;
};

struct fd_path {
    char text[32];
};

static struct fd_path path_of(int fd)
{
    struct fd_path path;

    (void)snprintf(path.text, sizeof(path.text), "/proc/self/fd/%d", fd);
    return path;
}

/* Closes what may be open; always -1. */
static int close_after(int fd)
{
    if (fd >= 0)
        (void)close(fd);
    return -1;
}

int bind_enter(struct vine_err *err)
{
    if (unshare(CLONE_NEWNS) < 0)
        return vine_err_sys(err, "cannot make a private mount namespace");
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return vine_err_sys(err, "cannot make the mount namespace private");
    return 0;
}

static bool is_private(const char *dst, const struct bind_place *place)
{
    size_t len = strlen(place->private_dir);

    return strncmp(dst, place->private_dir, len) == 0 && dst[len] == '/';
}

static int make_dir(const char *path, struct vine_err *err)
{
    if (mkdir(path, 0755) < 0) {
        if (errno != EEXIST)
            return vine_err_sys(err, "cannot make '%s'", path);
        return 0;
    }
    if (chmod(path, 0755) < 0)
        return vine_err_sys(err, "cannot set the mode of '%s'", path);
    return 0;
}

/* `path` and every component of it that is longer than `from` bytes. */
static int make_dirs(const char *path, size_t from, struct vine_err *err)
{
    char part[VINE_PATH_MAX];

    (void)snprintf(part, sizeof(part), "%s", path);
    for (char *p = part + from + 1; *p != '\0'; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        if (make_dir(part, err) < 0)
            return -1;
        *p = '/';
    }
    return make_dir(part, err);
}

static int mount_private_dir(const struct bind_place *place, struct vine_err *err)
{
    if (make_dirs(place->private_dir, 0, err) < 0)
        return -1;
    if (mount("vine-env", place->private_dir, "tmpfs", MS_NOSUID | MS_NODEV,
              "mode=0755,size=64k") < 0)
        return vine_err_sys(err, "cannot mount a tmpfs on '%s'", place->private_dir);
    return 0;
}

/* A directory, or if `may_be_file` a regular file; else -1 with errno. Directories are
 * asked for first: that is what sets off an automount. */
static struct opened open_path(const char *path, bool may_be_file, int flags)
{
    struct opened o = {.fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC | flags)};
    struct stat st;

    if (o.fd >= 0 || errno != ENOTDIR || !may_be_file)
        return o;
    o.file = true;
    o.fd = open(path, O_PATH | O_CLOEXEC | flags);
    if (o.fd >= 0 && (fstat(o.fd, &st) < 0 || !S_ISREG(st.st_mode))) {
        (void)close(o.fd);
        o.fd = -1;
        errno = EINVAL;
    }
    return o;
}

/* In the private tmpfs: `path` for a file, and what is above it. */
static int make_file(const char *path, size_t from, struct vine_err *err)
{
    char above[VINE_PATH_MAX];
    int fd;

    (void)snprintf(above, sizeof(above), "%s", path);
    *strrchr(above, '/') = '\0';
    if (strlen(above) > from && make_dirs(above, from, err) < 0)
        return -1;
    fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0444);
    if (fd < 0)
        return vine_err_sys(err, "cannot make '%s'", path);
    (void)close(fd);
    return 0;
}

/* The tmpfs with all its directories, if any destination needs it: 1, else 0; or -1.
 * The tmpfs is root's and only ours to see, so its paths are safe to walk. */
static int prepare_private(const struct bind_source *sources, unsigned count,
                           const struct opened from[], const struct bind_place *place,
                           struct vine_err *err)
{
    size_t len = strlen(place->private_dir);
    bool needed = false;
    int result = 0;

    for (unsigned i = 0; i < count; i++)
        needed = needed || is_private(sources[i].dst, place);
    if (!needed)
        return 0;
    if (mount_private_dir(place, err) < 0)
        return -1;
    for (unsigned i = 0; i < count && result == 0; i++)
        if (is_private(sources[i].dst, place))
            result = from[i].file ? make_file(sources[i].dst, len, err)
                                  : make_dirs(sources[i].dst, len, err);
    if (result == 0)
        return 1;
    (void)umount2(place->private_dir, MNT_DETACH);
    return -1;
}

/* The daemon's mount, made read-only in this namespace. */
static struct opened open_image(const struct bind_source *s, struct vine_err *err)
{
    struct opened o = open_path(s->from, s->data, O_NOFOLLOW);

    if (o.fd < 0) {
        vine_err_sys(err, "cannot open the image's mount '%s'", s->from);
        return o;
    }
    /* EINVAL here means that nothing is mounted there any more. */
    if (mount(NULL, path_of(o.fd).text, NULL, MS_BIND | MS_REMOUNT | READ_ONLY_FLAGS,
              NULL) < 0) {
        vine_err_sys(err, "cannot make the image's mount '%s' read-only", s->from);
        (void)close(o.fd);
        o.fd = -1;
    }
    return o;
}

static struct opened open_source(const struct bind_source *s,
                                 const struct bind_place *place, struct vine_err *err)
{
    struct identity_saved saved;
    struct opened o = {.fd = -1};

    if (!s->origin)
        return open_image(s, err);
    if (identity_fs_become(&place->user, &saved, err) < 0)
        return o;
    o = open_path(s->from, s->data, 0);
    if (o.fd < 0)
        vine_err_sys(err, "cannot open '%s' as uid %u", s->from,
                     (unsigned)place->user.uid);
    if (identity_fs_restore(&saved, err) < 0 && o.fd >= 0) {
        (void)close(o.fd);
        o.fd = -1;
    }
    return o;
}

static int open_target(const struct bind_source *s, bool file,
                       const struct bind_place *place, struct vine_err *err)
{
    struct identity_saved saved;
    int fd;

    if (is_private(s->dst, place)) {
        fd = open(s->dst, O_PATH | O_CLOEXEC | O_NOFOLLOW | (file ? 0 : O_DIRECTORY));
        return fd < 0 ? vine_err_sys(err, "cannot open '%s'", s->dst) : fd;
    }
    if (identity_fs_become(&place->user, &saved, err) < 0)
        return -1;
    fd = target_open(s->dst, file, s->own_path, place->user.uid, place->node_name, err);
    if (identity_fs_restore(&saved, err) < 0 && fd >= 0) {
        (void)close(fd);
        fd = -1;
    }
    return fd;
}

/* Which file system and, where it tells, which inode. A FUSE mount refuses stat() to
 * all but its user's processes, and what the kernel itself knows only to those who ask
 * for more: so nothing is asked for. Its number of a device is its own, an inode is not
 * needed. */
static bool is_same(int a, int b)
{
    struct statx of[2] = {0};

    if (statx(a, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, 0, &of[0]) < 0 ||
        statx(b, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, 0, &of[1]) < 0)
        return false;
    return of[0].stx_dev_major == of[1].stx_dev_major &&
           of[0].stx_dev_minor == of[1].stx_dev_minor && of[0].stx_ino == of[1].stx_ino;
}

/* What the user sees at the target now, if it is what was bound there: the way to it
 * may be the user's, who can turn it to another mount at any time. */
static int open_bound(const struct bind_source *s, struct opened from,
                      const struct bind_place *place, struct vine_err *err)
{
    struct identity_saved saved;
    int fd;

    if (identity_fs_become(&place->user, &saved, err) < 0)
        return -1;
    fd = open_path(s->dst, s->data, 0).fd;
    if (fd < 0)
        vine_err_sys(err, "cannot look at '%s' after mounting it", s->dst);
    else if (is_same(fd, from.fd))
        return identity_fs_restore(&saved, err) < 0 ? close_after(fd) : fd;
    else
        vine_err_set(err, VINE_ESYS,
                     "'%s' is not what was mounted there: somebody changed the way to "
                     "it meanwhile; leave it alone while the job starts",
                     s->dst);
    (void)identity_fs_restore(&saved, err);
    return close_after(fd);
}

static int verify(const struct bind_source *s, struct opened from,
                  const struct bind_place *place, struct vine_err *err)
{
    struct statvfs seen = {0};
    int fd, result = 0;

    if (s->origin)
        return 0;
    fd = open_bound(s, from, place, err);
    if (fd < 0)
        return -1;
    if (fstatvfs(fd, &seen) < 0)
        result = vine_err_sys(err, "cannot look at '%s' after mounting it", s->dst);
    else if ((seen.f_flag & READ_ONLY_SEEN) != READ_ONLY_SEEN)
        result = vine_err_set(err, VINE_ESYS, "'%s' is not read-only after mounting it",
                              s->dst);
    (void)close(fd);
    return result;
}

/* The bind is the topmost mount at `dst`, as the user sees it. Where it cannot be found
 * any more it stays, in a namespace that ends with the task. */
static void undo_bind(const struct bind_source *s, struct opened from,
                      const struct bind_place *place)
{
    int fd = open_bound(s, from, place, NULL);

    if (fd < 0)
        return;
    (void)umount2(path_of(fd).text, MNT_DETACH);
    (void)close(fd);
}

static int bind_one(const struct bind_source *s, struct opened from,
                    const struct bind_place *place, struct vine_err *err)
{
    int target_fd = open_target(s, from.file, place, err);
    int result = -1;

    if (target_fd < 0)
        return -1;
    if (mount(path_of(from.fd).text, path_of(target_fd).text, NULL, MS_BIND, NULL) < 0)
        vine_err_sys(err, "cannot bind '%s' on '%s'", s->from, s->dst);
    else if (verify(s, from, place, err) < 0)
        undo_bind(s, from, place);
    else
        result = 0;
    (void)close(target_fd);
    return result;
}

/* Parents first: by length of the destination. */
static void sort_by_depth(unsigned order[], const struct bind_source *sources,
                          unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned j = i;

        for (; j > 0 && strlen(sources[order[j - 1]].dst) > strlen(sources[i].dst); j--)
            order[j] = order[j - 1];
        order[j] = i;
    }
}

static int open_all(const struct bind_source *sources, unsigned count,
                    struct opened from[], const struct bind_place *place,
                    struct vine_err *err)
{
    for (unsigned i = 0; i < count; i++)
        from[i].fd = -1;
    for (unsigned i = 0; i < count; i++) {
        from[i] = open_source(&sources[i], place, err);
        if (from[i].fd < 0)
            return -1;
    }
    return 0;
}

static int bind_in_order(const struct bind_source *sources, unsigned count,
                         const struct opened from[], const struct bind_place *place,
                         struct vine_err *err)
{
    unsigned order[VINE_SOURCES_MAX] = {0}, done = 0;

    sort_by_depth(order, sources, count);
    while (done < count &&
           bind_one(&sources[order[done]], from[order[done]], place, err) == 0)
        done++;
    if (done == count)
        return 0;
    while (done-- > 0)
        undo_bind(&sources[order[done]], from[order[done]], place);
    return -1;
}

int bind_sources(const struct bind_source *sources, unsigned count,
                 const struct bind_place *place, struct vine_err *err)
{
    struct opened from[VINE_SOURCES_MAX];
    int private_dir = 0, result;

    if (count > VINE_SOURCES_MAX)
        return vine_err_set(err, VINE_ELIMIT, "%u sources, limit %d", count,
                            VINE_SOURCES_MAX);
    result = open_all(sources, count, from, place, err);
    if (result == 0)
        result = private_dir = prepare_private(sources, count, from, place, err);
    if (result >= 0)
        result = bind_in_order(sources, count, from, place, err);
    for (unsigned i = 0; i < count; i++)
        if (from[i].fd >= 0)
            (void)close(from[i].fd);
    if (result < 0 && private_dir == 1)
        (void)umount2(place->private_dir, MNT_DETACH);
    return result;
}
