/* mount.c - images become directories at RUN_DIR/mnt/DIGEST[-UID].
 *
 * What a daemon of this site built is mounted by the kernel, once for all users. An
 * image that a user brought is hostile input: it is served by squashfuse, running as
 * that user, and its mount lets only that user in (FUSE without allow_other). The
 * directory above is root's alone, so nobody walks to a mount; tasks get it by a bind
 * in their own mount namespace, which also keeps an evicted image alive until its last
 * task ends. A file of data is no image: it is bound there as it lies in the store,
 * made readable for whoever is given the mount.
 *
 * The loop device is set up read-only with autoclear: it goes with its mount. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/node/vined.h"
#include "vine/log.h"

#define MOUNT_FLAGS (MS_RDONLY | MS_NOSUID | MS_NODEV)
#define FUSE_UID_BASE 0xf0000000u /* beyond what sites give to people */
#define FUSE_UID_COUNT 0x0f000000u
#define LOOP_TRIES 64 /* another process may take the free device first */

struct mounted {
    struct vine_digest digest;
    uint32_t uid; /* NODE_ANY_UID: by the kernel */
    uv_process_t squashfuse;
    bool has_process, gone;
    struct vined *vined;
    struct mounted *next;
};

struct mounts {
    char dir[VINE_CONF_TEXT + 8];
    struct mounted *first;
};

struct mount_job {
    uv_work_t work;
    struct vined *vined;
    struct store_object *object;
    uint32_t uid, gid;
    bool trusted;
    int fuse_fd, image_fd; /* for squashfuse */
    char path[VINE_PATH_MAX];
    struct vine_err err;
};

static void path_of(const struct mounts *mounts, const struct vine_digest *digest,
                    uint32_t uid, char out[VINE_PATH_MAX])
{
    char hex[VINE_HEX_LEN + 1];

    vine_digest_hex(digest, hex);
    if (uid == NODE_ANY_UID)
        (void)snprintf(out, VINE_PATH_MAX, "%s/%s", mounts->dir, hex);
    else
        (void)snprintf(out, VINE_PATH_MAX, "%s/%s-%u", mounts->dir, hex, uid);
}

/* A loop device on the image. Returns its descriptor; the device lives as long as that
 * or a mount of it. */
static int open_loop(int image_fd, uint32_t flags, char path[32], struct vine_err *err)
{
    struct loop_config config = {
        .fd = (uint32_t)image_fd,
        .info = {.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | flags},
    };
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int number, fd = -1;

    if (control < 0)
        return vine_err_sys(err, "cannot open /dev/loop-control (modprobe loop?)");
    for (int i = 0; i < LOOP_TRIES && fd < 0; i++) {
        number = ioctl(control, LOOP_CTL_GET_FREE);
        if (number < 0)
            break;
        (void)snprintf(path, 32, "/dev/loop%d", number);
        fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0)
            break;
        if (ioctl(fd, LOOP_CONFIGURE, &config) == 0)
            break;
        number = errno;
        (void)close(fd);
        fd = -1;
        errno = number;
        if (errno != EBUSY)
            break;
    }
    (void)close(control);
    if (fd < 0)
        return vine_err_sys(err, "cannot set up a loop device");
    return fd;
}

int mount_image(int image_fd, uint32_t flags, const char *path, char device[32],
                struct vine_err *err)
{
    int loop = open_loop(image_fd, flags, device, err);

    if (loop < 0)
        return -1;
    if (mount(device, path, "squashfs", MOUNT_FLAGS, "errors=continue") < 0) {
        vine_err_sys(err, "cannot mount the image at '%s'", path);
        (void)close(loop);
        return -1;
    }
    return loop;
}

static void mount_by_kernel(struct mount_job *job)
{
    char device[32];
    int loop = mount_image(job->object->image_fd, 0, job->path, device, &job->err);

    if (loop >= 0)
        (void)close(loop);
}

