/* relocate.h - where in an archive of conda-pack the environment's prefix is to be
 * written.
 *
 * conda-pack leaves in files the path that was built into them, and a script,
 * bin/conda-unpack, with a list of these files. What that script does once the archive
 * is unpacked is done here on the way, for a place of one's choice. The script is read
 * as text; nothing of it is run. */
#ifndef VINE_IMAGE_RELOCATE_H
#define VINE_IMAGE_RELOCATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vine/err.h"

#define RELOCATE_SCRIPT "bin/conda-unpack"
#define RELOCATE_SCRIPT_MAX (64u << 20)
#define RELOCATE_FILE_MAX (1ull << 30) /* in memory at once */

struct relocate;

/* The list in a script of `len` bytes, which has bytes that are no text, too, if its
 * maker wishes. VINE_EINVAL: it is none of conda-pack. */
int relocate_parse(const char *script, size_t len, struct relocate **out,
                   struct vine_err *err);
void relocate_free(struct relocate *relocate);

/* Is the file `path` in the list? False for NULL. */
bool relocate_has(const struct relocate *relocate, const char *path);

/* Let a file that is in the list have `prefix`: of a text anywhere, of a binary as far
 * as its strings have room, padded with zeros. *data (malloc'ed) may be replaced. */
int relocate_apply(const struct relocate *relocate, const char *path,
                   const char *prefix, uint8_t **data, size_t *len,
                   struct vine_err *err);

#endif
