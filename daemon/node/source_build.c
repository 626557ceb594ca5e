/* source_build.c - from a source to an image file in the store's tmp/.
 *
 * Directories and archives: the child's tar goes through a pipe straight into
 * vine-squash, which runs as the helper user: neither the job's user (who could trace a
 * process of his own) nor root writes an image the kernel will parse. Both must end
 * well before the file counts. Plain squashfs files of a user are copied and never
 * trusted. A file of data is copied too; nobody takes it for an image, since its
 * manifest says what it is. A worker thread then adds the info block, and cuts and
 * hashes the object. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/node/source.h"
#include "daemon/node/store_int.h"
#include "vine/log.h"

#define COPY_STEP (1u << 20)
#define DISK_FULL_BYTES                                                                \
    (4u << 20) /* a builder fails before the last block is taken                       \
                */

struct source_build {
    struct source *source; /* NULL: given up */
    uv_process_t process;
    bool has_process, process_ended;
    int64_t status;
    bool child_done;             /* it said so: what was read is of one moment */
    struct image_follow *follow; /* NULL: none */
    struct source_base base;
    uint64_t begin_ms, whole_ms; /* when the builder began, and was done */
    /* Plain images and files of data. */
    uint64_t copied;
    char *step;
    size_t step_len;
};

struct finish_job {
    uv_work_t work;
    struct source *source;
    int fd; /* own duplicate */
    struct image_info info;
    bool add_info;
    struct source_base base; /* ours */
    bool base_damaged;
    struct image_hash_options hash;
    struct manifest manifest;
    struct vine_err err;
};

static bool is_copied(const struct source *s)
{
    return s->kind == SOURCE_IMAGE || s->kind == SOURCE_FILE;
}

static void hash_file(struct finish_job *job)
{
    struct stat st;

    if (fstat(job->fd, &st) < 0)
        vine_err_sys(&job->err, "cannot look at the new image");
    else if (image_hash_file(job->fd, (uint64_t)st.st_size, &job->hash, &job->manifest,
                             &job->err) == 0 &&
             job->source->kind == SOURCE_FILE) {
        job->manifest.file = true;
        (void)manifest_seal(&job->manifest, &job->err);
    }
}

static void run_finish(uv_work_t *work)
{
    struct finish_job *job = work->data;
    uint64_t size;

    if (job->base.same_files > 0 && !base_is_whole(&job->base)) {
        job->base_damaged = true;
        return;
    }
    if (job->err.code == VINE_OK)
        (void)base_append_listing(job->source, &job->base, job->fd, &job->info,
                                  &job->err);
    if (job->err.code == VINE_OK && job->add_info)
        (void)image_info_write(job->fd, &job->info, &size, &job->err);
    if (job->err.code == VINE_OK)
        hash_file(job);
}

static void log_built(const struct source *s, const struct source_base *base)
{
    const struct source_build *b = s->build;
    char hex[VINE_HEX_LEN + 1] = "none";

    if (base->same_files > 0)
        vine_digest_hex(&base->object->manifest.digest, hex);
    vine_log(
        VINE_LOG_INFO,
        "event=built ticket=%llx path=%s bytes=%llu source_bytes=%llu build_ms=%llu "
        "hash_ms=%llu base=%.16s same_files=%llu same_bytes=%llu",
        (unsigned long long)s->ticket, vine_q(s->shown),
        (unsigned long long)s->manifest.size, (unsigned long long)s->bytes,
        (unsigned long long)(b->whole_ms - b->begin_ms),
        (unsigned long long)(vined_now(s->vined) - b->whole_ms), hex,
        (unsigned long long)base->same_files, (unsigned long long)base->same_bytes);
}

static void after_finish(uv_work_t *work, int status)
{
    struct finish_job *job = work->data;
    struct source *s = job->source;

    if (!s->freed && job->base_damaged) {
        base_is_damaged(s, &job->base);
        s->no_base = true;
        source_restart(s);
    } else if (!s->freed && job->err.code == VINE_OK) {
        manifest_free(&s->manifest);
        s->manifest = job->manifest;
        memset(&job->manifest, 0, sizeof(job->manifest));
        s->has_manifest = true;
        s->same_files = job->base.same_files;
        s->same_bytes = job->base.same_bytes;
        log_built(s, &job->base);
        s->ops.built(s->ctx, s);
    } else if (!s->freed) {
        source_fail(s, &job->err);
    }
    manifest_free(&job->manifest);
    base_end(&job->base);
    image_follow_free(job->hash.follow);
    (void)close(job->fd);
    source_unpin(s);
    free(job);
}

