/* manifest.h - what an object's bytes are: length and SHA-256 of each chunk.
 *
 * Canonical binary form (big-endian): "VNM1" for an image, "VNF1" for a file of data;
 * u64 size, u32 count, count x { u32 length, 32-byte SHA-256 }. The object's digest is
 * the SHA-256 of this form, so no digest ever names both: what a user gives as data
 * cannot come to be mounted as an image.
 * Chunks are cut where a rolling gear hash says, so lengths vary between
 * VINE_CHUNK_MIN and VINE_CHUNK_MAX (the last may be shorter). No system calls. */
#ifndef VINE_MANIFEST_H
#define VINE_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vine/digest.h"
#include "vine/err.h"
#include "vine/limits.h"

struct manifest_chunk {
    uint64_t offset; /* derived, not stored */
    uint32_t length; /* bytes */
    struct vine_digest digest;
};

struct manifest {
    uint64_t size; /* bytes of the object = sum of lengths */
    bool file;     /* of data, as it is: nothing that could be mounted */
    uint32_t count;
    struct manifest_chunk *chunk;
    struct vine_digest digest; /* of the canonical form */
    /* Derived: how many pieces, and the first chunk of each data piece; then count. */
    uint32_t pieces;
    uint32_t *piece_first;
};

/* Cut and hash a stream: create, add bytes in any portions, finish. */
struct manifest_builder;
struct manifest_builder *manifest_builder_new(void); /* NULL: out of memory */
int manifest_builder_add(struct manifest_builder *b, const void *data, size_t len,
                         struct vine_err *err);
/* Ends the last chunk and moves the result into *out (caller: manifest_free). */
int manifest_builder_end(struct manifest_builder *b, struct manifest *out,
                         struct vine_err *err);
void manifest_builder_free(struct manifest_builder *b);
/* The chunks that have ended so far; borrowed until the next call. */
uint32_t manifest_builder_chunks(const struct manifest_builder *b,
                                 const struct manifest_chunk **chunks);

/* One that only cuts, so that many threads may hash: digests stay zero. Whoever fills
 * them into the manifest then calls manifest_seal, which computes m->digest. */
struct manifest_builder *manifest_builder_new_cutter(void);
int manifest_seal(struct manifest *m, struct vine_err *err);
/* For one made by hand, chunk by chunk: computes all that follows from its chunks. */
int manifest_finish(struct manifest *m, struct vine_err *err);

/* Bytes of the canonical form of a manifest with `count` chunks. */
size_t manifest_encoded_size(uint32_t count);

/* Write the canonical form; `out` holds manifest_encoded_size(m->count) bytes. */
void manifest_encode(const struct manifest *m, uint8_t *out);

/* Decode and check everything: magic, bounds of every length, sum = size, no trailing
 * bytes; m->digest is computed. *m untouched on error. Caller: manifest_free. */
int manifest_decode(const uint8_t *buf, size_t len, struct manifest *m,
                    struct vine_err *err);
void manifest_free(struct manifest *m);

/* Pieces: piece 0 is the manifest itself, pieces 1..n-1 are runs of chunks, cut by a
 * fixed rule from the manifest alone: consecutive chunks are joined until a piece has
 * at least max(VINE_CHUNK_AVG, size / VINE_PIECES_TARGET) bytes. An empty object has
 * one piece, the manifest. manifest_pieces gives n (<= VINE_PIECES_MAX). The table is
 * made with the manifest, so these calls cost nothing. */
uint32_t manifest_pieces(const struct manifest *m);
/* Chunks [*first, *first + *count) of piece `piece` in 1..n-1. */
void manifest_piece(const struct manifest *m, uint32_t piece, uint32_t *first,
                    uint32_t *count);
/* How many of the chunks [chunk, end) travel together: those of one piece, and at most
 * VINE_CHUNK_AVG bytes of them, but one at least. *length: their bytes. */
uint32_t manifest_run(const struct manifest *m, uint32_t chunk, uint32_t end,
                      uint32_t *length);
/* The piece that chunk `chunk` < m->count belongs to. */
uint32_t manifest_piece_of(const struct manifest *m, uint32_t chunk);

#endif
