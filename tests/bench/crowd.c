/* crowd - thousands of nodes that receive an object, in one process.
 *
 *     crowd ADDRESS NODES PIECES PIECE_US
 *
 * Real control connections to a real vine-managerd, each with the node's own core
 * behind it; only disks and links are made up: a node receives a piece every PIECE_US
 * once its sender has it. The first node has the object, all others want it at the same
 * moment. Says "ready" when all are registered, begins at a line on its standard
 * input, and says at the end how long it took, as one line of JSON. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/core/node.h"
#include "daemon/edge/link.h"
#include "daemon/wire/message.h"
#include "vine/conf.h"

#define TICK_MS 10u
#define CONNECTING_MAX 64u /* at once: munged is one */
#define PIECE_BYTES 400000u
#define JOB 77u
#define UID 1000u

struct todo { /* what the core asked for, done at the next tick */
    struct todo *next;
    void (*run)(struct todo *t);
    struct member *member;
    uint64_t id;
};

struct arriving {
    struct arriving *next;
    uint64_t transfer;
    struct msg_range left;
    uint32_t peer;
    uint64_t turn; /* when this peer's last piece came */
};

struct member {
    struct node *core;
    struct link *link;
    char name[16];
    bool *have;
    struct arriving *arriving; /* in the order they were asked for */
    uint64_t turn;
    uint64_t credit_us;
    bool up, done;
};

static struct {
    uv_loop_t loop;
    uv_timer_t timer;
    struct member *members;
    uint32_t count, registered, connecting, next, done, pieces;
    uint64_t received, sent; /* messages */
    uint64_t piece_us, begun_ms, last_ms, ticked_ms, late_ms;
    const char *addr;
    struct todo *todo, **todo_end;
    struct vine_digest digest, key;
} crowd;

static uint64_t now_ms(void)
{
    uv_update_time(&crowd.loop);
    return uv_now(&crowd.loop);
}

static void die(const char *what, const char *why)
{
    fprintf(stderr, "crowd: %s: %s\n", what, why);
    exit(1);
}

static void later(struct member *m, void (*run)(struct todo *t), uint64_t id)
{
    struct todo *t = calloc(1, sizeof(*t));

    if (t == NULL)
        die("out of memory", "");
    *t = (struct todo){.run = run, .member = m, .id = id};
    *crowd.todo_end = t;
    crowd.todo_end = &t->next;
}

/* ---- what a node's core asks for ---- */

static void op_send(void *ctx, const struct msg *msg)
{
    struct member *m = ctx;
    struct vine_err err = {0};
    size_t len;
    char *text = message_encode(msg, &len, &err);

    if (text == NULL)
        die("cannot encode", err.text);
    (void)link_send(m->link, MESSAGE_KIND, text, len);
    free(text);
    crowd.sent++;
}

static void op_manager_silent(void *ctx)
{
    die("the manager does not answer", ((struct member *)ctx)->name);
}

static void resolve_now(struct todo *t)
{
    struct node_resolved r = {.key = crowd.key, .estimate = PIECE_BYTES};

    node_source_resolved(t->member->core, t->id, &r, NULL, now_ms());
}

static void op_resolve(void *ctx, uint64_t ticket, uint32_t uid, uint32_t gid,
                       const char *path)
{
    later(ctx, resolve_now, ticket);
}

static void op_ticket(void *ctx, uint64_t ticket)
{
}

static void op_fetch(void *ctx, uint64_t transfer, const struct vine_digest *digest,
                     const struct msg_assign *assign)
{
    struct member *m = ctx;
    struct arriving *a = calloc(1, sizeof(*a)), **at = &m->arriving;

    if (a == NULL)
        die("out of memory", "");
    a->transfer = transfer;
    a->left = assign->range;
    a->peer = (uint32_t)atoi(assign->peer + 1);
    a->turn = m->turn;
    for (; *at != NULL; at = &(*at)->next)
        if ((*at)->peer == a->peer)
            a->turn = (*at)->turn;
    *at = a;
}

static void op_fetch_origin(void *ctx, uint64_t transfer,
                            const struct vine_digest *digest, uint64_t ticket,
                            struct msg_range range)
{
    die("a node was told to read the source", "");
}

static void op_cancel(void *ctx, uint64_t transfer)
{
    struct member *m = ctx;
    struct arriving **at = &m->arriving, *a;

    while (*at != NULL && (*at)->transfer != transfer)
        at = &(*at)->next;
    a = *at;
    if (a == NULL)
        return;
    *at = a->next;
    free(a);
}

static void publish_now(struct todo *t)
{
    node_published(t->member->core, &crowd.digest, NULL, now_ms());
}

static void op_publish(void *ctx, const struct vine_digest *digest, bool trusted)
{
    later(ctx, publish_now, 0);
}

