/* packages.h - which package a file of an environment belongs to, and what each takes.
 *
 * What conda's own lists (conda-meta/NAME.json) name belongs to that package. Else:
 * below site-packages the top-level name; "python" for the rest of lib/pythonX.Y; else
 * the first directory ("bin/"), "./" for files beside these. */
#ifndef VINE_CLI_PACKAGES_H
#define VINE_CLI_PACKAGES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct package {
    char *name, *version; /* version "": not known */
    uint64_t files, bytes;
    uint64_t opened_files, opened_bytes;
};

struct packages;

struct packages *packages_new(void); /* NULL: out of memory */
void packages_free(struct packages *packages);

/* One of conda's lists; all of them before the first file. One that is none is left
 * out: false. */
bool packages_add_list(struct packages *packages, const char *json, size_t len);
/* Is this path (from the root) one of conda's lists? */
bool packages_is_list(const char *path);

/* -1: out of memory. */
int packages_add_file(struct packages *packages, const char *path, uint64_t bytes,
                      bool opened);

/* Those that have files, the largest first; valid until the next call. */
const struct package *packages_sorted(struct packages *packages, size_t *count);

/* {"name","version","files","bytes","share"} of each; share: of `total` bytes. With
 * `opened`: "opened_files" and "opened_bytes" too. */
json_t *packages_json(struct packages *packages, uint64_t total, bool opened);

#endif
