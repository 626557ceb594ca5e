/* inspect.c - vine-env inspect: what an image file says about itself, and what takes
 * the space in it. Nothing is mounted and no daemon is asked. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/cli/cli.h"
#include "daemon/cli/contents.h"
#include "daemon/cli/table.h"
#include "daemon/image/bytes.h"
#include "daemon/image/image.h"
#include "vine/escape.h"

#define SHOWN 10

struct inspection {
    const char *path;
    uint64_t file_size;
    struct image_info info;
    struct image_trailer trailer;
    char digest[VINE_HEX_LEN + 1]; /* "": not a packed file */
    bool has_info, is_packed;
    uint64_t object_size;
    struct contents contents;
};

static int open_image(const char *path, uint64_t *size, struct vine_err *err)
{
    struct stat st;
    int fd;

    if (stat(path, &st) < 0)
        return vine_err_sys(err, "cannot look at '%.300s'", path);
    if (!S_ISREG(st.st_mode))
        return vine_err_set(err, VINE_EINVAL,
                            "'%.300s' is %s: this takes an image file, as 'vine-env "
                            "pack' makes them",
                            path, S_ISDIR(st.st_mode) ? "a directory" : "no file");
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st) < 0)
        return vine_err_sys(err, "cannot open '%.300s'", path);
    *size = (uint64_t)st.st_size;
    return fd;
}

static int read_trailer(struct inspection *in, int fd, struct vine_err *err)
{
    struct manifest manifest = {0};

    if (image_trailer_read(fd, in->file_size, &in->trailer, &manifest, &in->is_packed,
                           err) < 0)
        return -1;
    in->object_size = in->is_packed ? in->trailer.object_size : in->file_size;
    if (in->is_packed)
        vine_digest_hex(&manifest.digest, in->digest);
    manifest_free(&manifest);
    return 0;
}

static int look(struct inspection *in, struct vine_err *err)
{
    auto_fd int fd = open_image(in->path, &in->file_size, err);
    uint8_t super[96];
    uint64_t used;

    if (fd < 0 || read_trailer(in, fd, err) < 0)
        return -1;
    if (pread_whole(fd, super, sizeof(super), 0) != sizeof(super) ||
        !image_superblock_valid(super, in->object_size, &used))
        return vine_err_set(err, VINE_ECORRUPT,
                            "'%.300s' is no squashfs image, or is cut short", in->path);
    if (image_info_read(fd, in->object_size, &in->info, &in->has_info, err) < 0)
        return -1;
    if (contents_read(fd, in->path, &in->contents, err) < 0)
        return -1;
    /* Images of older versions do not say it, others say nothing at all. */
    if (in->info.files == 0)
        in->info.files = in->contents.files;
    if (in->info.bytes == 0)
        in->info.bytes = in->contents.bytes;
    return 0;
}

static int print_json(struct inspection *in)
{
    char *path = vine_path_escape(in->path),
         *prefix = vine_path_escape(in->info.prefix);
    json_t *packages = packages_json(in->contents.packages, in->contents.bytes, false);
    json_t *document = NULL;

    if (path != NULL && prefix != NULL && packages != NULL)
        document = json_pack(
            "{s:s, s:I, s:I, s:b, s:b, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:s, s:s, "
            "s:O}",
            "file", path, "size", (json_int_t)in->file_size, "object_size",
            (json_int_t)in->object_size, "packed", (int)in->is_packed, "signed",
            (int)(in->is_packed && in->trailer.is_signed), "digest", in->digest,
            "prefix", prefix, "env", image_env_name(in->info.env), "activate",
            image_activate_name(in->info.activate), "entries",
            (json_int_t)in->info.entries, "files", (json_int_t)in->info.files, "bytes",
            (json_int_t)in->info.bytes, "tool", in->info.tool, "created_by",
            in->info.created_by, "packages", packages);
    free(path);
    free(prefix);
    json_decref(packages);
    return cli_print(document);
}

static void print_packages(struct inspection *in)
{
    static const char *const headings[] = {"PACKAGE", "VERSION", ">FILES",
                                           ">SIZE",   ">SHARE",  NULL};
    struct table *table = table_new(headings);
    size_t count;
    const struct package *list = packages_sorted(in->contents.packages, &count);
    uint64_t total = in->contents.bytes > 0 ? in->contents.bytes : 1;

    for (size_t i = 0; i < count && i < SHOWN; i++) {
        char *name = vine_path_escape(list[i].name);
        char *version = vine_path_escape(list[i].version);
        struct figure files = figure_count(list[i].files);
        struct figure bytes = figure_bytes(list[i].bytes), share;
        const char *cells[] = {name != NULL ? name : "",
                               version != NULL && *version != '\0' ? version : "-",
                               files.text, bytes.text, share.text};

        (void)snprintf(share.text, sizeof(share.text), "%.1f %%",
                       100.0 * (double)list[i].bytes / (double)total);
        table_add(table, cells);
        free(name);
        free(version);
    }
    if (count > 0)
        printf("\nthe %zu largest of %zu packages:\n", count < SHOWN ? count : SHOWN,
               count);
    (void)table_print(table, stdout);
    if (in->contents.bad_lists > 0)
        printf("%llu files in conda-meta are no lists of conda's and were not used\n",
               (unsigned long long)in->contents.bad_lists);
}

static int print_text(struct inspection *in)
{
    const struct image_info *info = &in->info;
    char *prefix = vine_path_escape(info->prefix);

    printf("%s: %s, %s\n", in->path, figure_bytes(in->file_size).text,
           !in->is_packed          ? "a plain squashfs image"
           : in->trailer.is_signed ? "packed and signed"
                                   : "packed, not signed");
    printf("prefix        %s\n", prefix != NULL && *prefix != '\0' ? prefix
                                 : in->has_info ? "none: it appears in /run/vine/env"
                                                : "not known");
    printf("environment   %s\n", image_env_name(info->env));
    printf("files         %s", figure_count(info->files).text);
    if (info->entries > 0)
        printf(" (%s entries)", figure_count(info->entries).text);
    printf("\nuncompressed  %s", figure_bytes(info->bytes).text);
    if (info->bytes >= in->object_size)
        printf(", the image has %.0f %% of it",
               100.0 * (double)in->object_size / (double)info->bytes);
    printf("\n");
    if (in->is_packed)
        printf("digest        %s\n", in->digest);
    if (in->has_info)
        printf("made by       %s; %s\n", info->created_by, info->tool);
    free(prefix);
    print_packages(in);
    return fflush(stdout) == 0 && !ferror(stdout) ? CLI_OK : CLI_FAILED;
}

static int run_inspect(struct cli *cli, int argc, char *argv[])
{
    static struct inspection in;
    struct vine_err err = {0};
    int result;

    in.path = argv[0];
    if (look(&in, &err) < 0)
        result = cli_fail(cli, &err);
    else
        result = cli->json ? print_json(&in) : print_text(&in);
    contents_free(&in.contents);
    return result;
}

const struct cli_command cli_inspect = {
    .name = "inspect",
    .arguments = "FILE [--json]",
    .summary = "Show what an image file is made of, and its largest packages",
    .run = run_inspect,
    .min_args = 1,
    .max_args = 1,
    .notes = "Packages are those of conda-meta; where there are none, the top-level "
             "names in\n"
             "site-packages. Sizes are those of the files, not what they take in the "
             "image.\n"
             "Nothing is mounted, and no daemon is needed.\n",
};
