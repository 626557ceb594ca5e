/* tails.c - a block is filled until the next tail does not fit.
 *
 * Which tails are the same is told by keyed sums: the bytes of those before are
 * compressed and written, and a sum that can be met on purpose would let one file stand
 * in for another.
 *
 * With a base: tails come in the order of the tree, so mostly the open block fills with
 * the tails of one block of the base, in their order. If it has them all, and nothing
 * else, when it is full, it need not be compressed: the same bytes are there. */
#include "daemon/squash/tails.h"

#include <stdlib.h>
#include <string.h>

#include "vine/digest.h"

#define ROOM_FIRST 4096u
#define NONE UINT32_MAX

struct known { /* a tail that is kept */
    struct vine_digest digest;
    uint32_t len, block, offset;
    uint32_t same_hash;
};

struct tails {
    struct blocks *blocks;
    struct vine_sums *sums;
    /* The open block, and behind its end room for the tail that is to come. */
    uint8_t *bytes;
    uint32_t used;
    uint32_t block; /* its number */
    /* So far the open block is that of the base; NONE: it is not. */
    struct base *base;
    uint32_t base_block;

    struct known *known;
    uint32_t count, room;
    uint32_t *bucket; /* [room], a power of two */
};

static uint32_t *bucket_of(const struct tails *t, const struct vine_digest *digest)
{
    uint32_t hash;

    memcpy(&hash, digest->b, sizeof(hash));
    return &t->bucket[hash & (t->room - 1)];
}

static void put_in_bucket(struct tails *t, uint32_t index)
{
    uint32_t *bucket = bucket_of(t, &t->known[index].digest);

    t->known[index].same_hash = *bucket;
    *bucket = index;
}

static int make_room(struct tails *t, struct vine_err *err)
{
    uint32_t room = t->room == 0 ? ROOM_FIRST : t->room * 2;
    struct known *known;
    uint32_t *bucket;

    if (t->count < t->room)
        return 0;
    known = realloc(t->known, room * sizeof(*known));
    if (known != NULL)
        t->known = known;
    bucket = known == NULL ? NULL : realloc(t->bucket, room * sizeof(*bucket));
    if (bucket == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    t->bucket = bucket;
    t->room = room;
    memset(bucket, 0xff, room * sizeof(*bucket));
    for (uint32_t i = 0; i < t->count; i++)
        put_in_bucket(t, i);
    return 0;
}

static struct known *find(const struct tails *t, const struct vine_digest *digest,
                          uint32_t len)
{
    uint32_t i = t->room == 0 ? NONE : *bucket_of(t, digest);

    while (i != NONE &&
           (t->known[i].len != len || !vine_digest_equal(&t->known[i].digest, digest)))
        i = t->known[i].same_hash;
    return i == NONE ? NULL : &t->known[i];
}

struct tails *tails_new(struct blocks *blocks, struct vine_err *err)
{
    struct tails *t = calloc(1, sizeof(*t));

    if (t != NULL) {
        t->bytes = malloc((size_t)2 * SQUASH_BLOCK);
        t->sums = vine_sums_new();
    }
    if (t == NULL || t->bytes == NULL || t->sums == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        tails_free(t);
        return NULL;
    }
    t->blocks = blocks;
    t->base_block = NONE;
    return t;
}

uint8_t *tails_room(struct tails *t)
{
    return t->bytes + t->used;
}

/* Put the open block. The tail in the room behind it, `len` bytes, moves to the front.
 */
static int put_open(struct tails *t, uint32_t len, struct vine_err *err)
{
    uint8_t *room = blocks_room(t->blocks, err);
    uint32_t number, word;

    if (room == NULL)
        return -1;
    if (t->base_block != NONE && base_tails_are(t->base, t->base_block, t->used)) {
        if (base_read_tails(t->base, t->base_block, room, &word, err) < 0 ||
            blocks_put_ready_tails(t->blocks, word, &number, err) < 0)
            return -1;
    } else {
        memcpy(room, t->bytes, t->used);
        if (blocks_put_tails(t->blocks, t->used, &number, err) < 0)
            return -1;
    }
    memmove(t->bytes, t->bytes + t->used, len);
    t->used = 0;
    t->block = number + 1;
    return 0;
}

/* The tail of `len` bytes in the room; `from`: the file of the base that has it too. */
static int put_tail(struct tails *t, struct squash_file *file, uint32_t len,
                    const struct squash_file *from, struct vine_err *err)
{
    struct vine_digest digest;
    const struct known *known;

    if (bytes_all_zero(tails_room(t), len)) {
        file->sparse += len;
        return file_add_block(file, 0, err);
    }
    vine_sums_of(t->sums, tails_room(t), len, &digest);
    known = find(t, &digest, len);
    if (known == NULL) {
        if (t->used + len > SQUASH_BLOCK && put_open(t, len, err) < 0)
            return -1;
        if (make_room(t, err) < 0)
            return -1;
        if (t->used == 0)
            t->base_block = from != NULL ? from->tail_block : NONE;
        if (from == NULL || from->tail_block != t->base_block ||
            from->tail_offset != t->used)
            t->base_block = NONE;
        t->known[t->count] = (struct known){
            .digest = digest, .len = len, .block = t->block, .offset = t->used};
        put_in_bucket(t, t->count);
        known = &t->known[t->count++];
        t->used += len;
    }
    file->tail_block = known->block;
    file->tail_offset = known->offset;
    return 0;
}

int tails_put(struct tails *t, struct squash_file *file, uint32_t len,
              struct vine_err *err)
{
    return put_tail(t, file, len, NULL, err);
}

int tails_put_same(struct tails *t, struct squash_file *file, struct base *base,
                   const struct squash_file *from, struct vine_err *err)
{
    t->base = base;
    if (base_tail(base, from, tails_room(t), err) < 0)
        return -1;
    return put_tail(t, file, from->size % SQUASH_BLOCK, from, err);
}

int tails_finish(struct tails *t, struct vine_err *err)
{
    return t->used > 0 ? put_open(t, 0, err) : 0;
}

void tails_free(struct tails *t)
{
    if (t == NULL)
        return;
    vine_sums_free(t->sums);
    free(t->bytes);
    free(t->known);
    free(t->bucket);
    free(t);
}
