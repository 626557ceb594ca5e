/* control.c - the manager and the connections to it.
 *
 * Messages of one connection arrive in order, one latency later; when it is cut, what
 * is on its way is lost. A node that lost its manager tries again with a pause. While
 * the manager is frozen nothing is taken or sent, and its connections stay: what comes
 * waits until it goes on, after its timers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

#define HANDSHAKE_US (10 * SECOND) /* a node waits so long for one that is frozen */

/* It is frozen: e happens when it goes on. */
static bool manager_held(struct sim *sim, const struct event *e)
{
    if (sim->mgr == NULL || sim->mgr_frozen_until_us == 0)
        return false;
    at(sim, sim->mgr_frozen_until_us, *e);
    return true;
}

static struct conn *conn_of(struct sim *sim, uint32_t conn)
{
    return conn == 0 || conn > sim->conn_count ? NULL : &sim->conns[conn - 1];
}

/* ---- from the manager ---- */

static void deliver_to_host(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];
    struct vine_err err = {0};
    struct msg *m = e->p;

    if (h->conn == e->a && host_held(sim, h, e))
        return;
    if (h->core != NULL && h->conn == e->a && h->up) {
        note(sim, "%s < %s", h->name, msg_type_name(m->type));
        h->heard_ms = now_ms(sim);
        if (node_message(h->core, m, now_ms(sim), &err) < 0)
            fail(sim, "%s refuses a message of the manager: %s", h->name, err.text);
        host_timer(sim, h);
    }
    msg_clone_free(m);
}

static void take(struct sim *sim, uint32_t conn, const struct msg *m)
{
    struct conn *c = conn_of(sim, conn);

    if (c == NULL || c->mgr_epoch != sim->mgr_epoch) {
        fail(sim, "the manager sends '%s' on connection %u, which it does not have",
             msg_type_name(m->type), conn);
        return;
    }
    if (!c->open)
        return;
    if (m->type == MSG_FETCH) {
        check_assign(sim, c->host, m);
        if (sim->first_fetch_us == 0)
            sim->first_fetch_us = sim->now_us;
    }
    at(sim, sim->now_us + net_latency_us(sim, &sim->hosts[c->host], NULL),
       (struct event){.run = deliver_to_host,
                      .host = c->host,
                      .a = conn,
                      .p = msg_clone(m),
                      .owned = true});
}

static void on_send(void *ctx, uint32_t conn, const struct msg *m)
{
    struct sim *sim = ctx;

    meter_leave(sim);
    sim->meter.messages_out++;
    take(sim, conn, m);
    meter_enter(sim);
}

static void lost_by_host(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];

    if (h->core == NULL || h->conn != e->a || host_held(sim, h, e))
        return;
    note(sim, "%s lost its manager", h->name);
    h->lost_manager = true;
    h->conn = 0;
    if (h->up) {
        h->up = false;
        node_manager_down(h->core, now_ms(sim));
        host_timer(sim, h);
    }
    control_connect(sim, h, 100 * MS + draw(sim, 300 * MS));
}

void manager_silent(void *ctx)
{
    struct host *h = ctx;
    struct sim *sim = sim_of(h);

    note(sim, "%s gives its manager up", h->name);
    if (!h->up)
        fail(sim, "%s gives up the manager that it does not have", h->name);
    if (sim->thawing)
        fail(sim, "%s stood still, and takes its manager for silent", h->name);
    sim->troubles++;
    h->up = false;
    control_cut(sim, h, true);
}

static void on_drop(void *ctx, uint32_t conn, const char *why)
{
    struct sim *sim = ctx;
    struct conn *c = conn_of(sim, conn);

    note(sim, "manager drops %s: %s", sim->hosts[c->host].name, why);
    if (!c->open)
        return;
    meter_leave(sim);
    if (sim->thawing)
        fail(sim, "the manager stood still, and takes %s for dead",
             sim->hosts[c->host].name);
    sim->troubles++;
    c->open = false;
    at(sim, sim->now_us + net_latency_us(sim, &sim->hosts[c->host], NULL),
       (struct event){.run = lost_by_host, .host = c->host, .a = conn});
    meter_enter(sim);
}

static void on_log(void *ctx, int level, const char *line)
{
    meter_leave(ctx);
    note(ctx, "manager: %s", line);
    meter_enter(ctx);
}

static const struct mgr_ops manager_ops = {
    .send = on_send, .drop = on_drop, .log = on_log};

