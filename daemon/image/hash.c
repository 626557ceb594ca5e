/* hash.c - one thread finds where chunks end, the others hash what it has passed.
 *
 * Cutting is a chain, each chunk begins where the one before ended, and costs about
 * what hashing does. So the cutter runs ahead and tells how many chunks have ended;
 * hashers take them one by one and read them again from the page cache, where a new
 * image is. When the cutter is done it hashes as well.
 *
 * Where a chunk begins that a follower has hashed (follow.h), and its bytes are still
 * the same, it need not be hashed: where a chunk ends depends on nothing but its own
 * bytes. */
#include "daemon/image/hash.h"

#include <pthread.h>
#include <string.h>

#include "daemon/image/bytes.h"

#define STEP (1u << 20)
#define ONE_STEP (128u << 10)
#define THREADS_MAX 8u

struct hashing {
    int fd;
    uint64_t size;
    struct manifest_builder *cutter;
    struct manifest made; /* whole once cut is set */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct manifest_chunk *chunk; /* those that have ended, [ended of room] */
    uint32_t ended, room, next;
    bool cut; /* no more will come */
    struct vine_err err;
};

static void give_up(struct hashing *h, const struct vine_err *err)
{
    pthread_mutex_lock(&h->lock);
    (void)vine_err_set(&h->err, err->code, "%s", err->text);
    h->cut = true;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
}

/* A chunk that has ended and nobody has taken; false: none will come. */
static bool take(struct hashing *h, uint32_t *index, struct manifest_chunk *chunk)
{
    bool found;

    pthread_mutex_lock(&h->lock);
    while (h->next == h->ended && !h->cut)
        pthread_cond_wait(&h->changed, &h->lock);
    found = h->next < h->ended && h->err.code == VINE_OK;
    if (found) {
        *index = h->next++;
        *chunk = h->chunk[*index];
    }
    pthread_mutex_unlock(&h->lock);
    return found;
}

static int read_part(const struct hashing *h, void *buf, size_t len, uint64_t offset,
                     struct vine_err *err)
{
    ssize_t n = pread_whole(h->fd, buf, len, offset);

    if (n < 0)
        return vine_err_sys(err, "cannot read the new image");
    if ((size_t)n < len)
        return vine_err_set(err, VINE_ECORRUPT, "the new image became shorter");
    return 0;
}

static void *hash_chunks(void *arg)
{
    struct hashing *h = arg;
    auto_free char *buf = malloc(VINE_CHUNK_MAX);
    struct manifest_chunk chunk;
    struct vine_err err = {0};
    uint32_t index;

    if (buf == NULL) {
        vine_err_set(&err, VINE_ENOMEM, "out of memory");
        give_up(h, &err);
        return NULL;
    }
    while (take(h, &index, &chunk)) {
        if (read_part(h, buf, chunk.length, chunk.offset, &err) < 0) {
            give_up(h, &err);
            return NULL;
        }
        vine_digest_of(buf, chunk.length, &chunk.digest);
        pthread_mutex_lock(&h->lock);
        h->chunk[index].digest = chunk.digest;
        pthread_mutex_unlock(&h->lock);
    }
    return NULL;
}

/* Tell the hashers of the cutter's first `count` chunks. */
static int announce(struct hashing *h, const struct manifest_chunk *chunks,
                    uint32_t count, struct vine_err *err)
{
    int result = 0;

    pthread_mutex_lock(&h->lock);
    if (count > h->room) {
        uint32_t room = count > 2 * h->room ? count : 2 * h->room;
        void *grown = realloc(h->chunk, room * sizeof(*h->chunk));
        if (grown == NULL) {
            result = vine_err_set(err, VINE_ENOMEM, "out of memory");
        } else {
            h->chunk = grown;
            h->room = room;
        }
    }
    for (; result == 0 && h->ended < count; h->ended++)
        h->chunk[h->ended] = chunks[h->ended];
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    return result;
}

