/* source.c - open, resolve and read a source as the calling user.
 *
 * The key names content, so it must not be possible to come by the key of what one may
 * not read. Where everybody may read every entry, and pass every directory above, it is
 * the same for all; else the user is part of it, and another user who makes a tree with
 * the same metadata at the same path gets another key. */
#include "daemon/image/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <linux/openat2.h>

#include "daemon/image/bytes.h"
#include "daemon/image/pack.h"
#include "daemon/image/readahead.h"
#include "daemon/image/tar_out.h"
#include "daemon/image/tree_listing.h"
#include "daemon/image/unpack.h"
#include "vine/spec.h"

#define KEY_FORMAT "vine-key 1"
#define COPY_STEP (1u << 20)
#define SETTLE_MS 20
#define SETTLE_TRIES 3
#define READ_AHEAD (8u << 20)

struct image_source {
    struct image_source_options options; /* path: not kept */
    struct image_source_facts facts;
    struct globs *exclude;
    int fd, overlay_fd;       /* -1: none */
    struct tree *tree;        /* directories */
    struct statx file;        /* all but directories */
    uint64_t manifest_offset; /* images */
};

static const char *const kind_names[] = {"dir", "archive", "image", "file"};

const char *image_source_kind_name(enum image_source_kind kind)
{
    return kind_names[kind];
}

const struct image_source_facts *image_source_facts(const struct image_source *source)
{
    return &source->facts;
}

void image_source_free(struct image_source *source)
{
    if (source == NULL)
        return;
    tree_free(source->tree);
    globs_free(source->exclude);
    if (source->fd >= 0)
        close(source->fd);
    if (source->overlay_fd >= 0)
        close(source->overlay_fd);
    free(source);
}

/* May everybody pass all directories above `canonical`? */
static bool is_reachable_by_all(const char *canonical)
{
    char path[VINE_PATH_MAX];
    struct stat st;

    for (const char *slash = canonical; slash != NULL; slash = strchr(slash + 1, '/')) {
        size_t len = slash == canonical ? 1 : (size_t)(slash - canonical);
        memcpy(path, canonical, len);
        path[len] = '\0';
        if (stat(path, &st) < 0 || (st.st_mode & S_IXOTH) == 0)
            return false;
    }
    return true;
}

static struct vine_sha *begin_key(struct image_source *s, bool world)
{
    struct vine_sha *sha = vine_sha_new();
    char scope[32] = "any";

    if (sha == NULL)
        return NULL;
    s->facts.everybody =
        world && s->options.view == 0 && is_reachable_by_all(s->facts.canonical);
    if (!s->facts.everybody)
        (void)snprintf(scope, sizeof(scope), "uid:%u", (unsigned)geteuid());
    vine_sha_add(sha, KEY_FORMAT, sizeof(KEY_FORMAT));
    vine_sha_add(sha, scope, strlen(scope) + 1);
    vine_sha_add(sha, kind_names[s->facts.kind], strlen(kind_names[s->facts.kind]) + 1);
    vine_sha_add(sha, s->facts.canonical, strlen(s->facts.canonical) + 1);
    return sha;
}

