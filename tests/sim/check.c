/* check.c - what must hold, during a run and at its end.
 *
 * The manager's books are counted anew from time to time and compared: that finds a
 * wrong count long before it does harm. */
#include <stdlib.h>
#include <string.h>

#include "daemon/core/mgr_feed.h"
#include "tests/sim/sim.h"

#define TICK_MS 250u /* of a manager with work */

static bool on_disk(const struct host *h, uint32_t thing, uint32_t piece)
{
    return h->stored[thing].present && bits_get(h->stored[thing].have, piece);
}

/* The manager gave this piece to the node, or looks for somebody to give it, or lets it
 * read the source: it will come. */
static bool is_given(const struct sim *sim, const struct host *h, uint32_t thing,
                     uint32_t piece)
{
    const struct object *o = mgr_object_find(sim->mgr, &sim->things[thing].digest);
    const struct mgr_node *n = mgr_find_name(sim->mgr, h->name);
    const struct holder *holder =
        o == NULL || n == NULL ? NULL : mgr_holder_find(sim->mgr, o, n);

    for (const struct source *s = o == NULL ? NULL : o->sources; s != NULL;
         s = s->object_next)
        if (s->streaming && s->origin == n)
            return true;
    return holder != NULL && holder->in != NULL &&
           (holder->in->loose || bits_get(holder->in->asked, piece));
}

/* It was on its way before, and is asked for again from another one. */
static bool is_doubled(const struct holder *h, uint32_t piece)
{
    uint32_t times = 0;

    for (uint32_t i = 0; i < h->in->flights; i++)
        times += h->in->flight[i].piece == piece;
    return times > 1;
}

/* While tasks start there only what they wait for, or others did, is sent. */
static void check_held(struct sim *sim, const struct host *to, const struct msg *m)
{
    const struct object *o = mgr_object_find(sim->mgr, &m->digest);
    const struct mgr_node *n = mgr_find_name(sim->mgr, to->name);
    const struct holder *h =
        o == NULL || n == NULL ? NULL : mgr_holder_find(sim->mgr, o, n);

    if (h == NULL || h->in == NULL || !(h->in->held || h->reusing))
        return;
    for (uint32_t i = 0; i < m->assign_count; i++)
        for (uint32_t k = 0; k < m->assigns[i].range.count; k++) {
            uint32_t piece = m->assigns[i].range.first + k;
            bool wanted = (h->in->urgent != NULL && bits_get(h->in->urgent, piece)) ||
                          (o->soon != NULL && bits_get(o->soon, piece));
            if (piece > 0 && (h->reusing || !wanted) && !is_doubled(h, piece))
                fail(sim, "%s holds back, or reuses, and is to fetch piece %u",
                     to->name, piece);
        }
}

/* An assignment as the manager sends it: the sender has verified the piece or was given
 * it before. It may have lost it since, by dying or evicting; nothing else takes a
 * piece away. */
void check_assign(struct sim *sim, uint32_t to, const struct msg *m)
{
    uint32_t thing = thing_of(sim, &m->digest);

    check_held(sim, &sim->hosts[to], m);
    for (uint32_t i = 0; i < m->assign_count; i++) {
        const struct msg_assign *a = &m->assigns[i];
        const struct host *from = &sim->hosts[atoi(a->peer + 1)];
        if (from->index == to)
            fail(sim, "%s is to fetch from itself", from->name);
        for (uint32_t p = 0; p < a->range.count; p++)
            if (!on_disk(from, thing, a->range.first + p) && !from->lost_pieces &&
                !is_given(sim, from, thing, a->range.first + p))
                fail(sim, "%s is to send piece %u, which it does not have", from->name,
                     a->range.first + p);
    }
}

void check_served(struct sim *sim, const struct host *from, uint32_t thing,
                  uint32_t piece)
{
    if (!on_disk(from, thing, piece))
        fail(sim, "%s serves piece %u, which it has not verified", from->name, piece);
}

