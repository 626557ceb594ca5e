/* transfer.c - from bytes in memory to pieces the core knows of.
 *
 * Chunks are checked and written by worker threads; the loop thread counts chunks
 * down and tells the core when a piece is whole. A transfer may end (cancelled, failed)
 * while workers still have chunks of it: they hold a reference to the object and find
 * by id that nobody waits any more. What they wrote was verified, so it does no harm.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/node/vined.h"
#include "vine/log.h"

struct transfer {
    uint64_t id;
    struct store_object *object;
    struct msg_range range;
    uint32_t first_chunk, chunk_count;
    uint32_t *missing; /* by piece of the range: chunks not yet written */
    uint32_t left;     /* pieces the core was not told of */
    bool *written;     /* by chunk: a peer may send one twice */
    uint64_t bytes;
    uint64_t origin; /* ticket of the own source it comes from; 0: from a peer */
    struct transfer *next;
};

struct awaited { /* a manifest that the core still wants */
    uint64_t id;
    struct awaited *next;
};

struct transfers {
    struct transfer *first;
    struct awaited *manifests;
};

struct chunk_job {
    uv_work_t work;
    struct vined *vined;
    struct store_object *object;
    uint64_t id;
    struct chunk_run run;
    uint32_t length;
    void *bytes;
    struct vine_err err;
};

