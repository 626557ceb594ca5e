/* spec.h - the option grammar: SRC[:DST][,SRC[:DST]...]. Hostile input; parsed only
 * here.
 *
 * No system calls: whether a path exists is the caller's question. Used by the plugin
 * (client side and remote side), the CLI and the daemon. Source: DESIGN, section 5. */
#ifndef VINE_SPEC_H
#define VINE_SPEC_H

#include <stdbool.h>

#include "vine/err.h"
#include "vine/limits.h"

struct vine_source {
    char path[VINE_PATH_MAX]; /* absolute; no "//", no trailing '/', no "." or ".." */
    char dst[VINE_PATH_MAX];  /* "" = default (source's own path or recorded prefix) */
};

struct vine_spec {
    unsigned count;
    bool lazy; /* start before all is there; not part of the text */
    struct vine_source source[VINE_SOURCES_MAX];
};

/* Parse `text` into *spec. Refused with VINE_EINVAL and a message that ends in the
 * right form: empty text or part, relative path, more than one ':' in a part, control
 * characters (0x01-0x1f, 0x7f), longer than VINE_SPEC_MAX, more than VINE_SOURCES_MAX
 * parts, a "." or ".." component, a destination or directory source of "/", two parts
 * with one destination or one source. A backslash makes the next ',' ':' or '\'
 * literal. A "scheme://" source is refused as "not supported yet".
 *
 * The struct is 64 KiB: allocate it. Returns 0 or -1 with *err set, *spec untouched. */
int vine_spec_parse(const char *text, struct vine_spec *spec, struct vine_err *err);

/* The canonical text of a spec (escapes put back); two equal specs give equal text.
 * Caller frees; NULL when out of memory. */
char *vine_spec_text(const struct vine_spec *spec);

/* What kind of source a regular file's name says (case-sensitive endings). */
enum vine_source_kind {
    VINE_SOURCE_DIR,     /* no known ending */
    VINE_SOURCE_IMAGE,   /* .sqsh .squashfs */
    VINE_SOURCE_ARCHIVE, /* .tar .tar.gz .tgz .tar.zst .tar.xz .tar.bz2 .zip */
};
enum vine_source_kind vine_source_kind_of(const char *path);

/* NAME of the default destination /run/vine/env/NAME: the last component of `path`
 * without its known ending. `out` holds VINE_PATH_MAX bytes. */
void vine_source_name(const char *path, char *out);

#endif
