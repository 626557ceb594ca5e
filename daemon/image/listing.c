/* listing.c - the listing of an object: its head, and its body by zstd.
 *
 * The body is written and read by vine-source, as the user; a daemon copies it and
 * never looks inside. It may come from any node's store, so every length is checked: a
 * wrong one makes the listing damaged, and a build goes on without it. */
#include "daemon/image/listing.h"

#include <string.h>

#include <zstd.h>

#include "daemon/image/builder.h"
#include "daemon/image/bytes.h"
#include "vine/limits.h"

#define MAGIC "VNLIST1\n"
#define MAGIC_LEN 8u
#define LEVEL 3
#define STEP (256u << 10)
#define NUMBER_MAX 10u /* bytes of one */
#define NUMBERS 8u     /* of a file */
#define COUNT_LEN 4u

enum scope { SCOPE_EVERYBODY, SCOPE_USER };

struct listing_out {
    uint8_t *bytes;
    size_t used, room;
    uint32_t count;
    bool too_large;
    struct listing_file before;
    char path[VINE_PATH_MAX]; /* of the file before */
};

struct listing_in {
    uint8_t *bytes;
    size_t at, len;
    uint32_t left; /* files */
    struct listing_file before;
    char path[VINE_PATH_MAX];
};

static int damaged(struct vine_err *err, const char *what)
{
    return vine_err_set(err, VINE_ECORRUPT, "the image's listing is damaged: %s", what);
}

static void encode_head(const struct listing_head *head, uint64_t length,
                        uint8_t out[LISTING_HEAD_BYTES])
{
    memcpy(out, MAGIC, MAGIC_LEN);
    put_be(out + 8, head->everybody ? SCOPE_EVERYBODY : SCOPE_USER, 4);
    put_be(out + 12, head->everybody ? 0 : head->uid, 4);
    memcpy(out + 16, head->path.b, VINE_DIGEST_LEN);
    put_be(out + 48, length, 8);
}

