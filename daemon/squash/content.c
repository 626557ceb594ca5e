/* content.c - see content.h. */
#include "daemon/squash/content.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/squash/tails.h"

struct content {
    struct blocks *blocks;
    struct tails *tails;
    struct squash_file *file; /* NULL: between files */
    uint64_t left;            /* of the file */
    uint8_t *room;            /* of its block or tail; NULL: not asked for yet */
    uint32_t len, used;       /* of that */
    bool has_blocks;          /* that were put */
};

static unsigned processors(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
}

struct content *content_new(struct disk *disk, unsigned threads, struct vine_err *err)
{
    struct content *c = calloc(1, sizeof(*c));

    if (c == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        return NULL;
    }
    c->blocks = blocks_new(disk, threads != 0 ? threads : processors(), err);
    c->tails = c->blocks != NULL ? tails_new(c->blocks, err) : NULL;
    if (c->tails != NULL)
        return c;
    content_free(c);
    return NULL;
}

int content_begin(struct content *c, struct squash_file *file, uint64_t size,
                  struct vine_err *err)
{
    if (size > SQUASH_FILE_MAX)
        return vine_err_set(err, VINE_ELIMIT, "a file of %llu bytes is too large",
                            (unsigned long long)size);
    file->size = size;
    c->file = file;
    c->left = size;
    c->room = NULL;
    c->used = 0;
    c->has_blocks = false;
    return 0;
}

/* c->room for the next bytes of the file. */
static int ensure_room(struct content *c, struct vine_err *err)
{
    if (c->room != NULL)
        return 0;
    c->used = 0;
    c->len = c->left < SQUASH_BLOCK ? (uint32_t)c->left : SQUASH_BLOCK;
    c->room =
        c->len < SQUASH_BLOCK ? tails_room(c->tails) : blocks_room(c->blocks, err);
    return c->room == NULL ? -1 : 0;
}

/* `step` more bytes are in the room. */
static int took(struct content *c, size_t step, struct vine_err *err)
{
    c->used += (uint32_t)step;
    c->left -= step;
    if (c->used < c->len)
        return 0;
    c->room = NULL;
    if (c->len < SQUASH_BLOCK)
        return tails_put(c->tails, c->file, c->len, err);
    c->has_blocks = true;
    return blocks_put(c->blocks, c->file, err);
}

static int check_left(const struct content *c, uint64_t len, struct vine_err *err)
{
    if (c->file == NULL || len > c->left)
        return vine_err_set(err, VINE_EINVAL, "more bytes than the file has");
    return 0;
}

int content_add(struct content *c, const void *bytes, size_t len, struct vine_err *err)
{
    const uint8_t *next = bytes;

    if (check_left(c, len, err) < 0)
        return -1;
    while (len > 0) {
        size_t step;

        if (ensure_room(c, err) < 0)
            return -1;
        step = c->len - c->used < len ? c->len - c->used : len;
        memcpy(c->room + c->used, next, step);
        if (took(c, step, err) < 0)
            return -1;
        next += step;
        len -= step;
    }
    return 0;
}

int content_add_zeros(struct content *c, uint64_t len, struct vine_err *err)
{
    if (check_left(c, len, err) < 0)
        return -1;
    while (len > 0) {
        uint64_t step;

        if (c->room == NULL && len >= SQUASH_BLOCK) { /* a hole needs no room */
            if (file_add_block(c->file, 0, err) < 0)
                return -1;
            c->file->sparse += SQUASH_BLOCK;
            c->left -= SQUASH_BLOCK;
            len -= SQUASH_BLOCK;
            continue;
        }
        if (ensure_room(c, err) < 0)
            return -1;
        step = c->len - c->used < len ? c->len - c->used : len;
        memset(c->room + c->used, 0, step);
        if (took(c, step, err) < 0)
            return -1;
        len -= step;
    }
    return 0;
}

int content_end(struct content *c, struct vine_err *err)
{
    struct squash_file *file = c->file;

    if (content_add_zeros(c, c->left, err) < 0) /* a hole at the end */
        return -1;
    c->file = NULL;
    return c->has_blocks ? blocks_end_file(c->blocks, file, err) : 0;
}

int content_same(struct content *c, struct squash_file *file, struct base *base,
                 const struct squash_file *from, struct vine_err *err)
{
    uint64_t offset = from->start;
    uint32_t whole = (uint32_t)(from->size / SQUASH_BLOCK);

    if (content_begin(c, file, from->size, err) < 0)
        return -1;
    for (uint32_t i = 0; i < whole; i++) {
        uint32_t word = from->block[i];

        if (word == 0) {
            if (content_add_zeros(c, SQUASH_BLOCK, err) < 0)
                return -1;
            continue;
        }
        c->room = blocks_room(c->blocks, err);
        if (c->room == NULL || base_read(base, offset, word, c->room, err) < 0 ||
            blocks_put_ready(c->blocks, file, word, err) < 0)
            return -1;
        c->room = NULL;
        c->has_blocks = true;
        c->left -= SQUASH_BLOCK;
        offset += BLOCK_LEN(word);
    }
    if (from->tail_block != NO_TAIL) {
        if (tails_put_same(c->tails, file, base, from, err) < 0)
            return -1;
        c->left = 0;
    }
    return content_end(c, err); /* zeros, if there is more */
}

int content_finish(struct content *c, struct vine_err *err)
{
    if (tails_finish(c->tails, err) < 0)
        return -1;
    return blocks_finish(c->blocks, err);
}

const struct fragment *content_fragments(const struct content *c, uint32_t *count)
{
    return blocks_fragments(c->blocks, count);
}

void content_free(struct content *c)
{
    if (c == NULL)
        return;
    tails_free(c->tails);
    blocks_free(c->blocks);
    free(c);
}
