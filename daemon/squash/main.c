/* vine-squash: a squashfs image of a tar.
 *
 *   vine-squash [--jobs N] [--base] <TAR 3<>IMAGE [4<BASE]
 *
 * The tar comes on descriptor 0, as vine-source writes it; the image goes to descriptor
 * 3, open for reading and writing, from its start on, the superblock last. The same tar
 * gives the same bytes with any number of threads. Errors go to stderr, exit status 1.
 *
 * With --base descriptor 4 is an older image of ours. A regular file of the tar without
 * bytes, but with the extended attribute "vine.same", has the content that the base has
 * at its path: it is taken from there, compressed as it is, and the image is the same
 * as if the tar had brought the bytes.
 *
 *   vine-squash --list 4<IMAGE >LIST
 *
 * lists an image (list.h); `vine-env inspect` starts this one, as the calling user.
 *
 * The owner of what is packed has written the tar, so nothing in it is believed; this
 * process runs as a user who has nothing but these descriptors. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/squash/content.h"
#include "daemon/squash/list.h"
#include "daemon/squash/meta.h"
#include "daemon/squash/tar_in.h"
#include "vine/limits.h"

#define TAR_FD 0
#define IMAGE_FD 3
#define BASE_FD 4
#define JOBS_MAX 64u

struct squash {
    struct disk disk;
    struct tar_in *tar;
    struct nodes *nodes;
    struct content *content;
    struct base *base; /* NULL: none */
};

static int add_content(void *ctx, const void *bytes, uint64_t len, struct vine_err *err)
{
    struct squash *s = ctx;

    return bytes != NULL ? content_add(s->content, bytes, (size_t)len, err)
                         : content_add_zeros(s->content, len, err);
}

static int add_link(struct squash *s, struct node *node, const struct tar_item *item,
                    struct vine_err *err)
{
    struct node *to = nodes_find(s->nodes, item->link_to);

    if (to == NULL || to->link != NULL || S_ISDIR(to->mode))
        return vine_err_set(err, VINE_EINVAL, "'%s' is another name of no file '%s'",
                            item->path, item->link_to);
    node->mode = to->mode;
    node->link = to;
    to->links++;
    return 0;
}

static int add_same(struct squash *s, struct node *node, const struct tar_item *item,
                    struct vine_err *err)
{
    const struct squash_file *from;

    if (s->base == NULL || item->size != 0)
        return vine_err_set(err, VINE_EINVAL, "'%s' is to be as before: %s", item->path,
                            s->base == NULL ? "no image before" : "but has bytes");
    from = base_find(s->base, item->path, err);
    return from == NULL ? -1
                        : content_same(s->content, &node->file, s->base, from, err);
}

static int add_item(struct squash *s, const struct tar_item *item, struct vine_err *err)
{
    bool directory = item->link_to == NULL && S_ISDIR(item->mode);
    struct node *node = nodes_make(s->nodes, item->path, directory, err);

    if (node == NULL)
        return -1;
    if (item->link_to != NULL)
        return add_link(s, node, item, err);
    node->mode = item->mode;
    node->uid = item->uid;
    node->gid = item->gid;
    node->mtime = item->mtime;
    if (item->target != NULL) {
        if (strlen(item->target) >= VINE_PATH_MAX)
            return vine_err_set(err, VINE_ELIMIT, "target of '%s' is too long",
                                item->path);
        node->target = strdup(item->target);
        return node->target != NULL ? 0
                                    : vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    if (directory)
        return 0;
    if (item->same)
        return add_same(s, node, item, err);
    if (content_begin(s->content, &node->file, item->size, err) < 0 ||
        tar_in_data(s->tar, add_content, s, err) < 0)
        return -1;
    return content_end(s->content, err);
}

/* ext4 writes a file out when it is closed, and lets its closer wait, if it was
 * truncated to nothing ever, though it was empty. */
static int make_empty(int fd, struct vine_err *err)
{
    struct stat st;

    if (fstat(fd, &st) == 0 && st.st_size == 0)
        return 0;
    return ftruncate(fd, 0) == 0 ? 0 : vine_err_sys(err, "cannot write the image");
}

static int build(struct squash *s, unsigned jobs, bool has_base, struct vine_err *err)
{
    const struct fragment *fragments;
    struct tar_item item;
    uint32_t count;
    int result;

    if (make_empty(IMAGE_FD, err) < 0)
        return -1;
    disk_init(&s->disk, IMAGE_FD, 0);
    s->nodes = nodes_new();
    if (s->nodes == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (has_base && (s->base = base_open(BASE_FD, err)) == NULL)
        return -1;
    s->tar = tar_in_new(TAR_FD, err);
    if (s->tar == NULL || meta_begin(&s->disk, err) < 0)
        return -1;
    s->content = content_new(&s->disk, jobs, err);
    if (s->content == NULL)
        return -1;
    while ((result = tar_in_next(s->tar, &item, err)) > 0)
        if (add_item(s, &item, err) < 0)
            return -1;
    if (result < 0 || content_finish(s->content, err) < 0 ||
        nodes_sort(s->nodes, err) < 0)
        return -1;
    fragments = content_fragments(s->content, &count);
    return meta_write(&s->disk, s->nodes, fragments, count, err);
}

static int usage(void)
{
    fputs("usage: vine-squash [--jobs N] [--base] <TAR 3<>IMAGE [4<BASE]   (started by "
          "vined and by 'vine-env pack')\n"
          "       vine-squash --list 4<IMAGE   (started by 'vine-env inspect')\n",
          stderr);
    return 2;
}

static int parse_jobs(const char *text, unsigned *jobs)
{
    char *end;
    unsigned long value;

    errno = 0;
    value = strtoul(text, &end, 10);
    if (errno != 0 || *text < '0' || *text > '9' || *end != '\0')
        return -1;
    *jobs = value > JOBS_MAX ? JOBS_MAX : (unsigned)value;
    return 0;
}

static int list(void)
{
    struct vine_err err = {0};

    if (fcntl(BASE_FD, F_GETFL) < 0)
        return usage();
    if (list_image(BASE_FD, stdout, &err) == 0)
        return 0;
    fprintf(stderr, "vine-squash: %s\n", err.text);
    return 1;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"base", no_argument, NULL, 'b'},
                                            {"list", no_argument, NULL, 'l'},
                                            {"jobs", required_argument, NULL, 'j'},
                                            {NULL, 0, NULL, 0}};
    struct squash s = {.tar = NULL};
    struct vine_err err = {0};
    bool has_base = false;
    unsigned jobs = 0;
    int option, result;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        if (option == 'b')
            has_base = true;
        else if (option == 'l')
            return argc == 2 ? list() : usage();
        else if (option != 'j' || parse_jobs(optarg, &jobs) < 0)
            return usage();
    if (optind != argc || fcntl(IMAGE_FD, F_GETFL) < 0)
        return usage();
    result = build(&s, jobs, has_base, &err);
    if (result < 0)
        fprintf(stderr, "vine-squash: %s\n", err.text);
    content_free(s.content);
    base_free(s.base);
    nodes_free(s.nodes);
    tar_in_free(s.tar);
    return result < 0 ? 1 : 0;
}
