/* unpack.c - the only door to libarchive's reader.
 *
 * Everything here comes from a file that anybody may have made. Formats are tar and zip
 * only, filters only those built into libarchive: it would start programs for others.
 * Names of entries are bytes; libarchive converts those it knows to be UTF-8 into the
 * locale's encoding, so a UTF-8 locale is set for this thread while it works. The bytes
 * of an entry must be exactly as many as its header says; holes come as zeros. */
#include "daemon/image/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/image/bytes.h"
#include "daemon/image/names.h"
#include "daemon/image/relocate.h"
#include "daemon/image/told.h"
#include "vine/limits.h"

#define READ_BYTES (256u << 10)
#define VENV_FILE "pyvenv.cfg"
#define HELD_MAX (64u << 10)
#define END_BYTES 1024 /* a tar ends with two blocks of zeros */

struct unpack {
    const struct unpack_options *options;
    struct archive *archive;
    struct names *names;
    struct relocate *relocate; /* NULL: none */
    struct tar_out *tar;
    const struct image_progress *progress;
    struct image_totals *totals;
    char path[VINE_PATH_MAX];
    char link_to[VINE_PATH_MAX];
    uint64_t bytes;
    struct image_marks marks;
    struct told told;
    /* VENV_FILE waits until the end: venv-pack writes it twice, and means the second.
     */
    struct {
        struct tar_entry header;
        uint8_t *data; /* NULL: none */
    } held;
    bool pixi_pack, channel; /* pixi-pack.json, and conda packages below channel/ */
    struct vine_err *err;
};

static int wrong_entry(struct unpack *u, const char *name, const char *why)
{
    return vine_err_set(u->err, VINE_EINVAL, "'%s': cannot use its entry '%s': %s",
                        u->options->name, name, why);
}

static int damaged(struct unpack *u, const char *name)
{
    const char *why = archive_error_string(u->archive);

    if (why == NULL)
        why = "unknown reason";
    if (name == NULL)
        return vine_err_set(u->err, VINE_ECORRUPT, "'%s' is damaged: %s",
                            u->options->name, why);
    return vine_err_set(u->err, VINE_ECORRUPT, "'%s' is damaged at its entry '%s': %s",
                        u->options->name, name, why);
}

static int put_data(struct unpack *u, uint64_t size)
{
    uint64_t at = 0;

    for (;;) {
        const void *data;
        size_t len;
        la_int64_t offset;
        int result = archive_read_data_block(u->archive, &data, &len, &offset);

        if (result == ARCHIVE_EOF)
            break;
        if (result != ARCHIVE_OK) /* a warning here is a bad checksum */
            return damaged(u, u->path);
        if (len == 0)
            continue;
        if (offset < 0 || (uint64_t)offset < at || (uint64_t)offset > size ||
            len > size - (uint64_t)offset)
            return wrong_entry(u, u->path, "it has more bytes than its header says");
        if (offset == 0)
            told_take(&u->told, u->path, data, len);
        if (tar_out_zeros(u->tar, (uint64_t)offset - at, u->err) < 0 ||
            tar_out_data(u->tar, data, len, u->err) < 0)
            return -1;
        at = (uint64_t)offset + len;
        if (u->progress != NULL && u->progress->tell != NULL &&
            u->progress->tell(u->progress->ctx, u->bytes + at, u->totals->entries) != 0)
            return vine_err_set(u->err, VINE_ECANCELED, "canceled");
    }
    return tar_out_zeros(u->tar, size - at, u->err);
}

static void note_marks(struct unpack *u, enum name_type type)
{
    struct image_marks *marks = &u->marks;

    if (type == NAME_DIR)
        marks->conda_meta |= strcmp(u->path, "conda-meta") == 0;
    u->channel |= strncmp(u->path, "channel/", 8) == 0;
    if (type != NAME_FILE)
        return;
    u->pixi_pack |= strcmp(u->path, "pixi-pack.json") == 0;
    marks->conda_meta |= strncmp(u->path, "conda-meta/", 11) == 0;
    marks->pixi |= strcmp(u->path, "conda-meta/pixi") == 0;
    marks->conda_unpack |= strcmp(u->path, RELOCATE_SCRIPT) == 0;
    marks->pyvenv |= strcmp(u->path, "pyvenv.cfg") == 0;
}

static enum name_type type_of(struct archive_entry *e)
{
    switch (archive_entry_filetype(e)) {
    case AE_IFREG:
        return NAME_FILE;
    case AE_IFDIR:
        return NAME_DIR;
    case AE_IFLNK:
        return NAME_LINK;
    default:
        return NAME_OTHER;
    }
}

