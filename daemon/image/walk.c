/* walk.c - read a tree's metadata with many threads.
 *
 * A shared stack holds work: "list this directory" or "look at these few names of that
 * directory". Newest first keeps the walk deep rather than wide, so few directories are
 * open at once; a directory's descriptor is closed when its last piece of work is done.
 * Everything is opened relative to its parent's descriptor and never through a symbolic
 * link. Threads collect entries on their own and hand them over when the stack is empty
 * and nobody works; then they are sorted, so the result does not depend on the threads.
 *
 * One stat per file: readdir's type says what to list, mode bits say what can be read;
 * access(2) is asked only where an ACL could say otherwise. What only an ACL permits is
 * refused: the image does not carry ACLs, and the job could not read it there. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "daemon/image/bytes.h"
#include "daemon/image/tree_int.h"
#include "vine/limits.h"

#define NAMES_PER_WORK 8u
#define LIST_BUFFER (32u << 10)
#define BLOCK_BYTES (256u << 10)

struct dir {
    int fd;
    atomic_uint refs;
    unsigned depth;
    const char *path; /* "" for the root */
    bool is_root;
};

struct work {
    struct work *next;
    struct dir *dir; /* a reference */
    bool list;       /* list the one name; else look at the names */
    unsigned count;
    size_t used;
    char names[NAMES_PER_WORK * (NAME_MAX + 1)];
};

struct identity {
    uid_t uid;
    gid_t gid;
    int count;
    gid_t *groups;
};

struct walk {
    const char *name;
    const struct globs *exclude;
    struct identity who;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct work *top;
    unsigned pending; /* work on the stack or being done */
    atomic_bool stop;
    struct vine_err err;
    atomic_uint entries;
    struct tree *tree; /* entries are handed over by threads that end */
};

struct walker { /* one thread's own */
    struct walk *walk;
    struct tree_entry *entry;
    uint32_t count, cap;
    uint64_t skipped;
    bool world;
    struct tree_block *blocks;
    struct vine_err err;
    char *list;   /* LIST_BUFFER bytes */
    char *target; /* VINE_PATH_MAX bytes */
};

char *tree_keep(struct tree_block **list, const char *text, size_t len)
{
    struct tree_block *block = *list;
    char *at;

    if (block == NULL || block->size - block->used < len + 1) {
        size_t size = len + 1 > BLOCK_BYTES ? len + 1 : BLOCK_BYTES;
        block = malloc(sizeof(*block) + size);
        if (block == NULL)
            return NULL;
        *block = (struct tree_block){.next = *list, .size = size};
        *list = block;
    }
    at = block->bytes + block->used;
    memcpy(at, text, len);
    at[len] = '\0';
    block->used += len + 1;
    return at;
}

void tree_blocks_free(struct tree_block *list)
{
    while (list != NULL) {
        struct tree_block *next = list->next;
        free(list);
        list = next;
    }
}

static void dir_drop(struct dir *dir)
{
    if (atomic_fetch_sub(&dir->refs, 1) != 1)
        return;
    if (!dir->is_root)
        close(dir->fd);
    free(dir);
}

static void push(struct walk *walk, struct work *work)
{
    atomic_fetch_add(&work->dir->refs, 1);
    pthread_mutex_lock(&walk->lock);
    work->next = walk->top;
    walk->top = work;
    walk->pending++;
    pthread_cond_signal(&walk->changed);
    pthread_mutex_unlock(&walk->lock);
}

static struct work *pop(struct walk *walk)
{
    struct work *work = NULL;

    pthread_mutex_lock(&walk->lock);
    while (walk->top == NULL && walk->pending > 0 && !walk->stop)
        pthread_cond_wait(&walk->changed, &walk->lock);
    if (walk->top != NULL && !walk->stop) {
        work = walk->top;
        walk->top = work->next;
    }
    pthread_mutex_unlock(&walk->lock);
    return work;
}

static void work_done(struct walk *walk, struct work *work, const struct vine_err *err)
{
    dir_drop(work->dir);
    free(work);
    pthread_mutex_lock(&walk->lock);
    walk->pending--;
    if (err->code != VINE_OK) {
        (void)vine_err_set(&walk->err, err->code, "%s", err->text);
        walk->stop = true;
    }
    if (walk->pending == 0 || walk->stop)
        pthread_cond_broadcast(&walk->changed);
    pthread_mutex_unlock(&walk->lock);
}

