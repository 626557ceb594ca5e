/* node_lazy.c - jobs that start before their object is there.
 *
 * A trusted object that somebody wants to start on lazily: first the piece with the
 * superblock and those with the file system's tables, then the edge mounts it and
 * serves what is there. Each of these, and whatever a task waits for after that, is
 * told to the manager as urgent (what a task waits for, as awaited) and, where this
 * node streams the object from its source, read first. Who asks for a piece is likely
 * to ask for the next ones: they go with it. Who streams the object has it before the
 * others, which start the same job: what is read here is told, too. What starts read of
 * an object is remembered, and is urgent the next time as soon as the tables are here.
 *
 * All of it is about order. That every piece comes in the end is the business of the
 * rest; the object is complete, published and mounted by the same rules. What must
 * hold: lazy is LAZY_OFF once the object is complete; LAZY_MOUNTING has a mount that
 * is not mounted, LAZY_MOUNTED one that is. */
#include <stdio.h>
#include <string.h>

#include "daemon/core/node_int.h"

/* What goes with a piece that a task waits for: at first, and at most, when waits go on
 * in what came so. */
#define READ_AHEAD_BYTES (2u << 20)
#define READ_AHEAD_MAX (32u << 20)
#define READ_AHEAD_PIECES 64u
#define TABLES_PART 16u /* of the pieces have them, at most, to begin with */
#define RETRY_MS 5000u  /* until a failed source is asked for again */
#define RANGES_MAX 256u /* in one message */

typedef bool node_lazy_picks(const struct node_object *o, const uint64_t *set,
                             uint32_t piece);

static struct msg_range data_pieces(const struct node_object *o, struct msg_range range)
{
    if (range.first == 0 || range.first >= o->pieces)
        return (struct msg_range){0};
    if (range.count > o->pieces - range.first)
        range.count = o->pieces - range.first;
    return range;
}

static bool is_set(const struct node_object *o, const uint64_t *set, uint32_t piece)
{
    return bits_get(set, piece);
}

static bool is_set_and_missing(const struct node_object *o, const uint64_t *set,
                               uint32_t piece)
{
    return bits_get(set, piece) && !node_object_has(o, piece);
}

/* Say which pieces of a set there are, in as many messages as it takes. */
static void set_send(struct node *node, const struct node_object *o, enum msg_type type,
                     const uint64_t *set, node_lazy_picks *picks)
{
    struct msg_range ranges[RANGES_MAX];
    struct msg m = {.type = type, .digest = o->digest, .ranges = ranges};
    uint32_t p = 1;

    while (p < o->pieces) {
        struct msg_range run = {p, 0};
        while (p < o->pieces && picks(o, set, p))
            p++;
        run.count = p++ - run.first;
        if (run.count > 0)
            ranges[m.range_count++] = run;
        if (m.range_count > 0 && (m.range_count == RANGES_MAX || p >= o->pieces)) {
            node_send(node, &m);
            m.range_count = 0;
        }
    }
}

static void stream_advance(struct node *node, struct node_object *o)
{
    if (o->stream != NULL)
        node_origin_advance(node, o->stream);
}

/* These before others, here and, by the manager, at peers. What is awaited is said each
 * time. */
static void want_first(struct node *node, struct node_object *o, struct msg_range range,
                       enum msg_type type)
{
    struct msg_range ranges[64];
    struct msg m = {.type = type, .digest = o->digest, .ranges = ranges};
    uint32_t end = range.first + range.count;

    if (o->first == NULL)
        o->first = bits_new(o->pieces);
    if (o->first == NULL)
        return;
    for (uint32_t p = range.first; p < end; p++) {
        struct msg_range *last = m.range_count > 0 ? &ranges[m.range_count - 1] : NULL;
        if (node_object_has(o, p) || (bits_get(o->first, p) && type != MSG_AWAITED))
            continue;
        bits_set(o->first, p);
        if (last != NULL && last->first + last->count == p)
            last->count++;
        else if (m.range_count < 64)
            ranges[m.range_count++] = (struct msg_range){p, 1};
    }
    if (m.range_count > 0)
        node_send(node, &m);
}

static void want_touched(struct node *node, struct node_object *o)
{
    if (o->touched == NULL)
        return;
    if (o->first == NULL)
        o->first = bits_new(o->pieces);
    if (o->first == NULL)
        return;
    for (uint32_t i = 0; i < bits_words(o->pieces); i++)
        o->first[i] |= o->touched[i];
    set_send(node, o, MSG_URGENT, o->touched, is_set_and_missing);
}

static void failed(struct node *node, struct node_object *o, const struct vine_err *err)
{
    char hex[VINE_HEX_LEN + 1];

    vine_digest_hex(&o->digest, hex);
    o->lazy = LAZY_FAILED;
    node_log(node, VINE_LOG_WARNING,
             "event=lazy-failed object=%.8s reason=\"%s\" mend=\"it starts when it is "
             "complete\"",
             hex, err->text);
}

