/* mgr_object.c - the manager's books: objects, and who holds how much of them.
 *
 * An object exists while a node holds any of it or a source is bound to it. It is
 * active while some holder is hungry (supplied and incomplete); only then are pieces
 * counted and holders listed, so that thousands of idle objects cost a few words a
 * holder.
 *
 * What must hold while active: copies[p] counts the holders that have p and are not
 * avoided; spread[p] is copies[p] and the flights of p; a holder is among the senders
 * exactly when mgr_plan_may_send, among the receivers exactly when mgr_plan_has_room.
 * mgr_holder_changed restores the last two after any change. */
#include <string.h>

#include "daemon/core/mgr_feed.h"

static void list_free(struct list *list)
{
    free(list->at);
    *list = (struct list){0};
}

/* Into this list; NULL: out of the one where it is. Out of memory: no partner until its
 * next change. */
static void seat_move(struct list *list, struct holder *h, bool sender)
{
    struct seat *seat = sender ? &h->send : &h->receive;

    if (seat->list == list)
        return;
    if (seat->list != NULL) {
        struct holder *last = seat->list->at[--seat->list->count];
        seat->list->at[seat->at] = last;
        (sender ? &last->send : &last->receive)->at = seat->at;
    }
    *seat = (struct seat){0};
    if (list != NULL && mgr_list_push(list, h) == 0)
        *seat = (struct seat){.list = list, .at = list->count - 1};
}

static void holder_place(struct mgr *mgr, struct holder *h)
{
    struct object *o = h->object;
    bool last = mgr->now_ms < h->node->suspect_until_ms || h->node->out.slow ||
                mgr_plan_is_top(h);
    struct list *senders = last ? &o->last_senders : &o->senders;

    seat_move(mgr_plan_may_send(mgr, h) ? senders : NULL, h, true);
    seat_move(mgr_plan_has_room(mgr, h) ? &o->receivers : NULL, h, false);
}

static void dirty_remove(struct mgr *mgr, struct holder *h)
{
    struct holder *last;

    if (h->dirty_at == 0)
        return;
    last = mgr->dirty.at[--mgr->dirty.count];
    mgr->dirty.at[h->dirty_at - 1] = last;
    last->dirty_at = h->dirty_at;
    h->dirty_at = 0;
}

void mgr_holder_changed(struct mgr *mgr, struct holder *h)
{
    if (!h->object->active)
        return;
    holder_place(mgr, h);
    /* Out of memory: the next sweep plans for it. */
    if (h->dirty_at == 0 && mgr_list_push(&mgr->dirty, h) == 0)
        h->dirty_at = mgr->dirty.count;
}

void mgr_node_changed(struct mgr *mgr, struct mgr_node *node)
{
    for (struct holder *h = node->active; h != NULL; h = h->active_next)
        mgr_holder_changed(mgr, h);
}

/* A flag and not the clock decides, so that what was counted in is counted out. */
static void avoided_refresh(const struct mgr *mgr, struct holder *h)
{
    if (!h->avoided || h->avoid_until_ms > mgr->now_ms)
        return;
    h->avoided = false;
    h->accusers = 0;
}

/* Count one holder's piece in or out. */
static void count_piece(struct object *o, uint32_t piece, bool in)
{
    if (in && o->copies[piece]++ == 0)
        o->missing--;
    if (!in && --o->copies[piece] == 0)
        o->missing++;
    o->spread[piece] += in ? 1u : -1u;
}

static void count_holder(struct object *o, const struct holder *h, bool in)
{
    for (uint32_t p = 0; p < o->pieces; p++)
        if (mgr_holder_has(h, p))
            count_piece(o, p, in);
}

static void active_link(struct holder *h)
{
    struct mgr_node *node = h->node;

    h->active_prev = NULL;
    h->active_next = node->active;
    if (node->active != NULL)
        node->active->active_prev = h;
    node->active = h;
}