/* errno -> error about an entry. What vanished or changed its type has changed. */
static int failed(struct walker *w, const char *verb, const char *path)
{
    const char *slash = path[0] != '\0' ? "/" : "";

    if (errno == ENOENT || errno == ESTALE || errno == ELOOP || errno == ENOTDIR)
        return vine_err_set(&w->err, VINE_ECHANGED,
                            "'%s%s%s' changed while it was read", w->walk->name, slash,
                            path);
    return vine_err_sys(&w->err, "cannot %s '%s%s%s'", verb, w->walk->name, slash,
                        path);
}

static bool in_group(const struct identity *who, gid_t gid)
{
    if (who->gid == gid)
        return true;
    for (int i = 0; i < who->count; i++)
        if (who->groups[i] == gid)
            return true;
    return false;
}

/* The three bits of `mode` that apply to us. */
static unsigned mode_for(const struct identity *who, const struct statx *st)
{
    if (st->stx_uid == who->uid)
        return (st->stx_mode >> 6) & 7;
    if (in_group(who, st->stx_gid))
        return (st->stx_mode >> 3) & 7;
    return st->stx_mode & 7;
}

static int check_readable(struct walker *w, int dir_fd, const char *name,
                          const char *path, const struct statx *st)
{
    unsigned want = S_ISDIR(st->stx_mode) ? 5 : 4;
    const struct identity *who = &w->walk->who;

    if (who->uid == 0)
        return 0; /* what root may not read on a squashed mount shows when it opens it
                   */
    if ((mode_for(who, st) & want) == want) {
        if (st->stx_uid == who->uid || S_ISDIR(st->stx_mode))
            return 0; /* no ACL overrules the owner's bits; directories get opened */
        if (faccessat(dir_fd, name, R_OK, 0) == 0)
            return 0;
        return failed(w, "read", path);
    }
    if (faccessat(dir_fd, name, (int)want, 0) < 0)
        return failed(w, "read", path);
    return vine_err_set(&w->err, VINE_EACCES,
                        "cannot read '%s%s%s' by its mode bits: only an access control "
                        "list permits it, and images do not carry these",
                        w->walk->name, path[0] ? "/" : "", path);
}

static struct tree_entry *new_entry(struct walker *w)
{
    if (atomic_fetch_add(&w->walk->entries, 1) >= TREE_ENTRIES_MAX) {
        (void)vine_err_set(&w->err, VINE_ELIMIT, "'%s' has more than %u entries",
                           w->walk->name, TREE_ENTRIES_MAX);
        return NULL;
    }
    if (w->count == w->cap) {
        uint32_t cap = w->cap > 0 ? 2 * w->cap : 256;
        void *grown = realloc(w->entry, cap * sizeof(*w->entry));
        if (grown == NULL) {
            (void)vine_err_set(&w->err, VINE_ENOMEM, "out of memory");
            return NULL;
        }
        w->entry = grown;
        w->cap = cap;
    }
    return &w->entry[w->count];
}

/* "dir/name" kept; NULL with w->err set. */
static const char *keep_path(struct walker *w, const struct dir *dir, const char *name)
{
    size_t dir_len = strlen(dir->path), name_len = strlen(name);
    char text[VINE_PATH_MAX];
    char *kept;

    if (dir_len + name_len + 2 > sizeof(text)) {
        (void)vine_err_set(&w->err, VINE_ELIMIT, "'%s' has a path over %d bytes",
                           w->walk->name, VINE_PATH_MAX - 1);
        return NULL;
    }
    memcpy(text, dir->path, dir_len);
    if (dir_len > 0)
        text[dir_len++] = '/';
    memcpy(text + dir_len, name, name_len);
    kept = tree_keep(&w->blocks, text, dir_len + name_len);
    if (kept == NULL)
        (void)vine_err_set(&w->err, VINE_ENOMEM, "out of memory");
    return kept;
}

