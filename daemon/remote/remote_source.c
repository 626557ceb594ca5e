/* remote_source.c - images and archives on servers.
 *
 * Their bytes are read once, from the first to the last, and each is hashed if the user
 * said what the file's SHA-256 is; only then is a reading done. Of an image the ends
 * are looked at before: they are kept in a memory file of the image's length, which has
 * holes elsewhere, and compared when the same bytes come by. An archive goes through a
 * pipe to libarchive in this process. */
#include "daemon/remote/remote_source.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "daemon/image/bytes.h"
#include "daemon/image/pack.h"
#include "daemon/image/tar_out.h"
#include "daemon/image/unpack.h"
#include "vine/spec.h"

#define KEY_FORMAT "vine-remote 1"
#define SUPER_BYTES 96u
#define TAIL_BYTES 56u /* of a packed file: signature, sizes, magic */
#define MAGIC "VNPACKED"
#define TAR_END 1024u
#define PARTS_MAX 3u

struct part { /* of the file, in `ends` */
    uint64_t from, to;
};

struct remote_source {
    struct image_source_options options;
    struct vine_url url;
    struct remote *remote;
    struct image_source_facts facts;
    int ends; /* memory file; -1: not looked into */
    struct part parts[PARTS_MAX];
    unsigned part_count;

    /* Of the reading under way. */
    struct vine_sha *sha; /* NULL: nobody asks */
    uint64_t at;          /* bytes taken */
    int fd;               /* gets those before `object_end` */
    uint64_t object_end;
    uint8_t last[TAR_END]; /* of the file */
    const struct image_progress *progress;
};

const struct image_source_facts *remote_source_facts(const struct remote_source *s)
{
    return &s->facts;
}

void remote_source_close(struct remote_source *s)
{
    if (s == NULL)
        return;
    remote_close(s->remote);
    vine_sha_free(s->sha);
    if (s->ends >= 0)
        close(s->ends);
    free(s);
}

static int no_memory(struct vine_err *err)
{
    return vine_err_set(err, VINE_ENOMEM, "out of memory");
}

static int make_key(struct remote_source *s, const char *url, struct vine_err *err)
{
    const struct remote_facts *f = remote_facts(s->remote);
    struct vine_sha *sha = vine_sha_new();
    char scope[96];

    if (sha == NULL)
        return no_memory(err);
    (void)snprintf(scope, sizeof(scope), "uid:%u size:%llu", (unsigned)geteuid(),
                   (unsigned long long)f->size);
    vine_sha_add(sha, KEY_FORMAT, sizeof(KEY_FORMAT));
    vine_sha_add(sha, scope, strlen(scope) + 1);
    vine_sha_add(sha, url, strlen(url) + 1);
    vine_sha_add(sha, f->stamp, strlen(f->stamp) + 1);
    vine_sha_end(sha, &s->facts.key);
    vine_sha_free(sha);
    return 0;
}

static int fill_facts(struct remote_source *s, const char *url, struct vine_err *err)
{
    const struct remote_facts *r = remote_facts(s->remote);
    struct image_source_facts *f = &s->facts;
    uint64_t limit =
        s->options.max_bytes > 0 ? s->options.max_bytes : (uint64_t)VINE_OBJECT_MAX;

    if (r->size > limit)
        return vine_err_set(err, VINE_ELIMIT,
                            "'%.200s' on '%.100s' has more than %llu bytes",
                            s->url.path, s->url.host, (unsigned long long)limit);
    if (r->size == 0 && !s->options.data)
        return vine_err_set(err, VINE_EINVAL, "'%.200s' on '%.100s' is empty",
                            s->url.path, s->url.host);
    f->kind = s->options.data                                 ? IMAGE_SOURCE_FILE
              : vine_source_kind_of(url) == VINE_SOURCE_IMAGE ? IMAGE_SOURCE_IMAGE
                                                              : IMAGE_SOURCE_ARCHIVE;
    f->object_size = f->kind == IMAGE_SOURCE_FILE ? r->size : 0;
    f->unread = f->kind == IMAGE_SOURCE_IMAGE;
    vine_url_shown(url, f->canonical);
    f->bytes = f->alloc = r->size;
    f->root_mode = 0755;
    f->root_uid = geteuid();
    f->root_gid = getegid();
    f->root_mtime = r->mtime;
    return make_key(s, url, err);
}