static int end_key(struct image_source *s, struct vine_sha *sha, struct vine_err *err)
{
    if (sha == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    vine_sha_end(sha, &s->facts.key);
    vine_sha_free(sha);
    return 0;
}

static bool has(const struct tree *tree, const char *path, bool directory)
{
    uint32_t i = tree_find(tree, path);

    return i != UINT32_MAX && S_ISDIR(tree->entry[i].mode) == directory;
}

static void find_kind_of_env(const struct tree *tree, struct image_source_facts *facts)
{
    const struct image_marks marks = {
        .conda_meta = has(tree, "conda-meta", true),
        .pixi = has(tree, "conda-meta/pixi", false),
        .conda_unpack = has(tree, "bin/conda-unpack", false),
        .pyvenv = has(tree, "pyvenv.cfg", false),
    };

    facts->activate = image_activate_of(&marks);
    facts->env = image_env_of(&marks);
}

static int64_t in_ms(int64_t seconds, uint32_t nanoseconds)
{
    return seconds * 1000 + nanoseconds / 1000000;
}

/* Did it change so recently that a further change could carry the same time? Clocks of
 * file systems advance in ticks of some milliseconds. */
static bool is_recent(int64_t changed_ms)
{
    struct timespec now;
    int64_t now_ms;

    clock_gettime(CLOCK_REALTIME, &now);
    now_ms = in_ms(now.tv_sec, (uint32_t)now.tv_nsec);
    return changed_ms > now_ms - SETTLE_MS && changed_ms <= now_ms + SETTLE_MS;
}

static void settle(void)
{
    const struct timespec pause = {.tv_nsec = SETTLE_MS * 1000000};

    (void)nanosleep(&pause, NULL);
}

static bool is_unsettled(const struct tree *tree)
{
    int64_t newest_ms = INT64_MIN;

    for (uint32_t i = 0; i < tree->count; i++) {
        int64_t ms = in_ms(tree->entry[i].ctime, (uint32_t)tree->entry[i].ctime_ns);
        newest_ms = ms > newest_ms ? ms : newest_ms;
    }
    return is_recent(newest_ms);
}

static int walk_settled(struct image_source *s, const struct walk_options *walk,
                        struct vine_err *err)
{
    for (int i = 0; i < SETTLE_TRIES; i++) {
        tree_free(s->tree);
        s->tree = NULL;
        if (tree_walk(s->fd, walk, &s->tree, err) < 0)
            return -1;
        if (!is_unsettled(s->tree))
            break;
        settle();
    }
    return 0;
}

static int apply_shape(struct image_source *s, const struct walk_options *walk,
                       struct vine_err *err)
{
    const struct image_shape *shape = &s->options.shape;

    if (shape->overlay != NULL) {
        s->overlay_fd = open(shape->overlay, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (s->overlay_fd < 0)
            return vine_err_sys(err, "cannot open '%.300s'", shape->overlay);
        if (shape_add_overlay(s->tree, s->overlay_fd, walk, err) < 0)
            return -1;
    }
    return shape->order == NULL
               ? 0
               : shape_set_order(s->tree, shape->order, s->facts.canonical, err);
}

static int resolve_dir(struct image_source *s, struct vine_err *err)
{
    const struct walk_options walk = {.caching = s->options.caching,
                                      .threads = s->options.threads,
                                      .max_bytes = s->options.max_bytes,
                                      .name = s->facts.canonical,
                                      .exclude = s->exclude};
    struct image_source_facts *f = &s->facts;
    struct vine_sha *sha;

    if (walk_settled(s, &walk, err) < 0 || apply_shape(s, &walk, err) < 0)
        return -1;
    f->entries = s->tree->count - 1;
    f->bytes = s->tree->bytes;
    f->alloc = s->tree->alloc;
    f->skipped = s->tree->skipped;
    f->root_mode = s->tree->entry[0].mode & 07777;
    f->root_uid = s->tree->entry[0].uid;
    f->root_gid = s->tree->entry[0].gid;
    f->root_mtime = s->tree->entry[0].mtime;
    f->files = s->tree->files;
    find_kind_of_env(s->tree, f);
    sha = begin_key(s, s->tree->world);
    if (sha != NULL)
        tree_hash(s->tree, sha);
    return end_key(s, sha, err);
}

static int resolve_file_key(struct image_source *s, struct vine_err *err)
{
    const struct statx *st = &s->file;
    struct vine_sha *sha = begin_key(s, (st->stx_mode & S_IROTH) != 0);
    uint8_t fixed[60];

    put_be(fixed, st->stx_size, 8);
    put_be(fixed + 8, st->stx_ino, 8);
    put_be(fixed + 16, (uint64_t)st->stx_mtime.tv_sec, 8);
    put_be(fixed + 24, st->stx_mtime.tv_nsec, 8);
    put_be(fixed + 32, (uint64_t)st->stx_ctime.tv_sec, 8);
    put_be(fixed + 40, st->stx_ctime.tv_nsec, 8);
    put_be(fixed + 48, st->stx_uid, 4);
    put_be(fixed + 52, st->stx_gid, 4);
    put_be(fixed + 56, st->stx_mode, 4);
    if (sha != NULL)
        vine_sha_add(sha, fixed, sizeof(fixed));
    return end_key(s, sha, err);
}

static int resolve_image(struct image_source *s, struct vine_err *err)
{
    struct image_trailer trailer = {0};
    auto_free struct image_info *info = calloc(1, sizeof(*info));
    uint8_t super[96];
    uint64_t used;
    bool found;

    if (info == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (image_trailer_find(s->fd, s->file.stx_size, &trailer, &found, err) < 0)
        return -1;
    s->facts.object_size = found ? trailer.object_size : s->file.stx_size;
    s->facts.manifest_bytes = trailer.manifest_bytes;
    s->facts.signature = trailer.signature;
    s->facts.is_signed = trailer.is_signed;
    s->manifest_offset = trailer.manifest_offset;
    if (pread_whole(s->fd, super, sizeof(super), 0) != sizeof(super) ||
        !image_superblock_valid(super, s->facts.object_size, &used))
        return vine_err_set(err, VINE_ECORRUPT,
                            "'%s' is no squashfs image, or is cut short",
                            s->facts.canonical);
    if (image_info_read(s->fd, s->facts.object_size, info, &found, err) < 0)
        return -1;
    s->facts.activate = info->activate;
    s->facts.env = info->env;
    return 0;
}

int image_source_look(struct image_source *s, struct vine_err *err)
{
    if (!s->facts.unread)
        return vine_err_set(err, VINE_EINVAL, "'%s' was looked into before",
                            s->facts.canonical);
    if (resolve_image(s, err) < 0)
        return -1;
    s->facts.unread = false;
    return 0;
}

/* Data is often just written when its job starts. */
static int look_settled(struct image_source *s, struct vine_err *err)
{
    for (int i = 0; i < SETTLE_TRIES; i++) {
        if (tree_stat(s->fd, "", true, &s->file) < 0)
            return vine_err_sys(err, "cannot look at '%s'", s->facts.canonical);
        if (s->facts.kind != IMAGE_SOURCE_FILE ||
            !is_recent(in_ms(s->file.stx_ctime.tv_sec, s->file.stx_ctime.tv_nsec)))
            break;
        settle();
    }
    return 0;
}

static int resolve_file(struct image_source *s, struct vine_err *err)
{
    uint64_t limit =
        s->options.max_bytes > 0 ? s->options.max_bytes : (uint64_t)VINE_OBJECT_MAX;

    if (look_settled(s, err) < 0)
        return -1;
    if (s->file.stx_size > limit)
        return vine_err_set(err, VINE_ELIMIT, "'%s' has more than %llu bytes",
                            s->facts.canonical, (unsigned long long)limit);
    s->facts.bytes = s->file.stx_size;
    s->facts.alloc = s->file.stx_blocks * 512;
    s->facts.root_mode = 0755;
    s->facts.root_uid = s->file.stx_uid;
    s->facts.root_gid = s->file.stx_gid;
    s->facts.root_mtime = s->file.stx_mtime.tv_sec;
    if (s->facts.kind == IMAGE_SOURCE_FILE)
        s->facts.object_size = s->file.stx_size;
    s->facts.unread = s->facts.kind == IMAGE_SOURCE_IMAGE;
    if (s->facts.unread && !s->options.key_first && image_source_look(s, err) < 0)
        return -1;
    return resolve_file_key(s, err);
}

/* Decide the kind before opening: opening a device can do things. */
static int find_kind(const char *path, bool data, enum image_source_kind *kind,
                     struct vine_err *err)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return vine_err_sys(err, "cannot look at '%s'", path);
    if (S_ISDIR(st.st_mode)) {
        *kind = IMAGE_SOURCE_DIR;
        return 0;
    }
    if (data) {
        *kind = IMAGE_SOURCE_FILE;
        if (!S_ISREG(st.st_mode))
            return vine_err_set(err, VINE_EINVAL,
                                "'%s' is neither a directory nor a regular file", path);
        return 0;
    }
    *kind = vine_source_kind_of(path) == VINE_SOURCE_IMAGE ? IMAGE_SOURCE_IMAGE
                                                           : IMAGE_SOURCE_ARCHIVE;
    if (!S_ISREG(st.st_mode) || vine_source_kind_of(path) == VINE_SOURCE_DIR)
        return vine_err_set(err, VINE_EINVAL,
                            "'%s' is neither a directory nor a file whose name ends in "
                            ".sqsh, .squashfs, .tar, .tar.gz, .tgz, .tar.zst, .tar.xz, "
                            ".tar.bz2 or .zip (other files are data: --vine-data)",
                            path);
    return 0;
}

/* What can be done with a directory cannot be done with all. */
static int check_shape(struct image_source *s, struct vine_err *err)
{
    const struct image_shape *shape = &s->options.shape;

    if (s->facts.kind == IMAGE_SOURCE_IMAGE &&
        (shape->exclude_count > 0 || shape->order != NULL || shape->overlay != NULL ||
         shape->prefix != NULL))
        return vine_err_set(err, VINE_EINVAL, "'%s' is an image already",
                            s->facts.canonical);
    if (s->facts.kind == IMAGE_SOURCE_ARCHIVE &&
        (shape->order != NULL || shape->overlay != NULL))
        return vine_err_set(err, VINE_EINVAL,
                            "'%s' is an archive, whose files come as they are and in "
                            "its order: unpack it, and pack the directory",
                            s->facts.canonical);
    if (shape->exclude_count == 0)
        return 0;
    s->exclude = globs_new(shape->exclude, shape->exclude_count, err);
    return s->exclude != NULL ? 0 : -1;
}

/* A job's tasks may see other mounts than this process does. The file is opened as they
 * see it, by nobody but their user; so it has no path that would mean anything here. */
static int open_in_view(struct image_source *s, const char *path, struct vine_err *err)
{
    struct image_source_facts *f = &s->facts;
    struct open_how how = {.flags = O_PATH | O_CLOEXEC,
                           .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    char name[48];
    auto_fd int root = -1, found = -1;
    struct stat st;

    (void)snprintf(name, sizeof(name), "/proc/%llu/root",
                   (unsigned long long)s->options.view);
    root = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return vine_err_sys(err, "cannot see the files of process %llu",
                            (unsigned long long)s->options.view);
    if (strlen(path) >= sizeof(f->canonical))
        return vine_err_set(err, VINE_ELIMIT, "'%s' is too long for a path", path);
    memcpy(f->canonical, path, strlen(path) + 1);
    found = (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
    if (found < 0 || fstat(found, &st) < 0)
        return vine_err_sys(err, "cannot open '%s'", path);
    if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
        return vine_err_set(err, VINE_EINVAL,
                            "'%s' is neither a directory nor a regular file", path);
    f->kind = S_ISDIR(st.st_mode) ? IMAGE_SOURCE_DIR : IMAGE_SOURCE_FILE;
    (void)snprintf(name, sizeof(name), "/proc/self/fd/%d", found);
    s->fd = open(name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    return s->fd < 0 ? vine_err_sys(err, "cannot open '%s'", path) : 0;
}

static int open_source(struct image_source *s, const char *path, struct vine_err *err)
{
    struct image_source_facts *f = &s->facts;
    auto_free char *canonical = NULL;
    struct stat st;

    if (s->options.view != 0)
        return open_in_view(s, path, err);
    if (find_kind(path, s->options.data, &f->kind, err) < 0)
        return -1;
    canonical = realpath(path, NULL);
    if (canonical == NULL)
        return vine_err_sys(err, "cannot resolve '%s'", path);
    if (strlen(canonical) >= sizeof(f->canonical))
        return vine_err_set(err, VINE_ELIMIT, "'%s' leads to a path that is too long",
                            path);
    memcpy(f->canonical, canonical, strlen(canonical) + 1);
    s->fd = open(canonical, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (s->fd < 0 || fstat(s->fd, &st) < 0)
        return vine_err_sys(err, "cannot open '%s'", path);
    if (f->kind == IMAGE_SOURCE_DIR ? !S_ISDIR(st.st_mode) : !S_ISREG(st.st_mode))
        return vine_err_set(err, VINE_ECHANGED, "'%s' changed while it was opened",
                            path);
    return 0;
}

int image_source_open(const struct image_source_options *options,
                      struct image_source **out, struct vine_err *err)
{
    struct image_source *s = calloc(1, sizeof(*s));
    int result;

    if (s == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    s->fd = s->overlay_fd = -1;
    s->options = *options;
    s->options.path = NULL;
    result = open_source(s, options->path, err);
    if (result == 0)
        result = check_shape(s, err);
    if (result == 0)
        result = s->facts.kind == IMAGE_SOURCE_DIR ? resolve_dir(s, err)
                                                   : resolve_file(s, err);
    if (result < 0) {
        image_source_free(s);
        return -1;
    }
    *out = s;
    return 0;
}

static int tell(const struct image_progress *progress, uint64_t bytes, uint64_t files,
                struct vine_err *err)
{
    if (progress == NULL || progress->tell == NULL ||
        progress->tell(progress->ctx, bytes, files) == 0)
        return 0;
    return vine_err_set(err, VINE_ECANCELED, "canceled");
}

/* The file as it was when it was resolved. */
static int check_file(const struct image_source *s, struct vine_err *err)
{
    struct statx now;

    if (tree_stat(s->fd, "", true, &now) < 0)
        return vine_err_sys(err, "cannot look at '%s'", s->facts.canonical);
    if (now.stx_size == s->file.stx_size && now.stx_ino == s->file.stx_ino &&
        now.stx_mtime.tv_sec == s->file.stx_mtime.tv_sec &&
        now.stx_mtime.tv_nsec == s->file.stx_mtime.tv_nsec &&
        now.stx_ctime.tv_sec == s->file.stx_ctime.tv_sec &&
        now.stx_ctime.tv_nsec == s->file.stx_ctime.tv_nsec)
        return 0;
    return vine_err_set(err, VINE_ECHANGED, "'%s' changed while it was read",
                        s->facts.canonical);
}

struct putting {
    const struct tree *tree;
    struct readahead *ra;
    struct tar_out *tar;
    const struct image_progress *progress;
    uint64_t bytes; /* of files, so far */
    uint32_t files;
};

/* One file's header and bytes; its first part is *part. A large one tells how far it
 * is.
 */
static int put_file(struct putting *w, struct tar_entry *header,
                    struct readahead_part *part, struct vine_err *err)
{
    struct tar_out *tar = w->tar;
    uint64_t left = header->size;

    header->extents = part->extents;
    header->extent_count = part->extent_count;
    if (tar_out_entry(tar, header, err) < 0)
        return -1;
    for (;;) {
        int result = part->data != NULL
                         ? tar_out_data(tar, part->data, part->length, err)
                         : tar_out_zeros(tar, part->length, err);
        left -= part->length;
        if (result < 0 || left == 0)
            return result;
        if (tell(w->progress, w->bytes + header->size - left, w->files, err) < 0 ||
            readahead_next(w->ra, part, err) < 0)
            return -1;
    }
}

static int put_entry(struct putting *w, uint32_t i, struct vine_err *err)
{
    const struct tree *tree = w->tree;
    const struct tree_entry *e = &tree->entry[i];
    struct tar_entry header = {.path = e->path,
                               .mode = (mode_t)e->mode,
                               .uid = e->uid,
                               .gid = e->gid,
                               .size = e->same ? 0 : e->size,
                               .mtime = e->mtime,
                               .target = e->target,
                               .same = e->same};
    struct readahead_part part;

    if (e->over) { /* it belongs to the environment, whoever made it now */
        header.uid = tree->entry[0].uid;
        header.gid = tree->entry[0].gid;
        header.mtime = tree->entry[0].mtime;
    }
    if (e->link_to != i)
        header.link_to = tree->entry[e->link_to].path;
    else if (S_ISREG(e->mode) && header.size > 0) {
        if (readahead_next(w->ra, &part, err) < 0)
            return -1;
        return put_file(w, &header, &part, err);
    }
    return tar_out_entry(w->tar, &header, err);
}

static int put_tree(struct image_source *s, struct tar_out *tar,
                    const struct image_progress *progress, struct vine_err *err)
{
    const struct tree *tree = s->tree;
    const struct readahead_options options = {.threads = s->options.threads,
                                              .name = s->facts.canonical};
    struct putting w = {.tree = tree,
                        .ra = readahead_new(s->fd, tree, &options, err),
                        .tar = tar,
                        .progress = progress};
    int result = w.ra != NULL ? 0 : -1;

    for (uint32_t k = 0; k < tree->count && result == 0; k++) {
        uint32_t i = tree_at(tree, k);
        const struct tree_entry *e = &tree->entry[i];
        w.files = k;
        result = put_entry(&w, i, err);
        w.bytes += e->link_to == i ? e->size : 0;
        if (result == 0)
            result = tell(progress, w.bytes, k, err);
    }
    readahead_free(w.ra);
    return result;
}

static int build_dir(struct image_source *s, struct tar_out *tar,
                     const struct image_base *base,
                     const struct image_progress *progress, struct image_totals *totals,
                     struct vine_err *err)
{
    const struct walk_options walk = {.threads = s->options.threads,
                                      .name = s->facts.canonical};

    if (base != NULL && base->base_fd >= 0)
        (void)tree_mark_same(s->tree, base->base_fd, base->base_offset,
                             base->base_length, NULL);
    if (put_tree(s, tar, progress, err) < 0 ||
        tree_recheck(s->fd, s->tree, &walk, err) < 0)
        return -1;
    totals->same_files = s->tree->same_files;
    totals->same_bytes = s->tree->same_bytes;
    if (base == NULL || base->listing_fd < 0)
        return 0;
    return tree_write_listing(s->tree, base->listing_fd, &totals->listing_bytes, err);
}

static int build_archive(struct image_source *s, struct tar_out *tar,
                         const struct image_progress *progress,
                         struct image_totals *totals, struct vine_err *err)
{
    const struct unpack_options options = {
        .name = s->facts.canonical,
        .exclude = s->exclude,
        .prefix = s->options.shape.prefix,
        .max_bytes = s->options.max_bytes > 0 ? s->options.max_bytes : VINE_OBJECT_MAX,
        .uid = s->facts.root_uid,
        .gid = s->facts.root_gid,
        .mtime = s->facts.root_mtime};
    const struct tar_entry root = {.path = "",
                                   .mode = S_IFDIR | s->facts.root_mode,
                                   .uid = options.uid,
                                   .gid = options.gid,
                                   .mtime = options.mtime};

    if (lseek(s->fd, 0, SEEK_SET) < 0)
        return vine_err_sys(err, "cannot read '%s'", s->facts.canonical);
    if (tar_out_entry(tar, &root, err) < 0 ||
        unpack_to_tar(s->fd, &options, tar, progress, totals, err) < 0)
        return -1;
    return check_file(s, err);
}

int image_source_build(struct image_source *s, int fd, const struct image_base *base,
                       const struct image_progress *progress,
                       struct image_totals *totals, struct vine_err *err)
{
    struct image_totals counted = {.entries = s->facts.entries,
                                   .bytes = s->facts.bytes,
                                   .files = s->facts.files,
                                   .activate = s->facts.activate,
                                   .env = s->facts.env};
    struct tar_out *tar;
    int result;

    if (s->facts.kind == IMAGE_SOURCE_IMAGE || s->facts.kind == IMAGE_SOURCE_FILE)
        return vine_err_set(err, VINE_EINVAL, "'%s' is no tree: it is to be copied",
                            s->facts.canonical);
    tar = tar_out_new(fd, err);
    if (tar == NULL)
        return -1;
    result = s->facts.kind == IMAGE_SOURCE_DIR
                 ? build_dir(s, tar, base, progress, &counted, err)
                 : build_archive(s, tar, progress, &counted, err);
    if (result == 0)
        result = tar_out_end(tar, err);
    counted.written = tar_out_bytes(tar);
    tar_out_free(tar);
    if (result == 0)
        *totals = counted;
    return result;
}

/* [offset, offset + length) of the file to fd. */
static int send_range(struct image_source *s, int fd, uint64_t offset, uint64_t length,
                      const struct image_progress *progress, struct vine_err *err)
{
    uint64_t done = 0;

    while (done < length) {
        size_t step = length - done < COPY_STEP ? (size_t)(length - done) : COPY_STEP;
        off_t at = (off_t)(offset + done);
        ssize_t n;

        (void)posix_fadvise(s->fd, at, READ_AHEAD, POSIX_FADV_WILLNEED);
        n = sendfile(fd, s->fd, &at, step);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vine_err_sys(err, "cannot copy '%s'", s->facts.canonical);
        if (n == 0)
            return vine_err_set(err, VINE_ECHANGED, "'%s' changed while it was read",
                                s->facts.canonical);
        done += (uint64_t)n;
        if (tell(progress, done, 0, err) < 0)
            return -1;
    }
    return check_file(s, err);
}

int image_source_copy(struct image_source *s, int fd, uint64_t offset, uint64_t length,
                      const struct image_progress *progress, struct vine_err *err)
{
    if (s->facts.kind == IMAGE_SOURCE_DIR || s->facts.kind == IMAGE_SOURCE_ARCHIVE ||
        offset > s->facts.object_size || length > s->facts.object_size - offset)
        return vine_err_set(err, VINE_EINVAL, "no such bytes in '%s'",
                            s->facts.canonical);
    return send_range(s, fd, offset, length, progress, err);
}

int image_source_manifest(struct image_source *s, int fd, struct vine_err *err)
{
    if (s->facts.kind != IMAGE_SOURCE_IMAGE || s->facts.manifest_bytes == 0)
        return vine_err_set(err, VINE_EINVAL, "'%s' is no packed image",
                            s->facts.canonical);
    return send_range(s, fd, s->manifest_offset, s->facts.manifest_bytes, NULL, err);
}
