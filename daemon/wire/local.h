/* local.h - frames of the local Unix socket, the daemon's side.
 *
 * u32 big-endian length, then one JSON object of that many bytes. Any local user may
 * connect, so nothing here trusts a byte: lengths are capped before memory is taken,
 * memory grows only with bytes that came, and the number of JSON values is bounded
 * before they are parsed. PROTOCOL.md lists requests and events; client.c is the other
 * side. */
#ifndef VINE_WIRE_LOCAL_H
#define VINE_WIRE_LOCAL_H

#include <jansson.h>
#include <stddef.h>

#include "vine/err.h"
#include "vine/limits.h"

#define LOCAL_FRAME_MAX (1u << 20)
#define LOCAL_VALUES_MAX (4u * VINE_NODES_MAX) /* a request may name all nodes */

struct local_decoder;

/* frame_max: what this client may send in one frame; 0 or more than LOCAL_FRAME_MAX:
 * LOCAL_FRAME_MAX. NULL: out of memory. */
struct local_decoder *local_decoder_new(size_t frame_max);
void local_decoder_free(struct local_decoder *d);

/* Take bytes up to the end of one frame; then *out is its object (caller json_decref()s
 * it), else *out is NULL and all bytes were taken. Call again while *consumed < len.
 * -1: malformed; the error is latched, send it and close. */
int local_feed(struct local_decoder *d, const void *buf, size_t len, size_t *consumed,
               json_t **out, struct vine_err *err);

/* One event as a frame; caller frees *out. VINE_ELIMIT: over LOCAL_FRAME_MAX. */
int local_encode(const json_t *object, char **out, size_t *len, struct vine_err *err);

#endif