static void active_unlink(struct mgr *mgr, struct holder *h)
{
    seat_move(NULL, h, true);
    seat_move(NULL, h, false);
    dirty_remove(mgr, h);
    if (h->active_prev != NULL)
        h->active_prev->active_next = h->active_next;
    else
        h->node->active = h->active_next;
    if (h->active_next != NULL)
        h->active_next->active_prev = h->active_prev;
    h->active_next = h->active_prev = NULL;
}

static int object_activate(struct mgr *mgr, struct object *o)
{
    o->copies = calloc(o->pieces, sizeof(*o->copies));
    o->spread = calloc(o->pieces, sizeof(*o->spread));
    if (o->copies == NULL || o->spread == NULL) {
        free(o->copies);
        free(o->spread);
        o->copies = o->spread = NULL;
        return -1;
    }
    o->active = true;
    o->feed = (struct feeding){0};
    o->missing = o->pieces;
    o->missing_since_ms = 0;
    o->active_prev = NULL;
    o->active_next = mgr->first_active;
    if (mgr->first_active != NULL)
        mgr->first_active->active_prev = o;
    mgr->first_active = o;
    for (struct holder *h = o->holders; h != NULL; h = h->object_next) {
        active_link(h);
        avoided_refresh(mgr, h);
        if (!h->avoided)
            count_holder(o, h, true);
    }
    for (struct holder *h = o->holders; h != NULL; h = h->object_next)
        mgr_holder_changed(mgr, h);
    return 0;
}

static void object_deactivate(struct mgr *mgr, struct object *o)
{
    for (struct holder *h = o->holders; h != NULL; h = h->object_next)
        active_unlink(mgr, h);
    o->active = false;
    if (o->active_prev != NULL)
        o->active_prev->active_next = o->active_next;
    else
        mgr->first_active = o->active_next;
    if (o->active_next != NULL)
        o->active_next->active_prev = o->active_prev;
    list_free(&o->senders);
    list_free(&o->last_senders);
    list_free(&o->receivers);
    free(o->copies);
    free(o->spread);
    o->copies = o->spread = NULL;
    free(o->soon);
    free(o->read_at);
    o->soon = NULL;
    o->read_at = NULL;
    o->reads = 0;
}

struct object *mgr_object_find(const struct mgr *mgr, const struct vine_digest *digest)
{
    struct table_link *l = table_find(&mgr->objects, hash_digest(digest));

    for (; l != NULL; l = table_next_same(l)) {
        struct object *o = table_entry(l, struct object, link);
        if (vine_digest_equal(&o->digest, digest))
            return o;
    }
    return NULL;
}

int mgr_object_get(struct mgr *mgr, const struct vine_digest *digest, uint64_t size,
                   uint32_t pieces, bool trusted, struct object **out,
                   struct vine_err *err)
{
    struct object *o = mgr_object_find(mgr, digest);
    char hex[VINE_HEX_LEN + 1];

    if (o == NULL) {
        if (pieces == 0 || pieces > VINE_PIECES_MAX || size > VINE_OBJECT_MAX)
            return vine_err_set(err, VINE_EPROTO, "an object of %u pieces", pieces);
        o = calloc(1, sizeof(*o));
        if (o == NULL)
            return vine_err_set(err, VINE_ENOMEM, "no memory for an object");
        o->id = ++mgr->last_object_id;
        o->digest = *digest;
        o->size = size;
        o->pieces = pieces;
        o->prev = mgr->last_object;
        *(o->prev != NULL ? &o->prev->next : &mgr->first_object) = o;
        mgr->last_object = o;
        table_add(&mgr->objects, &o->link, hash_digest(digest));
    } else if (o->size != size || o->pieces != pieces) {
        vine_digest_hex(digest, hex);
        return vine_err_set(
            err, VINE_EPROTO,
            "object %.8s: %llu bytes in %u pieces, others say %llu in %u", hex,
            (unsigned long long)size, pieces, (unsigned long long)o->size, o->pieces);
    }
    o->trusted |= trusted;
    *out = o;
    return 0;
}