/* The FUSE mount is made here, as root; the process that serves it comes later. */
static void mount_by_fuse(struct mount_job *job)
{
    char options[128];
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        vine_err_sys(&job->err, "cannot open /dev/fuse (modprobe fuse?)");
        return;
    }
    /* squashfuse reads the image as the user; the directories above stay closed. It
     * gets an open file of its own: flags are shared with whoever has a duplicate. */
    (void)snprintf(options, sizeof(options), "/proc/self/fd/%d", job->object->image_fd);
    job->image_fd = open(options, O_RDONLY | O_CLOEXEC);
    if (job->image_fd < 0 || fchmod(job->image_fd, 0444) < 0) {
        vine_err_sys(&job->err, "cannot open the image to its user");
        (void)close(fd);
        return;
    }
    (void)snprintf(options, sizeof(options),
                   "fd=%d,rootmode=40755,user_id=%u,group_id=%u,default_permissions",
                   fd, job->uid, job->gid);
    if (mount("squashfuse", job->path, "fuse.squashfuse", MOUNT_FLAGS, options) < 0) {
        vine_err_sys(&job->err, "cannot make a FUSE mount at '%s'", job->path);
        (void)close(fd);
        return;
    }
    job->fuse_fd = fd;
}

void mount_undo(const char *path)
{
    if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL)
        vine_log(VINE_LOG_WARNING, "event=unmount-failed path=%s reason=%s",
                 vine_q(path), vine_q(strerror(errno)));
    if (rmdir(path) < 0 && (errno != ENOTDIR || unlink(path) < 0) && errno != ENOENT)
        vine_log(VINE_LOG_WARNING, "event=rmdir-failed path=%s reason=%s", vine_q(path),
                 vine_q(strerror(errno)));
}

