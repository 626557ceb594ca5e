/* test_link.c - two links on one loop: order, bulk, and every way to end.
 *
 * The auth stand-in signs nothing: sessions have tests of their own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/edge/link.h"

#define PORT 17211
#define WAIT_MS 15000
#define CHUNKS 40

static int plain_encode(void *ctx, const void *payload, size_t len, uid_t reader,
                        char **cred, struct vine_err *err)
{
    char *text = malloc(2 * len + 1);

    for (size_t i = 0; i < len; i++)
        (void)snprintf(text + 2 * i, 3, "%02x", ((const uint8_t *)payload)[i]);
    *cred = text;
    return 0;
}

static int plain_decode(void *ctx, const char *cred, void *payload, size_t cap,
                        size_t *len, uid_t *uid, struct vine_err *err)
{
    *len = strlen(cred) / 2;
    if (*len > cap)
        return vine_err_set(err, VINE_EAUTH, "too long");
    for (size_t i = 0; i < *len; i++) {
        unsigned byte;
        if (sscanf(cred + 2 * i, "%2x", &byte) != 1)
            return vine_err_set(err, VINE_EAUTH, "no hex");
        ((uint8_t *)payload)[i] = (uint8_t)byte;
    }
    *uid = geteuid();
    return 0;
}

static const struct auth_ops plain_auth = {plain_encode, plain_decode};

struct side {
    struct world *world;
    struct link *link;
    bool was_ready, was_closed;
    int frames;
    uint32_t bulks, next_chunk;
    uint8_t *bulk;
    uint32_t bulk_len;
    struct vine_err why;
};

struct world {
    uv_loop_t loop;
    uv_tcp_t listener;
    uv_timer_t deadline;
    struct side client, server;
    void (*when_ready)(struct world *w);
    int open; /* sides not closed yet */
};

static void end_if_over(struct world *w)
{
    if (--w->open > 0)
        return;
    uv_close((uv_handle_t *)&w->listener, NULL);
    uv_close((uv_handle_t *)&w->deadline, NULL);
}

static void on_ready(void *ctx, struct link *link)
{
    struct side *s = ctx;

    s->was_ready = true;
    if (s->world->client.was_ready && s->world->server.was_ready)
        s->world->when_ready(s->world);
}

static void *on_frame(void *ctx, struct link *link, const struct session_frame *frame)
{
    struct side *s = ctx;

    s->frames++;
    if (frame->bulk_len == 0)
        return NULL;
    assert_int_equal(frame->payload[0], s->next_chunk++);
    s->bulk_len = frame->bulk_len;
    s->bulk = malloc(frame->bulk_len);
    return s->bulk;
}

static void on_bulk_end(void *ctx, struct link *link)
{
    struct side *s = ctx;

    for (uint32_t i = 0; i < s->bulk_len; i++)
        if (s->bulk[i] != (uint8_t)(s->bulks + i))
            fail_msg("byte %u of bulk %u is wrong", i, s->bulks);
    free(s->bulk);
    s->bulk = NULL;
    if (++s->bulks == CHUNKS)
        link_close(link, NULL);
}

static void on_closed(void *ctx, struct link *link, const struct vine_err *err)
{
    struct side *s = ctx;

    s->was_closed = true;
    s->why = *err;
    free(s->bulk);
    end_if_over(s->world);
}

static const struct link_ops ops = {
    .ready = on_ready, .frame = on_frame, .bulk_end = on_bulk_end, .closed = on_closed};

static void on_connection(uv_stream_t *listener, int status)
{
    struct world *w = listener->data;
    struct session_config config = {.role = SESSION_ACCEPT,
                                    .service = SESSION_DATA,
                                    .self = "server",
                                    .auth = &plain_auth};
    struct vine_err err = {0};

    w->server.link = link_accept(listener, &config, &ops, &w->server, &err);
    assert_non_null(w->server.link);
    w->open++;
}

static void on_deadline(uv_timer_t *timer)
{
    fail_msg("nothing happened for %d ms", WAIT_MS);
}

static void nothing(struct world *w)
{
}