static void key_free(struct mgr *mgr, struct key *k)
{
    table_remove(&mgr->keys, &k->link);
    free(k);
}

void mgr_object_put(struct mgr *mgr, struct object *o)
{
    if (o->holders != NULL || o->sources != NULL || o->part_of > 0)
        return;
    while (o->keys != NULL) {
        struct key *k = o->keys;
        o->keys = k->next;
        key_free(mgr, k);
    }
    *(o->prev != NULL ? &o->prev->next : &mgr->first_object) = o->next;
    *(o->next != NULL ? &o->next->prev : &mgr->last_object) = o->prev;
    table_remove(&mgr->objects, &o->link);
    free(o);
}

static struct key *key_find(const struct mgr *mgr, const struct vine_digest *key)
{
    struct table_link *l = table_find(&mgr->keys, hash_digest(key));

    for (; l != NULL; l = table_next_same(l)) {
        struct key *k = table_entry(l, struct key, link);
        if (vine_digest_equal(&k->key, key))
            return k;
    }
    return NULL;
}

struct object *mgr_object_of_key(const struct mgr *mgr, const struct vine_digest *key)
{
    struct key *k = key_find(mgr, key);

    return k == NULL ? NULL : k->object;
}

static void key_unlink(struct key *k)
{
    struct key **at = &k->object->keys;

    while (*at != k)
        at = &(*at)->next;
    *at = k->next;
    k->object->key_count--;
}

/* Newest first; the oldest goes when there are too many. A key that gave another object
 * before now gives this one: what was told last is what the source is now. */
int mgr_object_add_key(struct mgr *mgr, struct object *o, const struct vine_digest *key)
{
    struct key *k = key_find(mgr, key), *last;

    if (k != NULL) {
        key_unlink(k);
    } else {
        k = calloc(1, sizeof(*k));
        if (k == NULL)
            return -1;
        k->key = *key;
        table_add(&mgr->keys, &k->link, hash_digest(key));
    }
    k->object = o;
    k->next = o->keys;
    o->keys = k;
    if (++o->key_count <= VINE_KEYS_MAX)
        return 0;
    for (last = o->keys; last->next != NULL; last = last->next)
        ;
    key_unlink(last);
    key_free(mgr, last);
    return 0;
}

static bool pieces_available(const struct mgr *mgr, const struct object *o)
{
    uint64_t *all = bits_new(o->pieces);
    uint32_t found = 0;

    if (all == NULL)
        return false;
    for (struct holder *h = o->holders; h != NULL; h = h->object_next)
        for (uint32_t i = 0;
             h->avoid_until_ms <= mgr->now_ms && i < bits_words(o->pieces); i++)
            all[i] |= h->complete ? bits_full_word(o->pieces, i) : h->have[i];
    for (uint32_t i = 0; i < bits_words(o->pieces); i++)
        found += (uint32_t)__builtin_popcountll(all[i]);
    free(all);
    return found == o->pieces;
}

bool mgr_object_available(const struct mgr *mgr, const struct object *o)
{
    for (const struct source *s = o->sources; s != NULL; s = s->object_next)
        if (s->streaming)
            return true;
    return o->active ? o->missing == 0 : pieces_available(mgr, o);
}

static uint64_t holder_hash(const struct object *o, const struct mgr_node *node)
{
    return hash_u64((uint64_t)o->id << 32 | node->id);
}

struct holder *mgr_holder_find(const struct mgr *mgr, const struct object *o,
                               const struct mgr_node *node)
{
    struct table_link *l = table_find(&mgr->holders, holder_hash(o, node));

    for (; l != NULL; l = table_next_same(l)) {
        struct holder *h = table_entry(l, struct holder, link);
        if (h->object == o && h->node == node)
            return h;
    }
    return NULL;
}

struct holder *mgr_holder_get(struct mgr *mgr, struct object *o, struct mgr_node *node)
{
    struct holder *h = mgr_holder_find(mgr, o, node);

