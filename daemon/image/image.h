/* image.h - images: what they are made of and how they are packed.
 *
 * info.h        what an image says about itself
 * pack.h        packed files: object, manifest, signature
 * builder.h     the argument vector of the image builder, vine-squash
 * hash.h        the manifest of a file; follow.h: begun while it is written
 * source.h      reading sources; used by vine-source and image_pack_local
 *
 * How the daemon builds: vine-source (as the user) writes a tar to a pipe, vine-squash
 * (as a helper user) makes a file of it, the daemon waits for the child's "done" and
 * the exit 0 of vine-squash, calls image_info_write, and cuts the object into chunks.
 */
#ifndef VINE_IMAGE_IMAGE_H
#define VINE_IMAGE_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/image/builder.h"
#include "daemon/image/hash.h"
#include "daemon/image/info.h"
#include "daemon/image/pack.h"
#include "daemon/image/shape.h"
#include "vine/digest.h"
#include "vine/err.h"

struct image_pack_options {
    const char *source;              /* directory or archive, absolute path */
    const char *output;              /* FILE.sqsh; FILE.sqsh.tmp-PID is renamed to it */
    bool force;                      /* replace an existing output */
    const struct image_shape *shape; /* NULL: as it is */
    unsigned threads;                /* readers, 0 = 16 */
    unsigned processors;             /* compressing threads, 0 = all */
    /* Called from one thread at most every 250 ms; may be NULL. bytes_total 0: unknown.
     * A return value other than 0 cancels (VINE_ECANCELED). */
    int (*progress)(void *ctx, uint64_t bytes_done, uint64_t bytes_total,
                    uint64_t files);
    /* The name of the file while it is unfinished, before it is made; it is removed in
     * any case but when this process is killed. May be NULL. */
    void (*begin)(void *ctx, const char *temporary);
    void *ctx;
};

struct image_pack_result {
    struct vine_digest digest; /* of the object */
    uint64_t object_size, file_size;
    uint64_t entries, bytes; /* of the source; archives: as they came */
    uint64_t files;
    enum image_activate activate;
    enum image_env env;
};

/* Pack as the calling user, without a daemon; unsigned. Blocking; starts threads and a
 * vine-squash child; SIGPIPE must be ignored by the caller. Nothing is left behind when
 * it fails. A source that changes meanwhile is tried three times. */
int image_pack_local(const struct image_pack_options *options,
                     struct image_pack_result *result, struct vine_err *err);

#endif
