/* readahead.c - many threads read, one consumer takes the results in order.
 *
 * Work is cut into jobs in the tree's order: a run of small files, or a chunk of a
 * large one. A thread takes the next job under the lock, which also reserves its bytes
 * in the window; so whatever is reserved comes before whatever is not, and the
 * consumer, who frees in the same order, can never wait for a job that waits for him.
 * Jobs live in a ring; a job's number is its place in the order.
 *
 * A large file is opened once and shared by its chunks; who finishes the last chunk
 * compares and closes. Its holes are found first and not read. */
#include "daemon/image/readahead.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/image/bytes.h"
#include "daemon/image/pool.h"
#include "vine/limits.h"

/* Enough to keep all threads reading; more only leaves the processor's caches. */
#define WINDOW_BYTES (16u << 20)
#define RING 512u              /* jobs between the consumer and the last thread */
#define LARGE_BYTES (4u << 20) /* more: chunk by chunk */
#define CHUNK_BYTES (2u << 20)
#define RUN_BYTES (512u << 10) /* small files of one job together */
#define RUN_FILES 16u
#define EXTENTS_MAX 4096u /* more holes than that are read as zeros */

struct large { /* an open file of several jobs */
    pthread_mutex_t lock;
    bool opened;
    int fd;
    unsigned left; /* jobs that have not finished; guarded by readahead.lock */
    struct tar_extent *extents;
    size_t extent_count;
    bool has_holes;
};

enum job_state { JOB_FREE, JOB_READING, JOB_READY };

struct job {
    enum job_state state;
    uint32_t first, count; /* in readahead.files */
    uint64_t offset, length;
    struct large *large; /* NULL: a run of small files */
    bool hole, last;     /* last: of its large file */
    uint8_t *data;
    struct vine_err err;
};

struct readahead {
    int root_fd;
    const struct tree *tree;
    struct readahead_options options;
    struct pool *pool;
    uint32_t *files; /* indices of entries that have bytes */
    uint32_t file_count;

    pthread_mutex_t lock;
    pthread_cond_t space, ready;
    struct job ring[RING];
    uint64_t head, tail; /* numbers of the consumer's job and of the next to take */
    uint64_t window;     /* bytes reserved */
    bool stop;
    /* Where the next job begins. */
    uint32_t next_file;
    uint64_t next_offset;
    struct large *next_large;

    /* The consumer's place in ring[head]. */
    uint32_t at_file;
    size_t at_byte;
    bool holding;

    pthread_t thread[TREE_THREADS_MAX];
    unsigned threads;
};

struct reader { /* one thread's own: the directory of the last file */
    struct readahead *ra;
    int dir_fd;
    const char *dir;
    size_t dir_len;
    bool over; /* below which root: tree_root_of */
};

static const struct tree_entry *file_of(const struct readahead *ra, uint32_t file)
{
    return &ra->tree->entry[ra->files[file]];
}

static int failed(const struct readahead *ra, const struct tree_entry *e,
                  struct vine_err *err)
{
    if (errno == ENOENT || errno == ESTALE || errno == ELOOP || errno == ENOTDIR)
        return vine_err_set(err, VINE_ECHANGED, "'%s/%s' changed while it was read",
                            ra->options.name, e->path);
    return vine_err_sys(err, "cannot read '%s/%s'", ra->options.name, e->path);
}

/* Open below the directory of the file before, if it is the same: on a network file
 * system every component of a path may cost a question. */
