/* node_parts.c - parts: finished stretches of an image that is still being built.
 *
 * The builder announces them one by one and serves them; a node that waits for the
 * source fetches them like any object, and its store then has most chunks of the image
 * when that gets its name, at the place where they belong. They are leased by the
 * source that waits, or by the ticket that builds, and removed when the last of these
 * is done with them: a part is no object that anybody asks for. Each one a node was
 * offered, taken or not, is answered by EVICTED in the end.
 *
 * If somebody asks for it all the same it is an object like any other from then on.
 *
 * Space: for a part nothing is evicted, and the image will need the same again, so it
 * is taken only where it fits twice. What is in the way of anything else goes. */
#include <stdlib.h>

#include "daemon/core/node_int.h"

static int append(struct node_object ***list, uint32_t *count, struct node_object *o)
{
    if (*list == NULL)
        *list = calloc(VINE_PARTS_MAX, sizeof(struct node_object *));
    if (*list == NULL || *count == VINE_PARTS_MAX)
        return -1;
    (*list)[(*count)++] = o;
    o->part = true;
    o->leases++;
    return 0;
}

static bool is_listed(struct node_object *const *list, uint32_t count,
                      const struct node_object *o)
{
    for (uint32_t i = 0; i < count; i++)
        if (list[i] == o)
            return true;
    return false;
}

static void tell_gone(struct node *node, const struct vine_digest *digest)
{
    struct msg m = {.type = MSG_EVICTED, .digest = *digest};

    node_send(node, &m);
}

void node_part_check(struct node *node, struct node_object *o)
{
    if (!o->part || o->leases > 0 || o->stream != NULL || o->state == OBJECT_PUBLISHING)
        return;
    node_object_evict(node, o);
}

/* The list is emptied first: what is checked may look for itself in all lists. */
static void let_go(struct node *node, struct node_object ***list, uint32_t *count)
{
    struct node_object **parts = *list;
    uint32_t parts_count = *count;

    *list = NULL;
    *count = 0;
    for (uint32_t i = 0; i < parts_count; i++) {
        parts[i]->leases--;
        node_part_check(node, parts[i]);
    }
    free(parts);
}

static bool fits(const struct node *node, uint64_t size)
{
    uint64_t max = node->limits.cache_max;

    return node->store_used <= max && size <= (max - node->store_used) / 2 &&
           node->objects.count < VINE_OBJECTS_MAX / 2;
}

