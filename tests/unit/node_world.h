/* node_world.h - a node's core, what it sent and what it asked of its edge: for the
 * tests of the node's core. Object 1 has PIECES pieces and SIZE bytes. */
#ifndef VINE_TEST_NODE_WORLD_H
#define VINE_TEST_NODE_WORLD_H

#include "tests/unit/sent.h"

#include <stdlib.h>

#include "daemon/core/node.h"

#define JOB 7u
#define UID 5u
#define MADE_UP (1ull << 63)
#define PIECES 4u
#define SIZE 3000u

enum op {
    OP_MANAGER_SILENT,
    OP_RESOLVE,
    OP_OPEN,
    OP_PROVE,
    OP_BUILD,
    OP_CLOSE,
    OP_FETCH,
    OP_FETCH_ORIGIN,
    OP_CANCEL,
    OP_REUSE,
    OP_PUBLISH,
    OP_MOUNT,
    OP_REMEMBER,
    OP_REMOVE,
    OP_REPLY,
    OP_ANSWER,
    OP_SAVE,
    OP_LAZY_LOOK,
    OP_LAZY_MOUNT,
    OP_LAZY_HAVE,
    OP_LAZY_LEAVE,
    OP_TOUCHED,
    OPS
};

struct did {
    uint32_t count;
    uint64_t id; /* of the last: ticket, transfer, client */
    struct vine_digest digest;
    struct msg_range range;
    uint32_t uid;
    bool trusted, proved, cached, first; /* cached, first: of the last result */
    uint32_t results;
    enum vine_code code[VINE_SOURCES_MAX];
    char text[480];
};

struct world {
    struct node *node;
    struct sent_log log;
    struct did did[OPS];
    uint64_t now;
    bool up, mute;            /* the manager: there; answers nothing */
    uint32_t stood_still;     /* said so in the log */
    struct vine_digest shown; /* a task was given it */
    bool without_tasks;       /* jobs have none here */
};

static inline void on_log(void *ctx, int level, const char *line)
{
    (void)level;
    if (strstr(line, "event=stood-still") != NULL)
        ((struct world *)ctx)->stood_still++;
}

static inline struct did *did(void *ctx, enum op op)
{
    struct did *d = &((struct world *)ctx)->did[op];

    d->count++;
    return d;
}

static inline void on_send(void *ctx, const struct msg *m)
{
    assert_true(((struct world *)ctx)->up);
    sent_add(&((struct world *)ctx)->log, 0, m);
}

static inline void on_manager_silent(void *ctx)
{
    did(ctx, OP_MANAGER_SILENT);
    ((struct world *)ctx)->up = false;
}

static inline void on_resolve(void *ctx, uint64_t ticket, uint32_t uid, uint32_t gid,
                              const char *path)
{
    struct did *d = did(ctx, OP_RESOLVE);

    d->id = ticket;
    d->uid = uid;
}

static inline void on_build(void *ctx, uint64_t ticket)
{
    did(ctx, OP_BUILD)->id = ticket;
}

static inline void on_open(void *ctx, uint64_t ticket)
{
    did(ctx, OP_OPEN)->id = ticket;
}

static inline void on_prove(void *ctx, uint64_t ticket)
{
    did(ctx, OP_PROVE)->id = ticket;
}

static inline void on_close(void *ctx, uint64_t ticket)
{
    did(ctx, OP_CLOSE)->id = ticket;
}

static inline void on_fetch(void *ctx, uint64_t transfer,
                            const struct vine_digest *digest,
                            const struct msg_assign *assign)
{
    struct did *d = did(ctx, OP_FETCH);

    d->id = transfer;
    d->digest = *digest;
    d->range = assign->range;
}

static inline void on_fetch_origin(void *ctx, uint64_t transfer,
                                   const struct vine_digest *digest, uint64_t ticket,
                                   struct msg_range range)
{
    struct did *d = did(ctx, OP_FETCH_ORIGIN);

    d->id = transfer;
    d->range = range;
}

static inline void on_cancel(void *ctx, uint64_t transfer)
{
    did(ctx, OP_CANCEL)->id = transfer;
}

static inline void on_reuse(void *ctx, const struct vine_digest *digest, bool proved)
{
    struct did *d = did(ctx, OP_REUSE);

    d->digest = *digest;
    d->proved = proved;
}

static inline void on_publish(void *ctx, const struct vine_digest *digest, bool trusted)
{
    did(ctx, OP_PUBLISH)->digest = *digest;
}

static inline void on_mount(void *ctx, const struct vine_digest *digest,
                            uint32_t mount_uid, bool trusted)
{
    struct did *d = did(ctx, OP_MOUNT);

    d->digest = *digest;
    d->uid = mount_uid;
    d->trusted = trusted;
}

