/* test_stage.c - the plugin's wait, against daemons that are slow, wrong, or go away.
 */
#include "spank/cancel.c"
#include "spank/environ.c"
#include "spank/identity.c"
#include "spank/stage.c"
#include "spank/text.c"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>

#include <cmocka.h>

#define GOOD                                                                           \
    "{\"event\":\"staged\",\"sources\":[{\"path\":\"/s/ml\",\"dst\":\"/s/ml\","        \
    "\"code\":\"ok\",\"text\":\"\",\"scope\":\"node\",\"digest\":\"abcd\",\"size\":1," \
    "\"mount\":\"/m/abcd\",\"activate\":\"venv\"}]}"
#define PROGRESS                                                                       \
    "{\"event\":\"progress\",\"phase\":\"fetching\",\"bytes_done\":5,\"bytes_total\":" \
    "10,"                                                                              \
    "\"bytes_peer\":5,\"bytes_origin\":0}"

struct daemon {
    char dir[64], path[96];
    pid_t pid;
};

/* What one connection is told; NULL: nothing, until the client goes. */
struct script {
    const char *lines[8];
    bool hang_up; /* after the lines */
};

static void tell_frame(int fd, const char *text)
{
    size_t len = strlen(text);
    uint8_t head[4] = {(uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8),
                       (uint8_t)len};

    (void)!write(fd, head, 4);
    (void)!write(fd, text, len);
}

static void serve(int fd, const struct script *script)
{
    char request[4096];

    if (read(fd, request, sizeof(request)) <= 0)
        return;
    for (int i = 0; script->lines[i] != NULL; i++)
        tell_frame(fd, script->lines[i]);
    while (!script->hang_up && read(fd, request, sizeof(request)) > 0)
        ;
    (void)close(fd);
}

/* One connection after the other gets its script. */
static void daemon_start(struct daemon *d, const struct script *scripts, int count)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    (void)snprintf(d->dir, sizeof(d->dir), "/tmp/vine-test-stage.XXXXXX");
    assert_non_null(mkdtemp(d->dir));
    (void)snprintf(d->path, sizeof(d->path), "%s/sock", d->dir);
    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", d->path);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(fd, 8), 0);
    d->pid = fork();
    if (d->pid == 0) {
        (void)alarm(30);
        for (int i = 0; i < count; i++)
            serve(accept(fd, NULL, NULL), &scripts[i]);
        _exit(0);
    }
    (void)close(fd);
}

static void daemon_stop(struct daemon *d)
{
    if (d->pid > 0) {
        (void)kill(d->pid, SIGKILL);
        (void)waitpid(d->pid, NULL, 0);
    }
    (void)unlink(d->path);
    (void)rmdir(d->dir);
}

struct heard {
    char lines[4096];
    int count, canceled_after; /* looks until "canceled"; 0: never */
};

static void hear(void *arg, const char *line)
{
    struct heard *h = arg;
    size_t used = strlen(h->lines);

    h->count++;
    (void)snprintf(h->lines + used, sizeof(h->lines) - used, "%s\n", line);
}

static bool is_canceled(void *arg)
{
    struct heard *h = arg;

    return h->canceled_after > 0 && --h->canceled_after == 0;
}

static struct vine_spec *spec_of(const char *text)
{
    struct vine_spec *spec = malloc(sizeof(*spec));

    assert_int_equal(vine_spec_parse(text, spec, NULL), 0);
    return spec;
}

static struct stage_source *stage(const char *socket_path, const char *text,
                                  uint64_t timeout_s, struct heard *heard)
{
    struct vine_spec *spec = spec_of(text);
    struct stage_source *results = calloc(spec->count, sizeof(*results));
    struct stage_request request = {
        .socket_path = socket_path,
        .job = 7,
        .uid = 1000,
        .gid = 1000,
        .spec = spec,
        .timeout_s = timeout_s,
        .progress_s = 1,
        .canceled = is_canceled,
        .say = hear,
        .arg = heard,
    };

    stage_wait(&request, results);
    free(spec);
    return results;
}

static void expect_code(const struct script *scripts, int count, enum vine_code code)
{
    struct heard heard = {.count = 0};
    struct daemon d = {.pid = 0};
    struct stage_source *results;

    daemon_start(&d, scripts, count);
    results = stage(d.path, "/s/ml", 10, &heard);
    if (results[0].err.code != code)
        fail_msg("'%s': code %s", results[0].err.text,
                 vine_code_name(results[0].err.code));
    free(results);
    daemon_stop(&d);
}

