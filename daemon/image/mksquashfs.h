/* mksquashfs.h - the one way this project calls mksquashfs.
 *
 * It reads a tar on fd 0 and writes the file that `output` names. The same tar gives
 * the same bytes with any number of processors. It prints errors on stderr and exits 1.
 */
#ifndef VINE_IMAGE_MKSQUASHFS_H
#define VINE_IMAGE_MKSQUASHFS_H

#include <stdint.h>

#include "vine/err.h"

#define IMAGE_MKSQUASHFS "mksquashfs" /* looked up in PATH, or an absolute path */
#define IMAGE_ARGV_MAX 48

struct image_mksquashfs {
    const char *program; /* argv[0]; NULL = IMAGE_MKSQUASHFS */
    /* Opened read-write and truncated by mksquashfs itself, with the helper user's
     * rights: for "/proc/self/fd/N" the caller fchown()s the file to that user first.
     * It must exist and be a regular file. */
    const char *output;
    unsigned processors; /* 0 = all */
    unsigned memory_mib; /* 0 = 512 */
    uint32_t root_mode;  /* 07777 bits */
    uint32_t root_uid, root_gid;
    int64_t root_mtime; /* seconds; clamped to what squashfs holds */
};

struct image_argv {
    char *argv[IMAGE_ARGV_MAX]; /* NULL-terminated; points into text and literals */
    char text[512];
};

/* Fill *out (do not copy it). `m->program` and `m->output` are borrowed. */
int image_mksquashfs_argv(const struct image_mksquashfs *m, struct image_argv *out,
                          struct vine_err *err);

/* The text for image_info.tool, without running anything. */
const char *image_mksquashfs_tool(void);

#endif
