/* reuse.c - a new object's chunks from older objects of the store.
 *
 * Workers read, check and write them. The objects read from are held, so an eviction
 * meanwhile takes their names and not their bytes. A chunk that is not what its
 * manifest says is left to the peers, and nothing is taken from that object any more.
 *
 * When: what a manifest names is no proof that its user has the bytes. Of an object
 * whose source was read to its end all is taken before data is planned: the loop looks
 * the chunks up, BATCH_BYTES at a time, BATCHES are under way at once, then the core is
 * told which pieces are whole and what is missing of the others. Of one that is still
 * being read a chunk is taken when the peer that would send it has it: then the node
 * that reads the source, as its user, found these bytes there. That node itself takes
 * nothing; it reads all of it. */
#include <stdlib.h>

#include "daemon/node/vined.h"
#include "vine/log.h"

#define BATCH_BYTES (8u << 20)
#define BATCH_CHUNKS 128u
#define BATCH_LOOKUPS 8192u /* so that a large manifest does not hold up the loop */
#define BATCHES 2u
#define RUN_BYTES (256u << 10) /* at once: what a processor's cache holds */

struct reuse {
    struct vined *vined;
    struct vine_digest digest;
    struct store_object *object;
    bool proved;
    uint32_t next; /* chunk to be looked up */
    unsigned running;
    uint64_t bytes, bytes_parts;
};

struct reuse_chunk {
    struct store_object *from;
    uint32_t from_chunk, chunk;
    bool older; /* an older object has it, whatever it is taken from */
    enum vine_code code;
};

struct batch {
    uv_work_t work;
    struct vined *vined;
    struct store_object *object; /* they are written to */
    struct reuse *reuse;         /* NULL: of a transfer */
    uint64_t transfer;
    struct chunk_run run;
    uint32_t count;
    struct reuse_chunk chunk[BATCH_CHUNKS];
    void *buffer;
};

static void go_on(struct vined *vined, void *arg);

static bool look_up(const struct vined *vined, const struct store_object *object,
                    uint32_t chunk, struct reuse_chunk *out)
{
    const struct manifest_chunk *wanted = &object->manifest.chunk[chunk];
    struct store_source found[STORE_SOURCES_MAX];
    uint32_t count = store_lookup(vined->store, &wanted->digest, found);

    *out = (struct reuse_chunk){.chunk = chunk};
    for (uint32_t i = 0; i < count; i++) {
        struct store_object *from = found[i].object;
        if (from->manifest.chunk[found[i].chunk].length != wanted->length)
            continue;
        out->older |= !from->part;
        if (out->from != NULL && !from->part)
            continue;
        out->from = from; /* best of a part: that is in memory */
        out->from_chunk = found[i].chunk;
    }
    return out->from != NULL;
}

bool reuse_knows(const struct vined *vined, const struct store_object *object,
                 uint32_t chunk)
{
    struct reuse_chunk found;

    return look_up(vined, object, chunk, &found);
}

/* How many from `at` on follow one another in both objects: one read and one write. */
static uint32_t count_run(const struct batch *b, uint32_t at)
{
    const struct manifest_chunk *wanted = b->object->manifest.chunk;
    const struct reuse_chunk *first = &b->chunk[at];
    uint32_t count = 1, length = wanted[first->chunk].length;

    for (; at + count < b->count; count++) {
        const struct reuse_chunk *c = &b->chunk[at + count];
        if (c->from != first->from || c->chunk != first->chunk + count ||
            c->from_chunk != first->from_chunk + count ||
            length + wanted[c->chunk].length > RUN_BYTES)
            break;
        length += wanted[c->chunk].length;
    }
    return count;
}

static enum vine_code take_run(const struct batch *b, uint32_t at, uint32_t count)
{
    const struct reuse_chunk *c = &b->chunk[at];
    struct vine_err err = {0};

