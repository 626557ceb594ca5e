/* vine-managerd: the core's manager on a libuv loop.
 *
 * Nodes connect, prove by munge who they are, and speak JSON messages. All decisions
 * are in daemon/core/mgr.c; this file owns sockets and the clock. Of what it knows
 * nothing is kept on disk: after a restart the nodes tell again what they have. What
 * they tell of jobs goes into the transfer log, if there is to be one. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/core/mgr.h"
#include "daemon/edge/daemon.h"
#include "daemon/edge/link.h"
#include "daemon/edge/metrics.h"
#include "daemon/manager/metrics.h"
#include "daemon/manager/status.h"
#include "daemon/manager/transfers.h"
#include "daemon/wire/message.h"
#include "vine/log.h"

struct connection {
    struct manager *manager;
    struct link *link;
    uint32_t conn; /* slot + 1; 0: the core does not know it (any more) */
    struct connection *next;
};

struct manager {
    uv_loop_t loop;
    uv_tcp_t listener;
    struct daemon_signals signals;
    struct daemon_alarm alarm;
    struct mgr *mgr;
    struct metrics *metrics;
    struct manager_figures figures;
    struct transfers *transfers;
    struct connection *connections;               /* all, ready or not */
    struct connection *slots[VINE_NODES_MAX + 1]; /* those the core knows, by conn */
};

static struct connection *find_connection(struct manager *manager, uint32_t conn)
{
    return conn <= VINE_NODES_MAX ? manager->slots[conn] : NULL;
}

/* A free handle for the core; 0: VINE_NODES_MAX nodes are connected. */
static uint32_t take_slot(struct manager *manager, struct connection *c)
{
    for (uint32_t conn = 1; conn <= VINE_NODES_MAX; conn++) {
        if (manager->slots[conn] == NULL) {
            manager->slots[conn] = c;
            return conn;
        }
    }
    return 0;
}

/* The core has forgotten this connection, or never knew it. */
static void free_slot(struct connection *c)
{
    c->manager->slots[c->conn] = NULL;
    c->conn = 0;
}

static void on_send(void *ctx, uint32_t conn, const struct msg *m)
{
    struct connection *c = find_connection(ctx, conn);
    struct vine_err err = {0};
    size_t len;
    char *text;

    if (c == NULL)
        return;
    text = message_encode(m, &len, &err);
    c->manager->figures.messages_out++;
    if (text == NULL)
        link_close(c->link, &err);
    else
        (void)link_send(c->link, MESSAGE_KIND, text, len);
    free(text);
}

static void on_drop(void *ctx, uint32_t conn, const char *why)
{
    struct connection *c = find_connection(ctx, conn);
    struct vine_err err = {0};

    if (c == NULL)
        return;
    free_slot(c);
    vine_err_set(&err, VINE_EDOWN, "dropped: %s", why);
    link_close(c->link, &err);
}

static void on_core_log(void *ctx, int level, const char *line)
{
    vine_log((enum vine_log_level)level, "%s", line);
}

static const struct mgr_ops core_ops = {
    .send = on_send,
    .drop = on_drop,
    .log = on_core_log,
};

static void on_ready(void *ctx, struct link *link)
{
    struct connection *c = ctx;
    struct manager *manager = c->manager;
    struct vine_err err = {0};

    c->conn = take_slot(manager, c);
    if (c->conn == 0) {
        vine_err_set(&err, VINE_ELIMIT, "over %d nodes", VINE_NODES_MAX);
        link_close(link, &err);
        return;
    }
    if (mgr_connected(manager->mgr, c->conn, link_peer_name(link), link_peer_addr(link),
                      daemon_now(&manager->loop), &err) < 0) {
        free_slot(c);
        link_close(link, &err);
        return;
    }
    vine_log(VINE_LOG_INFO, "event=connected node=%s addr=%s", link_peer_name(link),
             link_peer_addr(link));
    daemon_alarm_update(&manager->alarm);
}