static int copy_body(int fd, int body_fd, uint64_t length, struct vine_err *err)
{
    auto_free uint8_t *buf = malloc(STEP);

    if (buf == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    for (uint64_t at = 0; at < length;) {
        size_t step = length - at < STEP ? (size_t)(length - at) : STEP;
        if (pread_whole(body_fd, buf, step, at) != (ssize_t)step)
            return vine_err_set(err, VINE_ESYS, "cannot read the new listing");
        if (write_whole(fd, buf, step) < 0)
            return vine_err_sys(err, "cannot write the listing");
        at += step;
    }
    return 0;
}

int listing_append(int fd, const struct listing_head *head, int body_fd,
                   uint64_t length, struct image_info *info, struct vine_err *err)
{
    uint8_t bytes[LISTING_HEAD_BYTES];
    off_t end = lseek(fd, 0, SEEK_END);
    uint64_t start;

    if (end < 0)
        return vine_err_sys(err, "cannot find the end of the image");
    start =
        ((uint64_t)end + IMAGE_INFO_BLOCK - 1) / IMAGE_INFO_BLOCK * IMAGE_INFO_BLOCK;
    encode_head(head, length, bytes);
    if (ftruncate(fd, (off_t)start) < 0 || lseek(fd, (off_t)start, SEEK_SET) < 0 ||
        write_whole(fd, bytes, sizeof(bytes)) < 0)
        return vine_err_sys(err, "cannot write the listing");
    if (copy_body(fd, body_fd, length, err) < 0)
        return -1;
    info->listing_offset = start;
    info->listing_bytes = sizeof(bytes) + length;
    return 0;
}

static int decode_head(const uint8_t bytes[LISTING_HEAD_BYTES],
                       const struct image_info *info, struct listing_head *head,
                       struct vine_err *err)
{
    uint64_t scope = get_be(bytes + 8, 4), uid = get_be(bytes + 12, 4);
    uint64_t length = get_be(bytes + 48, 8);

    if (memcmp(bytes, MAGIC, MAGIC_LEN) != 0 || scope > SCOPE_USER ||
        (scope == SCOPE_EVERYBODY && uid != 0))
        return damaged(err, "bad head");
    if (length == 0 || length > LISTING_BODY_MAX ||
        length != info->listing_bytes - LISTING_HEAD_BYTES)
        return damaged(err, "bad length");
    *head = (struct listing_head){.everybody = scope == SCOPE_EVERYBODY,
                                  .uid = (uint32_t)uid,
                                  .offset = info->listing_offset + LISTING_HEAD_BYTES,
                                  .length = length,
                                  .same_tool =
                                      strcmp(info->tool, image_builder_tool()) == 0};
    memcpy(head->path.b, bytes + 16, VINE_DIGEST_LEN);
    return 0;
}

int listing_find(int fd, uint64_t size, struct listing_head *head, struct vine_err *err)
{
    auto_free struct image_info *info = calloc(1, sizeof(*info));
    uint8_t bytes[LISTING_HEAD_BYTES];
    bool found;

    if (info == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (image_info_read(fd, size, info, &found, err) < 0)
        return -1;
    if (!found || info->listing_bytes == 0) {
        *head = (struct listing_head){.length = 0};
        return 0;
    }
    if (info->listing_bytes < sizeof(bytes) || info->listing_offset > size ||
        info->listing_bytes > size - info->listing_offset)
        return damaged(err, "bad place");
    if (pread_whole(fd, bytes, sizeof(bytes), info->listing_offset) != sizeof(bytes))
        return damaged(err, "cannot read its head");
    return decode_head(bytes, info, head, err);
}

struct listing_out *listing_out_new(void)
{
    struct listing_out *out = calloc(1, sizeof(*out));

    if (out != NULL)
        out->used = COUNT_LEN; /* written at the end */
    return out;
}

void listing_out_free(struct listing_out *out)
{
    if (out != NULL)
        free(out->bytes);
    free(out);
}

static int make_room(struct listing_out *out, size_t more)
{
    size_t room = out->room > 0 ? 2 * out->room : STEP;
    void *grown;

    if (out->room - out->used >= more && out->room > 0)
        return 0;
    while (room - out->used < more)
        room *= 2;
    grown = realloc(out->bytes, room);
    if (grown == NULL)
        return -1;
    out->bytes = grown;
    out->room = room;
    return 0;
}

static void put_number(struct listing_out *out, uint64_t value)
{
    while (value >= 0x80) {
        out->bytes[out->used++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    out->bytes[out->used++] = (uint8_t)value;
}

/* Small for small differences of either sign. */
static void put_difference(struct listing_out *out, uint64_t value, uint64_t before)
{
    uint64_t d = value - before;

    put_number(out, d << 1 ^ (0 - (d >> 63)));
}

static size_t shared_bytes(const char *a, const char *b)
{
    size_t n = 0;

    while (a[n] != '\0' && a[n] == b[n])
        n++;
    return n;
}

int listing_out_add(struct listing_out *out, const struct listing_file *file)
{
    size_t shared = shared_bytes(out->path, file->path);
    size_t rest = strlen(file->path + shared);

    if (out->too_large || shared + rest >= sizeof(out->path))
        return 0;
    if (make_room(out, NUMBERS * NUMBER_MAX + rest) < 0)
        return -1;
    put_number(out, shared);
    put_number(out, rest);
    memcpy(out->bytes + out->used, file->path + shared, rest);
    out->used += rest;
    put_difference(out, file->ino, out->before.ino);
    put_number(out, file->size);
    put_difference(out, (uint64_t)file->mtime, (uint64_t)out->before.mtime);
    put_number(out, file->mtime_ns);
    put_difference(out, (uint64_t)file->ctime, (uint64_t)out->before.ctime);
    put_number(out, file->ctime_ns);
    memcpy(out->path + shared, file->path + shared, rest + 1);
    out->before = *file;
    out->count++;
    out->too_large = out->used > LISTING_RAW_MAX;
    return 0;
}

int listing_out_end(struct listing_out *out, int fd, uint64_t *length,
                    struct vine_err *err)
{
    size_t room = ZSTD_compressBound(out->used), len;
    auto_free uint8_t *body = NULL;

    *length = 0;
    if (out->too_large)
        return 0;
    body = malloc(room);
    if (body == NULL || make_room(out, 0) < 0)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    put_be(out->bytes, out->count, COUNT_LEN);
    len = ZSTD_compress(body, room, out->bytes, out->used, LEVEL);
    if (ZSTD_isError(len))
        return vine_err_set(err, VINE_ESYS, "cannot compress the listing: %s",
                            ZSTD_getErrorName(len));
    if (len > LISTING_BODY_MAX)
        return 0;
    if (lseek(fd, 0, SEEK_SET) < 0 || write_whole(fd, body, len) < 0)
        return vine_err_sys(err, "cannot write the listing");
    *length = len;
    return 0;
}

struct listing_in *listing_in_new(const uint8_t *body, size_t len, struct vine_err *err)
{
    unsigned long long raw = ZSTD_getFrameContentSize(body, len);
    struct listing_in *in = NULL;

    /* Both of zstd's errors are larger than any bound. */
    if (raw > LISTING_RAW_MAX || raw < COUNT_LEN ||
        ZSTD_findFrameCompressedSize(body, len) != len) {
        damaged(err, "no frame of zstd");
        return NULL;
    }
    in = calloc(1, sizeof(*in));
    if (in == NULL || (in->bytes = malloc((size_t)raw)) == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        listing_in_free(in);
        return NULL;
    }
    if (ZSTD_decompress(in->bytes, (size_t)raw, body, len) != (size_t)raw) {
        damaged(err, "zstd cannot read it");
        listing_in_free(in);
        return NULL;
    }
    in->len = (size_t)raw;
    in->left = (uint32_t)get_be(in->bytes, COUNT_LEN);
    in->at = COUNT_LEN;
    return in;
}

void listing_in_free(struct listing_in *in)
{
    if (in != NULL)
        free(in->bytes);
    free(in);
}

static bool get_number(struct listing_in *in, uint64_t *out)
{
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 64 && in->at < in->len; shift += 7) {
        uint8_t byte = in->bytes[in->at++];
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *out = value;
            return shift < 63 || byte <= 1;
        }
    }
    return false;
}

static bool get_difference(struct listing_in *in, uint64_t before, uint64_t *out)
{
    uint64_t d;

    if (!get_number(in, &d))
        return false;
    *out = before + (d >> 1 ^ (0 - (d & 1)));
    return true;
}

static bool get_nanoseconds(struct listing_in *in, uint32_t *out)
{
    uint64_t n;

    if (!get_number(in, &n) || n >= 1000000000)
        return false;
    *out = (uint32_t)n;
    return true;
}

/* The path; paths must rise, and hold no zero byte. */
static bool get_path(struct listing_in *in)
{
    uint64_t shared, rest;
    const char *next;
    int before;

    if (!get_number(in, &shared) || !get_number(in, &rest))
        return false;
    next = (const char *)in->bytes + in->at;
    if (shared > strlen(in->path) || rest == 0 || rest > in->len - in->at ||
        rest >= sizeof(in->path) - shared || memchr(next, '\0', rest) != NULL)
        return false;
    before = (uint8_t)in->path[shared];
    if (before >= (uint8_t)next[0])
        return false;
    memcpy(in->path + shared, next, rest);
    in->path[shared + rest] = '\0';
    in->at += rest;
    return true;
}

int listing_in_next(struct listing_in *in, struct listing_file *file,
                    struct vine_err *err)
{
    struct listing_file *f = &in->before;
    uint64_t mtime, ctime;

    if (in->left == 0)
        return in->at == in->len ? 0 : damaged(err, "more than its files");
    if (!get_path(in) || !get_difference(in, f->ino, &f->ino) ||
        !get_number(in, &f->size) || !get_difference(in, (uint64_t)f->mtime, &mtime) ||
        !get_nanoseconds(in, &f->mtime_ns) ||
        !get_difference(in, (uint64_t)f->ctime, &ctime) ||
        !get_nanoseconds(in, &f->ctime_ns))
        return damaged(err, "a file's entry");
    in->left--;
    f->path = in->path;
    f->mtime = (int64_t)mtime;
    f->ctime = (int64_t)ctime;
    *file = *f;
    return 1;
}
