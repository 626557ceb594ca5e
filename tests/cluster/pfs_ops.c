/* pfs_ops.c - the requests of the kernel, served from the backing directory.
 *
 * The kernel checks permissions (default_permissions) and we work as root.
 *
 * root_squash=1 needs care, for the kernel lets root in everywhere and does not ask.
 * But it has to know a directory's mode before it walks through it: the attributes of
 * a directory closed to others are given out with no lifetime, so each walk asks for
 * them with the walker's fsuid, and a squashed one gets EACCES. A refused LOOKUP would
 * not do: the kernel would drop the entry, and any mount on it, for everybody. The
 * price: a squashed root cannot even stat a closed directory itself. These questions
 * cost nothing, since a real client answers them from its cache. What opens, lists or
 * changes is checked here. */
#define FUSE_USE_VERSION 312

#include "pfs_ops.h"
#include "pfs_inodes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

static const double CACHED_SECONDS = 30;

enum {
    NOBODY = 65534,
    IO_BYTES_MAX = 1 << 20,
    OTHERS_READ = 4,
    OTHERS_WRITE = 2,
};

struct listing {
    DIR *dir;
    struct dirent *ahead; /* read, but did not fit into the last answer */
    off_t offset;
};

struct pfs_shared *pfs_ops_shared;

static void tell_others(uint64_t parent, const char *name, uint64_t child)
{
    struct pfs_change change = {.parent = parent, .child = child};
    snprintf(change.name, sizeof(change.name), "%s", name);
    pfs_change_post(pfs_ops_shared, &change);
}

static bool is_squashed(fuse_req_t req)
{
    return fuse_req_ctx(req)->uid == 0 &&
           pfs_setting(pfs_ops_shared, PFS_ROOT_SQUASH) != 0;
}

static bool is_closed(const struct stat *st)
{
    return S_ISDIR(st->st_mode) && (st->st_mode & S_IXOTH) == 0 &&
           pfs_setting(pfs_ops_shared, PFS_ROOT_SQUASH) != 0;
}

static double attributes_last(const struct stat *st)
{
    return is_closed(st) ? 0 : CACHED_SECONDS;
}

/* May the caller do to this inode what `others` (OTHERS_READ | OTHERS_WRITE) allows? */
static bool is_allowed(fuse_req_t req, fuse_ino_t ino, mode_t others)
{
    struct stat st;
    if (!is_squashed(req))
        return true;
    if (inode_stat(ino, &st) < 0)
        return false;
    mode_t granted = st.st_uid == NOBODY ? st.st_mode >> 6 : st.st_mode;
    return (granted & others) == others;
}

/* May the caller remove or replace this name? */
static bool is_removable(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct stat dir, st;
    if (!is_squashed(req))
        return true;
    if (!is_allowed(req, parent, OTHERS_WRITE) || inode_stat(parent, &dir) < 0)
        return false;
    if ((dir.st_mode & S_ISVTX) == 0 || dir.st_uid == NOBODY)
        return true;
    auto_fd fd = inode_open(parent, O_PATH);
    return fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_uid == NOBODY;
}

/* Fill *entry for the name and count the look-up. 0 or -1 with errno. */
static int look_up(fuse_ino_t parent, const char *name, struct fuse_entry_param *entry)
{
    *entry = (struct fuse_entry_param){.entry_timeout = CACHED_SECONDS};
    if (inode_look_up(parent, name, entry) < 0)
        return -1;
    entry->attr_timeout = attributes_last(&entry->attr);
    return 0;
}

/* A bad descriptor is an inode_open() that found nothing: another node has deleted the
 * inode. The kernel answers ESTALE by looking the path up again. */
static void reply_error(fuse_req_t req, int number)
{
    fuse_reply_err(req, number == EBADF ? ESTALE : number);
}

static void reply_errno(fuse_req_t req, int result)
{
    reply_error(req, result < 0 ? errno : 0);
}