static void fill_info(const struct source *s, struct image_info *info)
{
    const char *prefix = s->kind == SOURCE_DIR ? s->canonical : s->told;

    (void)snprintf(info->prefix, sizeof(info->prefix), "%s",
                   s->prefix != NULL ? s->prefix
                   : prefix != NULL  ? prefix
                                     : "");
    (void)snprintf(info->tool, sizeof(info->tool), "%s", image_builder_tool());
    (void)snprintf(info->created_by, sizeof(info->created_by),
                   "vine-env " VINE_VERSION);
    info->activate = s->activate;
    info->env = s->env;
    info->files = s->files;
    info->entries = s->entries;
    info->bytes = s->bytes;
}

static void finish(struct source *s)
{
    struct finish_job *job = calloc(1, sizeof(*job));
    struct vine_err err = {0};

    if (job == NULL) {
        vine_err_set(&err, VINE_ENOMEM, "out of memory");
        source_fail(s, &err);
        return;
    }
    job->source = s;
    job->hash.threads = (unsigned)s->vined->conf.build_threads;
    job->fd = fcntl(s->temp_fd, F_DUPFD_CLOEXEC, 3);
    if (job->fd < 0) {
        vine_err_sys(&err, "cannot keep the new image");
        free(job);
        source_fail(s, &err);
        return;
    }
    job->hash.follow = s->build->follow; /* ours from now on */
    s->build->follow = NULL;
    job->base = s->build->base;
    s->build->base = (struct source_base){.listing_fd = -1};
    job->add_info = !is_copied(s);
    fill_info(s, &job->info);
    job->work.data = job;
    s->pins++;
    (void)uv_queue_work(&s->vined->loop, &job->work, run_finish, after_finish);
}

/* Perhaps the builder could not read the older image: once more without it. */
static bool try_without_base(struct source *s)
{
    const struct source_build *b = s->build;
    char hex[VINE_HEX_LEN + 1];

    if (b->base.object == NULL)
        return false;
    vine_digest_hex(&b->base.object->manifest.digest, hex);
    vine_log(VINE_LOG_WARNING,
             "event=base-refused ticket=%llx base=%.16s status=%d path=%s",
             (unsigned long long)s->ticket, hex, (int)b->status, vine_q(s->shown));
    b->base.object->listing.length = 0;
    s->no_base = true;
    source_restart(s);
    return true;
}

bool build_failed(struct source *s)
{
    const struct source_build *b = s->build;
    struct vine_err err = {0};
    uint64_t total, available;

    if (b == NULL || !b->has_process || !b->process_ended || b->status == 0)
        return false;
    if (store_space(s->vined->store, &total, &available, &err) == 0 &&
        available < DISK_FULL_BYTES)
        vine_err_set(&err, VINE_ENOSPC,
                     "the file system of '%s' is full: %llu MB are free",
                     s->vined->conf.cache_dir, (unsigned long long)available >> 20);
    else if (try_without_base(s))
        return true;
    vine_err_set(&err, VINE_ESYS, "the image builder ended with status %d",
                 (int)b->status);
    source_fail(s, &err);
    return true;
}

static void finish_if_whole(struct source *s)
{
    struct source_build *b = s->build;

    if (build_failed(s))
        return;
    if (!b->child_done || (b->has_process && !b->process_ended))
        return;
    if (is_copied(s) && b->copied < s->object_size)
        return; /* the pipe still holds bytes */
    b->whole_ms = vined_now(s->vined);
    finish(s);
}

void build_child_done(struct source *s, const json_t *line)
{
    if (s->build == NULL || s->build->child_done)
        return;
    s->build->child_done = true;
    base_take_done(&s->build->base, line);
    finish_if_whole(s);
}

static void on_process_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_builder_exit(uv_process_t *process, int64_t status, int signal_number)
{
    struct source_build *b = process->data;
    struct source *s = b->source;

    b->process_ended = true;
    b->status = signal_number != 0 ? 128 + signal_number : status;
    if (s == NULL) {
        uv_close((uv_handle_t *)process, on_process_closed);
        return;
    }
    /* When the source's child failed, its own words are the better ones: they are on
     * the socket already, since it closes the pipe after it wrote them. */
    if (b->status == 0 || b->child_done)
        finish_if_whole(s);
}