static int add_entry(struct walker *w, const char *path, const char *target,
                     const struct statx *st)
{
    struct tree_entry *e = new_entry(w);
    unsigned world = S_ISDIR(st->stx_mode) ? 5 : S_ISREG(st->stx_mode) ? 4 : 0;

    if (e == NULL)
        return -1;
    *e = (struct tree_entry){.path = path,
                             .target = target,
                             .dev = makedev(st->stx_dev_major, st->stx_dev_minor),
                             .ino = st->stx_ino,
                             .size = S_ISREG(st->stx_mode) ? st->stx_size : 0,
                             .alloc = st->stx_blocks * 512,
                             .mtime = st->stx_mtime.tv_sec,
                             .ctime = st->stx_ctime.tv_sec,
                             .mtime_ns = st->stx_mtime.tv_nsec,
                             .ctime_ns = st->stx_ctime.tv_nsec,
                             .mode = st->stx_mode,
                             .uid = st->stx_uid,
                             .gid = st->stx_gid,
                             .nlink = st->stx_nlink};
    w->count++;
    w->world = w->world && (st->stx_mode & world) == world;
    return 0;
}

static const char *read_target(struct walker *w, int dir_fd, const char *name,
                               const char *path)
{
    ssize_t n = readlinkat(dir_fd, name, w->target, VINE_PATH_MAX);
    const char *kept;

    if (n <= 0 || n >= VINE_PATH_MAX) {
        errno = n < 0 ? errno : ENAMETOOLONG;
        (void)failed(w, "read link", path);
        return NULL;
    }
    kept = tree_keep(&w->blocks, w->target, (size_t)n);
    if (kept == NULL)
        (void)vine_err_set(&w->err, VINE_ENOMEM, "out of memory");
    return kept;
}

static struct work *new_work(struct walker *w, struct dir *dir, bool list)
{
    struct work *work = malloc(sizeof(*work));

    if (work == NULL) {
        (void)vine_err_set(&w->err, VINE_ENOMEM, "out of memory");
        return NULL;
    }
    work->dir = dir;
    work->list = list;
    work->count = 0;
    work->used = 0;
    return work;
}

static void work_add(struct work *work, const char *name)
{
    size_t len = strlen(name) + 1;

    memcpy(work->names + work->used, name, len);
    work->used += len;
    work->count++;
}

static int push_list(struct walker *w, struct dir *dir, const char *name)
{
    struct work *work = new_work(w, dir, true);

    if (work == NULL)
        return -1;
    work_add(work, name);
    push(w->walk, work);
    return 0;
}

static bool is_excluded(const struct walker *w, const struct dir *dir, const char *name,
                        bool directory)
{
    char path[VINE_PATH_MAX];
    int n;

    if (w->walk->exclude == NULL)
        return false;
    n = snprintf(path, sizeof(path), "%s%s%s", dir->path,
                 dir->path[0] != '\0' ? "/" : "", name);
    return n > 0 && (size_t)n < sizeof(path) &&
           globs_match(w->walk->exclude, path, directory);
}

static int look_at(struct walker *w, struct dir *dir, const char *name)
{
    const char *path = keep_path(w, dir, name), *target = NULL;
    struct statx st;

    if (path == NULL)
        return -1;
    if (tree_stat(dir->fd, name, w->walk->tree->fresh, &st) < 0)
        return failed(w, "look at", path);
    if (S_ISDIR(st.stx_mode)) /* readdir did not say so */
        return is_excluded(w, dir, name, true) ? 0 : push_list(w, dir, name);
    if (S_ISLNK(st.stx_mode)) {
        target = read_target(w, dir->fd, name, path);
        if (target == NULL)
            return -1;
    } else if (!S_ISREG(st.stx_mode)) {
        w->skipped++;
        return 0;
    } else if (check_readable(w, dir->fd, name, path, &st) < 0) {
        return -1;
    }
    return add_entry(w, path, target, &st);
}

static int list_names(struct walker *w, struct dir *dir, const char *bytes, size_t len,
                      struct work **batch)
{
    for (size_t at = 0; at < len;) {
        const struct dirent64 *d = (const void *)(bytes + at);

        at += d->d_reclen;
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        if (is_excluded(w, dir, d->d_name, d->d_type == DT_DIR))
            continue;
        if (d->d_type == DT_DIR) {
            if (push_list(w, dir, d->d_name) < 0)
                return -1;
            continue;
        }
        if (*batch == NULL && (*batch = new_work(w, dir, false)) == NULL)
            return -1;
        work_add(*batch, d->d_name);
        if ((*batch)->count == NAMES_PER_WORK) {
            push(w->walk, *batch);
            *batch = NULL;
        }
    }
    return 0;
}

