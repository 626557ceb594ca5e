/* blocks.c - a ring of blocks: one thread puts and writes, the others compress.
 *
 * A slot is put at the head, compressed by whoever is free, and written when it is the
 * oldest and ready. Only the thread that puts writes, so files, fragments and what was
 * written need no lock.
 *
 * Twice the same: the blocks of a file are written as they come; at its end they are
 * compared with what was written before, from the first place on that has blocks like
 * them. Where they are there, the end of the image goes back to before the file. */
#include "daemon/squash/blocks.h"

#include <pthread.h>
#include <sqfs/compressor.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 64u /* blocks in work */
#define THREADS_MAX 64u
#define COMPARE_STEP SQUASH_BLOCK
#define NONE UINT32_MAX

enum slot_kind { SLOT_BLOCK, SLOT_TAILS, SLOT_END };

struct slot {
    enum slot_kind kind;
    bool ready;   /* set with the lock held */
    uint8_t *raw; /* SQUASH_BLOCK bytes as they came */
    uint8_t *packed;
    uint32_t len;        /* of raw */
    uint32_t word;       /* of what to write; 0: all zeros, nothing to write */
    const uint8_t *data; /* to write: raw or packed */
    uint64_t sum;        /* of that */
    struct squash_file *file;
    uint32_t index; /* of the block in the file, or of the fragment */
    int error;      /* an SQFS_ERROR */
};

struct written { /* a block in the image */
    uint64_t offset, sum;
    uint32_t word;
    uint32_t same_hash; /* the next in its bucket */
};

struct worker {
    struct blocks *blocks;
    pthread_t thread;
    sqfs_compressor_t *compressor;
};

struct blocks {
    struct disk *disk;
    uint64_t end; /* of what is written */
    struct slot slot[SLOTS];
    uint64_t head, tail; /* slots put and written, counted from the start */

    struct written *written;
    uint32_t count, room;
    uint32_t file_first;      /* of the file being written; NONE: between files */
    uint32_t *bucket;         /* [buckets], a power of two: the first, then same_hash */
    uint32_t buckets, hashed; /* hashed: so many of written */

    struct fragment *fragment;
    uint32_t fragments, fragment_room;

    pthread_mutex_t lock;
    pthread_cond_t work, done;
    uint64_t taken; /* slots that are compressed or being compressed */
    bool ending;
    struct worker worker[THREADS_MAX];
    unsigned workers;
};

bool bytes_all_zero(const uint8_t *bytes, size_t len)
{
    return len == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, len - 1) == 0);
}

/* Finds candidates only: what has the same sum is compared. */
static uint64_t sum_of(const uint8_t *bytes, size_t len)
{
    uint64_t lane[4] = {len, 1, 2, 3}, word[4];
    uint64_t tail = 0;
    size_t at = 0;

    for (; at + sizeof(word) <= len; at += sizeof(word)) {
        memcpy(word, bytes + at, sizeof(word));
        for (int i = 0; i < 4; i++) {
            lane[i] = (lane[i] ^ word[i]) * 0x9e3779b97f4a7c15u;
            lane[i] ^= lane[i] >> 32;
        }
    }
    for (; at < len; at++)
        tail = (tail ^ bytes[at]) * 0x100000001b3u;
    for (int i = 0; i < 4; i++)
        tail = (tail ^ lane[i]) * 0x9e3779b97f4a7c15u;
    return tail ^ tail >> 32;
}

static void pack_slot(sqfs_compressor_t *compressor, struct slot *s)
{
    int32_t packed;

    s->data = s->raw;
    s->word = 0;
    if (s->kind == SLOT_BLOCK && bytes_all_zero(s->raw, s->len))
        return;
    packed = compressor->do_block(compressor, s->raw, s->len, s->packed, SQUASH_BLOCK);
    if (packed < 0) {
        s->error = packed;
        return;
    }
    s->word = packed > 0 ? (uint32_t)packed : s->len | BLOCK_PLAIN;
    if (packed > 0)
        s->data = s->packed;
    s->sum = sum_of(s->data, BLOCK_LEN(s->word));
}

