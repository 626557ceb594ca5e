/* node_object.c - the node's objects: space, publishing, mounts, eviction.
 *
 * Space: an object counts with its whole size from before its first byte, a build with
 * its estimate until it is an object. What does not fit makes room by removing the
 * least recently used objects without a lease; if all of them together would not do,
 * nothing is removed and the error gives the figures. Leased objects never go.
 *
 * What must hold: store_used is the sum of all sizes and reservations; leases is the
 * number of sources bound to the object; an object that is neither leased nor streamed
 * has no transfers. */
#include <stdio.h>
#include <string.h>

#include "daemon/core/node_int.h"

struct node_object *node_object_find(const struct node *node,
                                     const struct vine_digest *digest)
{
    struct table_link *l = table_find(&node->objects, hash_digest(digest));

    for (; l != NULL; l = table_next_same(l)) {
        struct node_object *o = table_entry(l, struct node_object, link);
        if (vine_digest_equal(&o->digest, digest))
            return o;
    }
    return NULL;
}

int node_object_check(const struct node_object *o, uint64_t size, uint32_t pieces,
                      struct vine_err *err)
{
    char hex[VINE_HEX_LEN + 1];

    if (o->size == size && o->pieces == pieces)
        return 0;
    vine_digest_hex(&o->digest, hex);
    return vine_err_set(
        err, VINE_EPROTO, "object %.8s has %llu bytes in %u pieces, not %llu in %u",
        hex, (unsigned long long)o->size, o->pieces, (unsigned long long)size, pieces);
}

struct node_object *node_object_new(struct node *node, const struct vine_digest *digest,
                                    uint64_t size, uint32_t pieces, bool trusted)
{
    struct node_object *o = calloc(1, sizeof(*o));

    if (o == NULL || (o->have = bits_new(pieces)) == NULL) {
        free(o);
        return NULL;
    }
    o->digest = *digest;
    o->size = size;
    o->pieces = pieces;
    o->trusted = trusted;
    o->last_used_ms = node->now_ms;
    o->next = node->first_object;
    if (o->next != NULL)
        o->next->prev = o;
    node->first_object = o;
    table_add(&node->objects, &o->link, hash_digest(digest));
    node->store_used += size;
    return o;
}

void node_object_free(struct node *node, struct node_object *o)
{
    node_transfer_cancel_all(node, o);
    node_have_forget_untold(node, o);
    node_reuse_end(node, o);
    node_part_forget(node, o);
    while (o->mounts != NULL) {
        struct mount *m = o->mounts;
        o->mounts = m->next;
        free(m);
    }
    node->store_used -= o->size;
    table_remove(&node->objects, &o->link);
    *(o->prev != NULL ? &o->prev->next : &node->first_object) = o->next;
    if (o->next != NULL)
        o->next->prev = o->prev;
    node_lazy_free(o);
    node_story_forget(o);
    free(o->missing);
    free(o->have);
    free(o);
}

void node_object_evict(struct node *node, struct node_object *o)
{
    struct msg m = {.type = MSG_EVICTED, .digest = o->digest};
    char hex[VINE_HEX_LEN + 1];

    vine_digest_hex(&o->digest, hex);
    node_log(node, VINE_LOG_INFO, "event=evicted object=%.8s bytes=%llu", hex,
             (unsigned long long)o->size);
    node_transfer_cancel_all(node, o);
    node_send(node, &m);
    node->ops.remove(node->ctx, &m.digest);
    node_object_free(node, o);
}

static bool is_evictable(const struct node_object *o)
{
    if (o->leases > 0 || o->transfers != NULL || o->stream != NULL ||
        o->state == OBJECT_PUBLISHING || o->reuse == REUSE_RUNNING)
        return false;
    for (const struct mount *m = o->mounts; m != NULL; m = m->next)
        if (!m->mounted)
            return false;
    return true;
}

/* What was used before this start is older than all that was used since. */
static bool used_before(const struct node_object *a, const struct node_object *b)
{
    if (a->restored != b->restored)
        return a->restored;
    return a->last_used_ms < b->last_used_ms;
}

static struct node_object *oldest_evictable(const struct node *node)
{
    struct node_object *oldest = NULL;

    for (struct node_object *o = node->first_object; o != NULL; o = o->next)
        if (is_evictable(o) && (oldest == NULL || used_before(o, oldest)))
            oldest = o;
    return oldest;
}

