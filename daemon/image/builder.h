/* builder.h - the one way this project calls the image builder, tar2sqfs.
 *
 * It reads a tar on fd 0 and writes the squashfs image that `output` names. The tar's
 * first entry "./" gives the root's attributes. The same tar gives the same bytes with
 * any number of jobs. It prints errors on stderr and exits 1; a tar that simply ends
 * early is no error for it, so the writer of the tar must be asked too. */
#ifndef VINE_IMAGE_BUILDER_H
#define VINE_IMAGE_BUILDER_H

#include "vine/err.h"

#define IMAGE_BUILDER "tar2sqfs" /* looked up in PATH; package squashfs-tools-ng */
#define IMAGE_ARGV_MAX 20

struct image_builder {
    const char *program; /* argv[0]; NULL = IMAGE_BUILDER */
    /* Opened read-write and truncated by the builder itself, with the rights of the
     * user it runs as: for "/proc/self/fd/N" the caller fchown()s the file first. */
    const char *output;
    unsigned jobs; /* compressing threads, 0 = as many as there are processors */
};

struct image_argv {
    char *argv[IMAGE_ARGV_MAX]; /* NULL-terminated; points into text and literals */
    char text[32];
};

/* Fill *out (do not copy it). `b->program` and `b->output` are borrowed. */
int image_builder_argv(const struct image_builder *b, struct image_argv *out,
                       struct vine_err *err);

/* The text for image_info.tool, without running anything. */
const char *image_builder_tool(void);

#endif
