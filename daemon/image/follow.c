/* follow.c - a thread behind the builder of an image: cuts and hashes what it wrote.
 *
 * The builder leaves the processors idle here and there, so most of this costs no time,
 * and when the image is written its manifest is nearly there. The thread wakes up
 * POLL_MS after it has caught up and keeps LAG bytes behind the end. */
#include "daemon/image/follow.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "daemon/image/bytes.h"

#define POLL_MS 50
#define STEP (1u << 20)
#define LAG (1u << 20)

struct image_follow {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned refs; /* the thread's and the owner's */
    bool stop, ended;
    int fd;
    struct image_hint *hint; /* changed by the thread, under the lock */
    size_t count, room;
    /* The thread's alone. */
    uint64_t at; /* where the next chunk begins */
    uint8_t *bytes;
    size_t have; /* bytes of it that were read */
};

static uint64_t turn(uint64_t value, unsigned bits)
{
    return value << bits | value >> (64 - bits);
}

uint64_t image_sum(const void *data, size_t len)
{
    const uint64_t factor = 0x9e3779b97f4a7c15ull;
    const uint8_t *next = data;
    uint64_t lane[4] = {1, 2, 3, 4}, sum = len;

    for (; len >= 32; len -= 32, next += 32)
        for (int i = 0; i < 4; i++) {
            uint64_t word;
            memcpy(&word, next + 8 * i, 8);
            lane[i] = turn(lane[i] ^ word, 29) * factor;
        }
    for (int i = 0; i < 4; i++)
        sum = (turn(sum, 31) ^ lane[i]) * factor;
    for (; len > 0; len--, next++)
        sum = (turn(sum, 31) ^ *next) * factor;
    return sum;
}

static bool append(struct image_follow *f, const struct image_hint *hint)
{
    if (f->count == f->room) {
        size_t room = f->room > 0 ? 2 * f->room : 256;
        void *grown = realloc(f->hint, room * sizeof(*f->hint));
        if (grown == NULL)
            return false;
        f->hint = grown;
        f->room = room;
    }
    f->hint[f->count++] = *hint;
    return true;
}

static bool keep_hint(struct image_follow *f, const uint8_t *bytes, uint32_t length)
{
    struct image_hint hint = {.chunk = {.offset = f->at, .length = length}};
    bool kept;

    vine_digest_of(bytes, length, &hint.chunk.digest);
    hint.sum = image_sum(bytes, length);
    pthread_mutex_lock(&f->lock);
    kept = append(f, &hint);
    pthread_mutex_unlock(&f->lock);
    if (!kept)
        return false;
    f->at += length;
    return true;
}

/* Hash the chunks that end in what was read. False: give up. */
static bool cut(struct image_follow *f)
{
    struct manifest_builder *cutter = manifest_builder_new_cutter();
    const struct manifest_chunk *chunk;
    bool good = cutter != NULL;
    size_t done = 0;

    if (good)
        good = manifest_builder_add(cutter, f->bytes, f->have, NULL) == 0;
    for (uint32_t i = 0; good && i < manifest_builder_chunks(cutter, &chunk);
         done += chunk[i++].length)
        good = keep_hint(f, f->bytes + done, chunk[i].length);
    manifest_builder_free(cutter);
    f->have -= done;
    memmove(f->bytes, f->bytes + done, f->have);
    return good;
}

/* One step. 1: there may be more, 0: caught up, -1: give up. */
static int follow(struct image_follow *f)
{
    uint64_t end, next = f->at + f->have;
    struct stat st;
    ssize_t n;

    if (fstat(f->fd, &st) < 0)
        return -1;
    end = (uint64_t)st.st_size;
    if (end < next + STEP + LAG)
        return 0;
    n = pread_whole(f->fd, f->bytes + f->have, STEP, next);
    if (n < (ssize_t)STEP) /* it was cut back just now */
        return n < 0 ? -1 : 0;
    f->have += STEP;
    return cut(f) ? 1 : -1;
}

static void drop(struct image_follow *f)
{
    bool last;

    pthread_mutex_lock(&f->lock);
    last = --f->refs == 0;
    pthread_mutex_unlock(&f->lock);
    if (!last)
        return;
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    close(f->fd);
    free(f->bytes);
    free(f->hint);
    free(f);
}

static struct timespec soon(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += POLL_MS * 1000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

static void *run(void *arg)
{
    struct image_follow *f = arg;
    int more = 0;

    pthread_mutex_lock(&f->lock);
    while (!f->stop && more >= 0) {
        if (more == 0) {
            struct timespec until = soon();
            (void)pthread_cond_timedwait(&f->changed, &f->lock, &until);
        }
        if (f->stop)
            break;
        pthread_mutex_unlock(&f->lock);
        more = follow(f);
        pthread_mutex_lock(&f->lock);
    }
    f->ended = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    drop(f);
    return NULL;
}

struct image_follow *image_follow_start(int fd)
{
    struct image_follow *f = calloc(1, sizeof(*f));
    pthread_t thread;

    if (f == NULL)
        return NULL;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    f->refs = 2;
    f->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    f->bytes = malloc(VINE_CHUNK_MAX + STEP);
    if (f->fd >= 0 && f->bytes != NULL && pthread_create(&thread, NULL, run, f) == 0) {
        pthread_detach(thread);
        return f;
    }
    f->refs = 1;
    drop(f);
    return NULL;
}

size_t image_follow_end(struct image_follow *f, const struct image_hint **hints)
{
    *hints = NULL;
    if (f == NULL)
        return 0;
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_cond_broadcast(&f->changed);
    while (!f->ended)
        pthread_cond_wait(&f->changed, &f->lock);
    pthread_mutex_unlock(&f->lock);
    *hints = f->hint;
    return f->count;
}

size_t image_follow_peek(struct image_follow *f, size_t first, struct image_hint *out,
                         size_t most)
{
    size_t count;

    pthread_mutex_lock(&f->lock);
    count = f->count > first ? f->count - first : 0;
    count = count < most ? count : most;
    if (count > 0)
        memcpy(out, f->hint + first, count * sizeof(*out));
    pthread_mutex_unlock(&f->lock);
    return count;
}

void image_follow_free(struct image_follow *f)
{
    if (f == NULL)
        return;
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    drop(f);
}
