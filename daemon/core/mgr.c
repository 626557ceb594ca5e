/* mgr.c - the manager's events: connections, messages, time.
 *
 * Each public function that brings an event sets the time, changes the books
 * (mgr_object, mgr_resolve, mgr_stage, mgr_fail) and lets the planner draw its
 * conclusions at the end (mgr_plan). Nothing else calls the planner, so a message's
 * effects are complete before anything is planned upon them.
 *
 * Time: while objects move or tickets are out the clock ticks every TICK_BUSY_MS; else
 * only as often as silent nodes must be noticed. */
#include "daemon/core/mgr.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "daemon/core/mgr_feed.h"

#define TICK_BUSY_MS 250u
#define TICK_GATHER_MS 5u
/* While objects move, and a millisecond more for so many nodes that send. */
#define TICK_MOVE_MS 50u
#define TICK_A_MS 64u
#define LOOK_A_MS 16u    /* who is late is looked for rarer: of a crowd so many */
#define LATE_MS 1000u    /* a tick so late: this process stood still */
#define TICK_LATE_MS 50u /* a tick so late: who is slow or silent cannot be told */
#define LATE_TICKS 8u    /* of so many in a row one judges all the same */

void mgr_limits_default(struct mgr_limits *limits)
{
    *limits = (struct mgr_limits){
        .window = 6,
        .uploads = 6,
        .slow_ms = 1000,
        .feed_min = 128,
        .suspect_ms = 10000,
        .corrupt_ms = 60000,
        .heartbeat_ms = 1000,
        .dead_ms = 5000,
    };
}

int mgr_list_push(struct list *list, void *entry)
{
    if (list->count == list->room) {
        uint32_t room = list->room == 0 ? 64 : 2 * list->room;
        void **bigger = realloc(list->at, room * sizeof(*bigger));
        if (bigger == NULL)
            return -1;
        list->at = bigger;
        list->room = room;
    }
    list->at[list->count++] = entry;
    return 0;
}

void mgr_log(struct mgr *mgr, enum vine_log_level level, const char *format, ...)
{
    char line[512];
    va_list ap;

    if (mgr->ops.log == NULL)
        return;
    va_start(ap, format);
    (void)vsnprintf(line, sizeof(line), format, ap);
    va_end(ap);
    mgr->ops.log(mgr->ctx, (int)level, line);
}

void mgr_send(struct mgr *mgr, struct mgr_node *node, const struct msg *m)
{
    mgr->ops.send(mgr->ctx, node->conn, m);
}

#define TABLES 11

static void mgr_tables(struct mgr *mgr, struct table *tables[TABLES])
{
    struct table *all[TABLES] = {&mgr->conns,   &mgr->names,     &mgr->holders,
                                 &mgr->objects, &mgr->keys,      &mgr->sources,
                                 &mgr->tickets, &mgr->resolved,  &mgr->stages,
                                 &mgr->named,   &mgr->named_jobs};

    memcpy(tables, all, sizeof(all));
}

struct mgr *mgr_new(const struct mgr_ops *ops, void *ctx,
                    const struct mgr_limits *limits)
{
    struct mgr *mgr = calloc(1, sizeof(*mgr));
    struct table *tables[TABLES];
    bool ok = true;

    if (mgr == NULL)
        return NULL;
    mgr->ops = *ops;
    mgr->ctx = ctx;
    mgr->limits = *limits;
    mgr->next_tick_ms = UINT64_MAX;
    mgr_tables(mgr, tables);
    for (int i = 0; i < TABLES; i++)
        ok = table_init(tables[i]) == 0 && ok;
    if (ok)
        return mgr;
    mgr_free(mgr);
    return NULL;
}

struct mgr_node *mgr_find_conn(const struct mgr *mgr, uint32_t conn)
{
    struct table_link *l = table_find(&mgr->conns, hash_u64(conn));

    return l == NULL ? NULL : table_entry(l, struct mgr_node, by_conn);
}

struct mgr_node *mgr_find_name(const struct mgr *mgr, const char *name)
{
    struct table_link *l = table_find(&mgr->names, hash_text(name, 0));

    for (; l != NULL; l = table_next_same(l)) {
        struct mgr_node *node = table_entry(l, struct mgr_node, by_name);
        if (strcmp(node->name, name) == 0)
            return node;
    }
    return NULL;
}