static void reply_entry(fuse_req_t req, int result, struct fuse_entry_param *entry)
{
    if (result < 0)
        reply_error(req, errno);
    else
        fuse_reply_entry(req, entry);
}

static void pfs_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry;

    /* Pay first: the answer must be fresh when it reaches the kernel's cache. */
    pfs_pay_metadata(pfs_ops_shared);
    reply_entry(req, look_up(parent, name, &entry), &entry);
}

static void pfs_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups)
{
    inode_forget(ino, lookups);
    fuse_reply_none(req);
}

static void pfs_forget_multi(fuse_req_t req, size_t count,
                             struct fuse_forget_data *list)
{
    for (size_t i = 0; i < count; i++)
        inode_forget(list[i].ino, list[i].nlookup);
    fuse_reply_none(req);
}

/* What a thread creates belongs to its fsuid from the first moment on, so no node ever
 * sees a new file as root's. But changing it takes capabilities away that we need: the
 * kernel has checked the caller's rights, with groups that we do not know. */
static void create_as(uid_t uid, gid_t gid)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];

    setfsgid(gid);
    setfsuid(uid);
    if (uid == 0 || syscall(SYS_capget, &header, sets) < 0)
        return;
    for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
        sets[i].effective = sets[i].permitted;
    syscall(SYS_capset, &header, sets);
}

static void create_as_caller(fuse_req_t req)
{
    const struct fuse_ctx *caller = fuse_req_ctx(req);
    if (is_squashed(req))
        create_as(NOBODY, NOBODY);
    else
        create_as(caller->uid, caller->gid);
}

static void make_name(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                      dev_t rdev, const char *link_target)
{
    struct fuse_entry_param entry;
    int result;

    pfs_pay_metadata(pfs_ops_shared);
    if (!is_allowed(req, parent, OTHERS_WRITE)) {
        fuse_reply_err(req, EACCES);
        return;
    }
    auto_fd dir_fd = inode_open(parent, O_PATH);
    create_as_caller(req);
    if (S_ISDIR(mode))
        result = mkdirat(dir_fd, name, mode & 07777);
    else if (S_ISLNK(mode))
        result = symlinkat(link_target, dir_fd, name);
    else
        result = mknodat(dir_fd, name, mode, rdev);
    int number = errno;
    create_as(0, 0);
    if (result < 0) {
        reply_error(req, number);
        return;
    }
    tell_others(parent, name, 0);
    reply_entry(req, look_up(parent, name, &entry), &entry);
}

static void pfs_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                      dev_t rdev)
{
    make_name(req, parent, name, mode, rdev, NULL);
}

static void pfs_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    make_name(req, parent, name, S_IFDIR | mode, 0, NULL);
}

static void pfs_symlink(fuse_req_t req, const char *target, fuse_ino_t parent,
                        const char *name)
{
    make_name(req, parent, name, S_IFLNK, 0, target);
}

static void pfs_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent,
                     const char *name)
{
    struct fuse_entry_param entry;

    pfs_pay_metadata(pfs_ops_shared);
    if (!is_allowed(req, parent, OTHERS_WRITE)) {
        fuse_reply_err(req, EACCES);
        return;
    }
    auto_fd dir_fd = inode_open(parent, O_PATH);
    auto_fd fd = inode_open(ino, O_PATH);
    if (linkat(fd, "", dir_fd, name, AT_EMPTY_PATH) < 0 ||
        look_up(parent, name, &entry) < 0) {
        reply_error(req, errno);
        return;
    }
    tell_others(parent, name, entry.ino);
    fuse_reply_entry(req, &entry);
}

static void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name, int flags)
{
    pfs_pay_metadata(pfs_ops_shared);
    if (!is_removable(req, parent, name)) {
        fuse_reply_err(req, EACCES);
        return;
    }
    uint64_t child = inode_number_at(parent, name);
    auto_fd dir_fd = inode_open(parent, O_PATH);
    int result = unlinkat(dir_fd, name, flags);
    int number = errno;
    if (result == 0)
        tell_others(parent, name, child);
    reply_error(req, result < 0 ? number : 0);
}