static inline void on_remember_key(void *ctx, const struct vine_digest *digest,
                                   const struct vine_digest *key)
{
    did(ctx, OP_REMEMBER)->digest = *key;
}

static inline void on_remove(void *ctx, const struct vine_digest *digest)
{
    did(ctx, OP_REMOVE)->digest = *digest;
}

static inline void on_reply(void *ctx, uint64_t client,
                            const struct node_result *results, uint32_t count)
{
    struct did *d = did(ctx, OP_REPLY);

    d->id = client;
    d->results = count;
    d->text[0] = '\0';
    for (uint32_t i = 0; i < count; i++) {
        d->code[i] = results[i].code;
        d->uid = results[i].mount_uid;
        d->cached = results[i].cached;
        d->first = results[i].first;
        if (results[i].code != VINE_OK)
            (void)snprintf(d->text, sizeof(d->text), "%s", results[i].text);
    }
}

static inline void on_answer(void *ctx, uint64_t client, enum vine_code code,
                             const char *text)
{
    struct did *d = did(ctx, OP_ANSWER);

    d->id = client;
    d->code[0] = code;
    (void)snprintf(d->text, sizeof(d->text), "%s", text);
}

static inline void on_save(void *ctx)
{
    did(ctx, OP_SAVE);
}

static inline bool on_has_tasks(void *ctx, uint64_t job)
{
    return !((const struct world *)ctx)->without_tasks;
}

static inline bool on_shown(void *ctx, uint64_t job, const struct vine_digest *digest)
{
    const struct world *w = ctx;

    return vine_digest_equal(&w->shown, digest);
}

static inline void on_lazy_look(void *ctx, const struct vine_digest *digest)
{
    did(ctx, OP_LAZY_LOOK)->digest = *digest;
}

static inline void on_lazy_mount(void *ctx, const struct vine_digest *digest)
{
    did(ctx, OP_LAZY_MOUNT)->digest = *digest;
}

static inline void on_lazy_have(void *ctx, const struct vine_digest *digest,
                                uint32_t piece)
{
    did(ctx, OP_LAZY_HAVE)->id = piece;
}

static inline void on_lazy_leave(void *ctx, const struct vine_digest *digest)
{
    did(ctx, OP_LAZY_LEAVE)->digest = *digest;
}

static inline void on_touched(void *ctx, const struct vine_digest *digest,
                              const struct msg_range *ranges, uint32_t count)
{
    did(ctx, OP_TOUCHED)->range = ranges[0];
}

static inline struct world *begin_ops(uint64_t cache_max, bool reuses)
{
    static const struct node_ops all = {.send = on_send,
                                        .manager_silent = on_manager_silent,
                                        .source_resolve = on_resolve,
                                        .source_build = on_build,
                                        .source_open = on_open,
                                        .source_prove = on_prove,
                                        .source_close = on_close,
                                        .fetch = on_fetch,
                                        .fetch_origin = on_fetch_origin,
                                        .fetch_cancel = on_cancel,
                                        .reuse = on_reuse,
                                        .publish = on_publish,
                                        .mount = on_mount,
                                        .remember_key = on_remember_key,
                                        .remove = on_remove,
                                        .reply = on_reply,
                                        .answer = on_answer,
                                        .save = on_save,
                                        .has_tasks = on_has_tasks,
                                        .shown = on_shown,
                                        .lazy_look = on_lazy_look,
                                        .lazy_mount = on_lazy_mount,
                                        .lazy_have = on_lazy_have,
                                        .lazy_leave = on_lazy_leave,
                                        .touched = on_touched,
                                        .log = on_log};
    struct node_ops ops = all;
    struct world *w = calloc(1, sizeof(*w));
    struct node_limits limits;

    ops.reuse = reuses ? on_reuse : NULL;
    node_limits_default(&limits);
    limits.cache_max = cache_max;
    limits.store_name = "/local/vine";
    limits.manager_name = "ctl:7110";
    limits.port = 7111;
    w->now = 1000;
    w->node = node_new(&ops, w, &limits);
    return w;
}

static inline struct world *begin_with(uint64_t cache_max)
{
    return begin_ops(cache_max, false);
}

static inline void end(struct world *w)
{
    node_free(w->node);
    free(w);
}

static inline void manager_up(struct world *w)
{
    struct msg m = {.type = MSG_REGISTERED, .heartbeat_ms = 1000};

    w->up = true;
    node_manager_up(w->node, w->now);
    assert_int_equal(node_message(w->node, &m, w->now, NULL), 0);
}

static inline void manager_down(struct world *w)
{
    node_manager_down(w->node, w->now);
    w->up = false;
}

/* A node with a manager. */
static inline struct world *begin(void)
{
    struct world *w = begin_with(UINT64_MAX);

    manager_up(w);
    return w;
}

