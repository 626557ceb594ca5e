/* tree_int.h - shared by tree.c, walk.c and readahead.c only. */
#ifndef VINE_IMAGE_TREE_INT_H
#define VINE_IMAGE_TREE_INT_H

#include "daemon/image/tree.h"

/* Memory for strings, freed all at once. */
struct tree_block {
    struct tree_block *next;
    size_t used, size;
    char bytes[];
};

/* A copy of `len` bytes and a zero, in the first block of *list; NULL: no memory. */
char *tree_keep(struct tree_block **list, const char *text, size_t len);
void tree_blocks_free(struct tree_block *list);

/* Sort the collected entries, find hard links, add up. */
int tree_finish(struct tree *tree, const struct walk_options *options,
                struct vine_err *err);

/* Run `run(arg)` in `threads` threads (0 = default), the caller's one of them. */
void tree_run_threads(unsigned threads, void *(*run)(void *), void *arg);

#endif