static void pfs_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, parent, name, 0);
}

static void pfs_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, parent, name, AT_REMOVEDIR);
}

static void pfs_rename(fuse_req_t req, fuse_ino_t parent, const char *name,
                       fuse_ino_t new_parent, const char *new_name, unsigned int flags)
{
    pfs_pay_metadata(pfs_ops_shared);
    if (!is_removable(req, parent, name) || !is_removable(req, new_parent, new_name)) {
        fuse_reply_err(req, EACCES);
        return;
    }
    uint64_t moved = inode_number_at(parent, name);
    uint64_t replaced = inode_number_at(new_parent, new_name);
    auto_fd from_fd = inode_open(parent, O_PATH);
    auto_fd to_fd = inode_open(new_parent, O_PATH);
    if (renameat2(from_fd, name, to_fd, new_name, flags) < 0) {
        reply_error(req, errno);
        return;
    }
    tell_others(parent, name, moved);
    tell_others(new_parent, new_name, replaced);
    fuse_reply_err(req, 0);
}

static void pfs_readlink(fuse_req_t req, fuse_ino_t ino)
{
    char target[PATH_MAX + 1];

    pfs_pay_metadata(pfs_ops_shared);
    auto_fd fd = inode_open(ino, O_PATH);
    ssize_t length = readlinkat(fd, "", target, sizeof(target) - 1);
    if (length < 0) {
        reply_error(req, errno);
        return;
    }
    target[length] = '\0';
    fuse_reply_readlink(req, target);
}

static void reply_attributes(fuse_req_t req, fuse_ino_t ino)
{
    struct stat st;
    if (inode_stat(ino, &st) < 0)
        reply_error(req, errno);
    else
        fuse_reply_attr(req, &st, attributes_last(&st));
}

static void pfs_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
    struct stat st;

    if (inode_stat(ino, &st) == 0 && is_closed(&st)) {
        if (is_squashed(req) && st.st_uid != NOBODY)
            fuse_reply_err(req, EACCES);
        else
            fuse_reply_attr(req, &st, 0);
        return;
    }
    pfs_pay_metadata(pfs_ops_shared);
    reply_attributes(req, ino);
}

static int set_times(int fd, const struct stat *want, int which)
{
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};

    if (which & FUSE_SET_ATTR_ATIME_NOW)
        times[0].tv_nsec = UTIME_NOW;
    else if (which & FUSE_SET_ATTR_ATIME)
        times[0] = want->st_atim;
    if (which & FUSE_SET_ATTR_MTIME_NOW)
        times[1].tv_nsec = UTIME_NOW;
    else if (which & FUSE_SET_ATTR_MTIME)
        times[1] = want->st_mtim;
    return utimensat(fd, "", times, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
}

static int set_attributes(fuse_ino_t ino, const struct stat *want, int which,
                          const struct fuse_file_info *file)
{
    auto_fd fd = inode_open(ino, O_PATH);
    char path[32]; /* for calls that refuse an O_PATH descriptor */

    if (fd < 0)
        return -1;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);

    if (which & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
        uid_t uid = which & FUSE_SET_ATTR_UID ? want->st_uid : (uid_t)-1;
        gid_t gid = which & FUSE_SET_ATTR_GID ? want->st_gid : (gid_t)-1;
        if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0)
            return -1;
    }
    if (which & FUSE_SET_ATTR_MODE && chmod(path, want->st_mode & 07777) < 0)
        return -1;
    if (which & FUSE_SET_ATTR_SIZE) {
        int result = file != NULL ? ftruncate((int)file->fh, want->st_size)
                                  : truncate(path, want->st_size);
        if (result < 0)
            return -1;
    }
    if (which & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME))
        return set_times(fd, want, which);
    return 0;
}

