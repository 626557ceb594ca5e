/* session.h - the protocol state of one TCP connection: handshake, frames, MACs.
 *
 * Bytes in, bytes out: no sockets, clocks or threads. PROTOCOL.md has the bytes. The
 * edge owns the socket and does this:
 *
 *   after session_new and after each call that may queue output:
 *       write session_output(), then session_output_taken()
 *   when session_needs_work():
 *       stop reading, run session_work() on a worker thread (it asks munged and blocks;
 *       nothing else may touch the session meanwhile), then go on
 *   for bytes read from the socket:
 *       while (len > 0) {
 *           if (session_bulk_left(s) > 0)
 *               take up to that many into its own buffer; session_bulk_take(s, n);
 *           else if (session_feed(s, buf, len, &used, &err) < 0)
 *               write what session_output() still has, once; close
 *           while (session_next(s, &frame))
 *               handle it (at most one comes out of each feed)
 *       }
 *
 * A session that has seen a violation is dead for good: every later call that can fail
 * gives the same error. It may still have output that tells the peer why.
 * The handshake has no clock here: the edge closes what is not ready in time. */
#ifndef VINE_WIRE_SESSION_H
#define VINE_WIRE_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/wire/auth.h"
#include "vine/err.h"
#include "vine/limits.h"

#define SESSION_VERSION 1
#define SESSION_MANAGER_NAME "manager" /* the name every manager answers to */
#define SESSION_KIND_MAX 0xef          /* kinds 1..this are the application's */

/* Bodies of the data service are small: chunks and manifests travel as bulk. */
#define SESSION_DATA_FRAME_MAX 256

/* A whole frame before the peer is known. A munge credential is below 1 KiB. */
#define SESSION_HANDSHAKE_MAX 8192

/* Queued but unwritten bytes: a peer that does not read is cut off here. */
#define SESSION_OUTPUT_MAX (4u * VINE_FRAME_MAX)

enum session_role { SESSION_CONNECT, SESSION_ACCEPT };

enum session_service {
    SESSION_CONTROL = 1, /* node <-> manager, JSON messages, no bulk */
    SESSION_DATA = 2,    /* node <-> node, binary frames with bulk */
};

struct session_config {
    enum session_role role;
    enum session_service service;
    const char
        *self; /* this daemon's name; the manager: SESSION_MANAGER_NAME. Copied */
    const char *peer; /* connect: the name the peer must prove, copied; accept: NULL */
    uint32_t frame_max; /* largest payload of a frame; 0: VINE_FRAME_MAX on CONTROL,
                           SESSION_DATA_FRAME_MAX on DATA */
    uint32_t bulk_max;  /* largest bulk; 0: none on CONTROL, VINE_CHUNK_MAX on DATA */
    const struct auth_ops *auth; /* NULL: auth_munge */
    void *auth_ctx; /* for auth_munge the socket's path or NULL; borrowed */
};

struct session_frame {
    uint8_t kind;
    uint32_t bulk_len;      /* raw bytes that follow in the stream */
    const uint8_t *payload; /* borrowed until the next session_feed or session_free */
    size_t len;
};

struct session;

/* NULL with *err set: bad names or no memory. */
struct session *session_new(const struct session_config *config, struct vine_err *err);
void session_free(struct session *s); /* wipes the keys */

/* A munge step is due: run session_work() before feeding more. A connecting session is
 * born with this true. */
bool session_needs_work(const struct session *s);

/* Do it. Blocks; may run on another thread. -1: dead. */
int session_work(struct session *s, struct vine_err *err);

/* Handshake done on both sides: frames may be sent. Accepting sessions become ready
 * only when the peer has proved that it holds the keys. */
bool session_ready(const struct session *s);

/* Connect: the configured name. Accept: what the peer proved; NULL before ready. */
const char *session_peer_name(const struct session *s);

/* Take bytes up to the end of one frame. *consumed may be less than len; it is 0 while
 * a frame waits for session_next or bulk is due. A frame is verified before it shows.
 * -1: dead, close the connection. */
int session_feed(struct session *s, const void *buf, size_t len, size_t *consumed,
                 struct vine_err *err);

/* The next verified application frame, once; false: none. */
bool session_next(struct session *s, struct session_frame *frame);

/* Bytes of bulk that come next in the stream, after session_next gave their frame; the
 * edge takes them itself and says so. Bulk is not authenticated here: check it against
 * its digest. n <= session_bulk_left(). */
uint32_t session_bulk_left(const struct session *s);
void session_bulk_take(struct session *s, uint32_t n);

/* Queue a frame. With bulk_len > 0 the edge must write exactly so many raw bytes after
 * the output queued so far, and before anything queued later; it says so by
 * session_bulk_sent (when they are handed to its own write queue), and until then
 * session_send refuses (VINE_EINVAL, the session lives on). VINE_ELIMIT over frame_max
 * or bulk_max (lives on) or SESSION_OUTPUT_MAX (dead). */
int session_send(struct session *s, uint8_t kind, const void *payload, size_t len,
                 uint32_t bulk_len, struct vine_err *err);
uint32_t session_bulk_due(const struct session *s);
void session_bulk_sent(struct session *s, uint32_t n);

/* Bytes to write, contiguous; *len 0 and NULL: none. Borrowed until the next call on
 * this session. Then say how many went out. */
const uint8_t *session_output(const struct session *s, size_t *len);
void session_output_taken(struct session *s, size_t n);

/* Why it is dead; code VINE_OK: it is not. */
const struct vine_err *session_error(const struct session *s);

#endif