static void test_malformed_answers_are_errors(void **state)
{
    static const struct script wrong[] = {
        {{"{\"event\":\"staged\"}"}, false},
        {{"{\"event\":\"staged\",\"sources\":[]}"}, false},
        {{"{\"event\":\"staged\",\"sources\":[1]}"}, false},
        {{"{\"event\":\"staged\",\"sources\":[{\"path\":\"/s/ml\"}]}"}, false},
        {{"{\"event\":\"staged\",\"sources\":[{\"path\":\"/other\",\"code\":\"ok\"}]}"},
         false},
        {{"{\"event\":\"staged\",\"sources\":[{\"path\":\"/s/ml\",\"code\":\"ok\","
          "\"dst\":\"rel\",\"mount\":\"/m\",\"digest\":\"a\"}]}"},
         false},
        {{"{\"event\":\"staged\",\"sources\":[{\"path\":\"/s/ml\",\"code\":\"ok\","
          "\"dst\":\"/d\",\"mount\":\"/m%00\",\"digest\":\"a\"}]}"},
         false},
        {{"{\"event\":\"frobnicated\"}"}, false},
        {{"[]"}, false},
    };

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        expect_code(&wrong[i], 1, VINE_EPROTO);
}

static void test_errors_of_the_daemon_are_kept(void **state)
{
    static const struct script whole = {
        {"{\"event\":\"error\",\"code\":\"enospc\",\"text\":\"full\"}"}, false};
    static const struct script one = {
        {"{\"event\":\"staged\",\"sources\":[{\"path\":\"/s/ml\",\"code\":\"eacces\","
         "\"text\":\"cannot read '/s/m%0Al'\",\"scope\":\"cluster\"}]}"},
        false};
    struct heard heard = {.count = 0};
    struct daemon d = {.pid = 0};
    struct stage_source *results;

    expect_code(&whole, 1, VINE_ENOSPC);
    daemon_start(&d, &one, 1);
    results = stage(d.path, "/s/ml", 10, &heard);
    assert_int_equal(results[0].err.code, VINE_EACCES);
    assert_string_equal(results[0].err.text, "cannot read '/s/m\nl'");
    assert_true(results[0].cluster);
    free(results);
    daemon_stop(&d);
}

static void test_a_later_steps_quick_answer_says_nothing(void **state)
{
    static const struct script good = {{PROGRESS, GOOD}, false};
    struct heard heard = {.count = 0};
    struct daemon d = {.pid = 0};
    struct stage_source *results;

    daemon_start(&d, &good, 1);
    results = stage(d.path, "/s/ml", 10, &heard);
    assert_int_equal(results[0].err.code, VINE_OK);
    assert_string_equal(results[0].mount, "/m/abcd");
    assert_string_equal(results[0].dst, "/s/ml");
    assert_int_equal(results[0].kind, ENVIRON_VENV);
    assert_int_equal(heard.count, 0);
    free(results);
    daemon_stop(&d);
}

#define ANSWER(flags)                                                                  \
    "{\"event\":\"staged\",\"sources\":[{\"path\":\"/s/ml\",\"dst\":\"/s/ml\","        \
    "\"code\":\"ok\",\"digest\":\"abcd\",\"mount\":\"/m/abcd\"," flags "}]}"

/* What the job's first step on a node hears at its end; later ones hear nothing. */
static void test_the_end_is_one_line(void **state)
{
    static const struct {
        struct script script;
        const char *want;
    } cases[] = {
        {{{ANSWER("\"cached\":true,\"first\":true")}, false}, "vine-env: ml: cached\n"},
        {{{ANSWER("\"cached\":false,\"first\":true")}, false}, "vine-env: ml: ready\n"},
        {{{ANSWER("\"cached\":true,\"first\":false")}, false}, ""},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct heard heard = {.count = 0};
        struct daemon d = {.pid = 0};

        daemon_start(&d, &cases[i].script, 1);
        free(stage(d.path, "/s/ml", 10, &heard));
        assert_string_equal(heard.lines, cases[i].want);
        daemon_stop(&d);
    }
}

static void note(struct wait *w, const char *event)
{
    json_t *json = json_loads(event, 0, NULL);

    assert_non_null(json);
    note_progress(w, json);
    json_decref(json);
}