static void mount_now(struct todo *t)
{
    node_mounted(t->member->core, &crowd.digest, (uint32_t)t->id, NULL, now_ms());
}

static void op_mount(void *ctx, const struct vine_digest *digest, uint32_t mount_uid,
                     bool trusted)
{
    later(ctx, mount_now, mount_uid);
}

static void op_remember(void *ctx, const struct vine_digest *digest,
                        const struct vine_digest *key)
{
}

static void reused_now(struct todo *t)
{
    node_reused(t->member->core, &crowd.digest, NULL, now_ms());
}

/* Nothing in older objects. */
static void op_reuse(void *ctx, const struct vine_digest *digest, bool proved)
{
    later(ctx, reused_now, 0);
}

static void op_remove(void *ctx, const struct vine_digest *digest)
{
    die("a node was told to remove the object", "");
}

static void op_reply(void *ctx, uint64_t client, const struct node_result *results,
                     uint32_t count)
{
    struct member *m = ctx;

    if (results[0].code != VINE_OK)
        die(m->name, results[0].text);
    m->done = true;
    crowd.done++;
    crowd.last_ms = now_ms();
}

static void op_answer(void *ctx, uint64_t client, enum vine_code code, const char *text)
{
}

static void op_save(void *ctx)
{
}

static const struct node_ops ops = {
    .send = op_send,
    .manager_silent = op_manager_silent,
    .source_resolve = op_resolve,
    .source_open = op_ticket,
    .source_prove = op_ticket,
    .source_build = op_ticket,
    .source_close = op_ticket,
    .fetch = op_fetch,
    .fetch_origin = op_fetch_origin,
    .fetch_cancel = op_cancel,
    .publish = op_publish,
    .mount = op_mount,
    .remember_key = op_remember,
    .reuse = op_reuse,
    .remove = op_remove,
    .reply = op_reply,
    .answer = op_answer,
    .save = op_save,
};

/* ---- time ---- */

/* A connection brings what was asked for first first, unless its sender does not have
 * that yet; the senders take turns. */
static struct arriving *next_arriving(const struct member *m)
{
    struct arriving *next = NULL;

    for (struct arriving *a = m->arriving; a != NULL; a = a->next)
        if (crowd.members[a->peer].have[a->left.first] &&
            (next == NULL || a->turn < next->turn))
            next = a;
    return next;
}

static bool receive_one(struct member *m)
{
    struct arriving *next = next_arriving(m);
    uint32_t piece;
    uint64_t transfer;

    if (next == NULL)
        return false;
    piece = next->left.first++;
    transfer = next->transfer;
    m->turn++;
    for (struct arriving *a = m->arriving; a != NULL; a = a->next)
        if (a->peer == next->peer)
            a->turn = m->turn;
    m->have[piece] = true;
    if (--next->left.count == 0)
        op_cancel(m, transfer);
    node_piece_done(m->core, transfer, piece, now_ms());
    return true;
}

static void member_tick(struct member *m)
{
    uint64_t now = now_ms();

    m->credit_us += TICK_MS * 1000;
    while (m->arriving != NULL && m->credit_us >= crowd.piece_us) {
        if (!receive_one(m)) {
            m->credit_us = crowd.piece_us;
            break;
        }
        m->credit_us -= crowd.piece_us;
    }
    if (m->arriving == NULL && m->credit_us > crowd.piece_us)
        m->credit_us = crowd.piece_us;
    if (node_next_deadline(m->core) <= now)
        node_tick(m->core, now);
}

static void begin(uv_poll_t *poll, int status, int events)
{
    static struct vine_spec spec = {.count = 1, .source = {{.path = "/shared/crowd"}}};
    struct vine_err err = {0};

    (void)uv_poll_stop(poll);
    crowd.begun_ms = now_ms();
    for (uint32_t i = 1; i < crowd.count; i++)
        if (node_stage(crowd.members[i].core, i, JOB, UID, UID, &spec, now_ms(), &err) <
            0)
            die("stage", err.text);
}

static void ready(void)
{
    static uv_poll_t poll;

    (void)puts("ready");
    (void)fflush(stdout);
    if (uv_poll_init(&crowd.loop, &poll, STDIN_FILENO) < 0 ||
        uv_poll_start(&poll, UV_READABLE, begin) < 0)
        die("standard input", "must be a pipe");
}

static void finish(void)
{
    printf("{\"seconds\": %.2f, \"ideal_seconds\": %.2f, \"received\": %" PRIu64
           ", \"sent\": %" PRIu64 ", \"tick_ms\": %" PRIu64 "}\n",
           (double)(crowd.last_ms - crowd.begun_ms) / 1e3,
           (double)crowd.piece_us * (crowd.pieces - 1) / 1e6, crowd.received,
           crowd.sent, crowd.late_ms);
    exit(0);
}

