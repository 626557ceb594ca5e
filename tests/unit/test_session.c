/* test_session.c - two sessions back to back in memory: handshake, frames, violations.
 *
 * Credentials are made by a stand-in that keeps munge's rules: readable by one uid,
 * each only once. test_session_munge.c uses the real one. */
#include "daemon/wire/session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/wire/frame.h"
#include "tests/unit/fake_auth.h"
#include "tests/unit/session_pair.h"

/* ---- a pair of sessions ---- */

struct pair {
    struct fake fake;
    struct session *connect, *accept;
};

static struct session *make(struct pair *p, enum session_role role,
                            enum session_service service, const char *self,
                            const char *peer)
{
    struct session_config config = {.role = role,
                                    .service = service,
                                    .self = self,
                                    .peer = peer,
                                    .auth = &fake_ops,
                                    .auth_ctx = &p->fake};
    struct vine_err err = {0};
    struct session *s = session_new(&config, &err);

    assert_non_null(s);
    return s;
}

static void open_pair(struct pair *p, enum session_service service)
{
    *p = (struct pair){.fake.maker = geteuid()};
    p->connect = make(p, SESSION_CONNECT, service, "n1", "n2");
    p->accept = make(p, SESSION_ACCEPT, service, "n2", NULL);
}

static void close_pair(struct pair *p)
{
    session_free(p->connect);
    session_free(p->accept);
    for (unsigned i = 0; i < p->fake.seen_count; i++)
        free(p->fake.seen[i]);
}

static void open_ready(struct pair *p, enum session_service service)
{
    open_pair(p, service);
    pump(p->connect, p->accept, SIZE_MAX);
    assert_true(session_ready(p->connect));
    assert_true(session_ready(p->accept));
}

/* Feed raw bytes to a fresh accepting session and return it. */
static struct session *accept_bytes(struct pair *p, const void *bytes, size_t len)
{
    struct session *s = make(p, SESSION_ACCEPT, SESSION_CONTROL, "n2", NULL);
    uint8_t *exact = malloc(len + !len);
    size_t used = 1, done = 0;

    memcpy(exact, bytes, len);
    while (done < len && used > 0 &&
           session_feed(s, exact + done, len - done, &used, NULL) == 0)
        done += used;
    free(exact);
    return s;
}

/* ---- violations before authentication ---- */

static void test_first_bytes_that_are_no_hello_are_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *words;
    } cases[] = {
        {"GET / HTTP/1.1\r\n", 16, "unexpected frame"},
        {"\x00\x00\x00\x07\xf1\0\0\0\0VINE\0\1x", 16, "unexpected frame"},
        {"\x00\x00\x00\x07\xf2\0\0\0\0VINE\0\1\1", 16, "unexpected frame"},
        {"\x00\x00\x00\x00\xf3\0\0\0\0", 9, "unexpected frame"},
        {"\x00\x00\x00\x02\x01\0\0\0\0{}", 11, "unexpected frame"},
        {"\x00\x00\x20\x00\xf0\0\0\0\0", 9, "limit 8183"},
        {"\xff\xff\xff\xff\xf0\0\0\0\0", 9, "limit 8183"},
        {"\x00\x00\x00\x07\xf0\0\0\0\1VINE\0\1x", 16, "bulk of 1"},
        {"\x00\x00\x00\x00\xf0\0\0\0\0", 9, "not a vine-env daemon"},
        {"\x00\x00\x00\x07\xf0\0\0\0\0VINX\0\1x", 16, "not a vine-env daemon"},
        {"\x00\x00\x00\x07\xf0\0\0\0\0VINE\0\1\0", 16, "not text"},
        {"\x00\x00\x00\x07\xf0\0\0\0\0VINE\0\1\xff", 16, "not text"},
        {"\x00\x00\x00\x07\xf0\0\0\0\0VINE\0\2x", 16, "version 2"},
        {"\x00\x00\x00\x07\xf0\0\0\0\0VINE\0\1xy", 17, "out of turn"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct pair p = {.fake.maker = geteuid()};
        struct session *s = accept_bytes(&p, cases[i].bytes, cases[i].len);

        assert_dead(s, VINE_EPROTO, cases[i].words);
        session_free(s);
    }
}