void manager_start(struct sim *sim)
{
    meter_enter(sim);
    sim->mgr = mgr_new(&manager_ops, sim, &sim->mgr_limits);
    meter_leave(sim);
    sim->mgr_timer_us = EVER;
    note(sim, "manager starts");
}

void manager_stop(struct sim *sim)
{
    if (sim->mgr == NULL)
        return;
    note(sim, "manager stops");
    sim->troubles++;
    meter_enter(sim);
    mgr_free(sim->mgr);
    meter_leave(sim);
    sim->mgr = NULL;
    sim->mgr_epoch++;
    sim->mgr_frozen_until_us = 0;
    for (uint32_t i = 0; i < sim->conn_count; i++) {
        struct conn *c = &sim->conns[i];
        if (!c->open)
            continue;
        c->open = false;
        at(sim, sim->now_us + net_latency_us(sim, &sim->hosts[c->host], NULL),
           (struct event){.run = lost_by_host, .host = c->host, .a = i + 1});
    }
}

/* ---- time ---- */

static void on_timer(struct sim *sim, struct event *e)
{
    uint64_t before;

    if (sim->mgr == NULL || sim->mgr_epoch != e->epoch ||
        sim->mgr_timer_us != e->at_us || sim->mgr_frozen_until_us > 0)
        return;
    sim->mgr_timer_us = EVER;
    before = mgr_next_deadline(sim->mgr);
    meter_enter(sim);
    if (before <= now_ms(sim))
        mgr_tick(sim->mgr, now_ms(sim));
    meter_leave(sim);
    if (mgr_next_deadline(sim->mgr) <= now_ms(sim) && ++sim->mgr_idle_ticks > 100)
        fail(sim, "the manager's deadline stays in the past");
    else if (mgr_next_deadline(sim->mgr) > now_ms(sim))
        sim->mgr_idle_ticks = 0;
    manager_timer(sim);
}

void manager_timer(struct sim *sim)
{
    uint64_t due = sim->mgr == NULL ? EVER : mgr_next_deadline(sim->mgr);

    if (!sim->options.seeded)
        check_manager(sim);
    if (due == EVER || sim->mgr_frozen_until_us > 0)
        return;
    due = due * MS < sim->now_us ? sim->now_us : due * MS;
    if (due >= sim->mgr_timer_us)
        return;
    sim->mgr_timer_us = due;
    at(sim, due, (struct event){.run = on_timer, .epoch = sim->mgr_epoch});
}

static void thaw(struct sim *sim, struct event *e)
{
    if (sim->mgr == NULL || sim->mgr_epoch != e->epoch || sim->mgr_frozen_until_us == 0)
        return;
    note(sim, "manager goes on");
    sim->mgr_frozen_until_us = 0;
    check_paused(sim, (sim->now_us - e->a) / MS);
    sim->mgr_timer_us = EVER;
    sim->thawing = true;
    meter_enter(sim);
    if (mgr_next_deadline(sim->mgr) <= now_ms(sim))
        mgr_tick(sim->mgr, now_ms(sim));
    meter_leave(sim);
    sim->thawing = false;
    manager_timer(sim);
}

void manager_freeze(struct sim *sim, uint64_t until_us)
{
    if (sim->mgr == NULL || sim->mgr_frozen_until_us > 0)
        return;
    note(sim, "manager freezes");
    sim->troubles++;
    sim->mgr_frozen_until_us = until_us;
    at(sim, until_us,
       (struct event){.run = thaw, .a = sim->now_us, .epoch = sim->mgr_epoch});
}

/* ---- to the manager ---- */

static void cut_by_manager(struct sim *sim, struct event *e)
{
    struct conn *c = conn_of(sim, (uint32_t)e->a);

    if (sim->mgr == NULL || c->mgr_epoch != sim->mgr_epoch || !c->open ||
        manager_held(sim, e))
        return;
    c->open = false;
    note(sim, "manager lost %s", sim->hosts[c->host].name);
    sim->troubles++;
    meter_enter(sim);
    mgr_disconnected(sim->mgr, (uint32_t)e->a, now_ms(sim));
    meter_leave(sim);
    manager_timer(sim);
}

