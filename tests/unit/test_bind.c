/* test_bind.c - mounts of a task: right ones made, wrong ones refused, undone in order.
 *
 * Needs root; works in a mount namespace of its own, on a tmpfs over /mnt, so nothing
 * is left behind. The "daemon's mount" is a tmpfs too: any mount root will do. */
#include "spank/bind.c"
#include "spank/identity.c"
#include "spank/target.c"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/fsuid.h>

#include <cmocka.h>

#define ROOT "/mnt/vine-test"
#define USER 12345
#define OTHER 12346

static const gid_t user_groups[] = {USER, 20000};
static const struct bind_place place = {
    .user = {.uid = USER, .gid = USER, .groups = user_groups, .group_count = 2},
    .node_name = "n3",
    .private_dir = ROOT "/run/env",
};

static void must(int result, const char *what)
{
    if (result < 0)
        fail_msg("%s: %s", what, strerror(errno));
}

static void make_owned(const char *path, uid_t uid, mode_t mode)
{
    must(mkdir(path, 0700), path);
    must(chmod(path, mode), path);
    must(chown(path, uid, uid), path);
}

static void make_test_file(const char *path)
{
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);

    must(fd, path);
    (void)close(fd);
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static int skip_unless_root(void **state)
{
    const char *must_run = getenv("VINE_MUST_RUN");

    if (geteuid() == 0)
        return 0;
    if (must_run != NULL && strcmp(must_run, "1") == 0)
        fail_msg("mounting needs root, but VINE_MUST_RUN=1");
    print_message("SKIP: mounting needs root\n");
    return 0;
}

/* A fresh tree for each test: images a and b, homes of two users, a shared directory.
 */
static int setup(void **state)
{
    struct vine_err err = {0};

    (void)skip_unless_root(state);
    if (geteuid() != 0)
        return 0;
    if (bind_enter(&err) < 0)
        fail_msg("%s", err.text);
    must(mount("t", "/mnt", "tmpfs", 0, "mode=0755"), "tmpfs");
    make_owned(ROOT, 0, 0755);
    make_owned(ROOT "/a", 0, 0755);
    make_owned(ROOT "/b", 0, 0755);
    must(mount("a", ROOT "/a", "tmpfs", 0, "mode=0755"), "a");
    must(mount("b", ROOT "/b", "tmpfs", 0, "mode=0755"), "b");
    make_test_file(ROOT "/a/in-a");
    make_owned(ROOT "/a/sub", 0, 0755);
    make_test_file(ROOT "/b/in-b");
    make_owned(ROOT "/home", USER, 0700);
    make_owned(ROOT "/home/env", USER, 0755);
    make_owned(ROOT "/home/dst", USER, 0755);
    make_test_file(ROOT "/home/env/origin");
    make_owned(ROOT "/other", OTHER, 0700);
    make_owned(ROOT "/other/env", OTHER, 0755);
    return 0;
}

static int teardown(void **state)
{
    if (geteuid() == 0)
        (void)umount2("/mnt", MNT_DETACH);
    return 0;
}

#define NEEDS_ROOT()                                                                   \
    if (geteuid() != 0)                                                                \
    skip()

static void expect_refused(const struct bind_source *sources, unsigned count,
                           enum vine_code code, const char *part)
{
    struct vine_err err = {0};

    assert_int_equal(bind_sources(sources, count, &place, &err), -1);
    if (err.code != code || strstr(err.text, part) == NULL)
        fail_msg("%s: '%s' instead of '%s'", vine_code_name(err.code), err.text, part);
}

static void expect_bound(const struct bind_source *sources, unsigned count)
{
    struct vine_err err = {0};

    if (bind_sources(sources, count, &place, &err) < 0)
        fail_msg("%s", err.text);
}

static void test_absent_target_says_what_to_do(void **state)
{
    struct bind_source s = {.from = ROOT "/a", .dst = ROOT "/home/nowhere"};

    NEEDS_ROOT();
    expect_refused(&s, 1, VINE_ENOENT,
                   "mount point '" ROOT
                   "/home/nowhere' does not exist on n3: create it, "
                   "or give another with SRC:DST");
    s.dst = ROOT "/home/env/origin";
    expect_refused(&s, 1, VINE_EINVAL, "is no directory");
}

static void test_targets_of_others_cannot_be_reached(void **state)
{
    struct bind_source s = {.from = ROOT "/a", .dst = ROOT "/other/env"};

    NEEDS_ROOT();
    expect_refused(&s, 1, VINE_EACCES, "Permission denied");
}

