/* frame.c - frame headers, MACs and the byte queue under a session.
 *
 * A manager holds thousands of sessions, most of them idle: buffers start small, grow
 * as bytes really come, and go when they are empty and large. */
#include "daemon/wire/frame.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/wire/bytes.h"

#define QUEUE_FIRST 256  /* fits most frames */
#define QUEUE_KEEP 16384 /* larger buffers are freed when they run empty */

struct frame_header frame_header_get(const uint8_t bytes[FRAME_HEADER_LEN])
{
    struct reader r = {.next = bytes, .left = FRAME_HEADER_LEN};
    struct frame_header h;

    h.len = get_u32(&r);
    h.kind = get_u8(&r);
    h.bulk_len = get_u32(&r);
    return h;
}

void frame_mac(uint8_t *header, size_t payload_len, uint64_t sequence,
               const struct vine_digest *key, struct vine_digest *mac)
{
    uint8_t saved[FRAME_HEADROOM], *start = header - FRAME_HEADROOM;
    struct writer w = {.next = start, .left = FRAME_HEADROOM};

    memcpy(saved, start, FRAME_HEADROOM);
    put_u64(&w, sequence);
    vine_hmac(key->b, sizeof(key->b), start,
              FRAME_HEADROOM + FRAME_HEADER_LEN + payload_len, mac);
    memcpy(start, saved, FRAME_HEADROOM);
}

const uint8_t *frame_queue_bytes(const struct frame_queue *q)
{
    return q->len > 0 ? q->data + FRAME_HEADROOM + q->start : NULL;
}

void frame_queue_taken(struct frame_queue *q, size_t n)
{
    assert(n <= q->len);
    q->start += n;
    q->len -= n;
    if (q->len > 0)
        return;
    q->start = 0;
    if (q->cap > QUEUE_KEEP)
        frame_queue_free(q);
}

void frame_queue_free(struct frame_queue *q)
{
    free(q->data);
    *q = (struct frame_queue){0};
}

/* Room for `more` bytes at the end. */
static int queue_reserve(struct frame_queue *q, size_t more, struct vine_err *err)
{
    size_t cap = q->cap > 0 ? q->cap : QUEUE_FIRST;
    uint8_t *grown;

    if (more > SIZE_MAX / 4 || q->len > SIZE_MAX / 4)
        return vine_err_set(err, VINE_ELIMIT, "queue too long");
    if (q->data != NULL && q->start + q->len + more <= q->cap)
        return 0;
    /* Moving only what half a buffer of takes has paid for keeps the cost linear. */
    if (q->data != NULL && q->start >= q->cap / 2 && q->len + more <= q->cap) {
        memmove(q->data + FRAME_HEADROOM, q->data + FRAME_HEADROOM + q->start, q->len);
        q->start = 0;
        return 0;
    }
    while (cap < q->start + q->len + more)
        cap *= 2;
    grown = realloc(q->data, FRAME_HEADROOM + cap);
    if (grown == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory for %zu bytes of a frame",
                            cap);
    if (q->data == NULL)
        memset(grown, 0, FRAME_HEADROOM);
    q->data = grown;
    q->cap = cap;
    return 0;
}

/* The caller has reserved the room. */
static void queue_append(struct frame_queue *q, const void *bytes, size_t len)
{
    if (len > 0)
        memcpy(q->data + FRAME_HEADROOM + q->start + q->len, bytes, len);
    q->len += len;
}

int frame_queue_add(struct frame_queue *q, const void *bytes, size_t len,
                    struct vine_err *err)
{
    if (queue_reserve(q, len, err) < 0)
        return -1;
    queue_append(q, bytes, len);
    return 0;
}

int frame_queue_put(struct frame_queue *q, const struct frame_header *header,
                    const void *payload, uint64_t sequence,
                    const struct vine_digest *key, struct vine_err *err)
{
    uint8_t head[FRAME_HEADER_LEN], *frame;
    struct writer w = {.next = head, .left = sizeof(head)};
    struct vine_digest mac;

    if (queue_reserve(q, FRAME_HEADER_LEN + (size_t)header->len + FRAME_MAC_LEN, err) <
        0)
        return -1;
    put_u32(&w, header->len);
    put_u8(&w, header->kind);
    put_u32(&w, header->bulk_len);
    frame = q->data + FRAME_HEADROOM + q->start + q->len;
    queue_append(q, head, sizeof(head));
    queue_append(q, payload, header->len);
    if (key != NULL) {
        frame_mac(frame, header->len, sequence, key, &mac);
        queue_append(q, mac.b, sizeof(mac.b));
    }
    return 0;
}