static int put_held(struct unpack *u)
{
    auto_free uint8_t *data = u->held.data;
    uint64_t size = u->held.header.size;

    if (data == NULL)
        return 0;
    u->held.data = NULL;
    u->held.header.path = VENV_FILE;
    if (size > u->options->max_bytes - u->bytes)
        return vine_err_set(u->err, VINE_ELIMIT, "'%s' grows too large",
                            u->options->name);
    if (tar_out_entry(u->tar, &u->held.header, u->err) < 0)
        return -1;
    u->bytes += size;
    return size > 0 ? tar_out_data(u->tar, data, (size_t)size, u->err) : 0;
}

/* Another name of an entry that came before. */
static int put_hard_link(struct unpack *u, const char *target)
{
    const char *wrong = names_make_plain(target, u->link_to);
    struct tar_entry header = {.path = u->path, .mode = S_IFREG | 0644};
    enum name_type type;
    bool again;

    if (wrong != NULL)
        return wrong_entry(u, u->path, "it is a hard link out of the archive");
    if (globs_match_above(u->options->exclude, u->link_to, false))
        return wrong_entry(u, u->path,
                           "it is a hard link to a file that is to be left out: leave "
                           "out both or none");
    type = names_find(u->names, u->link_to);
    if (type != NAME_FILE && type != NAME_LINK)
        return wrong_entry(u, u->path,
                           "it is a hard link to what is not before it in the archive");
    if (relocate_has(u->relocate, u->path) && !relocate_has(u->relocate, u->link_to))
        return wrong_entry(u, u->path,
                           "it has a prefix, and is a hard link to a file without");
    wrong = names_add(u->names, u->path, type, &again);
    if (wrong != NULL)
        return wrong_entry(u, u->path, wrong);
    if (strcmp(u->link_to, VENV_FILE) == 0 && put_held(u) < 0)
        return -1;
    header.link_to = u->link_to;
    u->totals->entries++;
    return tar_out_entry(u->tar, &header, u->err);
}

/* All of the entry, whose size is known. Caller frees. */
static uint8_t *read_whole(struct unpack *u, size_t size)
{
    uint8_t *data = malloc(size + 1), more;
    la_ssize_t n = data != NULL ? archive_read_data(u->archive, data, size) : 0;

    if (data == NULL)
        vine_err_set(u->err, VINE_ENOMEM, "out of memory");
    else if (n < 0 || (size_t)n != size || archive_read_data(u->archive, &more, 1) != 0)
        damaged(u, u->path);
    else
        return data;
    free(data);
    return NULL;
}

static int put_relocated(struct unpack *u, struct tar_entry *header)
{
    auto_free uint8_t *data = NULL;
    struct vine_err why = {0};
    size_t len = (size_t)header->size;

    if (header->size > RELOCATE_FILE_MAX)
        return wrong_entry(u, u->path, "it is too large to write a prefix into");
    data = read_whole(u, len);
    if (data == NULL)
        return -1;
    if (relocate_apply(u->relocate, u->path, u->options->prefix, &data, &len, &why) < 0)
        return wrong_entry(u, u->path, why.text);
    header->size = len;
    if (len > u->options->max_bytes - u->bytes)
        return vine_err_set(u->err, VINE_ELIMIT, "'%s' grows too large",
                            u->options->name);
    u->bytes += len;
    if (tar_out_entry(u->tar, header, u->err) < 0)
        return -1;
    return len > 0 ? tar_out_data(u->tar, data, len, u->err) : 0;
}

static int hold(struct unpack *u, const struct tar_entry *header)
{
    uint8_t *data = read_whole(u, (size_t)header->size);

    if (data == NULL)
        return -1;
    free(u->held.data);
    u->held.data = data;
    u->held.header = *header;
    return 0;
}

static int put_file(struct unpack *u, struct archive_entry *e, struct tar_entry *header)
{
    la_int64_t size = archive_entry_size(e);

    if (!archive_entry_size_is_set(e) || size < 0)
        return wrong_entry(u, u->path, "its size is not known");
    if ((uint64_t)size > u->options->max_bytes - u->bytes)
        return vine_err_set(
            u->err, VINE_ELIMIT, "'%s' holds more than %llu bytes unpacked",
            u->options->name, (unsigned long long)u->options->max_bytes);
    header->size = (uint64_t)size;
    if (relocate_has(u->relocate, u->path))
        return put_relocated(u, header);
    if (strcmp(u->path, VENV_FILE) == 0 && header->size <= HELD_MAX)
        return hold(u, header);
    if (tar_out_entry(u->tar, header, u->err) < 0 || put_data(u, header->size) < 0)
        return -1;
    u->bytes += header->size;
    return 0;
}

