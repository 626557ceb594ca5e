/* host.c - a node: the core's ops, its disk, its life and death.
 *
 * A disk outlives its daemon: what was verified and written is there after a reboot,
 * and so are the bindings that `save` wrote down. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/core/bits.h"
#include "tests/sim/sim.h"

#define CHUNK_MEAN (40u << 10) /* one block of an image */

/* Ops get the host alone; there is one simulation a process at a time. */
static struct sim *the_sim;

struct sim *sim_of(const struct host *h)
{
    return the_sim;
}

uint32_t thing_of(const struct sim *sim, const struct vine_digest *digest)
{
    for (uint32_t i = 0; i < sim->thing_count + sim->part_count; i++)
        if (vine_digest_equal(&sim->things[i].digest, digest))
            return i;
    return UINT32_MAX;
}

/* Piece 0 is the manifest: 36 bytes a chunk. */
uint64_t piece_bytes(const struct sim *sim, uint32_t thing, uint32_t piece)
{
    const struct thing *t = &sim->things[thing];
    uint64_t data = t->pieces - 1;

    if (piece == 0)
        return 16 + 36 * (t->size / CHUNK_MEAN + 1);
    return t->size / data + (piece <= t->size % data);
}

struct fetch *host_find_fetch(struct host *h, uint64_t id)
{
    struct fetch *f = h->fetches;

    while (f != NULL && f->id != id)
        f = f->next;
    return f;
}

void host_end_fetch(struct host *h, uint64_t id)
{
    struct fetch **at_ = &h->fetches, *f;

    while (*at_ != NULL && (*at_)->id != id)
        at_ = &(*at_)->next;
    f = *at_;
    if (f == NULL)
        return;
    *at_ = f->next;
    free(f);
}

static struct stored *stored_begin(struct sim *sim, struct host *h, uint32_t thing)
{
    struct stored *s = &h->stored[thing];

    if (!s->present) {
        s->present = true;
        s->have = bits_new(sim->things[thing].pieces);
    }
    return s;
}

void host_store(struct sim *sim, struct host *h, uint32_t thing)
{
    struct stored *s = stored_begin(sim, h, thing);

    for (uint32_t p = 0; p < sim->things[thing].pieces; p++)
        bits_set(s->have, p);
    s->complete = s->trusted = true;
}

static void stored_drop(struct host *h, uint32_t thing)
{
    free(h->stored[thing].have);
    h->publishing[thing] = 0;
    free(h->stored[thing].missing);
    h->stored[thing] = (struct stored){0};
}

void host_piece(struct sim *sim, struct host *h, uint64_t fetch, uint32_t piece)
{
    struct fetch *f = host_find_fetch(h, fetch);
    uint64_t id = fetch;

    if (f == NULL)
        return;
    if (h->full) {
        host_fetch_failed(sim, h, id, VINE_ENOSPC, "No space left on device");
        return;
    }
    if (piece_claimed(sim, f->thing, piece))
        fail(sim, "%s has piece %u, which nobody could read", h->name, piece);
    bits_set(stored_begin(sim, h, f->thing)->have, piece);
    if (--f->left == 0)
        host_end_fetch(h, id);
    note(sim, "%s has piece %u", h->name, piece);
    node_piece_done(h->core, id, piece, now_ms(sim));
    net_kick(sim, h);
    host_timer(sim, h);
}

void host_fetch_failed(struct sim *sim, struct host *h, uint64_t fetch,
                       enum vine_code code, const char *text)
{
    struct vine_err err = {0};

    if (host_find_fetch(h, fetch) == NULL)
        return;
    host_end_fetch(h, fetch);
    sim->troubles += code == VINE_ECORRUPT;
    vine_err_set(&err, code, "%s", text);
    node_transfer_failed(h->core, fetch, &err, now_ms(sim));
    host_timer(sim, h);
}

static void op_send(void *ctx, const struct msg *m)
{
    control_send(the_sim, ctx, m);
}

static struct fetch *fetch_new(struct host *h, uint64_t id,
                               const struct vine_digest *digest, struct msg_range range)
{
    struct fetch *f = calloc(1, sizeof(*f));

    if (f == NULL)
        abort();
    f->id = id;
    f->thing = thing_of(the_sim, digest);
    f->range = range;
    f->left = range.count;
    f->peer = UINT32_MAX;
    f->next = h->fetches;
    h->fetches = f;
    for (uint32_t p = range.first; p < range.first + range.count; p++)
        if (h->stored[f->thing].present && bits_get(h->stored[f->thing].have, p))
            fail(the_sim, "%s fetches piece %u, which it has", h->name, p);
    if (range.first > 0 &&
        (!h->stored[f->thing].present || !bits_get(h->stored[f->thing].have, 0)))
        fail(the_sim, "%s fetches data before the manifest", h->name);
    if (range.first > 0 && h->stored[f->thing].reuse != 0 &&
        the_sim->now_us < h->stored[f->thing].reuse_until_us)
        fail(the_sim, "%s fetches data while it reuses", h->name);
    if (range.first == 0 && range.count > 1)
        fail(the_sim, "%s does not fetch piece 0 alone", h->name);
    return f;
}

