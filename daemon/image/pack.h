/* pack.h - a packed file: an object and what proves it, in one file.
 *
 * file = object | "VNPACK1\n" | canonical manifest | 32-byte signature |
 *        u64 object size | u64 trailer length | "VNPACKED"
 * Big-endian; the trailer's length counts everything after the object. The signature is
 * HMAC-SHA-256 with the site's image key over "vine-image 1" and the object's digest
 * (the manifest's digest); all zeros = unsigned. Only a daemon of the site can sign, so
 * a signed object was built by one and a kernel may mount it. */
#ifndef VINE_IMAGE_PACK_H
#define VINE_IMAGE_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vine/digest.h"
#include "vine/err.h"
#include "vine/manifest.h"

struct image_trailer {
    uint64_t object_size;
    uint64_t manifest_offset; /* in the file */
    uint64_t manifest_bytes;
    struct vine_digest signature;
    bool is_signed;
};

/* The trailer of an object; signature NULL = unsigned. Caller frees. NULL: no memory.
 */
uint8_t *image_trailer_encode(const struct manifest *manifest,
                              const struct vine_digest *signature, size_t *len);

/* Find the trailer of a file of `file_size` bytes with 3 small preads; the manifest is
 * not read, its size is checked against the bounds. No end magic: 0 with *found false.
 * A trailer that is wrong in any way: -1, VINE_ECORRUPT. */
int image_trailer_find(int fd, uint64_t file_size, struct image_trailer *trailer,
                       bool *found, struct vine_err *err);

/* The same, and the manifest read and decoded: its size must be the object's. Caller:
 * manifest_free. Chunks are not verified. Both untouched on error or not found. */
int image_trailer_read(int fd, uint64_t file_size, struct image_trailer *trailer,
                       struct manifest *manifest, bool *found, struct vine_err *err);

void image_sign(const void *key, size_t key_len, const struct vine_digest *object,
                struct vine_digest *signature);
bool image_signature_valid(const void *key, size_t key_len,
                           const struct vine_digest *object,
                           const struct vine_digest *signature);

/* Do the first 96 bytes say squashfs 4.0 with sane sizes? bytes_used in *used. */
bool image_superblock_valid(const uint8_t super[96], uint64_t file_size,
                            uint64_t *used);

/* Where the tables of a valid superblock begin; they reach to its used bytes' end. */
uint64_t image_tables_start(const uint8_t super[96]);

#endif
