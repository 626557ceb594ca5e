/* digest.c - the only file that talks to libcrypto.
 *
 * Digest contexts are allocated once per running hash; the one-shot calls keep one a
 * thread, since hashing a 256 KiB chunk must not pay for an allocation each time. */
#include "vine/digest.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const EVP_MD *fetched;

static void fetch_sha256(void)
{
    fetched = EVP_MD_fetch(NULL, "SHA256", NULL);
    if (fetched == NULL)
        fetched = EVP_sha256();
}

/* Looked up once: libcrypto looks EVP_sha256() up again at each use, under locks. */
static const EVP_MD *sha256(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    (void)pthread_once(&once, fetch_sha256);
    return fetched;
}

struct vine_sha {
    EVP_MD_CTX *ctx;
};

struct vine_sha *vine_sha_new(void)
{
    struct vine_sha *sha = calloc(1, sizeof(*sha));

    if (sha == NULL)
        return NULL;
    sha->ctx = EVP_MD_CTX_new();
    if (sha->ctx == NULL || EVP_DigestInit_ex(sha->ctx, sha256(), NULL) != 1) {
        vine_sha_free(sha);
        return NULL;
    }
    return sha;
}

void vine_sha_add(struct vine_sha *sha, const void *data, size_t len)
{
    (void)EVP_DigestUpdate(sha->ctx, data, len);
}

void vine_sha_end(struct vine_sha *sha, struct vine_digest *out)
{
    (void)EVP_DigestFinal_ex(sha->ctx, out->b, NULL);
    (void)EVP_DigestInit_ex(sha->ctx, sha256(), NULL);
}

void vine_sha_free(struct vine_sha *sha)
{
    if (sha == NULL)
        return;
    EVP_MD_CTX_free(sha->ctx);
    free(sha);
}

void vine_digest_of(const void *data, size_t len, struct vine_digest *out)
{
    (void)EVP_Digest(data, len, out->b, NULL, sha256(), NULL);
}

#define POLY1305_KEY_LEN 32
#define POLY1305_LEN 16

struct vine_sums {
    EVP_MAC_CTX *ctx;
    uint8_t key[POLY1305_KEY_LEN];
};

struct vine_sums *vine_sums_new(void)
{
    struct vine_sums *sums = calloc(1, sizeof(*sums));
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "POLY1305", NULL);

    if (sums != NULL && mac != NULL && RAND_bytes(sums->key, sizeof(sums->key)) == 1)
        sums->ctx = EVP_MAC_CTX_new(mac);
    EVP_MAC_free(mac);
    if (sums != NULL && sums->ctx != NULL)
        return sums;
    vine_sums_free(sums);
    return NULL;
}

void vine_sums_of(struct vine_sums *sums, const void *data, size_t len,
                  struct vine_digest *out)
{
    size_t written;

    *out = (struct vine_digest){0};
    if (EVP_MAC_init(sums->ctx, sums->key, sizeof(sums->key), NULL) != 1 ||
        EVP_MAC_update(sums->ctx, data, len) != 1 ||
        EVP_MAC_final(sums->ctx, out->b, &written, POLY1305_LEN) != 1)
        vine_digest_of(data, len, out); /* as good, only slower */
}

void vine_sums_free(struct vine_sums *sums)
{
    if (sums == NULL)
        return;
    EVP_MAC_CTX_free(sums->ctx);
    OPENSSL_cleanse(sums->key, sizeof(sums->key));
    free(sums);
}

#define BLOCK_LEN 64 /* of SHA-256 */

/* One hash of two parts, with the thread's own context: HMAC() would look its method up
 * and make three contexts each time, and frames are many and short. */
static int hash_two(const void *first, size_t first_len, const void *second,
                    size_t second_len, uint8_t out[VINE_DIGEST_LEN])
{
    static __thread EVP_MD_CTX *ctx;

    if (ctx == NULL)
        ctx = EVP_MD_CTX_new();
    return ctx != NULL && EVP_DigestInit_ex(ctx, sha256(), NULL) == 1 &&
                   EVP_DigestUpdate(ctx, first, first_len) == 1 &&
                   EVP_DigestUpdate(ctx, second, second_len) == 1 &&
                   EVP_DigestFinal_ex(ctx, out, NULL) == 1
               ? 0
               : -1;
}

/* RFC 2104. */
void vine_hmac(const void *key, size_t key_len, const void *data, size_t len,
               struct vine_digest *out)
{
    uint8_t inner[BLOCK_LEN] = {0}, outer[BLOCK_LEN], hash[VINE_DIGEST_LEN];

    if (key_len <= BLOCK_LEN)
        memcpy(inner, key, key_len);
    else
        (void)EVP_Digest(key, key_len, inner, NULL, sha256(), NULL);
    for (size_t i = 0; i < BLOCK_LEN; i++) {
        outer[i] = inner[i] ^ 0x5c;
        inner[i] ^= 0x36;
    }
    if (hash_two(inner, BLOCK_LEN, data, len, hash) < 0 ||
        hash_two(outer, BLOCK_LEN, hash, sizeof(hash), out->b) < 0)
        abort(); /* no memory for a context: nothing may pass for authentic */
    OPENSSL_cleanse(inner, sizeof(inner));
    OPENSSL_cleanse(outer, sizeof(outer));
}

bool vine_digest_equal(const struct vine_digest *a, const struct vine_digest *b)
{
    return CRYPTO_memcmp(a->b, b->b, VINE_DIGEST_LEN) == 0;
}

void vine_digest_hex(const struct vine_digest *d, char out[VINE_HEX_LEN + 1])
{
    static const char digits[] = "0123456789abcdef";

    for (int i = 0; i < VINE_DIGEST_LEN; i++) {
        out[2 * i] = digits[d->b[i] >> 4];
        out[2 * i + 1] = digits[d->b[i] & 15];
    }
    out[VINE_HEX_LEN] = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

int vine_digest_parse(const char *hex, struct vine_digest *out)
{
    struct vine_digest d;

    if (strnlen(hex, VINE_HEX_LEN + 1) != VINE_HEX_LEN)
        return -1;
    for (int i = 0; i < VINE_DIGEST_LEN; i++) {
        int high = hex_value(hex[2 * i]), low = hex_value(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return -1;
        d.b[i] = (uint8_t)(high << 4 | low);
    }
    *out = d;
    return 0;
}

int vine_random(void *out, size_t len, struct vine_err *err)
{
    if (RAND_bytes(out, (int)len) != 1)
        return vine_err_set(err, VINE_ESYS, "cannot get %zu random bytes", len);
    return 0;
}
