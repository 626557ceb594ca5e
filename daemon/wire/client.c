/* client.c - frames of JSON over the node daemon's Unix socket.
 *
 * A frame is a 4-byte big-endian length and one JSON object of at most FRAME_MAX bytes.
 * The socket is non-blocking and every wait is a poll() against a monotonic deadline,
 * so that no call outlives its budget, whatever the daemon does. A frame that arrived
 * in part when time was up stays in the client and the next call goes on with it. After
 * a malformed frame, a hang-up or a request sent in part the connection is `broken` and
 * stays so: the position in the stream is lost. SIGPIPE never arises (MSG_NOSIGNAL). */
#include "vine/client.h"
#include "vine/clock.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define FRAME_MAX (1u << 20) /* the local protocol's bound; the largest status fits */
#define HEADER_LEN 4u
#define BACKLOG_RETRY_MS                                                               \
    10 /* a full backlog gives EAGAIN at once: poll cannot wait                        \
        */

struct vine_client {
    int fd;
    bool broken;
    uint8_t header[HEADER_LEN];
    size_t header_have;
    char *body; /* NULL until the header is whole */
    size_t body_len, body_have;
};

/* Until `events` or the deadline: 1, 0 (time is up) or -1. At least one look is taken.
 */
static int wait_until(int fd, short events, int64_t deadline)
{
    for (;;) {
        struct pollfd p = {.fd = fd, .events = events};
        int64_t left = deadline - vine_now_ms();
        int n = poll(&p, 1, left < 0 ? 0 : (int)left);

        if (n > 0)
            return 1;
        if (n == 0 && vine_now_ms() >= deadline)
            return 0;
        if (n < 0 && errno != EINTR)
            return -1;
    }
}

static int connect_error(const char *path, struct vine_err *err)
{
    if (errno == ENOENT || errno == ECONNREFUSED || errno == ENOTDIR)
        return vine_err_set(err, VINE_EDOWN, "no daemon answers at '%s': %s", path,
                            strerror(errno));
    return vine_err_sys(err, "cannot connect to the daemon at '%s'", path);
}

static int connect_until(int fd, const char *path, int64_t deadline,
                         struct vine_err *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(addr.sun_path))
        return vine_err_set(err, VINE_EINVAL,
                            "socket path '%.60s...' is over %zu bytes", path,
                            sizeof(addr.sun_path) - 1);
    memcpy(addr.sun_path, path, strlen(path));
    while (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
        struct timespec pause = {.tv_nsec = BACKLOG_RETRY_MS * 1000000L};

        if (errno == EINTR || errno == EISCONN)
            continue;
        if (errno != EAGAIN)
            return connect_error(path, err);
        if (vine_now_ms() >= deadline)
            return vine_err_set(err, VINE_ETIMEDOUT,
                                "the daemon at '%s' takes no connection in time", path);
        (void)nanosleep(&pause, NULL);
    }
    return 0;
}

int vine_client_open(const char *socket_path, int timeout_ms, struct vine_client **out,
                     struct vine_err *err)
{
    struct vine_client *c = calloc(1, sizeof(*c));
    int64_t deadline = vine_now_ms() + timeout_ms;

    if (c == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0) {
        free(c);
        return vine_err_sys(err, "cannot make a socket");
    }
    if (connect_until(c->fd, socket_path, deadline, err) < 0) {
        vine_client_close(c);
        return -1;
    }
    *out = c;
    return 0;
}

static int broken(struct vine_client *c, struct vine_err *err, enum vine_code code,
                  const char *what)
{
    c->broken = true;
    return vine_err_set(err, code, "%s", what);
}

static bool hung_up(int number)
{
    return number == EPIPE || number == ECONNRESET || number == ENOTCONN;
}

static int send_all(struct vine_client *c, const char *data, size_t len,
                    int64_t deadline, struct vine_err *err)
{
    while (len > 0) {
        ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL);

        if (n > 0) {
            data += n;
            len -= (size_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            if (wait_until(c->fd, POLLOUT, deadline) <= 0)
                return broken(c, err, VINE_ETIMEDOUT,
                              "the daemon does not take the request in time");
        } else if (n < 0 && hung_up(errno)) {
            return broken(c, err, VINE_EDOWN, "the daemon hung up");
        } else if (n < 0 && errno != EINTR) {
            c->broken = true;
            return vine_err_sys(err, "cannot send to the daemon");
        }
    }
    return 0;
}

