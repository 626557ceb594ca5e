/* source_parts.c - finished stretches of an image that is being built, as objects.
 *
 * A thread follows the builder and knows the chunks of what it wrote (follow.h). Every
 * so many of them are copied out of the unfinished image into a part, chunk by chunk as
 * they will stand in the image, and told to the core, which announces them. The first
 * chunk is left out: the superblock in it is written last. Parts grow with the image,
 * so that their number stays bounded; the copy is the price of an image that can still
 * change under those who read it. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/node/source.h"
#include "daemon/node/store_int.h"
#include "vine/log.h"

#define PART_BYTES (8u << 20)
#define PART_SHARE 12u   /* of what was told before, if that is more */
#define HINTS_MAX 16384u /* chunks of one part: 256 MiB of the smallest */
/* Beside a build's own ticket in names of temporary files; packing has the top bit. */
#define PART_TICKET (1ull << 62)

struct part_job {
    uv_work_t work;
    struct vined *vined;
    uint64_t ticket;
    int from_fd, to_fd; /* from_fd: own duplicate */
    char name[32];
    struct image_hint *hints;
    size_t count;
    struct manifest manifest;
    struct vine_err err;
};

static void job_free(struct part_job *job)
{
    if (job->from_fd >= 0)
        (void)close(job->from_fd);
    if (job->to_fd >= 0) {
        (void)close(job->to_fd);
        store_temp_remove(job->vined->store, job->name);
    }
    manifest_free(&job->manifest);
    free(job->hints);
    free(job);
}

/* One chunk, if it is still what was hashed. */
static int copy_chunk(struct part_job *job, const struct image_hint *hint, void *buf,
                      uint64_t to)
{
    const struct manifest_chunk *chunk = &hint->chunk;

    if (disk_pread_all(job->from_fd, buf, chunk->length, chunk->offset, &job->err) < 0)
        return -1;
    if (image_sum(buf, chunk->length) != hint->sum)
        return vine_err_set(&job->err, VINE_ECHANGED, "the builder took it back");
    return disk_pwrite_all(job->to_fd, buf, chunk->length, to, &job->err);
}

static void run_job(uv_work_t *work)
{
    struct part_job *job = work->data;
    struct manifest *m = &job->manifest;
    void *buf = malloc(VINE_CHUNK_MAX);

    m->chunk = calloc(job->count, sizeof(*m->chunk));
    if (buf == NULL || m->chunk == NULL)
        vine_err_set(&job->err, VINE_ENOMEM, "out of memory");
    while (job->err.code == VINE_OK && m->count < job->count) {
        const struct image_hint *hint = &job->hints[m->count];
        if (copy_chunk(job, hint, buf, m->size) < 0)
            break;
        m->chunk[m->count] = hint->chunk;
        m->chunk[m->count++].offset = m->size;
        m->size += hint->chunk.length;
    }
    if (job->err.code == VINE_OK)
        (void)manifest_finish(m, &job->err);
    free(buf);
}

static void tell(struct part_job *job, struct source_parts *p)
{
    struct vined *vined = job->vined;
    struct store_object *stored;
    struct msg_object object;
    char hex[VINE_HEX_LEN + 1];

    if (store_adopt(vined->store, job->name, &job->manifest, false, &stored,
                    &job->err) < 0)
        return;
    (void)close(job->to_fd);
    job->to_fd = -1; /* its name is gone */
    store_mark_part(vined->store, stored);
    p->bytes += stored->manifest.size;
    object = (struct msg_object){.digest = stored->manifest.digest,
                                 .size = stored->manifest.size,
                                 .pieces = stored->pieces,
                                 .complete = true};
    vine_digest_hex(&object.digest, hex);
    vine_log(VINE_LOG_INFO, "event=part ticket=%llx object=%.8s bytes=%llu all=%llu",
             (unsigned long long)job->ticket, hex, (unsigned long long)object.size,
             (unsigned long long)p->bytes);
    node_source_part(vined->core, job->ticket, &object, job->hints[0].chunk.offset,
                     vined_now(vined));
}

static void after_job(uv_work_t *work, int status)
{
    struct part_job *job = work->data;
    struct vined *vined = job->vined;
    const struct source *s = NULL;
    struct source_parts *p =
        vined->stopping ? NULL : source_parts_of(vined, job->ticket, &s);

    if (p != NULL) {
        p->busy = false;
        p->next += job->count; /* what was taken back is passed over */
        if (job->err.code == VINE_OK && node_wants_parts(vined->core, job->ticket))
            tell(job, p);
        if (job->err.code != VINE_OK)
            vine_log(VINE_LOG_DEBUG, "event=part-dropped ticket=%llx reason=%s",
                     (unsigned long long)job->ticket, vine_q(job->err.text));
        source_parts_look(vined, p, s); /* a fast builder has the next one already */
        vined_update(vined);
    }
    job_free(job);
}

/* How many of the hints make a part now; 0: wait for more. */
static size_t enough(const struct source_parts *p, const struct image_hint *hints,
                     size_t count)
{
    uint64_t least = PART_BYTES, bytes = 0;

    if (p->bytes / PART_SHARE > least)
        least = p->bytes / PART_SHARE;
    for (size_t i = 0; i < count; i++) {
        bytes += hints[i].chunk.length;
        if (bytes >= least)
            return i + 1;
    }
    return count == HINTS_MAX ? count : 0;
}

static void start_job(struct vined *vined, struct source_parts *p,
                      const struct source *s, struct image_hint *hints, size_t count)
{
    struct part_job *job = calloc(1, sizeof(*job));

    if (job == NULL) {
        free(hints);
        return;
    }
    *job = (struct part_job){.vined = vined,
                             .ticket = s->ticket,
                             .from_fd = fcntl(s->temp_fd, F_DUPFD_CLOEXEC, 3),
                             .to_fd = -1,
                             .hints = hints,
                             .count = count};
    if (job->from_fd < 0 || store_temp(vined->store, s->ticket | PART_TICKET, job->name,
                                       &job->to_fd, &job->err) < 0) {
        job_free(job);
        return;
    }
    p->busy = true;
    job->work.data = job;
    (void)uv_queue_work(&vined->loop, &job->work, run_job, after_job);
}

void source_parts_look(struct vined *vined, struct source_parts *p,
                       const struct source *s)
{
    struct image_follow *follow = build_follow(s);
    struct image_hint *hints;
    size_t count;

    if (p->busy || follow == NULL || !vined->conf.build_ahead ||
        !node_wants_parts(vined->core, s->ticket))
        return;
    if (p->of != follow) { /* the first try, or the source changed and it began anew */
        p->of = follow;
        p->next = 1;
    }
    hints = calloc(HINTS_MAX, sizeof(*hints));
    if (hints == NULL)
        return;
    count = enough(p, hints, image_follow_peek(follow, p->next, hints, HINTS_MAX));
    if (count > 0)
        start_job(vined, p, s, hints, count);
    else
        free(hints);
}