static void run(struct world *w, const char *expected_name)
{
    struct session_config config = {.role = SESSION_CONNECT,
                                    .service = SESSION_DATA,
                                    .self = "client",
                                    .peer = expected_name,
                                    .auth = &plain_auth};
    struct vine_err err = {0};

    (void)uv_loop_init(&w->loop);
    w->listener.data = w;
    w->client.world = w->server.world = w;
    assert_int_equal(
        link_listen(&w->loop, &w->listener, "127.0.0.1", PORT, on_connection, &err), 0);
    (void)uv_timer_init(&w->loop, &w->deadline);
    (void)uv_timer_start(&w->deadline, on_deadline, WAIT_MS, 0);
    w->open = 1;
    w->client.link =
        link_connect(&w->loop, "127.0.0.1", PORT, &config, &ops, &w->client, &err);
    assert_non_null(w->client.link);
    (void)uv_run(&w->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w->loop), 0);
}

static void send_chunks(struct world *w)
{
    for (uint32_t n = 0; n < CHUNKS; n++) {
        uint32_t len = 1 + n * 20011 % 1000000;
        uint8_t *bulk = malloc(len), tag = (uint8_t)n;
        for (uint32_t i = 0; i < len; i++)
            bulk[i] = (uint8_t)(n + i);
        assert_int_equal(link_send_bulk(w->server.link, 7, &tag, 1, bulk, len), 0);
        assert_int_equal(link_send(w->server.link, 8, &tag, 1), 0);
    }
}

static void test_frames_and_bulk_arrive_in_order(void **state)
{
    struct world w = {.when_ready = send_chunks};

    run(&w, "server");
    assert_string_equal(w.client.why.text, "");
    assert_int_equal(w.server.why.code, VINE_EDOWN);
    assert_int_equal(w.client.bulks, CHUNKS);
    assert_true(w.client.frames >= 2 * CHUNKS - 1);
    assert_int_equal(w.client.why.code, VINE_OK);
    assert_true(w.server.was_closed);
}

/* A file in which byte i of the part at n * CHUNK_SPACE is n + i. */
#define CHUNK_SPACE 1000000u

static int chunks_fd = -1;
static int released;

static int make_file(uint32_t chunks)
{
    char name[] = "/tmp/test_link.XXXXXX";
    uint8_t *part = malloc(CHUNK_SPACE);
    int fd = mkstemp(name);

    assert_true(fd >= 0);
    (void)unlink(name);
    for (uint32_t n = 0; n < chunks; n++) {
        for (uint32_t i = 0; i < CHUNK_SPACE; i++)
            part[i] = (uint8_t)(n + i);
        assert_int_equal(write(fd, part, CHUNK_SPACE), CHUNK_SPACE);
    }
    free(part);
    return fd;
}

static void count_release(void *ctx)
{
    released++;
}

static void send_files(struct world *w)
{
    for (uint32_t n = 0; n < CHUNKS; n++) {
        uint8_t tag = (uint8_t)n;
        struct outbox_file file = {.fd = chunks_fd,
                                   .offset = (uint64_t)n * CHUNK_SPACE,
                                   .len = 1 + n * 20011 % CHUNK_SPACE,
                                   .release = count_release};
        assert_int_equal(link_send_file(w->server.link, 7, &tag, 1, &file), 0);
        assert_int_equal(link_send(w->server.link, 8, &tag, 1), 0);
    }
}

static void test_parts_of_files_arrive_in_order(void **state)
{
    struct world w = {.when_ready = send_files};

    released = 0;
    chunks_fd = make_file(CHUNKS);
    run(&w, "server");
    assert_string_equal(w.client.why.text, "");
    assert_int_equal(w.client.bulks, CHUNKS);
    assert_int_equal(released, CHUNKS);
    (void)close(chunks_fd);
}

static void send_beyond_end(struct world *w)
{
    uint8_t tag = 0;
    struct outbox_file file = {
        .fd = chunks_fd, .offset = 17, .len = CHUNK_SPACE, .release = count_release};

    (void)link_send_file(w->server.link, 7, &tag, 1, &file);
}