    (void)store_take_chunks(b->object, c->chunk, count, c->from, c->from_chunk,
                            b->buffer, &err);
    return err.code;
}

static void run_batch(uv_work_t *work)
{
    struct batch *b = work->data;

    for (uint32_t at = 0; at < b->count;) {
        uint32_t end = at + count_run(b, at);
        bool whole = take_run(b, at, end - at) == VINE_OK;

        /* Else one by one, to tell which are wrong. */
        for (; at < end; at++)
            b->chunk[at].code = whole ? VINE_OK : take_run(b, at, 1);
    }
}

static void not_taken(struct vined *vined, const struct reuse_chunk *c)
{
    char hex[VINE_HEX_LEN + 1];

    if (c->code == VINE_ECORRUPT && !store_forget_chunks(vined->store, c->from))
        return; /* the first is told */
    vine_digest_hex(&c->from->manifest.digest, hex);
    vine_log(VINE_LOG_WARNING, "event=chunk-not-reused object=%.8s chunk=%u code=%s",
             hex, c->from_chunk, vine_code_name(c->code));
}

static void take_chunk(struct reuse *r, const struct reuse_chunk *c)
{
    if (c->code != VINE_OK) {
        not_taken(r->vined, c);
        return;
    }
    /* A transfer may have brought it meanwhile. */
    if (!store_has_chunk(r->object, c->chunk))
        *(c->older ? &r->bytes : &r->bytes_parts) +=
            r->object->manifest.chunk[c->chunk].length;
    store_mark_chunk(r->object, c->chunk);
}

static struct batch *batch_new(struct vined *vined, struct store_object *object)
{
    struct batch *b = calloc(1, sizeof(*b));

    if (b != NULL)
        b->buffer = malloc(VINE_CHUNK_MAX);
    if (b == NULL || b->buffer == NULL) {
        free(b);
        return NULL;
    }
    b->vined = vined;
    b->object = object;
    b->work.data = b;
    store_get(object);
    return b;
}

static void batch_free(struct batch *b)
{
    store_put(b->object);
    for (uint32_t i = 0; i < b->count; i++)
        store_put(b->chunk[i].from);
    free(b->buffer);
    free(b);
}

static void after_batch(uv_work_t *work, int status)
{
    struct batch *b = work->data;
    struct reuse *r = b->reuse;

    for (uint32_t i = 0; i < b->count; i++)
        take_chunk(r, &b->chunk[i]);
    batch_free(b);
    r->running--;
    if (!r->vined->stopping && !r->object->removed)
        node_reuse_progress(r->vined->core, &r->digest, vined_now(r->vined));
    go_on(r->vined, r);
}

/* The next chunks that can be had, as work; false: none are left, or none may be. */
static bool start_batch(struct reuse *r)
{
    struct batch *b = r->proved ? batch_new(r->vined, r->object) : NULL;
    uint32_t end = r->object->manifest.count, looked = 0;
    uint64_t bytes = 0;

    if (b == NULL) {
        r->next = end;
        return false;
    }
    for (; r->next < end && b->count < BATCH_CHUNKS && bytes < BATCH_BYTES &&
           looked < BATCH_LOOKUPS;
         r->next++, looked++) {
        if (store_has_chunk(r->object, r->next) ||
            !look_up(r->vined, r->object, r->next, &b->chunk[b->count]))
            continue;
        bytes += r->object->manifest.chunk[r->next].length;
        store_get(b->chunk[b->count++].from);
    }
    if (b->count == 0) {
        batch_free(b);
        return false;
    }
    b->reuse = r;
    r->running++;
    (void)uv_queue_work(&r->vined->loop, &b->work, run_batch, after_batch);
    return true;
}