static int open_file(struct reader *r, const struct tree_entry *e)
{
    const char *slash = strrchr(e->path, '/');
    size_t len = slash != NULL ? (size_t)(slash - e->path) : 0;
    int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    int fd, dir_fd = tree_root_of(r->ra->tree, r->ra->root_fd, e);

    if (slash != NULL && (r->dir == NULL || r->dir_len != len || r->over != e->over ||
                          memcmp(r->dir, e->path, len) != 0)) {
        char dir[VINE_PATH_MAX];
        memcpy(dir, e->path, len);
        dir[len] = '\0';
        if (r->dir_fd >= 0)
            close(r->dir_fd);
        r->dir = NULL;
        r->dir_fd = openat(dir_fd, dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (r->dir_fd < 0)
            return -1;
        r->dir = e->path;
        r->dir_len = len;
        r->over = e->over;
    }
    if (slash != NULL)
        dir_fd = r->dir_fd;
    if (e->uid == geteuid()) {
        fd = openat(dir_fd, slash != NULL ? slash + 1 : e->path, flags | O_NOATIME);
        if (fd >= 0 || errno != EPERM)
            return fd;
    }
    return openat(dir_fd, slash != NULL ? slash + 1 : e->path, flags);
}

static int check_same(const struct readahead *ra, const struct tree_entry *e, int fd,
                      struct vine_err *err)
{
    struct statx now;

    if (tree_stat(fd, "", ra->tree->strict, &now) < 0)
        return failed(ra, e, err);
    if (!tree_entry_same(e, &now))
        return vine_err_set(err, VINE_ECHANGED, "'%s/%s' changed while it was read",
                            ra->options.name, e->path);
    return 0;
}

static int read_bytes(const struct readahead *ra, const struct tree_entry *e, int fd,
                      uint8_t *out, size_t len, uint64_t offset, struct vine_err *err)
{
    ssize_t n = pread_whole(fd, out, len, offset);

    if (n < 0)
        return failed(ra, e, err);
    if ((size_t)n < len)
        return vine_err_set(err, VINE_ECHANGED, "'%s/%s' changed while it was read",
                            ra->options.name, e->path);
    return 0;
}

static void read_run(struct reader *r, struct job *job)
{
    struct readahead *ra = r->ra;
    uint8_t *out;

    job->data = pool_get(ra->pool, job->length);
    if (job->data == NULL) {
        (void)vine_err_set(&job->err, VINE_ENOMEM, "out of memory");
        return;
    }
    out = job->data;
    for (uint32_t i = 0; i < job->count; i++) {
        const struct tree_entry *e = file_of(ra, job->first + i);
        auto_fd int fd = open_file(r, e);

        if (fd < 0) {
            (void)failed(ra, e, &job->err);
            return;
        }
        if (read_bytes(ra, e, fd, out, e->size, 0, &job->err) < 0 ||
            check_same(ra, e, fd, &job->err) < 0)
            return;
        out += e->size;
    }
}

static bool add_extent(struct large *large, size_t *cap, uint64_t offset,
                       uint64_t length)
{
    if (large->extent_count == EXTENTS_MAX)
        return false;
    if (large->extent_count == *cap) {
        size_t grown_cap = *cap > 0 ? 2 * *cap : 16;
        void *grown = realloc(large->extents, grown_cap * sizeof(*large->extents));
        if (grown == NULL)
            return false;
        large->extents = grown;
        *cap = grown_cap;
    }
    large->extents[large->extent_count++] = (struct tar_extent){offset, length};
    return true;
}

/* Where the file has bytes. What cannot be told is taken for bytes. */
static void find_extents(struct large *large, const struct tree_entry *e)
{
    uint64_t at = 0;
    size_t cap = 0;

    while (at < e->size) {
        off_t start = lseek(large->fd, (off_t)at, SEEK_DATA);
        off_t end = start < 0 ? -1 : lseek(large->fd, start, SEEK_HOLE);

        if (start < 0 && errno == ENXIO) /* holes to the end */
            break;
        if ((uint64_t)end > e->size)
            end = (off_t)e->size;
        if (start < 0 || end <= start ||
            !add_extent(large, &cap, (uint64_t)start, (uint64_t)(end - start))) {
            large->extent_count = 0;
            return;
        }
        at = (uint64_t)end;
    }
    large->has_holes = true;
    if (large->extent_count == 0) /* a sparse map cannot be empty */
        large->has_holes = add_extent(large, &cap, 0, 1);
}

static int open_large(struct reader *r, struct job *job)
{
    struct large *large = job->large;
    const struct tree_entry *e = file_of(r->ra, job->first);
    int result = 0;

    pthread_mutex_lock(&large->lock);
    if (!large->opened) {
        large->opened = true;
        large->fd = open_file(r, e);
        if (large->fd >= 0 && e->alloc < e->size)
            find_extents(large, e);
    }
    if (large->fd < 0)
        result = failed(r->ra, e, &job->err);
    pthread_mutex_unlock(&large->lock);
    return result;
}

static bool is_hole(const struct large *large, uint64_t offset, uint64_t length)
{
    if (!large->has_holes)
        return false;
    for (size_t i = 0; i < large->extent_count; i++) {
        const struct tar_extent *x = &large->extents[i];
        if (x->offset < offset + length && offset < x->offset + x->length)
            return false;
    }
    return true;
}

static void read_chunk(struct reader *r, struct job *job)
{
    const struct tree_entry *e = file_of(r->ra, job->first);

    if (open_large(r, job) < 0)
        return;
    job->hole = is_hole(job->large, job->offset, job->length);
    if (job->hole)
        return;
    job->data = pool_get(r->ra->pool, job->length);
    if (job->data == NULL)
        (void)vine_err_set(&job->err, VINE_ENOMEM, "out of memory");
    else
        (void)read_bytes(r->ra, e, job->large->fd, job->data, job->length, job->offset,
                         &job->err);
}

static void large_free(struct large *large)
{
    if (large->fd >= 0)
        close(large->fd);
    pthread_mutex_destroy(&large->lock);
    free(large->extents);
    free(large);
}

static struct large *large_new(const struct tree_entry *e)
{
    struct large *large = calloc(1, sizeof(*large));

    if (large == NULL)
        return NULL;
    pthread_mutex_init(&large->lock, NULL);
    large->fd = -1;
    large->left = (unsigned)((e->size + CHUNK_BYTES - 1) / CHUNK_BYTES);
    return large;
}

/* With the lock held, at a large file: its next chunk. */
static void take_chunk(struct readahead *ra, struct job *job)
{
    const struct tree_entry *e = file_of(ra, ra->next_file);
    uint64_t left = e->size - ra->next_offset;

    if (ra->next_large == NULL && (ra->next_large = large_new(e)) == NULL) {
        (void)vine_err_set(&job->err, VINE_ENOMEM, "out of memory");
        ra->stop = true;
        return;
    }
    job->large = ra->next_large;
    job->count = 1;
    job->offset = ra->next_offset;
    job->length = left < CHUNK_BYTES ? left : CHUNK_BYTES;
    ra->next_offset += job->length;
    if (ra->next_offset == e->size) {
        job->last = true;
        ra->next_file++;
        ra->next_offset = 0;
        ra->next_large = NULL;
    }
}

static void take_run(struct readahead *ra, struct job *job)
{
    while (ra->next_file < ra->file_count && job->count < RUN_FILES) {
        const struct tree_entry *e = file_of(ra, ra->next_file);
        if (e->size > LARGE_BYTES ||
            (job->count > 0 && job->length + e->size > RUN_BYTES))
            break;
        job->length += e->size;
        job->count++;
        ra->next_file++;
    }
}

/* The next job, its bytes reserved; NULL: nothing left, or stopped. */
static struct job *take(struct readahead *ra)
{
    struct job *job;

    while (!ra->stop && ra->next_file < ra->file_count &&
           (ra->tail - ra->head == RING || ra->window >= WINDOW_BYTES))
        pthread_cond_wait(&ra->space, &ra->lock);
    if (ra->stop || ra->next_file == ra->file_count)
        return NULL;
    job = &ra->ring[ra->tail++ % RING];
    *job = (struct job){.state = JOB_READING, .first = ra->next_file};
    if (file_of(ra, ra->next_file)->size > LARGE_BYTES)
        take_chunk(ra, job);
    else
        take_run(ra, job);
    ra->window += job->length;
    return job;
}

/* With the lock held. True: this was the file's last chunk, check it. */
static bool is_last_done(const struct job *job)
{
    return job->large != NULL && --job->large->left == 0;
}

static void *read_jobs(void *arg)
{
    struct reader r = {.ra = arg, .dir_fd = -1};
    struct readahead *ra = arg;
    struct job *job;

    pthread_mutex_lock(&ra->lock);
    while ((job = take(ra)) != NULL) {
        pthread_mutex_unlock(&ra->lock);
        if (job->large != NULL)
            read_chunk(&r, job);
        else if (job->err.code == VINE_OK)
            read_run(&r, job);
        pthread_mutex_lock(&ra->lock);
        if (is_last_done(job)) {
            pthread_mutex_unlock(&ra->lock);
            if (job->large->fd >= 0)
                (void)check_same(ra, file_of(ra, job->first), job->large->fd,
                                 &job->err);
            pthread_mutex_lock(&ra->lock);
        }
        job->state = JOB_READY;
        pthread_cond_signal(&ra->ready);
    }
    /* The others may wait for space that will not be needed. */
    pthread_cond_broadcast(&ra->space);
    pthread_mutex_unlock(&ra->lock);
    if (r.dir_fd >= 0)
        close(r.dir_fd);
    return NULL;
}

static int list_files(struct readahead *ra)
{
    const struct tree *tree = ra->tree;

    ra->files = malloc((tree->count + 1) * sizeof(*ra->files));
    if (ra->files == NULL)
        return -1;
    for (uint32_t k = 0; k < tree->count; k++) {
        uint32_t i = tree_at(tree, k);
        const struct tree_entry *e = &tree->entry[i];
        if (S_ISREG(e->mode) && e->link_to == i && e->size > 0 && !e->same)
            ra->files[ra->file_count++] = i;
    }
    return 0;
}

struct readahead *readahead_new(int root_fd, const struct tree *tree,
                                const struct readahead_options *options,
                                struct vine_err *err)
{
    struct readahead *ra = calloc(1, sizeof(*ra));
    unsigned wanted = options->threads > 0 ? options->threads : TREE_THREADS_DEFAULT;

    if (ra == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        return NULL;
    }
    ra->root_fd = root_fd;
    ra->tree = tree;
    ra->options = *options;
    pthread_mutex_init(&ra->lock, NULL);
    pthread_cond_init(&ra->space, NULL);
    pthread_cond_init(&ra->ready, NULL);
    ra->pool = pool_new(WINDOW_BYTES);
    if (ra->pool == NULL || list_files(ra) < 0) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        readahead_free(ra);
        return NULL;
    }
    while (ra->threads < wanted && ra->threads < TREE_THREADS_MAX &&
           pthread_create(&ra->thread[ra->threads], NULL, read_jobs, ra) == 0)
        ra->threads++;
    if (ra->threads == 0) {
        vine_err_set(err, VINE_ESYS, "cannot start a thread");
        readahead_free(ra);
        return NULL;
    }
    return ra;
}