static void send_status(struct connection *c, const struct msg *m)
{
    struct msg answer = {.type = MSG_STATUS, .ticket = m->ticket};
    char *text = status_text(c->manager->mgr, c->conn, m);

    answer.text = text != NULL ? text : "{}";
    on_send(c->manager, c->conn, &answer);
    free(text);
}

static void send_stories(struct connection *c, const struct msg *asked)
{
    struct msg answer = {.type = MSG_STORIES, .ticket = asked->ticket};
    struct vine_err err = {0};
    char *text = NULL;

    if (transfers_read(c->manager->transfers, asked, &text, &err) < 0)
        answer.code = err.code;
    answer.text = text != NULL ? text : err.text;
    on_send(c->manager, c->conn, &answer);
    free(text);
}

static int take_message(struct connection *c, const struct msg *m, struct vine_err *err)
{
    c->manager->figures.messages_in++;
    if (m->type == MSG_ASK_STATUS) {
        send_status(c, m);
        return 0;
    }
    if (m->type == MSG_ASK_STORIES)
        send_stories(c, m);
    if (m->type == MSG_STORY)
        transfers_add(c->manager->transfers, link_peer_name(c->link), m);
    return mgr_message(c->manager->mgr, c->conn, m, daemon_now(&c->manager->loop), err);
}

static void *on_frame(void *ctx, struct link *link, const struct session_frame *frame)
{
    struct connection *c = ctx;
    struct manager *manager = c->manager;
    struct vine_err err = {0};
    struct message *message;

    if (frame->kind != MESSAGE_KIND)
        vine_err_set(&err, VINE_EPROTO, "unknown frame kind %u", frame->kind);
    message = err.code != VINE_OK
                  ? NULL
                  : message_decode((const char *)frame->payload, frame->len, &err);
    if (message == NULL || take_message(c, message_msg(message), &err) < 0)
        link_close(link, &err);
    message_free(message);
    daemon_alarm_update(&manager->alarm);
    return NULL;
}

static void on_closed(void *ctx, struct link *link, const struct vine_err *err)
{
    struct connection *c = ctx, **at;
    struct manager *manager = c->manager;

    for (at = &manager->connections; *at != c; at = &(*at)->next)
        ;
    *at = c->next;
    if (err->code != VINE_OK)
        vine_log(c->conn != 0 ? VINE_LOG_INFO : VINE_LOG_WARNING,
                 "event=disconnected node=%s addr=%s reason=%s",
                 link_peer_name(link) != NULL ? link_peer_name(link) : "?",
                 link_peer_addr(link), vine_q(err->text));
    if (c->conn != 0) {
        uint32_t conn = c->conn;
        free_slot(c);
        mgr_disconnected(manager->mgr, conn, daemon_now(&manager->loop));
        daemon_alarm_update(&manager->alarm);
    }
    free(c);
}

static const struct link_ops link_callbacks = {
    .ready = on_ready,
    .frame = on_frame,
    .closed = on_closed,
};

static void on_connection(uv_stream_t *listener, int status)
{
    struct manager *manager = listener->data;
    struct session_config config = {
        .role = SESSION_ACCEPT,
        .service = SESSION_CONTROL,
        .self = SESSION_MANAGER_NAME,
    };
    struct connection *c = calloc(1, sizeof(*c));
    struct vine_err err = {0};

    if (status < 0 || c == NULL) {
        free(c);
        return;
    }
    c->manager = manager;
    c->link = link_accept(listener, &config, &link_callbacks, c, &err);
    if (c->link == NULL) {
        vine_log(VINE_LOG_WARNING, "event=accept-failed reason=%s", vine_q(err.text));
        free(c);
        return;
    }
    c->next = manager->connections;
    manager->connections = c;
}

static uint64_t next_deadline(void *ctx)
{
    return mgr_next_deadline(((struct manager *)ctx)->mgr);
}

