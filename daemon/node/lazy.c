/* lazy.c - mounts of images that are still on their way.
 *
 *   task -> squashfs -> loop device -> FUSE file -> vine-lazy -> partial image
 *
 * vine-lazy answers what is there and asks us for the rest. When the object is complete
 * and published the loop device is moved, under the mount, to the published file; from
 * then on nothing of this is left but the loop device. The FUSE file system has no
 * path (lazy_mount.c).
 *
 * RUN_DIR/lazy/DIGEST.sock is where vine-lazy listens, DIGEST.loop says which device
 * reads from it: both are for the daemon after us, which completes the object and moves
 * the device. vine-lazy goes on meanwhile; a read of what is not there waits for its
 * deadline.
 *
 * A worker that has a struct lazy is the only reason why it cannot go at once: then
 * `removed` says that it goes when the worker is done. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/image/pack.h"
#include "daemon/node/lazy_int.h"
#include "daemon/node/lazy_mount.h"
#include "vine/log.h"

#define NICE_BESIDE_TASKS 10
#define MOUNT_WAIT_MS 10000 /* for what needs nobody but vine-lazy */

struct lazy_work {
    uv_work_t work;
    struct lazy *lazy;
    char path[VINE_PATH_MAX];
    int image_fd;
    struct vine_err err;
};

void lazy_path(const struct lazy *l, const char *ending, char out[VINE_PATH_MAX])
{
    char hex[VINE_HEX_LEN + 1];

    vine_digest_hex(&l->digest, hex);
    (void)snprintf(out, VINE_PATH_MAX, "%s/%s.%s", l->vined->lazies->dir, hex, ending);
}

static struct lazy *find(struct vined *vined, const struct vine_digest *digest)
{
    struct lazy *l = vined->lazies->first;

    while (l != NULL && (l->removed || !vine_digest_equal(&l->digest, digest)))
        l = l->next;
    return l;
}

static struct lazy *lazy_new(struct vined *vined, struct store_object *object)
{
    struct lazy *l = calloc(1, sizeof(*l));

    if (l == NULL)
        return NULL;
    l->vined = vined;
    l->digest = object->manifest.digest;
    l->object = object;
    store_get(object);
    l->mount_fd = l->loop_fd = l->socket = -1;
    l->next = vined->lazies->first;
    vined->lazies->first = l;
    return l;
}

/* The node is its jobs': while tasks start on an image, what they do not wait for is
 * fetched with the time they leave. A nice value is a thread's. */
static void heed_tasks(struct vined *vined)
{
    int nice_value = (int)vined->conf.nice;
    struct dirent *entry;
    DIR *threads;

    for (const struct lazy *l = vined->lazies->first; l != NULL; l = l->next)
        if (l->mounted && nice_value < NICE_BESIDE_TASKS)
            nice_value = NICE_BESIDE_TASKS;
    if (nice_value == vined->lazies->nice_value)
        return;
    threads = opendir("/proc/self/task");
    if (threads == NULL)
        return;
    vined->lazies->nice_value = nice_value;
    while ((entry = readdir(threads)) != NULL)
        if (entry->d_name[0] != '.')
            (void)setpriority(PRIO_PROCESS, (id_t)strtoul(entry->d_name, NULL, 10),
                              nice_value);
    (void)closedir(threads);
}

/* The process and the files are gone or somebody else's. */
static void lazy_free(struct lazy *l)
{
    struct vined *vined = l->vined;
    struct lazy **at = &l->vined->lazies->first;

    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    lazy_child_close(l);
    if (l->mount_fd >= 0)
        (void)close(l->mount_fd);
    if (l->loop_fd >= 0)
        (void)close(l->loop_fd);
    store_put(l->object);
    free(l);
    heed_tasks(vined);
}

static void forget_files(const struct lazy *l)
{
    char path[VINE_PATH_MAX];

    lazy_path(l, "sock", path);
    (void)unlink(path);
    lazy_path(l, "loop", path);
    (void)unlink(path);
}

void lazy_on_need(struct lazy *l, struct msg_range range)
{
    node_lazy_need(l->vined->core, &l->digest, range, vined_now(l->vined));
    vined_update(l->vined);
}

void lazy_on_read(struct lazy *l, struct msg_range range)
{
    node_lazy_read(l->vined->core, &l->digest, range, vined_now(l->vined));
    vined_update(l->vined);
}

