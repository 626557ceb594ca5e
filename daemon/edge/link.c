/* link.c - sockets on one side, session.h on the other.
 *
 * What must hold: while session_work runs on a worker thread nothing else touches the
 * session, so reading is stopped and bytes already read wait in `rest`. Frames and bulk
 * leave in the order they were queued, because each send moves the session's output to
 * the outbox at once. The struct is freed only when the handles are closed and no work
 * is running.
 *
 * libuv reads; writing is ours, since libuv cannot send a file. It begins at once; when
 * the socket is full, or WRITE_BUDGET bytes went in one turn, it goes on when libuv
 * says that the socket takes more. libuv watches a descriptor but once, so that watch
 * is on a duplicate. */
#include "daemon/edge/link.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vine/limits.h"

#define READ_BUFFER (64u << 10)
/* Where bulk follows its frame: what is read beyond the frame must be copied. */
#define READ_BUFFER_DATA 256u
/* Bulk is taken in no smaller portions while so much is due: fewer turns of the loop.
 */
#define READ_PORTION (64 << 10)
/* Others have their turn after so much; a link of 100 Gbit/s needs 40,000 a second. */
#define WRITE_BUDGET (1u << 20)
#define KEEPALIVE_S 60
/* Connecting and both munge steps; a busy munged answers within a second. */
#define HANDSHAKE_MS 10000
/* A peer that takes no bytes for the time this needs is gone or hostile. */
#define QUEUE_MAX (64u << 20)

struct link {
    uv_tcp_t tcp;
    uv_timer_t timer;
    uv_poll_t poll; /* on poll_fd; watched while the outbox cannot be written */
    int poll_fd;    /* -1: not needed so far */
    uv_connect_t connect;
    uv_work_t work;
    struct session *session;
    struct link_ops ops;
    void *ctx;
    char addr[VINE_ADDR_MAX];
    const char *rest; /* read, not yet fed: in read_buffer, or in `kept` */
    size_t rest_len;
    char *kept; /* NULL, or what was read before a munge step */
    char *bulk; /* owner's buffer for the bulk being read */
    struct outbox out;
    size_t budget;   /* bytes that may be written before others have a turn */
    int handles;     /* open uv handles */
    int waiting_for; /* SO_RCVLOWAT; 0: not set so far, which is 1 */
    bool working, reading, ready, closing, watching;
    struct vine_err err;
    unsigned read_size; /* of read_buffer */
};

/* All links share it, since libuv reads right before it tells: thousands of idle ones
 * would hold 64 KiB each. */
static char read_buffer[READ_BUFFER];

int vine_err_uv(struct vine_err *err, int status, const char *what)
{
    enum vine_code code = status == UV_ETIMEDOUT ? VINE_ETIMEDOUT : VINE_ESYS;

    if (status == UV_ECONNREFUSED || status == UV_EHOSTUNREACH || status == UV_ENOENT ||
        status == UV_ECONNRESET || status == UV_EOF)
        code = VINE_EDOWN;
    return vine_err_set(err, code, "%s: %s", what,
                        status == UV_EOF ? "closed by the peer" : uv_strerror(status));
}

static void free_if_unused(struct link *link)
{
    if (link->handles > 0 || link->working)
        return;
    outbox_clear(&link->out);
    link->ops.closed(link->ctx, link, &link->err);
    session_free(link->session);
    free(link->kept);
    free(link);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct link *link = handle->data;

    link->handles--;
    free_if_unused(link);
}

static void close_handles(struct link *link, uv_close_cb on_closed)
{
    uv_close((uv_handle_t *)&link->tcp, on_closed);
    uv_close((uv_handle_t *)&link->timer, on_closed);
    if (link->poll_fd < 0)
        return;
    uv_close((uv_handle_t *)&link->poll, on_closed);
    (void)close(link->poll_fd);
}