int remote_source_open(const char *url, const struct image_source_options *options,
                       const struct remote_options *remote, struct remote_source **out,
                       struct vine_err *err)
{
    struct remote_source *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return no_memory(err);
    s->ends = s->fd = -1;
    s->options = *options;
    s->options.path = NULL;
    if (vine_url_parse(url, &s->url, err) < 0 ||
        remote_open(&s->url, remote, &s->remote, err) < 0 ||
        fill_facts(s, url, err) < 0) {
        remote_source_close(s);
        return -1;
    }
    if (s->facts.unread && !options->key_first && remote_source_look(s, err) < 0) {
        remote_source_close(s);
        return -1;
    }
    *out = s;
    return 0;
}

struct filling {
    int fd;
    uint64_t at;
};

static int take_end(void *ctx, const void *data, size_t len, struct vine_err *err)
{
    struct filling *f = ctx;

    for (const char *from = data; len > 0;) {
        ssize_t n = pwrite(f->fd, from, len, (off_t)f->at);
        if (n < 0)
            return vine_err_sys(err, "cannot keep an image's ends");
        from += n;
        f->at += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

/* [from, to) of the file, as far as it goes, into `ends`. */
static int fill(struct remote_source *s, uint64_t from, uint64_t to,
                struct vine_err *err)
{
    struct filling filling = {.fd = s->ends, .at = from};
    const struct remote_sink sink = {take_end, &filling};

    to = to < s->facts.bytes ? to : s->facts.bytes;
    if (from >= to)
        return 0;
    if (remote_read(s->remote, from, to, &sink, err) < 0)
        return -1;
    s->parts[s->part_count++] = (struct part){from, to};
    return 0;
}

static uint64_t before(uint64_t at, uint64_t bytes)
{
    return at > bytes ? at - bytes : 0;
}

/* Superblock, trailer, and what the image says of itself before it. */
static int fill_ends(struct remote_source *s, struct vine_err *err)
{
    uint64_t size = s->facts.bytes, object = size;
    uint8_t tail[16];

    s->ends = memfd_create("vine-ends", MFD_CLOEXEC);
    if (s->ends < 0 || ftruncate(s->ends, (off_t)size) < 0)
        return vine_err_sys(err, "cannot keep an image's ends");
    if (fill(s, 0, SUPER_BYTES, err) < 0 ||
        fill(s, before(size, IMAGE_INFO_MAX), size, err) < 0)
        return -1;
    if (size < sizeof(tail) ||
        pread_whole(s->ends, tail, sizeof(tail), size - sizeof(tail)) != sizeof(tail) ||
        memcmp(tail + 8, MAGIC, 8) != 0)
        return 0;
    object = before(size, get_be(tail, 8));
    return fill(s, before(object, IMAGE_INFO_MAX), object + TAIL_BYTES, err);
}

static int read_ends(struct remote_source *s, struct vine_err *err)
{
    struct image_source_facts *f = &s->facts;
    auto_free struct image_info *info = calloc(1, sizeof(*info));
    struct image_trailer trailer = {0};
    uint8_t super[SUPER_BYTES];
    uint64_t used;
    bool found;

    if (info == NULL)
        return no_memory(err);
    if (image_trailer_find(s->ends, f->bytes, &trailer, &found, err) < 0)
        return -1;
    f->object_size = found ? trailer.object_size : f->bytes;
    f->signature = trailer.signature;
    f->is_signed = trailer.is_signed;
    if (pread_whole(s->ends, super, sizeof(super), 0) != sizeof(super) ||
        !image_superblock_valid(super, f->object_size, &used))
        return vine_err_set(err, VINE_ECORRUPT,
                            "'%.200s' is no squashfs image, or is cut short",
                            f->canonical);
    if (image_info_read(s->ends, f->object_size, info, &found, err) < 0)
        return -1;
    f->activate = info->activate;
    return 0;
}

int remote_source_look(struct remote_source *s, struct vine_err *err)
{
    if (!s->facts.unread || s->ends >= 0)
        return vine_err_set(err, VINE_EINVAL, "'%.200s' was looked into before",
                            s->facts.canonical);
    if (fill_ends(s, err) < 0 || read_ends(s, err) < 0)
        return -1;
    s->facts.unread = false;
    return 0;
}

/* What was looked at before must be what comes now. */
static int compare_ends(struct remote_source *s, const uint8_t *data, size_t len,
                        struct vine_err *err)
{
    for (unsigned i = 0; i < s->part_count; i++) {
        uint64_t from = s->parts[i].from > s->at ? s->parts[i].from : s->at;
        uint64_t to = s->parts[i].to < s->at + len ? s->parts[i].to : s->at + len;
        uint8_t seen[4096];
        while (from < to) {
            size_t step = to - from < sizeof(seen) ? (size_t)(to - from) : sizeof(seen);
            if (pread_whole(s->ends, seen, step, from) != (ssize_t)step ||
                memcmp(seen, data + (from - s->at), step) != 0)
                return vine_err_set(err, VINE_ECHANGED,
                                    "'%.200s' changed while it was read",
                                    s->facts.canonical);
            from += step;
        }
    }
    return 0;
}

static void keep_last(struct remote_source *s, const uint8_t *data, size_t len)
{
    size_t keep = len < TAR_END ? len : TAR_END;

    memmove(s->last, s->last + keep, TAR_END - keep);
    memcpy(s->last + TAR_END - keep, data + len - keep, keep);
}

static int take_bytes(void *ctx, const void *data, size_t len, struct vine_err *err)
{
    struct remote_source *s = ctx;
    size_t wanted = s->at >= s->object_end        ? 0
                    : s->object_end - s->at < len ? (size_t)(s->object_end - s->at)
                                                  : len;

    if (compare_ends(s, data, len, err) < 0)
        return -1;
    if (s->sha != NULL)
        vine_sha_add(s->sha, data, len);
    keep_last(s, data, len);
    if (wanted > 0 && write_whole(s->fd, data, wanted) < 0)
        return vine_err_sys(err, "cannot pass on '%.200s'", s->facts.canonical);
    s->at += len;
    if (s->progress != NULL && s->progress->tell(s->progress->ctx, s->at, 0) != 0)
        return vine_err_set(err, VINE_ECANCELED, "canceled");
    return 0;
}

static int check_sha(struct remote_source *s, struct vine_err *err)
{
    struct vine_digest is;
    char hex[VINE_HEX_LEN + 1];

    if (s->sha == NULL)
        return 0;
    vine_sha_end(s->sha, &is);
    vine_digest_hex(&is, hex);
    if (strcmp(hex, s->url.sha256) == 0)
        return 0;
    return vine_err_set(
        err, VINE_ECORRUPT,
        "'%.150s' on '%.100s' has the SHA-256 %s, not the one in #sha256=", s->url.path,
        s->url.host, hex);
}

/* All of the file; the first `object_end` bytes to fd. */
static int read_all(struct remote_source *s, int fd, uint64_t object_end,
                    const struct image_progress *progress, struct vine_err *err)
{
    const struct remote_sink sink = {take_bytes, s};

    if (s->url.sha256[0] != '\0' && s->sha == NULL) {
        s->sha = vine_sha_new();
        if (s->sha == NULL)
            return no_memory(err);
    }
    s->at = 0;
    s->fd = fd;
    s->object_end = object_end;
    s->progress = progress;
    if (remote_read(s->remote, 0, s->facts.bytes, &sink, err) < 0 ||
        remote_check(s->remote, err) < 0)
        return -1;
    return check_sha(s, err);
}

int remote_source_copy(struct remote_source *s, int fd, uint64_t offset,
                       uint64_t length, const struct image_progress *progress,
                       struct vine_err *err)
{
    if (s->facts.kind == IMAGE_SOURCE_ARCHIVE || offset != 0 ||
        length != s->facts.object_size)
        return vine_err_set(err, VINE_EINVAL, "'%.200s' is read as a whole",
                            s->facts.canonical);
    return read_all(s, fd, length, progress, err);
}

struct feeder {
    struct remote_source *source;
    int fd; /* write end; closed at the end */
    int result;
    struct vine_err err;
};

static void *feed(void *arg)
{
    struct feeder *f = arg;

    f->result = read_all(f->source, f->fd, f->source->facts.bytes, NULL, &f->err);
    close(f->fd);
    return NULL;
}

/* libarchive stops at an archive's end, which need not be the file's. */
static void drain(int fd)
{
    char step[65536];
    ssize_t n;

    do
        n = read(fd, step, sizeof(step));
    while (n > 0 || (n < 0 && errno == EINTR));
}

/* A plain tar has no checksum over its whole: without its end it was cut short. */
static int check_tar(const struct remote_source *s, struct vine_err *err)
{
    size_t len = strlen(s->url.path);

    if (len < 4 || strcmp(s->url.path + len - 4, ".tar") != 0 ||
        (s->at >= TAR_END && bytes_are_zero(s->last, TAR_END)))
        return 0;
    return vine_err_set(err, VINE_ECORRUPT,
                        "'%.200s' is damaged: its end is missing, it was cut short",
                        s->facts.canonical);
}

static int unpack(struct remote_source *s, struct tar_out *tar,
                  const struct image_progress *progress, struct image_totals *totals,
                  struct vine_err *err)
{
    const struct unpack_options options = {
        .name = s->facts.canonical,
        .max_bytes = s->options.max_bytes > 0 ? s->options.max_bytes : VINE_OBJECT_MAX,
        .uid = s->facts.root_uid,
        .gid = s->facts.root_gid,
        .mtime = s->facts.root_mtime,
        .prefix = s->options.shape.prefix,
        .streamed = true};
    struct feeder feeder = {.source = s};
    struct vine_err why = {0};
    pthread_t thread;
    int ends[2], result;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return vine_err_sys(err, "cannot make a pipe");
    feeder.fd = ends[1];
    if (pthread_create(&thread, NULL, feed, &feeder) != 0) {
        close(ends[0]);
        close(ends[1]);
        return vine_err_set(err, VINE_ESYS, "cannot start a thread");
    }
    result = unpack_to_tar(ends[0], &options, tar, progress, totals, &why);
    if (result == 0)
        drain(ends[0]);
    close(ends[0]);
    pthread_join(thread, NULL);
    /* What broke the way explains what libarchive missed; not what ended by our close.
     */
    if (feeder.result < 0 && (result == 0 || feeder.err.sys_errno != EPIPE))
        return remote_pass(&feeder.err, err);
    if (result < 0)
        return remote_pass(&why, err);
    return check_tar(s, err);
}

int remote_source_build(struct remote_source *s, int fd,
                        const struct image_progress *progress,
                        struct image_totals *totals, struct vine_err *err)
{
    const struct tar_entry root = {.path = "",
                                   .mode = S_IFDIR | s->facts.root_mode,
                                   .uid = s->facts.root_uid,
                                   .gid = s->facts.root_gid,
                                   .mtime = s->facts.root_mtime};
    struct image_totals counted = {0};
    struct tar_out *tar;
    int result;

    if (s->facts.kind != IMAGE_SOURCE_ARCHIVE)
        return vine_err_set(err, VINE_EINVAL, "'%.200s' is no tree: it is to be copied",
                            s->facts.canonical);
    tar = tar_out_new(fd, err);
    if (tar == NULL)
        return -1;
    result = tar_out_entry(tar, &root, err);
    if (result == 0)
        result = unpack(s, tar, progress, &counted, err);
    if (result == 0)
        result = tar_out_end(tar, err);
    counted.written = tar_out_bytes(tar);
    tar_out_free(tar);
    if (result == 0)
        *totals = counted;
    return result;
}