int transfers_start(struct vined *vined, struct vine_err *err)
{
    vined->transfers = calloc(1, sizeof(*vined->transfers));
    if (vined->transfers == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    return 0;
}

static struct transfer *find(struct vined *vined, uint64_t id)
{
    struct transfer *t = vined->transfers->first;

    while (t != NULL && t->id != id)
        t = t->next;
    return t;
}

static void forget(struct vined *vined, struct transfer *t)
{
    struct transfer **at = &vined->transfers->first;

    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    store_put(t->object);
    free(t->missing);
    free(t->written);
    free(t);
}

int transfer_expect_manifest(struct vined *vined, uint64_t id, struct vine_err *err)
{
    struct awaited *a = calloc(1, sizeof(*a));

    if (a == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    a->id = id;
    a->next = vined->transfers->manifests;
    vined->transfers->manifests = a;
    return 0;
}

/* Take it off the list; false: given up meanwhile. */
static bool was_awaited(struct vined *vined, uint64_t id)
{
    struct awaited **at = &vined->transfers->manifests, *a;

    while (*at != NULL && (*at)->id != id)
        at = &(*at)->next;
    a = *at;
    if (a == NULL)
        return false;
    *at = a->next;
    free(a);
    return true;
}

/* All chunks of a piece of the transfer are there. */
static void piece_whole(struct vined *vined, struct transfer *t, uint32_t piece)
{
    uint64_t id = t->id;

    store_mark(t->object, piece);
    if (--t->left == 0)
        forget(vined, t);
    node_piece_done(vined->core, id, piece, vined_now(vined));
    serve_more(vined);
    vined_update(vined);
}

struct late_pieces {
    uint64_t id;
    struct msg_range range;
};

/* Pieces all of whose chunks were there before the transfer began. */
static void tell_whole(struct vined *vined, void *arg)
{
    struct late_pieces *late = arg;

    for (uint32_t i = 0; i < late->range.count && !vined->stopping; i++) {
        struct transfer *t = find(vined, late->id);
        uint32_t piece = late->range.first + i;
        if (t != NULL && t->missing[i] == 0 && !t->object->have[piece])
            piece_whole(vined, t, piece);
    }
    free(late);
}

/* What an older object or an earlier transfer gave is not asked for again. */
static void skip_written(struct vined *vined, struct transfer *t)
{
    struct late_pieces *late = NULL;
    bool whole = false;

    for (uint32_t c = 0; c < t->chunk_count; c++) {
        uint32_t chunk = t->first_chunk + c, i;
        if (!store_has_chunk(t->object, chunk))
            continue;
        i = manifest_piece_of(&t->object->manifest, chunk) - t->range.first;
        t->written[c] = true;
        t->missing[i]--;
        whole |= t->missing[i] == 0;
    }
    if (whole)
        late = calloc(1, sizeof(*late));
    if (late == NULL) /* out of memory: the core's deadline speaks */
        return;
    late->id = t->id;
    late->range = t->range;
    vined_defer(vined, tell_whole, late);
}

int transfer_begin(struct vined *vined, uint64_t id, const struct vine_digest *digest,
                   struct msg_range range, struct vine_err *err)
{
    struct store_object *object = store_find(vined->store, digest);
    struct transfer *t;

    if (object == NULL || object->complete || range.first == 0 ||
        range.first + range.count > object->pieces)
        return vine_err_set(err, VINE_EPROTO, "no such pieces of a partial object");
    t = calloc(1, sizeof(*t));
    if (t != NULL)
        t->missing = calloc(range.count, sizeof(*t->missing));
    if (t == NULL || t->missing == NULL) {
        free(t);
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    t->id = id;
    t->object = object;
    t->range = range;
    t->left = range.count;
    for (uint32_t i = 0; i < range.count; i++) {
        uint32_t first;
        manifest_piece(&object->manifest, range.first + i, &first, &t->missing[i]);
        if (i == 0)
            t->first_chunk = first;
        t->chunk_count += t->missing[i];
    }
    t->written = calloc(t->chunk_count, sizeof(*t->written));
    if (t->written == NULL) {
        free(t->missing);
        free(t);
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    store_get(object);
    t->next = vined->transfers->first;
    vined->transfers->first = t;
    skip_written(vined, t);
    return 0;
}

uint32_t transfer_runs(struct vined *vined, uint64_t id,
                       struct chunk_run runs[TRANSFER_RUNS_MAX])
{
    const struct transfer *t = find(vined, id);
    uint32_t count = 0, last = UINT32_MAX;

    for (uint32_t c = 0; t != NULL && c < t->chunk_count; c++) {
        struct chunk_run *run = count > 0 ? &runs[count - 1] : NULL;
        bool older;
        if (t->written[c])
            continue;
        older = t->origin == 0 && reuse_knows(vined, t->object, t->first_chunk + c);
        if (run != NULL &&
            ((c == last + 1 && run->older == older) || count == TRANSFER_RUNS_MAX)) {
            run->older &= older && c == last + 1;
            run->count = t->first_chunk + c + 1 - run->first;
        } else {
            runs[count++] = (struct chunk_run){t->first_chunk + c, 1, older};
        }
        last = c;
    }
    return count;
}

int transfer_chunks(struct vined *vined, uint64_t id, uint32_t *first, uint32_t *count)
{
    const struct transfer *t = find(vined, id);

    if (t == NULL)
        return -1;
    *first = t->first_chunk;
    *count = t->chunk_count;
    return 0;
}

uint64_t transfer_length(struct vined *vined, uint64_t id, struct chunk_run run)
{
    const struct transfer *t = find(vined, id);
    uint64_t length = 0;

    if (t == NULL || run.first < t->first_chunk ||
        run.first - t->first_chunk >= t->chunk_count ||
        run.count > t->chunk_count - (run.first - t->first_chunk))
        return 0;
    for (uint32_t c = run.first; c < run.first + run.count; c++)
        length += t->object->manifest.chunk[c].length;
    return length;
}

/* One chunk of the transfer is written. True: the core was told of a whole piece. */
static bool count_chunk(struct vined *vined, struct transfer *t, uint32_t chunk)
{
    uint32_t i;

    if (chunk - t->first_chunk >= t->chunk_count || t->written[chunk - t->first_chunk])
        return false;
    t->written[chunk - t->first_chunk] = true;
    i = manifest_piece_of(&t->object->manifest, chunk) - t->range.first;
    if (--t->missing[i] > 0)
        return false;
    piece_whole(vined, t, t->range.first + i);
    return true;
}

/* Chunks of it are written. */
static void count_run(struct vined *vined, uint64_t id, struct chunk_run run)
{
    struct transfer *t = find(vined, id);
    bool told = false;

    /* A whole piece may be the transfer's last: look for it again. */
    for (uint32_t c = run.first; c < run.first + run.count && t != NULL; c++) {
        t->bytes += t->object->manifest.chunk[c].length;
        if (count_chunk(vined, t, c)) {
            told = true;
            t = find(vined, id);
        }
    }
    if (t == NULL || told)
        return;
    node_transfer_progress(vined->core, id, t->bytes, vined_now(vined));
    vined_update(vined);
}

static void mark_run(struct store_object *object, struct chunk_run run)
{
    for (uint32_t c = run.first; c < run.first + run.count; c++)
        store_mark_chunk(object, c);
}

static void chunks_written(struct vined *vined, const struct chunk_job *job)
{
    if (job->err.code == VINE_OK) {
        mark_run(job->object, job->run);
        count_run(vined, job->id, job->run);
    } else if (find(vined, job->id) != NULL) {
        transfer_end(vined, job->id, &job->err);
    }
}

static void write_chunks(uv_work_t *work)
{
    struct chunk_job *job = work->data;

    (void)store_write_chunks(job->object, job->run.first, job->run.count, job->bytes,
                             job->length, &job->err);
}

static void after_write(uv_work_t *work, int status)
{
    struct chunk_job *job = work->data;

    if (!job->vined->stopping)
        chunks_written(job->vined, job);
    store_put(job->object);
    buffer_put(job->vined, job->bytes);
    free(job);
}

void transfer_take(struct vined *vined, uint64_t id, struct chunk_run run, void *bytes,
                   uint32_t length)
{
    struct transfer *t = find(vined, id);
    struct vine_err err = {0};
    struct chunk_job *job;

    if (t == NULL) {
        buffer_put(vined, bytes);
        return;
    }
    job = calloc(1, sizeof(*job));
    if (job == NULL) {
        buffer_put(vined, bytes);
        vine_err_set(&err, VINE_ENOMEM, "out of memory");
        transfer_end(vined, id, &err);
        return;
    }
    *job = (struct chunk_job){.vined = vined,
                              .object = t->object,
                              .id = id,
                              .run = run,
                              .length = length,
                              .bytes = bytes};
    job->work.data = job;
    store_get(t->object);
    (void)uv_queue_work(&vined->loop, &job->work, write_chunks, after_write);
}

void transfer_take_older(struct vined *vined, uint64_t id, struct chunk_run run)
{
    if (transfer_length(vined, id, run) > 0)
        reuse_take(vined, id, find(vined, id)->object, run);
}

void transfer_took_older(struct vined *vined, uint64_t id, struct store_object *object,
                         struct chunk_run run, bool took)
{
    const struct transfer *t = find(vined, id);

    if (took)
        mark_run(object, run);
    for (uint32_t c = run.first; c < run.first + run.count && t != NULL && took; c++)
        if (!t->written[c - t->first_chunk])
            node_transfer_reused(vined->core, id,
                                 manifest_piece_of(&object->manifest, c),
                                 object->manifest.chunk[c].length);
    fetch_took_older(vined, id, run, took);
    if (took)
        count_run(vined, id, run);
}

void transfer_manifest(struct vined *vined, uint64_t id,
                       const struct vine_digest *digest, const void *bytes, size_t len)
{
    struct manifest manifest = {0};
    struct store_object *object = store_find(vined->store, digest);
    struct vine_err err = {0};
    uint64_t build, offset;

    if (!was_awaited(vined, id))
        return;
    if (object == NULL) {
        if (manifest_decode(bytes, len, &manifest, &err) == 0 &&
            !vine_digest_equal(&manifest.digest, digest))
            vine_err_set(&err, VINE_ECORRUPT, "the manifest has another digest");
        if (err.code == VINE_OK && node_is_part(vined->core, digest, &build, &offset))
            (void)store_create_part(vined->store, &manifest, build, offset, &object,
                                    &err);
        else if (err.code == VINE_OK)
            (void)store_create(vined->store, &manifest,
                               node_knows_source(vined->core, digest), &object, &err);
        manifest_free(&manifest);
    }
    if (err.code != VINE_OK)
        node_transfer_failed(vined->core, id, &err, vined_now(vined));
    else
        node_piece_done(vined->core, id, 0, vined_now(vined));
    vined_update(vined);
}

void transfer_end(struct vined *vined, uint64_t id, const struct vine_err *err)
{
    struct transfer *t = find(vined, id);

    if (t != NULL)
        forget(vined, t);
    else
        (void)was_awaited(vined, id);
    if (err == NULL)
        return;
    node_transfer_failed(vined->core, id, err, vined_now(vined));
    vined_update(vined);
}

struct late_end {
    uint64_t id;
    struct vine_err err;
};

static void end_late(struct vined *vined, void *arg)
{
    struct late_end *late = arg;

    if (!vined->stopping)
        transfer_end(vined, late->id, &late->err);
    free(late);
}

void transfer_end_later(struct vined *vined, uint64_t id, const struct vine_err *err)
{
    struct late_end *late = calloc(1, sizeof(*late));

    if (late == NULL)
        return; /* the core's deadline speaks */
    late->id = id;
    late->err = *err;
    vined_defer(vined, end_late, late);
}

void transfer_set_origin(struct vined *vined, uint64_t id, uint64_t ticket)
{
    struct transfer *t = find(vined, id);

    if (t != NULL)
        t->origin = ticket;
}

void transfers_fail_origin(struct vined *vined, uint64_t ticket,
                           const struct vine_err *err)
{
    struct transfer *t = vined->transfers->first;

    /* Each end may start others through the core: begin again at the head. */
    while (t != NULL) {
        if (t->origin == ticket) {
            transfer_end(vined, t->id, err);
            t = vined->transfers->first;
        } else {
            t = t->next;
        }
    }
}

void transfers_stop(struct vined *vined)
{
    while (vined->transfers->first != NULL)
        forget(vined, vined->transfers->first);
    while (vined->transfers->manifests != NULL)
        (void)was_awaited(vined, vined->transfers->manifests->id);
    free(vined->transfers);
}
