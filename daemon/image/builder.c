/* builder.c - the argument vector of tar2sqfs.
 *
 * Why tar2sqfs: the image must depend on the tar alone, so that two nodes building one
 * tree make one object. It keeps that with any number of jobs, takes the root's owner
 * and times from the tar, and reads sparse maps and long link targets right. mksquashfs
 * 4.5.1 -tar, which is as fast, gave different images for one tar, ignored -root-uid,
 * -root-gid and -root-time, and cut "../" off link targets in pax headers.
 *
 * zstd level 3: the knee of time against size. Blocks of 128 KiB: 256 KiB make an image
 * 5 % smaller and 1 MiB 12 %, but a new version shares less with the one before (an
 * added package: 2.1, 3.1 and 3.4 % new) and every first touch of a file costs more. */
#include "daemon/image/builder.h"

#include <stdio.h>
#include <string.h>

#define COMPRESSOR "zstd"
#define LEVEL "level=3"
#define BLOCK_SIZE "131072"
#define BACKLOG "100" /* blocks in work: with the default of 20 threads mostly wait */

int image_builder_argv(const struct image_builder *b, struct image_argv *out,
                       struct vine_err *err)
{
    static const char *const fixed[] = {
        "--compressor", COMPRESSOR,   "--comp-extra",    LEVEL,
        "--block-size", BLOCK_SIZE,   "--queue-backlog", BACKLOG,
        "--no-skip",    "--no-xattr", "--quiet",         "--force"};
    unsigned count = 0;

    if (b->output == NULL || b->output[0] != '/')
        return vine_err_set(err, VINE_EINVAL, "the image needs an absolute path");
    memset(out, 0, sizeof(*out));
    out->argv[count++] = (char *)(b->program != NULL ? b->program : IMAGE_BUILDER);
    for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
        out->argv[count++] = (char *)fixed[i];
    if (b->jobs > 0) {
        (void)snprintf(out->text, sizeof(out->text), "%u", b->jobs);
        out->argv[count++] = (char *)"--num-jobs";
        out->argv[count++] = out->text;
    }
    out->argv[count] = (char *)b->output;
    return 0;
}

const char *image_builder_tool(void)
{
    return "tar2sqfs " COMPRESSOR " " LEVEL " " BLOCK_SIZE;
}