void lazy_on_expired(struct lazy *l, struct msg_range range)
{
    const char *why = node_lazy_trouble(l->vined->core, &l->digest);
    char text[sizeof(((struct vine_err *)0)->text)], hex[VINE_HEX_LEN + 1];

    if (l->expired++ > 0) /* one of many */
        return;
    vine_digest_hex(&l->digest, hex);
    (void)snprintf(text, sizeof(text),
                   "a task that started before all was here could not read (EIO): "
                   "nothing arrived for %u s%s%.300s",
                   (unsigned)l->vined->conf.lazy_timeout_s, why[0] != '\0' ? ": " : "",
                   why);
    vine_log(VINE_LOG_ERR, "event=lazy-expired object=%.8s first=%u count=%u reason=%s",
             hex, range.first, range.count, vine_q(text));
    lazy_note_failure(l, text);
}

/* ---- the end
 * ------------------------------------------------------------------------- */

/* Those who use it keep it; new jobs get another. */
static void drop_mount(struct lazy *l)
{
    mount_remove(l->vined, &l->digest);
    node_unmounted(l->vined->core, &l->digest, NODE_ANY_UID, vined_now(l->vined));
}

static void finish(struct lazy *l)
{
    struct vined *vined = l->vined;

    forget_files(l);
    /* Where reads failed the file system remembers that: a block of names or inodes in
     * error stays so until enough others were read, and those behind the root's own
     * cannot be. Neither BLKFLSBUF, fadvise, a remount nor another mount of the same
     * device helps, only another device. */
    if (!vined->stopping && !l->removed && (l->expired > 0 || l->lost || l->left))
        drop_mount(l);
    lazy_free(l);
    vined_update(vined);
}

static void note_reads(struct lazy *l, const struct lazy_report *report)
{
    struct store_object *o = l->object;
    struct msg_range *runs = calloc(o->pieces, sizeof(*runs));
    uint32_t count = 0;

    for (uint32_t p = 1; runs != NULL && p < o->pieces; p++)
        if (report->touched[p / 64] >> (p % 64) & 1)
            runs[count++] = (struct msg_range){p, 1};
    for (uint32_t i = 0; i < count; i++)
        store_note_reads(l->vined->store, o, runs[i].first, 1);
    if (count > 0) {
        store_save_reads(l->vined->store, o);
        node_touched(l->vined->core, &l->digest, runs, count, vined_now(l->vined));
    }
    free(runs);
}

void lazy_on_report(struct lazy *l, const struct lazy_report *report)
{
    char hex[VINE_HEX_LEN + 1];

    if (l->stage != LAZY_ENDING)
        return;
    vine_digest_hex(&l->digest, hex);
    vine_log(VINE_LOG_INFO,
             "event=%s object=%.8s reads=%llu bytes=%llu waits=%llu errors=%llu",
             l->left ? "lazy-left" : "handover", hex, (unsigned long long)report->reads,
             (unsigned long long)report->bytes, (unsigned long long)report->waits,
             (unsigned long long)report->errors);
    note_reads(l, report);
    finish(l);
}

void lazy_on_gone(struct lazy *l)
{
    char hex[VINE_HEX_LEN + 1];

    vine_digest_hex(&l->digest, hex);
    if (l->stage == LAZY_ENDING) {
        vine_log(VINE_LOG_WARNING, "event=%s object=%.8s reads=unknown",
                 l->left ? "lazy-left" : "handover", hex);
        finish(l);
        return;
    }
    lazy_child_close(l);
    l->lost = true;
    if (l->stage != LAZY_STANDING) /* the worker sees it */
        return;
    vine_log(VINE_LOG_ERR,
             "event=lazy-lost object=%.8s reason=\"vine-lazy ended\" mend=\"reads of "
             "what is running fail until the image is complete\"",
             hex);
    lazy_note_failure(l,
                      "vine-lazy, which served it, ended: reads failed (EIO) until all "
                      "was here");
    node_lazy_lost(l->vined->core, &l->digest, vined_now(l->vined));
    vined_update(l->vined);
}

static void run_hand_over(uv_work_t *work)
{
    struct lazy_work *job = work->data;

    (void)lazy_change_file(job->lazy->loop_fd, job->image_fd, &job->err);
}

