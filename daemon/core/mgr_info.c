/* mgr_info.c - what the manager's core knows, for status, metrics and progress lines.
 *
 * How far a job is: each of its sources has wants, one a node, and a want that is
 * supplied has a holder. A node's bytes are counted by pieces, which is as exact as
 * anybody needs who looks at them. */
#include <string.h>

#include "daemon/core/mgr_int.h"

void mgr_each_node(const struct mgr *mgr,
                   void (*visit)(void *arg, const struct mgr_node_info *n), void *arg)
{
    for (const struct mgr_node *node = mgr->first_node; node != NULL;
         node = node->next) {
        struct mgr_node_info info = {.name = node->name,
                                     .addr = node->addr,
                                     .suspect = mgr->now_ms < node->suspect_until_ms,
                                     .complete_objects = node->complete_count,
                                     .sending = node->sending,
                                     .receiving = node->receiving,
                                     .bytes_planned_out = node->bytes_planned_out};
        visit(arg, &info);
    }
}

void mgr_each_object(const struct mgr *mgr,
                     void (*visit)(void *arg, const struct mgr_object_info *o),
                     void *arg)
{
    for (const struct object *o = mgr->first_object; o != NULL; o = o->next) {
        struct mgr_object_info info = {.digest = o->digest,
                                       .size = o->size,
                                       .pieces = o->pieces,
                                       .seeds = o->seeds,
                                       .wanting = o->hungry};
        visit(arg, &info);
    }
}

static uint64_t bytes_of(const struct want *w)
{
    const struct object *o = w->source->object;
    const struct holder *h = w->holder;

    if (w->source->state != SOURCE_BOUND || h == NULL)
        return 0;
    return h->complete ? o->size : o->size * h->have_count / o->pieces;
}

static bool has_all(const struct want *w)
{
    return w->source->state == SOURCE_BOUND && w->holder != NULL && w->holder->complete;
}

static void describe(const struct source *s, struct mgr_source_info *out)
{
    static const char *const states[] = {
        [SOURCE_RESOLVING] = "resolving", [SOURCE_QUEUED] = "queued",
        [SOURCE_BUILDING] = "building",   [SOURCE_PROVING] = "proving",
        [SOURCE_BOUND] = "bound",
    };

    *out =
        (struct mgr_source_info){.job = s->job,
                                 .uid = s->uid,
                                 .path = s->path,
                                 .state = states[s->state],
                                 .origin = s->origin != NULL ? s->origin->name : NULL,
                                 .bound = s->state == SOURCE_BOUND};
    if (out->bound) {
        out->digest = s->object->digest;
        out->size = s->object->size;
    } else if (s->state == SOURCE_BUILDING) {
        out->read = s->read;
        out->to_read = s->to_read;
    }
    for (const struct want *w = s->wants; w != NULL; w = w->source_next) {
        out->nodes++;
        out->ready += has_all(w);
        if (has_all(w) || (out->slowest != NULL && bytes_of(w) >= out->slowest_bytes))
            continue;
        out->slowest = w->node->name;
        out->slowest_bytes = bytes_of(w);
    }
}

void mgr_each_source(const struct mgr *mgr, uint64_t job, uint32_t uid,
                     void (*visit)(void *arg, const struct mgr_source_info *s),
                     void (*visit_node)(void *arg, const struct mgr_want_info *w),
                     void *arg)
{
    const struct table_link *l = NULL;

    while ((l = table_each(&mgr->sources, l)) != NULL) {
        const struct source *s = table_entry(l, struct source, by_name);
        struct mgr_source_info info;

        if (s->job != job || (uid != 0 && s->uid != uid))
            continue;
        describe(s, &info);
        visit(arg, &info);
        for (const struct want *w = s->wants; w != NULL; w = w->source_next)
            visit_node(arg, &(struct mgr_want_info){.node = w->node->name,
                                                    .bytes = bytes_of(w),
                                                    .ready = has_all(w)});
    }
}

bool mgr_longest_wait(const struct mgr *mgr, uint32_t conn, uint64_t job, uint32_t uid,
                      struct mgr_source_info *out)
{
    const struct mgr_node *node = mgr_find_conn(mgr, conn);
    const struct want *longest = NULL;

    for (const struct want *w = node == NULL ? NULL : node->wants; w != NULL;
         w = w->node_next) {
        if (w->source->job != job || (uid != 0 && w->source->uid != uid))
            continue;
        if (longest == NULL || w->source->state < longest->source->state ||
            (w->source->state == longest->source->state && has_all(longest)))
            longest = w;
    }
    if (longest == NULL)
        return false;
    describe(longest->source, out);
    return true;
}