static void test_the_system_cannot_be_covered(void **state)
{
    static const char *const system[] = {"/etc", "/usr/bin", "/proc",    "/var/lib",
                                         "/dev", "/sys",     "/var/log", "/bin"};
    struct bind_source s = {.from = ROOT "/a"};

    NEEDS_ROOT();
    for (size_t i = 0; i < sizeof(system) / sizeof(system[0]); i++) {
        s.dst = system[i];
        expect_refused(&s, 1, VINE_EACCES, "belongs to the system");
    }
    assert_false(exists("/etc/in-a"));
}

/* A link that the user may turn at any time must not stand for "the source's own path".
 */
static void test_a_link_to_the_system_is_refused_even_as_own_path(void **state)
{
    struct bind_source s = {
        .from = ROOT "/a", .dst = ROOT "/home/link", .own_path = true};

    NEEDS_ROOT();
    must(symlink("/etc", ROOT "/home/link"), "symlink");
    expect_refused(&s, 1, VINE_EACCES, "belongs to the system");
    s.own_path = true;
    s.dst = "/usr/lib"; /* the way is root's: the content came from there */
    expect_bound(&s, 1);
    assert_true(exists("/usr/lib/in-a"));
    must(umount2("/usr/lib", MNT_DETACH), "umount");
}

static void test_an_image_is_bound_read_only_below_a_private_home(void **state)
{
    struct bind_source s = {
        .from = ROOT "/a", .dst = ROOT "/home/env", .own_path = true};
    struct statvfs seen;

    NEEDS_ROOT();
    expect_bound(&s, 1);
    assert_true(exists(ROOT "/home/env/in-a"));
    assert_false(exists(ROOT "/home/env/origin"));
    assert_int_equal(statvfs(ROOT "/home/env", &seen), 0);
    assert_int_equal(seen.f_flag & READ_ONLY_SEEN, READ_ONLY_SEEN);
    assert_int_equal(open(ROOT "/home/env/new", O_CREAT | O_WRONLY | O_CLOEXEC, 0600),
                     -1);
    assert_int_equal(errno, EROFS);
}

static void test_a_symlinked_target_is_followed_as_the_user(void **state)
{
    struct bind_source s = {
        .from = ROOT "/a", .dst = ROOT "/home/link", .own_path = true};

    NEEDS_ROOT();
    must(symlink("env", ROOT "/home/link"), "symlink");
    expect_bound(&s, 1);
    assert_true(exists(ROOT "/home/env/in-a"));
}

static void test_default_destinations_are_private(void **state)
{
    struct bind_source s = {.from = ROOT "/a", .dst = ROOT "/run/env/x/y"};
    mode_t before = umask(077);
    struct stat st;

    NEEDS_ROOT();
    expect_bound(&s, 1);
    (void)umask(before);
    assert_true(exists(ROOT "/run/env/x/y/in-a"));
    assert_int_equal(stat(ROOT "/run/env/x", &st), 0);
    assert_int_equal(st.st_mode & 0777, 0755);
}

static void test_a_failure_undoes_what_was_done(void **state)
{
    const struct bind_source s[] = {
        {.from = ROOT "/a", .dst = ROOT "/run/env/x"},
        {.from = ROOT "/b", .dst = ROOT "/home/env", .own_path = true},
        {.from = ROOT "/b", .dst = ROOT "/home/dst/is/not/there"},
    };

    NEEDS_ROOT();
    expect_refused(s, 3, VINE_ENOENT, "does not exist");
    assert_false(exists(ROOT "/run/env/x"));
    assert_true(exists(ROOT "/home/env/origin"));
    assert_true(exists(ROOT "/b/in-b")); /* the daemon's mount stays */
}

/* The way to the target is the user's: it may lead to another mount a moment later. */
static void test_a_way_turned_meanwhile_ends_at_nobody_elses_mount(void **state)
{
    const struct bind_source s = {.from = ROOT "/a", .dst = ROOT "/home/link"};
    struct opened from = {.fd = -1};
    struct vine_err err = {0};

    NEEDS_ROOT();
    from = open_path(s.from, false, 0);
    must(from.fd, s.from);
    must(symlink(ROOT "/b", s.dst), "symlink");
    assert_int_equal(verify(&s, from, &place, &err), -1);
    assert_non_null(strstr(err.text, "is not what was mounted there"));
    undo_bind(&s, from, &place);
    assert_true(exists(ROOT "/b/in-b"));
    must(unlink(s.dst), s.dst);
    must(symlink(ROOT "/a", s.dst), "symlink");
    undo_bind(&s, from, &place);
    assert_false(exists(ROOT "/a/in-a")); /* what it was made for */
    (void)close(from.fd);
}

/* What squashfuse mounts: the kernel refuses all but its user's own processes, without
 * asking anybody, so nobody serves it here. */