static void op_fetch(void *ctx, uint64_t transfer, const struct vine_digest *digest,
                     const struct msg_assign *assign)
{
    struct host *h = ctx;
    struct fetch *f = fetch_new(h, transfer, digest, assign->range);

    f->peer = (uint32_t)atoi(assign->peer + 1);
    note(the_sim, "%s fetches %u+%u from %s", h->name, assign->range.first,
         assign->range.count, assign->peer);
    net_fetch(the_sim, h, f);
}

static void op_fetch_origin(void *ctx, uint64_t transfer,
                            const struct vine_digest *digest, uint64_t ticket,
                            struct msg_range range)
{
    (void)fetch_new(ctx, transfer, digest, range);
    origin_fetch(ctx, transfer, digest, ticket, range);
}

static void op_fetch_cancel(void *ctx, uint64_t transfer)
{
    struct host *h = ctx;
    struct fetch *f = host_find_fetch(h, transfer);

    if (f == NULL) {
        fail(the_sim, "%s cancels a transfer that is over", h->name);
        return;
    }
    if (the_sim->thawing)
        fail(the_sim, "%s stood still, and takes others for late", h->name);
    if (f->peer != UINT32_MAX)
        net_cancel(the_sim, h, f);
    host_end_fetch(h, transfer);
}

static void published(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];

    if (h->core == NULL || h->epoch != e->epoch || !h->stored[e->a].present ||
        host_held(sim, h, e))
        return;
    h->publishing[e->a]--;
    h->stored[e->a].complete = true;
    h->stored[e->a].trusted = e->b != 0;
    note(sim, "%s complete", h->name);
    lazy_complete(sim, h, (uint32_t)e->a);
    node_published(h->core, &sim->things[e->a].digest, NULL, now_ms(sim));
    sim->last_done_us = h->done_us = sim->now_us;
    host_timer(sim, h);
}

static void op_publish(void *ctx, const struct vine_digest *digest, bool trusted)
{
    struct host *h = ctx;
    uint32_t thing = thing_of(the_sim, digest);

    for (uint32_t p = 0; p < the_sim->things[thing].pieces; p++)
        if (!h->stored[thing].present || !bits_get(h->stored[thing].have, p))
            fail(the_sim, "%s publishes without piece %u", h->name, p);
    h->publishing[thing]++;
    at(the_sim, the_sim->now_us + h->disk_us,
       (struct event){.run = published,
                      .host = h->index,
                      .epoch = h->epoch,
                      .a = thing,
                      .b = trusted});
}

static void mounted(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];
    struct vine_err err = {0};

    if (h->core == NULL || h->epoch != e->epoch || host_held(sim, h, e))
        return;
    h->mounting--;
    if (!h->stored[e->a].complete)
        vine_err_set(&err, VINE_ENOENT, "it was removed meanwhile");
    node_mounted(h->core, &sim->things[e->a].digest, (uint32_t)e->b, &err, now_ms(sim));
    host_timer(sim, h);
}

/* Who has built it, or read one that is signed: any of them may say so to all. */
static bool is_vouched_for(const struct sim *sim, uint32_t thing)
{
    if (sim->options.seeded || thing >= sim->thing_count)
        return true;
    for (uint32_t i = 0; i < sim->source_count; i++)
        if (sim->sources[i].thing == thing && !sim->sources[i].foreign)
            return true;
    return false;
}

static void op_mount(void *ctx, const struct vine_digest *digest, uint32_t mount_uid,
                     bool trusted)
{
    struct host *h = ctx;
    uint32_t thing = thing_of(the_sim, digest);

    if (!h->stored[thing].complete)
        fail(the_sim, "%s mounts what is not complete", h->name);
    if (trusted != (mount_uid == NODE_ANY_UID))
        fail(the_sim, "%s mounts trusted=%d for uid %u", h->name, trusted, mount_uid);
    if (trusted && !is_vouched_for(the_sim, thing))
        fail(the_sim, "%s lets the kernel mount what nobody vouches for", h->name);
    h->mounting++;
    at(the_sim, the_sim->now_us + h->disk_us,
       (struct event){.run = mounted,
                      .host = h->index,
                      .epoch = h->epoch,
                      .a = thing,
                      .b = mount_uid});
}

static void op_remove(void *ctx, const struct vine_digest *digest)
{
    struct host *h = ctx;

    note(the_sim, "%s removes an object", h->name);
    h->lost_pieces = true;
    the_sim->troubles++;
    lazy_removed(the_sim, h, thing_of(the_sim, digest));
    stored_drop(h, thing_of(the_sim, digest));
}