static void *compress(void *arg)
{
    struct worker *w = arg;
    struct blocks *b = w->blocks;

    pthread_mutex_lock(&b->lock);
    for (;;) {
        struct slot *s;

        while (b->taken == b->head && !b->ending)
            pthread_cond_wait(&b->work, &b->lock);
        if (b->ending)
            break;
        s = &b->slot[b->taken++ % SLOTS];
        if (s->ready)
            continue;
        pthread_mutex_unlock(&b->lock);
        pack_slot(w->compressor, s);
        pthread_mutex_lock(&b->lock);
        s->ready = true;
        pthread_cond_signal(&b->done);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

static int start_workers(struct blocks *b, unsigned threads, struct vine_err *err)
{
    for (unsigned i = 0; i < threads && i < THREADS_MAX; i++) {
        struct worker *w = &b->worker[i];

        w->blocks = b;
        w->compressor = disk_compressor(false, err);
        if (w->compressor == NULL)
            return -1;
        if (pthread_create(&w->thread, NULL, compress, w) != 0) {
            sqfs_destroy(w->compressor);
            return vine_err_set(err, VINE_ENOMEM, "cannot start a thread");
        }
        b->workers++;
    }
    return 0;
}

struct blocks *blocks_new(struct disk *disk, unsigned threads, struct vine_err *err)
{
    struct blocks *b = calloc(1, sizeof(*b));

    if (b == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        return NULL;
    }
    b->disk = disk;
    b->end = disk->size;
    b->file_first = NONE;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->work, NULL);
    pthread_cond_init(&b->done, NULL);
    for (unsigned i = 0; i < SLOTS; i++) {
        b->slot[i].raw = malloc(SQUASH_BLOCK);
        b->slot[i].packed = malloc(SQUASH_BLOCK);
        if (b->slot[i].raw == NULL || b->slot[i].packed == NULL) {
            vine_err_set(err, VINE_ENOMEM, "out of memory");
            blocks_free(b);
            return NULL;
        }
    }
    if (start_workers(b, threads, err) < 0) {
        blocks_free(b);
        return NULL;
    }
    return b;
}

/* --- what was written before ---------------------------------------------------- */

static uint32_t *bucket_of(struct blocks *b, const struct written *w)
{
    return &b->bucket[(w->sum ^ w->word) & (b->buckets - 1)];
}

/* All before the file into the table. */
static int hash_written(struct blocks *b, struct vine_err *err)
{
    if (b->buckets < b->room) {
        uint32_t *grown = realloc(b->bucket, b->room * sizeof(*grown));

        if (grown == NULL)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
        b->bucket = grown;
        b->buckets = b->room;
        b->hashed = 0;
        memset(b->bucket, 0xff, b->buckets * sizeof(*b->bucket));
    }
    for (; b->hashed < b->file_first; b->hashed++) {
        struct written *w = &b->written[b->hashed];
        uint32_t *bucket = bucket_of(b, w);

        w->same_hash = *bucket;
        *bucket = b->hashed;
    }
    return 0;
}

/* Does what the file wrote stand at `place`, by its sums? */
static bool sums_equal(const struct blocks *b, uint32_t place)
{
    for (uint32_t i = b->file_first; i < b->count; i++, place++)
        if (b->written[i].sum != b->written[place].sum ||
            b->written[i].word != b->written[place].word)
            return false;
    return true;
}

/* And byte by byte? 1, 0, or -1 with *err set. */
static int bytes_equal(struct blocks *b, uint32_t place, struct vine_err *err)
{
    uint64_t one = b->written[place].offset, other = b->written[b->file_first].offset;
    uint64_t left = b->end - other;
    uint8_t *room = malloc((size_t)2 * COMPARE_STEP);
    int result = 1;

    if (room == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    while (left > 0 && result == 1) {
        size_t step = left < COMPARE_STEP ? (size_t)left : COMPARE_STEP;

        if (disk_read(b->disk, room, step, one, err) < 0 ||
            disk_read(b->disk, room + COMPARE_STEP, step, other, err) < 0)
            result = -1;
        else if (memcmp(room, room + COMPARE_STEP, step) != 0)
            result = 0;
        one += step;
        other += step;
        left -= step;
    }
    free(room);
    return result;
}

/* The first place before the file that has the same blocks in *place, or NONE. */
static int find_same(struct blocks *b, uint32_t *place, struct vine_err *err)
{
    uint32_t limit = NONE;

    *place = NONE;
    if (hash_written(b, err) < 0)
        return -1;
    for (uint32_t i = *bucket_of(b, &b->written[b->file_first]); i != NONE;
         i = b->written[i].same_hash) {
        int same = i < limit && sums_equal(b, i) ? bytes_equal(b, i, err) : 0;

        if (same < 0)
            return -1;
        if (same > 0)
            *place = limit = i; /* buckets go backwards: an earlier one may follow */
    }
    return 0;
}

static int end_file(struct blocks *b, struct squash_file *file, struct vine_err *err)
{
    uint32_t place, own = b->file_first == NONE ? 0 : b->count - b->file_first;

    if (own > 0 && find_same(b, &place, err) < 0)
        return -1;
    if (own > 0) {
        file->start = b->written[place != NONE ? place : b->file_first].offset;
        if (place != NONE)
            b->count = place + own > b->file_first ? place + own : b->file_first;
        b->end =
            b->written[b->count - 1].offset + BLOCK_LEN(b->written[b->count - 1].word);
    }
    b->file_first = NONE;
    return 0;
}

/* --- writing, the oldest first ---------------------------------------------------- */

static int write_block(struct blocks *b, const struct slot *s, struct vine_err *err)
{
    uint32_t len = BLOCK_LEN(s->word);

    if (b->count == b->room) {
        uint32_t room = b->room == 0 ? 1024 : b->room * 2;
        struct written *grown = realloc(b->written, room * sizeof(*grown));

        if (grown == NULL)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
        b->written = grown;
        b->room = room;
    }
    if (disk_write(b->disk, s->data, len, b->end, err) < 0)
        return -1;
    b->written[b->count++] =
        (struct written){.offset = b->end, .sum = s->sum, .word = s->word};
    b->end += len;
    return 0;
}

static int write_slot(struct blocks *b, struct slot *s, struct vine_err *err)
{
    if (s->error != 0)
        return disk_fail(err, s->error, "cannot compress a block");
    if (s->kind == SLOT_END)
        return end_file(b, s->file, err);
    if (s->kind == SLOT_TAILS) {
        b->fragment[s->index] = (struct fragment){.start = b->end, .word = s->word};
        return write_block(b, s, err);
    }
    if (b->file_first == NONE)
        b->file_first = b->count;
    s->file->block[s->index] = s->word;
    if (s->word != 0)
        return write_block(b, s, err);
    s->file->sparse += SQUASH_BLOCK;
    return 0;
}

/* Write the oldest slot, waiting for it if `wait`. *done: there was one. */
static int write_oldest(struct blocks *b, bool wait, bool *done, struct vine_err *err)
{
    struct slot *s = &b->slot[b->tail % SLOTS];

    *done = false;
    if (b->tail == b->head)
        return 0;
    pthread_mutex_lock(&b->lock);
    while (wait && !s->ready)
        pthread_cond_wait(&b->done, &b->lock);
    *done = s->ready;
    pthread_mutex_unlock(&b->lock);
    if (!*done)
        return 0;
    if (write_slot(b, s, err) < 0)
        return -1;
    pthread_mutex_lock(&b->lock);
    s->ready = false;
    b->tail++;
    if (b->taken < b->tail) /* it was put ready, and nobody has passed it */
        b->taken = b->tail;
    pthread_mutex_unlock(&b->lock);
    return 0;
}

static struct slot *next_slot(struct blocks *b, struct vine_err *err)
{
    bool done;

    do {
        if (write_oldest(b, b->head - b->tail == SLOTS, &done, err) < 0)
            return NULL;
    } while (done);
    return &b->slot[b->head % SLOTS];
}

static void put_slot(struct blocks *b, bool ready)
{
    struct slot *s = &b->slot[b->head % SLOTS];

    s->error = 0;
    if (ready)
        s->sum = s->kind == SLOT_END ? 0 : sum_of(s->data, BLOCK_LEN(s->word));
    pthread_mutex_lock(&b->lock);
    s->ready = ready;
    b->head++;
    if (!ready)
        pthread_cond_signal(&b->work);
    pthread_mutex_unlock(&b->lock);
}

uint8_t *blocks_room(struct blocks *b, struct vine_err *err)
{
    struct slot *s = next_slot(b, err);

    return s != NULL ? s->raw : NULL;
}

static int put_block(struct blocks *b, struct squash_file *file, uint32_t len,
                     uint32_t ready_word, struct vine_err *err)
{
    struct slot *s = &b->slot[b->head % SLOTS];

    if (file_add_block(file, 0, err) < 0)
        return -1;
    s->kind = SLOT_BLOCK;
    s->file = file;
    s->index = file->count - 1;
    s->len = len;
    s->word = ready_word;
    s->data = s->raw;
    put_slot(b, ready_word != 0);
    return 0;
}

int blocks_put(struct blocks *b, struct squash_file *file, struct vine_err *err)
{
    return put_block(b, file, SQUASH_BLOCK, 0, err);
}

int blocks_put_ready(struct blocks *b, struct squash_file *file, uint32_t word,
                     struct vine_err *err)
{
    return put_block(b, file, BLOCK_LEN(word), word, err);
}

int blocks_end_file(struct blocks *b, struct squash_file *file, struct vine_err *err)
{
    struct slot *s = next_slot(b, err);

    if (s == NULL)
        return -1;
    s->kind = SLOT_END;
    s->file = file;
    put_slot(b, true);
    return 0;
}

static int add_fragment(struct blocks *b, uint32_t *number, struct vine_err *err)
{
    if (b->fragments == b->fragment_room) {
        uint32_t room = b->fragment_room == 0 ? 256 : b->fragment_room * 2;
        struct fragment *grown = realloc(b->fragment, room * sizeof(*grown));

        if (grown == NULL)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
        b->fragment = grown;
        b->fragment_room = room;
    }
    *number = b->fragments++;
    return 0;
}

static int put_tails(struct blocks *b, uint32_t len, uint32_t ready_word,
                     uint32_t *number, struct vine_err *err)
{
    struct slot *s = &b->slot[b->head % SLOTS];

    if (add_fragment(b, number, err) < 0)
        return -1;
    s->kind = SLOT_TAILS;
    s->index = *number;
    s->len = len;
    s->word = ready_word;
    s->data = s->raw;
    put_slot(b, ready_word != 0);
    return 0;
}

int blocks_put_tails(struct blocks *b, uint32_t len, uint32_t *number,
                     struct vine_err *err)
{
    return put_tails(b, len, 0, number, err);
}

int blocks_put_ready_tails(struct blocks *b, uint32_t word, uint32_t *number,
                           struct vine_err *err)
{
    return put_tails(b, BLOCK_LEN(word), word, number, err);
}

int blocks_finish(struct blocks *b, struct vine_err *err)
{
    bool done;

    do {
        if (write_oldest(b, true, &done, err) < 0)
            return -1;
    } while (done);
    if (b->disk->file.truncate(&b->disk->file, b->end) != 0)
        return vine_err_sys(err, "cannot write the image");
    return 0;
}

const struct fragment *blocks_fragments(const struct blocks *b, uint32_t *count)
{
    *count = b->fragments;
    return b->fragment;
}

void blocks_free(struct blocks *b)
{
    if (b == NULL)
        return;
    pthread_mutex_lock(&b->lock);
    b->ending = true;
    pthread_cond_broadcast(&b->work);
    pthread_mutex_unlock(&b->lock);
    for (unsigned i = 0; i < b->workers; i++) {
        pthread_join(b->worker[i].thread, NULL);
        sqfs_destroy(b->worker[i].compressor);
    }
    pthread_cond_destroy(&b->done);
    pthread_cond_destroy(&b->work);
    pthread_mutex_destroy(&b->lock);
    for (unsigned i = 0; i < SLOTS; i++) {
        free(b->slot[i].raw);
        free(b->slot[i].packed);
    }
    free(b->written);
    free(b->bucket);
    free(b->fragment);
    free(b);
}