/* A node and everything that was known through it. */
static void node_free(struct mgr *mgr, struct mgr_node *node)
{
    mgr_fail_node_gone(mgr, node);
    mgr_stage_node_gone(mgr, node);
    mgr_name_node_gone(mgr, node);
    mgr_source_node_gone(mgr, node);
    while (node->holders != NULL)
        mgr_holder_free(mgr, node->holders);
    *(node->prev != NULL ? &node->prev->next : &mgr->first_node) = node->next;
    *(node->next != NULL ? &node->next->prev : &mgr->last_node) = node->prev;
    table_remove(&mgr->conns, &node->by_conn);
    table_remove(&mgr->names, &node->by_name);
    free(node);
}

static void send_nothing(void *ctx, uint32_t conn, const struct msg *m)
{
}

void mgr_free(struct mgr *mgr)
{
    struct table *tables[TABLES];

    if (mgr == NULL)
        return;
    mgr->ops.send = send_nothing;
    mgr->ops.log = NULL;
    while (mgr->first_node != NULL)
        node_free(mgr, mgr->first_node);
    mgr_name_free_all(mgr);
    mgr_tables(mgr, tables);
    for (int i = 0; i < TABLES; i++)
        table_free(tables[i]);
    for (uint32_t i = 0; i < mgr->switches.count; i++)
        free(mgr->switches.at[i]);
    free(mgr->switches.at);
    mgr_lazy_free_all(mgr);
    free(mgr->dirty.at);
    free(mgr->fresh.at);
    free(mgr);
}

/* The clock must tick soon if anything is under way, now and then if a node is there.
 */
static void tick_plan(struct mgr *mgr)
{
    bool busy = mgr->first_active != NULL || mgr->tickets.count > 0 ||
                mgr->due_sources > 0 || mgr->first_copying != NULL;
    uint64_t move = TICK_MOVE_MS;
    uint64_t wait =
        busy ? TICK_BUSY_MS : (uint64_t)mgr->limits.dead_ms * VINE_IDLE_FACTOR / 8;

    move += mgr->senders / TICK_A_MS;
    for (const struct object *o = mgr->first_active; o != NULL; o = o->active_next)
        wait = o->feed.state == FEED_GATHER || wait == TICK_GATHER_MS ? TICK_GATHER_MS
                                                                      : move;

    if (mgr->first_node == NULL)
        mgr->next_tick_ms = UINT64_MAX;
    else if (mgr->next_tick_ms > mgr->now_ms + wait)
        mgr->next_tick_ms = mgr->now_ms + wait;
}

static void event_begin(struct mgr *mgr, uint64_t now_ms)
{
    if (now_ms > mgr->now_ms)
        mgr->now_ms = now_ms;
    if (mgr->started_ms == 0)
        mgr->started_ms = mgr->now_ms;
}

static void event_end(struct mgr *mgr)
{
    mgr_feed_run(mgr);
    mgr_plan_run(mgr);
    tick_plan(mgr);
}

static void node_drop(struct mgr *mgr, struct mgr_node *node, const char *why)
{
    uint32_t conn = node->conn;

    mgr_log(mgr, VINE_LOG_WARNING, "event=dropped node=%s reason=\"%s\"", node->name,
            why);
    node_free(mgr, node);
    mgr->ops.drop(mgr->ctx, conn, why);
}

int mgr_connected(struct mgr *mgr, uint32_t conn, const char *name, const char *addr,
                  uint64_t now_ms, struct vine_err *err)
{
    struct mgr_node *node, *older;

    event_begin(mgr, now_ms);
    if (strlen(name) > VINE_NAME_MAX || strlen(addr) >= VINE_ADDR_MAX ||
        name[0] == '\0')
        return vine_err_set(err, VINE_EPROTO, "a node's name or address is too long");
    if (mgr_find_conn(mgr, conn) != NULL)
        return vine_err_set(err, VINE_EINVAL, "connection %u is known already", conn);
    older = mgr_find_name(mgr, name);
    if (older != NULL)
        node_drop(mgr, older, "the node connected again");
    if (mgr->names.count >= VINE_NODES_MAX)
        return vine_err_set(err, VINE_ELIMIT, "more than %d nodes", VINE_NODES_MAX);
    node = calloc(1, sizeof(*node));
    if (node == NULL)
        return vine_err_set(err, VINE_ENOMEM, "no memory for a node");
    node->id = ++mgr->last_node_id;
    node->conn = conn;
    node->seen_ms = mgr->now_ms;
    strcpy(node->name, name);
    strcpy(node->addr, addr);
    node->prev = mgr->last_node;
    *(node->prev != NULL ? &node->prev->next : &mgr->first_node) = node;
    mgr->last_node = node;
    table_add(&mgr->conns, &node->by_conn, hash_u64(conn));
    table_add(&mgr->names, &node->by_name, hash_text(name, 0));
    event_end(mgr);
    return 0;
}