void link_close(struct link *link, const struct vine_err *why)
{
    if (link->closing)
        return;
    link->closing = true;
    if (why != NULL)
        link->err = *why;
    close_handles(link, on_handle_closed);
}

static void close_with_session_error(struct link *link, const struct vine_err *err)
{
    const struct vine_err *why = session_error(link->session);

    link_close(link, why != NULL && why->code != VINE_OK ? why : err);
}

static void on_writable(uv_poll_t *poll, int status, int events);

/* Be called again when the socket takes more. */
static int watch(struct link *link, struct vine_err *err)
{
    uv_os_fd_t fd;
    int status;

    if (link->watching)
        return 0;
    if (link->poll_fd < 0) {
        if (uv_fileno((uv_handle_t *)&link->tcp, &fd) == 0)
            link->poll_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (link->poll_fd < 0)
            return vine_err_sys(err, "cannot watch a connection");
        status = uv_poll_init(link->tcp.loop, &link->poll, link->poll_fd);
        if (status < 0) {
            (void)close(link->poll_fd);
            link->poll_fd = -1;
            return vine_err_uv(err, status, "cannot watch a connection");
        }
        link->poll.data = link;
        link->handles++;
    }
    status = uv_poll_start(&link->poll, UV_WRITABLE, on_writable);
    if (status < 0)
        return vine_err_uv(err, status, "cannot watch a connection");
    link->watching = true;
    return 0;
}

/* Write what can be written now. -1: the link is closing. */
static int flush(struct link *link)
{
    struct vine_err err = {0};
    uv_os_fd_t fd;
    int status;

    if (link->watching || link->out.queued == 0)
        return 0;
    status = uv_fileno((uv_handle_t *)&link->tcp, &fd);
    if (status < 0)
        vine_err_uv(&err, status, "cannot write to the peer");
    else if (outbox_flush(&link->out, fd, &link->budget, &err) == 0 &&
             (link->out.queued == 0 || watch(link, &err) == 0))
        return 0;
    link_close(link, &err);
    return -1;
}

static void on_writable(uv_poll_t *poll, int status, int events)
{
    struct link *link = poll->data;

    link->budget = WRITE_BUDGET;
    (void)uv_poll_stop(poll);
    link->watching = false;
    if (flush(link) == 0 && link->ready && link->ops.written != NULL)
        link->ops.written(link->ctx, link);
}

/* Move the session's output to the outbox. */
static int take_output(struct link *link, size_t more)
{
    struct vine_err err = {0};
    size_t len;
    const uint8_t *out = session_output(link->session, &len);

    if (link->out.queued + len + more > QUEUE_MAX)
        vine_err_set(&err, VINE_ELIMIT, "the peer takes no bytes: %zu are queued",
                     link->out.queued);
    else if (len > 0 && outbox_copy(&link->out, out, len) < 0)
        vine_err_set(&err, VINE_ENOMEM, "out of memory");
    session_output_taken(link->session, len);
    if (err.code == VINE_OK)
        return 0;
    link_close(link, &err);
    return -1;
}

static int write_out(struct link *link)
{
    return take_output(link, 0) < 0 ? -1 : flush(link);
}

static void become_ready(struct link *link)
{
    if (link->ready || !session_ready(link->session))
        return;
    link->ready = true;
    (void)uv_tcp_keepalive(&link->tcp, 1, KEEPALIVE_S); /* a peer may lose power */
    (void)uv_timer_stop(&link->timer);
    link->ops.ready(link->ctx, link);
}

static void take_rest(struct link *link);

static void run_work(uv_work_t *work)
{
    struct link *link = work->data;

    (void)session_work(link->session, &link->err);
}

static void work_done(uv_work_t *work, int status)
{
    struct link *link = work->data;
    struct vine_err err = link->err;

    link->working = false;
    if (link->closing) {
        free_if_unused(link);
        return;
    }
    memset(&link->err, 0, sizeof(link->err));
    if (write_out(link) < 0)
        return;
    if (status < 0 || err.code != VINE_OK) {
        close_with_session_error(link, &err);
        return;
    }
    become_ready(link);
    take_rest(link);
}

