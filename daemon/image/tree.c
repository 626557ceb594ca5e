/* tree.c - what can be said of a walked tree: its key, its hard links, what changed. */
#include "daemon/image/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>

#include <linux/openat2.h>

#include "daemon/image/bytes.h"
#include "daemon/image/tree_int.h"
#include "vine/limits.h"

/* The dentry is in this client's cache, so a plain statx would answer from there. */
static bool is_cached(int dir_fd, const char *name)
{
    struct open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
                           .resolve = RESOLVE_CACHED};
    long fd = syscall(SYS_openat2, dir_fd, name, &how, sizeof(how));

    if (fd < 0)
        return errno != EAGAIN; /* a kernel without it: force, an operation more */
    close((int)fd);
    return true;
}

int tree_stat(int dir_fd, const char *name, bool fresh, struct statx *out)
{
    int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;

    if (name[0] == '\0')
        flags |= AT_EMPTY_PATH | (fresh ? AT_STATX_FORCE_SYNC : 0);
    else if (fresh && is_cached(dir_fd, name))
        flags |= AT_STATX_FORCE_SYNC;
    return statx(dir_fd, name, flags, TREE_STATX_MASK, out);
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct tree_entry *)a)->path,
                  ((const struct tree_entry *)b)->path);
}

static int by_inode(const void *a, const void *b, void *entries)
{
    const struct tree_entry *sorting = entries;
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    const struct tree_entry *x = &sorting[i], *y = &sorting[j];

    if (x->dev != y->dev)
        return x->dev < y->dev ? -1 : 1;
    if (x->ino != y->ino)
        return x->ino < y->ino ? -1 : 1;
    return i < j ? -1 : i > j;
}

/* Point every further name of an inode at its first one. */
static int find_links(struct tree *tree)
{
    uint32_t *index = malloc((tree->count + 1) * sizeof(*index));
    uint32_t count = 0;

    if (index == NULL)
        return -1;
    for (uint32_t i = 0; i < tree->count; i++) {
        tree->entry[i].link_to = i;
        if (!S_ISDIR(tree->entry[i].mode) && tree->entry[i].nlink > 1)
            index[count++] = i;
    }
    qsort_r(index, count, sizeof(*index), by_inode, tree->entry);
    for (uint32_t i = 1; i < count; i++) {
        const struct tree_entry *before = &tree->entry[index[i - 1]];
        struct tree_entry *e = &tree->entry[index[i]];
        if (e->dev == before->dev && e->ino == before->ino)
            e->link_to = before->link_to;
    }
    free(index);
    return 0;
}

int tree_finish(struct tree *tree, const struct walk_options *options,
                struct vine_err *err)
{
    uint64_t limit = options->max_bytes > 0 ? options->max_bytes : VINE_OBJECT_MAX;

    qsort(tree->entry, tree->count, sizeof(*tree->entry), by_path);
    if (find_links(tree) < 0)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < tree->count; i++) {
        const struct tree_entry *e = &tree->entry[i];
        if (!S_ISREG(e->mode) || e->link_to != i)
            continue;
        if (e->size > limit || tree->bytes > limit - e->size)
            return vine_err_set(err, VINE_ELIMIT, "'%s' has more than %llu bytes",
                                options->name, (unsigned long long)limit);
        tree->files++;
        tree->bytes += e->size;
        tree->alloc += e->alloc;
    }
    return 0;
}

void tree_free(struct tree *tree)
{
    if (tree == NULL)
        return;
    tree_blocks_free(tree->blocks);
    free(tree->entry);
    free(tree->order);
    free(tree);
}

uint32_t tree_find(const struct tree *tree, const char *path)
{
    uint32_t low = 0, high = tree->count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = strcmp(path, tree->entry[middle].path);
        if (order == 0)
            return middle;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return UINT32_MAX;
}

bool tree_entry_same(const struct tree_entry *entry, const struct statx *now)
{
    if (entry->ino != now->stx_ino || entry->mode != now->stx_mode ||
        entry->uid != now->stx_uid || entry->gid != now->stx_gid)
        return false;
    if (S_ISREG(entry->mode) && entry->size != now->stx_size)
        return false;
    return entry->mtime == now->stx_mtime.tv_sec &&
           entry->mtime_ns == now->stx_mtime.tv_nsec &&
           entry->ctime == now->stx_ctime.tv_sec &&
           entry->ctime_ns == now->stx_ctime.tv_nsec;
}

