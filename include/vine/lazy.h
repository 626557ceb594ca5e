/* lazy.h - what vined and a vine-lazy process say to each other.
 *
 * vine-lazy serves one incomplete image as a file, through FUSE, to the loop device
 * below a mount. It listens on a SOCK_SEQPACKET Unix socket; the latest connection of
 * root counts, so that a restarted vined takes over from the one before. Both run on
 * one machine and are installed together: structs as they are, one a packet. Lengths
 * and numbers are checked all the same.
 *
 *   vined -> vine-lazy   LAZY_HAVE first count   these pieces are in the file now
 *                        LAZY_END                answer with LAZY_REPORT, then exit
 *   vine-lazy -> vined   LAZY_NEED first count   a read waits for these; repeated
 *                        LAZY_READ first count   these are read now, and are there;
 *                                                said of the first read of a piece,
 *                                                and else once in a while
 *                        LAZY_EXPIRED first count  a read of these got EIO: nothing at
 *                                                all had arrived for so long
 *                        LAZY_REPORT             counters, and the pieces that were
 * read
 *
 * Descriptors at start: LAZY_FD_*. The table is one u64 a data piece: the offset in the
 * image of its end, ascending; the last one is the image's size. */
#ifndef VINE_LAZY_H
#define VINE_LAZY_H

#include <stdint.h>

#include "vine/limits.h"

enum lazy_fd {
    LAZY_FD_LISTEN = 3, /* non-blocking */
    LAZY_FD_IMAGE,      /* read-only */
    LAZY_FD_TABLE,      /* memfd */
    LAZY_FD_FUSE        /* /dev/fuse, its mount is made */
};

enum lazy_type {
    LAZY_HAVE = 1,
    LAZY_END,
    LAZY_NEED,
    LAZY_READ,
    LAZY_EXPIRED,
    LAZY_REPORT
};

struct lazy_msg {
    uint32_t type;
    uint32_t first, count; /* data pieces, 1 .. VINE_PIECES_MAX - 1 */
    uint32_t zero;
};

struct lazy_report {
    struct lazy_msg head; /* first, count: 0 */
    uint64_t reads, bytes, waits, errors;
    uint64_t touched[VINE_PIECES_MAX / 64]; /* bit p: piece p was read */
};

#define LAZY_REPEAT_MS 2000 /* between LAZY_NEEDs of one waiting read */
#define LAZY_READ_MS 250    /* between LAZY_READs */

#endif