static int put_named(struct unpack *u, struct archive_entry *e)
{
    enum name_type type = type_of(e);
    struct tar_entry header = {.path = u->path,
                               .mode = archive_entry_mode(e),
                               .uid = u->options->uid,
                               .gid = u->options->gid,
                               .mtime = archive_entry_mtime_is_set(e)
                                            ? archive_entry_mtime(e)
                                            : u->options->mtime};
    const char *wrong;
    bool again;

    if (u->held.data != NULL && type == NAME_FILE && strcmp(u->path, VENV_FILE) == 0 &&
        archive_entry_size(e) <= HELD_MAX)
        return put_file(u, e, &header);
    wrong = names_add(u->names, u->path, type, &again);
    if (wrong != NULL)
        return wrong_entry(u, u->path, wrong);
    if (type == NAME_OTHER || again)
        return 0;
    u->totals->entries++;
    note_marks(u, type);
    if (u->pixi_pack && u->channel)
        return vine_err_set(
            u->err, VINE_EINVAL,
            "'%s' is an archive of pixi-pack: it holds packages, and no "
            "environment yet. 'vine-env pack' makes an image of it: take that",
            u->options->name);
    u->totals->files += type == NAME_FILE;
    if (type == NAME_FILE)
        return put_file(u, e, &header);
    if (type == NAME_LINK) {
        header.target = archive_entry_symlink(e);
        if (header.target == NULL || header.target[0] == '\0' ||
            strlen(header.target) >= VINE_PATH_MAX)
            return wrong_entry(u, u->path, "its link target is bad");
        header.mode = S_IFLNK | 0777;
    }
    return tar_out_entry(u->tar, &header, u->err);
}

static int put_one(struct unpack *u, struct archive_entry *e)
{
    const char *name = archive_entry_pathname(e), *wrong;

    if (name == NULL)
        return wrong_entry(u, "?", "its name cannot be read");
    wrong = names_make_plain(name, u->path);
    if (wrong != NULL)
        return wrong_entry(u, name, wrong);
    if (u->path[0] == '\0') /* the root: its attributes are the archive file's */
        return 0;
    if (globs_match_above(u->options->exclude, u->path, type_of(e) == NAME_DIR))
        return 0;
    if (archive_entry_is_encrypted(e))
        return wrong_entry(u, name, "it is encrypted");
    if (archive_entry_hardlink(e) != NULL)
        return put_hard_link(u, archive_entry_hardlink(e));
    return put_named(u, e);
}

static int put_implied(void *ctx, const char *path)
{
    struct unpack *u = ctx;
    const struct tar_entry header = {.path = path,
                                     .mode = S_IFDIR | 0755,
                                     .uid = u->options->uid,
                                     .gid = u->options->gid,
                                     .mtime = u->options->mtime};

    u->totals->entries++;
    return tar_out_entry(u->tar, &header, u->err);
}

/* A plain tar has no checksum over its whole: without its end it was cut short. */
static int check_end(struct unpack *u, int fd)
{
    struct stat st;
    uint8_t end[END_BYTES];

    if (u->options->streamed ||
        (archive_format(u->archive) & ARCHIVE_FORMAT_BASE_MASK) != ARCHIVE_FORMAT_TAR ||
        archive_filter_count(u->archive) > 1)
        return 0;
    if (fstat(fd, &st) < 0)
        return vine_err_sys(u->err, "cannot look at '%s'", u->options->name);
    if (st.st_size >= END_BYTES &&
        pread_whole(fd, end, END_BYTES, (uint64_t)st.st_size - END_BYTES) ==
            END_BYTES &&
        bytes_are_zero(end, END_BYTES))
        return 0;
    return vine_err_set(u->err, VINE_ECORRUPT,
                        "'%s' is damaged: its end is missing, it was cut short",
                        u->options->name);
}

