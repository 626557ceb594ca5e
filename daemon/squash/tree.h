/* tree.h - the names of an image: a tree of nodes, found by path. */
#ifndef VINE_SQUASH_TREE_H
#define VINE_SQUASH_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vine/err.h"

#define SQUASH_NAME_MAX 255
#define SQUASH_FILE_MAX (1ull << 42)
#define NO_TAIL 0xffffffffu

struct squash_file { /* where the bytes of a regular file are */
    uint64_t size;
    uint64_t start;  /* of the first block, in the image */
    uint64_t sparse; /* bytes in blocks of zeros, which take no room */
    uint32_t *block; /* of each: bytes on disk, and how; as squashfs stores it */
    uint32_t count, room;
    uint32_t tail_block, tail_offset; /* NO_TAIL: it has none */
};

struct node {
    struct node *parent; /* the root's: itself */
    struct node *child, *next;
    struct node *same_hash;
    struct node *link; /* a further name of this one; nothing else counts then */
    uint32_t mode, uid, gid, mtime;
    uint32_t links;  /* of an inode: hard links; of a directory: what is in it */
    uint32_t number; /* of the inode; 0: not yet given */
    uint64_t ref;    /* of the inode, when it is written */
    bool implied;    /* a directory nobody has described yet */
    char *target;    /* symbolic links */
    struct squash_file file;
    char name[];
};

struct nodes;

struct nodes *nodes_new(void); /* with the root; NULL: out of memory */
struct node *nodes_root(struct nodes *nodes);
size_t nodes_count(const struct nodes *nodes); /* nodes */

/* One more in `parent`, whose name is not there yet; owned by `nodes`. */
struct node *nodes_add(struct nodes *nodes, struct node *parent, const char *name,
                       size_t len, struct vine_err *err);
/* The node of a path; NULL: none. "" and "." are the root, "./" may begin a path. */
struct node *nodes_find(const struct nodes *nodes, const char *path);
/* The node of a path, made with its directories where there are none. A file that is
 * there already is an error, a directory only if it is described again. */
struct node *nodes_make(struct nodes *nodes, const char *path, bool directory,
                        struct vine_err *err);

/* By name, as bytes, in every directory. */
int nodes_sort(struct nodes *nodes, struct vine_err *err);
void nodes_free(struct nodes *nodes);

/* One more block of a file. */
int file_add_block(struct squash_file *file, uint32_t word, struct vine_err *err);

#endif