static void check_node(struct sim *sim, const struct mgr_node *n)
{
    uint32_t sending = 0, receiving = 0, feeding = 0;

    if (n->feeding > FEEDS_OUT_MAX)
        fail(sim, "%s: %u feeds planned", n->name, n->feeding);
    if (n->sending > sim->mgr_limits.uploads)
        fail(sim, "%s: %u uploads planned", n->name, n->sending);
    if (n->receiving > sim->mgr_limits.window)
        fail(sim, "%s: %u pieces outstanding", n->name, n->receiving);
    for (const struct object *o = sim->mgr->first_active; o != NULL; o = o->active_next)
        for (const struct holder *h = o->holders; h != NULL; h = h->object_next) {
            if (h->in == NULL)
                continue;
            if (h->node == n)
                receiving += h->in->outstanding;
            for (uint32_t i = 0; i < h->in->flights; i++)
                sending += h->in->flight[i].from == n;
            for (uint32_t i = 0; i < FEEDS_MAX; i++)
                feeding += h->in->feed[i].from == n;
        }
    if (feeding != n->feeding)
        fail(sim, "%s: feeds %u, counted %u", n->name, n->feeding, feeding);
    if (sending != n->sending || receiving != n->receiving)
        fail(sim, "%s: sending %u, counted %u; receiving %u, counted %u", n->name,
             n->sending, sending, n->receiving, receiving);
}

/* Who is to send has it, was given it, or reads it; asked: less those of feeds. */
static void check_feeds(struct sim *sim, const struct holder *h, uint32_t *asked,
                        uint32_t *spread)
{
    uint32_t feeds = 0;

    for (uint32_t i = 0; h->in != NULL && i < FEEDS_MAX; i++) {
        const struct feed *f = &h->in->feed[i];
        feeds += f->from != NULL;
        for (uint64_t left = f->awaited; left != 0; left &= left - 1) {
            uint32_t piece = f->first + (uint32_t)__builtin_ctzll(left);
            bool flies = false;
            for (uint32_t j = 0; j < h->in->flights; j++)
                flies |= h->in->flight[j].piece == piece;
            *asked -= !flies;
            spread[piece]++;
            if (!bits_get(h->in->asked, piece))
                fail(sim, "%s: piece %u is fed but not asked for", h->node->name,
                     piece);
        }
        if (f->from != NULL && f->awaited == 0)
            fail(sim, "%s: a feed brings nothing", h->node->name);
    }
    if (h->in != NULL && feeds != h->in->feeds)
        fail(sim, "%s: %u feeds, counted %u", h->node->name, h->in->feeds, feeds);
}

static void check_holder(struct sim *sim, const struct holder *h, uint32_t *copies,
                         uint32_t *spread)
{
    uint32_t have = 0, asked = 0, counted = h->in == NULL ? 0 : h->in->asked_count;

    for (uint32_t p = 0; p < h->object->pieces; p++) {
        bool has = mgr_holder_has(h, p);
        have += has;
        copies[p] += has && !h->avoided;
        spread[p] += has && !h->avoided;
        if (h->in != NULL && bits_get(h->in->asked, p)) {
            asked++;
            counted--;
            if (has)
                fail(sim, "%s: piece %u is had and asked for", h->node->name, p);
        }
    }
    if (counted != 0)
        fail(sim, "%s: pieces asked for are miscounted", h->node->name);
    for (uint32_t i = 0; h->in != NULL && i < h->in->flights; i++)
        spread[h->in->flight[i].piece]++;
    check_feeds(sim, h, &asked, spread);
    if (have != h->have_count)
        fail(sim, "%s: has %u pieces, counted %u", h->node->name, h->have_count, have);
    if (h->in != NULL && asked != h->in->outstanding)
        fail(sim, "%s: %u outstanding, counted %u", h->node->name, h->in->outstanding,
             asked);
    if ((h->in != NULL) != (h->supply > 0 && !h->complete))
        fail(sim, "%s: supplied %u, complete %d, intake %d", h->node->name, h->supply,
             h->complete, h->in != NULL);
    if ((h->receive.list != NULL) != mgr_plan_has_room(sim->mgr, h))
        fail(sim, "%s: listed as receiver: %u", h->node->name, h->receive.list != NULL);
    if ((h->send.list != NULL) != mgr_plan_may_send(sim->mgr, h))
        fail(sim, "%s: listed as sender: %u", h->node->name, h->send.list != NULL);
}

