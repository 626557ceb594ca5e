/* node_story.c - how an object came to this node: who sent how much of it, and when.
 *
 * Kept while it is fetched, a row a sender, VINE_STORY_MAX at most: what more send is
 * one row together. Told to the manager's log once for each job, when the object is
 * complete or given up: one message a node and an object, whatever its size. Of a
 * complete object the rows sum up to its size: what no row has was here before.
 *
 * A story goes when no job has the object any more, so that the next job's begins anew.
 * Jobs that a daemon made up have no log. */
#include <stdlib.h>
#include <string.h>

#include "daemon/core/node_int.h"

#define ROWS_FIRST 4u /* doubled when they are full */

void node_story_forget(struct node_object *o)
{
    free(o->story);
    o->story = NULL;
    o->story_count = 0;
}

static struct story_row *row_find(const struct node_object *o, enum msg_from from,
                                  const char *peer)
{
    for (uint32_t i = 0; i < o->story_count; i++)
        if (o->story[i].from == from && strcmp(o->story[i].peer, peer) == 0)
            return &o->story[i];
    return NULL;
}

/* Room for one more: a full array has a power of two of rows. */
static bool make_room(struct node_object *o)
{
    uint32_t count = o->story_count;
    struct story_row *rows;

    if (count != 0 && (count < ROWS_FIRST || (count & (count - 1)) != 0))
        return true;
    rows = realloc(o->story, (count == 0 ? ROWS_FIRST : 2 * count) * sizeof(*rows));
    if (rows == NULL)
        return false;
    o->story = rows;
    return true;
}

/* Two are left free when it is told: for the others, and for what was here before. */
static struct story_row *row_get(struct node_object *o, enum msg_from from,
                                 const char *peer)
{
    struct story_row *row;

    if (from != MSG_FROM_PEER)
        peer = "";
    row = row_find(o, from, peer);
    if (row == NULL && o->story_count >= VINE_STORY_MAX - 2) {
        from = MSG_FROM_OTHERS;
        peer = "";
        row = row_find(o, from, peer);
    }
    if (row != NULL || !make_room(o))
        return row;
    row = &o->story[o->story_count++];
    *row = (struct story_row){.from = from, .first_ms = UINT64_MAX};
    strcpy(row->peer, peer);
    return row;
}

static void row_add(struct node_object *o, enum msg_from from, const char *peer,
                    uint64_t bytes, uint64_t first_ms, uint64_t last_ms)
{
    struct story_row *row = bytes == 0 ? NULL : row_get(o, from, peer);

    if (row == NULL)
        return;
    row->bytes += bytes;
    if (first_ms < row->first_ms)
        row->first_ms = first_ms;
    if (last_ms > row->last_ms)
        row->last_ms = last_ms;
}

void node_story_add(struct node *node, struct node_object *o, enum msg_from from,
                    const char *peer, uint64_t bytes, uint64_t since_ms)
{
    row_add(o, from, peer, bytes, since_ms, node->now_ms);
}

static const struct job_source *source_with_parts(const struct node *node,
                                                  const struct node_object *o)
{
    for (const struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (const struct job_source *s = job->sources; s != NULL; s = s->next)
            if (s->object == o && s->part_count > 0)
                return s;
    return NULL;
}

/* Not all bytes of parts are the image's in the end, so they count by their share. */
void node_story_parts(struct node *node, struct node_object *o, uint64_t bytes)
{
    const struct job_source *s = source_with_parts(node, o);
    uint64_t sent = 0, left = bytes;

    for (uint32_t i = 0; s != NULL && i < s->part_count; i++)
        for (uint32_t r = 0; r < s->part[i]->story_count; r++)
            sent += s->part[i]->story[r].bytes;
    for (uint32_t i = 0; sent > 0 && i < s->part_count; i++)
        for (uint32_t r = 0; r < s->part[i]->story_count; r++) {
            const struct story_row *row = &s->part[i]->story[r];
            uint64_t share =
                (uint64_t)((double)row->bytes / (double)sent * (double)bytes);
            share = share < left ? share : left;
            row_add(o, row->from, row->peer, share, row->first_ms, row->last_ms);
            left -= share;
        }
    row_add(o, MSG_FROM_OTHERS, "", left, o->reuse_since_ms, node->now_ms);
}

static uint32_t age(const struct node *node, uint64_t then_ms)
{
    uint64_t ms = node->now_ms > then_ms ? node->now_ms - then_ms : 0;

    return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

/* The rows as a message has them; those of a complete object sum up to its size. Where
 * it was not known to the byte what was missing, they may be too much. */
static uint32_t list_rows(const struct node *node, const struct node_object *o,
                          bool known, struct msg_story rows[VINE_STORY_MAX])
{
    uint64_t left = o->size;
    uint32_t count = 0;

    for (uint32_t i = 0; known && i < o->story_count; i++) {
        const struct story_row *row = &o->story[i];
        uint64_t bytes = row->bytes < left ? row->bytes : left;
        rows[count++] = (struct msg_story){.from = row->from,
                                           .peer = row->peer,
                                           .bytes = bytes,
                                           .first_ms = age(node, row->first_ms),
                                           .last_ms = age(node, row->last_ms)};
        left -= bytes;
    }
    if (o->state == OBJECT_COMPLETE && left > 0)
        rows[count++] =
            (struct msg_story){.from = MSG_FROM_HERE, .peer = "", .bytes = left};
    return count;
}

static void tell(struct node *node, struct job_source *s, enum vine_code code)
{
    const struct node_object *o = s->object;
    bool complete = o->state == OBJECT_COMPLETE;
    bool known = !complete || s->since_ms <= o->complete_ms;
    struct msg_story rows[VINE_STORY_MAX];
    struct msg m = {.type = MSG_STORY,
                    .job = s->job->job,
                    .uid = s->job->uid,
                    .path = s->path,
                    .digest = o->digest,
                    .size = o->size,
                    .code = code,
                    .rows = rows};

    s->told = true;
    if (s->job->job & NODE_MADE_UP_JOB)
        return;
    m.row_count = list_rows(node, o, known, rows);
    m.wanted_ms = age(node, s->since_ms);
    m.ended_ms = complete && known ? age(node, o->complete_ms) : 0;
    m.begun_ms = m.ended_ms;
    for (uint32_t i = 0; i < m.row_count; i++)
        if (rows[i].first_ms > m.begun_ms)
            m.begun_ms = rows[i].first_ms;
    node_send(node, &m);
}

void node_story_settle(struct node *node, struct node_object *o)
{
    if (o->state != OBJECT_COMPLETE || !node->manager_up)
        return;
    for (struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (struct job_source *s = job->sources; s != NULL; s = s->next)
            if (s->object == o && !s->told)
                tell(node, s, VINE_OK);
}

void node_story_settle_all(struct node *node)
{
    for (struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (struct job_source *s = job->sources; s != NULL; s = s->next)
            if (s->object != NULL && s->object->state == OBJECT_COMPLETE && !s->told)
                tell(node, s, VINE_OK);
}

void node_story_end(struct node *node, struct job_source *s, enum vine_code code)
{
    if (s->object != NULL && !s->told && node->manager_up &&
        s->object->state != OBJECT_COMPLETE)
        tell(node, s, code);
}