static void start_work(struct link *link)
{
    link->working = true;
    link->work.data = link;
    if (link->reading) {
        (void)uv_read_stop((uv_stream_t *)&link->tcp);
        link->reading = false;
    }
    (void)uv_queue_work(link->tcp.loop, &link->work, run_work, work_done);
}

/* Wake the loop only for so many bytes; the end of the connection wakes it as well. */
static void wait_for_bytes(struct link *link, int least)
{
    uv_os_fd_t fd;

    if (link->waiting_for == least || uv_fileno((uv_handle_t *)&link->tcp, &fd) < 0)
        return;
    link->waiting_for = least;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &least, sizeof(least));
}

static void take_frames(struct link *link)
{
    struct session_frame frame;
    struct vine_err err = {0};

    while (!link->closing && session_next(link->session, &frame)) {
        void *buffer = link->ops.frame(link->ctx, link, &frame);
        if (frame.bulk_len == 0 || link->closing)
            continue;
        if (buffer == NULL) {
            vine_err_set(&err, VINE_EPROTO, "the peer sent bulk nobody asked for");
            link_close(link, &err);
            return;
        }
        link->bulk = buffer;
    }
}

static void bulk_arrived(struct link *link, uint32_t n)
{
    uint32_t left;

    session_bulk_take(link->session, n);
    link->bulk += n;
    left = session_bulk_left(link->session);
    wait_for_bytes(link, left >= READ_PORTION ? READ_PORTION : 1);
    if (left == 0) {
        link->bulk = NULL;
        link->ops.bulk_end(link->ctx, link);
    }
}

static void feed_rest(struct link *link)
{
    struct vine_err err = {0};
    uint32_t bulk = session_bulk_left(link->session);
    size_t used = 0;

    if (bulk > 0) {
        uint32_t n = link->rest_len < bulk ? (uint32_t)link->rest_len : bulk;
        memcpy(link->bulk, link->rest, n);
        link->rest += n;
        link->rest_len -= n;
        bulk_arrived(link, n);
        return;
    }
    if (session_feed(link->session, link->rest, link->rest_len, &used, &err) < 0) {
        if (write_out(link) == 0)
            close_with_session_error(link, &err);
        return;
    }
    link->rest += used;
    link->rest_len -= used;
    if (write_out(link) < 0)
        return;
    become_ready(link);
    if (!link->closing)
        take_frames(link);
}

