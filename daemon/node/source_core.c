/* source_core.c - this node as origin: the core's tickets and the sources behind them.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/node/source.h"
#include "vine/log.h"

enum question { ASKED_NONE, ASKED_KEY, ASKED_OPEN, ASKED_PROOF, ASKED_BUILD };

struct origin {
    uint64_t ticket;
    struct source *source;
    struct vined *vined;
    enum question asked; /* the core's, to be answered */
    struct origin *next;
    struct source_parts parts;
};

struct sources {
    struct origin *first;
};

struct late_failure { /* told to the core, not from inside its own op */
    uint64_t ticket;
    enum question asked;
    struct vine_err err;
};

int sources_start(struct vined *vined, struct vine_err *err)
{
    vined->sources = calloc(1, sizeof(*vined->sources));
    if (vined->sources == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    return 0;
}

static struct origin *find(struct vined *vined, uint64_t ticket)
{
    struct origin *o = vined->sources->first;

    while (o != NULL && o->ticket != ticket)
        o = o->next;
    return o;
}

struct source_parts *source_parts_of(struct vined *vined, uint64_t ticket,
                                     const struct source **source)
{
    struct origin *o = find(vined, ticket);

    if (o == NULL)
        return NULL;
    *source = o->source;
    return &o->parts;
}

static void answer_failure(struct vined *vined, uint64_t ticket, enum question asked,
                           const struct vine_err *err)
{
    uint64_t now = vined_now(vined);

    switch (asked) {
    case ASKED_KEY:
        node_source_resolved(vined->core, ticket, NULL, err, now);
        break;
    case ASKED_OPEN:
        node_source_opened(vined->core, ticket, NULL, err, now);
        break;
    case ASKED_PROOF:
        node_source_proved(vined->core, ticket, err, now);
        break;
    case ASKED_BUILD:
        node_source_built(vined->core, ticket, NULL, err, now);
        break;
    default:
        transfers_fail_origin(vined, ticket, err);
    }
}

static void tell_failure(struct vined *vined, void *arg)
{
    struct late_failure *late = arg;

    if (!vined->stopping)
        answer_failure(vined, late->ticket, late->asked, &late->err);
    vined_update(vined);
    free(late);
}

static void fail_later(struct vined *vined, uint64_t ticket, enum question asked,
                       const struct vine_err *err)
{
    struct late_failure *late = calloc(1, sizeof(*late));

    if (late == NULL)
        return; /* the manager's deadline speaks */
    late->ticket = ticket;
    late->asked = asked;
    late->err = *err;
    vined_defer(vined, tell_failure, late);
}

static bool signature_ok(const struct source *s)
{
    const struct vined *vined = s->vined;

    return s->is_signed && vined->image_key_len > 0 &&
           image_signature_valid(vined->image_key, vined->image_key_len,
                                 &s->manifest.digest, &s->signature);
}

/* An image a user brought: its manifest, made here or proved, is what was signed. What
 * on_built gets from a directory or an archive our own builder made, and a file of data
 * is no image; nothing else that a child says makes an object trusted. */
static bool trusted_image(const struct source *s)
{
    return s->vined->conf.trust_user_images || signature_ok(s);
}

static void on_resolved(void *ctx, struct source *s)
{
    struct origin *o = ctx;
    bool opened = o->asked == ASKED_OPEN;
    struct node_resolved r = {
        .key = s->key,
        .estimate = s->estimate,
        .least = s->kind == SOURCE_IMAGE || s->kind == SOURCE_FILE ? s->estimate : 0,
        .unopened = s->unopened,
        .has_manifest = s->has_manifest,
        .trusted = s->has_manifest && trusted_image(s),
    };

    if (s->has_manifest) {
        r.digest = s->manifest.digest;
        r.size = s->manifest.size;
        r.pieces = manifest_pieces(&s->manifest);
    }
    vine_log(VINE_LOG_INFO,
             "event=resolved ticket=%llx path=%s entries=%llu bytes=%llu",
             (unsigned long long)s->ticket, vine_q(s->shown),
             (unsigned long long)s->entries, (unsigned long long)s->bytes);
    o->asked = ASKED_NONE;
    if (opened)
        node_source_opened(s->vined->core, o->ticket, &r, NULL, vined_now(s->vined));
    else
        node_source_resolved(s->vined->core, o->ticket, &r, NULL, vined_now(s->vined));
    vined_update(s->vined);
}

static void on_proved(void *ctx, struct source *s)
{
    struct origin *o = ctx;

    vine_log(VINE_LOG_INFO, "event=proved ticket=%llx path=%s bytes=%llu",
             (unsigned long long)s->ticket, vine_q(s->shown),
             (unsigned long long)s->manifest.size);
    o->asked = ASKED_NONE;
    node_source_proved(s->vined->core, o->ticket, NULL, vined_now(s->vined));
    vined_update(s->vined);
}

static void on_built(void *ctx, struct source *s)
{
    struct origin *o = ctx;
    struct vined *vined = s->vined;
    struct store_object *stored = NULL;
    struct vine_err err = {0};
    struct msg_object object;

    if (store_adopt(vined->store, s->temp_name, &s->manifest,
                    s->kind != SOURCE_IMAGE || trusted_image(s), &stored, &err) < 0) {
        node_source_built(vined->core, o->ticket, NULL, &err, vined_now(vined));
        vined_update(vined);
        return;
    }
    s->has_manifest = false; /* moved */
    stored->same_files = s->same_files;
    stored->same_bytes = s->same_bytes;
    vined->same_files += s->same_files;
    vined->same_bytes += s->same_bytes;
    store_add_key(vined->store, stored, &s->key);
    lazy_published(vined, stored); /* perhaps it was being fetched too */
    sync_object(vined, stored);
    object = (struct msg_object){.digest = stored->manifest.digest,
                                 .size = stored->manifest.size,
                                 .pieces = stored->pieces,
                                 .complete = true,
                                 .trusted = stored->trusted,
                                 .key_count = 1,
                                 .keys = &s->key};
    node_source_built(vined->core, o->ticket, &object, NULL, vined_now(vined));
    vined_update(vined);
}

static void on_chunks(void *ctx, struct source *s, uint64_t id, struct chunk_run run,
                      void *bytes, uint32_t length)
{
    transfer_take(s->vined, id, run, bytes, length);
}

static void on_progress(void *ctx, struct source *s, uint64_t bytes)
{
    struct origin *o = ctx;

    node_source_building(s->vined->core, o->ticket, bytes, s->bytes,
                         vined_now(s->vined));
    source_parts_look(s->vined, &o->parts, s);
    vined_update(s->vined);
}

static void on_failed(void *ctx, struct source *s, const struct vine_err *err)
{
    struct origin *o = ctx;
    struct vined *vined = s->vined;

    vine_log(VINE_LOG_WARNING, "event=source-failed ticket=%llx path=%s reason=%s",
             (unsigned long long)o->ticket, vine_q(s->shown), vine_q(err->text));
    answer_failure(vined, o->ticket, o->asked, err);
    vined_update(vined);
}

static const struct source_ops origin_ops = {
    .resolved = on_resolved,
    .built = on_built,
    .proved = on_proved,
    .chunks = on_chunks,
    .progress = on_progress,
    .failed = on_failed,
};

void source_resolve(struct vined *vined, uint64_t ticket, uint32_t uid, uint32_t gid,
                    const char *path)
{
    struct origin *o = calloc(1, sizeof(*o));
    struct vine_err err = {0};

    if (o == NULL)
        return; /* the manager's deadline speaks */
    o->ticket = ticket;
    o->vined = vined;
    o->asked = ASKED_KEY;
    o->source =
        source_new(vined, ticket, uid, gid, path, true, &origin_ops, o, NULL, &err);
    if (o->source == NULL) {
        free(o);
        fail_later(vined, ticket, ASKED_KEY, &err);
        return;
    }
    o->source->incremental = true;
    o->next = vined->sources->first;
    vined->sources->first = o;
}

/* One step of the source's life, begun; its end answers the core. */
static void begin(struct vined *vined, uint64_t ticket, enum question asked,
                  int (*step)(struct source *s, struct vine_err *err))
{
    struct origin *o = find(vined, ticket);
    struct vine_err err = {0};

    if (o == NULL || o->source->failed) {
        vine_err_set(&err, VINE_EDOWN, "the source is not open any more");
    } else {
        o->asked = asked;
        if (step(o->source, &err) == 0)
            return;
        o->asked = ASKED_NONE;
    }
    fail_later(vined, ticket, asked, &err);
}

void source_open(struct vined *vined, uint64_t ticket)
{
    begin(vined, ticket, ASKED_OPEN, source_look);
}

void source_prove(struct vined *vined, uint64_t ticket)
{
    begin(vined, ticket, ASKED_PROOF, source_begin_proof);
}

void source_build(struct vined *vined, uint64_t ticket)
{
    begin(vined, ticket, ASKED_BUILD, source_begin_build);
}

static void free_origin(struct vined *vined, void *arg)
{
    struct origin *o = arg;

    source_free(o->source);
    free(o);
}

void source_close(struct vined *vined, uint64_t ticket)
{
    struct origin *o = find(vined, ticket), **at = &vined->sources->first;

    if (o == NULL)
        return;
    while (*at != o)
        at = &(*at)->next;
    *at = o->next;
    /* We may be inside one of its events. */
    vined_defer(vined, free_origin, o);
}

struct late_manifest {
    uint64_t id;
    struct vine_digest digest;
    size_t len;
    uint8_t bytes[];
};

static void give_manifest(struct vined *vined, void *arg)
{
    struct late_manifest *late = arg;

    if (!vined->stopping)
        transfer_manifest(vined, late->id, &late->digest, late->bytes, late->len);
    free(late);
}

static int fetch_manifest(struct origin *o, uint64_t id, struct vine_err *err)
{
    const struct manifest *m = &o->source->manifest;
    size_t len = manifest_encoded_size(m->count);
    struct late_manifest *late = malloc(sizeof(*late) + len);

    if (late == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    late->id = id;
    late->digest = m->digest;
    late->len = len;
    manifest_encode(m, late->bytes);
    vined_defer(o->vined, give_manifest, late);
    return 0;
}

void source_fetch(struct vined *vined, uint64_t id, const struct vine_digest *digest,
                  uint64_t ticket, struct msg_range range)
{
    struct origin *o = find(vined, ticket);
    struct chunk_run runs[TRANSFER_RUNS_MAX];
    struct vine_err err = {0};
    uint32_t count;
    int result = 0;

    if (o == NULL || !o->source->has_manifest || o->source->failed ||
        !vine_digest_equal(&o->source->manifest.digest, digest)) {
        vine_err_set(&err, VINE_EDOWN, "the source is not open any more");
    } else if (range.first == 0) {
        if (transfer_expect_manifest(vined, id, &err) == 0 &&
            fetch_manifest(o, id, &err) == 0)
            return;
    } else if (transfer_begin(vined, id, digest, range, &err) == 0) {
        transfer_set_origin(vined, id, ticket);
        count = transfer_runs(vined, id, runs);
        for (uint32_t i = 0; i < count && result == 0; i++)
            result = source_copy(o->source, id, runs[i].first, runs[i].count, &err);
        if (result == 0)
            return;
        transfer_end(vined, id, NULL);
    }
    transfer_end_later(vined, id, &err);
}

void sources_stop(struct vined *vined)
{
    while (vined->sources->first != NULL) {
        struct origin *o = vined->sources->first;
        vined->sources->first = o->next;
        free_origin(vined, o);
    }
}
