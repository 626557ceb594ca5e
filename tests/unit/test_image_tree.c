/* test_image_tree.c - walking a tree and reading its files: what changes is noticed. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/image/readahead.h"
#include "daemon/image/source.h"
#include "daemon/image/tree.h"

struct place {
    char path[64];
    int fd;
};

static void put_file(const struct place *p, const char *name, size_t size)
{
    int fd = openat(p->fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    char *bytes = malloc(size + 1);

    assert_true(fd >= 0);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)(i % 251);
    assert_int_equal(write(fd, bytes, size), (ssize_t)size);
    free(bytes);
    close(fd);
}

static int setup(void **state)
{
    struct place *p = calloc(1, sizeof(*p));

    (void)snprintf(p->path, sizeof(p->path), "/tmp/vine-tree-XXXXXX");
    assert_non_null(mkdtemp(p->path));
    p->fd = open(p->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(p->fd >= 0);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct place *p = *state;
    char command[128];

    close(p->fd);
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", p->path);
    assert_int_equal(system(command), 0);
    free(p);
    return 0;
}

static struct tree *walk(const struct place *p, unsigned threads)
{
    const struct walk_options options = {.threads = threads, .name = p->path};
    struct tree *tree = NULL;
    struct vine_err err = {0};

    assert_int_equal(tree_walk(p->fd, &options, &tree, &err), 0);
    return tree;
}

static void fill(const struct place *p)
{
    char name[64];

    for (int d = 0; d < 20; d++) {
        (void)snprintf(name, sizeof(name), "d%02d", d);
        assert_int_equal(mkdirat(p->fd, name, 0755), 0);
        for (int f = 0; f < 50; f++) {
            (void)snprintf(name, sizeof(name), "d%02d/f%02d", d, f);
            put_file(p, name, (size_t)(f * 100));
        }
    }
    assert_int_equal(symlinkat("nowhere", p->fd, "d00/link"), 0);
    assert_int_equal(linkat(p->fd, "d05/f10", p->fd, "d01/hard", 0), 0);
    assert_int_equal(mkfifoat(p->fd, "d02/fifo", 0644), 0);
    put_file(p, "large", 9000001);
}

static void digest(const struct tree *tree, struct vine_digest *out)
{
    struct vine_sha *sha = vine_sha_new();

    tree_hash(tree, sha);
    vine_sha_end(sha, out);
    vine_sha_free(sha);
}

static void test_the_walk_does_not_depend_on_threads(void **state)
{
    const struct place *p = *state;
    struct vine_digest one, many;
    struct tree *tree;

    fill(p);
    tree = walk(p, 1);
    digest(tree, &one);
    tree_free(tree);
    tree = walk(p, 16);
    digest(tree, &many);
    assert_true(vine_digest_equal(&one, &many));
    assert_int_equal(tree->count, 1 + 20 + 20 * 50 + 3);
    assert_int_equal(tree->skipped, 1);
    assert_int_equal(tree->entry[0].path[0], '\0');
    for (uint32_t i = 1; i < tree->count; i++)
        assert_true(strcmp(tree->entry[i - 1].path, tree->entry[i].path) < 0);
    /* A hard link points at the first name, which is the one in d01. */
    assert_int_equal(tree->entry[tree_find(tree, "d05/f10")].link_to,
                     tree_find(tree, "d01/hard"));
    assert_string_equal(tree->entry[tree_find(tree, "d00/link")].target, "nowhere");
    assert_int_equal(tree_find(tree, "d00/lin"), UINT32_MAX);
    tree_free(tree);
}

static void expect_walk_error(const struct place *p, uint64_t max_bytes,
                              enum vine_code code)
{
    const struct walk_options options = {.max_bytes = max_bytes, .name = p->path};
    struct tree *tree = NULL;
    struct vine_err err = {0};

    assert_int_equal(tree_walk(p->fd, &options, &tree, &err), -1);
    assert_int_equal(err.code, code);
    assert_null(tree);
}

