/* node_hold.c - while tasks start on an object that is still on its way, only what
 * they need comes.
 *
 * The rest would share links and processors with them. So while all who want an object
 * on this node are lazy starts, and it is being mounted or was read a moment ago, the
 * node holds: the manager plans what is urgent for it and nothing else, and a stream is
 * read no further than that, unless others wait for all of it. It holds no longer than
 * HOLD_MAX_MS in all, so the rest does come, though reads never end.
 *
 * What must hold: `holding` is what the manager was told last; who holds has a deadline
 * at which it holds no more. */
#include "daemon/core/node_int.h"

#define QUIET_MS 2000u  /* without a read: the start is over */
#define LAUNCH_MS 5000u /* from the mount to the first read */
#define HOLD_MAX_MS 60000u

/* Nobody here waits for all of it. */
static bool all_are_lazy(const struct node *node, const struct node_object *o)
{
    for (const struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (const struct job_source *s = job->sources; s != NULL; s = s->next)
            if (s->object == o && !s->lazy)
                return false;
    for (const struct client *c = node->first_client; c != NULL; c = c->next)
        for (uint32_t i = 0; !c->lazy && i < c->count; i++)
            if (c->source[i]->object == o)
                return false;
    return true;
}

static uint64_t hold_end(const struct node_object *o)
{
    uint64_t end = o->hold_since_ms + HOLD_MAX_MS;

    return o->lazy == LAZY_MOUNTED && o->busy_until_ms < end ? o->busy_until_ms : end;
}

static bool should_hold(const struct node *node, const struct node_object *o)
{
    return o->state == OBJECT_PARTIAL && o->lazy != LAZY_OFF &&
           o->lazy != LAZY_FAILED && !o->lazy_leaving && node->now_ms < hold_end(o) &&
           all_are_lazy(node, o);
}

static void tell(struct node *node, const struct node_object *o)
{
    struct msg m = {.type = MSG_HOLD, .digest = o->digest, .hold = o->holding};

    node_send(node, &m);
}

void node_hold_check(struct node *node, struct node_object *o)
{
    bool hold;

    if (o->lazy != LAZY_OFF && o->hold_since_ms == 0)
        o->hold_since_ms = node->now_ms;
    hold = should_hold(node, o);
    if (hold == o->holding)
        return;
    o->holding = hold;
    if (o->state == OBJECT_PARTIAL)
        tell(node, o);
    if (!hold && o->stream != NULL)
        node_origin_advance(node, o->stream);
}

void node_hold_busy(struct node *node, struct node_object *o, bool mounted_now)
{
    o->busy_until_ms = node->now_ms + (mounted_now ? LAUNCH_MS : QUIET_MS);
    node_hold_check(node, o);
}

bool node_hold_stream(const struct node_object *o)
{
    return o->holding && o->others_hold;
}

void node_hold_message(struct node *node, struct node_object *o, bool hold)
{
    o->others_hold = hold;
    if (!hold && o->stream != NULL)
        node_origin_advance(node, o->stream);
}

void node_hold_tell_all(struct node *node)
{
    for (const struct node_object *o = node->first_object; o != NULL; o = o->next)
        if (o->holding)
            tell(node, o);
}

void node_hold_manager_down(struct node *node)
{
    for (struct node_object *o = node->first_object; o != NULL; o = o->next)
        if (o->others_hold)
            node_hold_message(node, o, false);
}

void node_hold_tick(struct node *node)
{
    for (struct node_object *o = node->first_object; o != NULL; o = o->next)
        if (o->holding)
            node_hold_check(node, o);
}

/* Nobody wants the object any more, or it is complete. */
void node_hold_forget(struct node_object *o)
{
    o->holding = false;
    o->hold_since_ms = 0;
}

/* One job's source failed: the manager has forgotten this, or goes on for another job
 * and must not hold back what nobody holds any more. */
void node_hold_drop(struct node *node, struct node_object *o)
{
    if (!o->holding)
        return;
    o->holding = false;
    tell(node, o);
}

uint64_t node_hold_deadline(const struct node *node)
{
    uint64_t deadline = UINT64_MAX;

    for (const struct node_object *o = node->first_object; o != NULL; o = o->next)
        if (o->holding && hold_end(o) < deadline)
            deadline = hold_end(o);
    return deadline;
}