/* "4.4 GB", "512 MB": decimal units, as disks are sold. */
static const char *size_text(uint64_t bytes, char text[32])
{
    static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB", "PB"};
    double value = (double)bytes;
    int unit = 0;

    for (; value >= 999.5 && unit < 5; unit++)
        value /= 1000;
    (void)snprintf(text, 32, unit == 0 || value >= 99.95 ? "%.0f %s" : "%.1f %s", value,
                   units[unit]);
    return text;
}

int node_store_fits(const struct node *node, uint64_t bytes, unsigned sources,
                    struct vine_err *err)
{
    char needed[32], room[32];

    if (bytes <= node->limits.cache_max)
        return 0;
    return vine_err_set(err, VINE_ENOSPC,
                        "the job's %u sources need %s together, store '%s' holds %s: "
                        "raise cache_max or name less",
                        sources, size_text(bytes, needed), node->store_name,
                        size_text(node->limits.cache_max, room));
}

int node_store_admit(struct node *node, uint64_t bytes, const char *what,
                     struct vine_err *err)
{
    uint64_t max = node->limits.cache_max, fixed = node->store_used;
    char missing[32], wanted[32];

    for (const struct node_object *o = node->first_object; o != NULL; o = o->next)
        if (is_evictable(o))
            fixed -= o->size;
    if ((bytes > max || fixed > max - bytes) && node_parts_yield(node))
        return node_store_admit(node, bytes, what, err);
    if (bytes > max || fixed > max - bytes)
        return vine_err_set(
            err, VINE_ENOSPC,
            "store '%s' is %s short for %s (%s): raise cache_max or evict",
            node->store_name, size_text(fixed + bytes - max, missing), what,
            size_text(bytes, wanted));
    while (node->store_used > max - bytes)
        node_object_evict(node, oldest_evictable(node));
    return 0;
}

int node_object_get(struct node *node, const struct vine_digest *digest, uint64_t size,
                    uint32_t pieces, bool trusted, struct node_object **out,
                    struct vine_err *err)
{
    struct node_object *o = node_object_find(node, digest);
    char hex[VINE_HEX_LEN + 1], what[32];

    if (o == NULL) {
        if (pieces == 0 || pieces > VINE_PIECES_MAX || size > VINE_OBJECT_MAX)
            return vine_err_set(err, VINE_EPROTO, "an object of %u pieces", pieces);
        vine_digest_hex(digest, hex);
        (void)snprintf(what, sizeof(what), "object %.8s", hex);
        if (node_store_admit(node, size, what, err) < 0)
            return -1;
        if (node->objects.count >= VINE_OBJECTS_MAX) {
            struct node_object *oldest = oldest_evictable(node);
            if (oldest == NULL)
                return vine_err_set(err, VINE_ELIMIT,
                                    "store '%s' has %d objects, all in use",
                                    node->store_name, VINE_OBJECTS_MAX);
            node_object_evict(node, oldest);
        }
        o = node_object_new(node, digest, size, pieces, false);
        if (o == NULL)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
    } else if (node_object_check(o, size, pieces, err) < 0) {
        return -1;
    }
    o->trusted |= trusted;
    *out = o;
    return 0;
}

void node_object_add_key(struct node_object *o, const struct vine_digest *key)
{
    uint32_t i = 0;

    while (i < o->key_count && !vine_digest_equal(&o->keys[i], key))
        i++;
    if (i == VINE_KEYS_MAX)
        i = 0; /* the oldest */
    if (i < o->key_count) {
        memmove(&o->keys[i], &o->keys[i + 1],
                (o->key_count - i - 1) * sizeof(o->keys[0]));
        o->key_count--;
    }
    o->keys[o->key_count++] = *key;
}

bool node_object_has(const struct node_object *o, uint32_t piece)
{
    return piece < o->pieces &&
           (o->state == OBJECT_COMPLETE || bits_get(o->have, piece));
}

void node_object_used(struct node *node, struct node_object *o)
{
    o->restored = false;
    o->last_used_ms = node->now_ms;
}

void node_object_set_complete(struct node *node, struct node_object *o)
{
    node_transfer_cancel_all(node, o);
    node_reuse_end(node, o);
    o->state = OBJECT_COMPLETE;
    o->complete_ms = node->now_ms;
    o->have_count = o->pieces;
    o->bytes_here = o->size;
    for (uint32_t i = 0; i < bits_words(o->pieces); i++)
        o->have[i] = bits_full_word(o->pieces, i);
    o->local_fails = 0;
    if (o->retry_ms != 0) /* the manager told of a failure, and forgot these */
        node_job_want_claims(node, o);
    node_lazy_complete(o);
}