static int spawn_builder(struct source *s, struct source_build *b, int tar_fd,
                         struct vine_err *err)
{
    struct image_builder how = {
        .program = VINE_LIBEXECDIR "/" IMAGE_BUILDER,
        .jobs = (unsigned)s->vined->conf.build_threads,
        .base = b->base.object != NULL,
    };
    char *env[] = {"LC_ALL=C", NULL};
    uv_stdio_container_t stdio[5] = {
        {.flags = UV_INHERIT_FD, .data.fd = tar_fd},
        {.flags = UV_IGNORE},
        {.flags = UV_INHERIT_FD, .data.fd = 2},
        {.flags = UV_INHERIT_FD, .data.fd = s->temp_fd},
        {.flags = UV_IGNORE},
    };
    struct image_argv argv;
    uv_process_options_t options = {
        .env = env,
        .cwd = "/",
        .stdio = stdio,
        .stdio_count = 4,
        .uid = s->vined->helper_uid,
        .gid = s->vined->helper_gid,
        .flags = UV_PROCESS_SETUID | UV_PROCESS_SETGID,
        .exit_cb = on_builder_exit,
    };
    int status;

    if (b->base.object != NULL) {
        stdio[4].flags = UV_INHERIT_FD;
        stdio[4].data.fd = b->base.object->image_fd;
        options.stdio_count = 5;
        how.base = true;
    }
    image_builder_argv(&how, &argv);
    options.file = argv.argv[0];
    options.args = argv.argv;
    status = uv_spawn(&s->vined->loop, &b->process, &options);
    b->process.data = b;
    b->has_process = true;
    if (status < 0) {
        b->process_ended = true;
        b->status = 127;
        return vine_err_uv(err, status, "cannot start the image builder");
    }
    return 0;
}

static int copy_step(struct source *s, struct vine_err *err);

static void step_read(struct source *s, void *arg)
{
    struct source_build *b = s->build;
    struct vine_err err = {0};

    /* One write of at most 1 MiB into the page cache; fsync is not ours. */
    if (disk_pwrite_all(s->temp_fd, b->step, b->step_len, b->copied, &err) < 0) {
        source_fail(s, &err);
        return;
    }
    b->copied += b->step_len;
    s->ops.progress(s->ctx, s, b->copied);
    if (b->copied == s->object_size)
        finish_if_whole(s);
    else if (copy_step(s, &err) < 0)
        source_fail(s, &err);
}

static int copy_step(struct source *s, struct vine_err *err)
{
    struct source_build *b = s->build;
    uint64_t left = s->object_size - b->copied;

    b->step_len = left < COPY_STEP ? (size_t)left : COPY_STEP;
    return child_read(s, b->step, b->step_len, step_read, NULL, NULL, err);
}

static int start_copy(struct source *s, struct vine_err *err)
{
    s->build->step = malloc(COPY_STEP);
    if (s->build->step == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (s->object_size > 0 && copy_step(s, err) < 0)
        return -1;
    return child_send(s,
                      json_pack("{s:s, s:I, s:I}", "cmd", "copy", "offset",
                                (json_int_t)0, "length", (json_int_t)s->object_size),
                      err);
}

int build_start(struct source *s, struct vine_err *err)
{
    struct source_build *b = calloc(1, sizeof(*b));
    int tar_fd, result;

    if (b == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    b->source = s;
    b->base.listing_fd = -1;
    b->begin_ms = vined_now(s->vined);
    s->build = b;
    if (store_temp(s->vined->store, s->ticket, s->temp_name, &s->temp_fd, err) < 0)
        return -1;
    if (is_copied(s)) {
        b->follow = image_follow_start(s->temp_fd);
        return start_copy(s, err);
    }
    base_begin(s, &b->base);
    tar_fd = child_take_bulk_fd(s);
    result = spawn_builder(s, b, tar_fd, err);
    (void)close(tar_fd);
    if (result < 0)
        return -1;
    b->follow = image_follow_start(s->temp_fd);
    return base_send_build(s, &b->base, err);
}

struct image_follow *build_follow(const struct source *s)
{
    return s->build != NULL && s->build->base.object == NULL ? s->build->follow : NULL;
}

void build_end(struct source *s)
{
    struct source_build *b = s->build;

    if (s->temp_fd >= 0) {
        (void)close(s->temp_fd);
        s->temp_fd = -1;
        store_temp_remove(s->vined->store, s->temp_name);
    }
    if (b == NULL)
        return;
    s->build = NULL;
    b->source = NULL;
    image_follow_free(b->follow);
    b->follow = NULL;
    base_end(&b->base);
    free(b->step);
    b->step = NULL;
    if (!b->has_process) {
        free(b);
        return;
    }
    if (!b->process_ended)
        (void)uv_process_kill(&b->process, SIGKILL);
    else if (!uv_is_closing((uv_handle_t *)&b->process))
        uv_close((uv_handle_t *)&b->process, on_process_closed);
}