static int put_all(struct unpack *u, int fd)
{
    struct archive_entry *e;
    int result;

    while ((result = archive_read_next_header(u->archive, &e)) == ARCHIVE_OK ||
           result == ARCHIVE_WARN)
        if (put_one(u, e) < 0)
            return -1;
    if (result != ARCHIVE_EOF)
        return damaged(u, NULL);
    if (check_end(u, fd) < 0)
        return -1;
    if (u->options->prefix != NULL && u->options->streamed && u->marks.conda_unpack)
        return vine_err_set(u->err, VINE_EINVAL,
                            "'%s' is an archive of conda-pack, which is read twice to "
                            "write a prefix into it: get it from its server first",
                            u->options->name);
    if (put_held(u) < 0)
        return -1;
    return names_each_implied(u->names, put_implied, u);
}

static int open_archive(struct unpack *u, int fd)
{
    struct archive *a = archive_read_new();

    u->archive = a;
    if (a == NULL)
        return vine_err_set(u->err, VINE_ENOMEM, "out of memory");
    /* ARCHIVE_WARN would mean an outside program. */
    if (archive_read_support_format_tar(a) != ARCHIVE_OK ||
        archive_read_support_format_zip_seekable(a) != ARCHIVE_OK ||
        archive_read_support_filter_gzip(a) != ARCHIVE_OK ||
        archive_read_support_filter_bzip2(a) != ARCHIVE_OK ||
        archive_read_support_filter_xz(a) != ARCHIVE_OK ||
        archive_read_support_filter_zstd(a) != ARCHIVE_OK)
        return vine_err_set(u->err, VINE_ESYS,
                            "libarchive was built without a compression we need");
    if (archive_read_open_fd(a, fd, READ_BYTES) != ARCHIVE_OK)
        return damaged(u, NULL);
    return 0;
}

/* conda-pack's script comes last, behind all that it is about: the archive is read
 * twice. What is damaged is told the second time. */
static int find_relocations(struct unpack *u, int fd)
{
    struct archive_entry *e;
    int result = 0;

    if (u->options->prefix == NULL || u->options->streamed)
        return 0;
    if (open_archive(u, fd) < 0)
        return -1;
    while (result == 0 && u->relocate == NULL &&
           archive_read_next_header(u->archive, &e) >= ARCHIVE_WARN) {
        const char *name = archive_entry_pathname(e);
        la_int64_t size = archive_entry_size(e);
        auto_free uint8_t *script = NULL;
        struct vine_err why = {0};

        if (name == NULL || type_of(e) != NAME_FILE || size <= 0 ||
            names_make_plain(name, u->path) != NULL ||
            strcmp(u->path, RELOCATE_SCRIPT) != 0)
            continue;
        if (size > RELOCATE_SCRIPT_MAX)
            result = wrong_entry(u, u->path, "it is too large");
        else if ((script = read_whole(u, (size_t)size)) == NULL)
            result = -1;
        else if (relocate_parse((char *)script, (size_t)size, &u->relocate, &why) < 0)
            result = wrong_entry(u, u->path, why.text);
    }
    archive_read_free(u->archive);
    u->archive = NULL;
    if (result == 0 && lseek(fd, 0, SEEK_SET) < 0)
        result = vine_err_sys(u->err, "cannot read '%s'", u->options->name);
    return result;
}

int unpack_to_tar(int fd, const struct unpack_options *options, struct tar_out *tar,
                  const struct image_progress *progress, struct image_totals *totals,
                  struct vine_err *err)
{
    struct unpack *u = calloc(1, sizeof(*u));
    locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    locale_t before = utf8 != (locale_t)0 ? uselocale(utf8) : (locale_t)0;
    int result = -1;

    if (u != NULL) {
        u->options = options;
        u->tar = tar;
        u->progress = progress;
        u->totals = totals;
        u->err = err;
        u->names = names_new();
        totals->entries = totals->files = 0;
        if (u->names == NULL)
            vine_err_set(err, VINE_ENOMEM, "out of memory");
        else if (find_relocations(u, fd) == 0 && open_archive(u, fd) == 0)
            result = put_all(u, fd);
        totals->bytes = u->bytes;
        totals->activate = image_activate_of(&u->marks);
        totals->env = image_env_of(&u->marks);
        if (totals->activate != IMAGE_ACTIVATE_NONE && !u->marks.conda_unpack)
            (void)snprintf(totals->prefix, sizeof(totals->prefix), "%s",
                           told_prefix(&u->told));
        if (u->archive != NULL)
            archive_read_free(u->archive);
        names_free(u->names);
        relocate_free(u->relocate);
        free(u->held.data);
        free(u);
    } else {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    if (utf8 != (locale_t)0) {
        uselocale(before);
        freelocale(utf8);
    }
    return result;
}