static void after_hand_over(uv_work_t *work, int status)
{
    struct lazy_work *job = work->data;
    struct lazy *l = job->lazy;

    lazy_child_unwatch(l);
    l->stage = LAZY_ENDING;
    if (job->err.code != VINE_OK)
        vine_log(VINE_LOG_ERR,
                 "event=handover-failed reason=%s mend=\"vine-lazy goes "
                 "on serving\"",
                 vine_q(job->err.text));
    if (l->removed || l->vined->stopping || l->socket < 0) {
        if (l->removed)
            lazy_child_kill(l);
        if (l->lost)
            lazy_on_gone(l);
        else
            finish(l);
    } else if (job->err.code != VINE_OK) {
        l->stage = LAZY_STANDING;
        l->published = false;
        lazy_child_update(l);
    } else {
        (void)close(l->loop_fd);
        l->loop_fd = -1;
        lazy_child_finish(l);
        lazy_child_watch(l, MOUNT_WAIT_MS);
    }
    free(job);
}

static void hand_over(struct lazy *l)
{
    struct lazy_work *job = calloc(1, sizeof(*job));

    if (job == NULL)
        return; /* vine-lazy goes on, all is there */
    l->stage = LAZY_HANDING;
    lazy_child_update(l);
    job->lazy = l;
    job->image_fd = l->object->image_fd;
    job->work.data = job;
    lazy_child_watch(l, MOUNT_WAIT_MS);
    (void)uv_queue_work(&l->vined->loop, &job->work, run_hand_over, after_hand_over);
}

/* Ask what was read, then end it. */
static void leave(struct lazy *l)
{
    l->stage = LAZY_ENDING;
    if (l->socket < 0) {
        lazy_on_gone(l);
        return;
    }
    lazy_child_finish(l);
    lazy_child_watch(l, MOUNT_WAIT_MS);
}

static void leave_late(struct vined *vined, void *arg)
{
    struct vine_digest *digest = arg;
    struct lazy *l = find(vined, digest);

    if (l != NULL && !vined->stopping && l->stage == LAZY_STANDING)
        leave(l);
    else if (l == NULL && !vined->stopping) /* gone meanwhile */
        node_unmounted(vined->core, digest, NODE_ANY_UID, vined_now(vined));
    vined_update(vined);
    free(digest);
}

void lazy_leave(struct vined *vined, const struct vine_digest *digest)
{
    struct vine_digest *copy = malloc(sizeof(*copy));
    struct lazy *l = find(vined, digest);

    if (l != NULL)
        l->left = true;
    if (copy == NULL)
        return; /* it stays until the object goes */
    *copy = *digest;
    vined_defer(vined, leave_late, copy);
}

void lazy_published(struct vined *vined, struct store_object *object)
{
    struct lazy *l = find(vined, &object->manifest.digest);

    if (l == NULL)
        return;
    store_get(object);
    store_put(l->object);
    l->object = object;
    l->published = true;
    if (l->stage == LAZY_STANDING)
        hand_over(l);
}

void lazy_remove(struct vined *vined, const struct vine_digest *digest)
{
    struct lazy *l = find(vined, digest);

    if (l == NULL)
        return;
    l->removed = true;
    lazy_child_kill(l);
    if (l->stage == LAZY_STANDING || l->stage == LAZY_ENDING)
        finish(l);
}

void lazy_have(struct vined *vined, const struct vine_digest *digest, uint32_t piece)
{
    struct lazy *l = find(vined, digest);

    if (l != NULL)
        lazy_child_update(l);
}

/* ---- the beginning
 * ------------------------------------------------------------------- */

struct late_answer { /* to the core, not from inside its own op */
    struct vine_digest digest;
    struct msg_range tables;
    bool mount;
    struct vine_err err;
};

static void answer(struct vined *vined, void *arg)
{
    struct late_answer *late = arg;

    if (!vined->stopping && late->mount)
        node_lazy_mounted(vined->core, &late->digest, &late->err, vined_now(vined));
    else if (!vined->stopping)
        node_lazy_tables(vined->core, &late->digest, late->tables, &late->err,
                         vined_now(vined));
    vined_update(vined);
    free(late);
}

static int find_tables(struct store_object *o, struct msg_range *out,
                       struct vine_err *err)
{
    const struct manifest *m = &o->manifest;
    uint8_t super[96];
    uint64_t used, start;

    if (m->file)
        return vine_err_set(err, VINE_EINVAL, "it is a file of data, no image");
    if (pread(o->image_fd, super, sizeof(super), 0) != sizeof(super))
        return vine_err_sys(err, "cannot read the image's superblock");
    if (!image_superblock_valid(super, m->size, &used))
        return vine_err_set(err, VINE_EINVAL, "the image is no squashfs that we know");
    start = image_tables_start(super);
    for (uint32_t p = 1; p < o->pieces; p++) {
        uint32_t first, count;
        uint64_t end;
        manifest_piece(m, p, &first, &count);
        end = m->chunk[first + count - 1].offset + m->chunk[first + count - 1].length;
        if (end > start && m->chunk[first].offset < used) {
            if (out->count++ == 0)
                out->first = p;
        }
    }
    return 0;
}

