/* test_screen.c - what --watch draws, on a terminal and elsewhere. */
#include "daemon/cli/screen.c"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <termios.h>

#include <cmocka.h>

struct terminal {
    int master;
    FILE *out;
};

static void terminal_open(struct terminal *t, unsigned short rows, unsigned short cols)
{
    struct winsize size = {.ws_row = rows, .ws_col = cols};
    struct termios raw;
    int fd;

    t->master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    assert_true(t->master >= 0);
    assert_int_equal(grantpt(t->master), 0);
    assert_int_equal(unlockpt(t->master), 0);
    fd = open(ptsname(t->master), O_RDWR | O_NOCTTY);
    assert_true(fd >= 0);
    assert_int_equal(tcgetattr(fd, &raw), 0);
    raw.c_oflag &= ~(tcflag_t)OPOST; /* bytes come as they are written */
    assert_int_equal(tcsetattr(fd, TCSANOW, &raw), 0);
    assert_int_equal(ioctl(fd, TIOCSWINSZ, &size), 0);
    t->out = fdopen(fd, "w");
    assert_non_null(t->out);
}

static void terminal_close(struct terminal *t)
{
    (void)fclose(t->out);
    (void)close(t->master);
}

/* A terminal hands its bytes over in parts, whenever the kernel gets to it. */
static void expect(struct terminal *t, const char *want)
{
    char text[1024];
    size_t len = 0;

    while (len < strlen(want)) {
        struct pollfd ready = {.fd = t->master, .events = POLLIN};
        ssize_t n;

        assert_int_equal(poll(&ready, 1, 10000), 1);
        n = read(t->master, text + len, sizeof(text) - 1 - len);
        assert_true(n > 0);
        len += (size_t)n;
    }
    text[len] = '\0';
    assert_string_equal(text, want);
}

static void show(struct screen *screen, const char *text)
{
    FILE *out = screen_begin(screen);

    assert_non_null(out);
    (void)fputs(text, out);
    assert_int_equal(screen_end(screen), 0);
}

static void test_a_picture_is_drawn_over_the_one_before(void **state)
{
    struct terminal t;
    struct screen screen;

    terminal_open(&t, 10, 40);
    screen_init(&screen, t.out);
    show(&screen, "a\nb\n");
    expect(&t, WIPE_ALL HOME "a" WIPE_LINE "\nb" WIPE_LINE "\n" WIPE_BELOW);
    assert_int_equal(screen_line(&screen, "gone"), 0);
    expect(&t, HOME "gone" WIPE_LINE "\n" WIPE_BELOW);
    terminal_close(&t);
}

static void test_it_is_cut_to_the_terminal(void **state)
{
    struct terminal t;
    struct screen screen;

    terminal_open(&t, 4, 5);
    screen_init(&screen, t.out);
    show(&screen, "123456\n\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9x\n3\n4\n");
    expect(&t, WIPE_ALL HOME "12345" WIPE_LINE
                             "\n\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9" WIPE_LINE
                             "\n..." WIPE_LINE "\n" WIPE_BELOW);
    show(&screen, "1\n2\n3\n"); /* just fits */
    expect(&t, HOME "1" WIPE_LINE "\n2" WIPE_LINE "\n3" WIPE_LINE "\n" WIPE_BELOW);
    terminal_close(&t);
}

static void test_elsewhere_pictures_follow_each_other(void **state)
{
    struct screen screen;
    char got[64] = "";
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    screen_init(&screen, fdopen(ends[1], "w"));
    show(&screen, "a\nb\n");
    show(&screen, "c\n");
    assert_true(read(ends[0], got, sizeof(got) - 1) > 0);
    assert_string_equal(got, "a\nb\n\nc\n");
    (void)fclose(screen.out);
    (void)close(ends[0]);
}

static void test_an_output_that_fails_is_told(void **state)
{
    struct screen screen;
    FILE *full = fopen("/dev/full", "w");

    assert_non_null(full);
    screen_init(&screen, full);
    assert_int_equal(screen_line(&screen, "x"), -1);
    (void)fclose(full);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_picture_is_drawn_over_the_one_before),
        cmocka_unit_test(test_it_is_cut_to_the_terminal),
        cmocka_unit_test(test_elsewhere_pictures_follow_each_other),
        cmocka_unit_test(test_an_output_that_fails_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
