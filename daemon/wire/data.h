/* data.h - bodies of the data service: who wants which chunks, and what comes back.
 *
 * Big-endian, fixed length a kind. A tag ties answers to their request; the requester
 * chooses it. Bytes of chunks and manifests are bulk, which follows the frame. */
#ifndef VINE_WIRE_DATA_H
#define VINE_WIRE_DATA_H

#include <stddef.h>
#include <stdint.h>

#include "vine/digest.h"
#include "vine/err.h"
#include "vine/limits.h"

enum data_kind { /* session frame kinds; apart from MESSAGE_KIND on purpose */
                 DATA_GET = 0x10,   /* tag digest first_chunk count: CHUNKs, in order */
                 DATA_GET_MANIFEST, /* tag digest: MANIFESTs in order of offset */
                 DATA_CHUNK,    /* tag chunk count; bulk: all bytes of these chunks */
                 DATA_MANIFEST, /* tag total offset; bulk: that part of the canonical
                                   form */
                 DATA_REFUSED,  /* tag code: the request ends here */
                 DATA_ASK,      /* tag digest first_chunk count: HEREs, in order */
                 DATA_HERE,     /* tag chunk count: a CHUNK could come now */
                 DATA_KINDS_END
};

/* Canonical form of the largest manifest (manifest.h). */
#define DATA_MANIFEST_MIN 16u
#define DATA_MANIFEST_MAX (DATA_MANIFEST_MIN + 36u * VINE_CHUNKS_MAX)

#define DATA_BODY_MAX (4 + VINE_DIGEST_LEN + 4 + 4) /* GET is the longest */

struct data_frame {
    enum data_kind kind;
    uint32_t tag;
    struct vine_digest digest; /* GET, GET_MANIFEST, ASK */
    uint32_t first_chunk;      /* GET, ASK */
    uint32_t chunk;            /* CHUNK, HERE: the first of them */
    uint32_t count;            /* with either; at least 1, all below VINE_CHUNKS_MAX */
    uint32_t total, offset;    /* MANIFEST: bytes of the whole, where this part goes */
    enum vine_code code;       /* REFUSED, never VINE_OK */
    uint32_t bulk_len;         /* CHUNK, MANIFEST: 1 to VINE_CHUNK_MAX; else 0 */
};

/* Body of f to out; *len bytes. f->bulk_len goes to session_send. VINE_EINVAL: a field
 * is out of its range. */
int data_encode(const struct data_frame *f, uint8_t out[DATA_BODY_MAX], size_t *len,
                struct vine_err *err);

/* kind, payload and bulk_len are those of the session frame. *f untouched on error. */
int data_decode(uint8_t kind, const uint8_t *buf, size_t len, uint32_t bulk_len,
                struct data_frame *f, struct vine_err *err);

const char *data_kind_name(unsigned kind); /* "get", ...; "unknown" */

#endif