static void test_no_cut_of_a_hello_authenticates(void **state)
{
    struct pair p;
    const uint8_t *hello;
    size_t len;

    open_pair(&p, SESSION_CONTROL);
    assert_int_equal(session_work(p.connect, NULL), 0);
    hello = session_output(p.connect, &len);
    for (size_t cut = 0; cut < len; cut++) {
        struct session *s = accept_bytes(&p, hello, cut);

        assert_false(session_needs_work(s));
        session_free(s);
    }
    close_pair(&p);
}

static void test_a_garbled_credential_is_refused_and_told(void **state)
{
    struct pair p;
    struct session *s;

    open_pair(&p, SESSION_CONTROL);
    s = accept_bytes(&p, "\x00\x00\x00\x0a\xf0\0\0\0\0VINE\0\1abcd", 19);
    assert_int_equal(session_work(s, NULL), -1);
    assert_dead(s, VINE_EAUTH, "no credential");
    assert_int_equal(session_work(p.connect, NULL), 0);
    pump(s, p.connect, SIZE_MAX);
    assert_dead(p.connect, VINE_EAUTH, "cannot verify our credential");
    session_free(s);
    close_pair(&p);
}

static void test_versions_that_differ_are_told_on_both_sides(void **state)
{
    struct pair p;
    struct session *s;

    open_pair(&p, SESSION_CONTROL);
    s = accept_bytes(&p, "\x00\x00\x00\x07\xf0\0\0\0\0VINE\0\x09x", 16);
    assert_dead(s, VINE_EPROTO,
                "peer speaks protocol version 9, this daemon version 1");
    session_free(s);

    assert_int_equal(session_work(p.connect, NULL), 0);
    {
        size_t used;
        struct vine_err err = {0};

        assert_int_equal(session_feed(p.connect,
                                      "\x00\x00\x00\x07\xf2\0\0\0\0VINE\0\x09\1", 16,
                                      &used, &err),
                         -1);
        assert_int_equal(err.code, VINE_EPROTO);
    }
    assert_dead(p.connect, VINE_EPROTO, "peer speaks protocol version 9");
    close_pair(&p);
}

static void test_another_uid_is_refused(void **state)
{
    struct pair p;

    open_pair(&p, SESSION_CONTROL);
    p.fake.maker = 20001;
    pump(p.connect, p.accept, SIZE_MAX);
    assert_dead(p.accept, VINE_EAUTH, "peer runs as uid 20001");
    assert_dead(p.connect, VINE_EAUTH, "does not accept daemons of this uid");
    close_pair(&p);
}

static void test_an_answer_by_another_uid_is_refused(void **state)
{
    struct pair p;

    open_pair(&p, SESSION_CONTROL);
    assert_int_equal(session_work(p.connect, NULL), 0);
    (void)move(p.connect, p.accept, SIZE_MAX);
    p.fake.maker = 20001;
    assert_int_equal(session_work(p.accept, NULL), 0);
    pump(p.connect, p.accept, SIZE_MAX);
    assert_dead(p.connect, VINE_EAUTH, "peer runs as uid 20001");
    assert_false(session_ready(p.accept));
    close_pair(&p);
}

static void test_a_wrong_name_or_service_is_refused(void **state)
{
    struct pair p;

    open_pair(&p, SESSION_CONTROL);
    session_free(p.accept);
    p.accept = make(&p, SESSION_ACCEPT, SESSION_CONTROL, "n3", NULL);
    pump(p.connect, p.accept, SIZE_MAX);
    assert_dead(p.accept, VINE_EAUTH, "wants to talk to 'n2', but this is 'n3'");
    assert_dead(p.connect, VINE_EAUTH, "another name");
    close_pair(&p);

    open_pair(&p, SESSION_CONTROL);
    session_free(p.accept);
    p.accept = make(&p, SESSION_ACCEPT, SESSION_DATA, "n2", NULL);
    pump(p.connect, p.accept, SIZE_MAX);
    assert_dead(p.accept, VINE_EAUTH, "wants service 1");
    assert_dead(p.connect, VINE_EAUTH, "another name");
    close_pair(&p);
}

/* The host that answers proves to be a daemon, but not the one that was meant. */
static void test_an_answer_under_another_name_is_refused(void **state)
{
    struct pair p;

    open_pair(&p, SESSION_CONTROL);
    assert_int_equal(session_work(p.connect, NULL), 0);
    p.fake.pretend = "n3";
    pump(p.connect, p.accept, SIZE_MAX);
    assert_dead(p.connect, VINE_EAUTH, "expected 'n2', but 'n3' answers there");
    assert_false(session_ready(p.accept));
    close_pair(&p);
}

