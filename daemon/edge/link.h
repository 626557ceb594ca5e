/* link.h - one authenticated TCP connection on the libuv loop.
 *
 * Joins a socket and a wire session: runs the munge steps on libuv's thread pool, feeds
 * bytes, hands out verified frames, reads bulk straight into the owner's buffer, keeps
 * the order of frames and bulk on the way out. Loop thread only. A link that fails
 * tells its owner once by ops->closed and frees itself afterwards. */
#ifndef VINE_EDGE_LINK_H
#define VINE_EDGE_LINK_H

#include <uv.h>

#include "daemon/edge/outbox.h"
#include "daemon/wire/session.h"
#include "vine/err.h"

struct link;

struct link_ops {
    /* Handshake done: link_send may be used. */
    void (*ready)(void *ctx, struct link *link);
    /* A frame; payload borrowed for the call. With bulk_len > 0 return the buffer of
     * bulk_len bytes that the bulk goes to (owned by the owner, valid until bulk_end
     * or closed); NULL closes the link. Else the return value is ignored. */
    void *(*frame)(void *ctx, struct link *link, const struct session_frame *frame);
    void (*bulk_end)(void *ctx, struct link *link); /* may be NULL if no bulk comes */
    void (*written)(void *ctx, struct link *link);  /* link_queued() has fallen */
    /* Last call. err: why; VINE_OK when the owner closed it. */
    void (*closed)(void *ctx, struct link *link, const struct vine_err *err);
};

/* Start connecting to a numeric address. NULL with *err set: nothing was begun and no
 * op will be called. */
struct link *link_connect(uv_loop_t *loop, const char *addr, uint16_t port,
                          const struct session_config *config,
                          const struct link_ops *ops, void *ctx, struct vine_err *err);

/* Take one pending connection of a listening handle. */
struct link *link_accept(uv_stream_t *listener, const struct session_config *config,
                         const struct link_ops *ops, void *ctx, struct vine_err *err);

/* Queue a frame. -1 (and the link closes soon): not ready, too large, or too much
 * queued. */
int link_send(struct link *link, uint8_t kind, const void *payload, size_t len);

/* The same with bulk; `bulk` is malloc'ed and taken over in every case. */
int link_send_bulk(struct link *link, uint8_t kind, const void *payload, size_t len,
                   void *bulk, uint32_t bulk_len);

/* The same with part of a file as bulk, by sendfile. `file->release` is called in every
 * case, perhaps before this returns. Reading from the disk would hold up the loop: let
 * the bytes be in the page cache. */
int link_send_file(struct link *link, uint8_t kind, const void *payload, size_t len,
                   const struct outbox_file *file);

size_t link_queued(const struct link *link);         /* bytes not yet written */
const char *link_peer_name(const struct link *link); /* after ready */
const char *link_peer_addr(const struct link *link); /* numeric; after ready */
void link_close(struct link *link, const struct vine_err *why); /* why may be NULL */

/* Bind and listen on "addr:port"; the handle is the caller's, to be uv_close'd. */
int link_listen(uv_loop_t *loop, uv_tcp_t *listener, const char *addr, uint16_t port,
                uv_connection_cb on_connection, struct vine_err *err);

/* err from a libuv status. Always -1. */
int vine_err_uv(struct vine_err *err, int status, const char *what);

#endif