/* A node that waits for another's build tells of that; one that fetches, of itself. */
static void test_what_the_other_nodes_do_is_noted(void **state)
{
    struct vine_spec *spec = spec_of("/s/ml");
    struct stage_request request = {.spec = spec};
    struct wait w = {.request = &request};

    note(&w, "{\"event\":\"progress\",\"phase\":\"resolving\",\"cluster\":{"
             "\"state\":\"building\",\"nodes\":8,\"ready\":0,\"bytes_done\":30,"
             "\"bytes_total\":100,\"origin\":\"n3\"}}");
    assert_string_equal(w.phase, "building");
    assert_string_equal(w.progress.worker, "n3");
    assert_int_equal(w.progress.bytes_done, 30);
    assert_int_equal(w.progress.bytes_total, 100);
    assert_string_equal(w.progress.slowest, "");
    note(&w, "{\"event\":\"progress\",\"phase\":\"fetching\",\"bytes_done\":50,"
             "\"bytes_total\":100,\"cluster\":{\"state\":\"bound\",\"nodes\":8,"
             "\"ready\":2,\"bytes_done\":12,\"bytes_total\":100,\"slowest\":\"n5\"}}");
    assert_string_equal(w.phase, "fetching");
    assert_string_equal(w.progress.worker, "");
    assert_int_equal(w.progress.bytes_done, 50);
    assert_string_equal(w.progress.slowest, "n5");
    assert_int_equal(w.progress.slowest_percent, 12);
    assert_int_equal(w.progress.nodes, 8);
    /* Nonsense from a daemon does no harm. */
    note(&w, "{\"event\":\"progress\",\"phase\":7,\"cluster\":[1]}");
    assert_string_equal(w.phase, "");
    note(&w, "{\"event\":\"progress\",\"phase\":\"resolving\",\"cluster\":{"
             "\"state\":{},\"nodes\":-4,\"slowest\":3}}");
    assert_string_equal(w.phase, "resolving");
    assert_int_equal(w.progress.nodes, 0);
    free(spec);
}

static void test_an_absent_daemon_fails_at_once(void **state)
{
    struct heard heard = {.count = 0};
    int64_t start = vine_now_ms();
    struct stage_source *results = stage("/nonexistent/sock", "/s/ml,/s/b", 60, &heard);

    assert_true(vine_now_ms() - start < 5000);
    assert_int_equal(results[0].err.code, VINE_EDOWN);
    assert_int_equal(results[1].err.code, VINE_EDOWN);
    free(results);
}

static void test_a_restarted_daemon_is_asked_again(void **state)
{
    static const struct script scripts[] = {
        {{PROGRESS}, true}, {{NULL}, true}, {{GOOD}, false}};

    expect_code(scripts, 3, VINE_OK);
}

/* The request names both halves, and of data a file keeps its whole name. */
static void test_data_is_asked_for_and_named(void **state)
{
    struct vine_spec *spec = spec_of("/s/ml");
    struct stage_request request = {.spec = spec};
    struct stage_source source = {.err.code = VINE_OK};
    struct wait w = {.request = &request};
    char name[VINE_PATH_MAX + 32];
    json_t *message, *answer;

    assert_string_equal(phase_of(spec, "building"), "building");
    assert_int_equal(vine_spec_add_data("/s/a%b.tar:/x", spec, NULL), 0);
    assert_string_equal(phase_of(spec, "building"), "building");
    message = make_request(&request, "begin", NULL);
    assert_string_equal(json_string_value(json_object_get(message, "spec")), "/s/ml");
    assert_string_equal(json_string_value(json_object_get(message, "data")),
                        "/s/a%25b.tar:/x");
    json_decref(message);
    memset(spec, 0, sizeof(*spec));
    assert_int_equal(vine_spec_add_data("/s/a.tar", spec, NULL), 0);
    message = make_request(&request, "begin", NULL);
    assert_null(json_object_get(message, "spec"));
    json_decref(message);
    assert_string_equal(phase_of(spec, "building"), "reading");
    assert_string_equal(phase_of(spec, "fetching"), "fetching");
    name_of(&w, name);
    assert_string_equal(name, "a.tar");
    answer = json_pack("{s:s,s:s,s:s,s:s,s:s,s:b,s:s}", "path", "/s/a.tar", "dst",
                       "/s/a.tar", "code", "ok", "mount", "/m/abcd", "digest", "abcd",
                       "file", 1, "activate", "none");
    assert_int_equal(read_source(answer, "/s/a.tar", &source), 0);
    assert_true(source.file);
    json_decref(answer);
    free(spec);
}

