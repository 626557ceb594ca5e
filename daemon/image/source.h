/* source.h - a source, opened and resolved by the user it belongs to.
 *
 * A directory, an archive, an image or a file of data becomes facts (what it is, and a
 * key that names exactly this content), and then bytes: a tar of it, or the object's
 * own. All calls block; none may be made while another runs on the same source. */
#ifndef VINE_IMAGE_SOURCE_H
#define VINE_IMAGE_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/image/info.h"
#include "daemon/image/shape.h"
#include "daemon/image/tree.h"
#include "vine/digest.h"
#include "vine/err.h"
#include "vine/limits.h"

enum image_source_kind {
    IMAGE_SOURCE_DIR,
    IMAGE_SOURCE_ARCHIVE,
    IMAGE_SOURCE_IMAGE,
    IMAGE_SOURCE_FILE,
};

struct image_source_options {
    const char *path;   /* absolute */
    uint64_t view;      /* a process of the same user, whose files are meant; 0: ours */
    unsigned threads;   /* 0 = default */
    uint64_t max_bytes; /* 0 = VINE_OBJECT_MAX */
    enum tree_caching caching;
    bool data; /* a file is a file, whatever its name */
    bool
        key_first; /* of an image file only look at the file: image_source_look reads */
    struct image_shape shape; /* archives: `exclude`, `prefix`; images: none */
};

struct image_source_facts {
    enum image_source_kind kind;
    struct vine_digest key;
    char canonical[VINE_PATH_MAX];
    uint64_t entries, bytes, alloc, skipped; /* see daemon/source/PROTOCOL.md */
    uint32_t root_mode, root_uid, root_gid;
    int64_t root_mtime;
    enum image_activate activate;
    enum image_env env;
    uint64_t files; /* directories */
    uint64_t manifest_bytes, object_size;
    struct vine_digest signature;
    bool is_signed;
    bool everybody; /* directories: all users may read all of it */
    bool unread;    /* the key is known, nothing inside the file yet */
};

struct image_source;

int image_source_open(const struct image_source_options *options,
                      struct image_source **out, struct vine_err *err);
/* What key_first left out. */
int image_source_look(struct image_source *source, struct vine_err *err);
const struct image_source_facts *image_source_facts(const struct image_source *source);
void image_source_free(struct image_source *source);
const char *image_source_kind_name(enum image_source_kind kind);

struct image_progress {
    /* From the calling thread, often; other than 0 cancels (VINE_ECANCELED). NULL: none
     */
    int (*tell)(void *ctx, uint64_t bytes, uint64_t files);
    void *ctx;
};

struct image_totals {
    uint64_t written;        /* bytes given to fd */
    uint64_t entries, bytes; /* of the tree, archives too */
    uint64_t files;          /* regular ones of these, hard links once */
    enum image_activate activate;
    enum image_env env;
    char prefix[VINE_PATH_MAX];      /* archives: where it says it was; "": nothing */
    uint64_t listing_bytes;          /* written to listing_fd; 0: none */
    uint64_t same_files, same_bytes; /* not read */
};

struct image_base { /* directories only; -1: none */
    int listing_fd; /* gets the body of the new listing (listing.h) */
    int base_fd;    /* the image before; the body of its listing is there: */
    uint64_t base_offset, base_length;
};

/* Directories and archives: the tar, whole, to fd. `base` may be NULL. A base whose
 * listing is damaged is none. */
int image_source_build(struct image_source *source, int fd,
                       const struct image_base *base,
                       const struct image_progress *progress,
                       struct image_totals *totals, struct vine_err *err);

/* Images and files of data: bytes [offset, offset + length) of the object, or of an
 * image the manifest, to fd. */
int image_source_copy(struct image_source *source, int fd, uint64_t offset,
                      uint64_t length, const struct image_progress *progress,
                      struct vine_err *err);
int image_source_manifest(struct image_source *source, int fd, struct vine_err *err);

#endif
