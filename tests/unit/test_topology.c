/* test_topology.c - which switch a node hangs on; wrong files first. */
#include "daemon/base/topology.c"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <fcntl.h>

static int parse(const char *text, const char *node, char leaf[VINE_NAME_MAX],
                 struct vine_err *err)
{
    char *copy = strdup(text);
    int result = topology_parse("topology.conf", copy, node, leaf, err);

    free(copy);
    return result;
}

static void test_wrong_files_are_refused(void **state)
{
    static const struct {
        const char *text, *why;
    } wrong[] = {
        {"SwitchName=s1 Nodes=n[1-", "line 1: Nodes: "},
        {"\nSwitchName=s1 Nodes=", "line 2: Nodes: "},
        {"SwitchName=s1 Nodes=n1\nSwitchName=s2 Nodes=n[3-2]", "line 2: Nodes: "},
        {"SwitchName=s1 Nodes=\"n1", "line 1: 'Nodes"},
        {"SwitchName s1", "line 1: 'SwitchName s1' is not Key=value"},
        {"SwitchName=s1 Nodes=n1 and more", "line 1: 'and more' is not Key=value"},
        {"Include other.conf", "line 1: "},
        {"=s1", "line 1: '=s1' is not"},
        {"\\\n\\\n = s1", "line 3: '= s1' is not"},
        {"SwitchName=s1234567890123456789012345678901234567890123456789012345678901234 "
         "Nodes=n1",
         "a switch's name is over 63 characters"},
        {"SwitchName=s1 Nodes=n[0-8192]", "more than 8192 nodes"},
    };

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct vine_err err = {0};
        char leaf[VINE_NAME_MAX] = "as it was";

        if (parse(wrong[i].text, "n1", leaf, &err) == 0)
            fail_msg("'%s' was accepted", wrong[i].text);
        if (strstr(err.text, wrong[i].why) == NULL)
            fail_msg("'%s': %s", wrong[i].text, err.text);
        assert_string_equal(leaf, "as it was");
    }
}

static void test_too_many_names_in_all(void **state)
{
    char text[9 * 40] = "", leaf[VINE_NAME_MAX];
    struct vine_err err = {0};

    for (int i = 0; i < 9; i++)
        (void)strcat(text, "SwitchName=s Nodes=n[0-8191]\n");
    assert_int_equal(parse(text, "m", leaf, &err), -1);
    assert_int_equal(err.code, VINE_ELIMIT);
    assert_non_null(strstr(err.text, "line 9"));
}

static void expect(const char *text, const char *node, const char *want)
{
    struct vine_err err = {0};
    char leaf[VINE_NAME_MAX];

    if (parse(text, node, leaf, &err) < 0)
        fail_msg("'%s': %s", text, err.text);
    assert_string_equal(leaf, want);
}

static void test_leaves_are_found(void **state)
{
    static const char text[] =
        "# two racks\n"
        "SwitchName=rack1 Nodes=n[1-4],login # the first\n"
        "switchname = rack2 LINKSPEED=100 nodes = \"n[05-08]\"\r\n"
        "SwitchName=rack2 Nodes=n9\n"
        "SwitchName=rack3 Nodes=a1,\\\n"
        "a2,a3 \\ # not the end\n"
        "\n"
        "\tNodes=b[1-2] SwitchName=rack4 Nodes=c1\\ \n"
        "\n"
        "SwitchName=top Switches=rack[1-4]\n"
        "BlockName=b1 Nodes=d1\n"
        "SwitchName=rack9 Nodes=n1\\";

    expect(text, "n1", "rack1");
    expect(text, "n4", "rack1");
    expect(text, "login", "rack1");
    expect(text, "n05", "rack2");
    expect(text, "n5", "");
    expect(text, "n9", "rack2");
    expect(text, "a1", "rack3");
    expect(text, "a2", "rack3");
    expect(text, "b2", "rack4");
    expect(text, "c1", "rack4");
    expect(text, "d1", "");
    expect(text, "N1", "");
    expect(text, "rack1", "");
    expect("", "n1", "");
    expect("\n\\\n\\", "n1", "");
}

static void write_file(const char *path, const char *text, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), len);
    (void)close(fd);
}

static void test_files(void **state)
{
    static const char good[] = "SwitchName=s1 Nodes=n[1-2]\n";
    char dir[] = "/tmp/vine-topology-XXXXXX", path[64], conf[64];
    char leaf[VINE_NAME_MAX] = "before";
    struct vine_err err = {0};

    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/topology.conf", dir);
    (void)snprintf(conf, sizeof(conf), "%s/slurm.conf", dir);
    assert_int_equal(setenv("SLURM_CONF", conf, 1), 0);
    assert_int_equal(topology_leaf("", "n2", leaf, &err), 0); /* no such file */
    assert_string_equal(leaf, "");
    write_file(path, good, sizeof(good) - 1);
    assert_int_equal(topology_leaf("", "n2", leaf, &err), 0);
    assert_string_equal(leaf, "s1");
    assert_int_equal(topology_leaf(path, "n3", leaf, &err), 0);
    assert_string_equal(leaf, "");
    write_file(path, good, sizeof(good)); /* with its zero byte */
    assert_int_equal(topology_leaf(path, "n2", leaf, &err), -1);
    assert_int_equal(err.code, VINE_EINVAL);
    err = (struct vine_err){0};
    assert_int_equal(truncate(path, FILE_MAX + 1), 0);
    assert_int_equal(topology_leaf(path, "n2", leaf, &err), -1);
    err = (struct vine_err){0};
    assert_int_equal(topology_leaf(dir, "n2", leaf, &err), -1); /* a directory */
    assert_string_equal(leaf, "");
    (void)unlink(path);
    (void)rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_files_are_refused),
        cmocka_unit_test(test_too_many_names_in_all),
        cmocka_unit_test(test_leaves_are_found),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
