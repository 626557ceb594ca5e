/* bytes.h - latched cursors over big-endian bytes: the only way binary input is read.
 *
 * After the first get or put that does not fit, `bad` stays set and every get returns
 * zero, so a decoder checks once, at its end: reader_done() is true only if nothing was
 * short and nothing is left over. */
#ifndef VINE_WIRE_BYTES_H
#define VINE_WIRE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct reader {
    const uint8_t *next;
    size_t left;
    bool bad;
};

struct writer {
    uint8_t *next;
    size_t left;
    bool bad;
};

/* `cap` is what dst holds; it is zeroed when the read fails. */
static inline void get_bytes(struct reader *r, void *dst, size_t cap, size_t len)
{
    if (r->bad || len > r->left || len > cap) {
        memset(dst, 0, cap);
        r->bad = true;
        return;
    }
    if (len > 0)
        memcpy(dst, r->next, len);
    r->next += len;
    r->left -= len;
}

static inline uint8_t get_u8(struct reader *r)
{
    uint8_t b;

    get_bytes(r, &b, 1, 1);
    return b;
}

static inline uint16_t get_u16(struct reader *r)
{
    uint8_t b[2];

    get_bytes(r, b, sizeof(b), sizeof(b));
    return (uint16_t)(b[0] << 8 | b[1]);
}

static inline uint32_t get_u32(struct reader *r)
{
    uint8_t b[4];

    get_bytes(r, b, sizeof(b), sizeof(b));
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static inline bool reader_done(const struct reader *r)
{
    return !r->bad && r->left == 0;
}

static inline void put_bytes(struct writer *w, const void *src, size_t len)
{
    if (w->bad || len > w->left) {
        w->bad = true;
        return;
    }
    if (len > 0)
        memcpy(w->next, src, len);
    w->next += len;
    w->left -= len;
}

static inline void put_u8(struct writer *w, uint8_t v)
{
    put_bytes(w, &v, 1);
}

static inline void put_u16(struct writer *w, uint16_t v)
{
    uint8_t b[2] = {(uint8_t)(v >> 8), (uint8_t)v};

    put_bytes(w, b, sizeof(b));
}

static inline void put_u32(struct writer *w, uint32_t v)
{
    uint8_t b[4] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8),
                    (uint8_t)v};

    put_bytes(w, b, sizeof(b));
}

static inline void put_u64(struct writer *w, uint64_t v)
{
    put_u32(w, (uint32_t)(v >> 32));
    put_u32(w, (uint32_t)v);
}

#endif