static int list_all(struct walker *w, struct dir *dir)
{
    struct work *batch = NULL;
    ssize_t n;

    while ((n = getdents64(dir->fd, w->list, LIST_BUFFER)) > 0) {
        if (list_names(w, dir, w->list, (size_t)n, &batch) < 0) {
            free(batch);
            return -1;
        }
        if (w->walk->stop)
            break;
    }
    if (n < 0) {
        free(batch);
        return failed(w, "list", dir->path);
    }
    if (batch != NULL)
        push(w->walk, batch);
    return 0;
}

static int list_root(struct walker *w, struct dir *root)
{
    struct statx st;

    if (tree_stat(root->fd, "", w->walk->tree->fresh, &st) < 0)
        return failed(w, "look at", "");
    if (add_entry(w, root->path, NULL, &st) < 0)
        return -1;
    return list_all(w, root);
}

static int list_dir(struct walker *w, struct dir *parent, const char *name)
{
    const char *path = keep_path(w, parent, name);
    struct dir *dir;
    struct statx st;
    int result;

    if (path == NULL)
        return -1;
    if (parent->depth + 1 > TREE_DEPTH_MAX)
        return vine_err_set(&w->err, VINE_ELIMIT,
                            "'%s' is more than %d directories deep", w->walk->name,
                            TREE_DEPTH_MAX);
    if (tree_stat(parent->fd, name, w->walk->tree->fresh, &st) < 0)
        return failed(w, "look at", path);
    if (check_readable(w, parent->fd, name, path, &st) < 0 ||
        add_entry(w, path, NULL, &st) < 0)
        return -1;
    dir = calloc(1, sizeof(*dir));
    if (dir == NULL)
        return vine_err_set(&w->err, VINE_ENOMEM, "out of memory");
    dir->path = path;
    dir->depth = parent->depth + 1;
    atomic_init(&dir->refs, 1);
    dir->fd = openat(parent->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir->fd < 0) {
        (void)failed(w, "list", path);
        free(dir);
        return -1;
    }
    result = list_all(w, dir);
    dir_drop(dir);
    return result;
}

static void do_work(struct walker *w, struct work *work)
{
    const char *name = work->names;

    if (work->count == 0)
        (void)list_root(w, work->dir);
    for (unsigned i = 0; i < work->count && w->err.code == VINE_OK; i++) {
        if (work->list)
            (void)list_dir(w, work->dir, name);
        else
            (void)look_at(w, work->dir, name);
        name += strlen(name) + 1;
    }
}

static void hand_over(struct walker *w)
{
    struct tree *tree = w->walk->tree;
    void *grown;

    pthread_mutex_lock(&w->walk->lock);
    grown = realloc(tree->entry, (tree->count + w->count + 1) * sizeof(*tree->entry));
    if (grown == NULL) {
        (void)vine_err_set(&w->walk->err, VINE_ENOMEM, "out of memory");
    } else {
        tree->entry = grown;
        if (w->count > 0)
            memcpy(tree->entry + tree->count, w->entry, w->count * sizeof(*w->entry));
        tree->count += w->count;
    }
    tree->skipped += w->skipped;
    tree->world = tree->world && w->world;
    if (w->blocks != NULL) {
        struct tree_block *last = w->blocks;
        while (last->next != NULL)
            last = last->next;
        last->next = tree->blocks;
        tree->blocks = w->blocks;
    }
    pthread_mutex_unlock(&w->walk->lock);
    free(w->entry);
}

static void *walk_run(void *arg)
{
    struct walker w = {.walk = arg, .world = true};
    struct work *work;

    w.list = malloc(LIST_BUFFER);
    w.target = malloc(VINE_PATH_MAX);
    if (w.list == NULL || w.target == NULL)
        (void)vine_err_set(&w.err, VINE_ENOMEM, "out of memory");
    while ((work = pop(w.walk)) != NULL) {
        if (w.err.code == VINE_OK)
            do_work(&w, work);
        work_done(w.walk, work, &w.err);
    }
    free(w.list);
    free(w.target);
    hand_over(&w);
    return NULL;
}