    if (h != NULL)
        return h;
    h = calloc(1, sizeof(*h));
    if (h == NULL || (h->have = bits_new(o->pieces)) == NULL) {
        free(h);
        return NULL;
    }
    h->node = node;
    h->object = o;
    h->node_next = node->holders;
    if (node->holders != NULL)
        node->holders->node_prev = h;
    node->holders = h;
    h->object_next = o->holders;
    if (o->holders != NULL)
        o->holders->object_prev = h;
    o->holders = h;
    node->holder_count++;
    o->holder_count++;
    table_add(&mgr->holders, &h->link, holder_hash(o, node));
    if (o->active)
        active_link(h);
    return h;
}

/* Take the flight out of the books; its slots are free again. */
void mgr_flight_remove(struct mgr *mgr, struct holder *h, uint32_t index)
{
    struct intake *in = h->in;
    struct flight gone = in->flight[index];
    bool other = false;

    in->flight[index] = in->flight[--in->flights];
    for (uint32_t i = 0; i < in->flights; i++)
        other |= in->flight[i].piece == gone.piece;
    if (!other) {
        if (!mgr_feed_awaits(in, gone.piece))
            mgr_unask(in, gone.piece);
        in->outstanding--;
        h->node->receiving--;
    }
    h->object->spread[gone.piece]--;
    gone.from->sending--;
    mgr_node_changed(mgr, gone.from);
    mgr_node_changed(mgr, h->node);
}

static void intake_free(struct mgr *mgr, struct holder *h)
{
    if (h->in == NULL)
        return;
    while (h->in->flights > 0)
        mgr_flight_remove(mgr, h, h->in->flights - 1);
    mgr_feed_drop_all(mgr, h);
    if (h->in->urgent != NULL)
        mgr_lazy_waits(mgr, h->object, -1);
    mgr_lazy_unhold(h);
    free(h->in->urgent);
    free(h->in->awaited);
    free(h->in->asked);
    free(h->in->flight);
    free(h->in);
    h->in = NULL;
}

static bool holder_hungry(const struct holder *h)
{
    return h->supply > 0 && !h->complete;
}

/* It no longer takes part as a receiver. */
static void holder_sated(struct mgr *mgr, struct holder *h)
{
    if (!h->complete) {
        mgr_feed_sender_gone(mgr, h->object, h->node);
        mgr_tree_leave(mgr, h);
    }
    intake_free(mgr, h);
    mgr_holder_changed(mgr, h);
    if (--h->object->hungry == 0)
        object_deactivate(mgr, h->object);
}

void mgr_holder_free(struct mgr *mgr, struct holder *h)
{
    struct object *o = h->object;

    if (holder_hungry(h)) {
        h->supply = 0;
        holder_sated(mgr, h);
    }
    if (o->active) {
        active_unlink(mgr, h);
        if (!h->avoided)
            count_holder(o, h, false);
    }
    if (h->complete) {
        o->seeds--;
        h->node->complete_count--;
    }
    *(h->node_prev != NULL ? &h->node_prev->node_next : &h->node->holders) =
        h->node_next;
    if (h->node_next != NULL)
        h->node_next->node_prev = h->node_prev;
    *(h->object_prev != NULL ? &h->object_prev->object_next : &o->holders) =
        h->object_next;
    if (h->object_next != NULL)
        h->object_next->object_prev = h->object_prev;
    h->node->holder_count--;
    o->holder_count--;
    o->reusing -= h->reusing;
    table_remove(&mgr->holders, &h->link);
    free(h->have);
    free(h);
    mgr_object_put(mgr, o);
}

void mgr_holder_put(struct mgr *mgr, struct holder *h)
{
    if (h->supply == 0 && h->have_count == 0)
        mgr_holder_free(mgr, h);
}

bool mgr_holder_has(const struct holder *h, uint32_t piece)
{
    return h->complete || bits_get(h->have, piece);
}