static void test_a_short_file_ends_the_connection(void **state)
{
    struct world w = {.when_ready = send_beyond_end};

    released = 0;
    chunks_fd = make_file(1);
    run(&w, "server");
    assert_int_equal(w.server.why.code, VINE_ECORRUPT);
    assert_int_equal(w.client.bulks, 0);
    assert_int_equal(released, 1);
    (void)close(chunks_fd);
}

static void send_file_and_close(struct world *w)
{
    send_files(w);
    link_close(w->server.link, NULL);
    assert_int_equal(link_send(w->server.link, 8, "", 0), -1);
}

static void test_close_gives_up_files(void **state)
{
    struct world w = {.when_ready = send_file_and_close};

    released = 0;
    chunks_fd = make_file(CHUNKS);
    run(&w, "server");
    assert_true(w.client.was_closed && w.server.was_closed);
    assert_int_equal(released, CHUNKS);
    (void)close(chunks_fd);
}

static void test_wrong_name_never_gets_ready(void **state)
{
    struct world w = {.when_ready = nothing};

    run(&w, "somebody");
    assert_false(w.client.was_ready || w.server.was_ready);
    assert_int_not_equal(w.client.why.code, VINE_OK);
    assert_int_not_equal(w.server.why.code, VINE_OK);
}

static void send_and_close(struct world *w)
{
    uint8_t tag = 0, *bulk = malloc(VINE_CHUNK_MAX);

    for (uint32_t i = 0; i < VINE_CHUNK_MAX; i++)
        bulk[i] = (uint8_t)i;
    assert_int_equal(link_send_bulk(w->server.link, 7, &tag, 1, bulk, VINE_CHUNK_MAX),
                     0);
    link_close(w->server.link, NULL);
}

static void test_close_with_bulk_queued(void **state)
{
    struct world w = {.when_ready = send_and_close};

    run(&w, "server");
    assert_true(w.client.was_closed && w.server.was_closed);
    assert_int_not_equal(w.client.why.code, VINE_OK);
}

static void test_refused_connection(void **state)
{
    struct session_config config = {.role = SESSION_CONNECT,
                                    .service = SESSION_DATA,
                                    .self = "client",
                                    .peer = "server",
                                    .auth = &plain_auth};
    struct world w = {.open = 1};
    struct vine_err err = {0};

    (void)uv_loop_init(&w.loop);
    (void)uv_tcp_init(&w.loop, &w.listener);
    (void)uv_timer_init(&w.loop, &w.deadline);
    w.client.world = &w;
    assert_non_null(
        link_connect(&w.loop, "127.0.0.1", 1, &config, &ops, &w.client, &err));
    (void)uv_run(&w.loop, UV_RUN_DEFAULT);
    assert_int_equal(w.client.why.code, VINE_EDOWN);
    assert_int_equal(uv_loop_close(&w.loop), 0);
    assert_null(link_connect(&w.loop, "ctl", 1, &config, &ops, &w.client, &err));
    assert_int_equal(err.code, VINE_EINVAL);
}

static void test_port_in_use_is_named(void **state)
{
    uv_tcp_t first, second;
    struct vine_err err = {0};
    uv_loop_t loop;

    (void)uv_loop_init(&loop);
    assert_int_equal(link_listen(&loop, &first, "127.0.0.1", PORT, on_connection, &err),
                     0);
    assert_int_equal(
        link_listen(&loop, &second, "127.0.0.1", PORT, on_connection, &err), -1);
    assert_non_null(strstr(err.text, "17211"));
    uv_close((uv_handle_t *)&first, NULL);
    uv_close((uv_handle_t *)&second, NULL);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames_and_bulk_arrive_in_order),
        cmocka_unit_test(test_parts_of_files_arrive_in_order),
        cmocka_unit_test(test_a_short_file_ends_the_connection),
        cmocka_unit_test(test_close_gives_up_files),
        cmocka_unit_test(test_wrong_name_never_gets_ready),
        cmocka_unit_test(test_close_with_bulk_queued),
        cmocka_unit_test(test_refused_connection),
        cmocka_unit_test(test_port_in_use_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
