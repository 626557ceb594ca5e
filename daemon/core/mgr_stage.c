/* mgr_stage.c - `vine-env stage`: named nodes get a source without a job of Slurm's.
 *
 * The asking daemon makes up a job number (top bit set). Each named node is told to act
 * as if a client had asked; it wants the source like any other and releases the job
 * when it has it. The asker is answered when the last node has the object, or with the
 * first error; the other nodes go on in either case. */
#include <string.h>

#include "daemon/core/mgr_int.h"

#define MADE_UP_JOB (1ull << 63)

struct stage *mgr_stage_find(const struct mgr *mgr, uint64_t job)
{
    struct table_link *l = table_find(&mgr->stages, hash_u64(job));

    return l == NULL ? NULL : table_entry(l, struct stage, by_job);
}

static void stage_free(struct mgr *mgr, struct stage *stage)
{
    struct table_link *l = table_each(&mgr->sources, NULL);

    for (; l != NULL; l = table_each(&mgr->sources, l)) {
        struct source *s = table_entry(l, struct source, by_name);
        if (s->stage == stage)
            s->stage = NULL;
    }
    table_remove(&mgr->stages, &stage->by_job);
    free(stage->node);
    free(stage);
}

static void send_staged(struct mgr *mgr, struct mgr_node *asker, uint64_t ticket,
                        const struct vine_err *err)
{
    struct msg m = {
        .type = MSG_STAGED, .ticket = ticket, .code = err->code, .text = err->text};

    if (asker != NULL)
        mgr_send(mgr, asker, &m);
}

static void stage_end(struct mgr *mgr, struct stage *stage, const struct vine_err *err)
{
    send_staged(mgr, stage->asker, stage->ticket, err);
    stage_free(mgr, stage);
}

/* Take it off the list of those that are awaited; false: it was not on it. */
static bool stage_take(struct stage *stage, const struct mgr_node *node)
{
    for (uint32_t i = 0; i < stage->pending; i++)
        if (stage->node[i] == node) {
            stage->node[i] = stage->node[--stage->pending];
            return true;
        }
    return false;
}

void mgr_stage_node_done(struct mgr *mgr, struct stage *stage, struct mgr_node *node)
{
    struct vine_err ok = {0};

    if (stage_take(stage, node) && stage->pending == 0)
        stage_end(mgr, stage, &ok);
}

void mgr_stage_node_failed(struct mgr *mgr, struct stage *stage, struct mgr_node *node,
                           enum vine_code code, const char *text)
{
    struct vine_err err = {0};

    if (!stage_take(stage, node))
        return;
    vine_err_set(&err, code, "%s: %s", node->name, text);
    stage_end(mgr, stage, &err);
}

void mgr_stage_node_gone(struct mgr *mgr, struct mgr_node *node)
{
    struct table_link *l, *next;

    for (l = table_each(&mgr->stages, NULL); l != NULL; l = next) {
        struct stage *stage = table_entry(l, struct stage, by_job);
        next = table_each(&mgr->stages, l);
        if (stage->asker == node)
            stage->asker = NULL;
        mgr_stage_node_failed(mgr, stage, node, VINE_EDOWN, "the node is gone");
    }
}

static void stage_add(struct stage *stage, struct mgr_node *node)
{
    for (uint32_t i = 0; i < stage->pending; i++)
        if (stage->node[i] == node)
            return;
    stage->node[stage->pending++] = node;
}

/* The nodes of the message; -1: one is not there. */
static int stage_fill(struct mgr *mgr, struct stage *stage, const struct msg *m,
                      struct vine_err *err)
{
    uint32_t room = m->name_count > 0 ? m->name_count : mgr->names.count;

    stage->node = calloc(room, sizeof(struct mgr_node *));
    if (stage->node == NULL)
        return vine_err_set(err, VINE_ENOMEM, "the manager is out of memory");
    if (m->name_count == 0)
        for (struct mgr_node *node = mgr->first_node; node != NULL; node = node->next)
            if (node->registered)
                stage->node[stage->pending++] = node;
    for (uint32_t i = 0; i < m->name_count; i++) {
        struct mgr_node *node = mgr_find_name(mgr, m->names[i]);
        if (node == NULL || !node->registered)
            return vine_err_set(err, VINE_EDOWN,
                                "node '%s' is not connected to the manager",
                                m->names[i]);
        stage_add(stage, node);
    }
    return 0;
}

static void send_wanted(struct mgr *mgr, const struct stage *stage, const struct msg *m)
{
    struct msg wanted = {.type = MSG_WANTED,
                         .job = m->job,
                         .uid = m->uid,
                         .gid = m->gid,
                         .path = m->path};

    for (uint32_t i = 0; i < stage->pending; i++)
        mgr_send(mgr, stage->node[i], &wanted);
}

int mgr_stage_begin(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                    struct vine_err *err)
{
    struct vine_err why = {0};
    struct stage *stage;

    if (!(m->job & MADE_UP_JOB))
        return vine_err_set(err, VINE_EPROTO, "stage: job %llu is not made up",
                            (unsigned long long)m->job);
    if (mgr_stage_find(mgr, m->job) != NULL) {
        vine_err_set(&why, VINE_EINVAL, "this stage request goes on already");
        send_staged(mgr, node, m->ticket, &why);
        return 0;
    }
    stage = calloc(1, sizeof(*stage));
    if (stage == NULL)
        return vine_err_set(err, VINE_ENOMEM, "no memory for a stage request");
    stage->job = m->job;
    stage->ticket = m->ticket;
    stage->asker = node;
    table_add(&mgr->stages, &stage->by_job, hash_u64(m->job));
    if (stage_fill(mgr, stage, m, &why) < 0)
        stage_end(mgr, stage, &why);
    else
        send_wanted(mgr, stage, m);
    return 0;
}
