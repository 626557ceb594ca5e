/* listing.h - the files of a tree as a walk saw them, kept in the image made of it.
 *
 * A later build compares it with its own walk: what is the same need not be read again.
 * object = squashfs padded to 4096 | listing padded to 4096 | info block, which says
 * where the listing is (info.h). Nobody but a daemon writes info blocks and heads.
 *   head: "VNLIST1\n" | u32 scope (0: everybody, 1: one user) | u32 uid or 0 |
 *         SHA-256 of the canonical path | u64 body length
 *   body: one zstd frame of u32 count and so many files, in byte order of their paths:
 *         bytes shared with the path before, bytes that follow, these; inode, size,
 *         mtime, ctime and their nanoseconds, inode and seconds as differences.
 * Big-endian; numbers of the body 7 bits a byte, the lowest first, the top bit set in
 * all but the last. Nothing of the node in it: two nodes write the same bytes. */
#ifndef VINE_IMAGE_LISTING_H
#define VINE_IMAGE_LISTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/image/info.h"
#include "vine/digest.h"
#include "vine/err.h"

#define LISTING_HEAD_BYTES 56u
#define LISTING_BODY_MAX (64u << 20) /* millions of files; a larger one is left out */
#define LISTING_RAW_MAX (512u << 20)

struct listing_head {
    bool everybody; /* all of the tree could be read by everybody; else by this user */
    uint32_t uid;
    struct vine_digest path; /* SHA-256 of the canonical path */
    uint64_t offset, length; /* of the body, in the object; length 0: no listing */
    bool same_tool;          /* the image was built as this version builds */
};

/* Append to the image a head of this scope, uid and path, and the first `length` bytes
 * of body_fd as body, and tell the info where. */
int listing_append(int fd, const struct listing_head *head, int body_fd,
                   uint64_t length, struct image_info *info, struct vine_err *err);

/* The head of the listing in the first `size` bytes of fd (pread only). None: 0 with
 * head->length 0. Wrong in any way: -1, VINE_ECORRUPT, *head untouched. */
int listing_find(int fd, uint64_t size, struct listing_head *head,
                 struct vine_err *err);

struct listing_file {
    const char *path;
    uint64_t ino, size;
    int64_t mtime, ctime;
    uint32_t mtime_ns, ctime_ns;
};

/* A body, written: new, add in order, end (to fd's beginning). */
struct listing_out;
struct listing_out *listing_out_new(void); /* NULL: out of memory */
int listing_out_add(struct listing_out *out, const struct listing_file *file);
/* *length: bytes of it; 0 if it grew too large, and nothing was written. */
int listing_out_end(struct listing_out *out, int fd, uint64_t *length,
                    struct vine_err *err);
void listing_out_free(struct listing_out *out);

/* A body, read: open, next until 0, close. */
struct listing_in;
struct listing_in *listing_in_new(const uint8_t *body, size_t len,
                                  struct vine_err *err);
/* 1: *file set, its path valid until the next call; 0: the end; -1: damaged. */
int listing_in_next(struct listing_in *in, struct listing_file *file,
                    struct vine_err *err);
void listing_in_free(struct listing_in *in);

#endif