static int cut_file(struct hashing *h, struct vine_err *err)
{
    auto_free char *buf = malloc(STEP);
    const struct manifest_chunk *chunks;

    if (buf == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    for (uint64_t at = 0; at < h->size;) {
        size_t len = h->size - at < STEP ? (size_t)(h->size - at) : STEP;
        uint32_t count;

        if (read_part(h, buf, len, at, err) < 0 ||
            manifest_builder_add(h->cutter, buf, len, err) < 0)
            return -1;
        count = manifest_builder_chunks(h->cutter, &chunks);
        if (count > h->ended && announce(h, chunks, count, err) < 0)
            return -1;
        at += len;
    }
    if (manifest_builder_end(h->cutter, &h->made, err) < 0 ||
        announce(h, h->made.chunk, h->made.count, err) < 0)
        return -1;
    pthread_mutex_lock(&h->lock);
    h->cut = true;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    return 0;
}

static void run(struct hashing *h, unsigned threads)
{
    pthread_t thread[THREADS_MAX];
    struct vine_err err = {0};
    unsigned started = 0;

    while (started + 1 < threads &&
           pthread_create(&thread[started], NULL, hash_chunks, h) == 0)
        started++;
    if (cut_file(h, &err) < 0)
        give_up(h, &err);
    (void)hash_chunks(h);
    while (started > 0)
        pthread_join(thread[--started], NULL);
}

static int hash_parallel(int fd, uint64_t size, unsigned threads, struct manifest *out,
                         struct vine_err *err)
{
    struct hashing h = {.fd = fd, .size = size};
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    int result = -1;

    if (threads == 0)
        threads = online > 0 ? (unsigned)online : 1;
    h.cutter = manifest_builder_new_cutter();
    if (h.cutter == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    pthread_mutex_init(&h.lock, NULL);
    pthread_cond_init(&h.changed, NULL);
    run(&h, threads < THREADS_MAX ? threads : THREADS_MAX);
    if (h.err.code != VINE_OK) {
        (void)vine_err_set(err, h.err.code, "%s", h.err.text);
    } else {
        for (uint32_t i = 0; i < h.made.count; i++)
            h.made.chunk[i].digest = h.chunk[i].digest;
        result = manifest_seal(&h.made, err);
    }
    if (result == 0) {
        *out = h.made;
        h.made = (struct manifest){0};
    }
    manifest_free(&h.made);
    manifest_builder_free(h.cutter);
    free(h.chunk);
    pthread_cond_destroy(&h.changed);
    pthread_mutex_destroy(&h.lock);
    return result;
}

struct hinted { /* one pass over the file, chunk by chunk */
    int fd;
    uint64_t at, size;
    const struct image_hint *hint, *hints_end; /* the next one at or behind `at` */
    uint8_t *bytes;                            /* VINE_CHUNK_MAX */
    struct manifest made;
    uint32_t room;
};

static int hinted_read(const struct hinted *p, size_t skip, size_t len,
                       struct vine_err *err)
{
    const struct hashing h = {.fd = p->fd};

    return read_part(&h, p->bytes + skip, len, p->at + skip, err);
}

static int hinted_append(struct hinted *p, const struct manifest_chunk *chunk,
                         struct vine_err *err)
{
    struct manifest *m = &p->made;

    if (m->count == VINE_CHUNKS_MAX)
        return vine_err_set(err, VINE_ELIMIT, "object has more than %u chunks",
                            VINE_CHUNKS_MAX);
    if (m->count == p->room) {
        uint32_t room = p->room > 0 ? 2 * p->room : 256;
        void *grown = realloc(m->chunk, room * sizeof(*m->chunk));
        if (grown == NULL)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
        m->chunk = grown;
        p->room = room;
    }
    m->chunk[m->count++] = *chunk;
    m->size += chunk->length;
    p->at += chunk->length;
    return 0;
}

/* The chunk at p->at as a hint has it. 1: taken, 0: no such hint, or it is wrong. */
static int take_hint(struct hinted *p, struct vine_err *err)
{
    const struct manifest_chunk *chunk;

    while (p->hint < p->hints_end && p->hint->chunk.offset < p->at)
        p->hint++;
    if (p->hint == p->hints_end || p->hint->chunk.offset != p->at)
        return 0;
    chunk = &p->hint->chunk;
    if (chunk->length > p->size - p->at)
        return 0;
    if (hinted_read(p, 0, chunk->length, err) < 0)
        return -1;
    if (image_sum(p->bytes, chunk->length) != p->hint->sum)
        return 0;
    return hinted_append(p, chunk, err) < 0 ? -1 : 1;
}

/* Read on until the chunk at p->at has ended; most are much shorter than they may be.
 */
static int find_end(struct hinted *p, struct manifest_builder *cutter, uint32_t *length,
                    struct vine_err *err)
{
    uint64_t left = p->size - p->at;
    size_t len = left < VINE_CHUNK_MAX ? (size_t)left : VINE_CHUNK_MAX, have = 0;
    const struct manifest_chunk *ended;

    while (have < len) {
        size_t step = len - have < ONE_STEP ? len - have : ONE_STEP;
        if (hinted_read(p, have, step, err) < 0 ||
            manifest_builder_add(cutter, p->bytes + have, step, err) < 0)
            return -1;
        have += step;
        if (manifest_builder_chunks(cutter, &ended) > 0) {
            *length = ended[0].length;
            return 0;
        }
    }
    *length = (uint32_t)len; /* the last of the file */
    return 0;
}

static int hash_one(struct hinted *p, struct vine_err *err)
{
    struct manifest_builder *cutter = manifest_builder_new_cutter();
    struct manifest_chunk chunk = {.offset = p->at};
    int result;

    if (cutter == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    result = find_end(p, cutter, &chunk.length, err);
    if (result == 0) {
        vine_digest_of(p->bytes, chunk.length, &chunk.digest);
        result = hinted_append(p, &chunk, err);
    }
    manifest_builder_free(cutter);
    return result;
}

static int hash_hinted(struct hinted *p, struct vine_err *err)
{
    while (p->at < p->size) {
        int taken = take_hint(p, err);
        if (taken < 0 || (taken == 0 && hash_one(p, err) < 0))
            return -1;
    }
    return manifest_finish(&p->made, err);
}

int image_hash_file(int fd, uint64_t size, const struct image_hash_options *options,
                    struct manifest *out, struct vine_err *err)
{
    const struct image_hint *hints;
    size_t count = image_follow_end(options->follow, &hints);
    struct hinted pass = {.fd = fd, .size = size, .hint = hints};
    int result;

    /* With hints for less than half of it all processors are faster. */
    if (count == 0 || hints[count - 1].chunk.offset < size / 2)
        return hash_parallel(fd, size, options->threads, out, err);
    pass.hints_end = hints + count;
    pass.bytes = malloc(VINE_CHUNK_MAX);
    if (pass.bytes == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    result = hash_hinted(&pass, err);
    if (result == 0)
        *out = pass.made;
    else
        manifest_free(&pass.made);
    free(pass.bytes);
    return result;
}
