/* test_client.c - the local client against a forked server that behaves badly. */
#include "vine/client.h"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

struct server {
    char dir[64], path[96];
    pid_t pid;
};

typedef void (*behaviour)(int fd, void *arg);

static long long clock_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static int server_listen(struct server *s, int backlog)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(s->dir, sizeof(s->dir), "/tmp/vine-test-client.XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->path, sizeof(s->path), "%s/sock", s->dir);
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", s->path);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(fd, backlog), 0);
    return fd;
}

static void server_start(struct server *s, behaviour behave, void *arg)
{
    int fd = server_listen(s, 4);

    s->pid = fork();
    if (s->pid == 0) {
        int peer = accept(fd, NULL, NULL);

        alarm(20); /* never outlive a failed test */
        behave(peer, arg);
        _exit(0);
    }
    close(fd);
}

static void server_stop(struct server *s)
{
    if (s->pid > 0) {
        kill(s->pid, SIGKILL);
        waitpid(s->pid, NULL, 0);
    }
    unlink(s->path);
    rmdir(s->dir);
}

static void put_frame(int fd, const char *text, size_t len)
{
    uint8_t head[4] = {(uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8),
                       (uint8_t)len};

    (void)!write(fd, head, 4);
    (void)!write(fd, text, len);
}

static void wait_for_hang_up(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char byte;

    while (poll(&p, 1, -1) > 0 && read(fd, &byte, 1) > 0)
        ;
}

static void say_raw(int fd, void *arg)
{
    const char *text = arg;

    put_frame(fd, text, strlen(text));
    wait_for_hang_up(fd);
}

static void say_nothing(int fd, void *arg)
{
    wait_for_hang_up(fd);
}

static void hang_up(int fd, void *arg)
{
    close(fd);
}

static void say_part_and_hang_up(int fd, void *arg)
{
    (void)!write(fd, "\0\0\0\20{\"ev", 8);
    close(fd);
}

static void say_header(int fd, void *arg)
{
    (void)!write(fd, arg, 4);
    wait_for_hang_up(fd);
}

/* Send back what was received, one byte a write. */
static void echo_bytes(int fd, void *arg)
{
    char byte;

    while (read(fd, &byte, 1) == 1)
        (void)!write(fd, &byte, 1);
}

/* Half a frame; the rest when the client has sent a byte to say it timed out. */
static void say_in_two_halves(int fd, void *arg)
{
    char byte;

    (void)!write(fd, "\0\0\0\16{\"eve", 9);
    (void)!read(fd, &byte, 1);
    (void)!write(fd, "nt\":\"ok\"}", 9);
    wait_for_hang_up(fd);
}

static void open_client(struct server *s, struct vine_client **c)
{
    struct vine_err err = {0};

    assert_int_equal(vine_client_open(s->path, 2000, c, &err), 0);
}

static void expect_next(behaviour behave, void *arg, int timeout_ms,
                        enum vine_code want)
{
    struct server s;
    struct vine_client *c = NULL;
    struct vine_err err = {0};
    json_t *event = NULL;

    server_start(&s, behave, arg);
    open_client(&s, &c);
    assert_int_equal(vine_client_next(c, timeout_ms, &event, &err), -1);
    assert_int_equal(err.code, want);
    assert_null(event);
    vine_client_close(c);
    server_stop(&s);
}

static void test_no_daemon_is_edown(void **state)
{
    struct vine_client *c = NULL;
    struct vine_err err = {0};
    struct server s = {0};
    char long_path[300];

    assert_int_equal(vine_client_open("/nonexistent/sock", 100, &c, &err), -1);
    assert_int_equal(err.code, VINE_EDOWN);
    close(server_listen(&s, 1)); /* a socket file that nobody serves */
    err = (struct vine_err){0};
    assert_int_equal(vine_client_open(s.path, 100, &c, &err), -1);
    assert_int_equal(err.code, VINE_EDOWN);
    server_stop(&s);
    memset(long_path, 'a', sizeof(long_path) - 1);
    long_path[0] = '/';
    long_path[sizeof(long_path) - 1] = '\0';
    err = (struct vine_err){0};
    assert_int_equal(vine_client_open(long_path, 100, &c, &err), -1);
    assert_int_equal(err.code, VINE_EINVAL);
    assert_null(c);
}

