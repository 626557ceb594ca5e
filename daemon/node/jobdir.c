/* jobdir.c - RUN_DIR/job/JOB: what a job's tasks asked for while they ran.
 *
 * The directory belongs to the job's user, who alone may pass it; in it is a directory
 * for each digest, with a mount of the object. Tasks that were given mounts of their
 * own see later ones too, for theirs is a slave of this one: so RUN_DIR/job is a mount
 * that propagates, whatever the mounts above it do.
 *
 * What a user owns a user may change, and root must not be led astray by it when it
 * mounts and unmounts there: the directory is a small tmpfs, read-only where the user
 * sees it; root makes directories through a second view, RUN_DIR/jobs/JOB, in a place
 * that is root's alone.
 *
 * A job's end unmounts the whole of it. A daemon that starts anew finds the mounts of
 * the one before and goes on with them. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/node/vined.h"
#include "vine/log.h"

#define DIR_FLAGS (MS_NOSUID | MS_NODEV | MS_NOEXEC)
#define DIR_OPTIONS "size=4m,nr_inodes=16384"

struct jobdir {
    uint64_t job;
    struct jobdir *next;
};

struct jobdirs {
    char shown[VINE_CONF_TEXT + 8], made[VINE_CONF_TEXT + 8];
    struct jobdir *first;
};

struct place {
    char path[VINE_CONF_TEXT + 64];
};

static struct place place_of(const char *top, uint64_t job, const char *ending)
{
    struct place p;

    (void)snprintf(p.path, sizeof(p.path), "%s/%llu%s", top, (unsigned long long)job,
                   ending);
    return p;
}

static struct jobdir *find(const struct jobdirs *dirs, uint64_t job)
{
    struct jobdir *d = dirs->first;

    while (d != NULL && d->job != job)
        d = d->next;
    return d;
}

static int note(struct jobdirs *dirs, uint64_t job, struct vine_err *err)
{
    struct jobdir *d = calloc(1, sizeof(*d));

    if (d == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    d->job = job;
    d->next = dirs->first;
    dirs->first = d;
    return 0;
}

static void drop(const struct place *p)
{
    (void)umount2(p->path, MNT_DETACH | UMOUNT_NOFOLLOW);
    if (rmdir(p->path) < 0 && errno != ENOENT)
        vine_log(VINE_LOG_WARNING, "event=rmdir-failed path=%s reason=%s",
                 vine_q(p->path), vine_q(strerror(errno)));
}

static void remove_dir(const struct jobdirs *dirs, uint64_t job)
{
    struct place shown = place_of(dirs->shown, job, ""),
                 made = place_of(dirs->made, job, ""),
                 stage = place_of(dirs->made, job, ".ro");

    drop(&shown);
    drop(&stage);
    drop(&made);
}

/* A bind copies the flags of what it binds: it is read-only from its first moment. */
static int mount_views(const struct place *made, const struct place *stage,
                       const struct place *shown, const char *options,
                       struct vine_err *err)
{
    if (mount("vine-env", made->path, "tmpfs", DIR_FLAGS, options) < 0)
        return vine_err_sys(err, "cannot mount a tmpfs at '%s'", made->path);
    if (mount(made->path, stage->path, NULL, MS_BIND, NULL) < 0 ||
        mount(NULL, stage->path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | DIR_FLAGS,
              NULL) < 0 ||
        mount(stage->path, shown->path, NULL, MS_BIND, NULL) < 0)
        return vine_err_sys(err, "cannot bind '%s' at '%s'", made->path, shown->path);
    return 0;
}

static int make_job(struct jobdirs *dirs, uint64_t job, uint32_t uid, uint32_t gid,
                    struct vine_err *err)
{
    struct place made = place_of(dirs->made, job, ""),
                 stage = place_of(dirs->made, job, ".ro"),
                 shown = place_of(dirs->shown, job, "");
    char options[96];

    (void)snprintf(options, sizeof(options), "uid=%u,gid=%u,mode=0500,%s", uid, gid,
                   DIR_OPTIONS);
    if (mount_make_dir(made.path, 0700, err) < 0 ||
        mount_make_dir(stage.path, 0700, err) < 0 ||
        mount_make_dir(shown.path, 0700, err) < 0 ||
        mount_views(&made, &stage, &shown, options, err) < 0 ||
        note(dirs, job, err) < 0) {
        remove_dir(dirs, job);
        return -1;
    }
    drop(&stage);
    return 0;
}

