/* thin - many idle nodes in one process: the load a large cluster puts on its manager.
 *
 *     thin ADDRESS COUNT
 *
 * Each is a real control connection: munge, frames, its own name, REGISTER with nothing
 * in store, a ping when it was silent for as long as an idle node may be, a pong when
 * asked. Says "ready" when all are registered, then runs until it is ended; a
 * connection that ends is a failure. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "daemon/edge/link.h"
#include "daemon/wire/message.h"
#include "vine/conf.h"

#define AT_ONCE 32u /* handshakes; munged is asked twice for each */

struct thin {
    struct link *link;
    uv_timer_t ping;
    char name[16];
};

static struct {
    uv_loop_t loop;
    const char *addr;
    uint32_t count, begun, registered;
    struct thin *nodes;
} all;

static void fail(const char *what, const struct vine_err *err)
{
    (void)fprintf(stderr, "thin: %s: %s\n", what, err->text);
    exit(1);
}

static void send_message(struct thin *t, const struct msg *m)
{
    struct vine_err err = {0};
    size_t len;
    char *text = message_encode(m, &len, &err);

    if (text == NULL || link_send(t->link, MESSAGE_KIND, text, len) < 0)
        fail("cannot send", &err);
    free(text);
}

static void begin_next(void);

static void on_ping(uv_timer_t *timer)
{
    send_message(timer->data, &(struct msg){.type = MSG_PING});
}

static void on_ready(void *ctx, struct link *link)
{
    struct msg m = {.type = MSG_REGISTER, .port = VINE_NODE_PORT, .switch_name = ""};

    send_message(ctx, &m);
}

static void take(struct thin *t, const struct msg *m)
{
    if (m->type == MSG_PING)
        send_message(t, &(struct msg){.type = MSG_PONG});
    if (m->type != MSG_REGISTERED)
        return;
    (void)uv_timer_start(&t->ping, on_ping,
                         (uint64_t)m->heartbeat_ms * VINE_IDLE_FACTOR,
                         (uint64_t)m->heartbeat_ms * VINE_IDLE_FACTOR);
    if (++all.registered == all.count) {
        (void)puts("ready");
        (void)fflush(stdout);
    }
    begin_next();
}

static void *on_frame(void *ctx, struct link *link, const struct session_frame *frame)
{
    struct vine_err err = {0};
    struct message *message =
        message_decode((const char *)frame->payload, frame->len, &err);

    if (message == NULL)
        fail("cannot understand the manager", &err);
    take(ctx, message_msg(message));
    message_free(message);
    return NULL;
}

static void on_closed(void *ctx, struct link *link, const struct vine_err *err)
{
    fail(((struct thin *)ctx)->name, err);
}

static void begin_next(void)
{
    static const struct link_ops ops = {
        .ready = on_ready, .frame = on_frame, .closed = on_closed};
    struct vine_err err = {0};
    struct thin *t;

    if (all.begun == all.count)
        return;
    t = &all.nodes[all.begun++];
    (void)snprintf(t->name, sizeof(t->name), "thin%u", all.begun);
    struct session_config config = {.role = SESSION_CONNECT,
                                    .service = SESSION_CONTROL,
                                    .self = t->name,
                                    .peer = SESSION_MANAGER_NAME};
    (void)uv_timer_init(&all.loop, &t->ping);
    t->ping.data = t;
    t->link =
        link_connect(&all.loop, all.addr, VINE_MANAGER_PORT, &config, &ops, t, &err);
    if (t->link == NULL)
        fail("cannot connect", &err);
}

int main(int argc, char **argv)
{
    struct rlimit files;
    unsigned long count = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;

    if (count == 0 || count > VINE_NODES_MAX) {
        (void)fprintf(stderr, "usage: thin ADDRESS COUNT\n");
        return 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    all.addr = argv[1];
    all.count = (uint32_t)count;
    all.nodes = calloc(count, sizeof(*all.nodes));
    if (all.nodes == NULL)
        return 1;
    (void)uv_loop_init(&all.loop);
    for (unsigned i = 0; i < AT_ONCE; i++)
        begin_next();
    return uv_run(&all.loop, UV_RUN_DEFAULT);
}
