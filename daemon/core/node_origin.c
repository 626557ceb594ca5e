/* node_origin.c - this node as origin: the manager's tickets, builds, streams.
 *
 * RESOLVE gives a key. Of an image file that is all at first: if the cluster knows the
 * key, nobody need look into the file. Else BUILD looks: what is packed is told with a
 * second RESOLVED, and then streamed (BUILD) or read once for comparison (PROVE); what
 * is not is built.
 *
 * What a job names is looked at as a whole: of sources that this node resolves at the
 * same time for one job none is told before all are resolved, and if they could not be
 * in the store together all are refused, before a byte of any is read. (What another
 * node resolves is not waited for: two nodes could wait for each other.)
 *
 * A ticket belongs to a job that this node has itself: when the job ends here, so does
 * the ticket. When the manager is lost, what was not begun is closed; a build or a
 * stream goes on without anybody to report to, and is taken up again when the next
 * manager asks for the same job's same source. Our ids name tickets towards the edge,
 * since the next manager's numbers may repeat. */
#include <stdio.h>
#include <string.h>

#include "daemon/core/node_int.h"

#define BUILDING_MS 1000u /* the manager is told of a build so often at most */

struct ticket *node_ticket_find(const struct node *node, uint64_t id)
{
    struct table_link *l = table_find(&node->tickets, hash_u64(id));

    return l == NULL ? NULL : table_entry(l, struct ticket, link);
}

static struct ticket *ticket_of_manager(const struct node *node, uint64_t mgr_ticket)
{
    struct ticket *t = node->first_ticket;

    while (t != NULL && t->mgr_ticket != mgr_ticket)
        t = t->next;
    return t;
}

static struct ticket *ticket_orphan(const struct node *node, const struct msg *m)
{
    struct ticket *t = node->first_ticket;

    while (t != NULL && (t->mgr_ticket != 0 || t->job != m->job || t->uid != m->uid ||
                         m->job == 0 || strcmp(t->path, m->path) != 0))
        t = t->next;
    return t;
}

/* gid: as the job told it here, not the manager. */
static struct ticket *ticket_new(struct node *node, const struct msg *m, uint32_t gid)
{
    struct ticket *t;

    if (node->tickets.count >= NODE_TICKETS_MAX)
        return NULL;
    t = calloc(1, sizeof(*t));
    if (t == NULL || (t->path = strdup(m->path)) == NULL) {
        free(t);
        return NULL;
    }
    t->id = ++node->last_id;
    t->mgr_ticket = m->ticket;
    t->job = m->job;
    t->uid = m->uid;
    t->gid = gid;
    t->next = node->first_ticket;
    if (t->next != NULL)
        t->next->prev = t;
    node->first_ticket = t;
    table_add(&node->tickets, &t->link, hash_u64(t->id));
    return t;
}

static void origin_transfers_cancel(struct node *node, struct ticket *t)
{
    struct transfer *next;

    for (struct transfer *f = node->first_transfer; f != NULL; f = next) {
        next = f->next;
        if (f->origin == t)
            node_transfer_cancel(node, f);
    }
}

void node_ticket_free(struct node *node, struct ticket *t)
{
    origin_transfers_cancel(node, t);
    node_ticket_parts_drop(node, t);
    node->ops.source_close(node->ctx, t->id);
    node->store_used -= t->admitted;
    if (t->object != NULL) {
        t->object->stream = NULL;
        if (t->object->leases == 0) /* what peers send beside it is for nobody */
            node_transfer_give_up(node, t->object);
    }
    table_remove(&node->tickets, &t->link);
    *(t->prev != NULL ? &t->prev->next : &node->first_ticket) = t->next;
    if (t->next != NULL)
        t->next->prev = t->prev;
    free(t->path);
    free(t);
}