/* Only an owner may set anything; cutting a file is a kind of writing. */
static bool may_set(fuse_req_t req, fuse_ino_t ino, int which)
{
    struct stat st;
    if (!is_squashed(req) || (inode_stat(ino, &st) == 0 && st.st_uid == NOBODY))
        return true;
    int writing =
        FUSE_SET_ATTR_SIZE | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW;
    int implied = FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_CTIME;
    return (which & ~(writing | implied)) == 0 && (which & writing) != 0 &&
           is_allowed(req, ino, OTHERS_WRITE);
}

static void pfs_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *want, int which,
                        struct fuse_file_info *file)
{
    pfs_pay_metadata(pfs_ops_shared);
    if (!may_set(req, ino, which)) {
        fuse_reply_err(req, EPERM);
        return;
    }
    if (set_attributes(ino, want, which, file) < 0) {
        reply_error(req, errno);
        return;
    }
    tell_others(0, "", ino);
    reply_attributes(req, ino);
}

static void pfs_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct statvfs st;
    auto_fd fd = inode_open(ino, O_PATH);
    if (fstatvfs(fd, &st) < 0)
        reply_error(req, errno);
    else
        fuse_reply_statfs(req, &st);
}

static int backing_flags(int flags)
{
    return (flags & ~(O_NOFOLLOW | O_DIRECT | O_CREAT | O_EXCL));
}

static void pfs_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
    static const mode_t wanted[] = {[O_RDONLY] = OTHERS_READ,
                                    [O_WRONLY] = OTHERS_WRITE,
                                    [O_RDWR] = OTHERS_READ | OTHERS_WRITE,
                                    [O_ACCMODE] = OTHERS_READ | OTHERS_WRITE};

    pfs_pay_metadata(pfs_ops_shared);
    if (!is_allowed(req, ino, wanted[file->flags & O_ACCMODE])) {
        fuse_reply_err(req, EACCES);
        return;
    }
    int fd = inode_open(ino, backing_flags(file->flags));
    if (fd < 0) {
        reply_error(req, errno);
        return;
    }
    if (file->flags & O_TRUNC)
        tell_others(0, "", ino);
    file->fh = (uint64_t)fd;
    file->keep_cache = 1;
    file->noflush = 1;
    if (fuse_reply_open(req, file) < 0)
        close(fd);
}

static void pfs_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                       struct fuse_file_info *file)
{
    struct fuse_entry_param entry;

    pfs_pay_metadata(pfs_ops_shared);
    if (!is_allowed(req, parent, OTHERS_WRITE)) {
        fuse_reply_err(req, EACCES);
        return;
    }
    int flags = backing_flags(file->flags) | O_CREAT | O_EXCL | O_CLOEXEC;
    auto_fd dir_fd = inode_open(parent, O_PATH);
    create_as_caller(req);
    int fd = openat(dir_fd, name, flags, mode);
    int number = errno;
    create_as(0, 0);
    if (fd < 0) {
        /* Another node was first: ESTALE makes the kernel look again and just open. */
        bool retry = number == EEXIST && (file->flags & O_EXCL) == 0;
        reply_error(req, retry ? ESTALE : number);
        return;
    }
    tell_others(parent, name, 0);
    if (look_up(parent, name, &entry) < 0) {
        reply_error(req, errno);
        close(fd);
        return;
    }
    file->fh = (uint64_t)fd;
    file->keep_cache = 1;
    file->noflush = 1;
    if (fuse_reply_create(req, &entry, file) < 0)
        close(fd);
}

/* One a thread, so that a read needs no allocation. */
static _Thread_local char io_buffer[IO_BYTES_MAX];

static void pfs_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                     struct fuse_file_info *file)
{
    if (size > sizeof(io_buffer))
        size = sizeof(io_buffer);
    ssize_t got = pread((int)file->fh, io_buffer, size, offset);
    if (got < 0) {
        reply_error(req, errno);
        return;
    }
    pfs_pay_data(pfs_ops_shared, got, false);
    fuse_reply_buf(req, io_buffer, (size_t)got);
}

static void pfs_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t size,
                      off_t offset, struct fuse_file_info *file)
{
    ssize_t put = pwrite((int)file->fh, bytes, size, offset);
    if (put < 0) {
        reply_error(req, errno);
        return;
    }
    tell_others(0, "", ino);
    pfs_pay_data(pfs_ops_shared, put, true);
    fuse_reply_write(req, (size_t)put);
}

