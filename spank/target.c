/* target.c - may this user cover this directory, or file?
 *
 * A mount made by root over any path the user names would be a way to become root: a
 * view in which /etc holds the user's own files, and su or sudo started in it. nosuid
 * does not help, for the set-uid program is the system's own. So a directory may be
 * covered only if
 *  - it belongs to the user; or
 *  - it is the source's own path, and no directory on the way to it can be changed by
 * the user: then the image's content came from that very directory; or
 *  - it lies on none of the file systems that hold the system, nor below the
 * directories that belong to it. The judgement is on the opened descriptor, so nothing
 * can be swapped afterwards.
 *
 * Of files the same holds, with less. That it is the source's own path counts for
 * nothing: a job keeps the version it began with, perhaps another node's, and what su
 * reads must be this node's and today's. (A file on the system's own disks is local
 * anyway.) And one in /proc or /sys is never covered, since those belong to processes.
 */
#include "spank/target.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vine/limits.h"

/* On whichever file system they are; and everything below them, mounts included. */
static const char *const system_trees[] = {
    "/bin",    "/boot", "/dev",  "/etc",  "/lib", "/lib32", "/lib64",
    "/libx32", "/proc", "/root", "/sbin", "/sys", "/usr",
};
/* Whose file systems are the system's, but not what is mounted below. */
static const char *const system_roots[] = {
    "/", "/opt", "/run", "/srv", "/usr/local", "/var", "/var/lib", "/var/spool"};

static bool is_below(const char *path, const char *tree)
{
    size_t len = strlen(tree);

    return strncmp(path, tree, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

static bool is_system(const char *real, const struct stat *st)
{
    struct stat other;

    for (size_t i = 0; i < sizeof(system_trees) / sizeof(system_trees[0]); i++)
        if (is_below(real, system_trees[i]) ||
            (stat(system_trees[i], &other) == 0 && other.st_dev == st->st_dev))
            return true;
    for (size_t i = 0; i < sizeof(system_roots) / sizeof(system_roots[0]); i++)
        if (stat(system_roots[i], &other) == 0 && other.st_dev == st->st_dev)
            return true;
    return false;
}

/* Could `uid` put another directory at this place? Group bits count whoever is in the
 * group: they also show an ACL's mask. */
static bool can_change(const struct stat *st, uid_t uid)
{
    if (st->st_uid == uid)
        return true;
    return (st->st_mode & (S_IWGRP | S_IWOTH)) != 0 && (st->st_mode & S_ISVTX) == 0;
}

static bool way_is_fixed(const char *real, uid_t uid)
{
    char path[VINE_PATH_MAX];
    struct stat st;

    (void)snprintf(path, sizeof(path), "%s", real);
    for (char *slash = strrchr(path, '/'); slash != NULL; slash = strrchr(path, '/')) {
        slash[slash == path] = '\0'; /* keeps the first '/' */
        if (lstat(path, &st) < 0 || !S_ISDIR(st.st_mode) || can_change(&st, uid))
            return false;
        if (slash == path)
            return true;
    }
    return false;
}

/* The path of an open descriptor, as the kernel knows it. */
static int real_path(int fd, char *real, size_t size, struct vine_err *err)
{
    char link[64];
    ssize_t n;

    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, real, size - 1);
    if (n < 0)
        return vine_err_sys(err, "cannot read '%s'", link);
    real[n] = '\0';
    return 0;
}

static bool is_special(const char *real)
{
    static const char *const trees[] = {"/dev", "/proc", "/sys", "/run"};

    for (size_t i = 0; i < sizeof(trees) / sizeof(trees[0]); i++)
        if (is_below(real, trees[i]))
            return true;
    return false;
}

/* Its own path, and no way to put anything else there. */
static bool is_safe_own_path(const char *real, const char *dst, uid_t uid)
{
    /* Not the special ones: without devices and sockets they are not the same. */
    return strcmp(real, dst) == 0 && way_is_fixed(real, uid) && !is_special(real);
}

static int judge(int fd, const char *dst, bool file, bool own_path, uid_t uid,
                 struct vine_err *err)
{
    char real[VINE_PATH_MAX];
    struct stat st;

    if (fstat(fd, &st) < 0)
        return vine_err_sys(err, "cannot stat mount point '%s'", dst);
    if (real_path(fd, real, sizeof(real), err) < 0)
        return -1;
    if (st.st_uid == uid &&
        !(file && (is_below(real, "/proc") || is_below(real, "/sys"))))
        return 0;
    if (own_path && !file && is_safe_own_path(real, dst, uid))
        return 0;
    if (!is_system(real, &st))
        return 0;
    return vine_err_set(err, VINE_EACCES,
                        "mount point '%s' belongs to the system: give a %s of your own "
                        "with SRC:DST",
                        dst, file ? "file" : "directory");
}

static bool is_regular(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

int target_open(const char *dst, bool file, bool own_path, uid_t uid,
                const char *node_name, struct vine_err *err)
{
    int fd = open(dst, O_PATH | O_CLOEXEC | (file ? 0 : O_DIRECTORY));
    bool other = fd < 0 ? errno == ENOTDIR : file && !is_regular(fd);

    if (fd < 0 && errno == ENOENT)
        return vine_err_set(err, VINE_ENOENT,
                            "mount point '%s' does not exist on %s: create %s, or give "
                            "another with SRC:DST",
                            dst, node_name, file ? "an empty file there" : "it");
    if (other) {
        if (fd >= 0)
            (void)close(fd);
        return vine_err_set(err, VINE_EINVAL,
                            "mount point '%s' on %s is no %s: give one with SRC:DST",
                            dst, node_name, file ? "regular file" : "directory");
    }
    if (fd < 0)
        return vine_err_sys(err, "cannot reach mount point '%s' on %s as uid %u", dst,
                            node_name, (unsigned)uid);
    if (judge(fd, dst, file, own_path, uid, err) < 0) {
        (void)close(fd);
        return -1;
    }
    return fd;
}