static void send_resolved(struct node *node, uint64_t mgr_ticket,
                          const struct node_resolved *r, const struct vine_err *err)
{
    struct msg m = {.type = MSG_RESOLVED, .ticket = mgr_ticket, .text = ""};

    if (mgr_ticket == 0)
        return;
    if (err != NULL && err->code != VINE_OK) {
        m.code = err->code;
        m.text = err->text;
    } else {
        m.key = r->key;
        m.estimate = r->estimate;
        m.has_digest = r->has_manifest;
        m.digest = r->digest;
        m.size = r->size;
        m.pieces = r->pieces;
        m.trusted = r->trusted;
    }
    node_send(node, &m);
}

static void send_error(struct node *node, enum msg_type type, uint64_t mgr_ticket,
                       const struct vine_err *err)
{
    struct msg m = {
        .type = type, .ticket = mgr_ticket, .code = err->code, .text = err->text};

    if (mgr_ticket != 0)
        node_send(node, &m);
}

void node_origin_fail(struct node *node, struct ticket *t, const struct vine_err *err)
{
    node_log(node, VINE_LOG_WARNING,
             "event=origin-failed job=%llu code=%s reason=\"%s\"",
             (unsigned long long)t->job, vine_code_name(err->code), err->text);
    if (t->state == TICKET_RESOLVING || t->state == TICKET_RESOLVED)
        send_resolved(node, t->mgr_ticket, NULL, err);
    else
        send_error(node, t->state == TICKET_PROVING ? MSG_PROVED : MSG_BUILT,
                   t->mgr_ticket, err);
    node_ticket_free(node, t);
}

static bool is_resolving(const struct node *node, uint64_t job)
{
    for (const struct ticket *t = node->first_ticket; t != NULL; t = t->next)
        if (t->job == job && t->state == TICKET_RESOLVING && t->mgr_ticket != 0)
            return true;
    return false;
}

static const struct ticket *ticket_of_source(const struct node *node, uint64_t job,
                                             const char *path)
{
    const struct ticket *t = node->first_ticket;

    while (t != NULL && (t->job != job || strcmp(t->path, path) != 0))
        t = t->next;
    return t;
}

/* What the job's sources need, as far as it is known here. */
static int check_together(const struct node *node, uint64_t number,
                          struct vine_err *err)
{
    const struct node_job *job = node_job_find(node, number);
    uint64_t bytes = 0;
    unsigned count = 0;

    if (job == NULL)
        return 0;
    for (const struct job_source *s = job->sources; s != NULL; s = s->next) {
        const struct ticket *t = ticket_of_source(node, number, s->path);
        uint64_t needs = s->object != NULL ? s->object->size
                         : t != NULL       ? t->resolved.least
                                           : 0;
        bytes += needs;
        count += needs > 0;
    }
    return count > 1 ? node_store_fits(node, bytes, count, err) : 0;
}

/* Tell the manager of the job's sources, if no other is being looked at here. */
static void tell_resolved(struct node *node, uint64_t job)
{
    struct vine_err err = {0};
    struct ticket *next;

    if (is_resolving(node, job))
        return;
    (void)check_together(node, job, &err);
    for (struct ticket *t = node->first_ticket; t != NULL; t = next) {
        next = t->next;
        if (t->job != job || !t->untold)
            continue;
        t->untold = false;
        if (err.code != VINE_OK)
            node_origin_fail(node, t, &err);
        else
            send_resolved(node, t->mgr_ticket, &t->resolved, NULL);
    }
}

static int on_resolve(struct node *node, const struct msg *m, struct vine_err *err)
{
    const struct node_job *job = node_job_wants(node, m->job, m->uid, m->path);
    struct ticket *t;
    struct vine_err why = {0};

    if (m->ticket == 0 || ticket_of_manager(node, m->ticket) != NULL)
        return vine_err_set(err, VINE_EPROTO, "resolve: ticket %llu is in use",
                            (unsigned long long)m->ticket);
    if (job == NULL) {
        vine_err_set(&why, VINE_ECANCELED, "the job has ended on this node");
        send_resolved(node, m->ticket, NULL, &why);
        return 0;
    }
    t = ticket_orphan(node, m);
    if (t != NULL) {
        t->mgr_ticket = m->ticket;
        if (t->state != TICKET_RESOLVING)
            send_resolved(node, t->mgr_ticket, &t->resolved, NULL);
        return 0;
    }
    t = ticket_new(node, m, job->gid);
    if (t == NULL) {
        vine_err_set(&why, VINE_ENOMEM, "this node reads too many sources at once");
        send_resolved(node, m->ticket, NULL, &why);
        return 0;
    }
    node->ops.source_resolve(node->ctx, t->id, t->uid, t->gid, t->path);
    return 0;
}