static void test_a_mount_that_answers_its_user_alone(void **state)
{
    struct bind_source s = {
        .from = ROOT "/fuse", .dst = ROOT "/home/env", .own_path = true};
    char options[128];
    struct stat st;
    int fd;

    NEEDS_ROOT();
    fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    must(fd, "/dev/fuse");
    make_owned(s.from, 0, 0755);
    (void)snprintf(options, sizeof(options),
                   "fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, USER, USER);
    must(mount("fuse", s.from, "fuse", MS_NOSUID | MS_NODEV, options), "fuse");
    assert_int_equal(stat(s.from, &st), -1);
    assert_int_equal(errno, EACCES);
    expect_bound(&s, 1);
    assert_int_equal(stat(s.dst, &st), -1);
    assert_int_equal(errno, EACCES);
    must(umount2(s.dst, MNT_DETACH), s.dst);
    assert_true(exists(ROOT "/home/env/origin"));
    must(umount2(s.from, MNT_DETACH), s.from);
    (void)close(fd);
}

static void test_nested_targets_parents_first(void **state)
{
    const struct bind_source s[] = {
        {.from = ROOT "/b", .dst = ROOT "/home/env/sub"},
        {.from = ROOT "/a", .dst = ROOT "/home/env", .own_path = true},
    };

    NEEDS_ROOT();
    must(chown(ROOT "/a/sub", USER, USER), "chown");
    expect_bound(s, 2);
    assert_true(exists(ROOT "/home/env/in-a"));
    assert_true(exists(ROOT "/home/env/sub/in-b"));
}

static void test_the_source_itself_is_bound_as_the_user(void **state)
{
    struct bind_source s = {
        .from = ROOT "/home/env", .dst = ROOT "/home/dst", .origin = true};

    NEEDS_ROOT();
    expect_bound(&s, 1);
    assert_true(exists(ROOT "/home/dst/origin"));
    s.from = ROOT "/other/env";
    expect_refused(&s, 1, VINE_EACCES, "Permission denied");
}

static void test_an_image_that_is_gone_is_an_error(void **state)
{
    struct bind_source s = {.from = ROOT "/a/sub", .dst = ROOT "/home/env"};

    NEEDS_ROOT();
    expect_refused(&s, 1, VINE_ESYS, "cannot make the image's mount");
    s.from = ROOT "/no-such";
    expect_refused(&s, 1, VINE_ENOENT, "cannot open the image's mount");
}

/* A file of the store, bound as the daemon does: readable by all, root's. */
static void make_staged_file(const char *path)
{
    make_test_file(ROOT "/stored");
    must(chmod(ROOT "/stored", 0444), "chmod");
    make_test_file(path);
    must(mount(ROOT "/stored", path, NULL, MS_BIND, NULL), "bind");
}

static off_t size_of(const char *path)
{
    struct stat st;

    must(stat(path, &st), path);
    return st.st_size;
}

static void make_full_file(const char *path, uid_t uid)
{
    make_test_file(path);
    must(truncate(path, 1000), path);
    must(chown(path, uid, uid), path);
}

static void test_a_file_is_bound_on_a_file(void **state)
{
    struct bind_source s = {
        .from = ROOT "/staged", .dst = ROOT "/home/data", .data = true};
    struct statvfs seen;

    NEEDS_ROOT();
    make_staged_file(ROOT "/staged");
    make_full_file(ROOT "/home/data", USER);
    expect_bound(&s, 1);
    assert_int_equal(size_of(ROOT "/home/data"), 0);
    assert_int_equal(statvfs(ROOT "/home/data", &seen), 0);
    assert_int_equal(seen.f_flag & READ_ONLY_SEEN, READ_ONLY_SEEN);
    assert_int_equal(open(ROOT "/home/data", O_WRONLY | O_CLOEXEC), -1);
    assert_int_equal(errno, EROFS);
}

static void test_files_and_directories_do_not_mix(void **state)
{
    struct bind_source file = {
        .from = ROOT "/staged", .dst = ROOT "/home/env", .data = true};
    struct bind_source dir = {
        .from = ROOT "/a", .dst = ROOT "/home/data", .data = true};

    NEEDS_ROOT();
    make_staged_file(ROOT "/staged");
    make_full_file(ROOT "/home/data", USER);
    expect_refused(&file, 1, VINE_EINVAL, "is no regular file");
    expect_refused(&dir, 1, VINE_EINVAL, "is no directory");
    file.dst = ROOT "/home/nowhere";
    expect_refused(&file, 1, VINE_ENOENT, "create an empty file there");
    file.data = false; /* an environment is never a file */
    expect_refused(&file, 1, VINE_ENOENT, "Not a directory");
}

static void test_a_private_place_is_made_for_a_file(void **state)
{
    const struct bind_source s[] = {
        {.from = ROOT "/staged", .dst = ROOT "/run/env/x/data", .data = true},
        {.from = ROOT "/staged", .dst = ROOT "/run/env/data", .data = true},
        {.from = ROOT "/a", .dst = ROOT "/run/env/a"},
    };

    NEEDS_ROOT();
    make_staged_file(ROOT "/staged");
    expect_bound(s, 3);
    assert_int_equal(size_of(ROOT "/run/env/x/data"), 0);
    assert_int_equal(size_of(ROOT "/run/env/data"), 0);
    assert_true(exists(ROOT "/run/env/a/in-a"));
}

static void test_data_itself_is_bound_as_the_user(void **state)
{
    struct bind_source s = {.from = ROOT "/home/data",
                            .dst = ROOT "/home/dst/data",
                            .data = true,
                            .origin = true};

    NEEDS_ROOT();
    make_full_file(ROOT "/home/data", USER);
    make_full_file(ROOT "/other/data", OTHER);
    make_test_file(ROOT "/home/dst/data");
    expect_bound(&s, 1);
    assert_int_equal(size_of(ROOT "/home/dst/data"), 1000);
    s.from = ROOT "/other/data";
    expect_refused(&s, 1, VINE_EACCES, "Permission denied");
    s.from = "/dev/null"; /* what is no file is not bound */
    expect_refused(&s, 1, VINE_ESYS, "cannot open '/dev/null'");
    s.from = ROOT "/home/env"; /* a directory is one */
    s.dst = ROOT "/home/dst";
    expect_bound(&s, 1);
    assert_true(exists(ROOT "/home/dst/origin"));
}

static void test_files_of_the_system_cannot_be_covered(void **state)
{
    static const char *const files[] = {"/etc/passwd", "/usr/bin/env", "/proc/version",
                                        "/var/lib/dpkg/status"};
    struct bind_source s = {.from = ROOT "/staged", .data = true};
    char own[64];

    NEEDS_ROOT();
    make_staged_file(ROOT "/staged");
    for (size_t i = 0; i < 2 * sizeof(files) / sizeof(files[0]); i++) {
        s.dst = files[i / 2];
        s.own_path = i % 2 != 0; /* what su reads must be of today */
        expect_refused(&s, 1, VINE_EACCES, "give a file of your own");
    }
    make_full_file(ROOT "/fixed", 0); /* on a file system of its own */
    s.dst = ROOT "/fixed";
    expect_bound(&s, 1);
    assert_int_equal(size_of(ROOT "/fixed"), 0);
    /* Of a process, whoever owns it. */
    (void)snprintf(own, sizeof(own), "/proc/%d/status", (int)getpid());
    s.dst = own;
    expect_refused(&s, 1, VINE_EACCES, "belongs to the system");
}

static void test_identity_is_as_before(void **state)
{
    struct bind_source s = {.from = ROOT "/a", .dst = ROOT "/home/env"};
    gid_t before[64], after[64];
    int count;

    NEEDS_ROOT();
    count = getgroups(64, before);
    expect_bound(&s, 1);
    s.dst = ROOT "/other/env";
    expect_refused(&s, 1, VINE_EACCES, "Permission denied");
    assert_int_equal(getgroups(64, after), count);
    assert_memory_equal(before, after, (size_t)count * sizeof(gid_t));
    assert_int_equal(setfsuid((uid_t)-1), 0);
    assert_int_equal(setfsgid((gid_t)-1), (int)getegid());
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_absent_target_says_what_to_do),
        TEST(test_targets_of_others_cannot_be_reached),
        TEST(test_the_system_cannot_be_covered),
        TEST(test_a_link_to_the_system_is_refused_even_as_own_path),
        TEST(test_an_image_is_bound_read_only_below_a_private_home),
        TEST(test_a_symlinked_target_is_followed_as_the_user),
        TEST(test_default_destinations_are_private),
        TEST(test_a_failure_undoes_what_was_done),
        TEST(test_a_way_turned_meanwhile_ends_at_nobody_elses_mount),
        TEST(test_a_mount_that_answers_its_user_alone),
        TEST(test_nested_targets_parents_first),
        TEST(test_the_source_itself_is_bound_as_the_user),
        TEST(test_an_image_that_is_gone_is_an_error),
        TEST(test_a_file_is_bound_on_a_file),
        TEST(test_files_and_directories_do_not_mix),
        TEST(test_a_private_place_is_made_for_a_file),
        TEST(test_data_itself_is_bound_as_the_user),
        TEST(test_files_of_the_system_cannot_be_covered),
        TEST(test_identity_is_as_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