static void test_full_backlog_times_out(void **state)
{
    struct server s = {0};
    struct vine_client *c[8] = {0};
    struct vine_err err = {0};
    long long start;
    int fd = server_listen(&s, 0), n = 0;

    while (n < 8 && vine_client_open(s.path, 0, &c[n], &err) == 0)
        n++;
    assert_true(n < 8);
    assert_int_equal(err.code, VINE_ETIMEDOUT);
    start = clock_ms();
    err = (struct vine_err){0};
    assert_int_equal(vine_client_open(s.path, 100, &c[n], &err), -1);
    assert_true(clock_ms() - start >= 100 && clock_ms() - start < 2000);
    while (n > 0)
        vine_client_close(c[--n]);
    close(fd);
    server_stop(&s);
}

static void test_silence_times_out_and_may_be_asked_again(void **state)
{
    struct server s;
    struct vine_client *c = NULL;
    struct vine_err err = {0};
    json_t *event = NULL;
    long long start = clock_ms();

    expect_next(say_nothing, NULL, 50, VINE_ETIMEDOUT);
    assert_true(clock_ms() - start >= 50 && clock_ms() - start < 5000);

    server_start(&s, say_in_two_halves, NULL);
    open_client(&s, &c);
    assert_int_equal(vine_client_next(c, 50, &event, &err), -1);
    assert_int_equal(err.code, VINE_ETIMEDOUT);
    json_t *nudge = json_object();
    assert_int_equal(vine_client_send(c, nudge, 1000, NULL), 0);
    json_decref(nudge);
    assert_int_equal(vine_client_next(c, 5000, &event, NULL), 0);
    assert_string_equal(json_string_value(json_object_get(event, "event")), "ok");
    json_decref(event);
    vine_client_close(c);
    server_stop(&s);
}

static void test_bad_frames_are_refused(void **state)
{
    static const char *const bad[] = {
        "not json",
        "[]",
        "\"event\"",
        "{\"event\":1}",
        "{\"even\":\"x\"}",
        "{\"event\":\"ok\"",
        "{\"event\":\"ok\"} trailing",
        "{\"event\":\"ok\",\"event\":\"error\"}",
        "{\"event\":\"\xff\"}",
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        expect_next(say_raw, (void *)(uintptr_t)bad[i], 5000, VINE_EPROTO);
    expect_next(say_header, "\0\0\0\0", 5000, VINE_EPROTO);
    expect_next(say_header, "\0\20\0\1", 5000, VINE_EPROTO);
    expect_next(say_header, "\xff\xff\xff\xff", 5000, VINE_EPROTO);
    expect_next(hang_up, NULL, 5000, VINE_EDOWN);
    expect_next(say_part_and_hang_up, NULL, 5000, VINE_EDOWN);
}

static void test_broken_stays_broken(void **state)
{
    struct server s;
    struct vine_client *c = NULL;
    json_t *event = NULL, *request = json_object();

    server_start(&s, say_raw, "[]");
    open_client(&s, &c);
    assert_int_equal(vine_client_next(c, 5000, &event, NULL), -1);
    for (int i = 0; i < 2; i++) {
        struct vine_err err = {0};
        int result = i == 0 ? vine_client_next(c, 10, &event, &err)
                            : vine_client_send(c, request, 10, &err);
        assert_int_equal(result, -1);
        assert_int_equal(err.code, VINE_EDOWN);
    }
    json_decref(request);
    vine_client_close(c);
    server_stop(&s);
}

static void test_short_reads_make_a_frame(void **state)
{
    struct server s;
    struct vine_client *c = NULL;
    json_t *event = NULL;
    json_t *request = json_pack("{s:s,s:s}", "event", "echo", "path", "/a b/%C3%A9");

    server_start(&s, echo_bytes, NULL);
    open_client(&s, &c);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(vine_client_send(c, request, 5000, NULL), 0);
        assert_int_equal(vine_client_next(c, 5000, &event, NULL), 0);
        assert_true(json_equal(event, request));
        json_decref(event);
    }
    json_decref(request);
    vine_client_close(c);
    server_stop(&s);
}