/* What a munge step makes wait must leave the common buffer. */
static void keep_rest(struct link *link)
{
    struct vine_err err = {0};

    if (link->rest_len == 0 || link->closing)
        return;
    free(link->kept);
    link->kept = malloc(link->rest_len);
    if (link->kept == NULL) {
        link->rest_len = 0;
        vine_err_set(&err, VINE_ENOMEM, "out of memory for a connection");
        link_close(link, &err);
        return;
    }
    memcpy(link->kept, link->rest, link->rest_len);
    link->rest = link->kept;
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct link *link = stream->data;
    struct vine_err err = {0};

    if (n == 0 || link->closing)
        return;
    if (n < 0) {
        vine_err_uv(&err, (int)n, "connection");
        link_close(link, &err);
        return;
    }
    if (buf->base == read_buffer) {
        link->rest = read_buffer;
        link->rest_len = (size_t)n;
        take_rest(link);
        keep_rest(link);
    } else {
        bulk_arrived(link, (uint32_t)n);
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct link *link = handle->data;
    uint32_t bulk = session_bulk_left(link->session);

    if (link->bulk != NULL && bulk > 0)
        *buf = uv_buf_init(link->bulk, bulk);
    else
        *buf = uv_buf_init(read_buffer, link->read_size);
}

/* Feed what was read; go on reading when all of it is taken. */
static void take_rest(struct link *link)
{
    while (!link->closing && !link->working) {
        if (session_needs_work(link->session)) {
            start_work(link);
            return;
        }
        if (link->rest_len == 0) {
            free(link->kept);
            link->kept = NULL;
            break;
        }
        feed_rest(link);
    }
    if (link->closing || link->working || link->reading)
        return;
    link->reading = true;
    (void)uv_read_start((uv_stream_t *)&link->tcp, on_alloc, on_read);
}

static void on_timeout(uv_timer_t *timer)
{
    struct link *link = timer->data;
    struct vine_err err = {0};

    vine_err_set(&err, VINE_ETIMEDOUT, "no handshake within %d ms", HANDSHAKE_MS);
    link_close(link, &err);
}

static void on_connected(uv_connect_t *req, int status)
{
    struct link *link = req->data;
    struct vine_err err = {0};

    if (link->closing)
        return;
    if (status < 0) {
        vine_err_uv(&err, status, "cannot connect");
        link_close(link, &err);
        return;
    }
    take_rest(link);
}

static struct link *link_new(uv_loop_t *loop, const struct session_config *config,
                             const struct link_ops *ops, void *ctx,
                             struct vine_err *err)
{
    bool data = config->service == SESSION_DATA;
    struct link *link = calloc(1, sizeof(*link));

    if (link == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory for a connection");
        return NULL;
    }
    link->session = session_new(config, err);
    if (link->session == NULL) {
        free(link);
        return NULL;
    }
    link->ops = *ops;
    link->ctx = ctx;
    link->handles = 2;
    link->read_size = data ? READ_BUFFER_DATA : READ_BUFFER;
    link->budget = WRITE_BUDGET;
    link->poll_fd = -1;
    outbox_init(&link->out);
    link->tcp.data = link->timer.data = link->connect.data = link;
    (void)uv_tcp_init(loop, &link->tcp);
    (void)uv_timer_init(loop, &link->timer);
    (void)uv_timer_start(&link->timer, on_timeout, HANDSHAKE_MS, 0);
    return link;
}

static void on_quietly_closed(uv_handle_t *handle)
{
    struct link *link = handle->data;

    if (--link->handles > 0)
        return;
    session_free(link->session);
    free(link->kept);
    free(link);
}

/* Undo link_new before any op was called. */
static void discard(struct link *link)
{
    link->closing = true;
    close_handles(link, on_quietly_closed);
}

static int parse_addr(const char *addr, uint16_t port, struct sockaddr_storage *out,
                      struct vine_err *err)
{
    if (uv_ip4_addr(addr, port, (struct sockaddr_in *)out) == 0 ||
        uv_ip6_addr(addr, port, (struct sockaddr_in6 *)out) == 0)
        return 0;
    return vine_err_set(err, VINE_EINVAL, "'%.60s' is not an IP address", addr);
}

struct link *link_connect(uv_loop_t *loop, const char *addr, uint16_t port,
                          const struct session_config *config,
                          const struct link_ops *ops, void *ctx, struct vine_err *err)
{
    struct sockaddr_storage to;
    struct link *link;
    int status;

    if (parse_addr(addr, port, &to, err) < 0)
        return NULL;
    link = link_new(loop, config, ops, ctx, err);
    if (link == NULL)
        return NULL;
    (void)strncpy(link->addr, addr, sizeof(link->addr) - 1);
    (void)uv_tcp_nodelay(&link->tcp, 1);
    status = uv_tcp_connect(&link->connect, &link->tcp, (struct sockaddr *)&to,
                            on_connected);
    if (status < 0) {
        vine_err_uv(err, status, "cannot connect");
        discard(link);
        return NULL;
    }
    return link;
}

static void name_peer(struct link *link)
{
    struct sockaddr_storage from;
    int len = sizeof(from);

    (void)strcpy(link->addr, "?");
    if (uv_tcp_getpeername(&link->tcp, (struct sockaddr *)&from, &len) < 0)
        return;
    if (from.ss_family == AF_INET)
        (void)uv_ip4_name((struct sockaddr_in *)&from, link->addr, VINE_ADDR_MAX);
    else if (from.ss_family == AF_INET6)
        (void)uv_ip6_name((struct sockaddr_in6 *)&from, link->addr, VINE_ADDR_MAX);
}

struct link *link_accept(uv_stream_t *listener, const struct session_config *config,
                         const struct link_ops *ops, void *ctx, struct vine_err *err)
{
    struct link *link = link_new(listener->loop, config, ops, ctx, err);
    int status;

    if (link == NULL)
        return NULL;
    status = uv_accept(listener, (uv_stream_t *)&link->tcp);
    if (status < 0) {
        vine_err_uv(err, status, "cannot accept a connection");
        discard(link);
        return NULL;
    }
    (void)uv_tcp_nodelay(&link->tcp, 1);
    name_peer(link);
    take_rest(link);
    return link;
}

/* Queue the frame; its bulk follows. -1: the link is closing. */
static int send_frame(struct link *link, uint8_t kind, const void *payload, size_t len,
                      uint32_t bulk_len)
{
    struct vine_err err = {0};

    if (link->closing || !link->ready)
        return -1;
    if (session_send(link->session, kind, payload, len, bulk_len, &err) < 0) {
        close_with_session_error(link, &err);
        return -1;
    }
    session_bulk_sent(link->session, bulk_len);
    return take_output(link, bulk_len);
}

/* The bulk is queued, or could not be. */
static int send_end(struct link *link, int queued)
{
    struct vine_err err = {0};

    if (queued == 0)
        return flush(link);
    vine_err_set(&err, VINE_ENOMEM, "out of memory");
    link_close(link, &err);
    return -1;
}

int link_send(struct link *link, uint8_t kind, const void *payload, size_t len)
{
    return send_frame(link, kind, payload, len, 0) < 0 ? -1 : send_end(link, 0);
}

int link_send_bulk(struct link *link, uint8_t kind, const void *payload, size_t len,
                   void *bulk, uint32_t bulk_len)
{
    int queued;

    if (send_frame(link, kind, payload, len, bulk_len) < 0) {
        free(bulk);
        return -1;
    }
    queued = outbox_take(&link->out, bulk, bulk_len);
    if (queued < 0)
        free(bulk);
    return send_end(link, queued);
}

int link_send_file(struct link *link, uint8_t kind, const void *payload, size_t len,
                   const struct outbox_file *file)
{
    int queued;

    if (send_frame(link, kind, payload, len, file->len) < 0) {
        file->release(file->ctx);
        return -1;
    }
    queued = outbox_file(&link->out, file);
    if (queued < 0)
        file->release(file->ctx);
    return send_end(link, queued);
}

size_t link_queued(const struct link *link)
{
    return link->out.queued;
}

const char *link_peer_name(const struct link *link)
{
    return session_peer_name(link->session);
}

const char *link_peer_addr(const struct link *link)
{
    return link->addr;
}

int link_listen(uv_loop_t *loop, uv_tcp_t *listener, const char *addr, uint16_t port,
                uv_connection_cb on_connection, struct vine_err *err)
{
    struct sockaddr_storage at;
    char what[128];
    int status;

    (void)snprintf(what, sizeof(what), "cannot listen on %s port %u", addr, port);
    (void)uv_tcp_init(loop, listener);
    if (parse_addr(addr, port, &at, err) < 0)
        return -1;
    status = uv_tcp_bind(listener, (struct sockaddr *)&at, 0);
    if (status == 0)
        status = uv_listen((uv_stream_t *)listener, 512, on_connection);
    if (status < 0)
        return vine_err_uv(err, status, what);
    return 0;
}