/* With the lock held: the consumer has finished ring[head]. */
static void release_head(struct readahead *ra)
{
    struct job *job = &ra->ring[ra->head++ % RING];

    ra->window -= job->length;
    pool_put(ra->pool, job->data);
    job->data = NULL;
    if (job->large != NULL && job->last)
        large_free(job->large); /* all its jobs were before this one */
    job->large = NULL;
    job->state = JOB_FREE;
    ra->holding = false;
    /* One thread wakes up, and works until the window is full again: waking all of them
     * for each job costs more than reading small files from a cache. */
    if (ra->window < WINDOW_BYTES / 2 && ra->tail - ra->head < RING / 2)
        pthread_cond_signal(&ra->space);
}

/* The part of ring[head] at the consumer's place. */
static void give_part(struct readahead *ra, const struct job *job,
                      struct readahead_part *part)
{
    uint32_t file = job->first + ra->at_file;

    *part = (struct readahead_part){.entry = ra->files[file], .offset = job->offset};
    if (job->large != NULL) {
        part->length = job->length;
        part->data = job->hole ? NULL : job->data;
        part->extents = job->large->extents;
        part->extent_count = job->large->has_holes ? job->large->extent_count : 0;
    } else {
        part->length = file_of(ra, file)->size;
        part->data = job->data + ra->at_byte;
        ra->at_byte += part->length;
    }
    ra->at_file++;
}

