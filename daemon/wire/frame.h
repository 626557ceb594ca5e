/* frame.h - frames of a session as bytes: header, payload, MAC; and their queue.
 *
 * u32 payload length, u8 kind, u32 bulk length, payload, and once keys exist a 32-byte
 * HMAC-SHA-256 over u64 sequence number, header and payload. Big-endian. Both buffers
 * keep FRAME_HEADROOM bytes before a frame, so that the sequence number can stand
 * there while the MAC is computed and nothing is copied. */
#ifndef VINE_WIRE_FRAME_H
#define VINE_WIRE_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vine/digest.h"
#include "vine/err.h"

#define FRAME_HEADER_LEN 9
#define FRAME_HEADROOM 8
#define FRAME_MAC_LEN VINE_DIGEST_LEN

struct frame_header {
    uint32_t len; /* of the payload */
    uint8_t kind;
    uint32_t bulk_len;
};

struct frame_header frame_header_get(const uint8_t bytes[FRAME_HEADER_LEN]);

/* MAC of the frame whose header is at `header`. Overwrites the FRAME_HEADROOM bytes
 * before it and puts them back. */
void frame_mac(uint8_t *header, size_t payload_len, uint64_t sequence,
               const struct vine_digest *key, struct vine_digest *mac);

/* Bytes that grow at the end and are taken from the front. */
struct frame_queue {
    uint8_t *data; /* FRAME_HEADROOM bytes, then cap bytes */
    size_t start, len, cap;
};

const uint8_t *frame_queue_bytes(const struct frame_queue *q);
void frame_queue_taken(struct frame_queue *q, size_t n);
void frame_queue_free(struct frame_queue *q);

/* Append bytes. -1: out of memory, queue unchanged. */
int frame_queue_add(struct frame_queue *q, const void *bytes, size_t len,
                    struct vine_err *err);

/* Append a frame; key NULL: without MAC. -1: out of memory, queue unchanged. */
int frame_queue_put(struct frame_queue *q, const struct frame_header *header,
                    const void *payload, uint64_t sequence,
                    const struct vine_digest *key, struct vine_err *err);

#endif