static bool somebody_asked(const struct node *node, const struct node_object *o)
{
    for (const struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (const struct job_source *s = job->sources; s != NULL; s = s->next)
            if (s->object == o && s->lazy && !job->staged)
                return true;
    return false;
}

static bool has_tables(const struct node_object *o)
{
    for (uint32_t i = 0; i < o->tables.count; i++)
        if (!node_object_has(o, o->tables.first + i))
            return false;
    return true;
}

static void mount_it(struct node *node, struct node_object *o)
{
    struct vine_err err = {0};

    if (node_mount_find(o, NODE_ANY_UID) == NULL &&
        node_mount_new(o, NODE_ANY_UID) != NULL) {
        o->lazy = LAZY_MOUNTING;
        o->lazy_served = true;
        node->ops.lazy_mount(node->ctx, &o->digest);
        want_touched(node, o);
        stream_advance(node, o);
        return;
    }
    vine_err_set(&err, VINE_ENOMEM, "out of memory");
    failed(node, o, &err);
}

/* The pieces where tables probably are, all in one with the first: each step of its own
 * is a round in which many nodes wait for the same few pieces. */
static struct msg_range tables_guess(const struct node_object *o)
{
    uint64_t each = o->size / (o->pieces - 1) + 1;
    uint32_t count = 1 + (uint32_t)(READ_AHEAD_BYTES / each);

    if (count > o->pieces / TABLES_PART)
        count = 1 + o->pieces / TABLES_PART;
    return data_pieces(o, (struct msg_range){o->pieces - count, count});
}

void node_lazy_advance(struct node *node, struct node_object *o)
{
    if (o->lazy == LAZY_OFF) {
        if (!o->trusted || o->pieces < 2 || o->lazy_leaving ||
            o->have_count == o->pieces || !somebody_asked(node, o))
            return;
        o->lazy = LAZY_WAITING;
        want_first(node, o, tables_guess(o), MSG_URGENT);
        want_first(node, o, (struct msg_range){1, 1}, MSG_URGENT);
        stream_advance(node, o);
    }
    if (o->lazy == LAZY_WAITING && node_object_has(o, 0) && node_object_has(o, 1)) {
        o->lazy = LAZY_LOOKING;
        node->ops.lazy_look(node->ctx, &o->digest);
    }
    if (o->lazy == LAZY_TABLES && has_tables(o))
        mount_it(node, o);
    node_hold_check(node, o);
}

void node_lazy_piece(struct node *node, struct node_object *o, uint32_t piece)
{
    if (o->lazy_served && piece > 0)
        node->ops.lazy_have(node->ctx, &o->digest, piece);
    if (o->lazy == LAZY_WAITING || o->lazy == LAZY_TABLES)
        node_lazy_advance(node, o);
}

/* What the job read is told by the edge before the mount goes. */
void node_lazy_leave(struct node *node, struct node_object *o)
{
    bool mounts = o->lazy_served || o->lazy == LAZY_MOUNTED || o->lazy == LAZY_FAILED;

    if (o->state != OBJECT_PARTIAL || o->lazy_leaving)
        return;
    o->retry_ms = 0;
    o->trouble = (struct vine_err){0};
    o->lazy = LAZY_OFF;
    node_hold_check(node, o); /* the manager may know another job that wants it */
    node_hold_forget(o);
    free(o->read);
    o->read = NULL;
    if (!mounts || node_mount_find(o, NODE_ANY_UID) == NULL)
        return;
    o->lazy_leaving = true;
    o->lazy_served = false;
    node->ops.lazy_leave(node->ctx, &o->digest);
}

bool node_lazy_ready(const struct job_source *s)
{
    return s->state == SOURCE_BOUND && s->object->lazy == LAZY_MOUNTED &&
           s->claim != MSG_CLAIM_OPEN;
}

void node_lazy_complete(struct node_object *o)
{
    o->lazy = LAZY_OFF;
    o->lazy_served = false;
    node_hold_forget(o);
    o->retry_ms = 0;
    o->trouble = (struct vine_err){0};
    free(o->first);
    o->first = NULL;
    free(o->read);
    o->read = NULL;
}

void node_lazy_free(struct node_object *o)
{
    free(o->first);
    free(o->read);
    free(o->touched);
}

void node_lazy_tables(struct node *node, const struct vine_digest *digest,
                      struct msg_range tables, const struct vine_err *err,
                      uint64_t now_ms)
{
    struct node_object *o = node_object_find(node, digest);

    node_time(node, now_ms);
    if (o == NULL || o->lazy != LAZY_LOOKING)
        return;
    if (err != NULL && err->code != VINE_OK) {
        failed(node, o, err);
        return;
    }
    o->tables = data_pieces(o, tables);
    o->lazy = LAZY_TABLES;
    want_first(node, o, o->tables, MSG_URGENT);
    stream_advance(node, o);
    node_lazy_advance(node, o);
}

void node_lazy_mounted(struct node *node, const struct vine_digest *digest,
                       const struct vine_err *err, uint64_t now_ms)
{
    struct node_object *o = node_object_find(node, digest);
    struct mount *m = o == NULL ? NULL : node_mount_find(o, NODE_ANY_UID);

    node_time(node, now_ms);
    if (m == NULL || m->mounted)
        return;
    if (err == NULL || err->code == VINE_OK || o->lazy_leaving) {
        m->mounted = true; /* leaving: node_unmounted follows */
        if (o->lazy == LAZY_MOUNTING) {
            o->lazy = LAZY_MOUNTED;
            node_hold_busy(node, o, true);
        }
        node_object_used(node, o);
    } else {
        node_mount_free(o, m);
        o->lazy_served = false;
        if (o->lazy == LAZY_MOUNTING)
            failed(node, o, err);
    }
    node_object_advance(node, o);
}

void node_lazy_lost(struct node *node, const struct vine_digest *digest,
                    uint64_t now_ms)
{
    struct node_object *o = node_object_find(node, digest);
    struct vine_err err = {0};

    node_time(node, now_ms);
    if (o == NULL || o->state == OBJECT_COMPLETE)
        return;
    o->lazy_served = false;
    vine_err_set(&err, VINE_EDOWN, "vine-lazy ended");
    failed(node, o, &err);
    node_hold_check(node, o);
}

void node_lazy_adopt(struct node *node, const struct vine_digest *digest)
{
    struct node_object *o = node_object_find(node, digest);

    if (o != NULL && o->state != OBJECT_COMPLETE)
        o->lazy_served = true;
}

/* Who has the source waits less than the others, which will read the same: what is read
 * here is told them, in its order. */
static void tell_read(struct node *node, struct node_object *o, struct msg_range range)
{
    struct msg m = {
        .type = MSG_TOUCHED, .digest = o->digest, .ranges = &range, .range_count = 1};
    bool news = false;

    if (o->read == NULL)
        o->read = bits_new(o->pieces);
    for (uint32_t p = 0; o->read != NULL && p < range.count; p++) {
        news |= !bits_get(o->read, range.first + p);
        bits_set(o->read, range.first + p);
    }
    if (news)
        node_send(node, &m);
}

void node_lazy_read(struct node *node, const struct vine_digest *digest,
                    struct msg_range range, uint64_t now_ms)
{
    struct node_object *o = node_object_find(node, digest);

    node_time(node, now_ms);
    if (o == NULL || o->lazy != LAZY_MOUNTED)
        return;
    node_hold_busy(node, o, false);
    range = data_pieces(o, range);
    if (o->stream != NULL && range.count > 0)
        tell_read(node, o, range);
}

static struct msg_range read_ahead(struct node_object *o, struct msg_range range)
{
    uint64_t each = o->size / (o->pieces - 1) + 1;
    struct msg_range ahead = {.first = range.first + range.count};

    if (range.first < o->ahead.first || range.first > o->ahead.first + o->ahead.count)
        o->ahead_bytes = READ_AHEAD_BYTES;
    else if (o->ahead_bytes < READ_AHEAD_MAX)
        o->ahead_bytes *= 2;
    ahead.count = 1 + (uint32_t)(o->ahead_bytes / each);
    if (ahead.count > READ_AHEAD_PIECES)
        ahead.count = READ_AHEAD_PIECES;
    o->ahead = ahead;
    return data_pieces(o, ahead);
}

void node_lazy_need(struct node *node, const struct vine_digest *digest,
                    struct msg_range range, uint64_t now_ms)
{
    struct node_object *o = node_object_find(node, digest);

    node_time(node, now_ms);
    if (o == NULL || o->state == OBJECT_COMPLETE)
        return;
    range = data_pieces(o, range);
    if (range.count == 0)
        return;
    want_first(node, o, range, MSG_AWAITED);
    want_first(node, o, read_ahead(o, range), MSG_URGENT);
    stream_advance(node, o);
    if (o->lazy == LAZY_MOUNTED)
        node_hold_busy(node, o, false);
}

static int touched_add(struct node_object *o, const struct msg_range *ranges,
                       uint32_t count)
{
    if (o->touched == NULL)
        o->touched = bits_new(o->pieces);
    if (o->touched == NULL)
        return -1;
    for (uint32_t i = 0; i < count; i++) {
        struct msg_range r = data_pieces(o, ranges[i]);
        for (uint32_t p = 0; p < r.count; p++)
            bits_set(o->touched, r.first + p);
    }
    return 0;
}

void node_touched(struct node *node, const struct vine_digest *digest,
                  const struct msg_range *ranges, uint32_t count, uint64_t now_ms)
{
    struct node_object *o = node_object_find(node, digest);

    node_time(node, now_ms);
    if (o != NULL && touched_add(o, ranges, count) == 0)
        set_send(node, o, MSG_TOUCHED, o->touched, is_set);
}

int node_lazy_message(struct node *node, const struct msg *m, struct vine_err *err)
{
    struct node_object *o = node_object_find(node, &m->digest);

    if (o == NULL) /* evicted while this was on its way */
        return 0;
    if (m->type == MSG_HOLD) {
        node_hold_message(node, o, m->hold);
        return 0;
    }
    for (uint32_t i = 0; i < m->range_count; i++)
        if (m->ranges[i].first >= o->pieces ||
            m->ranges[i].count > o->pieces - m->ranges[i].first)
            return vine_err_set(err, VINE_EPROTO, "%s: pieces %u+%u of %u",
                                msg_type_name(m->type), m->ranges[i].first,
                                m->ranges[i].count, o->pieces);
    if (m->type == MSG_TOUCHED) {
        if (touched_add(o, m->ranges, m->range_count) < 0)
            return 0;
        node->ops.touched(node->ctx, &o->digest, m->ranges, m->range_count);
        if (o->lazy == LAZY_MOUNTING || o->lazy == LAZY_MOUNTED)
            want_touched(node, o);
        stream_advance(node, o);
        return 0;
    }
    if (o->state == OBJECT_COMPLETE || o->stream == NULL)
        return 0;
    if (o->first == NULL)
        o->first = bits_new(o->pieces);
    for (uint32_t i = 0; o->first != NULL && i < m->range_count; i++)
        for (uint32_t p = 0; p < m->ranges[i].count; p++)
            bits_set(o->first, m->ranges[i].first + p);
    stream_advance(node, o);
    return 0;
}

void node_lazy_tell_all(struct node *node)
{
    for (struct node_object *o = node->first_object; o != NULL; o = o->next) {
        if (o->touched != NULL)
            set_send(node, o, MSG_TOUCHED, o->touched, is_set);
        if (o->first != NULL && o->state == OBJECT_PARTIAL && o->leases > 0)
            set_send(node, o, MSG_URGENT, o->first, is_set_and_missing);
    }
}

/* ---- a source that fails under a running job ---------------------------------------
 */

/* Tasks read from it: they asked us, or a daemon before us, whose mount was adopted;
 * which job's tasks those are is not known any more. */
static bool tasks_read(const struct node_object *o, const struct job_source *s)
{
    if (o->lazy == LAZY_MOUNTED && s->lazy)
        return true;
    return o->lazy_served && o->lazy != LAZY_MOUNTED && o->lazy != LAZY_MOUNTING;
}

bool node_lazy_keeps(struct node *node, struct job_source *s,
                     const struct vine_err *err)
{
    struct node_object *o = s->state == SOURCE_BOUND ? s->object : NULL;
    char hex[VINE_HEX_LEN + 1];

    if (o == NULL || !tasks_read(o, s))
        return false;
    vine_digest_hex(&o->digest, hex);
    node_log(node, VINE_LOG_WARNING,
             "event=lazy-source-failed object=%.8s job=%llu reason=\"%s\"", hex,
             (unsigned long long)s->job->job, err->text);
    o->trouble = *err;
    o->retry_ms = node->now_ms + RETRY_MS;
    node_hold_drop(node, o);
    return true;
}

const char *node_lazy_trouble(const struct node *node, const struct vine_digest *digest)
{
    const struct node_object *o = node_object_find(node, digest);

    if (o != NULL && o->trouble.code != VINE_OK)
        return o->trouble.text;
    return node->manager_up ? "" : "no manager answers";
}

void node_lazy_tick(struct node *node)
{
    for (struct node_object *o = node->first_object; o != NULL; o = o->next) {
        if (o->retry_ms == 0 || o->retry_ms > node->now_ms)
            continue;
        o->retry_ms = 0;
        for (struct node_job *job = node->first_job; job != NULL; job = job->next)
            for (struct job_source *s = job->sources; s != NULL; s = s->next)
                if (s->object == o && (s->lazy || tasks_read(o, s)))
                    node_source_want(node, s);
    }
}

uint64_t node_lazy_deadline(const struct node *node)
{
    uint64_t deadline = UINT64_MAX;

    for (const struct node_object *o = node->first_object; o != NULL; o = o->next)
        if (o->retry_ms != 0 && o->retry_ms < deadline)
            deadline = o->retry_ms;
    return deadline;
}