static void check_object(struct sim *sim, const struct object *o)
{
    uint32_t *copies = calloc(o->pieces, sizeof(*copies));
    uint32_t *spread = calloc(o->pieces, sizeof(*spread));
    uint32_t pending = 0, held = 0, urgents = 0, reusing = 0;

    for (const struct holder *h = o->holders; h != NULL; h = h->object_next) {
        check_holder(sim, h, copies, spread);
        held += h->in != NULL && h->in->held;
        reusing += h->reusing;
        urgents += h->in != NULL && h->in->urgent != NULL;
    }
    if (held != o->held || urgents != o->urgents)
        fail(sim, "object %u: %u hold, counted %u; tasks wait on %u, counted %u", o->id,
             o->held, held, o->urgents, urgents);
    if (reusing != o->reusing)
        fail(sim, "object %u: %u reuse, counted %u", o->id, reusing, o->reusing);
    for (uint32_t p = 0; p < o->pieces; p++)
        if (copies[p] != o->copies[p] || spread[p] != o->spread[p])
            fail(sim, "piece %u: copies %u, counted %u; spread %u, counted %u", p,
                 o->copies[p], copies[p], o->spread[p], spread[p]);
    for (uint32_t i = 0; i < SEGMENTS_KEPT; i++)
        pending += o->feed.total[i] > 0 && o->feed.had_ms[i] == 0;
    if (o->feed.state == FEED_ON && pending != o->feed.pending)
        fail(sim, "object %u: %u segments pending, counted %u", o->id, o->feed.pending,
             pending);
    free(copies);
    free(spread);
}

void check_deep(struct sim *sim)
{
    sim->checks++;
    if (sim->mgr == NULL)
        return;
    for (const struct mgr_node *n = sim->mgr->first_node; n != NULL; n = n->next)
        check_node(sim, n);
    for (const struct object *o = sim->mgr->first_active; o != NULL; o = o->active_next)
        check_object(sim, o);
}

/* A file whose trailer names what it does not have has shown nothing, ever. */
static void check_keys(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->source_count && sim->hollow; i++) {
        struct vine_digest key = origin_key(sim, i);
        if (sim->sources[i].hollow && mgr_object_of_key(sim->mgr, &key) != NULL)
            fail(sim, "%s is believed to have what it names", sim->sources[i].path);
    }
}

/* The manager stood still so long, and could not miss a word. */
void check_paused(struct sim *sim, uint64_t ms)
{
    for (uint32_t i = 0; i < sim->host_count; i++)
        if (sim->hosts[i].owes_since_ms != EVER)
            sim->hosts[i].owes_since_ms += ms;
}

/* Who owes the manager something is heard of, or asked and then dropped, at a tick. */
static void check_silence(struct sim *sim, const struct mgr_node *n)
{
    const struct mgr_limits *l = &sim->mgr_limits;
    struct host *h = &sim->hosts[atoi(n->name + 1)];
    uint64_t most = (uint64_t)l->heartbeat_ms + l->dead_ms + 2 * TICK_MS +
                    crowd_quiet_ms(sim->mgr->crowd);

    if (n->receiving + n->tickets + n->sending + n->feeding == 0)
        h->owes_since_ms = EVER;
    else if (h->owes_since_ms == EVER || h->owes_since_ms < n->seen_ms)
        h->owes_since_ms = now_ms(sim);
    if (h->owes_since_ms != EVER && now_ms(sim) > h->owes_since_ms + most)
        fail(sim, "the manager waits for %s, silent for %llu ms", n->name,
             (unsigned long long)(now_ms(sim) - n->seen_ms));
}

/* While anything is under way the manager looks at it again soon, and for each source
 * without an answer somebody works. */
void check_manager(struct sim *sim)
{
    const struct mgr *mgr = sim->mgr;

    if (mgr == NULL)
        return;
    check_keys(sim);
    if ((mgr->first_active != NULL || mgr->tickets.count > 0 || mgr->due_sources > 0) &&
        mgr_next_deadline(mgr) > now_ms(sim) + TICK_MS)
        fail(sim, "the manager has work and no deadline");
    for (const struct mgr_node *n = mgr->first_node; n != NULL; n = n->next) {
        check_silence(sim, n);
        for (const struct want *w = n->wants; w != NULL; w = w->node_next)
            if (w->source->state != SOURCE_BOUND && w->source->state != SOURCE_QUEUED &&
                w->source->origin == NULL && !w->source->due)
                fail(sim, "nobody works on what %s wants", n->name);
    }
}

