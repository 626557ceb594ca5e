/* test_session_munge.c - the handshake with a munged of our own in a private directory.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/session_pair.h"
#include "vine/digest.h"

struct munged {
    char dir[64], socket[96];
    pid_t pid;
};

static const char *const munged_files[] = {"key", "socket", "socket.lock",
                                           "pid", "log",    "seed"};

static void wait_for_file(const char *path)
{
    struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
    struct stat st;

    for (int i = 0; i < 500 && stat(path, &st) < 0; i++)
        (void)nanosleep(&pause, NULL);
}

static void munged_path(const struct munged *m, const char *option, const char *name,
                        char *out, size_t cap)
{
    assert_true((size_t)snprintf(out, cap, "%s%s/%s", option, m->dir, name) < cap);
}

static int start_munged(void **state)
{
    struct munged *m = calloc(1, sizeof(*m));
    char key[96], args[5][128], secret[128];
    FILE *file;

    *state = m;
    if (access("/usr/sbin/munged", X_OK) < 0)
        return 0; /* pid 0: the tests skip */
    strcpy(m->dir, "/tmp/vine-munge-XXXXXX");
    if (mkdtemp(m->dir) == NULL)
        return -1;
    munged_path(m, "", "socket", m->socket, sizeof(m->socket));
    munged_path(m, "", "key", key, sizeof(key));
    file = fopen(key, "w");
    if (file == NULL || chmod(key, 0600) < 0 ||
        vine_random(secret, sizeof(secret), NULL) < 0 ||
        fwrite(secret, sizeof(secret), 1, file) != 1 || fclose(file) != 0)
        return -1;
    munged_path(m, "--key-file=", "key", args[0], sizeof(args[0]));
    munged_path(m, "--socket=", "socket", args[1], sizeof(args[1]));
    munged_path(m, "--pid-file=", "pid", args[2], sizeof(args[2]));
    munged_path(m, "--log-file=", "log", args[3], sizeof(args[3]));
    munged_path(m, "--seed-file=", "seed", args[4], sizeof(args[4]));
    m->pid = fork();
    if (m->pid == 0) {
        (void)freopen("/dev/null", "w", stderr);
        execl("/usr/sbin/munged", "munged", "--foreground", "--force", args[0], args[1],
              args[2], args[3], args[4], (char *)NULL);
        _exit(127);
    }
    wait_for_file(m->socket);
    return m->pid < 0 ? -1 : 0;
}

static int stop_munged(void **state)
{
    struct munged *m = *state;
    char path[128];

    if (m->pid > 0) {
        (void)kill(m->pid, SIGTERM);
        (void)waitpid(m->pid, NULL, 0);
        for (size_t i = 0; i < sizeof(munged_files) / sizeof(*munged_files); i++) {
            munged_path(m, "", munged_files[i], path, sizeof(path));
            (void)unlink(path);
        }
        (void)rmdir(m->dir);
    }
    free(m);
    return 0;
}

static struct session *make_real(void *socket, enum session_role role)
{
    struct session_config config = {.role = role,
                                    .service = SESSION_CONTROL,
                                    .self = role == SESSION_CONNECT ? "n1" : "manager",
                                    .peer = SESSION_MANAGER_NAME,
                                    .auth_ctx = socket};

    return session_new(&config, NULL);
}

static void skip_without_munged(const struct munged *m)
{
    const char *must = getenv("VINE_MUST_RUN");

    if (m->pid > 0)
        return;
    if (must != NULL && strcmp(must, "1") == 0)
        fail_msg("munged is not installed, but VINE_MUST_RUN=1");
    print_message("SKIP: munged is not installed\n");
    skip();
}

static void test_real_munge_authenticates(void **state)
{
    struct munged *m = *state;
    struct session *a, *b;
    struct session_frame frame;

    skip_without_munged(m);
    a = make_real(m->socket, SESSION_CONNECT);
    b = make_real(m->socket, SESSION_ACCEPT);
    pump(a, b, SIZE_MAX);
    assert_string_equal(session_error(a)->text, "");
    assert_string_equal(session_error(b)->text, "");
    assert_true(session_ready(a) && session_ready(b));
    assert_string_equal(session_peer_name(b), "n1");
    assert_int_equal(session_send(b, 1, "{}", 2, 0, NULL), 0);
    (void)move(b, a, SIZE_MAX);
    assert_true(session_next(a, &frame));
    session_free(a);
    session_free(b);
}

static void test_real_munge_refuses_a_replay(void **state)
{
    struct munged *m = *state;
    struct session *a, *b, *c;
    const uint8_t *hello;
    size_t len, used;

    skip_without_munged(m);
    a = make_real(m->socket, SESSION_CONNECT);
    b = make_real(m->socket, SESSION_ACCEPT);
    c = make_real(m->socket, SESSION_ACCEPT);
    assert_int_equal(session_work(a, NULL), 0);
    hello = session_output(a, &len);
    assert_int_equal(session_feed(c, hello, len, &used, NULL), 0);
    assert_int_equal(session_feed(b, hello, len, &used, NULL), 0);
    assert_int_equal(session_work(b, NULL), 0);
    assert_int_equal(session_work(c, NULL), -1);
    assert_dead(c, VINE_EAUTH, "somebody replays it");
    session_free(a);
    session_free(b);
    session_free(c);
}

/* One changed character of a true credential. */
static void test_real_munge_refuses_a_forgery(void **state)
{
    struct munged *m = *state;
    struct session *a, *b;
    const uint8_t *hello;
    uint8_t *copy;
    size_t len, used;

    skip_without_munged(m);
    a = make_real(m->socket, SESSION_CONNECT);
    b = make_real(m->socket, SESSION_ACCEPT);
    assert_int_equal(session_work(a, NULL), 0);
    hello = session_output(a, &len);
    copy = malloc(len);
    memcpy(copy, hello, len);
    copy[len / 2] = copy[len / 2] == 'A' ? 'B' : 'A';
    assert_int_equal(session_feed(b, copy, len, &used, NULL), 0);
    assert_int_equal(session_work(b, NULL), -1);
    assert_dead(b, VINE_EAUTH, "one munge.key");
    free(copy);
    session_free(a);
    session_free(b);
}

static void test_no_munged_says_what_to_do(void **state)
{
    struct session *a = make_real((void *)"/nonexistent/munge.socket", SESSION_CONNECT);

    assert_int_equal(session_work(a, NULL), -1);
    assert_dead(a, VINE_EDOWN, "munged is not running on this host");
    assert_non_null(strstr(session_error(a)->text, "/nonexistent/munge.socket"));
    session_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_munge_authenticates),
        cmocka_unit_test(test_real_munge_refuses_a_replay),
        cmocka_unit_test(test_real_munge_refuses_a_forgery),
        cmocka_unit_test(test_no_munged_says_what_to_do),
    };

    return cmocka_run_group_tests(tests, start_munged, stop_munged);
}