static void test_the_deadline_holds_and_progress_is_told(void **state)
{
    static const struct script silent = {{PROGRESS}, false};
    struct heard heard = {.count = 0};
    struct daemon d = {.pid = 0};
    struct stage_source *results;
    int64_t start = vine_now_ms();

    daemon_start(&d, &silent, 1);
    results = stage(d.path, "/s/ml", 2, &heard);
    assert_true(vine_now_ms() - start >= 2000 && vine_now_ms() - start < 10000);
    assert_int_equal(results[0].err.code, VINE_ETIMEDOUT);
    assert_true(heard.count >= 1);
    assert_non_null(strstr(heard.lines, "vine-env: ml: fetching 50 %"));
    assert_null(strstr(heard.lines, "ready"));
    free(results);
    daemon_stop(&d);
}

static void test_a_cancelled_step_stops_waiting(void **state)
{
    static const struct script silent = {{NULL}, false};
    struct heard heard = {.canceled_after = 2};
    struct daemon d = {.pid = 0};
    struct stage_source *results;
    int64_t start = vine_now_ms();

    daemon_start(&d, &silent, 1);
    results = stage(d.path, "/s/ml", 60, &heard);
    assert_true(vine_now_ms() - start < 5000);
    assert_int_equal(results[0].err.code, VINE_ECANCELED);
    free(results);
    daemon_stop(&d);
}

static void test_tell_needs_an_ok_in_time(void **state)
{
    static const struct script ok = {{"{\"event\":\"ok\"}"}, false};
    static const struct script silent = {{NULL}, false};
    struct vine_spec *spec = spec_of("/s/ml");
    struct daemon d = {.pid = 0};
    struct vine_err err = {0};
    struct stage_request request = {.socket_path = d.path, .job = 7, .spec = spec};
    int64_t start;

    daemon_start(&d, &ok, 1);
    assert_int_equal(stage_tell(&request, "begin", 2000, &err), 0);
    daemon_stop(&d);
    daemon_start(&d, &silent, 1);
    start = vine_now_ms();
    assert_int_equal(stage_tell(&request, "end", 100, &err), -1);
    assert_int_equal(err.code, VINE_ETIMEDOUT);
    assert_true(vine_now_ms() - start < 2000);
    daemon_stop(&d);
    free(spec);
}

/* The step's own socket, with a request that nobody answers. */
static void test_a_waiting_signal_is_noticed(void **state)
{
    char dir[] = "/tmp/vine-test-cancel.XXXXXX";
    struct cancel_watch watch = {.job = 77}, other = {.job = 78};
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), client, request;

    assert_non_null(mkdtemp(dir));
    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/n1_77.4294967291", dir);
    assert_int_equal(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_false(cancel_look(&watch));
    client = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(client, (struct sockaddr *)&addr, sizeof(addr)), 0);
    request = accept(listener, NULL, NULL);
    for (int i = 1; i < CANCEL_LOOKS; i++)
        assert_false(cancel_look(&watch));
    assert_true(cancel_look(&watch));
    (void)close(request); /* answered: the next one starts anew */
    assert_false(cancel_look(&watch));
    assert_int_equal(watch.looks, 0);
    for (int i = 0; i < CANCEL_LOOKS; i++)
        assert_false(cancel_look(&other));
    (void)close(client);
    (void)close(listener);
    (void)unlink(addr.sun_path);
    (void)rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_malformed_answers_are_errors),
        cmocka_unit_test(test_errors_of_the_daemon_are_kept),
        cmocka_unit_test(test_a_later_steps_quick_answer_says_nothing),
        cmocka_unit_test(test_the_end_is_one_line),
        cmocka_unit_test(test_what_the_other_nodes_do_is_noted),
        cmocka_unit_test(test_an_absent_daemon_fails_at_once),
        cmocka_unit_test(test_a_restarted_daemon_is_asked_again),
        cmocka_unit_test(test_data_is_asked_for_and_named),
        cmocka_unit_test(test_the_deadline_holds_and_progress_is_told),
        cmocka_unit_test(test_a_cancelled_step_stops_waiting),
        cmocka_unit_test(test_tell_needs_an_ok_in_time),
        cmocka_unit_test(test_a_waiting_signal_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