/* By piece: what of it is missing. Whole ones are noted in the store. */
static void count_missing(struct reuse *r, bool *have, uint32_t *missing)
{
    struct store_object *o = r->object;

    for (uint32_t p = 1; p < o->pieces; p++) {
        uint32_t first, count;
        manifest_piece(&o->manifest, p, &first, &count);
        for (uint32_t c = first; c < first + count; c++)
            if (!store_has_chunk(o, c))
                missing[p] += o->manifest.chunk[c].length;
        have[p] = missing[p] == 0;
        if (have[p] && !o->have[p])
            store_mark(o, p);
    }
}

static void finish(struct reuse *r)
{
    struct vined *vined = r->vined;
    bool *have = calloc(r->object->pieces, sizeof(*have));
    uint32_t *missing = calloc(r->object->pieces, sizeof(*missing));
    struct node_reused result = {.have = have,
                                 .missing = missing,
                                 .bytes = r->bytes,
                                 .bytes_parts = r->bytes_parts};

    if (!vined->stopping && !r->object->removed) {
        if (have != NULL && missing != NULL)
            count_missing(r, have, missing);
        node_reused(vined->core, &r->digest,
                    have != NULL && missing != NULL ? &result : NULL, vined_now(vined));
        serve_more(vined);
        vined_update(vined);
    }
    free(have);
    free(missing);
    store_put(r->object);
    free(r);
}

static void go_on(struct vined *vined, void *arg)
{
    struct reuse *r = arg;
    uint32_t end = r->object->manifest.count;

    if (vined->stopping || r->object->removed || r->object->complete)
        r->next = end;
    while (r->running < BATCHES && r->next < end && start_batch(r))
        ;
    if (r->running > 0)
        return;
    if (r->next < end) /* a stretch without any: let others have the loop */
        vined_defer(vined, go_on, r);
    else
        finish(r);
}

/* What came with parts of it, when nobody knew yet what it is. */
static void count_adopted(struct reuse *r)
{
    struct reuse_chunk found;

    r->object->adopted = false;
    for (uint32_t c = 0; c < r->object->manifest.count; c++) {
        bool older = look_up(r->vined, r->object, c, &found) && found.older;
        if (store_has_chunk(r->object, c))
            *(older ? &r->bytes : &r->bytes_parts) +=
                r->object->manifest.chunk[c].length;
    }
}

static void start(struct vined *vined, void *arg)
{
    struct reuse *r = arg;

    r->object = vined->stopping ? NULL : store_find(vined->store, &r->digest);
    if (r->object == NULL) { /* removed again */
        free(r);
        return;
    }
    store_get(r->object);
    if (r->object->adopted)
        count_adopted(r);
    go_on(vined, r);
}

void reuse_begin(struct vined *vined, const struct vine_digest *digest, bool proved)
{
    struct reuse *r = calloc(1, sizeof(*r));

    if (r == NULL)
        return; /* the core's deadline speaks */
    r->vined = vined;
    r->digest = *digest;
    r->proved = proved;
    vined_defer(vined, start, r);
}

static void after_take(uv_work_t *work, int status)
{
    struct batch *b = work->data;
    bool took = b->count == b->run.count;

    for (uint32_t i = 0; i < b->count; i++) {
        took &= b->chunk[i].code == VINE_OK;
        if (b->chunk[i].code != VINE_OK)
            not_taken(b->vined, &b->chunk[i]);
    }
    if (!b->vined->stopping && !b->object->removed)
        transfer_took_older(b->vined, b->transfer, b->object, b->run, took);
    batch_free(b);
}

void reuse_take(struct vined *vined, uint64_t id, struct store_object *object,
                struct chunk_run run)
{
    struct batch *b = run.count <= BATCH_CHUNKS ? batch_new(vined, object) : NULL;

    if (b == NULL) {
        fetch_took_older(vined, id, run, false);
        return;
    }
    b->transfer = id;
    b->run = run;
    while (b->count < run.count &&
           look_up(vined, object, run.first + b->count, &b->chunk[b->count]))
        store_get(b->chunk[b->count++].from);
    (void)uv_queue_work(&vined->loop, &b->work, run_batch, after_take);
}