struct mount *node_mount_find(const struct node_object *o, uint32_t uid)
{
    struct mount *m = o->mounts;

    while (m != NULL && m->uid != uid)
        m = m->next;
    return m;
}

struct mount *node_mount_new(struct node_object *o, uint32_t uid)
{
    struct mount *m = calloc(1, sizeof(*m));

    if (m == NULL)
        return NULL;
    m->uid = uid;
    m->next = o->mounts;
    o->mounts = m;
    return m;
}

static void mount_begin(struct node *node, struct node_object *o, uint32_t uid)
{
    struct vine_err err = {0};

    if (node_mount_find(o, uid) != NULL)
        return;
    if (node_mount_new(o, uid) == NULL) {
        vine_err_set(&err, VINE_ENOMEM, "out of memory");
        node_clients_mount_failed(node, o, uid, &err);
        return;
    }
    node->ops.mount(node->ctx, &o->digest, uid, o->trusted);
}

/* Mounts for all who lease it: the first step of a job need not wait for one then. */
static void mount_for_leases(struct node *node, struct node_object *o)
{
    for (struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (struct job_source *s = job->sources; s != NULL; s = s->next)
            if (s->object == o && !job->staged)
                mount_begin(node, o, node_source_mount_uid(s));
}

void node_object_advance(struct node *node, struct node_object *o)
{
    if (o->state == OBJECT_PARTIAL && node_object_has(o, 0))
        node_reuse_begin(node, o);
    if (o->state == OBJECT_PARTIAL && o->have_count == o->pieces) {
        o->state = OBJECT_PUBLISHING;
        node->ops.publish(node->ctx, &o->digest, o->trusted);
    }
    if (o->state == OBJECT_COMPLETE) {
        mount_for_leases(node, o);
        node_story_settle(node, o);
        node_parts_arrived(node, o);
    }
    if (o->state == OBJECT_PARTIAL)
        node_lazy_advance(node, o);
    node_clients_check(node);
}

/* The manager is to send no pieces of it here. (EVICTED would not do: it may cross a
 * binding, and then means that the pieces are wanted anew.) This may cross another
 * binding as well: who gets one asks again, see node_job_binding. */
void node_object_refuse(struct node *node, const struct vine_digest *digest,
                        uint32_t pieces, enum vine_code code)
{
    struct msg_range all = {0, pieces};
    struct msg m = {.type = MSG_FAILED,
                    .digest = *digest,
                    .ranges = &all,
                    .range_count = 1,
                    .code = code};

    node->refused[node->refused_count++ % NODE_REFUSED_MAX] = *digest;
    node_send(node, &m);
}

bool node_object_was_refused(struct node *node, const struct vine_digest *digest)
{
    static const struct vine_digest none;
    bool found = false;

    for (uint32_t i = 0; i < NODE_REFUSED_MAX; i++)
        if (vine_digest_equal(&node->refused[i], digest)) {
            node->refused[i] = none;
            found = true;
        }
    return found;
}

/* Each source that leases it fails. The object itself stays. */
static void leases_fail(struct node *node, struct node_object *o,
                        const struct vine_err *err)
{
    for (struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (struct job_source *s = job->sources; s != NULL; s = s->next)
            if (s->object == o)
                node_source_failed(node, s, err);
}

void node_object_failed(struct node *node, struct node_object *o,
                        const struct vine_err *err)
{
    char hex[VINE_HEX_LEN + 1];
    struct vine_digest digest = o->digest;

    vine_digest_hex(&digest, hex);
    node_log(node, VINE_LOG_ERR, "event=object-failed object=%.8s reason=\"%s\"", hex,
             err->text);
    if (o->stream != NULL)
        node_origin_fail(node, o->stream, err);
    node_object_refuse(node, &digest, o->pieces, err->code);
    leases_fail(node, o, err);
    if (o->state == OBJECT_PARTIAL)
        node_object_evict(node, o);
    node_clients_check(node);
}

void node_published(struct node *node, const struct vine_digest *digest,
                    const struct vine_err *err, uint64_t now_ms)
{
    struct node_object *o = node_object_find(node, digest);
    char hex[VINE_HEX_LEN + 1];

    node_time(node, now_ms);
    if (o == NULL || o->state != OBJECT_PUBLISHING)
        return;
    o->state = OBJECT_PARTIAL;
    if (err != NULL && err->code != VINE_OK) {
        node_object_failed(node, o, err);
        return;
    }
    node_object_set_complete(node, o);
    node_object_used(node, o);
    vine_digest_hex(&o->digest, hex);
    node_log(node, VINE_LOG_INFO,
             "event=complete object=%.8s bytes=%llu bytes_peer=%llu bytes_origin=%llu "
             "bytes_reused=%llu",
             hex, (unsigned long long)o->size, (unsigned long long)o->bytes_peer,
             (unsigned long long)o->bytes_origin, (unsigned long long)o->bytes_reused);
    for (uint32_t i = 0; i < o->key_count; i++)
        node->ops.remember_key(node->ctx, &o->digest, &o->keys[i]);
    if (o->stream != NULL)
        node_origin_streamed(node, o->stream);
    node->ops.save(node->ctx);
    node_object_advance(node, o);
    node_part_check(node, o);
}

void node_mount_free(struct node_object *o, struct mount *gone)
{
    struct mount **at = &o->mounts;

    while (*at != gone)
        at = &(*at)->next;
    *at = gone->next;
    free(gone);
}

void node_mounted(struct node *node, const struct vine_digest *digest,
                  uint32_t mount_uid, const struct vine_err *err, uint64_t now_ms)
{
    struct node_object *o = node_object_find(node, digest);
    struct mount *m = o == NULL ? NULL : node_mount_find(o, mount_uid);

    node_time(node, now_ms);
    if (m == NULL || m->mounted)
        return;
    if (err != NULL && err->code != VINE_OK) {
        node_mount_free(o, m);
        node_clients_mount_failed(node, o, mount_uid, err);
    } else {
        m->mounted = true;
        node_object_used(node, o);
    }
    node_clients_check(node);
}

void node_unmounted(struct node *node, const struct vine_digest *digest,
                    uint32_t mount_uid, uint64_t now_ms)
{
    struct node_object *o = node_object_find(node, digest);
    struct mount *m = o == NULL ? NULL : node_mount_find(o, mount_uid);

    node_time(node, now_ms);
    if (m == NULL || !m->mounted)
        return;
    node_mount_free(o, m);
    if (o->lazy_leaving) {
        o->lazy_leaving = false;
        node_object_advance(node, o);
    }
}

int node_evict(struct node *node, const struct vine_digest *digest, uint64_t now_ms,
               struct vine_err *err)
{
    struct node_object *o = node_object_find(node, digest);
    char hex[VINE_HEX_LEN + 1];

    node_time(node, now_ms);
    vine_digest_hex(digest, hex);
    if (o == NULL)
        return vine_err_set(err, VINE_ENOENT, "object %.8s is not in the store", hex);
    if (!is_evictable(o))
        return vine_err_set(err, VINE_ELIMIT, "object %.8s is in use by %u source(s)",
                            hex, o->leases);
    node_object_evict(node, o);
    return 0;
}

int node_restore_object(struct node *node, const struct msg_object *object,
                        const bool *have, uint64_t last_used_ms, struct vine_err *err)
{
    struct node_object *o;

    if (object->pieces == 0 || object->pieces > VINE_PIECES_MAX ||
        object->size > VINE_OBJECT_MAX)
        return vine_err_set(err, VINE_EINVAL, "an object of %u pieces", object->pieces);
    if (node_object_find(node, &object->digest) != NULL)
        return vine_err_set(err, VINE_EINVAL, "an object is restored twice");
    if (node->objects.count >= VINE_OBJECTS_MAX)
        return vine_err_set(err, VINE_ELIMIT, "more than %d objects", VINE_OBJECTS_MAX);
    o = node_object_new(node, &object->digest, object->size, object->pieces,
                        object->trusted);
    if (o == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    o->restored = true;
    o->last_used_ms = last_used_ms;
    for (uint32_t i = 0; i < object->key_count && i < VINE_KEYS_MAX; i++)
        node_object_add_key(o, &object->keys[i]);
    if (object->complete)
        node_object_set_complete(node, o);
    for (uint32_t p = 0; !object->complete && have != NULL && p < o->pieces; p++)
        if (have[p]) {
            bits_set(o->have, p);
            o->have_count++;
            o->bytes_here += p > 0 ? node_reuse_missing(o, p) : 0;
        }
    return 0;
}