bool node_parts_yield(struct node *node)
{
    bool any = false;

    for (struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (struct job_source *s = job->sources; s != NULL; s = s->next) {
            any |= s->part_count > 0;
            node_parts_drop(node, s);
        }
    return any;
}

void node_part_offered(struct node *node, const struct msg *m)
{
    struct job_source *s = node_job_source(node, m->job, m->uid, m->path);
    struct node_object *o = node_object_find(node, &m->digest);
    struct vine_err err = {0};

    if (o != NULL && !o->part) /* here by itself, and stays */
        return;
    if (s != NULL && s->state == SOURCE_WANTED && s->part_count < VINE_PARTS_MAX &&
        (o != NULL || fits(node, m->size)) &&
        node_object_get(node, &m->digest, m->size, m->pieces, false, &o, &err) == 0) {
        o->part_build = m->ticket;
        o->part_offset = m->offset;
        if (is_listed(s->part, s->part_count, o) ||
            append(&s->part, &s->part_count, o) == 0)
            return;
        o->part = true;
    }
    if (o == NULL)
        tell_gone(node, &m->digest);
    else
        node_part_check(node, o);
}

void node_parts_stop(struct node *node, struct job_source *s)
{
    for (uint32_t i = 0; i < s->part_count; i++)
        if (s->part[i]->leases == 1)
            node_transfer_give_up(node, s->part[i]);
}

void node_parts_drop(struct node *node, struct job_source *s)
{
    let_go(node, &s->part, &s->part_count);
}

void node_parts_arrived(struct node *node, struct node_object *o)
{
    for (struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (struct job_source *s = job->sources; s != NULL; s = s->next)
            if (s->object == o)
                node_parts_drop(node, s);
}

static void forget(struct node_object **list, uint32_t *count,
                   const struct node_object *o)
{
    for (uint32_t i = 0; i < *count; i++)
        if (list[i] == o)
            list[i--] = list[--*count];
}

void node_part_forget(struct node *node, struct node_object *o)
{
    for (struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (struct job_source *s = job->sources; s != NULL; s = s->next)
            forget(s->part, &s->part_count, o);
    for (struct ticket *t = node->first_ticket; t != NULL; t = t->next)
        forget(t->part, &t->part_count, o);
}

void node_ticket_parts_drop(struct node *node, struct ticket *t)
{
    let_go(node, &t->part, &t->part_count);
}

static void free_list(struct node_object ***list, uint32_t *count)
{
    free(*list);
    *list = NULL;
    *count = 0;
}

void node_parts_free_all(struct node *node)
{
    for (struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (struct job_source *s = job->sources; s != NULL; s = s->next)
            free_list(&s->part, &s->part_count);
    for (struct ticket *t = node->first_ticket; t != NULL; t = t->next)
        free_list(&t->part, &t->part_count);
}

static int keep(struct node *node, struct ticket *t, const struct msg_object *object,
                struct vine_err *err)
{
    struct node_object *o = node_object_find(node, &object->digest);

    if (t->part_count == VINE_PARTS_MAX)
        return vine_err_set(err, VINE_ELIMIT, "more than %d parts", VINE_PARTS_MAX);
    if (o != NULL && (!o->part || is_listed(t->part, t->part_count, o)))
        return vine_err_set(err, VINE_ELIMIT, "it was there already");
    if (o == NULL && !fits(node, object->size))
        return vine_err_set(err, VINE_ENOSPC, "the store is nearly full");
    if (node_object_get(node, &object->digest, object->size, object->pieces, false, &o,
                        err) < 0)
        return -1;
    node_object_set_complete(node, o);
    if (append(&t->part, &t->part_count, o) == 0)
        return 0;
    o->part = true;
    node_part_check(node, o);
    return vine_err_set(err, VINE_ENOMEM, "out of memory");
}

/* It is in the store whole, whatever the core makes of it: another build's part that
 * was being fetched, say. */
static void found_whole(struct node *node, const struct msg_object *object)
{
    struct node_object *o = node_object_find(node, &object->digest);

    if (o == NULL) {
        node->ops.remove(node->ctx, &object->digest);
        return;
    }
    if (o->state == OBJECT_COMPLETE)
        return;
    node_object_set_complete(node, o);
    node_have_tell_all(node, o);
    if (o->stream != NULL)
        node_origin_streamed(node, o->stream);
    node_object_advance(node, o);
    node_part_check(node, o);
}

void node_source_part(struct node *node, uint64_t ticket,
                      const struct msg_object *object, uint64_t offset, uint64_t now_ms)
{
    struct ticket *t = node_ticket_find(node, ticket);
    struct vine_err err = {0};
    struct msg m = {.type = MSG_PART_MADE,
                    .digest = object->digest,
                    .size = object->size,
                    .offset = offset,
                    .pieces = object->pieces};

    node_time(node, now_ms);
    if (node_wants_parts(node, ticket) && keep(node, t, object, &err) == 0) {
        m.ticket = t->mgr_ticket;
        node_send(node, &m);
        return;
    }
    if (err.code != VINE_OK)
        node_log(node, VINE_LOG_INFO, "event=part-dropped reason=\"%s\"", err.text);
    found_whole(node, object);
}

bool node_is_part(const struct node *node, const struct vine_digest *digest,
                  uint64_t *build, uint64_t *offset)
{
    const struct node_object *o = node_object_find(node, digest);

    if (o == NULL || !o->part)
        return false;
    *build = o->part_build;
    *offset = o->part_offset;
    return true;
}

bool node_wants_parts(const struct node *node, uint64_t ticket)
{
    const struct ticket *t = node_ticket_find(node, ticket);

    return t != NULL && t->parts_wanted && t->state == TICKET_BUILDING &&
           t->mgr_ticket != 0 && t->part_count < VINE_PARTS_MAX;
}