static void test_munge_down_is_told_where_it_is_down(void **state)
{
    struct pair p;

    open_pair(&p, SESSION_CONTROL);
    p.fake.down = true;
    pump(p.connect, p.accept, SIZE_MAX);
    assert_dead(p.connect, VINE_EDOWN, "munged is not running");
    close_pair(&p);

    open_pair(&p, SESSION_CONTROL);
    assert_int_equal(session_work(p.connect, NULL), 0);
    p.fake.down = true;
    pump(p.connect, p.accept, SIZE_MAX);
    assert_dead(p.accept, VINE_EDOWN, "munged is not running");
    assert_dead(p.connect, VINE_EAUTH, "a problem of its own");
    close_pair(&p);
}

/* An attacker records a HELLO and sends it again: munge refuses it; where munge has
 * forgotten, the session never becomes ready, because no CONFIRM can be made. */
static void test_a_replayed_hello_gets_nowhere(void **state)
{
    struct pair p;
    struct session *again;
    uint8_t *copy;
    const uint8_t *hello;
    size_t len;

    open_pair(&p, SESSION_CONTROL);
    assert_int_equal(session_work(p.connect, NULL), 0);
    hello = session_output(p.connect, &len);
    copy = malloc(len);
    memcpy(copy, hello, len);
    pump(p.connect, p.accept, SIZE_MAX);
    assert_true(session_ready(p.accept));

    again = accept_bytes(&p, copy, len);
    assert_int_equal(session_work(again, NULL), -1);
    assert_dead(again, VINE_EAUTH, "used before");
    session_free(again);

    p.fake.replays_pass = true;
    again = accept_bytes(&p, copy, len);
    assert_int_equal(session_work(again, NULL), 0);
    assert_false(session_ready(again));
    assert_null(session_peer_name(again));
    session_free(again);
    free(copy);
    close_pair(&p);
}

/* A WELCOME that answers to another HELLO of the same node. */
static void test_an_old_answer_is_refused(void **state)
{
    struct pair p;
    struct session *second;

    open_pair(&p, SESSION_CONTROL);
    second = make(&p, SESSION_CONNECT, SESSION_CONTROL, "n1", "n2");
    assert_int_equal(session_work(p.connect, NULL), 0);
    assert_int_equal(session_work(second, NULL), 0);
    (void)move(p.connect, p.accept, SIZE_MAX);
    assert_int_equal(session_work(p.accept, NULL), 0);
    (void)move(p.accept, second, SIZE_MAX);
    assert_int_equal(session_work(second, NULL), -1);
    assert_dead(second, VINE_EAUTH, "old handshake");
    session_free(second);
    close_pair(&p);
}

/* A HELLO is sent back to who made it, as if it were the answer. */
static void test_a_reflected_hello_is_refused(void **state)
{
    struct pair p;
    uint8_t *copy;
    const uint8_t *hello;
    size_t len, used;

    open_pair(&p, SESSION_CONTROL);
    assert_int_equal(session_work(p.connect, NULL), 0);
    hello = session_output(p.connect, &len);
    copy = malloc(len);
    memcpy(copy, hello, len);
    copy[4] = 0xf1;
    assert_int_equal(session_feed(p.connect, copy, len, &used, NULL), 0);
    assert_int_equal(session_work(p.connect, NULL), -1);
    assert_dead(p.connect, VINE_EAUTH, "another step");
    free(copy);
    close_pair(&p);
}

static void test_bad_names_make_no_session(void **state)
{
    static const char *const bad[] = {
        NULL,       "",
        "a b",      "n1/x",
        "\xc3\xa9", "0123456789012345678901234567890123456789012345678901234567890123"};

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct session_config c = {.role = SESSION_CONNECT,
                                   .service = SESSION_DATA,
                                   .self = bad[i],
                                   .peer = "n2"};
        struct vine_err err = {0};

        assert_null(session_new(&c, &err));
        assert_int_equal(err.code, VINE_EINVAL);
        c.self = "n1";
        c.peer = bad[i];
        assert_null(session_new(&c, NULL));
    }
}

/* ---- violations after it ---- */

