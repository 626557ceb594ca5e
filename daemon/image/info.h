/* info.h - what an image says about itself: a block after the squashfs bytes.
 *
 * object = squashfs padded to 4096 | of a directory: its listing (listing.h), padded
 *          as well | info block (a multiple of 4096):
 *   "VNINFO1\n" | u32 json length | json | zeros | u64 block length | "VNINFEND"
 * Big-endian. The block is found from the end of the object; the kernel and squashfuse
 * ignore it. The same info gives the same bytes. */
#ifndef VINE_IMAGE_INFO_H
#define VINE_IMAGE_INFO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vine/err.h"
#include "vine/limits.h"

#define IMAGE_INFO_BLOCK 4096u
#define IMAGE_INFO_MAX (32u << 10) /* a path of 4095 bytes, escaped, and the rest */

enum image_activate { IMAGE_ACTIVATE_NONE, IMAGE_ACTIVATE_VENV, IMAGE_ACTIVATE_CONDA };

/* What made the tree, as far as its files tell. */
enum image_env {
    IMAGE_ENV_UNKNOWN, /* of images of older versions */
    IMAGE_ENV_NONE,    /* no environment: a directory */
    IMAGE_ENV_VENV,    /* venv, virtualenv, uv; venv-pack */
    IMAGE_ENV_CONDA,
    IMAGE_ENV_CONDA_PACK, /* conda's, with conda-pack's conda-unpack */
    IMAGE_ENV_PIXI,
};
#define IMAGE_ENV_LAST IMAGE_ENV_PIXI

struct image_info {
    char prefix[VINE_PATH_MAX]; /* where it appears, raw bytes; "" = not known */
    char tool[128];             /* "vine-squash zstd level=3 131072"; printable ASCII */
    char created_by[64];        /* "vine-env 0.1.0" */
    enum image_activate activate;
    enum image_env env;
    uint64_t entries, bytes; /* of the tree; bytes as files have them, not packed */
    uint64_t files;          /* regular ones, hard links once; 0: not known */
    uint64_t listing_offset, listing_bytes; /* listing.h; bytes 0: none */
};

const char *
image_activate_name(enum image_activate activate); /* "none" "venv" "conda" */
int image_activate_parse(const char *name, enum image_activate *out);
const char *
image_env_name(enum image_env env); /* "unknown" "none" "venv" "conda" ... */
int image_env_parse(const char *name, enum image_env *out);

/* What files of a root tell: IMAGE_ENV_... */
struct image_marks {
    bool conda_meta;   /* conda-meta/ or a file in it */
    bool pixi;         /* conda-meta/pixi */
    bool conda_unpack; /* bin/conda-unpack */
    bool pyvenv;       /* pyvenv.cfg */
};
enum image_env image_env_of(const struct image_marks *marks);
enum image_activate image_activate_of(const struct image_marks *marks);

/* Bytes of the block of `info`, 0 if it cannot be written (out of memory). */
size_t image_info_encode(const struct image_info *info, uint8_t out[IMAGE_INFO_MAX],
                         struct vine_err *err);

/* Pad the file to 4096 and append the block. *size_out: the object's size then. */
int image_info_write(int fd, const struct image_info *info, uint64_t *size_out,
                     struct vine_err *err);

/* Read the block at the end of the first `size` bytes of fd (pread only). No block:
 * 0 with *found false and *info zeroed. A block that is wrong in any way: -1,
 * VINE_ECORRUPT, both untouched. */
int image_info_read(int fd, uint64_t size, struct image_info *info, bool *found,
                    struct vine_err *err);

/* The same from memory: `tail` is the last `len` bytes of an object. For tests, fuzz.
 */
int image_info_decode(const uint8_t *tail, size_t len, struct image_info *info,
                      bool *found, struct vine_err *err);

#endif
