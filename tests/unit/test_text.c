/* test_text.c - the lines that users read while they wait. */
#include "spank/text.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void expect_line(const struct text_progress *p, const char *name,
                        const char *want)
{
    char line[TEXT_LINE_MAX];

    text_progress_line(line, sizeof(line), name, p);
    assert_string_equal(line, want);
}

static void test_fetching_tells_all(void **state)
{
    struct text_progress p = {.phase = "fetching",
                              .bytes_done = 210000000,
                              .bytes_total = 480000000,
                              .bytes_peer = 98,
                              .bytes_origin = 2,
                              .bytes_per_s = 52000000};

    expect_line(&p, "ml",
                "vine-env: ml: fetching 43 % (210 of 480 MB, 52 MB/s, 98 % from peers, "
                "2 % from the source), about 6 s left");
    p.slowest = "n3";
    p.slowest_percent = 12;
    p.nodes = 8;
    p.bytes_origin = 0;
    p.bytes_reused = 120000000;
    expect_line(
        &p, "ml",
        "vine-env: ml: fetching 43 % (210 of 480 MB, 52 MB/s, 100 % from peers, "
        "25 % was here), about 6 s left; slowest of 8 nodes: n3, 12 %");
    p.nodes = 1; /* then it is this one */
    p.bytes_peer = p.bytes_reused = 0;
    p.bytes_origin = 210000000;
    expect_line(&p, "ml",
                "vine-env: ml: fetching 43 % (210 of 480 MB, 52 MB/s, 100 % from the "
                "source), about 6 s left");
}

static void test_what_another_node_does(void **state)
{
    struct text_progress p = {.phase = "building",
                              .worker = "n3",
                              .bytes_done = 155000000,
                              .bytes_total = 388000000,
                              .bytes_per_s = 10000000};

    expect_line(&p, "ml",
                "vine-env: ml: building the image on n3 39 % (155 of 388 MB, 10 MB/s), "
                "about 24 s left");
    p = (struct text_progress){.phase = "proving", .worker = "n3"};
    expect_line(&p, "ml", "vine-env: ml: comparing with what nodes have on n3");
    p = (struct text_progress){.phase = "queued", .worker = ""};
    expect_line(&p, "ml", "vine-env: ml: waiting for another job's build of it");
}

static void test_unknown_figures_are_left_out(void **state)
{
    struct text_progress p = {.phase = "waiting"};

    expect_line(&p, "ml", "vine-env: ml: waiting for its turn");
    p.phase = "building";
    p.bytes_done = 1500000000;
    expect_line(&p, "ml", "vine-env: ml: building the image (1.5 GB)");
    p.bytes_total = 1500000000;
    p.bytes_done = 900000;
    expect_line(&p, "ml", "vine-env: ml: building the image 0 % (900 kB of 1.5 GB)");
    p.phase = "frobnicating";
    p.bytes_done = p.bytes_total = 0;
    expect_line(&p, "ml", "vine-env: ml: working");
}

static void test_figures_beyond_the_end_do_no_harm(void **state)
{
    struct text_progress p = {.phase = "fetching",
                              .bytes_done = UINT64_MAX,
                              .bytes_total = 100,
                              .bytes_per_s = 1};
    char line[TEXT_LINE_MAX];

    text_progress_line(line, sizeof(line), "ml", &p);
    assert_non_null(strstr(line, "100 %"));
    p = (struct text_progress){
        .phase = "fetching", .bytes_total = UINT64_MAX, .bytes_per_s = 1};
    text_progress_line(line, sizeof(line), "ml", &p);
    assert_non_null(strstr(line, "more than a day"));
}

static void test_a_line_is_cut_not_overrun(void **state)
{
    struct text_progress p = {.phase = "fetching", .bytes_done = 1, .bytes_total = 2};
    char name[5000], *line = malloc(32);

    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    text_progress_line(line, 32, name, &p);
    assert_int_equal(strlen(line), 31);
    free(line);
}

static void test_control_bytes_become_marks(void **state)
{
    char text[] = "a\nb\033[2J\x7f \xc3\xa9";
    struct text_progress p = {.phase = "mounting"};

    text_clean(text);
    assert_string_equal(text, "a?b?[2J? \xc3\xa9");
    expect_line(&p, "a\rb", "vine-env: a?b: mounting");
}

static void test_bytes(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *want;
    } cases[] = {
        {0, "0 bytes"},         {999, "999 bytes"},       {1000, "1 kB"},
        {999499, "999 kB"},     {999999, "1 MB"},         {210000000, "210 MB"},
        {1500000000, "1.5 GB"}, {150000000000, "150 GB"}, {2500000000000, "2.5 TB"},
    };
    char out[32];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        text_bytes(out, sizeof(out), cases[i].bytes);
        assert_string_equal(out, cases[i].want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fetching_tells_all),
        cmocka_unit_test(test_what_another_node_does),
        cmocka_unit_test(test_unknown_figures_are_left_out),
        cmocka_unit_test(test_figures_beyond_the_end_do_no_harm),
        cmocka_unit_test(test_a_line_is_cut_not_overrun),
        cmocka_unit_test(test_control_bytes_become_marks),
        cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