/* Steps ask again for what they have no room for while that may change. */
static uint64_t tries_of(const struct sim *sim, uint32_t source)
{
    uint64_t tries = 0;

    for (uint32_t i = 0; sim->room_comes && i < sim->job_count; i++) {
        const struct sim_job *j = &sim->jobs[i];
        bool wants = false;
        for (uint32_t k = 0; k < j->source_count; k++)
            wants = wants || j->source[k] == source;
        for (uint32_t h = 0; wants && !j->stage && h < sim->host_count; h++)
            tries += j->wait[h].tries;
    }
    return tries;
}

/* Undisturbed, a source is read once; the manifest and its like are the rest. A trouble
 * may cost a proof and another reading: a manager that restarts knows neither who has
 * proved it nor, until they are back, who has it. */
void check_read(struct sim *sim, uint32_t source)
{
    const struct origin_source *s = &sim->sources[source];
    uint64_t size = sim->things[s->thing].size, most = size * 102 / 100;

    /* Nobody has what a lazy job does not wait for: the next origin proves or reads it,
     * and may have little of the rest. */
    most += sim->lazy_jobs * 2 * size;
    /* A build of the same content may end its stream: then nothing is known of it. */
    if (s->packed && (!sim->sources[s->thing].packed || names_make(sim, s->thing)))
        most += 2 * size;
    if (sim->faulty || sim->hollow)
        most += sim->troubles * 2 * size;
    /* No job gets it; a node's prolog or step that asks after the others tries. */
    if (thing_claims(sim, s->thing) || s->hollow)
        most += sim->job_count * 2 * sim->host_count * size;
    /* Its node tries again while its disk is full. */
    most += (names_tries(sim, source) + 2 * tries_of(sim, source)) * size;
    if (s->bytes_read > most)
        fail(sim, "%s was read %.2f times, after %u troubles", s->path,
             (double)s->bytes_read / (double)size, sim->troubles);
}

static void node_idle(void *arg, const struct mgr_node_info *n)
{
    if (n->sending > 0 || n->receiving > 0)
        fail(arg, "at the end %s has %u to send and %u to receive", n->name, n->sending,
             n->receiving);
}

static void check_host_end(struct sim *sim, struct host *h)
{
    struct node_totals totals;
    uint64_t used = 0;

    if (h->core == NULL || h->frozen_until_us == EVER)
        return;
    node_totals(h->core, &totals);
    if (totals.transfers > 0 || h->fetches != NULL)
        fail(sim, "at the end %s has transfers", h->name);
    if (totals.jobs > 0)
        fail(sim, "at the end %s has %u jobs", h->name, totals.jobs);
    if (h->tickets != NULL)
        fail(sim, "at the end %s has a source open", h->name);
    for (uint32_t i = 0; i < sim->thing_count; i++)
        used += h->stored[i].present ? sim->things[i].size : 0;
    for (uint32_t i = 0; i < sim->part_count; i++)
        if (h->stored[sim->thing_count + i].present)
            fail(sim, "at the end %s keeps a part of a build", h->name);
    if (totals.store_used > h->cache_max || totals.store_used < used)
        fail(sim, "at the end %s uses %llu bytes, on disk %llu, limit %llu", h->name,
             (unsigned long long)totals.store_used, (unsigned long long)used,
             (unsigned long long)h->cache_max);
}

/* So many that all the origins tried may have been among them: a liar is none either,
 * nor who was away meanwhile. */
static bool no_space_anywhere(const struct sim *sim)
{
    uint32_t tight = 0, others = 0;

    for (uint32_t i = 0; i < sim->host_count; i++) {
        const struct host *h = &sim->hosts[i];
        if (h->cache_max != UINT64_MAX || h->was_full)
            tight++;
        else if (h->corrupt || h->lost_manager || h->deaths > 0 ||
                 h->frozen_until_us > 0)
            others++;
    }
    return tight > 0 && tight + others >= VINE_RESOLVE_TRIES;
}