/* Take the frame that waits in `from`'s output, let `garble` change it, feed it. */
static void feed_changed(struct session *from, struct session *to, size_t at,
                         uint8_t flip)
{
    const uint8_t *out;
    uint8_t *copy;
    size_t len, used = 1, done = 0;

    out = session_output(from, &len);
    copy = malloc(len);
    memcpy(copy, out, len);
    copy[at] ^= flip;
    while (done < len && used > 0 &&
           session_feed(to, copy + done, len - done, &used, NULL) == 0)
        done += used;
    free(copy);
}

static void test_every_changed_byte_of_a_frame_is_refused(void **state)
{
    struct session_frame frame;

    for (size_t at = 0; at < FRAME_HEADER_LEN + 5 + FRAME_MAC_LEN; at++) {
        struct pair p;

        open_ready(&p, SESSION_DATA);
        assert_int_equal(session_send(p.connect, 7, "hello", 5, 0, NULL), 0);
        feed_changed(p.connect, p.accept, at, 1);
        assert_false(session_next(p.accept, &frame)); /* dead, or waits for more */
        close_pair(&p);
    }
}

static void test_a_repeated_frame_is_refused(void **state)
{
    struct pair p;
    struct session_frame frame;

    open_ready(&p, SESSION_CONTROL);
    assert_int_equal(session_send(p.connect, 1, "{}", 2, 0, NULL), 0);
    feed_changed(p.connect, p.accept, 0, 0);
    assert_true(session_next(p.accept, &frame));
    feed_changed(p.connect, p.accept, 0, 0);
    assert_false(session_next(p.accept, &frame));
    assert_dead(p.accept, VINE_EAUTH, "frame 2 of 'n1' is not authentic");
    close_pair(&p);
}

/* The second frame, since its number is the one that is expected: only the key of the
 * other direction tells them apart. */
static void test_a_frame_sent_back_is_refused(void **state)
{
    struct pair p;
    struct session_frame frame;

    open_ready(&p, SESSION_CONTROL);
    assert_int_equal(session_send(p.accept, 1, "{}", 2, 0, NULL), 0);
    session_output_taken(p.accept, FRAME_HEADER_LEN + 2 + FRAME_MAC_LEN);
    assert_int_equal(session_send(p.accept, 1, "{}", 2, 0, NULL), 0);
    feed_changed(p.accept, p.accept, 0, 0);
    assert_false(session_next(p.accept, &frame));
    assert_dead(p.accept, VINE_EAUTH, "frame 1 of 'n1' is not authentic");
    close_pair(&p);
}