void lazy_look(struct vined *vined, const struct vine_digest *digest)
{
    struct store_object *object = store_find(vined->store, digest);
    struct late_answer *late = calloc(1, sizeof(*late));

    if (late == NULL)
        return; /* the job starts when it is complete */
    late->digest = *digest;
    if (object == NULL)
        vine_err_set(&late->err, VINE_ENOENT, "the object is gone");
    else
        (void)find_tables(object, &late->tables, &late->err);
    vined_defer(vined, answer, late);
}

static void run_mount(uv_work_t *work)
{
    struct lazy_work *job = work->data;
    struct lazy *l = job->lazy;
    struct stat st;
    int file;

    if (mkdir(job->path, 0700) < 0 && errno != EEXIST) {
        vine_err_sys(&job->err, "cannot make '%s'", job->path);
        return;
    }
    file = lazy_file_open(l->mount_fd, &job->err);
    if (file >= 0) {
        /* Direct: several reads at once, so that one that waits holds up no other. */
        l->loop_fd =
            mount_image(file, LO_FLAGS_DIRECT_IO, job->path, l->device, &job->err);
        if (fstat(file, &st) == 0) {
            l->file_device = st.st_dev;
            l->file_inode = st.st_ino;
        }
        (void)close(file);
    }
    if (job->err.code != VINE_OK)
        (void)rmdir(job->path);
}

static void log_mounted(const struct lazy *l)
{
    char hex[VINE_HEX_LEN + 1];
    uint32_t have = 0;

    for (uint32_t p = 0; p < l->object->pieces; p++)
        have += l->object->have[p];
    vine_digest_hex(&l->digest, hex);
    vine_log(VINE_LOG_INFO, "event=lazy-mounted object=%.8s have=%u pieces=%u", hex,
             have, l->object->pieces);
}

/* For the daemon after us. */
static void write_record(const struct lazy *l)
{
    char path[VINE_PATH_MAX], text[128];
    int fd, len;

    lazy_path(l, "loop", path);
    len =
        snprintf(text, sizeof(text), "%s %llu %llu\n", l->device,
                 (unsigned long long)l->file_device, (unsigned long long)l->file_inode);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, text, (size_t)len) != len)
        vine_log(VINE_LOG_WARNING, "event=lazy-record-not-written reason=%s",
                 vine_q(strerror(errno)));
    if (fd >= 0)
        (void)close(fd);
}

static void after_mount(uv_work_t *work, int status)
{
    struct lazy_work *job = work->data;
    struct lazy *l = job->lazy;
    struct vined *vined = l->vined;
    bool mounted = job->err.code == VINE_OK;

    lazy_child_unwatch(l);
    (void)close(l->mount_fd);
    l->mount_fd = -1;
    if (mounted && (l->removed || l->lost || vined->stopping ||
                    mount_adopt(vined, &l->digest) < 0)) {
        vine_err_set(&job->err, VINE_EDOWN, "vine-lazy ended, or the object went");
        mount_undo(job->path);
        mounted = false;
    }
    l->mounted = mounted;
    l->stage = LAZY_STANDING;
    if (mounted) {
        write_record(l);
        log_mounted(l);
        heed_tasks(vined);
    } else {
        lazy_child_kill(l);
    }
    if (!vined->stopping && !l->removed)
        node_lazy_mounted(vined->core, &l->digest, &job->err, vined_now(vined));
    if (!mounted)
        finish(l);
    else if (l->left)
        leave(l);
    else if (l->published)
        hand_over(l);
    vined_update(vined);
    free(job);
}

static int begin(struct lazy *l, struct vine_err *err)
{
    int fuse = -1, result;

    if (lazy_fuse_mount(&fuse, &l->mount_fd, err) < 0)
        return -1;
    result = lazy_child_start(l, fuse, err);
    (void)close(fuse); /* vine-lazy's alone: with it the kernel ends all reads */
    return result;
}