static void op_reply(void *ctx, uint64_t client, const struct node_result *results,
                     uint32_t count)
{
    scenario_reply(the_sim, ctx, client, results, count);
}

static void op_answer(void *ctx, uint64_t client, enum vine_code code, const char *text)
{
    scenario_answer(the_sim, ctx, client, code, text);
}

static void saved_free(struct host *h)
{
    while (h->saved != NULL) {
        struct saved *s = h->saved;
        h->saved = s->next;
        free(s);
    }
}

static void save_one(void *arg, const struct node_job_info *job)
{
    struct host *h = arg;
    size_t len = strlen(job->path) + 1;
    struct saved *s;

    if (!job->bound)
        return;
    s = calloc(1, sizeof(*s) + len);
    if (s == NULL)
        abort();
    s->job = job->job;
    s->uid = job->uid;
    s->gid = job->gid;
    s->digest = job->digest;
    memcpy(s->path, job->path, len);
    s->next = h->saved;
    h->saved = s;
}

static void save_later(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];

    if (h->core == NULL || h->epoch != e->epoch || host_held(sim, h, e))
        return;
    saved_free(h);
    node_each_job(h->core, save_one, h);
}

static bool op_has_tasks(void *ctx, uint64_t job)
{
    const struct host *h = ctx;

    for (uint32_t i = 0; i < the_sim->job_count; i++)
        if (the_sim->jobs[i].job == job)
            return the_sim->jobs[i].member[h->index] && !the_sim->jobs[i].ended;
    return false;
}

static void op_save(void *ctx)
{
    struct host *h = ctx;

    at(the_sim, the_sim->now_us + h->disk_us,
       (struct event){.run = save_later, .host = h->index, .epoch = h->epoch});
}

static void op_remember_key(void *ctx, const struct vine_digest *digest,
                            const struct vine_digest *key)
{ /* what a restarted host knows is drawn with it */
}

static void op_log(void *ctx, int level, const char *line)
{
    note(the_sim, "%s: %s", ((struct host *)ctx)->name, line);
}

const struct node_ops host_ops = {
    .send = op_send,
    .manager_silent = manager_silent,
    .source_resolve = origin_resolve,
    .source_open = origin_open,
    .source_prove = origin_prove,
    .source_build = origin_build,
    .source_close = origin_close,
    .fetch = op_fetch,
    .fetch_origin = op_fetch_origin,
    .fetch_cancel = op_fetch_cancel,
    .reuse = host_reuse,
    .publish = op_publish,
    .mount = op_mount,
    .remember_key = op_remember_key,
    .lazy_look = lazy_look,
    .lazy_mount = lazy_mount,
    .lazy_have = lazy_have,
    .lazy_leave = lazy_leave,
    .touched = lazy_touched,
    .remove = op_remove,
    .reply = op_reply,
    .answer = op_answer,
    .save = op_save,
    .has_tasks = op_has_tasks,
    .log = op_log,
};

/* ---- time ---- */

static void on_timer(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];

    if (h->core == NULL || h->epoch != e->epoch || h->timer_us != e->at_us ||
        h->frozen_until_us > 0)
        return;
    h->timer_us = EVER;
    if (node_next_deadline(h->core) <= now_ms(sim))
        node_tick(h->core, now_ms(sim));
    if (node_next_deadline(h->core) > now_ms(sim))
        h->idle_ticks = 0;
    else if (++h->idle_ticks > 100)
        fail(sim, "%s: the deadline stays in the past", h->name);
    host_timer(sim, h);
}

void host_timer(struct sim *sim, struct host *h)
{
    uint64_t due;

    /* An event may have ended the node. */
    due =
        h->core == NULL || h->frozen_until_us > 0 ? EVER : node_next_deadline(h->core);
    if (due == EVER)
        return;
    due = due * MS < sim->now_us ? sim->now_us : due * MS;
    if (due >= h->timer_us)
        return;
    h->timer_us = due;
    at(sim, due, (struct event){.run = on_timer, .host = h->index, .epoch = h->epoch});
}

/* ---- life ---- */

void host_init(struct sim *sim, uint32_t index)
{
    struct host *h = &sim->hosts[index];

    the_sim = sim;
    h->index = index;
    h->timer_us = EVER;
    h->owes_since_ms = EVER;
    h->disk_us = MS;
    h->cache_max = UINT64_MAX;
    (void)snprintf(h->name, sizeof(h->name), "n%u", index);
    (void)snprintf(h->addr, sizeof(h->addr), "10.0.%u.%u", index / 256, index % 256);
}

