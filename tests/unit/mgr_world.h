/* mgr_world.h - a manager, its nodes' messages, and what it sent: for the tests of the
 * manager's core. Node i is connection i and is called "ni". */
#ifndef VINE_TEST_MGR_WORLD_H
#define VINE_TEST_MGR_WORLD_H

#include "tests/unit/sent.h"

#include <stdlib.h>

#include "daemon/core/mgr.h"

#define JOB 7u
#define MADE_UP (1ull << 63)
#define PIECES 5u
#define SIZE 4000u

struct world {
    struct mgr *mgr;
    struct sent_log log;
    uint32_t drops, slow; /* slow: how often somebody was found so */
    uint64_t now;
};

static inline void on_send(void *ctx, uint32_t conn, const struct msg *m)
{
    sent_add(&((struct world *)ctx)->log, conn, m);
}

static inline void on_drop(void *ctx, uint32_t conn, const char *why)
{
    ((struct world *)ctx)->drops++;
}

static inline void on_log(void *ctx, int level, const char *line)
{
    ((struct world *)ctx)->slow += strncmp(line, "event=slow ", 11) == 0;
}

static inline int say(struct world *w, uint32_t conn, const struct msg *m)
{
    struct vine_err err = {0};
    int rc = mgr_message(w->mgr, conn, m, w->now, &err);

    assert_int_equal(rc, err.code == VINE_OK ? 0 : -1);
    return rc;
}

static inline void join_silent(struct world *w, uint32_t conn)
{
    char name[16];

    (void)snprintf(name, sizeof(name), "n%u", conn);
    assert_int_equal(mgr_connected(w->mgr, conn, name, "10.0.0.1", w->now, NULL), 0);
}

static inline void join(struct world *w, uint32_t conn)
{
    struct msg m = {.type = MSG_REGISTER, .port = 7111, .switch_name = ""};

    join_silent(w, conn);
    assert_int_equal(say(w, conn, &m), 0);
}

/* A manager and so many registered nodes, connections 1 to `nodes`. */
static inline struct world *begin(uint32_t nodes)
{
    static const struct mgr_ops ops = {.send = on_send, .drop = on_drop, .log = on_log};
    struct world *w = calloc(1, sizeof(*w));
    struct mgr_limits limits;

    mgr_limits_default(&limits);
    limits.feed_min = 24; /* trees for as many as are plain to follow */
    w->mgr = mgr_new(&ops, w, &limits);
    w->now = 1000;
    for (uint32_t i = 1; i <= nodes; i++)
        join(w, i);
    return w;
}

static inline void end(struct world *w)
{
    mgr_free(w->mgr);
    free(w);
}

static inline int want(struct world *w, uint32_t conn, uint64_t job, uint32_t uid)
{
    struct msg m = {
        .type = MSG_WANT, .job = job, .uid = uid, .gid = uid, .path = "/shared/ml"};

    return say(w, conn, &m);
}

static inline uint64_t ticket_of(struct world *w, uint32_t conn)
{
    const struct sent *s = sent_last(&w->log, conn, MSG_RESOLVE);

    assert_non_null(s);
    return s->m.ticket;
}

static inline int resolved(struct world *w, uint32_t conn, uint64_t ticket, uint8_t key)
{
    struct msg m = {.type = MSG_RESOLVED,
                    .ticket = ticket,
                    .text = "",
                    .key = digest_no(key),
                    .estimate = SIZE};

    return say(w, conn, &m);
}

static inline int resolved_packed(struct world *w, uint32_t conn, uint64_t ticket,
                                  uint8_t key, uint8_t digest)
{
    struct msg m = {.type = MSG_RESOLVED,
                    .ticket = ticket,
                    .text = "",
                    .key = digest_no(key),
                    .has_digest = true,
                    .digest = digest_no(digest),
                    .size = SIZE,
                    .pieces = PIECES};

    return say(w, conn, &m);
}