void lazy_mount(struct vined *vined, const struct vine_digest *digest)
{
    struct store_object *object = store_find(vined->store, digest);
    struct lazy_work *job = calloc(1, sizeof(*job));
    struct late_answer *late = calloc(1, sizeof(*late));
    struct lazy *l = object == NULL ? NULL : lazy_new(vined, object);

    if (job == NULL || late == NULL || l == NULL || begin(l, &late->err) < 0) {
        if (l != NULL) {
            lazy_child_kill(l);
            finish(l);
        }
        free(job);
        if (late == NULL)
            return; /* the job's own deadline speaks */
        late->digest = *digest;
        late->mount = true;
        vine_err_set(&late->err, VINE_ENOMEM, "out of memory");
        vined_defer(vined, answer, late);
        return;
    }
    free(late);
    mount_path(vined, digest, NODE_ANY_UID, job->path);
    job->lazy = l;
    job->work.data = job;
    lazy_child_watch(l, MOUNT_WAIT_MS);
    (void)uv_queue_work(&vined->loop, &job->work, run_mount, after_mount);
}

/* ---- after a restart
 * ----------------------------------------------------------------- */

static int read_record(struct lazy *l)
{
    char path[VINE_PATH_MAX], text[128] = "";
    unsigned long long device, inode;
    struct loop_info64 info;
    int fd, result;

    lazy_path(l, "loop", path);
    fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    result = (int)read(fd, text, sizeof(text) - 1);
    (void)close(fd);
    if (result <= 0 || sscanf(text, "/dev/loop%*u %llu %llu", &device, &inode) != 2)
        return -1;
    text[strcspn(text, " ")] = '\0';
    l->loop_fd = open(text, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    /* It may have been given to somebody else meanwhile. */
    return l->loop_fd >= 0 && ioctl(l->loop_fd, LOOP_GET_STATUS64, &info) == 0 &&
                   info.lo_device == device && info.lo_inode == inode
               ? 0
               : -1;
}

static void adopt(struct vined *vined, const char *name)
{
    struct vine_digest digest;
    struct store_object *object;
    struct vine_err err = {0};
    char hex[VINE_HEX_LEN + 1];
    struct lazy *l;

    (void)snprintf(hex, sizeof(hex), "%.*s", VINE_HEX_LEN, name);
    if (vine_digest_parse(hex, &digest) < 0)
        return;
    object = store_find(vined->store, &digest);
    l = object == NULL ? NULL : lazy_new(vined, object);
    if (l == NULL)
        return;
    l->stage = LAZY_STANDING;
    /* Only if vine-lazy lives is the device's file surely its own. It ends with the
     * last task that uses it. */
    if (lazy_child_connect(l, &err) < 0 || read_record(l) < 0) {
        vine_log(VINE_LOG_DEBUG, "event=lazy-not-adopted object=%.8s reason=%s", hex,
                 vine_q(err.text));
        forget_files(l);
        lazy_free(l);
        return;
    }
    vine_log(VINE_LOG_INFO, "event=lazy-adopted object=%.8s", hex);
    node_lazy_adopt(vined->core, &digest);
    if (object->complete) {
        l->published = true;
        hand_over(l);
    }
}

int lazies_start(struct vined *vined, struct vine_err *err)
{
    struct lazies *all = calloc(1, sizeof(*all));
    struct dirent *entry;
    DIR *dir;

    if (all == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    vined->lazies = all;
    all->nice_value = (int)vined->conf.nice;
    (void)snprintf(all->dir, sizeof(all->dir), "%s/lazy", vined->conf.run_dir);
    if (mkdir(all->dir, 0700) < 0 && errno != EEXIST)
        return vine_err_sys(err, "cannot make '%s'", all->dir);
    dir = opendir(all->dir);
    if (dir == NULL)
        return vine_err_sys(err, "cannot list '%s'", all->dir);
    while ((entry = readdir(dir)) != NULL) {
        const char *dot = strchr(entry->d_name, '.');
        if (dot != NULL && dot - entry->d_name == VINE_HEX_LEN &&
            strcmp(dot, ".loop") == 0)
            adopt(vined, entry->d_name);
    }
    (void)closedir(dir);
    return 0;
}

void lazies_stop(struct vined *vined)
{
    struct lazies *all = vined->lazies;
    struct lazy *l = all != NULL ? all->first : NULL;

    while (l != NULL) {
        struct lazy *next = l->next;
        if (l->stage == LAZY_STANDING || l->stage == LAZY_ENDING)
            lazy_free(l); /* vine-lazy and its files stay for the next daemon */
        else
            lazy_child_close(l); /* the worker ends first */
        l = next;
    }
}
