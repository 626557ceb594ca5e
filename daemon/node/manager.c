/* manager.c - the control connection: to the first manager that answers.
 *
 * `managers` is tried in order, again and again with growing pauses (200 ms to 5 s,
 * with jitter, so that a thousand nodes do not knock at once after a restart). Names
 * are looked up each time, on libuv's pool: addresses may change while we run. */
#include <stdlib.h>
#include <string.h>

#include "daemon/node/vined.h"
#include "daemon/wire/message.h"
#include "vine/log.h"

#define MANAGERS_MAX 8
#define PAUSE_FIRST_MS 200
#define PAUSE_MAX_MS 5000

struct manager_link {
    struct vined *vined;
    char text[MANAGERS_MAX][VINE_CONF_TEXT]; /* as configured, for messages */
    char host[MANAGERS_MAX][256];
    uint16_t port[MANAGERS_MAX];
    unsigned count, turn, address_turn;
    uint64_t pause_ms;
    uv_timer_t timer;
    uv_getaddrinfo_t lookup;
    struct link *link;
    bool up, told_down;
};

static void try_next(struct manager_link *m);

static void on_pause_over(uv_timer_t *timer)
{
    try_next(timer->data);
}

static void retry_later(struct manager_link *m, const struct vine_err *err)
{
    uint64_t jitter;

    if (m->vined->stopping)
        return;
    if (!m->told_down || err->code == VINE_EAUTH || err->code == VINE_EPROTO)
        vine_log(VINE_LOG_WARNING, "event=no-manager manager=%s reason=%s",
                 m->text[m->turn], vine_q(err->text));
    m->told_down = true;
    m->turn = (m->turn + 1) % m->count;
    if (m->turn == 0)
        m->pause_ms =
            m->pause_ms * 2 < PAUSE_MAX_MS ? m->pause_ms * 2 : (uint64_t)PAUSE_MAX_MS;
    jitter = (uint64_t)random() % (m->pause_ms / 2 + 1);
    (void)uv_timer_start(&m->timer, on_pause_over, m->pause_ms / 2 + jitter, 0);
}

static void on_ready(void *ctx, struct link *link)
{
    struct manager_link *m = ctx;

    vine_log(VINE_LOG_INFO, "event=manager-up manager=%s", m->text[m->turn]);
    m->up = true;
    m->told_down = false;
    m->pause_ms = PAUSE_FIRST_MS;
    node_manager_up(m->vined->core, vined_now(m->vined));
    vined_update(m->vined);
}

static void *on_frame(void *ctx, struct link *link, const struct session_frame *frame)
{
    struct manager_link *m = ctx;
    struct vined *vined = m->vined;
    struct vine_err err = {0};
    struct message *message = NULL;

    if (frame->kind != MESSAGE_KIND)
        vine_err_set(&err, VINE_EPROTO, "unknown frame kind %u", frame->kind);
    else
        message = message_decode((const char *)frame->payload, frame->len, &err);
    vined_measure(vined);
    if (message == NULL ||
        node_message(vined->core, message_msg(message), vined_now(vined), &err) < 0)
        link_close(link, &err);
    message_free(message);
    vined_update(vined);
    return NULL;
}

static void on_closed(void *ctx, struct link *link, const struct vine_err *err)
{
    struct manager_link *m = ctx;

    m->link = NULL;
    if (m->up && !m->vined->stopping) {
        vine_log(VINE_LOG_WARNING, "event=manager-down manager=%s reason=%s",
                 m->text[m->turn], vine_q(err->text));
        m->up = false;
        node_manager_down(m->vined->core, vined_now(m->vined));
        vined_update(m->vined);
        if (err->code != VINE_ETIMEDOUT) /* it would take a connection, and be silent */
            m->turn = m->count - 1;      /* the next try is the first of the list */
    }
    retry_later(m, err);
}

static const struct link_ops link_callbacks = {
    .ready = on_ready,
    .frame = on_frame,
    .closed = on_closed,
};

static void connect_to(struct manager_link *m, const char *addr)
{
    struct session_config config = {
        .role = SESSION_CONNECT,
        .service = SESSION_CONTROL,
        .self = m->vined->name,
        .peer = SESSION_MANAGER_NAME,
    };
    struct vine_err err = {0};

    m->link = link_connect(&m->vined->loop, addr, m->port[m->turn], &config,
                           &link_callbacks, m, &err);
    if (m->link == NULL)
        retry_later(m, &err);
}

