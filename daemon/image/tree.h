/* tree.h - the metadata of a directory tree at one moment, sorted by path bytes.
 *
 * Made by tree_walk, many threads wide, since each look at an entry waits for the file
 * system. Entry 0 is the root (path ""); parents come before what is in them. All
 * strings live as long as the tree. */
#ifndef VINE_IMAGE_TREE_H
#define VINE_IMAGE_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "daemon/image/globs.h"
#include "vine/digest.h"
#include "vine/err.h"

#define TREE_DEPTH_MAX 256         /* directories below each other: more is a loop */
#define TREE_ENTRIES_MAX 10000000u /* about 2 GiB of memory */
#define TREE_THREADS_MAX 64u
#define TREE_THREADS_DEFAULT 16u

/* How attributes are asked for: not the access time, which a read itself changes. */
#define TREE_STATX_MASK (STATX_BASIC_STATS & ~STATX_ATIME)

struct tree_entry {
    const char *path;   /* relative to the root, no leading or trailing '/' */
    const char *target; /* symbolic links, else NULL */
    uint64_t dev, ino, size, alloc; /* bytes */
    int64_t mtime, ctime;           /* seconds */
    uint32_t mtime_ns, ctime_ns;
    uint32_t mode, uid, gid, nlink;
    uint32_t link_to; /* index of the first name of this inode; own index if first */
    bool same;        /* as in an older image: not read (tree_listing.h) */
    bool over;        /* below tree->over_fd instead of the root */
    bool replaced;    /* by one of these: taken out */
};

struct tree {
    struct tree_entry *entry;
    uint32_t count;               /* the root included */
    uint64_t files, bytes, alloc; /* regular ones, hard links once */
    uint64_t skipped;             /* sockets, fifos, devices */
    uint64_t same_files, same_bytes;
    int64_t ended_ms;     /* wall clock, when the walk ended: all is read after it */
    bool world;           /* everybody may read every entry */
    bool fresh;           /* attributes were asked of the server, not of a cache */
    bool strict;          /* and are to be asked of it again after a file was read */
    int over_fd;          /* borrowed; of no meaning if no entry is `over` */
    uint32_t *order;      /* [count]: contents come in this order; NULL: as they are */
    uint32_t order_first; /* files that a trace named */
    struct tree_block *blocks;
};

/* How attributes are cached where the tree is.
 * coherent: what this node has is right, as on local file systems, Lustre, GPFS, Ceph.
 * strict: it may be old, even after an open: the server is asked, and once more for
 * each file after it was read. auto: by the type of the file system; strict for FUSE,
 * SMB and 9p; those that are renewed by an open, as NFS, cost no second question. */
enum tree_caching { TREE_CACHING_AUTO, TREE_CACHING_COHERENT, TREE_CACHING_STRICT };

struct walk_options {
    enum tree_caching caching;
    unsigned threads;            /* 0 = TREE_THREADS_DEFAULT */
    uint64_t max_bytes;          /* 0 = VINE_OBJECT_MAX */
    const char *name;            /* of the root, for messages */
    const struct globs *exclude; /* NULL: nothing */
};

/* Walk below root_fd (a directory, O_RDONLY), as the calling user. Everything must be
 * readable to him by mode bits: VINE_EACCES names the first entry that is not. An entry
 * that vanishes meanwhile: VINE_ECHANGED. Caller: tree_free. */
int tree_walk(int root_fd, const struct walk_options *options, struct tree **out,
              struct vine_err *err);
void tree_free(struct tree *tree);

/* Index of `path`, or UINT32_MAX. */
uint32_t tree_find(const struct tree *tree, const char *path);

/* The descriptor below which the entry's path is. */
static inline int tree_root_of(const struct tree *tree, int root_fd,
                               const struct tree_entry *entry)
{
    return entry->over ? tree->over_fd : root_fd;
}

/* The index of what comes as number `place`. */
static inline uint32_t tree_at(const struct tree *tree, uint32_t place)
{
    return tree->order != NULL ? tree->order[place] : place;
}

/* Does what statx says now (TREE_STATX_MASK) belong to this entry, unchanged? */
bool tree_entry_same(const struct tree_entry *entry, const struct statx *now);

/* One statx below dir_fd; if `fresh`, what is in the client's cache is asked for again,
 * and only that: one question to the server in either case. 0, or -1 with errno. */
int tree_stat(int dir_fd, const char *name, bool fresh, struct statx *out);

/* Look again at what a reader does not open: directories, empty files and those that
 * are the same. Different: VINE_ECHANGED. */
int tree_recheck(int root_fd, const struct tree *tree,
                 const struct walk_options *options, struct vine_err *err);

/* Add what identifies every entry to a running hash. */
void tree_hash(const struct tree *tree, struct vine_sha *sha);

#endif