static void check_wait(struct sim *sim, const struct sim_job *j, uint32_t host)
{
    const struct wait *w = &j->wait[host];
    const struct host *h = &sim->hosts[host];
    bool denied = false, forged = false, hollow = false, tight = false;

    if (!j->member[host] || w->state == WAIT_GONE || j->cancelled)
        return;
    for (uint32_t i = 0; i < j->source_count; i++) {
        denied |= sim->sources[j->source[i]].denied_uid == j->uid;
        forged |= thing_claims(sim, sim->sources[j->source[i]].thing);
        hollow |= sim->sources[j->source[i]].hollow;
    }
    tight = h->cache_max != UINT64_MAX || h->full || no_space_anywhere(sim);
    /* A lazy job began with what is there. */
    if (w->state == WAIT_DONE ? denied || (forged && !j->lazy)
                              : w->state != WAIT_FAILED)
        fail(sim, "job %llu on %s: state %d at the end", (unsigned long long)j->job,
             h->name, w->state);
    if (w->state == WAIT_FAILED && !(denied && w->code == VINE_EACCES) &&
        !((forged || hollow) && w->code == VINE_ECORRUPT) &&
        !(tight && w->code == VINE_ENOSPC))
        fail(sim, "job %llu on %s failed: %s", (unsigned long long)j->job, h->name,
             vine_code_name(w->code));
}

void check_end(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->job_count; i++) {
        const struct sim_job *j = &sim->jobs[i];
        for (uint32_t h = 0; h < sim->host_count && !j->stage; h++)
            check_wait(sim, j, h);
        if (j->stage && !j->answered && sim->hosts[j->asker].deaths == 0)
            fail(sim, "stage %u was not answered", i);
    }
    for (uint32_t i = 0; i < sim->host_count; i++)
        check_host_end(sim, &sim->hosts[i]);
    if (sim->mgr != NULL) {
        check_deep(sim);
        mgr_each_node(sim->mgr, node_idle, sim);
        if (sim->mgr->sources.count > 0 || sim->mgr->tickets.count > 0 ||
            sim->mgr->stages.count > 0)
            fail(sim, "at the end the manager has %u sources, %u tickets, %u stages",
                 sim->mgr->sources.count, sim->mgr->tickets.count,
                 sim->mgr->stages.count);
    }
}

/* What the manager believes, for the end of the trace of a run that failed. */
void check_dump(struct sim *sim)
{
    const struct object *o = sim->mgr == NULL ? NULL : sim->mgr->first_active;

    for (; o != NULL; o = o->active_next) {
        note(sim, "object %u: %u pieces, %u hungry, %u missing, mean %u ms", o->id,
             o->pieces, o->hungry, o->missing, o->mean_ms);
        note(sim, "  feeds %d: next %u, low %u, segment %u, pending %u", o->feed.state,
             o->feed.next, o->feed.low, o->feed.segment, o->feed.pending);
        for (const struct holder *h = o->holders; h != NULL; h = h->object_next) {
            note(sim,
                 "  %s: have %u, supply %u, avoided %d, slow %d, sending %u, "
                 "receiving %u, feeding %u, fed %u",
                 h->node->name, h->have_count, h->supply, h->avoided,
                 mgr_slow_either(h->node), h->node->sending, h->node->receiving,
                 h->node->feeding, h->in == NULL ? 0 : h->in->feeds);
            for (uint32_t i = 0; h->in != NULL && i < h->in->flights; i++)
                note(sim, "    piece %u from %s since %llu", h->in->flight[i].piece,
                     h->in->flight[i].from->name,
                     (unsigned long long)h->in->flight[i].planned_ms);
            for (uint32_t i = 0; h->in != NULL && i < SHUN_MAX; i++)
                if (h->in->shun[i].node_id != 0)
                    note(sim, "    shuns node %u until %llu, corrupt %d",
                         h->in->shun[i].node_id,
                         (unsigned long long)h->in->shun[i].until_ms,
                         h->in->shun[i].corrupt);
        }
    }
}
