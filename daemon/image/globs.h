/* globs.h - which entries of a tree are to be left out.
 *
 * A glob without '/' is compared with the name of every entry, wherever it lies; one
 * with '/' with the whole path from the root. '*', '?' and '[...]' stand for characters
 * of one name, never for a '/'; "**" as a whole part stands for any number of
 * directories. A '/' at the beginning binds a name to the root, one at the end means
 * directories only. With a directory goes what is in it. */
#ifndef VINE_IMAGE_GLOBS_H
#define VINE_IMAGE_GLOBS_H

#include <stdbool.h>

#include "vine/err.h"

#define GLOBS_MAX 64
#define GLOB_BYTES_MAX 1024

struct globs;

/* NULL with *err set, which names the glob that is wrong. */
struct globs *globs_new(const char *const *texts, unsigned count, struct vine_err *err);
void globs_free(struct globs *globs);

/* The path from the root, without '/' at its ends. `globs` may be NULL: none. */
bool globs_match(const struct globs *globs, const char *path, bool directory);
/* The same, or a directory above matches. */
bool globs_match_above(const struct globs *globs, const char *path, bool directory);

#endif