void mgr_disconnected(struct mgr *mgr, uint32_t conn, uint64_t now_ms)
{
    struct mgr_node *node = mgr_find_conn(mgr, conn);

    event_begin(mgr, now_ms);
    if (node == NULL)
        return;
    mgr_log(mgr, VINE_LOG_INFO, "event=disconnected node=%s", node->name);
    node_free(mgr, node);
    event_end(mgr);
}

static int register_object(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                           const struct msg_object *told, struct vine_err *err)
{
    struct object *o;
    struct holder *h;

    if (told->complete)
        mgr_proof_elsewhere(mgr, &told->digest);
    if (mgr_object_get(mgr, &told->digest, told->size, told->pieces, told->trusted, &o,
                       err) < 0)
        return -1;
    if (mgr_holder_find(mgr, o, node) != NULL)
        return vine_err_set(err, VINE_EPROTO, "register: an object is named twice");
    h = mgr_holder_get(mgr, o, node);
    if (h == NULL) {
        mgr_object_put(mgr, o);
        return vine_err_set(err, VINE_ENOMEM, "no memory for an object");
    }
    for (uint32_t i = 0; i < told->key_count; i++)
        (void)mgr_object_add_key(mgr, o, &told->keys[i]);
    if (told->complete)
        return mgr_holder_complete(mgr, h);
    mgr_proof_registered(mgr, o, m);
    return 0;
}

/* The same number for the same name; out of memory: as if it had none. */
static uint32_t switch_id(struct mgr *mgr, const char *name)
{
    char *copy;

    if (name[0] == '\0')
        return 0;
    for (uint32_t i = 0; i < mgr->switches.count; i++)
        if (strcmp(mgr->switches.at[i], name) == 0)
            return i + 1;
    copy = mgr->switches.count < VINE_NODES_MAX ? strdup(name) : NULL;
    if (copy == NULL || mgr_list_push(&mgr->switches, copy) < 0) {
        free(copy);
        return 0;
    }
    return mgr->switches.count;
}

static int on_register(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                       struct vine_err *err)
{
    struct msg answer = {.type = MSG_REGISTERED,
                         .heartbeat_ms = mgr->limits.heartbeat_ms};
    size_t len = m->switch_name == NULL ? 0 : strlen(m->switch_name);

    if (node->registered)
        return vine_err_set(err, VINE_EPROTO, "%s registers twice", node->name);
    if (len > VINE_NAME_MAX)
        return vine_err_set(err, VINE_EPROTO, "register: switch name too long");
    if (len > 0)
        memcpy(node->switch_name, m->switch_name, len + 1);
    node->switch_id = switch_id(mgr, node->switch_name);
    node->registered = true;
    node->port = m->port;
    mgr_send(mgr, node, &answer);
    for (uint32_t i = 0; i < m->object_count; i++)
        if (register_object(mgr, node, m, &m->objects[i], err) < 0)
            return -1;
    for (uint32_t i = 0; i < m->binding_count; i++)
        if (mgr_source_bound_before(mgr, node, &m->bindings[i], err) < 0)
            return -1;
    mgr_log(mgr, VINE_LOG_INFO, "event=registered node=%s objects=%u bindings=%u",
            node->name, m->object_count, m->binding_count);
    return 0;
}