static void pfs_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset,
                          off_t length, struct fuse_file_info *file)
{
    int result = fallocate((int)file->fh, mode, offset, length);
    if (result == 0)
        tell_others(0, "", ino);
    reply_errno(req, result);
}

static void pfs_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
                      struct fuse_file_info *file)
{
    off_t result = lseek((int)file->fh, offset, whence);
    if (result < 0)
        reply_error(req, errno);
    else
        fuse_reply_lseek(req, result);
}

static void pfs_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
    close((int)file->fh);
    fuse_reply_err(req, 0);
}

static void pfs_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
    pfs_pay_metadata(pfs_ops_shared);
    if (!is_allowed(req, ino, OTHERS_READ)) {
        fuse_reply_err(req, EACCES);
        return;
    }
    struct listing *listing = calloc(1, sizeof(*listing));
    int fd = inode_open(ino, O_RDONLY | O_DIRECTORY);
    if (listing == NULL || fd < 0 || (listing->dir = fdopendir(fd)) == NULL) {
        reply_error(req, errno);
        if (fd >= 0)
            close(fd);
        free(listing);
        return;
    }
    file->fh = (uintptr_t)listing;
    file->keep_cache = 1;
    file->cache_readdir = 1;
    fuse_reply_open(req, file);
}

static struct listing *listing_of(const struct fuse_file_info *file)
{
    return (struct listing *)(uintptr_t)file->fh;
}

static size_t fill_listing(fuse_req_t req, struct listing *listing, char *buffer,
                           size_t size)
{
    size_t used = 0;

    for (;;) {
        if (listing->ahead == NULL)
            listing->ahead = readdir(listing->dir);
        struct dirent *one = listing->ahead;
        if (one == NULL)
            return used;
        struct stat st = {.st_ino = one->d_ino, .st_mode = (mode_t)one->d_type << 12};
        size_t needs = fuse_add_direntry(req, buffer + used, size - used, one->d_name,
                                         &st, one->d_off);
        if (needs > size - used)
            return used;
        used += needs;
        listing->offset = one->d_off;
        listing->ahead = NULL;
    }
}

/* A listing costs one operation however many requests the kernel makes of it. */
static void pfs_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                        struct fuse_file_info *file)
{
    struct listing *listing = listing_of(file);

    if (size > sizeof(io_buffer))
        size = sizeof(io_buffer);
    if (offset == 0)
        pfs_pay_metadata(pfs_ops_shared);
    if (offset == 0 || offset != listing->offset) {
        seekdir(listing->dir, offset);
        listing->ahead = NULL;
        listing->offset = offset;
    }
    size_t used = fill_listing(req, listing, io_buffer, size);
    fuse_reply_buf(req, io_buffer, used);
}

static void pfs_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
    struct listing *listing = listing_of(file);
    closedir(listing->dir);
    free(listing);
    fuse_reply_err(req, 0);
}

const struct fuse_lowlevel_ops pfs_ops = {
    .lookup = pfs_lookup,
    .forget = pfs_forget,
    .forget_multi = pfs_forget_multi,
    .getattr = pfs_getattr,
    .setattr = pfs_setattr,
    .readlink = pfs_readlink,
    .mknod = pfs_mknod,
    .mkdir = pfs_mkdir,
    .unlink = pfs_unlink,
    .rmdir = pfs_rmdir,
    .symlink = pfs_symlink,
    .rename = pfs_rename,
    .link = pfs_link,
    .open = pfs_open,
    .create = pfs_create,
    .read = pfs_read,
    .write = pfs_write,
    .release = pfs_release,
    .opendir = pfs_opendir,
    .readdir = pfs_readdir,
    .releasedir = pfs_releasedir,
    .statfs = pfs_statfs,
    .fallocate = pfs_fallocate,
    .lseek = pfs_lseek,
};
