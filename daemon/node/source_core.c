/* source_core.c - this node as origin: the core's tickets and the sources behind them.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/node/source.h"
#include "vine/log.h"

struct origin {
    uint64_t ticket;
    struct source *source;
    struct vined *vined;
    bool told; /* the core has had its answer to source_resolve */
    struct origin *next;
};

struct sources {
    struct origin *first;
};

struct late_failure { /* told to the core, not from inside its own op */
    uint64_t ticket;
    bool building;
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

static void tell_failure(struct vined *vined, void *arg)
{
    struct late_failure *late = arg;
    uint64_t now = vined_now(vined);

    if (!vined->stopping && late->building)
        node_source_built(vined->core, late->ticket, NULL, &late->err, now);
    else if (!vined->stopping)
        node_source_resolved(vined->core, late->ticket, NULL, &late->err, now);
    vined_update(vined);
    free(late);
}

static void fail_later(struct vined *vined, uint64_t ticket, bool building,
                       const struct vine_err *err)
{
    struct late_failure *late = calloc(1, sizeof(*late));

    if (late == NULL)
        return; /* the manager's deadline speaks */
    late->ticket = ticket;
    late->building = building;
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

/* An image a user brought. What on_built gets from a directory or an archive our own
 * builder made; nothing else that a child says makes an object trusted. */
static bool trusted_image(const struct source *s)
{
    return s->vined->conf.trust_user_images || signature_ok(s);
}

static void on_resolved(void *ctx, struct source *s)
{
    struct origin *o = ctx;
    struct node_resolved r = {
        .key = s->key,
        .estimate = s->estimate,
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
             (unsigned long long)s->ticket, vine_q(s->path),
             (unsigned long long)s->entries, (unsigned long long)s->bytes);
    o->told = true;
    node_source_resolved(s->vined->core, o->ticket, &r, NULL, vined_now(s->vined));
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
                    s->kind != SOURCE_IMAGE || vined->conf.trust_user_images, &stored,
                    &err) < 0) {
        node_source_built(vined->core, o->ticket, NULL, &err, vined_now(vined));
        vined_update(vined);
        return;
    }
    s->has_manifest = false; /* moved */
    store_add_key(vined->store, stored, &s->key);
    vined_sync_object(vined, stored);
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

static void on_chunk(void *ctx, struct source *s, uint64_t id, uint32_t chunk,
                     void *bytes, uint32_t length)
{
    transfer_chunk(s->vined, id, chunk, bytes, length);
}

static void on_progress(void *ctx, struct source *s, uint64_t bytes)
{
}

static void on_failed(void *ctx, struct source *s, const struct vine_err *err)
{
    struct origin *o = ctx;
    struct vined *vined = s->vined;

    vine_log(VINE_LOG_WARNING, "event=source-failed ticket=%llx path=%s reason=%s",
             (unsigned long long)o->ticket, vine_q(s->path), vine_q(err->text));
    if (s->building)
        node_source_built(vined->core, o->ticket, NULL, err, vined_now(vined));
    else if (o->told)
        transfers_fail_origin(vined, o->ticket, err);
    else
        node_source_resolved(vined->core, o->ticket, NULL, err, vined_now(vined));
    vined_update(vined);
}

static const struct source_ops origin_ops = {
    .resolved = on_resolved,
    .built = on_built,
    .chunk = on_chunk,
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
    o->source = source_new(vined, ticket, uid, gid, path, &origin_ops, o, &err);
    if (o->source == NULL) {
        free(o);
        fail_later(vined, ticket, false, &err);
        return;
    }
    o->next = vined->sources->first;
    vined->sources->first = o;
}

void source_build(struct vined *vined, uint64_t ticket)
{
    struct origin *o = find(vined, ticket);
    struct vine_err err = {0};

    if (o == NULL)
        vine_err_set(&err, VINE_EDOWN, "the source is not open any more");
    if (o == NULL || source_begin_build(o->source, &err) < 0)
        fail_later(vined, ticket, true, &err);
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
    struct vine_err err = {0};
    uint32_t first, count;

    if (o == NULL || !o->source->has_manifest || o->source->failed ||
        !vine_digest_equal(&o->source->manifest.digest, digest)) {
        vine_err_set(&err, VINE_EDOWN, "the source is not open any more");
    } else if (range.first == 0) {
        if (transfer_expect_manifest(vined, id, &err) == 0 &&
            fetch_manifest(o, id, &err) == 0)
            return;
    } else if (transfer_begin(vined, id, digest, range, &err) == 0) {
        transfer_set_origin(vined, id, ticket);
        (void)transfer_chunks(vined, id, &first, &count);
        if (source_copy(o->source, id, first, count, &err) == 0)
            return;
        transfer_end(vined, id, NULL);
    }
    transfer_end_later(vined, id, &err);
}

void source_remember_key(struct vined *vined, struct store_object *object)
{
    for (struct origin *o = vined->sources->first; o != NULL; o = o->next)
        if (o->source->has_manifest &&
            vine_digest_equal(&o->source->manifest.digest, &object->manifest.digest))
            store_add_key(vined->store, object, &o->source->key);
}

void sources_stop(struct vined *vined)
{
    while (vined->sources->first != NULL) {
        struct origin *o = vined->sources->first;
        vined->sources->first = o->next;
        free_origin(vined, o);
    }
}