static int on_have(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                   struct vine_err *err)
{
    struct object *o = mgr_object_find(mgr, &m->digest);
    struct holder *h = o == NULL ? NULL : mgr_holder_find(mgr, o, node);

    /* Its source failed while this was on its way. If the node is to have it again, it
     * says once more what is there. */
    if (h == NULL)
        return 0;
    for (uint32_t i = 0; i < m->range_count; i++)
        if (m->ranges[i].first >= o->pieces ||
            m->ranges[i].count > o->pieces - m->ranges[i].first)
            return vine_err_set(err, VINE_EPROTO, "have: pieces %u+%u of %u",
                                m->ranges[i].first, m->ranges[i].count, o->pieces);
    if (h->reusing != m->reusing) {
        h->reusing = m->reusing;
        o->reusing += m->reusing ? 1u : -1u;
        mgr_holder_changed(mgr, h);
        mgr->feed_due |= o->active && o->feed.state == FEED_GATHER && o->reusing == 0 &&
                         o->copies[0] >= o->holder_count;
    }
    for (uint32_t i = 0; i < m->range_count; i++)
        if (mgr_holder_add_pieces(mgr, h, m->ranges[i]) < 0)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
    return 0;
}

static int on_evicted(struct mgr *mgr, struct mgr_node *node, const struct msg *m)
{
    struct object *o = mgr_object_find(mgr, &m->digest);
    struct holder *h = o == NULL ? NULL : mgr_holder_find(mgr, o, node);

    if (h == NULL)
        return 0;
    mgr_fail_holder_gone(mgr, h);
    mgr_source_evicted(mgr, h);
    return 0;
}

static int on_ping(struct mgr *mgr, struct mgr_node *node)
{
    struct msg pong = {.type = MSG_PONG};

    mgr_send(mgr, node, &pong);
    return 0;
}

static int dispatch(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                    struct vine_err *err)
{
    if (!node->registered && m->type != MSG_REGISTER && m->type != MSG_PING &&
        m->type != MSG_PONG)
        return vine_err_set(err, VINE_EPROTO, "%s speaks before it registers",
                            node->name);
    switch (m->type) {
    case MSG_REGISTER:
        return on_register(mgr, node, m, err);
    case MSG_WANT:
        return mgr_source_want(mgr, node, m, err);
    case MSG_RELEASE:
        mgr_source_release(mgr, node, m);
        return 0;
    case MSG_RESOLVED:
        return mgr_source_resolved(mgr, node, m, err);
    case MSG_PROVED:
        return mgr_source_proved(mgr, node, m, err);
    case MSG_BUILDING:
        mgr_source_building(mgr, node, m);
        return 0;
    case MSG_PART_MADE:
        return mgr_parts_made(mgr, node, m, err);
    case MSG_BUILT:
        return mgr_source_built(mgr, node, m, err);
    case MSG_HAVE:
        return on_have(mgr, node, m, err);
    case MSG_FAILED:
        return mgr_fail_message(mgr, node, m, err);
    case MSG_EVICTED:
        return on_evicted(mgr, node, m);
    case MSG_STAGE:
        return mgr_stage_begin(mgr, node, m, err);
    case MSG_LEAVE:
        mgr_source_leave(mgr, node, m);
        return 0;
    case MSG_NAME:
        return mgr_name_message(mgr, node, m, err);
    case MSG_URGENT:
    case MSG_AWAITED:
        return mgr_lazy_urgent(mgr, node, m, err);
    case MSG_TOUCHED:
        return mgr_lazy_touched(mgr, node, m, err);
    case MSG_HOLD:
        mgr_lazy_hold(mgr, node, m);
        return 0;
    case MSG_PING:
        return on_ping(mgr, node);
    case MSG_PONG:
    case MSG_ASK_STATUS: /* these three are the edge's */
    case MSG_STORY:
    case MSG_ASK_STORIES:
        return 0;
    default:
        return vine_err_set(err, VINE_EPROTO, "a node does not send '%s'",
                            msg_type_name(m->type));
    }
}

int mgr_message(struct mgr *mgr, uint32_t conn, const struct msg *m, uint64_t now_ms,
                struct vine_err *err)
{
    struct mgr_node *node = mgr_find_conn(mgr, conn);
    int rc;

    event_begin(mgr, now_ms);
    if (node == NULL)
        return vine_err_set(err, VINE_EPROTO, "connection %u is not known", conn);
    node->seen_ms = mgr->now_ms;
    node->probed_ms = 0;
    if (node->silent)
        mgr_slow_heard(mgr, node);
    rc = dispatch(mgr, node, m, err);
    event_end(mgr);
    return rc;
}

uint64_t mgr_next_deadline(const struct mgr *mgr)
{
    return mgr->next_tick_ms;
}