/* A file on a file. Its descriptor, not its path: the store may be moving it. */
static void mount_file(struct mount_job *job)
{
    int image_fd = job->object->image_fd;
    char from[32];
    int at = open(job->path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

    if (at < 0) {
        vine_err_sys(&job->err, "cannot make '%s'", job->path);
        return;
    }
    (void)close(at);
    (void)snprintf(from, sizeof(from), "/proc/self/fd/%d", image_fd);
    if (fchmod(image_fd, 0444) < 0)
        vine_err_sys(&job->err, "cannot open the file to its users");
    else if (mount(from, job->path, NULL, MS_BIND, NULL) < 0 ||
             mount(NULL, job->path, NULL, MS_BIND | MS_REMOUNT | MOUNT_FLAGS, NULL) < 0)
        vine_err_sys(&job->err, "cannot bind the file at '%s'", job->path);
    if (job->err.code != VINE_OK)
        mount_undo(job->path);
}

static void run_mount(uv_work_t *work)
{
    struct mount_job *job = work->data;

    if (job->object->manifest.file) {
        mount_file(job);
        return;
    }
    if (mkdir(job->path, 0700) < 0 && errno != EEXIST) {
        vine_err_sys(&job->err, "cannot make '%s'", job->path);
        return;
    }
    if (job->trusted)
        mount_by_kernel(job);
    else
        mount_by_fuse(job);
    if (job->err.code != VINE_OK)
        (void)rmdir(job->path);
}

static void unlink_mounted(struct mounts *mounts, struct mounted *m)
{
    struct mounted **at = &mounts->first;

    while (*at != NULL && *at != m)
        at = &(*at)->next;
    if (*at != NULL)
        *at = m->next;
}

static void on_process_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_squashfuse_exit(uv_process_t *process, int64_t status, int signal_number)
{
    struct mounted *m = process->data;
    struct vined *vined = m->vined;
    char path[VINE_PATH_MAX];

    if (!m->gone) {
        vine_log(VINE_LOG_WARNING,
                 "event=squashfuse-ended uid=%u status=%lld signal=%d", m->uid,
                 (long long)status, signal_number);
        path_of(vined->mounts, &m->digest, m->uid, path);
        mount_undo(path);
        unlink_mounted(vined->mounts, m);
        if (!vined->stopping) {
            node_unmounted(vined->core, &m->digest, m->uid, vined_now(vined));
            vined_update(vined);
        }
    }
    uv_close((uv_handle_t *)process, on_process_closed);
}

/* squashfuse runs as a user that nobody else is, one for each job's user: it could harm
 * nobody if an image took it over, and its owner cannot stop or trace it. A stopped one
 * would leave tasks that Slurm cannot kill, and their node would be drained.
 *
 * It gets the image and the mount as descriptors 3 and 4: it opens neither path
 * with anybody's rights but the user's. libfuse takes "/dev/fd/N" for a mount that is
 * there already. */
static int spawn_squashfuse(struct mounted *m, const struct mount_job *job,
                            struct vine_err *err)
{
    char *args[] = {"squashfuse", "-f", "/proc/self/fd/3", "/dev/fd/4", NULL};
    char *env[] = {"PATH=/usr/bin:/bin", NULL};
    uv_stdio_container_t stdio[5] = {
        {.flags = UV_IGNORE},
        {.flags = UV_IGNORE},
        {.flags = UV_IGNORE}, /* our log is not for what reads hostile images */
        {.flags = UV_INHERIT_FD, .data.fd = job->image_fd},
        {.flags = UV_INHERIT_FD, .data.fd = job->fuse_fd},
    };
    uv_process_options_t options = {
        .file = "squashfuse",
        .args = args,
        .env = env,
        .cwd = "/",
        .stdio = stdio,
        .stdio_count = 5,
        .uid = FUSE_UID_BASE + job->uid % FUSE_UID_COUNT,
        .gid = job->vined->helper_gid,
        .flags = UV_PROCESS_SETUID | UV_PROCESS_SETGID | UV_PROCESS_DETACHED,
        .exit_cb = on_squashfuse_exit,
    };
    int status = uv_spawn(&job->vined->loop, &m->squashfuse, &options);

    m->squashfuse.data = m;
    if (status < 0)
        return vine_err_uv(err, status, "cannot start squashfuse");
    uv_unref((uv_handle_t *)&m->squashfuse);
    m->has_process = true;
    return 0;
}

static struct mounted *remember(struct mount_job *job)
{
    struct mounted *m = calloc(1, sizeof(*m));

    if (m == NULL) {
        vine_err_set(&job->err, VINE_ENOMEM, "out of memory");
        return NULL;
    }
    m->vined = job->vined;
    m->digest = job->object->manifest.digest;
    m->uid = job->uid;
    if (!job->trusted && !job->object->manifest.file &&
        spawn_squashfuse(m, job, &job->err) < 0) {
        /* uv_spawn has initialised the handle even when it failed. */
        m->gone = true;
        uv_close((uv_handle_t *)&m->squashfuse, on_process_closed);
        return NULL;
    }
    m->next = job->vined->mounts->first;
    job->vined->mounts->first = m;
    return m;
}

static void after_mount(uv_work_t *work, int status)
{
    struct mount_job *job = work->data;
    struct vined *vined = job->vined;

    if (job->err.code == VINE_OK && (vined->stopping || remember(job) == NULL))
        mount_undo(job->path);
    if (job->fuse_fd >= 0)
        (void)close(job->fuse_fd);
    if (job->image_fd >= 0)
        (void)close(job->image_fd);
    if (!vined->stopping) {
        node_mounted(vined->core, &job->object->manifest.digest, job->uid,
                     job->err.code != VINE_OK ? &job->err : NULL, vined_now(vined));
        vined_update(vined);
    }
    store_put(job->object);
    free(job);
}

static void mount_failed(struct vined *vined, void *arg)
{
    struct mount_job *job = arg;
    struct vine_err err = {0};

    vine_err_set(&err, VINE_ENOENT, "the object to be mounted is gone");
    if (!vined->stopping)
        node_mounted(vined->core, &job->object->manifest.digest, job->uid, &err,
                     vined_now(vined));
    vined_update(vined);
    free(job->object);
    free(job);
}

struct gid_search {
    uint32_t uid, gid;
};

static void take_gid(void *arg, const struct node_job_info *job)
{
    struct gid_search *search = arg;

    if (job->uid == search->uid)
        search->gid = job->gid;
}

void mount_object(struct vined *vined, const struct vine_digest *digest,
                  uint32_t mount_uid, bool trusted)
{
    struct store_object *object = store_find(vined->store, digest);
    struct gid_search search = {.uid = mount_uid, .gid = vined->helper_gid};
    struct mount_job *job = calloc(1, sizeof(*job));

    if (job == NULL)
        return; /* the core's deadline tells the job */
    /* FUSE lets in who has both the user and the group of the mount. */
    node_each_job(vined->core, take_gid, &search);
    *job = (struct mount_job){.vined = vined,
                              .uid = mount_uid,
                              .gid = search.gid,
                              .trusted = trusted,
                              .fuse_fd = -1,
                              .image_fd = -1};
    if (object == NULL || !object->complete) {
        job->object = calloc(1, sizeof(*job->object));
        if (job->object == NULL) {
            free(job);
            return;
        }
        job->object->manifest.digest = *digest;
        vined_defer(vined, mount_failed, job);
        return;
    }
    job->object = object;
    store_get(object);
    store_touch(vined->store, object);
    path_of(vined->mounts, digest, mount_uid, job->path);
    job->work.data = job;
    (void)uv_queue_work(&vined->loop, &job->work, run_mount, after_mount);
}

static void drop(struct mounts *mounts, struct mounted *m)
{
    char path[VINE_PATH_MAX];

    path_of(mounts, &m->digest, m->uid, path);
    unlink_mounted(mounts, m);
    m->gone = true;
    /* A FUSE process ends by itself when its last user has gone; so do tasks' binds. */
    mount_undo(path);
    if (!m->has_process)
        free(m);
}

void mount_remove(struct vined *vined, const struct vine_digest *digest)
{
    struct mounted *m = vined->mounts->first;

    while (m != NULL) {
        struct mounted *next = m->next;
        if (vine_digest_equal(&m->digest, digest))
            drop(vined->mounts, m);
        m = next;
    }
}

int mount_adopt(struct vined *vined, const struct vine_digest *digest)
{
    struct mounted *m = calloc(1, sizeof(*m));

    if (m == NULL)
        return -1;
    m->vined = vined;
    m->digest = *digest;
    m->uid = NODE_ANY_UID;
    m->next = vined->mounts->first;
    vined->mounts->first = m;
    return 0;
}

void mount_path(struct vined *vined, const struct vine_digest *digest,
                uint32_t mount_uid, char out[VINE_PATH_MAX])
{
    path_of(vined->mounts, digest, mount_uid, out);
}

/* Mounts of a daemon before us: tasks keep what they use, we begin with none. */
static void clear_leftovers(const char *dir)
{
    char path[VINE_PATH_MAX];
    struct dirent *entry;
    DIR *d = opendir(dir);

    if (d == NULL)
        return;
    while ((entry = readdir(d)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        (void)snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
        mount_undo(path);
    }
    (void)closedir(d);
}

int mount_make_dir(const char *path, mode_t mode, struct vine_err *err)
{
    if (mkdir(path, mode) < 0 && errno != EEXIST)
        return vine_err_sys(err, "cannot make '%s'", path);
    if (chmod(path, mode) < 0)
        return vine_err_sys(err, "cannot set the mode of '%s'", path);
    return 0;
}

int mounts_start(struct vined *vined, struct vine_err *err)
{
    struct mounts *mounts = calloc(1, sizeof(*mounts));
    char env_dir[VINE_CONF_TEXT + 8];

    if (mounts == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    vined->mounts = mounts;
    (void)snprintf(mounts->dir, sizeof(mounts->dir), "%s/mnt", vined->conf.run_dir);
    (void)snprintf(env_dir, sizeof(env_dir), "%s/env", vined->conf.run_dir);
    if (mount_make_dir(vined->conf.run_dir, 0755, err) < 0 ||
        mount_make_dir(env_dir, 0755, err) < 0 ||
        mount_make_dir(mounts->dir, 0700, err) < 0)
        return -1;
    clear_leftovers(mounts->dir);
    return 0;
}

void mounts_stop(struct vined *vined)
{
    while (vined->mounts != NULL && vined->mounts->first != NULL)
        drop(vined->mounts, vined->mounts->first);
}