static void connect_some(void);

static void on_tick(uv_timer_t *timer)
{
    struct todo *t = crowd.todo, *next;
    uint64_t now = now_ms();

    if (crowd.begun_ms > 0 && now - crowd.ticked_ms > crowd.late_ms)
        crowd.late_ms = now - crowd.ticked_ms;
    crowd.ticked_ms = now;
    crowd.todo = NULL;
    crowd.todo_end = &crowd.todo;
    for (; t != NULL; t = next) {
        next = t->next;
        t->run(t);
        free(t);
    }
    for (uint32_t i = 0; i < crowd.count; i++)
        if (crowd.members[i].up)
            member_tick(&crowd.members[i]);
    connect_some();
    if (crowd.done + 1 == crowd.count)
        finish();
}

/* ---- connections ---- */

static void on_ready(void *ctx, struct link *link)
{
    struct member *m = ctx;

    crowd.connecting--;
    m->up = true;
    node_manager_up(m->core, now_ms());
}

static void *on_frame(void *ctx, struct link *link, const struct session_frame *frame)
{
    struct member *m = ctx;
    struct vine_err err = {0};
    struct message *message =
        message_decode((const char *)frame->payload, frame->len, &err);

    if (message == NULL ||
        node_message(m->core, message_msg(message), now_ms(), &err) < 0)
        die(m->name, err.text);
    crowd.received++;
    if (message_msg(message)->type == MSG_REGISTERED &&
        ++crowd.registered == crowd.count)
        ready();
    message_free(message);
    return NULL;
}

static void on_closed(void *ctx, struct link *link, const struct vine_err *err)
{
    die(((struct member *)ctx)->name, err->text);
}

static void connect_one(struct member *m)
{
    static const struct link_ops callbacks = {
        .ready = on_ready, .frame = on_frame, .closed = on_closed};
    struct session_config config = {.role = SESSION_CONNECT,
                                    .service = SESSION_CONTROL,
                                    .self = m->name,
                                    .peer = SESSION_MANAGER_NAME};
    struct vine_err err = {0};

    m->link = link_connect(&crowd.loop, crowd.addr, VINE_MANAGER_PORT, &config,
                           &callbacks, m, &err);
    if (m->link == NULL)
        die(m->name, err.text);
    crowd.connecting++;
}

static void connect_some(void)
{
    while (crowd.next < crowd.count && crowd.connecting < CONNECTING_MAX)
        connect_one(&crowd.members[crowd.next++]);
}

static void member_init(struct member *m, uint32_t index)
{
    struct msg_object object = {.digest = crowd.digest,
                                .size = (uint64_t)(crowd.pieces - 1) * PIECE_BYTES,
                                .pieces = crowd.pieces,
                                .complete = true,
                                .trusted = true,
                                .key_count = 1,
                                .keys = &crowd.key};
    struct node_limits limits;
    struct vine_err err = {0};

    (void)snprintf(m->name, sizeof(m->name), "c%u", index);
    node_limits_default(&limits);
    limits.port = 7111;
    limits.manager_wait_ms = 600000;
    limits.stall_ms = 60000;
    m->core = node_new(&ops, m, &limits);
    m->have = calloc(crowd.pieces, sizeof(bool));
    if (m->core == NULL || m->have == NULL)
        die("out of memory", "");
    if (index > 0)
        return;
    memset(m->have, 1, crowd.pieces);
    if (node_restore_object(m->core, &object, NULL, 0, &err) < 0)
        die("restore", err.text);
}

int main(int argc, char **argv)
{
    struct rlimit files;

    if (argc != 5) {
        (void)fprintf(stderr, "usage: crowd ADDRESS NODES PIECES PIECE_US\n");
        return 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    crowd.addr = argv[1];
    crowd.count = (uint32_t)atoi(argv[2]);
    crowd.pieces = (uint32_t)atoi(argv[3]) + 1;
    crowd.piece_us = strtoull(argv[4], NULL, 10);
    crowd.todo_end = &crowd.todo;
    memset(crowd.digest.b, 7, sizeof(crowd.digest.b));
    memset(crowd.key.b, 8, sizeof(crowd.key.b));
    crowd.members = calloc(crowd.count, sizeof(*crowd.members));
    if (crowd.members == NULL)
        die("out of memory", "");
    for (uint32_t i = 0; i < crowd.count; i++)
        member_init(&crowd.members[i], i);
    (void)uv_loop_init(&crowd.loop);
    (void)uv_timer_init(&crowd.loop, &crowd.timer);
    (void)uv_timer_start(&crowd.timer, on_tick, TICK_MS, TICK_MS);
    return uv_run(&crowd.loop, UV_RUN_DEFAULT);
}