static void add_piece(struct mgr *mgr, struct holder *h, uint32_t piece)
{
    struct object *o = h->object;

    if (h->in != NULL && bits_get(h->in->asked, piece))
        for (uint32_t i = h->in->flights; i-- > 0;)
            if (h->in->flight[i].piece == piece) {
                mgr_slow_arrived(mgr, h, &h->in->flight[i]);
                mgr_fail_forgive(h, h->in->flight[i].from);
                mgr_flight_remove(mgr, h, i);
            }
    bits_set(h->have, piece);
    h->have_count++;
    if (o->active && !h->avoided)
        count_piece(o, piece, true);
    if (piece == 0 && o->held > 0)
        mgr_lazy_tell_origins(mgr, o);
}

int mgr_holder_add_pieces(struct mgr *mgr, struct holder *h, struct msg_range range)
{
    struct object *o = h->object;
    uint32_t before = h->have_count;

    for (uint32_t p = range.first; p - range.first < range.count; p++)
        if (!mgr_holder_has(h, p))
            add_piece(mgr, h, p);
    if (h->have_count == before)
        return 0;
    if (h->in != NULL)
        mgr_feed_arrived(mgr, h, range);
    if (o->active && ((range.first == 0 && o->copies[0] >= o->holder_count) ||
                      (o->feed.state == FEED_ON && o->seeds == 0)))
        mgr->feed_due = true;
    mgr_holder_changed(mgr, h);
    return h->have_count == o->pieces ? mgr_holder_complete(mgr, h) : 0;
}

int mgr_holder_complete(struct mgr *mgr, struct holder *h)
{
    struct object *o = h->object;

    if (h->complete)
        return 0;
    if (o->active && !h->avoided)
        for (uint32_t p = 0; p < o->pieces; p++)
            if (!bits_get(h->have, p))
                count_piece(o, p, true);
    h->complete = true;
    h->have_count = o->pieces;
    free(h->have);
    h->have = NULL;
    o->seeds++;
    h->node->complete_count++;
    if (h->supply > 0)
        holder_sated(mgr, h);
    else
        mgr_holder_changed(mgr, h);
    mgr_source_completed(mgr, h);
    return 0;
}

int mgr_holder_supply(struct mgr *mgr, struct holder *h)
{
    struct object *o = h->object;

    if (h->supply > 0 || h->complete) {
        h->supply++;
        return 0;
    }
    h->in = calloc(1, sizeof(*h->in));
    if (h->in == NULL || (h->in->asked = bits_new(o->pieces)) == NULL) {
        free(h->in);
        h->in = NULL;
        return -1;
    }
    if (o->hungry == 0 && object_activate(mgr, o) < 0) {
        free(h->in->asked);
        free(h->in);
        h->in = NULL;
        return -1;
    }
    mgr_feed_disturbed(mgr, o, 1);
    if (mgr_feed_many(mgr, o, ++o->hungry) && o->feed.next == 0)
        mgr->feed_due = true;
    h->supply = 1;
    mgr_holder_changed(mgr, h);
    return 0;
}

void mgr_holder_unsupply(struct mgr *mgr, struct holder *h)
{
    if (--h->supply == 0 && !h->complete)
        holder_sated(mgr, h);
}

void mgr_holder_avoid(struct mgr *mgr, struct holder *h, uint64_t until_ms)
{
    struct object *o = h->object;

    h->avoid_until_ms = until_ms;
    if (o->active && !h->avoided)
        count_holder(o, h, false);
    h->avoided = true;
    mgr_holder_changed(mgr, h);
}

/* Those whose time of being avoided or suspected is over count again. */
void mgr_object_sweep_avoided(struct mgr *mgr, struct object *o)
{
    for (struct holder *h = o->holders; h != NULL; h = h->object_next) {
        bool before = h->avoided;
        avoided_refresh(mgr, h);
        if (before && !h->avoided)
            count_holder(o, h, true);
        mgr_holder_changed(mgr, h);
    }
}