static void build_begin(struct node *node, struct ticket *t)
{
    struct vine_err err = {0};

    t->state = TICKET_BUILDING;
    t->read = t->to_read = 0;
    if (node_store_admit(node, t->resolved.estimate, "an image being built", &err) <
        0) {
        node_origin_fail(node, t, &err);
        return;
    }
    t->build_ms = node->now_ms;
    t->admitted = t->resolved.estimate;
    node->store_used += t->admitted;
    node->ops.source_build(node->ctx, t->id);
}

void node_source_building(struct node *node, uint64_t ticket, uint64_t bytes,
                          uint64_t size, uint64_t now_ms)
{
    struct ticket *t = node_ticket_find(node, ticket);
    struct msg m = {.type = MSG_BUILDING, .size = size};

    node_time(node, now_ms);
    if (t == NULL || t->state != TICKET_BUILDING)
        return;
    t->to_read = size;
    t->read = m.offset = bytes < size ? bytes : size;
    m.ticket = t->mgr_ticket;
    if (m.ticket == 0 || size > VINE_OBJECT_MAX || now_ms - t->told_ms < BUILDING_MS)
        return;
    t->told_ms = now_ms;
    node_send(node, &m);
}

/* key: what the object was built from; a stream of what is here has read nothing. */
static void send_built(struct node *node, const struct ticket *t,
                       const struct node_object *o, const struct vine_digest *key)
{
    struct msg m = {.type = MSG_BUILT,
                    .ticket = t->mgr_ticket,
                    .has_digest = true,
                    .digest = o->digest,
                    .key = *key,
                    .size = o->size,
                    .pieces = o->pieces,
                    .trusted = o->trusted};

    node_send(node, &m);
}

static void stream_begin(struct node *node, struct ticket *t)
{
    const struct node_resolved *r = &t->resolved;
    struct vine_err err = {0};
    struct node_object *o;

    t->state = TICKET_STREAMING;
    if (node_object_get(node, &r->digest, r->size, r->pieces, r->trusted, &o, &err) <
        0) {
        node_origin_fail(node, t, &err);
        return;
    }
    if (o->have_count == o->pieces) {
        static const struct vine_digest no_key;
        send_built(node, t, o, &no_key);
        node_ticket_free(node, t);
        node_object_advance(node, o); /* if it is trusted since now: another mount */
        return;
    }
    if (o->stream != NULL) /* of a manager that is gone */
        node_ticket_free(node, o->stream);
    o->stream = t;
    o->part = false;
    t->object = o;
    /* Of a job before: nobody else has them to assign, so the manager would not ask. */
    if (o->have_count > 0)
        node_have_tell_all(node, o);
    node_origin_advance(node, t);
}

/* Ask for pieces of `among` (NULL: any) until `busy` reaches the window. */
static uint32_t stream_pieces(struct node *node, struct ticket *t,
                              const uint64_t *among, uint32_t busy)
{
    struct node_object *o = t->object;
    uint32_t window = node_object_has(o, 0) ? node->limits.origin_window : 1;
    uint32_t end = node_object_has(o, 0) ? o->pieces : 1;

    for (uint32_t p = 0; p < end && busy < window; p++) {
        struct transfer *f;
        if ((among != NULL && !bits_get(among, p)) || node_object_has(o, p) ||
            node_transfer_covers(o, p))
            continue;
        f = node_transfer_new(node, o, (struct msg_range){p, 1});
        if (f == NULL)
            return window;
        f->origin = t;
        busy++;
        node->ops.fetch_origin(node->ctx, f->id, &o->digest, t->id, f->range);
    }
    return busy;
}

