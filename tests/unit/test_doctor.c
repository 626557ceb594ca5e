/* test_doctor.c - how doctor reads plugstack.conf and a plugin's version. */
#include "daemon/cli/elf.c"
#include "daemon/cli/plugstack.c"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

struct fixture {
    char dir[64], conf[96];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    (void)snprintf(f->dir, sizeof(f->dir), "/tmp/vine-test-doctor.XXXXXX");
    if (mkdtemp(f->dir) == NULL)
        return -1;
    (void)snprintf(f->conf, sizeof(f->conf), "%s/plugstack.conf", f->dir);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char command[128];

    (void)snprintf(command, sizeof(command), "rm -rf %s", f->dir);
    free(f);
    return system(command);
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    (void)fputs(text, file);
    (void)fclose(file);
}

static struct plugstack_entry find(const struct fixture *f)
{
    struct plugstack_entry entry;
    struct vine_err err = {0};

    if (plugstack_find(f->conf, "vine_env.so", &entry, &err) < 0)
        fail_msg("%s", err.text);
    return entry;
}

static void test_absent_file_is_an_error(void **state)
{
    struct plugstack_entry entry;
    struct vine_err err = {0};

    assert_int_equal(plugstack_find("/nonexistent/p.conf", "vine_env.so", &entry, &err),
                     -1);
    assert_int_equal(err.code, VINE_ENOENT);
    assert_string_equal(entry.file, "");
}

static void test_lines_that_do_not_name_it(void **state)
{
    struct fixture *f = *state;

    write_text(f->conf, "# required /usr/lib/vine_env.so\n"
                        "required /usr/lib/other.so vine_env.so\n"
                        "required /usr/lib/not_vine_env.so\n"
                        "required\n\n  \ninclude /nonexistent/*.conf\n");
    assert_string_equal(find(f).file, "");
}

static void test_required_and_optional(void **state)
{
    struct fixture *f = *state;
    struct plugstack_entry entry;

    write_text(f->conf, " required\t/opt/x/vine_env.so  config=/c # words\n");
    entry = find(f);
    assert_string_equal(entry.file, f->conf);
    assert_string_equal(entry.path, "/opt/x/vine_env.so");
    assert_true(entry.required);
    write_text(f->conf, "optional vine_env.so");
    entry = find(f);
    assert_string_equal(entry.path, "vine_env.so");
    assert_false(entry.required);
}

static void test_includes_are_followed(void **state)
{
    struct fixture *f = *state;
    char path[128];

    write_text(f->conf, "include d/*.conf\n");
    (void)snprintf(path, sizeof(path), "%s/d", f->dir);
    assert_int_equal(mkdir(path, 0755), 0);
    (void)snprintf(path, sizeof(path), "%s/d/10.conf", f->dir);
    write_text(path, "required /a/other.so\n");
    (void)snprintf(path, sizeof(path), "%s/d/20.conf", f->dir);
    write_text(path, "required /a/vine_env.so\n");
    assert_string_equal(find(f).file, path);
}

static void test_a_circle_of_includes_ends(void **state)
{
    struct fixture *f = *state;
    struct plugstack_entry entry;
    struct vine_err err = {0};

    write_text(f->conf, "include plugstack.conf\n");
    assert_int_equal(plugstack_find(f->conf, "vine_env.so", &entry, &err), -1);
    assert_int_equal(err.code, VINE_ELIMIT);
}

static void test_what_is_no_plugin_is_refused(void **state)
{
    struct fixture *f = *state;
    struct vine_err err = {0};
    uint32_t value = 1;

    assert_int_equal(elf_read_variable("/nonexistent", "v", &value, &err), -1);
    assert_int_equal(err.code, VINE_ENOENT);
    write_text(f->conf, "text");
    assert_int_equal(elf_read_variable(f->conf, "v", &value, NULL), -1);
    write_text(f->conf, "");
    assert_int_equal(elf_read_variable(f->conf, "v", &value, NULL), -1);
    assert_int_equal(elf_read_variable(f->dir, "v", &value, NULL), -1);
    err = (struct vine_err){0};
    assert_int_equal(
        elf_read_variable("/proc/self/exe", "no_such_symbol", &value, &err), -1);
    assert_int_equal(value, 1);
}

/* This very program, cut and changed in its headers: errors, never a crash. */
static void test_a_cut_or_changed_object_does_no_harm(void **state)
{
    struct fixture *f = *state;
    static char bytes[1 << 20];
    char path[128];
    FILE *file = fopen("/proc/self/exe", "re");
    size_t size = fread(bytes, 1, sizeof(bytes), file);
    uint32_t value;

    (void)fclose(file);
    (void)snprintf(path, sizeof(path), "%s/cut", f->dir);
    for (size_t cut = 1; cut < size; cut = cut < 512 ? cut + 1 : cut * 2) {
        file = fopen(path, "we");
        assert_int_equal(fwrite(bytes, 1, cut, file), cut);
        (void)fclose(file);
        (void)elf_read_variable(path, "plugin_version", &value, NULL);
    }
    for (unsigned seed = 1; seed <= 300; seed++) {
        unsigned x = seed * 2654435761u;
        char kept = bytes[x % 512];

        bytes[x % 512] = (char)(x >> 16);
        file = fopen(path, "we");
        assert_int_equal(fwrite(bytes, 1, size, file), size);
        (void)fclose(file);
        (void)elf_read_variable(path, "plugin_version", &value, NULL);
        bytes[x % 512] = kept;
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_absent_file_is_an_error),
        TEST(test_lines_that_do_not_name_it),
        TEST(test_required_and_optional),
        TEST(test_includes_are_followed),
        TEST(test_a_circle_of_includes_ends),
        TEST(test_what_is_no_plugin_is_refused),
        TEST(test_a_cut_or_changed_object_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