static void test_request_over_the_limit_or_not_taken(void **state)
{
    struct server s;
    struct vine_client *c = NULL;
    struct vine_err err = {0};
    char *text = malloc((1u << 20) + 1);
    json_t *request;

    memset(text, 'x', 1u << 20);
    text[1u << 20] = '\0';
    request = json_pack("{s:s}", "path", text);
    server_start(&s, hang_up, NULL);
    open_client(&s, &c);
    assert_int_equal(vine_client_send(c, request, 1000, &err), -1);
    assert_int_equal(err.code, VINE_ELIMIT);
    vine_client_close(c);
    server_stop(&s);
    json_decref(request);

    int fd = server_listen(&s, 4); /* nobody reads: the socket buffer fills */
    s.pid = 0;
    text[1000000] = '\0';
    request = json_pack("{s:s}", "path", text);
    open_client(&s, &c);
    err = (struct vine_err){0};
    assert_int_equal(vine_client_send(c, request, 50, &err), -1);
    assert_int_equal(err.code, VINE_ETIMEDOUT);
    json_decref(request);
    vine_client_close(c);
    close(fd);
    server_stop(&s);
    free(text);
}

static void test_send_after_hang_up_raises_no_signal(void **state)
{
    struct server s;
    struct vine_client *c = NULL;
    struct vine_err err = {0};
    json_t *request = json_object();

    server_start(&s, hang_up, NULL);
    open_client(&s, &c);
    waitpid(s.pid, NULL, 0);
    s.pid = 0;
    assert_int_equal(vine_client_send(c, request, 1000, &err), -1);
    assert_int_equal(err.code, VINE_EDOWN);
    json_decref(request);
    vine_client_close(c);
    server_stop(&s);
}

static void test_check_turns_error_events_into_errors(void **state)
{
    struct vine_err err = {0};
    json_t *event = json_pack("{s:s,s:s,s:s}", "event", "error", "code", "enospc",
                              "text", "'/a%0Ab' is full");

    assert_int_equal(vine_client_check(event, &err), -1);
    assert_int_equal(err.code, VINE_ENOSPC);
    assert_string_equal(err.text, "'/a\nb' is full");
    json_decref(event);
    event = json_pack("{s:s,s:s}", "event", "error", "code", "ok");
    err = (struct vine_err){0};
    assert_int_equal(vine_client_check(event, &err), -1);
    assert_int_not_equal(err.code, VINE_OK);
    json_decref(event);
    event = json_pack("{s:s}", "event", "staged");
    assert_int_equal(vine_client_check(event, &err), 0);
    json_decref(event);
}

static void test_paths_survive_escaping(void **state)
{
    char all[256], *text;

    for (int i = 1; i < 256; i++)
        all[i - 1] = (char)i;
    all[255] = '\0';
    text = vine_path_escape(all);
    for (const char *p = text; *p != '\0'; p++)
        assert_true(*p >= 0x20 && *p < 0x7f);
    assert_int_equal(vine_path_unescape(text), 0);
    assert_string_equal(text, all);
    free(text);
    text = vine_path_escape("/plain/path,with:marks\\");
    assert_string_equal(text, "/plain/path,with:marks\\");
    free(text);
}

static void test_bad_escapes_are_refused_untouched(void **state)
{
    static const char *const bad[] = {"%",    "%4",     "a%zz", "%00",
                                      "%41%", "%41%0g", "%%41"};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char *exact = strdup(bad[i]);
        assert_int_equal(vine_path_unescape(exact), -1);
        assert_string_equal(exact, bad[i]);
        free(exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_daemon_is_edown),
        cmocka_unit_test(test_full_backlog_times_out),
        cmocka_unit_test(test_silence_times_out_and_may_be_asked_again),
        cmocka_unit_test(test_bad_frames_are_refused),
        cmocka_unit_test(test_broken_stays_broken),
        cmocka_unit_test(test_short_reads_make_a_frame),
        cmocka_unit_test(test_request_over_the_limit_or_not_taken),
        cmocka_unit_test(test_send_after_hang_up_raises_no_signal),
        cmocka_unit_test(test_check_turns_error_events_into_errors),
        cmocka_unit_test(test_paths_survive_escaping),
        cmocka_unit_test(test_bad_escapes_are_refused_untouched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