struct recheck {
    int root_fd;
    const struct tree *tree;
    const char *name;
    pthread_mutex_t lock;
    uint32_t next;
    struct vine_err err;
};

#define RECHECK_STEP 64u

static bool needs_recheck(const struct tree_entry *e)
{
    return S_ISDIR(e->mode) || (S_ISREG(e->mode) && e->size == 0) || e->same;
}

static void recheck_one(struct recheck *r, const struct tree_entry *e,
                        struct vine_err *err)
{
    struct statx now;

    if (tree_stat(tree_root_of(r->tree, r->root_fd, e), e->path, r->tree->fresh,
                  &now) == 0 &&
        tree_entry_same(e, &now))
        return;
    (void)vine_err_set(err, VINE_ECHANGED, "'%s%s%s' changed while it was read",
                       r->name, e->path[0] ? "/" : "", e->path);
}

static void *recheck_run(void *arg)
{
    struct recheck *r = arg;

    for (;;) {
        struct vine_err err = {0};
        uint32_t first, end;

        pthread_mutex_lock(&r->lock);
        first = r->next;
        end = r->tree->count - first > RECHECK_STEP ? first + RECHECK_STEP
                                                    : r->tree->count;
        r->next = r->err.code != VINE_OK ? r->tree->count : end;
        pthread_mutex_unlock(&r->lock);
        if (first >= end)
            return NULL;
        for (; first < end && err.code == VINE_OK; first++)
            if (needs_recheck(&r->tree->entry[first]))
                recheck_one(r, &r->tree->entry[first], &err);
        if (err.code == VINE_OK)
            continue;
        pthread_mutex_lock(&r->lock);
        (void)vine_err_set(&r->err, err.code, "%s", err.text);
        pthread_mutex_unlock(&r->lock);
    }
}

int tree_recheck(int root_fd, const struct tree *tree,
                 const struct walk_options *options, struct vine_err *err)
{
    struct recheck r = {.root_fd = root_fd, .tree = tree, .name = options->name};

    pthread_mutex_init(&r.lock, NULL);
    tree_run_threads(options->threads, recheck_run, &r);
    pthread_mutex_destroy(&r.lock);
    if (r.err.code == VINE_OK)
        return 0;
    return vine_err_set(err, r.err.code, "%s", r.err.text);
}

void tree_run_threads(unsigned threads, void *(*run)(void *), void *arg)
{
    pthread_t thread[TREE_THREADS_MAX];
    unsigned started = 0;

    if (threads == 0)
        threads = TREE_THREADS_DEFAULT;
    if (threads > TREE_THREADS_MAX)
        threads = TREE_THREADS_MAX;
    while (started + 1 < threads &&
           pthread_create(&thread[started], NULL, run, arg) == 0)
        started++;
    (void)run(arg); /* the caller works too: it goes on with no thread at all */
    while (started > 0)
        pthread_join(thread[--started], NULL);
}

void tree_hash(const struct tree *tree, struct vine_sha *sha)
{
    for (uint32_t i = 0; i < tree->count; i++) {
        const struct tree_entry *e = &tree->entry[i];
        bool is_file = S_ISREG(e->mode);
        uint8_t fixed[72];

        put_be(fixed, e->mode, 4);
        put_be(fixed + 4, e->uid, 4);
        put_be(fixed + 8, e->gid, 4);
        /* Sizes and link counts of directories depend on the file system's mood. */
        put_be(fixed + 12, S_ISDIR(e->mode) ? 0 : e->nlink, 4);
        put_be(fixed + 16, is_file ? e->size : 0, 8);
        put_be(fixed + 24, e->ino, 8);
        put_be(fixed + 32, (uint64_t)e->mtime, 8);
        put_be(fixed + 40, e->mtime_ns, 4);
        put_be(fixed + 44, (uint64_t)e->ctime, 8);
        put_be(fixed + 52, e->ctime_ns, 4);
        put_be(fixed + 56, strlen(e->path), 8);
        put_be(fixed + 64, e->target != NULL ? strlen(e->target) : 0, 8);
        vine_sha_add(sha, fixed, sizeof(fixed));
        vine_sha_add(sha, e->path, strlen(e->path));
        if (e->target != NULL)
            vine_sha_add(sha, e->target, strlen(e->target));
    }
}