static inline int tell(struct world *w, const struct msg *m)
{
    struct vine_err err = {0};
    int rc = node_message(w->node, m, w->now, &err);

    assert_int_equal(rc, err.code == VINE_OK ? 0 : -1);
    return rc;
}

static inline int stage_paths(struct world *w, uint64_t client, uint64_t job,
                              uint32_t uid, const char *path, const char *other,
                              struct vine_err *err)
{
    struct vine_spec *spec = calloc(1, sizeof(*spec));
    int rc;

    strcpy(spec->source[0].path, path);
    spec->count = 1;
    if (other != NULL)
        strcpy(spec->source[spec->count++].path, other);
    rc = node_stage(w->node, client, job, uid, uid, spec, w->now, err);
    free(spec);
    return rc;
}

static inline int stage(struct world *w, uint64_t client, uint64_t job, uint32_t uid)
{
    return stage_paths(w, client, job, uid, "/shared/ml", NULL, NULL);
}

static inline int bind_error(struct world *w, uint64_t job, enum vine_code code,
                             const char *text)
{
    struct msg m = {.type = MSG_BINDING,
                    .job = job,
                    .uid = UID,
                    .path = "/shared/ml",
                    .code = code,
                    .text = text};

    return tell(w, &m);
}

static inline int bind_sized(struct world *w, uint64_t job, uint8_t digest,
                             uint64_t size, bool trusted)
{
    struct msg m = {.type = MSG_BINDING,
                    .job = job,
                    .uid = UID,
                    .path = "/shared/ml",
                    .text = "",
                    .digest = digest_no(digest),
                    .size = size,
                    .pieces = PIECES,
                    .trusted = trusted};

    return tell(w, &m);
}

static inline int bind(struct world *w, uint64_t job, uint8_t digest)
{
    return bind_sized(w, job, digest, SIZE, true);
}

/* The transfer it made of this assignment. */
static inline uint64_t fetch_as(struct world *w, uint8_t digest, uint32_t first,
                                uint32_t count, const char *peer, bool feed)
{
    struct msg_assign assign = {.range = {first, count},
                                .peer = peer,
                                .addr = "10.0.0.2",
                                .port = 7111,
                                .feed = feed};
    struct msg m = {.type = MSG_FETCH,
                    .digest = digest_no(digest),
                    .heartbeat_ms = 1000,
                    .assigns = &assign,
                    .assign_count = 1};
    uint32_t before = w->did[OP_FETCH].count;

    assert_int_equal(tell(w, &m), 0);
    return w->did[OP_FETCH].count > before ? w->did[OP_FETCH].id : 0;
}

static inline uint64_t fetch(struct world *w, uint8_t digest, uint32_t first,
                             uint32_t count, const char *peer)
{
    return fetch_as(w, digest, first, count, peer, false);
}

static inline uint64_t feed(struct world *w, uint8_t digest, uint32_t first,
                            uint32_t count, const char *peer)
{
    return fetch_as(w, digest, first, count, peer, true);
}

static inline void fetch_all(struct world *w, uint8_t digest)
{
    struct vine_digest d = digest_no(digest);
    uint64_t t = fetch(w, digest, 0, 1, "n2");

    node_piece_done(w->node, t, 0, w->now);
    t = fetch(w, digest, 1, PIECES - 1, "n2");
    for (uint32_t p = 1; p < PIECES; p++)
        node_piece_done(w->node, t, p, w->now);
    node_published(w->node, &d, NULL, w->now);
}

static inline void mounted(struct world *w, uint8_t digest, uint32_t uid)
{
    struct vine_digest d = digest_no(digest);

    node_mounted(w->node, &d, uid, NULL, w->now);
}

/* Object of that number complete, mounted, its job over. */
static inline void make_complete(struct world *w, uint64_t job, uint8_t digest)
{
    (void)stage(w, 1000 + job, job, UID);
    bind(w, job, digest);
    fetch_all(w, digest);
    mounted(w, digest, NODE_ANY_UID);
    node_job_end(w->node, job, w->now);
}

static inline void wait_ms(struct world *w, uint64_t ms)
{
    uint64_t until = w->now + ms;
    int rounds = 0;

    while (node_next_deadline(w->node) <= until) {
        assert_true(++rounds < 10000);
        if (node_next_deadline(w->node) > w->now)
            w->now = node_next_deadline(w->node);
        node_tick(w->node, w->now);
        if (w->up && !w->mute)
            (void)tell(w, &(struct msg){.type = MSG_PONG});
    }
    w->now = until;
}

static inline struct node_totals totals(struct world *w)
{
    struct node_totals t;

    node_totals(w->node, &t);
    return t;
}

#endif
