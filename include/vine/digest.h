/* digest.h - SHA-256, HMAC and random bytes: the only door to libcrypto. */
#ifndef VINE_DIGEST_H
#define VINE_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vine/err.h"

#define VINE_DIGEST_LEN 32
#define VINE_HEX_LEN (2 * VINE_DIGEST_LEN) /* characters, without the zero */

struct vine_digest {
    uint8_t b[VINE_DIGEST_LEN];
};

struct vine_sha; /* a running SHA-256 */

struct vine_sha *vine_sha_new(void); /* NULL: out of memory; free with vine_sha_free */
void vine_sha_add(struct vine_sha *sha, const void *data, size_t len);
void vine_sha_end(struct vine_sha *sha, struct vine_digest *out); /* then start anew */
void vine_sha_free(struct vine_sha *sha);

/* SHA-256 of one buffer. */
void vine_digest_of(const void *data, size_t len, struct vine_digest *out);

/* Are bytes the same, within one process: Poly1305 under a key that is drawn here and
 * that nobody sees, three times as fast as SHA-256. Two that differ have one sum with a
 * chance of 2^-100 or so, whoever made them, as long as no sum leaves the process. The
 * rest of *out is zero. NULL: out of memory, or no random bytes. */
struct vine_sums;

struct vine_sums *vine_sums_new(void);
void vine_sums_of(struct vine_sums *sums, const void *data, size_t len,
                  struct vine_digest *out);
void vine_sums_free(struct vine_sums *sums);

/* HMAC-SHA-256 (RFC 2104). */
void vine_hmac(const void *key, size_t key_len, const void *data, size_t len,
               struct vine_digest *out);

/* Constant-time for secrets and MACs. */
bool vine_digest_equal(const struct vine_digest *a, const struct vine_digest *b);

void vine_digest_hex(const struct vine_digest *d, char out[VINE_HEX_LEN + 1]);

/* Exactly 64 lower-case hex characters; anything else returns -1, *out untouched. */
int vine_digest_parse(const char *hex, struct vine_digest *out);

/* Fill with random bytes fit for keys. Returns 0 or -1 with *err set. */
int vine_random(void *out, size_t len, struct vine_err *err);

#endif