/* The node knows that it has something to do, so it pings often. */
static bool node_works(const struct mgr_node *node)
{
    if (node->receiving > 0 || node->tickets > 0)
        return true;
    for (const struct want *w = node->wants; w != NULL; w = w->node_next)
        if (w->source->object == NULL || (w->holder != NULL && !w->holder->complete))
            return true;
    return false;
}

/* A node that only serves does not know that it works, so it may be silent for long. */
void mgr_probe(struct mgr *mgr, struct mgr_node *node)
{
    struct msg ping = {.type = MSG_PING};

    if (node->probed_ms != 0 || !node->registered)
        return;
    node->probed_ms = mgr->now_ms;
    mgr_send(mgr, node, &ping);
}

static bool probe_failed(const struct mgr *mgr, const struct mgr_node *node)
{
    return node->probed_ms != 0 && mgr->now_ms - node->probed_ms >= mgr->limits.dead_ms;
}

static void drop_silent(struct mgr *mgr)
{
    uint64_t quiet_ms = crowd_quiet_ms(mgr->crowd);
    struct mgr_node *next;

    for (struct mgr_node *node = mgr->first_node; node != NULL; node = next) {
        uint64_t silent = mgr->now_ms - node->seen_ms;
        next = node->next;
        if (silent >= mgr->limits.heartbeat_ms + quiet_ms &&
            node->sending + node->feeding > 0)
            mgr_probe(mgr, node);
        if (silent < mgr->limits.dead_ms + quiet_ms)
            continue;
        if (probe_failed(mgr, node) ||
            silent >= (uint64_t)mgr->limits.dead_ms * VINE_IDLE_FACTOR ||
            node_works(node))
            node_drop(mgr, node, "silent for too long");
    }
}

/* What the nodes said meanwhile lies unread: nobody is silent before it is read. After
 * a pause so long even those may have had to try again who were here. */
static void stood_still(struct mgr *mgr)
{
    mgr_log(mgr, VINE_LOG_WARNING, "event=stood-still ms=%llu",
            (unsigned long long)(mgr->now_ms - mgr->next_tick_ms));
    for (struct mgr_node *node = mgr->first_node; node != NULL; node = node->next) {
        node->seen_ms = mgr->now_ms;
        node->probed_ms = 0;
    }
}

static void crowd_count(struct mgr *mgr)
{
    mgr->crowd = mgr->senders;
    for (const struct object *o = mgr->first_active; o != NULL; o = o->active_next)
        if (o->feed.segment > 0 && o->feed.members > mgr->crowd)
            mgr->crowd = o->feed.members;
}

static void sweep(struct mgr *mgr, bool judges)
{
    struct object *next;

    mgr->next_sweep_ms = mgr->now_ms + (judges ? TICK_BUSY_MS : 0);
    if (judges)
        drop_silent(mgr);
    mgr_source_start_due(mgr);
    mgr_proof_retry(mgr);
    for (struct object *o = mgr->first_active; o != NULL; o = next) {
        next = o->active_next;
        mgr_source_check_object(mgr, o);
        mgr_lazy_tell_origins(mgr, o);
    }
    mgr_plan_sweep(mgr);
}

/* A late one comes before what the nodes said meanwhile is read, so it leaves it to the
 * next one who is silent; but on a machine that is always late somebody must be. */
void mgr_tick(struct mgr *mgr, uint64_t now_ms)
{
    bool late, judges;

    event_begin(mgr, now_ms);
    if (mgr->now_ms < mgr->next_tick_ms)
        return;
    if (mgr->now_ms - mgr->next_tick_ms > LATE_MS)
        stood_still(mgr);
    late = mgr->now_ms - mgr->next_tick_ms > TICK_LATE_MS;
    mgr->late_ticks = late ? mgr->late_ticks + 1 : 0;
    judges = mgr->late_ticks % LATE_TICKS == 0;
    mgr->next_tick_ms = UINT64_MAX;
    crowd_count(mgr);
    if (mgr->now_ms >= mgr->next_sweep_ms)
        sweep(mgr, judges);
    if (mgr->now_ms >= mgr->next_look_ms) {
        mgr->next_look_ms =
            mgr->now_ms + TICK_MOVE_MS + crowd_ms(mgr->crowd, LOOK_A_MS);
        if (!late) /* who had no time for messages finds all slow */
            mgr_slow_check(mgr);
        mgr_plan_endgame(mgr);
    }
    mgr_feed_tick(mgr);
    if (judges)
        mgr_name_tick(mgr);
    event_end(mgr);
}