int vine_client_send(struct vine_client *c, const json_t *request, int timeout_ms,
                     struct vine_err *err)
{
    int64_t deadline = vine_now_ms() + timeout_ms;
    char *frame;
    size_t len;
    int result;

    if (c->broken)
        return vine_err_set(err, VINE_EDOWN, "the daemon hung up");
    len = json_dumpb(request, NULL, 0, JSON_COMPACT);
    if (len == 0 || len > FRAME_MAX)
        return vine_err_set(err, VINE_ELIMIT, "a request of %zu bytes, limit %u", len,
                            FRAME_MAX);
    frame = malloc(HEADER_LEN + len);
    if (frame == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    frame[0] = (char)(len >> 24);
    frame[1] = (char)(len >> 16);
    frame[2] = (char)(len >> 8);
    frame[3] = (char)len;
    (void)json_dumpb(request, frame + HEADER_LEN, len, JSON_COMPACT);
    result = send_all(c, frame, HEADER_LEN + len, deadline, err);
    free(frame);
    return result;
}

/* Fill up to `want` bytes. 0, or -1 with *err (ETIMEDOUT keeps what came). */
static int fill(struct vine_client *c, void *dst, size_t *have, size_t want,
                int64_t deadline, struct vine_err *err)
{
    while (*have < want) {
        ssize_t n = recv(c->fd, (char *)dst + *have, want - *have, 0);

        if (n > 0) {
            *have += (size_t)n;
        } else if (n == 0 || hung_up(errno)) {
            return broken(c, err, VINE_EDOWN, "the daemon hung up");
        } else if (errno == EAGAIN) {
            if (wait_until(c->fd, POLLIN, deadline) <= 0)
                return vine_err_set(err, VINE_ETIMEDOUT,
                                    "no answer from the daemon in time");
        } else if (errno != EINTR) {
            c->broken = true;
            return vine_err_sys(err, "cannot read from the daemon");
        }
    }
    return 0;
}

static int start_body(struct vine_client *c, struct vine_err *err)
{
    uint32_t len = (uint32_t)c->header[0] << 24 | (uint32_t)c->header[1] << 16 |
                   (uint32_t)c->header[2] << 8 | c->header[3];

    if (len == 0 || len > FRAME_MAX) {
        c->broken = true;
        return vine_err_set(err, VINE_EPROTO,
                            "a frame of %u bytes from the daemon, limit %u", len,
                            FRAME_MAX);
    }
    c->body = malloc(len);
    if (c->body == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    c->body_len = len;
    c->body_have = 0;
    return 0;
}

static int take_event(struct vine_client *c, json_t **out, struct vine_err *err)
{
    json_t *event = json_loadb(c->body, c->body_len, JSON_REJECT_DUPLICATES, NULL);

    free(c->body);
    c->body = NULL;
    c->header_have = 0;
    if (!json_is_string(json_object_get(event, "event"))) {
        json_decref(event);
        return broken(c, err, VINE_EPROTO, "malformed event from the daemon");
    }
    *out = event;
    return 0;
}

int vine_client_next(struct vine_client *c, int timeout_ms, json_t **out,
                     struct vine_err *err)
{
    int64_t deadline = vine_now_ms() + timeout_ms;

    if (c->broken)
        return vine_err_set(err, VINE_EDOWN, "the daemon hung up");
    if (fill(c, c->header, &c->header_have, HEADER_LEN, deadline, err) < 0)
        return -1;
    if (c->body == NULL && start_body(c, err) < 0)
        return -1;
    if (fill(c, c->body, &c->body_have, c->body_len, deadline, err) < 0)
        return -1;
    return take_event(c, out, err);
}

int vine_client_check(const json_t *event, struct vine_err *err)
{
    const char *word = json_string_value(json_object_get(event, "event"));
    const char *code = json_string_value(json_object_get(event, "code"));
    const char *text = json_string_value(json_object_get(event, "text"));
    struct vine_err found = {0};
    enum vine_code number;

    if (word == NULL || strcmp(word, "error") != 0)
        return 0;
    number = code != NULL ? vine_code_parse(code) : VINE_EPROTO;
    if (number == VINE_OK) /* an error must not read as "no error" */
        number = VINE_EPROTO;
    vine_err_set(&found, number, "%s",
                 text != NULL && *text != '\0' ? text : vine_code_name(number));
    (void)vine_path_unescape(found.text); /* it may name paths; a bad escape stays */
    return vine_err_set(err, found.code, "%s", found.text);
}

void vine_client_close(struct vine_client *c)
{
    if (c == NULL)
        return;
    (void)close(c->fd);
    free(c->body);
    free(c);
}
