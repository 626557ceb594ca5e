/* builder.c - the argument vector of vine-squash.
 *
 * Why a builder of our own: the image must depend on the tar alone, so that two nodes
 * building one tree make one object, and a new version of a tree must not cost what a
 * new tree does. mksquashfs 4.5.1 -tar, which is as fast, gave different images for one
 * tar, ignored -root-uid, -root-gid and -root-time, and cut "../" off link targets in
 * pax headers; tar2sqfs of
 * squashfs-tools-ng keeps the first rule, and ours writes the same bytes, but it
 * compresses everything anew.
 *
 * zstd level 3: the knee of time against size. Blocks of 128 KiB: 256 KiB make an image
 * 5 % smaller and 1 MiB 12 %, but a new version shares less with the one before (an
 * added package: 2.1, 3.1 and 3.4 % new) and every first touch of a file costs more. */
#include "daemon/image/builder.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

void image_builder_argv(const struct image_builder *b, struct image_argv *out)
{
    unsigned count = 0;

    memset(out, 0, sizeof(*out));
    out->argv[count++] = (char *)(b->program != NULL ? b->program : IMAGE_BUILDER);
    if (b->base)
        out->argv[count++] = (char *)"--base";
    if (b->jobs > 0) {
        (void)snprintf(out->text, sizeof(out->text), "%u", b->jobs);
        out->argv[count++] = (char *)"--jobs";
        out->argv[count++] = out->text;
    }
}

void image_program_find(const char *name, char out[VINE_PATH_MAX])
{
    size_t size = strlen(name) + 1;
    ssize_t len = readlink("/proc/self/exe", out, VINE_PATH_MAX - size);
    char *slash;

    out[len > 0 ? len : 0] = '\0';
    slash = strrchr(out, '/');
    if (slash != NULL) {
        memcpy(slash + 1, name, size);
        if (access(out, R_OK) == 0)
            return;
    }
    (void)snprintf(out, VINE_PATH_MAX, "%s/%s", VINE_LIBEXECDIR, name);
}

const char *image_builder_tool(void)
{
    return IMAGE_BUILDER " zstd level=3 131072";
}