/* Keep origin_window pieces on their way from the source: those that tasks wait for
 * before the others, or alone, and in ascending order. */
void node_origin_advance(struct node *node, struct ticket *t)
{
    struct node_object *o = t->object;
    uint32_t busy = 0;

    if (node_object_has(o, 0))
        node_reuse_begin(node, o);
    if (o->reuse == REUSE_RUNNING) /* what the store has is not read from the source */
        return;
    for (const struct transfer *f = o->transfers; f != NULL; f = f->object_next)
        busy += f->origin == t;
    if (o->first != NULL && node_object_has(o, 0))
        busy = stream_pieces(node, t, o->first, busy);
    if (!node_hold_stream(o) || !node_object_has(o, 0))
        (void)stream_pieces(node, t, NULL, busy);
}

static int on_build(struct node *node, const struct msg *m, struct vine_err *err)
{
    struct ticket *t = m->ticket == 0 ? NULL : ticket_of_manager(node, m->ticket);

    if (t == NULL) /* ended here while this was on its way */
        return 0;
    if (t->state == TICKET_RESOLVING)
        return vine_err_set(err, VINE_EPROTO, "build: ticket %llu is not resolved yet",
                            (unsigned long long)m->ticket);
    t->parts_wanted = m->parts;
    if (t->state != TICKET_RESOLVED) /* taken over from the manager before */
        return 0;
    if (t->resolved.unopened) {
        t->state = TICKET_OPENING;
        node->ops.source_open(node->ctx, t->id);
    } else if (t->resolved.has_manifest)
        stream_begin(node, t);
    else
        build_begin(node, t);
    return 0;
}

static void prove_begin(struct node *node, struct ticket *t)
{
    t->state = TICKET_PROVING;
    node->ops.source_prove(node->ctx, t->id);
}

static int on_prove(struct node *node, const struct msg *m, struct vine_err *err)
{
    struct ticket *t = m->ticket == 0 ? NULL : ticket_of_manager(node, m->ticket);

    if (t == NULL) /* ended here while this was on its way */
        return 0;
    if (!t->resolved.has_manifest)
        return vine_err_set(err, VINE_EPROTO, "prove: ticket %llu has no manifest",
                            (unsigned long long)m->ticket);
    if (t->state == TICKET_STREAMING) /* for the manager before: both at once stall */
        t->prove = true;
    else if (t->state == TICKET_RESOLVED)
        prove_begin(node, t);
    return 0;
}

static void on_close(struct node *node, const struct msg *m)
{
    struct ticket *t = m->ticket == 0 ? NULL : ticket_of_manager(node, m->ticket);
    uint64_t job;

    if (t == NULL)
        return;
    job = t->job;
    node_ticket_free(node, t);
    tell_resolved(node, job);
}

int node_origin_message(struct node *node, const struct msg *m, struct vine_err *err)
{
    switch (m->type) {
    case MSG_RESOLVE:
        return on_resolve(node, m, err);
    case MSG_BUILD:
        return on_build(node, m, err);
    case MSG_PROVE:
        return on_prove(node, m, err);
    default:
        on_close(node, m);
        return 0;
    }
}

void node_origin_job_gone(struct node *node, uint64_t job)
{
    struct ticket *next;

    for (struct ticket *t = node->first_ticket; t != NULL; t = next) {
        next = t->next;
        if ((t->job == job || t->job == 0) &&
            !node_job_wants(node, t->job, t->uid, t->path))
            node_ticket_free(node, t);
    }
}

void node_origin_manager_down(struct node *node)
{
    struct ticket *next;

    for (struct ticket *t = node->first_ticket; t != NULL; t = next) {
        next = t->next;
        t->mgr_ticket = 0;
        if (t->state == TICKET_RESOLVED || t->state == TICKET_OPENING ||
            t->state == TICKET_PROVING || t->job == 0)
            node_ticket_free(node, t);
    }
}