static void test_bounds_are_kept(void **state)
{
    const struct place *p = *state;
    int fd = dup(p->fd);

    put_file(p, "file", 1000);
    expect_walk_error(p, 999, VINE_ELIMIT);
    tree_free(walk(p, 4));
    for (int i = 0; i < TREE_DEPTH_MAX + 1; i++) {
        int below;
        assert_int_equal(mkdirat(fd, "d", 0755), 0);
        below = openat(fd, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        close(fd);
        fd = below;
    }
    close(fd);
    expect_walk_error(p, 0, VINE_ELIMIT);
}

static void test_a_removed_root_is_an_error(void **state)
{
    const struct place *p = *state;

    close(p->fd); /* not a descriptor any more */
    expect_walk_error(p, 0, VINE_ESYS);
    assert_int_equal(open(p->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), p->fd);
}

/* Read everything; the first error's code, or VINE_OK and all bytes compared. */
static enum vine_code read_all(const struct place *p, const struct tree *tree)
{
    const struct readahead_options options = {.threads = 8, .name = p->path};
    struct vine_err err = {0};
    struct readahead *ra = readahead_new(p->fd, tree, &options, &err);
    struct readahead_part part;
    uint64_t total = 0;
    int result;

    assert_non_null(ra);
    while ((result = readahead_next(ra, &part, &err)) == 1) {
        for (uint64_t i = 0; part.data != NULL && i < part.length; i += 97)
            assert_int_equal(part.data[i], (part.offset + i) % 251);
        total += part.length;
    }
    readahead_free(ra);
    if (result == 0)
        assert_int_equal(total, tree->bytes);
    return err.code;
}

static void test_every_byte_comes_in_order(void **state)
{
    const struct place *p = *state;
    struct tree *tree;

    fill(p);
    tree = walk(p, 4);
    assert_int_equal(read_all(p, tree), VINE_OK);
    tree_free(tree);
}

static void test_reading_can_be_given_up_anywhere(void **state)
{
    const struct place *p = *state;
    const struct readahead_options options = {.threads = 8, .name = p->path};
    struct tree *tree;

    fill(p);
    put_file(p, "a-large", 20000000);
    tree = walk(p, 4);
    for (int parts = 0; parts < 40; parts += 3) {
        struct readahead *ra = readahead_new(p->fd, tree, &options, NULL);
        struct readahead_part part;
        for (int i = 0; i < parts; i++)
            assert_int_equal(readahead_next(ra, &part, NULL), 1);
        readahead_free(ra);
    }
    tree_free(tree);
}

static void change_mtime(const struct place *p)
{
    const struct timespec times[2] = {{.tv_sec = 5}, {.tv_sec = 5}};
    assert_int_equal(utimensat(p->fd, "d03/f20", times, 0), 0);
}
static void change_size(const struct place *p)
{
    put_file(p, "d03/f20", 1);
}
static void change_same_size(const struct place *p)
{
    put_file(p, "d03/f20", 2000);
}
static void change_large(const struct place *p)
{
    int fd = openat(p->fd, "large", O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "x", 1, 4500000), 1);
    close(fd);
}
static void change_mode(const struct place *p)
{
    assert_int_equal(fchmodat(p->fd, "d03/f20", 0600, 0), 0);
}
static void change_by_rename(const struct place *p)
{
    put_file(p, "new", 2000);
    assert_int_equal(renameat(p->fd, "new", p->fd, "d03/f20"), 0);
}
static void change_to_link(const struct place *p)
{
    assert_int_equal(unlinkat(p->fd, "d03/f20", 0), 0);
    assert_int_equal(symlinkat("f21", p->fd, "d03/f20"), 0);
}
static void change_remove(const struct place *p)
{
    assert_int_equal(unlinkat(p->fd, "d03/f20", 0), 0);
}
static void change_add(const struct place *p)
{
    put_file(p, "d03/zz", 10);
}
static void change_empty(const struct place *p)
{
    put_file(p, "d03/f00", 3);
}
static void change_link(const struct place *p)
{
    assert_int_equal(unlinkat(p->fd, "d00/link", 0), 0);
    assert_int_equal(symlinkat("elsewhere", p->fd, "d00/link"), 0);
}

/* Wait until the file system's clock has gone on: changes within one of its ticks have
 * the same time. */
