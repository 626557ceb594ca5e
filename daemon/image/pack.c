/* pack.c - trailers of packed files, signatures, and a look at squashfs' superblock.
 *
 * Everything read here comes from a user's file. The lengths in the foot must agree
 * with the file's size and with each other before any of them is used. */
#include "daemon/image/pack.h"

#include <string.h>

#include "daemon/image/bytes.h"

#define MAGIC_LEN 8
#define FOOT_LEN (VINE_DIGEST_LEN + 8 + 8 + MAGIC_LEN)
#define MANIFEST_MAX ((uint64_t)16 + (uint64_t)VINE_CHUNKS_MAX * 36)

static const char start_magic[MAGIC_LEN + 1] = "VNPACK1\n";
static const char end_magic[MAGIC_LEN + 1] = "VNPACKED";
static const char sign_context[] = "vine-image 1";

uint8_t *image_trailer_encode(const struct manifest *manifest,
                              const struct vine_digest *signature, size_t *len)
{
    size_t manifest_len = manifest_encoded_size(manifest->count);
    size_t total = MAGIC_LEN + manifest_len + FOOT_LEN;
    uint8_t *out = calloc(1, total);
    uint8_t *foot = out + MAGIC_LEN + manifest_len;

    if (out == NULL)
        return NULL;
    memcpy(out, start_magic, MAGIC_LEN);
    manifest_encode(manifest, out + MAGIC_LEN);
    if (signature != NULL)
        memcpy(foot, signature->b, VINE_DIGEST_LEN);
    put_be(foot + VINE_DIGEST_LEN, manifest->size, 8);
    put_be(foot + VINE_DIGEST_LEN + 8, total, 8);
    memcpy(foot + VINE_DIGEST_LEN + 16, end_magic, MAGIC_LEN);
    *len = total;
    return out;
}

static int damaged(struct vine_err *err, const char *what)
{
    return vine_err_set(err, VINE_ECORRUPT, "packed file is damaged: %s", what);
}

static int foot_decode(const uint8_t foot[FOOT_LEN], uint64_t file_size,
                       struct image_trailer *trailer, struct vine_err *err)
{
    uint64_t object_size = get_be(foot + VINE_DIGEST_LEN, 8);
    uint64_t total = get_be(foot + VINE_DIGEST_LEN + 8, 8);

    if (total < MAGIC_LEN + FOOT_LEN || total > file_size ||
        file_size - total != object_size)
        return damaged(err, "sizes do not add up (is it complete?)");
    if (object_size > VINE_OBJECT_MAX)
        return damaged(err, "object too large");
    if (total - MAGIC_LEN - FOOT_LEN > MANIFEST_MAX)
        return damaged(err, "manifest too large");
    trailer->object_size = object_size;
    trailer->manifest_offset = object_size + MAGIC_LEN;
    trailer->manifest_bytes = total - MAGIC_LEN - FOOT_LEN;
    if (trailer->manifest_bytes < manifest_encoded_size(0))
        return damaged(err, "manifest too short");
    memcpy(trailer->signature.b, foot, VINE_DIGEST_LEN);
    trailer->is_signed = !bytes_are_zero(foot, VINE_DIGEST_LEN);
    return 0;
}

int image_trailer_find(int fd, uint64_t file_size, struct image_trailer *trailer,
                       bool *found, struct vine_err *err)
{
    uint8_t foot[FOOT_LEN], head[MAGIC_LEN];
    struct image_trailer read = {0};

    if (file_size < FOOT_LEN) {
        *found = false;
        return 0;
    }
    if (pread_whole(fd, foot, FOOT_LEN, file_size - FOOT_LEN) != FOOT_LEN)
        return damaged(err, "cannot read its end");
    if (memcmp(foot + FOOT_LEN - MAGIC_LEN, end_magic, MAGIC_LEN) != 0) {
        *found = false;
        return 0;
    }
    if (foot_decode(foot, file_size, &read, err) < 0)
        return -1;
    if (pread_whole(fd, head, MAGIC_LEN, read.object_size) != MAGIC_LEN ||
        memcmp(head, start_magic, MAGIC_LEN) != 0)
        return damaged(err, "no trailer where its length says");
    *trailer = read;
    *found = true;
    return 0;
}

int image_trailer_read(int fd, uint64_t file_size, struct image_trailer *trailer,
                       struct manifest *manifest, bool *found, struct vine_err *err)
{
    struct image_trailer read = {0};
    struct manifest decoded = {0};
    auto_free uint8_t *buf = NULL;
    bool there = false;

    if (image_trailer_find(fd, file_size, &read, &there, err) < 0)
        return -1;
    if (!there) {
        *found = false;
        return 0;
    }
    buf = malloc(read.manifest_bytes);
    if (buf == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (pread_whole(fd, buf, read.manifest_bytes, read.manifest_offset) !=
        (ssize_t)read.manifest_bytes)
        return damaged(err, "cannot read its manifest");
    if (manifest_decode(buf, read.manifest_bytes, &decoded, NULL) < 0)
        return damaged(err, "bad manifest");
    if (decoded.size != read.object_size) {
        manifest_free(&decoded);
        return damaged(err, "manifest of another object");
    }
    *trailer = read;
    *manifest = decoded;
    *found = true;
    return 0;
}

void image_sign(const void *key, size_t key_len, const struct vine_digest *object,
                struct vine_digest *signature)
{
    uint8_t text[sizeof(sign_context) - 1 + VINE_DIGEST_LEN];

    memcpy(text, sign_context, sizeof(sign_context) - 1);
    memcpy(text + sizeof(sign_context) - 1, object->b, VINE_DIGEST_LEN);
    vine_hmac(key, key_len, text, sizeof(text), signature);
}

bool image_signature_valid(const void *key, size_t key_len,
                           const struct vine_digest *object,
                           const struct vine_digest *signature)
{
    struct vine_digest expected;

    image_sign(key, key_len, object, &expected);
    return vine_digest_equal(&expected, signature);
}

bool image_superblock_valid(const uint8_t super[96], uint64_t file_size, uint64_t *used)
{
    uint64_t bytes_used = get_le(super + 40, 8);
    uint64_t block_size = get_le(super + 12, 4);
    uint64_t block_log = get_le(super + 22, 2);

    if (memcmp(super, "hsqs", 4) != 0 || get_le(super + 28, 2) != 4 ||
        get_le(super + 30, 2) != 0)
        return false;
    if (block_log < 12 || block_log > 20 || block_size != 1ull << block_log)
        return false;
    if (bytes_used < 96 || bytes_used > file_size)
        return false;
    *used = bytes_used;
    return true;
}

uint64_t image_tables_start(const uint8_t super[96])
{
    static const size_t at[] = {48, 56, 64, 72, 80, 88}; /* of each table's start */
    uint64_t start = get_le(super + 40, 8);              /* the end of all */

    for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
        uint64_t table = get_le(super + at[i], 8);
        if (table >= 96 && table < start)
            start = table;
    }
    return start;
}