/* Attributes on this node are always current. */
static const uint32_t coherent_systems[] = {
    0xEF53,     /* ext */
    0x58465342, /* xfs */
    0x9123683E, /* btrfs */
    0x01021994, /* tmpfs */
    0x858458f6, /* ramfs */
    0x794c7630, /* overlay */
    0x73717368, /* squashfs */
    0xE0F5E1E2, /* erofs */
    0xF2F52010, /* f2fs */
    0x2fc12fc1, /* zfs */
    0x0BD00BD0, /* lustre */
    0x47504653, /* gpfs */
    0x00C36400, /* ceph */
    0x01161970, /* gfs2 */
};

/* Attributes are cached for a time, and an open does not renew them. */
static const uint32_t lax_systems[] = {
    0x65735546, /* fuse */
    0xFF534D42, /* cifs */
    0xFE534D42, /* smb2 */
    0x01021997, /* 9p */
};

#define IS_ONE_OF(type, list) is_one_of(type, list, sizeof(list) / sizeof(list[0]))

static bool is_one_of(uint32_t type, const uint32_t *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (list[i] == type)
            return true;
    return false;
}

static void find_caching(int root_fd, enum tree_caching wanted, struct tree *tree)
{
    struct statfs st = {0};

    if (wanted == TREE_CACHING_COHERENT)
        return;
    (void)fstatfs(root_fd, &st);
    tree->strict =
        wanted == TREE_CACHING_STRICT || IS_ONE_OF((uint32_t)st.f_type, lax_systems);
    tree->fresh = tree->strict || !IS_ONE_OF((uint32_t)st.f_type, coherent_systems);
}

static int load_identity(struct identity *who)
{
    who->uid = geteuid();
    who->gid = getegid();
    who->count = getgroups(0, NULL);
    if (who->count < 0)
        return -1;
    who->groups = calloc((size_t)who->count + 1, sizeof(gid_t));
    if (who->groups == NULL)
        return -1;
    who->count = getgroups(who->count, who->groups);
    return who->count < 0 ? -1 : 0;
}

/* The stack's first work: no name, the root itself. */
static int start(struct walk *walk, int root_fd)
{
    struct work *work = calloc(1, sizeof(*work));
    struct dir *root = calloc(1, sizeof(*root));

    if (work == NULL || root == NULL) {
        free(work);
        free(root);
        return -1;
    }
    *root = (struct dir){.fd = root_fd, .path = "", .is_root = true};
    atomic_init(&root->refs, 0);
    work->dir = root;
    work->list = true;
    push(walk, work);
    return 0;
}

static void drop_rest(struct walk *walk)
{
    while (walk->top != NULL) {
        struct work *work = walk->top;
        walk->top = work->next;
        dir_drop(work->dir);
        free(work);
    }
}

int tree_walk(int root_fd, const struct walk_options *options, struct tree **out,
              struct vine_err *err)
{
    struct tree *tree = calloc(1, sizeof(*tree));
    struct walk walk = {
        .name = options->name, .exclude = options->exclude, .tree = tree};
    struct timespec now;
    int result = -1;

    if (tree == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    tree->world = true;
    find_caching(root_fd, options->caching, tree);
    pthread_mutex_init(&walk.lock, NULL);
    pthread_cond_init(&walk.changed, NULL);
    (void)lseek(root_fd, 0, SEEK_SET); /* a second walk of one descriptor */
    if (load_identity(&walk.who) < 0 || start(&walk, root_fd) < 0)
        (void)vine_err_set(&walk.err, VINE_ENOMEM, "out of memory");
    else
        tree_run_threads(options->threads, walk_run, &walk);
    drop_rest(&walk);
    free(walk.who.groups);
    pthread_cond_destroy(&walk.changed);
    pthread_mutex_destroy(&walk.lock);
    clock_gettime(CLOCK_REALTIME, &now);
    tree->ended_ms = now.tv_sec * 1000 + now.tv_nsec / 1000000;
    if (walk.err.code != VINE_OK)
        (void)vine_err_set(err, walk.err.code, "%s", walk.err.text);
    else
        result = tree_finish(tree, options, err);
    if (result < 0) {
        tree_free(tree);
        return -1;
    }
    *out = tree;
    return 0;
}