int readahead_next(struct readahead *ra, struct readahead_part *part,
                   struct vine_err *err)
{
    struct job *job;

    if (ra->holding && ra->at_file < ra->ring[ra->head % RING].count) {
        give_part(ra, &ra->ring[ra->head % RING], part);
        return 1;
    }
    pthread_mutex_lock(&ra->lock);
    if (ra->holding)
        release_head(ra);
    job = &ra->ring[ra->head % RING];
    while (ra->head == ra->tail ? ra->next_file < ra->file_count
                                : job->state != JOB_READY)
        pthread_cond_wait(&ra->ready, &ra->lock);
    if (ra->head == ra->tail) {
        pthread_mutex_unlock(&ra->lock);
        return 0;
    }
    ra->holding = true;
    ra->at_file = 0;
    ra->at_byte = 0;
    pthread_mutex_unlock(&ra->lock);
    if (job->err.code != VINE_OK)
        return vine_err_set(err, job->err.code, "%s", job->err.text);
    give_part(ra, job, part);
    return 1;
}

void readahead_free(struct readahead *ra)
{
    if (ra == NULL)
        return;
    pthread_mutex_lock(&ra->lock);
    ra->stop = true;
    pthread_cond_broadcast(&ra->space);
    pthread_mutex_unlock(&ra->lock);
    while (ra->threads > 0)
        pthread_join(ra->thread[--ra->threads], NULL);
    while (ra->head < ra->tail)
        release_head(ra);
    if (ra->next_large != NULL) /* its last chunk was never taken */
        large_free(ra->next_large);
    pthread_cond_destroy(&ra->space);
    pthread_cond_destroy(&ra->ready);
    pthread_mutex_destroy(&ra->lock);
    pool_free(ra->pool);
    free(ra->files);
    free(ra);
}
