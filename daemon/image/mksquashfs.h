/* mksquashfs.h - the old names of builder.h, until its callers say image_builder. */
#ifndef VINE_IMAGE_MKSQUASHFS_H
#define VINE_IMAGE_MKSQUASHFS_H

#include <stdint.h>

#include "daemon/image/builder.h"

struct image_mksquashfs {
    const char *program, *output;
    unsigned processors, memory_mib;
    uint32_t root_mode, root_uid, root_gid; /* come with the tar now */
    int64_t root_mtime;
};

static inline int image_mksquashfs_argv(const struct image_mksquashfs *m,
                                        struct image_argv *out, struct vine_err *err)
{
    const struct image_builder b = {m->program, m->output, m->processors};

    return image_builder_argv(&b, out, err);
}

static inline const char *image_mksquashfs_tool(void)
{
    return image_builder_tool();
}

#endif