static void restore_object(struct sim *sim, struct host *h, uint32_t thing)
{
    const struct thing *t = &sim->things[thing];
    struct stored *s = &h->stored[thing];
    bool *have = calloc(t->pieces, sizeof(*have));
    struct msg_object object = {.digest = t->digest,
                                .size = t->size,
                                .pieces = t->pieces,
                                .complete = s->complete,
                                .trusted = s->trusted,
                                .key_count = s->complete ? 1 : 0,
                                .keys = &t->key};
    struct vine_err err = {0};

    if (have == NULL)
        abort();
    for (uint32_t p = 0; p < t->pieces; p++)
        have[p] = bits_get(s->have, p);
    if (node_restore_object(h->core, &object, have, 1, &err) < 0)
        fail(sim, "%s: restore: %s", h->name, err.text);
    free(have);
}

void host_boot(struct sim *sim, struct host *h)
{
    struct node_limits limits;
    char leaf[16] = "";

    node_limits_default(&limits);
    limits.port = (uint16_t)(7000 + h->index % 50000);
    limits.store_name = "/local/vine";
    limits.manager_name = "ctl:7110";
    limits.cache_max = h->cache_max;
    if (sim->leaf_count > 1)
        (void)snprintf(leaf, sizeof(leaf), "leaf%u", h->leaf);
    limits.switch_name = leaf;
    h->core = node_new(&host_ops, h, &limits);
    h->silent = false;
    h->idle_ticks = 0;
    h->owes_since_ms = EVER;
    note(sim, "%s boots", h->name);
    for (uint32_t i = 0; i < sim->part_count; i++) /* as the store's scan does */
        stored_drop(h, sim->thing_count + i);
    for (uint32_t i = 0; i < sim->thing_count; i++)
        if (h->stored[i].present)
            restore_object(sim, h, i);
    for (struct saved *s = h->saved; s != NULL; s = s->next) {
        struct msg_binding b = {
            .job = s->job, .uid = s->uid, .path = s->path, .digest = s->digest};
        (void)node_restore_binding(h->core, &b, s->gid, NULL);
    }
    lazy_booted(sim, h);
    control_connect(sim, h, 10 * MS + draw(sim, 20 * MS));
    scenario_booted(sim, h);
    host_timer(sim, h);
}

static void tickets_free(struct host *h)
{
    while (h->tickets != NULL) {
        struct origin_ticket *t = h->tickets;
        h->tickets = t->next;
        free(t);
    }
}

void host_die(struct sim *sim, struct host *h, bool silent)
{
    if (h->core == NULL)
        return;
    note(sim, "%s dies%s", h->name, silent ? " without a word" : "");
    h->silent = silent;
    h->deaths++;
    h->lost_pieces = true;
    control_cut(sim, h, false);
    node_free(h->core);
    h->core = NULL;
    lazy_host_gone(sim, h, silent);
    h->up = false;
    h->conn = 0;
    net_host_gone(sim, h);
    h->epoch++;
    h->timer_us = EVER;
    h->frozen_until_us = 0;
    h->mounting = 0;
    memset(h->publishing, 0, sizeof(h->publishing));
    sim->troubles++;
    while (h->fetches != NULL)
        host_end_fetch(h, h->fetches->id);
    tickets_free(h);
    for (uint32_t i = 0; i < THINGS_MAX; i++) { /* parts of pieces are forgotten */
        free(h->stored[i].missing);
        h->stored[i].missing = NULL;
        h->stored[i].reuse = 0;
    }
}

/* As the loop does it: first the timers, which have jumped, then what came meanwhile.
 */
static void thaw(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];

    if (h->core == NULL || h->epoch != e->epoch || h->frozen_until_us == 0)
        return;
    note(sim, "%s goes on", h->name);
    h->frozen_until_us = 0;
    h->heard_ms = now_ms(sim);
    h->timer_us = EVER;
    sim->thawing = true;
    if (node_next_deadline(h->core) <= now_ms(sim))
        node_tick(h->core, now_ms(sim));
    sim->thawing = false;
    net_kick(sim, h);
    host_timer(sim, h);
}

void host_freeze(struct sim *sim, struct host *h, uint64_t until_us)
{
    note(sim, "%s freezes", h->name);
    sim->troubles++;
    h->frozen_until_us = until_us;
    at(sim, until_us, (struct event){.run = thaw, .host = h->index, .epoch = h->epoch});
}

bool host_held(struct sim *sim, const struct host *h, const struct event *e)
{
    if (h->core == NULL || h->frozen_until_us == 0)
        return false;
    at(sim, h->frozen_until_us, *e);
    return true;
}

void host_free(struct host *h)
{
    node_free(h->core);
    h->core = NULL;
    while (h->fetches != NULL)
        host_end_fetch(h, h->fetches->id);
    tickets_free(h);
    net_free(h);
    saved_free(h);
    for (uint32_t i = 0; i < THINGS_MAX; i++) {
        lazy_drop(h, i);
        stored_drop(h, i);
    }
}