static void tick(void *ctx, uint64_t now_ms)
{
    mgr_tick(((struct manager *)ctx)->mgr, now_ms);
}

static void stop(void *ctx)
{
    struct manager *manager = ctx;
    struct connection *c;

    uv_close((uv_handle_t *)&manager->listener, NULL);
    metrics_stop(manager->metrics);
    daemon_signals_close(&manager->signals);
    daemon_alarm_close(&manager->alarm);
    for (c = manager->connections; c != NULL; c = c->next) {
        if (c->conn != 0)
            free_slot(c);
        link_close(c->link, NULL);
    }
}

static int start(struct manager *manager, const struct vine_conf *conf,
                 struct vine_err *err)
{
    struct mgr_limits limits;
    char host[256];
    uint16_t port;

    if (transfers_open(conf->transfer_log, &manager->transfers, err) < 0)
        return -1;
    mgr_limits_default(&limits);
    limits.window = (uint32_t)conf->window;
    limits.uploads = (uint32_t)conf->uploads;
    limits.feed_min = (uint32_t)conf->tree_nodes;
    manager->mgr = mgr_new(&core_ops, manager, &limits);
    if (manager->mgr == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (vine_conf_host_port(conf->manager_listen, VINE_MANAGER_PORT, host, &port, err) <
        0)
        return -1;
    manager->listener.data = manager;
    return link_listen(&manager->loop, &manager->listener, host, port, on_connection,
                       err);
}

static void start_metrics(struct manager *manager, const struct vine_conf *conf)
{
    struct vine_err err = {0};

    manager->figures.mgr = manager->mgr;
    if (metrics_start(&manager->loop, conf->manager_metrics, VINE_MANAGER_METRICS_PORT,
                      manager_metrics_write, &manager->figures, &manager->metrics,
                      &err) < 0)
        vine_log(VINE_LOG_WARNING, "event=metrics-refused reason=%s", vine_q(err.text));
}

static const struct daemon_about about = {
    .name = "vine-managerd",
    .help =
        "usage: vine-managerd [--config PATH] [--log-level LEVEL]\n"
        "\n"
        "The manager of vine-env: knows which node has which environment and directs\n"
        "who fetches what from whom. Runs in the foreground, logs to stderr, keeps\n"
        "nothing on disk but the log that [manager] transfer_log names. Listens on\n"
        "port 7110 unless [manager] listen says otherwise.\n"
        "\n"
        "  -c, --config PATH      configuration (default " VINE_CONF_PATH ")\n"
        "  -l, --log-level LEVEL  error, warning, info or debug\n"
        "  -h, --help             this text\n"
        "  -V, --version          the version\n"
        "\n"
        "See vine-managerd(8) and vine-env.conf(5).\n",
};

int main(int argc, char **argv)
{
    static struct manager manager;
    static struct vine_conf conf;
    struct vine_err err = {0};
    int status = daemon_begin(&about, argc, argv, &conf);

    if (status >= 0)
        return status;
    (void)uv_loop_init(&manager.loop);
    if (start(&manager, &conf, &err) < 0) {
        vine_log(VINE_LOG_ERR, "event=start-failed reason=%s", vine_q(err.text));
        return daemon_exit_status(&err);
    }
    start_metrics(&manager, &conf);
    daemon_signals_start(&manager.signals, &manager.loop, stop, &manager);
    daemon_alarm_start(&manager.alarm, &manager.loop, &manager, next_deadline, tick);
    vine_log(VINE_LOG_INFO, "event=start version=" VINE_VERSION " listen=%s",
             conf.manager_listen);
    if (daemon_ready() < 0)
        vine_log(VINE_LOG_WARNING, "event=not-told-ready reason=%s", strerror(errno));
    (void)uv_run(&manager.loop, UV_RUN_DEFAULT);
    mgr_free(manager.mgr);
    transfers_close(manager.transfers);
    (void)uv_loop_close(&manager.loop);
    return 0;
}
