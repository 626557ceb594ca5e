/* names.h - the names an archive has given so far, and what they are.
 *
 * An archive may come from anybody. Names are made plain; then a table of all of them
 * shows what is twice, what lies below something that is no directory, and which
 * directories were never listed. */
#ifndef VINE_IMAGE_NAMES_H
#define VINE_IMAGE_NAMES_H

#include <stdbool.h>
#include <stdint.h>

#include "vine/limits.h"

enum name_type {
    NAME_NONE,    /* not there */
    NAME_IMPLIED, /* a directory that was needed but not listed */
    NAME_DIR,
    NAME_FILE,
    NAME_LINK, /* symbolic */
    NAME_OTHER /* skipped: a device, fifo or socket */
};

struct names;

struct names *names_new(void); /* NULL: no memory */
void names_free(struct names *names);

/* Drop "./", "//" and trailing '/'. NULL, or what is wrong with the name. "" = root. */
const char *names_make_plain(const char *name, char out[VINE_PATH_MAX]);

enum name_type names_find(const struct names *names, const char *path);

/* Add a path, and what is missing above it as NAME_IMPLIED. An implied directory may
 * become NAME_DIR, a directory may be added again (*again is set); all else that is
 * there is refused. NULL, or what is wrong: static text. */
const char *names_add(struct names *names, const char *path, enum name_type type,
                      bool *again);

/* Call for each directory that is implied still, in the order they came. */
int names_each_implied(const struct names *names,
                       int (*each)(void *ctx, const char *path), void *ctx);
uint64_t names_count(const struct names *names);

#endif