static void wait_for_a_tick(const struct place *p)
{
    struct stat first, now;

    put_file(p, "tick", 1);
    assert_int_equal(fstatat(p->fd, "tick", &first, 0), 0);
    do {
        put_file(p, "tick", 1);
        assert_int_equal(fstatat(p->fd, "tick", &now, 0), 0);
    } while (now.st_mtim.tv_sec == first.st_mtim.tv_sec &&
             now.st_mtim.tv_nsec - first.st_mtim.tv_nsec < 5000000);
}

static void test_every_change_is_noticed(void **state)
{
    static void (*const changes[])(const struct place *) = {
        change_mtime, change_size,      change_same_size, change_large,
        change_mode,  change_by_rename, change_to_link,   change_remove,
        change_add,   change_empty,     change_link};
    const struct place *p = *state;

    fill(p);
    for (size_t i = 0; i < sizeof(changes) / sizeof(*changes); i++) {
        const struct walk_options options = {.name = p->path};
        struct vine_err err = {0};
        enum vine_code code;
        struct tree *tree;

        wait_for_a_tick(p);
        tree = walk(p, 4);
        assert_int_equal(tree_recheck(p->fd, tree, &options, &err), 0);
        changes[i](p);
        code = read_all(p, tree);
        if (code == VINE_OK && tree_recheck(p->fd, tree, &options, &err) < 0)
            code = err.code;
        assert_int_equal(code, VINE_ECHANGED);
        tree_free(tree);
        (void)unlinkat(p->fd, "d03/f20", 0);
        put_file(p, "d03/f20", 2000);
        (void)unlinkat(p->fd, "d03/zz", 0);
        put_file(p, "d03/f00", 0);
    }
}

static int open_source(const char *path, struct image_source **s, struct vine_err *err)
{
    const struct image_source_options options = {.path = path};

    return image_source_open(&options, s, err);
}

static void test_what_is_no_source_is_refused(void **state)
{
    const struct place *p = *state;
    static const struct {
        const char *name;
        enum vine_code code;
    } wrong[] = {{"nothing", VINE_ENOENT},
                 {"plain", VINE_EINVAL},
                 {"fifo.tar", VINE_EINVAL},
                 {"short.sqsh", VINE_ECORRUPT},
                 {"loop", VINE_ESYS}};

    put_file(p, "plain", 10);
    put_file(p, "short.sqsh", 95);
    assert_int_equal(mkfifoat(p->fd, "fifo.tar", 0644), 0);
    assert_int_equal(symlinkat("loop", p->fd, "loop"), 0);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        struct image_source *s = NULL;
        struct vine_err err = {0};
        char path[128];

        (void)snprintf(path, sizeof(path), "%s/%s", p->path, wrong[i].name);
        assert_int_equal(open_source(path, &s, &err), -1);
        assert_int_equal(err.code, wrong[i].code);
        assert_non_null(strstr(err.text, wrong[i].name));
    }
}

static void test_the_key_names_the_content(void **state)
{
    const struct place *p = *state;
    struct image_source *s = NULL;
    struct vine_digest before;

    fill(p);
    assert_int_equal(mkdirat(p->fd, "conda-meta", 0755), 0);
    assert_int_equal(open_source(p->path, &s, NULL), 0);
    before = image_source_facts(s)->key;
    assert_int_equal(image_source_facts(s)->activate, IMAGE_ACTIVATE_CONDA);
    assert_string_equal(image_source_facts(s)->canonical, p->path);
    image_source_free(s);
    assert_int_equal(open_source(p->path, &s, NULL), 0);
    assert_true(vine_digest_equal(&before, &image_source_facts(s)->key));
    image_source_free(s);
    change_mtime(p);
    assert_int_equal(open_source(p->path, &s, NULL), 0);
    assert_false(vine_digest_equal(&before, &image_source_facts(s)->key));
    image_source_free(s);
}

int main(void)
{
#define IN_PLACE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        IN_PLACE(test_what_is_no_source_is_refused),
        IN_PLACE(test_bounds_are_kept),
        IN_PLACE(test_a_removed_root_is_an_error),
        IN_PLACE(test_the_walk_does_not_depend_on_threads),
        IN_PLACE(test_every_byte_comes_in_order),
        IN_PLACE(test_reading_can_be_given_up_anywhere),
        IN_PLACE(test_every_change_is_noticed),
        IN_PLACE(test_the_key_names_the_content),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
