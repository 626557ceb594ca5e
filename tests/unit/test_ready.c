/* test_ready.c - what the service manager hears when a daemon is up. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/edge/daemon.h"

static int listener(const char *path, size_t length)
{
    struct sockaddr_un here = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);

    assert_true(fd >= 0);
    memcpy(here.sun_path, path, length);
    assert_int_equal(bind(fd, (struct sockaddr *)&here,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)),
                     0);
    return fd;
}

static void hears_ready(int fd)
{
    char said[32] = "";

    assert_int_equal(daemon_ready(), 0);
    assert_int_equal(recv(fd, said, sizeof(said) - 1, 0), 7);
    assert_string_equal(said, "READY=1");
    assert_null(getenv("NOTIFY_SOCKET"));
    assert_int_equal(daemon_ready(), 0); /* once */
    assert_int_equal(recv(fd, said, sizeof(said) - 1, 0), -1);
    (void)close(fd);
}

static void test_a_socket_in_a_folder(void **state)
{
    char folder[] = "/tmp/vine-ready-XXXXXX", path[64];

    (void)state;
    assert_non_null(mkdtemp(folder));
    (void)snprintf(path, sizeof(path), "%s/notify", folder);
    assert_int_equal(setenv("NOTIFY_SOCKET", path, 1), 0);
    hears_ready(listener(path, strlen(path)));
    (void)unlink(path);
    (void)rmdir(folder);
}

static void test_an_abstract_socket(void **state)
{
    char path[64];

    (void)state;
    (void)snprintf(path, sizeof(path), "@vine-ready-%d", (int)getpid());
    assert_int_equal(setenv("NOTIFY_SOCKET", path, 1), 0);
    path[0] = '\0';
    hears_ready(listener(path, 1 + strlen(path + 1)));
}

static void test_nobody_to_tell(void **state)
{
    char longer[200];

    (void)state;
    (void)unsetenv("NOTIFY_SOCKET");
    assert_int_equal(daemon_ready(), 0);
    (void)setenv("NOTIFY_SOCKET", "relative", 1);
    assert_int_equal(daemon_ready(), -1);
    assert_int_equal(errno, EINVAL);
    memset(longer, '/', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    (void)setenv("NOTIFY_SOCKET", longer, 1);
    assert_int_equal(daemon_ready(), -1);
    (void)setenv("NOTIFY_SOCKET", "/nonexistent/notify", 1);
    assert_int_equal(daemon_ready(), -1);
    assert_int_equal(errno, ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_socket_in_a_folder),
        cmocka_unit_test(test_an_abstract_socket),
        cmocka_unit_test(test_nobody_to_tell),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