static inline int ended(struct world *w, uint32_t conn, enum msg_type type,
                        uint64_t ticket, enum vine_code code, const char *text)
{
    struct msg m = {.type = type, .ticket = ticket, .code = code, .text = text};

    return say(w, conn, &m);
}

static inline int built(struct world *w, uint32_t conn, uint64_t ticket, uint8_t digest)
{
    struct msg m = {.type = MSG_BUILT,
                    .ticket = ticket,
                    .text = "",
                    .digest = digest_no(digest),
                    .size = SIZE,
                    .pieces = PIECES,
                    .trusted = true};

    return say(w, conn, &m);
}

static inline int proved(struct world *w, uint32_t conn)
{
    return ended(w, conn, MSG_PROVED, ticket_of(w, conn), VINE_OK, "");
}

static inline int have(struct world *w, uint32_t conn, uint8_t digest, uint32_t first,
                       uint32_t count)
{
    struct msg_range range = {first, count};
    struct msg m = {.type = MSG_HAVE,
                    .digest = digest_no(digest),
                    .ranges = &range,
                    .range_count = 1};

    return say(w, conn, &m);
}

static inline int release(struct world *w, uint32_t conn, uint64_t job)
{
    struct msg m = {.type = MSG_RELEASE, .job = job, .text = ""};

    return say(w, conn, &m);
}

static inline void assert_binding(struct world *w, uint32_t conn, enum vine_code code,
                                  uint8_t digest)
{
    const struct sent *s = sent_last(&w->log, conn, MSG_BINDING);
    struct vine_digest d = digest_no(digest);

    assert_non_null(s);
    assert_int_equal(s->m.code, code);
    assert_string_equal(s->path, "/shared/ml");
    if (code == VINE_OK)
        assert_true(vine_digest_equal(&s->m.digest, &d));
}

static inline void wait_ms(struct world *w, uint64_t ms)
{
    uint64_t until = w->now + ms;

    while (mgr_next_deadline(w->mgr) <= until) {
        if (mgr_next_deadline(w->mgr) > w->now)
            w->now = mgr_next_deadline(w->mgr);
        mgr_tick(w->mgr, w->now);
    }
    w->now = until;
}

static inline void count_object(void *arg, const struct mgr_object_info *o)
{
    ++*(uint32_t *)arg;
}

static inline uint32_t objects(struct world *w)
{
    uint32_t count = 0;

    mgr_each_object(w->mgr, count_object, &count);
    return count;
}

/* A node registers that has object 1 whole, of key 3. */
/* The node joins and has these objects, for what these bindings name. */
static inline void join_with(struct world *w, uint32_t conn,
                             const struct msg_object *objects, uint32_t object_count,
                             const struct msg_binding *bindings, uint32_t binding_count)
{
    struct msg m = {.type = MSG_REGISTER,
                    .port = 7111,
                    .switch_name = "",
                    .objects = objects,
                    .object_count = object_count,
                    .bindings = bindings,
                    .binding_count = binding_count};

    join_silent(w, conn);
    assert_int_equal(say(w, conn, &m), 0);
}

static inline void join_with_it(struct world *w, uint32_t conn, uint64_t size,
                                uint32_t pieces)
{
    struct vine_digest key = digest_no(3);
    struct msg_object object = {.digest = digest_no(1),
                                .size = size,
                                .pieces = pieces,
                                .complete = true,
                                .key_count = 1,
                                .keys = &key};

    join_with(w, conn, &object, 1, NULL, 0);
}

/* n1 has the object whole, n2 to n(1+receivers) want it. */
static inline struct world *begin_seeded(uint32_t receivers, uint32_t pieces)
{
    struct world *w = begin(0);

    join_with_it(w, 1, pieces * 1000, pieces);
    for (uint32_t i = 2; i < 2 + receivers; i++) {
        join(w, i);
        want(w, i, JOB, 5);
    }
    resolved(w, 2, ticket_of(w, 2), 3);
    return w;
}

#endif