void node_source_resolved(struct node *node, uint64_t ticket,
                          const struct node_resolved *r, const struct vine_err *err,
                          uint64_t now_ms)
{
    struct ticket *t = node_ticket_find(node, ticket);
    uint64_t job;

    node_time(node, now_ms);
    if (t == NULL || (t->state != TICKET_RESOLVING && (err == NULL || !err->code)))
        return;
    job = t->job;
    if (err != NULL && err->code != VINE_OK) {
        node_origin_fail(node, t, err);
    } else {
        t->resolved = *r;
        t->state = TICKET_RESOLVED;
        t->untold = true;
        if (t->mgr_ticket == 0) /* nobody asks any more */
            node_ticket_free(node, t);
    }
    tell_resolved(node, job);
}

void node_source_opened(struct node *node, uint64_t ticket,
                        const struct node_resolved *r, const struct vine_err *err,
                        uint64_t now_ms)
{
    struct ticket *t = node_ticket_find(node, ticket);
    struct vine_digest key;

    node_time(node, now_ms);
    if (t == NULL || t->state != TICKET_OPENING)
        return;
    if (err != NULL && err->code != VINE_OK) {
        node_origin_fail(node, t, err);
        return;
    }
    key = t->resolved.key;
    t->resolved = *r;
    t->resolved.key = key; /* the manager knows it */
    t->resolved.unopened = false;
    if (!r->has_manifest) {
        build_begin(node, t);
        return;
    }
    t->state = TICKET_RESOLVED;
    send_resolved(node, t->mgr_ticket, &t->resolved, NULL);
}

void node_source_proved(struct node *node, uint64_t ticket, const struct vine_err *err,
                        uint64_t now_ms)
{
    struct ticket *t = node_ticket_find(node, ticket);
    const struct vine_err ok = {.text = ""};

    node_time(node, now_ms);
    if (t == NULL || t->state != TICKET_PROVING)
        return;
    if (err != NULL && err->code != VINE_OK) {
        node_origin_fail(node, t, err);
        return;
    }
    t->state = TICKET_RESOLVED;
    send_error(node, MSG_PROVED, t->mgr_ticket, &ok);
}

/* All pieces of the object are here. */
void node_origin_streamed(struct node *node, struct ticket *t)
{
    if (!t->prove) {
        node_ticket_free(node, t);
        return;
    }
    t->prove = false;
    t->object->stream = NULL;
    t->object = NULL;
    prove_begin(node, t);
}

static void built(struct node *node, struct ticket *t, const struct msg_object *object)
{
    struct node_object *o = node_object_find(node, &object->digest);
    struct vine_err err = {0};

    if (o == NULL)
        o = node_object_new(node, &object->digest, object->size, object->pieces,
                            object->trusted);
    if (o == NULL)
        vine_err_set(&err, VINE_ENOMEM, "out of memory");
    else
        (void)node_object_check(o, object->size, object->pieces, &err);
    if (err.code != VINE_OK) {
        node_origin_fail(node, t, &err);
        return;
    }
    o->trusted |= object->trusted;
    o->part = false;
    node_object_add_key(o, &t->resolved.key);
    for (uint32_t i = 0; i < object->key_count; i++)
        node_object_add_key(o, &object->keys[i]);
    node->bytes_built += object->size;
    /* Before any HAVE: no stream brought this. */
    send_built(node, t, o, &t->resolved.key);
    node_story_forget(o);
    node_story_add(node, o, MSG_FROM_BUILT, "", o->size, t->build_ms);
    node_object_set_complete(node, o);
    node_object_used(node, o);
    node_ticket_free(node, t);
    if (o->stream != NULL)
        node_origin_streamed(node, o->stream);
    node_object_advance(node, o);
}

void node_source_built(struct node *node, uint64_t ticket,
                       const struct msg_object *object, const struct vine_err *err,
                       uint64_t now_ms)
{
    struct ticket *t = node_ticket_find(node, ticket);

    node_time(node, now_ms);
    if (t == NULL || t->state != TICKET_BUILDING)
        return;
    if (err != NULL && err->code != VINE_OK)
        node_origin_fail(node, t, err);
    else
        built(node, t, object);
}
