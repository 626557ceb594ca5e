/* builder.h - the one way this project calls the image builder, vine-squash.
 *
 * It reads a tar on descriptor 0 and writes the squashfs image to descriptor 3, open
 * for reading and writing, from its start on; with a base, an older image is read on
 * descriptor 4. The tar's first entry "./" gives the root's attributes. The same tar
 * gives the same bytes with any number of jobs. It prints errors on stderr and exits 1;
 * a tar without its end is one, but whether what it holds is whole only the writer of
 * the tar can say.
 *
 * With --list it lists the image on descriptor 4 instead (daemon/squash/list.h). */
#ifndef VINE_IMAGE_BUILDER_H
#define VINE_IMAGE_BUILDER_H

#include <stdbool.h>

#include "vine/limits.h"

#define IMAGE_BUILDER "vine-squash" /* in VINE_LIBEXECDIR */
#define IMAGE_BUILDER_TAR_FD 0
#define IMAGE_BUILDER_IMAGE_FD 3
#define IMAGE_BUILDER_BASE_FD 4
#define IMAGE_ARGV_MAX 6

struct image_builder {
    const char *program; /* argv[0]; NULL = IMAGE_BUILDER */
    unsigned jobs;       /* compressing threads, 0 = as many as there are processors */
    bool base;           /* IMAGE_BUILDER_BASE_FD is open */
};

struct image_argv {
    char *argv[IMAGE_ARGV_MAX]; /* NULL-terminated; points into text and literals */
    char text[32];
};

/* Fill *out (do not copy it). `b->program` is borrowed. */
void image_builder_argv(const struct image_builder *b, struct image_argv *out);

/* Where a program of ours is: beside this one where that was built, else where they are
 * installed. */
void image_program_find(const char *name, char out[VINE_PATH_MAX]);

/* The text for image_info.tool, without running anything. */
const char *image_builder_tool(void);

#endif