/* A host may have several, and the manager may listen on one of them: in turn. */
static void choose_address(struct manager_link *m, const struct addrinfo *found,
                           char addr[VINE_ADDR_MAX])
{
    const struct addrinfo *a;
    unsigned count = 0, turn;

    for (a = found; a != NULL; a = a->ai_next)
        count++;
    turn = m->address_turn++ % count;
    for (a = found; turn > 0; a = a->ai_next)
        turn--;
    if (a->ai_family == AF_INET)
        (void)uv_ip4_name((const struct sockaddr_in *)(const void *)a->ai_addr, addr,
                          VINE_ADDR_MAX);
    else
        (void)uv_ip6_name((const struct sockaddr_in6 *)(const void *)a->ai_addr, addr,
                          VINE_ADDR_MAX);
}

static void on_found(uv_getaddrinfo_t *req, int status, struct addrinfo *found)
{
    struct manager_link *m = req->data;
    char addr[VINE_ADDR_MAX] = "";
    struct vine_err err = {0};

    if (m->vined->stopping) {
        uv_freeaddrinfo(found);
        return;
    }
    if (status == 0)
        choose_address(m, found, addr);
    uv_freeaddrinfo(found);
    if (status == 0) {
        connect_to(m, addr);
        return;
    }
    vine_err_uv(&err, status, "cannot find the manager's address");
    retry_later(m, &err);
}

static void try_next(struct manager_link *m)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC};
    struct vine_err err = {0};
    int status;

    m->lookup.data = m;
    status = uv_getaddrinfo(&m->vined->loop, &m->lookup, on_found, m->host[m->turn],
                            NULL, &hints);
    if (status == 0)
        return;
    vine_err_uv(&err, status, "cannot look up the manager");
    retry_later(m, &err);
}

static int parse_managers(struct manager_link *m, const char *list,
                          struct vine_err *err)
{
    char copy[VINE_CONF_TEXT], *rest = copy, *part;

    (void)strcpy(copy, list);
    while ((part = strsep(&rest, ", ")) != NULL) {
        if (*part == '\0')
            continue;
        if (m->count == MANAGERS_MAX)
            return vine_err_set(err, VINE_EINVAL, "managers: over %d entries",
                                MANAGERS_MAX);
        (void)strcpy(m->text[m->count], part);
        if (vine_conf_host_port(part, VINE_MANAGER_PORT, m->host[m->count],
                                &m->port[m->count], err) < 0)
            return -1;
        m->count++;
    }
    return 0;
}

int manager_start(struct vined *vined, struct vine_err *err)
{
    struct manager_link *m = calloc(1, sizeof(*m));

    if (m == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    vined->manager = m;
    m->vined = vined;
    m->pause_ms = PAUSE_FIRST_MS;
    (void)uv_timer_init(&vined->loop, &m->timer);
    m->timer.data = m;
    if (parse_managers(m, vined->conf.managers, err) < 0)
        return -1;
    if (m->count == 0) {
        vine_log(VINE_LOG_WARNING,
                 "event=no-manager reason=\"[cluster] managers is empty: this node "
                 "shares with nobody\"");
        return 0;
    }
    try_next(m);
    return 0;
}

void manager_hurry(struct vined *vined)
{
    struct manager_link *m = vined->manager;

    if (!uv_is_active((uv_handle_t *)&m->timer))
        return;
    m->pause_ms = PAUSE_FIRST_MS;
    (void)uv_timer_start(&m->timer, on_pause_over, 0, 0);
}

void manager_send(struct vined *vined, const struct msg *m)
{
    struct vine_err err = {0};
    size_t len;
    char *text;

    if (vined->manager->link == NULL || !vined->manager->up)
        return;
    text = message_encode(m, &len, &err);
    if (text == NULL)
        vine_log(VINE_LOG_ERR, "event=message-refused type=%s reason=%s",
                 msg_type_name(m->type), vine_q(err.text));
    else
        (void)link_send(vined->manager->link, MESSAGE_KIND, text, len);
    free(text);
}

void manager_silent(struct vined *vined)
{
    struct vine_err err = {0};

    vine_err_set(&err, VINE_ETIMEDOUT, "it does not answer: is it stopped?");
    if (vined->manager->link != NULL)
        link_close(vined->manager->link, &err);
}

const char *manager_name(const struct vined *vined)
{
    const struct manager_link *m = vined->manager;

    return m->count > 0 ? m->text[m->turn] : NULL;
}

void manager_stop(struct vined *vined)
{
    struct manager_link *m = vined->manager;

    uv_close((uv_handle_t *)&m->timer, NULL);
    (void)uv_cancel((uv_req_t *)&m->lookup);
    if (m->link != NULL)
        link_close(m->link, NULL);
}