static bool is_mount(const char *path)
{
    struct statx st;

    return statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_TYPE, &st) == 0 &&
           (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

/* What is mounted on, in root's view: DIGEST/NAME. 1: it was there before. */
static int make_point(const char *dir, const char *name, bool file,
                      struct vine_err *err)
{
    int dir_fd, fd = -1, result;

    if (mount_make_dir(dir, 0555, err) < 0)
        return -1;
    dir_fd = open(dir, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir_fd < 0)
        return vine_err_sys(err, "cannot open '%s'", dir);
    if (file)
        result = fd = openat(
            dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0400);
    else
        result = mkdirat(dir_fd, name, 0500);
    if (result < 0 && errno == EEXIST)
        result = 1;
    else if (result < 0)
        result = vine_err_sys(err, "cannot make '%.200s' in '%s'", name, dir);
    else
        result = 0;
    if (fd >= 0)
        (void)close(fd);
    (void)close(dir_fd);
    return result;
}

static int mount_point(const char *dir, const char *name, bool file, const char *from,
                       const char *to, struct vine_err *err)
{
    int result = make_point(dir, name, file, err), dir_fd;

    /* A daemon may have ended between making it and mounting on it. */
    if (result < 0 || (result == 1 && is_mount(to)))
        return result < 0 ? -1 : 0;
    if (mount(from, to, NULL, MS_BIND, NULL) == 0)
        return 0;
    vine_err_sys(err, "cannot bind '%s' at '%s'", from, to);
    dir_fd = open(dir, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir_fd >= 0) {
        (void)unlinkat(dir_fd, name, file ? 0 : AT_REMOVEDIR);
        (void)close(dir_fd);
    }
    return -1;
}

int jobdir_add(struct vined *vined, uint64_t job, uint32_t uid, uint32_t gid,
               const struct vine_digest *digest, const char *from, bool file,
               const char *name, char out[VINE_PATH_MAX], struct vine_err *err)
{
    struct jobdirs *dirs = vined->jobdirs;
    char hex[VINE_HEX_LEN + 1], dir[VINE_PATH_MAX];
    int len;

    if (name[0] == '\0' || strchr(name, '/') != NULL || strcmp(name, ".") == 0 ||
        strcmp(name, "..") == 0 || strlen(name) > 255)
        name = "data";
    vine_digest_hex(digest, hex);
    len = snprintf(out, VINE_PATH_MAX, "%s/%llu/%.16s/%s", dirs->shown,
                   (unsigned long long)job, hex, name);
    if (len >= VINE_PATH_MAX)
        return vine_err_set(err, VINE_ELIMIT, "'%.80s' is too long for a path", name);
    (void)snprintf(dir, sizeof(dir), "%s/%llu/%.16s", dirs->made,
                   (unsigned long long)job, hex);
    if (find(dirs, job) == NULL && make_job(dirs, job, uid, gid, err) < 0)
        return -1;
    return mount_point(dir, name, file, from, out, err);
}

bool jobdir_has(const struct vined *vined, uint64_t job,
                const struct vine_digest *digest)
{
    char hex[VINE_HEX_LEN + 1], dir[VINE_PATH_MAX];

    vine_digest_hex(digest, hex);
    (void)snprintf(dir, sizeof(dir), "%s/%llu/%.16s", vined->jobdirs->made,
                   (unsigned long long)job, hex);
    return access(dir, F_OK) == 0;
}

void jobdirs_check(struct vined *vined)
{
    struct jobdir **at = &vined->jobdirs->first;

    while (*at != NULL) {
        struct jobdir *d = *at;
        if (node_has_job(vined->core, d->job)) {
            at = &d->next;
            continue;
        }
        *at = d->next;
        remove_dir(vined->jobdirs, d->job);
        free(d);
    }
}

/* Those of a daemon before us. */
static int adopt(struct jobdirs *dirs, struct vine_err *err)
{
    DIR *d = opendir(dirs->made);
    struct dirent *entry;
    int result = 0;

    if (d == NULL)
        return vine_err_sys(err, "cannot read '%s'", dirs->made);
    while (result == 0 && (entry = readdir(d)) != NULL) {
        struct place shown, stage;
        char *end;
        unsigned long long job;
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        job = strtoull(entry->d_name, &end, 10);
        shown = place_of(dirs->shown, job, "");
        stage = place_of(dirs->made, job, ".ro");
        if (strcmp(end, ".ro") == 0) /* it was being made, both */
            drop(&stage);
        else if (*end == '\0' && !is_mount(shown.path))
            remove_dir(dirs, job);
        else if (*end == '\0')
            result = note(dirs, job, err);
    }
    (void)closedir(d);
    return result;
}

int jobdirs_start(struct vined *vined, struct vine_err *err)
{
    struct jobdirs *dirs = calloc(1, sizeof(*dirs));

    if (dirs == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    vined->jobdirs = dirs;
    (void)snprintf(dirs->shown, sizeof(dirs->shown), "%s/job", vined->conf.run_dir);
    (void)snprintf(dirs->made, sizeof(dirs->made), "%s/jobs", vined->conf.run_dir);
    if (mount_make_dir(dirs->made, 0700, err) < 0 ||
        mount_make_dir(dirs->shown, 0711, err) < 0)
        return -1;
    if (!is_mount(dirs->shown) &&
        mount(dirs->shown, dirs->shown, NULL, MS_BIND, NULL) < 0)
        return vine_err_sys(err, "cannot bind '%s'", dirs->shown);
    if (mount(NULL, dirs->shown, NULL, MS_SHARED, NULL) < 0)
        return vine_err_sys(err, "cannot let mounts in '%s' propagate", dirs->shown);
    return adopt(dirs, err);
}

void jobdirs_stop(struct vined *vined)
{
    struct jobdirs *dirs = vined->jobdirs;

    if (dirs == NULL)
        return;
    /* Tasks that have a slave of it would not see what the next daemon mounts. */
    if (!node_has_jobs(vined->core) && dirs->first == NULL)
        (void)umount2(dirs->shown, MNT_DETACH | UMOUNT_NOFOLLOW);
    while (dirs->first != NULL) { /* the mounts stay: tasks use them */
        struct jobdir *d = dirs->first;
        dirs->first = d->next;
        free(d);
    }
    free(dirs);
    vined->jobdirs = NULL;
}
