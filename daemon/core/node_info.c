/* node_info.c - what the node's core knows, for serving, progress, status and metrics.
 */
#include <string.h>

#include "daemon/core/node_int.h"

uint32_t node_uid_sources(const struct node *node, uint32_t uid)
{
    uint32_t count = 0;

    for (const struct node_job *job = node->first_job; job != NULL; job = job->next)
        count += job->uid == uid ? job->source_count : 0;
    return count;
}

bool node_may_serve(const struct node *node, const struct vine_digest *digest,
                    struct msg_range range)
{
    const struct node_object *o = node_object_find(node, digest);

    if (o == NULL || range.count == 0 || range.first >= o->pieces ||
        range.count > o->pieces - range.first)
        return false;
    for (uint32_t i = 0; i < range.count; i++)
        if (!node_object_has(o, range.first + i))
            return false;
    return true;
}

bool node_may_wait(const struct node *node, const struct vine_digest *digest,
                   struct msg_range range)
{
    const struct node_object *o = node_object_find(node, digest);

    return o != NULL && range.first < o->pieces &&
           range.count <= o->pieces - range.first && o->state == OBJECT_PARTIAL &&
           (o->leases > 0 || o->stream != NULL);
}

enum phase {
    PHASE_WAITING,
    PHASE_RESOLVING,
    PHASE_BUILDING,
    PHASE_FETCHING,
    PHASE_READY
};

static const char *const phase_names[] = {
    [PHASE_WAITING] = "waiting",   [PHASE_RESOLVING] = "resolving",
    [PHASE_BUILDING] = "building", [PHASE_FETCHING] = "fetching",
    [PHASE_READY] = "mounting",
};

/* This node builds what the source needs; NULL: it does not. */
static const struct ticket *build_of(const struct node *node,
                                     const struct job_source *s)
{
    for (const struct ticket *t = node->first_ticket; t != NULL; t = t->next)
        if (t->state == TICKET_BUILDING && t->uid == s->job->uid &&
            strcmp(t->path, s->path) == 0)
            return t;
    return NULL;
}

static enum phase phase_of(const struct node *node, const struct job_source *s)
{
    if (s->state == SOURCE_BOUND)
        return s->object->state == OBJECT_PARTIAL ? PHASE_FETCHING : PHASE_READY;
    if (build_of(node, s) != NULL)
        return PHASE_BUILDING;
    return node->manager_up ? PHASE_RESOLVING : PHASE_WAITING;
}

static void add_progress(const struct node *node, const struct job_source *s,
                         struct node_progress *out)
{
    const struct ticket *build;

    if (s->state == SOURCE_BOUND) {
        out->bytes_total += s->object->size;
        out->bytes_done += s->object->bytes_here;
        out->bytes_peer += s->object->bytes_peer;
        out->bytes_origin += s->object->bytes_origin;
        out->bytes_reused += s->object->bytes_reused;
    } else if ((build = build_of(node, s)) != NULL) {
        out->bytes_total += build->to_read;
        out->bytes_done += build->read;
    }
}

int node_progress(const struct node *node, uint64_t client, struct node_progress *out)
{
    struct table_link *l = table_find(&node->clients, hash_u64(client));
    const struct client *c;
    enum phase phase = PHASE_READY;

    if (l == NULL)
        return -1;
    c = table_entry(l, struct client, link);
    *out = (struct node_progress){0};
    for (uint32_t i = 0; i < c->count; i++) {
        const struct job_source *s = c->source[i];
        if (c->err[i].code == VINE_OK && phase_of(node, s) < phase)
            phase = phase_of(node, s);
        add_progress(node, s, out);
    }
    out->phase = phase_names[phase];
    return 0;
}

void node_each_object(const struct node *node,
                      void (*visit)(void *arg, const struct node_object_info *o),
                      void *arg)
{
    static const char *const states[] = {
        [OBJECT_PUBLISHING] = "publishing",
        [OBJECT_COMPLETE] = "complete",
    };

    for (const struct node_object *o = node->first_object; o != NULL; o = o->next) {
        struct node_object_info info = {.digest = o->digest,
                                        .size = o->size,
                                        .bytes_done = o->bytes_here,
                                        .last_used_ms = o->last_used_ms,
                                        .bytes_peer = o->bytes_peer,
                                        .bytes_origin = o->bytes_origin,
                                        .bytes_reused = o->bytes_reused,
                                        .state = states[o->state],
                                        .trusted = o->trusted,
                                        .leases = o->leases};
        if (o->state == OBJECT_PARTIAL)
            info.state = o->leases > 0 || o->stream != NULL ? "fetching" : "partial";
        if (o->part)
            info.state = "part";
        for (const struct mount *m = o->mounts; m != NULL; m = m->next)
            info.mounts += m->mounted;
        visit(arg, &info);
    }
}

void node_each_job(const struct node *node,
                   void (*visit)(void *arg, const struct node_job_info *j), void *arg)
{
    for (const struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (const struct job_source *s = job->sources; s != NULL; s = s->next) {
            struct node_job_info info = {.job = job->job,
                                         .uid = job->uid,
                                         .gid = job->gid,
                                         .path = s->path,
                                         .bound = s->state == SOURCE_BOUND};
            if (info.bound)
                info.digest = s->object->digest;
            visit(arg, &info);
        }
}

void node_totals(const struct node *node, struct node_totals *out)
{
    *out = (struct node_totals){.store_used = node->store_used,
                                .store_max = node->limits.cache_max,
                                .bytes_peer = node->bytes_peer,
                                .bytes_origin = node->bytes_origin,
                                .bytes_built = node->bytes_built,
                                .bytes_reused = node->bytes_reused,
                                .objects = node->objects.count,
                                .jobs = node->jobs.count,
                                .transfers = node->transfers.count,
                                .manager_up = node->manager_up};
}