static void test_lengths_over_the_limits_are_refused(void **state)
{
    static const struct {
        uint8_t header[FRAME_HEADER_LEN];
        const char *words;
    } cases[] = {
        {{0, 0, 1, 1, 1, 0, 0, 0, 0}, "limit 256"},
        {{255, 255, 255, 255, 1, 0, 0, 0, 0}, "limit 256"},
        {{0, 0, 0, 1, 1, 0, 0x10, 0, 1}, "bulk of 1048577"},
        {{0, 0, 0, 1, 0, 0, 0, 0, 0}, "unknown frame kind 0x00"},
        {{0, 0, 0, 1, 0xf0, 0, 0, 0, 0}, "unknown frame kind 0xf0"},
        {{0, 0, 0, 0, 0xf3, 0, 0, 0, 0}, "unknown frame kind 0xf3"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct pair p;
        size_t used;

        open_ready(&p, SESSION_DATA);
        assert_int_equal(
            session_feed(p.accept, cases[i].header, FRAME_HEADER_LEN, &used, NULL), -1);
        assert_dead(p.accept, VINE_EPROTO, cases[i].words);
        close_pair(&p);
    }
}

static void test_a_confirm_without_the_keys_is_refused(void **state)
{
    static const uint8_t forged[FRAME_HEADER_LEN + FRAME_MAC_LEN] = {[4] = 0xf3};
    struct pair p;
    size_t used;

    open_pair(&p, SESSION_CONTROL);
    assert_int_equal(session_work(p.connect, NULL), 0);
    (void)move(p.connect, p.accept, SIZE_MAX);
    assert_int_equal(session_work(p.accept, NULL), 0);
    assert_int_equal(session_feed(p.accept, forged, sizeof(forged), &used, NULL), -1);
    assert_dead(p.accept, VINE_EAUTH, "not authentic");
    close_pair(&p);
}

static void test_the_first_error_stays(void **state)
{
    struct pair p;
    struct vine_err err = {0};
    struct session *s;
    size_t used = 7;

    open_pair(&p, SESSION_CONTROL);
    s = accept_bytes(&p, "GET / HTTP/1.1\r\n", 16);
    assert_int_equal(session_feed(s, "x", 1, &used, &err), -1);
    assert_int_equal(used, 0);
    assert_non_null(strstr(err.text, "unexpected frame"));
    err = (struct vine_err){0};
    assert_int_equal(session_work(s, &err), -1);
    assert_non_null(strstr(err.text, "unexpected frame"));
    err = (struct vine_err){0};
    assert_int_equal(session_send(s, 1, "{}", 2, 0, &err), -1);
    assert_non_null(strstr(err.text, "unexpected frame"));
    session_free(s);
    close_pair(&p);
}

/* ---- what works ---- */

static void test_handshake_names_both_sides(void **state)
{
    size_t portions[] = {1, 7, 100, SIZE_MAX};

    for (int i = 0; i < 4; i++) {
        struct pair p;

        open_pair(&p, SESSION_CONTROL);
        assert_null(session_peer_name(p.accept));
        pump(p.connect, p.accept, portions[i]);
        assert_true(session_ready(p.connect));
        assert_true(session_ready(p.accept));
        assert_string_equal(session_peer_name(p.connect), "n2");
        assert_string_equal(session_peer_name(p.accept), "n1");
        close_pair(&p);
    }
}

static void test_frames_arrive_in_order_both_ways(void **state)
{
    char *big = malloc(VINE_FRAME_MAX);
    struct session_frame frame;
    struct pair p;

    memset(big, 'x', VINE_FRAME_MAX);
    open_ready(&p, SESSION_CONTROL);
    assert_int_equal(session_send(p.connect, 1, NULL, 0, 0, NULL), 0);
    assert_int_equal(session_send(p.connect, SESSION_KIND_MAX, "second", 6, 0, NULL),
                     0);
    assert_int_equal(session_send(p.connect, 1, big, VINE_FRAME_MAX, 0, NULL), 0);
    assert_int_equal(session_send(p.accept, 2, "back", 4, 0, NULL), 0);

    (void)move(p.connect, p.accept, 1000);
    assert_true(session_next(p.accept, &frame));
    assert_int_equal(frame.len, 0);
    assert_false(session_next(p.accept, &frame));
    (void)move(p.connect, p.accept, 1000);
    assert_true(session_next(p.accept, &frame));
    assert_int_equal(frame.kind, SESSION_KIND_MAX);
    assert_int_equal(frame.len, 6);
    assert_memory_equal(frame.payload, "second", 6);
    (void)move(p.connect, p.accept, 1000);
    assert_true(session_next(p.accept, &frame));
    assert_int_equal(frame.len, VINE_FRAME_MAX);
    assert_memory_equal(frame.payload, big, VINE_FRAME_MAX);
    (void)move(p.accept, p.connect, 3);
    assert_true(session_next(p.connect, &frame));
    assert_memory_equal(frame.payload, "back", 4);
    free(big);
    close_pair(&p);
}

static void test_bulk_is_counted_on_both_sides(void **state)
{
    struct session_frame frame;
    struct vine_err err = {0};
    struct pair p;
    size_t used;

    open_ready(&p, SESSION_DATA);
    assert_int_equal(session_send(p.connect, 5, "head", 4, 10, NULL), 0);
    assert_int_equal(session_send(p.connect, 5, "next", 4, 0, &err), -1);
    assert_non_null(strstr(err.text, "bulk of the last frame is due"));
    (void)move(p.connect, p.accept, SIZE_MAX);
    assert_int_equal(session_bulk_left(p.accept), 0);
    assert_true(session_next(p.accept, &frame));
    assert_int_equal(frame.bulk_len, 10);
    assert_int_equal(session_bulk_left(p.accept), 10);
    assert_int_equal(session_feed(p.accept, "0123456789", 10, &used, NULL), 0);
    assert_int_equal(used, 0);
    session_bulk_take(p.accept, 4);
    session_bulk_take(p.accept, 6);
    session_bulk_sent(p.connect, 10);
    assert_int_equal(session_bulk_due(p.connect), 0);
    assert_int_equal(session_send(p.connect, 5, "next", 4, 0, NULL), 0);
    (void)move(p.connect, p.accept, SIZE_MAX);
    assert_true(session_next(p.accept, &frame));
    assert_memory_equal(frame.payload, "next", 4);
    close_pair(&p);
}

static void test_sending_too_early_or_too_much_leaves_it_alive(void **state)
{
    static const uint8_t big[SESSION_DATA_FRAME_MAX + 1];
    struct vine_err err = {0};
    struct pair p;

    open_pair(&p, SESSION_DATA);
    assert_int_equal(session_send(p.connect, 1, "x", 1, 0, &err), -1);
    assert_int_equal(err.code, VINE_EINVAL);
    pump(p.connect, p.accept, SIZE_MAX);
    err = (struct vine_err){0};
    assert_int_equal(session_send(p.connect, 1, big, sizeof(big), 0, &err), -1);
    assert_int_equal(err.code, VINE_ELIMIT);
    assert_int_equal(session_send(p.connect, 1, "x", 1, VINE_CHUNK_MAX + 1, NULL), -1);
    assert_int_equal(session_send(p.connect, 0, "x", 1, 0, NULL), -1);
    assert_int_equal(session_send(p.connect, 0xf0, "x", 1, 0, NULL), -1);
    assert_true(session_ready(p.connect));
    close_pair(&p);
}

static void test_a_peer_that_does_not_read_is_cut_off(void **state)
{
    char *big = calloc(1, VINE_FRAME_MAX);
    struct pair p;
    int sent = 0;

    open_ready(&p, SESSION_CONTROL);
    while (session_send(p.connect, 1, big, VINE_FRAME_MAX, 0, NULL) == 0)
        assert_true(++sent < 10);
    assert_dead(p.connect, VINE_ELIMIT, "does not read");
    free(big);
    close_pair(&p);
}

/* The frame being handled must outlive a death caused by an answer to it. */
static void test_a_borrowed_frame_survives_death_in_send(void **state)
{
    char *big = calloc(1, VINE_FRAME_MAX);
    struct session_frame frame;
    struct pair p;

    open_ready(&p, SESSION_CONTROL);
    assert_int_equal(session_send(p.connect, 1, "question", 8, 0, NULL), 0);
    (void)move(p.connect, p.accept, SIZE_MAX);
    assert_true(session_next(p.accept, &frame));
    while (session_send(p.accept, 1, big, VINE_FRAME_MAX, 0, NULL) == 0)
        continue;
    assert_memory_equal(frame.payload, "question", 8);
    free(big);
    close_pair(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_bytes_that_are_no_hello_are_refused),
        cmocka_unit_test(test_no_cut_of_a_hello_authenticates),
        cmocka_unit_test(test_a_garbled_credential_is_refused_and_told),
        cmocka_unit_test(test_versions_that_differ_are_told_on_both_sides),
        cmocka_unit_test(test_another_uid_is_refused),
        cmocka_unit_test(test_an_answer_by_another_uid_is_refused),
        cmocka_unit_test(test_a_wrong_name_or_service_is_refused),
        cmocka_unit_test(test_an_answer_under_another_name_is_refused),
        cmocka_unit_test(test_munge_down_is_told_where_it_is_down),
        cmocka_unit_test(test_a_replayed_hello_gets_nowhere),
        cmocka_unit_test(test_an_old_answer_is_refused),
        cmocka_unit_test(test_a_reflected_hello_is_refused),
        cmocka_unit_test(test_bad_names_make_no_session),
        cmocka_unit_test(test_every_changed_byte_of_a_frame_is_refused),
        cmocka_unit_test(test_a_repeated_frame_is_refused),
        cmocka_unit_test(test_a_frame_sent_back_is_refused),
        cmocka_unit_test(test_lengths_over_the_limits_are_refused),
        cmocka_unit_test(test_a_confirm_without_the_keys_is_refused),
        cmocka_unit_test(test_the_first_error_stays),
        cmocka_unit_test(test_handshake_names_both_sides),
        cmocka_unit_test(test_frames_arrive_in_order_both_ways),
        cmocka_unit_test(test_bulk_is_counted_on_both_sides),
        cmocka_unit_test(test_sending_too_early_or_too_much_leaves_it_alive),
        cmocka_unit_test(test_a_peer_that_does_not_read_is_cut_off),
        cmocka_unit_test(test_a_borrowed_frame_survives_death_in_send),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