static void deliver_to_manager(struct sim *sim, struct event *e)
{
    struct conn *c = conn_of(sim, (uint32_t)e->a);
    struct vine_err err = {0};
    struct msg *m = e->p;
    bool ok;

    if (c->open && c->mgr_epoch == sim->mgr_epoch && manager_held(sim, e))
        return;
    if (sim->mgr != NULL && c->open && c->mgr_epoch == sim->mgr_epoch) {
        if (m->type != MSG_HAVE)
            note(sim, "manager < %s from %s", msg_type_name(m->type),
                 sim->hosts[c->host].name);
        else
            note(sim, "manager < have %u+%u from %s", m->ranges[0].first,
                 m->ranges[0].count, sim->hosts[c->host].name);
        sim->meter.messages_in++;
        meter_enter(sim);
        ok = mgr_message(sim->mgr, (uint32_t)e->a, m, now_ms(sim), &err) == 0;
        meter_leave(sim);
        if (!ok)
            fail(sim, "the manager refuses a message of %s: %s",
                 sim->hosts[c->host].name, err.text);
        manager_timer(sim);
    }
    msg_clone_free(m);
}

void control_send(struct sim *sim, struct host *h, const struct msg *m)
{
    if (!h->up)
        fail(sim, "%s sends '%s' without a manager", h->name, msg_type_name(m->type));
    at(sim, sim->now_us + net_latency_us(sim, h, NULL),
       (struct event){
           .run = deliver_to_manager, .a = h->conn, .p = msg_clone(m), .owned = true});
}

static void host_connected(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];

    if (h->core == NULL || h->conn != e->a || h->epoch != e->epoch ||
        host_held(sim, h, e))
        return;
    h->up = true;
    h->heard_ms = now_ms(sim);
    node_manager_up(h->core, now_ms(sim));
    host_timer(sim, h);
}

static void try_connect(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];
    struct vine_err err = {0};
    bool ok;

    if (h->core == NULL || h->epoch != e->epoch || h->conn != 0 || host_held(sim, h, e))
        return;
    if (sim->mgr == NULL) {
        control_connect(sim, h, 200 * MS + draw(sim, 500 * MS));
        return;
    }
    if (sim->mgr_frozen_until_us > 0) { /* it listens, and says nothing */
        control_connect(sim, h, HANDSHAKE_US);
        return;
    }
    if (sim->conn_count == sim->conn_room) {
        sim->conn_room = sim->conn_room == 0 ? 256 : 2 * sim->conn_room;
        sim->conns = realloc(sim->conns, sim->conn_room * sizeof(*sim->conns));
        if (sim->conns == NULL)
            abort();
    }
    sim->conns[sim->conn_count++] = (struct conn){.host = h->index,
                                                  .host_epoch = h->epoch,
                                                  .mgr_epoch = sim->mgr_epoch,
                                                  .open = true};
    h->conn = sim->conn_count;
    meter_enter(sim);
    ok = mgr_connected(sim->mgr, h->conn, h->name, h->addr, now_ms(sim), &err) == 0;
    meter_leave(sim);
    if (!ok)
        fail(sim, "the manager does not take %s: %s", h->name, err.text);
    manager_timer(sim);
    at(sim, sim->now_us + net_latency_us(sim, h, NULL),
       (struct event){
           .run = host_connected, .host = h->index, .epoch = h->epoch, .a = h->conn});
}

void control_connect(struct sim *sim, struct host *h, uint64_t delay_us)
{
    at(sim, sim->now_us + delay_us,
       (struct event){.run = try_connect, .host = h->index, .epoch = h->epoch});
}

/* The connection breaks. A host that is dead notices nothing; the manager notices
 * unless the host died silently (then it is silence that tells). */
void control_cut(struct sim *sim, struct host *h, bool host_notices)
{
    if (h->conn == 0)
        return;
    if (!h->silent)
        at(sim, sim->now_us + net_latency_us(sim, h, NULL),
           (struct event){.run = cut_by_manager, .a = h->conn});
    if (host_notices)
        at(sim, sim->now_us,
           (struct event){.run = lost_by_host, .host = h->index, .a = h->conn});
}

/* Before the end is checked: those who died without a word, or froze, and were idle are
 * still believed to live. */
void control_bury(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->conn_count && sim->mgr != NULL; i++) {
        struct conn *c = &sim->conns[i];
        const struct host *h = &sim->hosts[c->host];
        if (!c->open || c->mgr_epoch != sim->mgr_epoch ||
            (h->core != NULL && h->epoch == c->host_epoch && h->frozen_until_us == 0))
            continue;
        c->open = false;
        meter_enter(sim);
        mgr_disconnected(sim->mgr, i + 1, now_ms(sim));
        meter_leave(sim);
    }
}
