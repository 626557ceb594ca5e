/* spec.h - the option grammar: SRC[:DST][,SRC[:DST]...]. Hostile input; parsed only
 * here.
 *
 * The same for --vine-env and --vine-data; a spec holds what both name. No system
 * calls: whether a path exists is the caller's question. Used by the plugin (client
 * side and remote side), the CLI and the daemon. */
#ifndef VINE_SPEC_H
#define VINE_SPEC_H

#include <stdbool.h>

#include "vine/err.h"
#include "vine/limits.h"

struct vine_source {
    /* Absolute, or a URL; no "//" (but a URL's own), no trailing '/', no "." or "..".
     */
    char path[VINE_PATH_MAX];
    char dst[VINE_PATH_MAX]; /* "" = default (source's own path or recorded prefix) */
    bool data;               /* of --vine-data: a file is a file, whatever its name */
};

struct vine_spec {
    unsigned count;
    bool lazy; /* start before all is there; not part of the text */
    struct vine_source source[VINE_SOURCES_MAX]; /* environments first */
};

/* Parse the value of --vine-env into *spec. Refused with VINE_EINVAL and a message that
 * ends in the right form: empty text or part, relative path, more than one ':' in a
 * part, control characters (0x01-0x1f, 0x7f), longer than VINE_SPEC_MAX, more than
 * VINE_SOURCES_MAX parts, a "." or ".." component, a destination or directory source of
 * "/", two parts with one destination or one source. A backslash makes the next ',' ':'
 * or '\' literal. Of URLs (url.h) those of data need a DST; the others must
 * name an image or an archive that is no .zip.
 *
 * The struct is 128 KiB: allocate it. Returns 0 or -1 with *err set, *spec untouched.
 */
int vine_spec_parse(const char *text, struct vine_spec *spec, struct vine_err *err);

/* The same for the value of --vine-data, whose sources come behind those that *spec has
 * (count 0: none). The default destination is always the source's own path. */
int vine_spec_add_data(const char *text, struct vine_spec *spec, struct vine_err *err);

/* The canonical texts of a spec's two halves (escapes put back); two equal specs give
 * equal texts; "" for a half that is empty. Caller frees; NULL when out of memory. */
char *vine_spec_text(const struct vine_spec *spec);
char *vine_spec_data_text(const struct vine_spec *spec);

/* What a source is called between daemons and in their files: its path, and VINE_DATA
 * before that of data, for the same file can be wanted as both. */
#define VINE_DATA "data:"
void vine_source_id(const struct vine_source *source, char out[VINE_PATH_MAX]);
/* The path in such a name, borrowed; NULL: it is none. */
const char *vine_source_id_path(const char *id, bool *data);
/* What a task offers to the others of its job has a NAME instead of a path, and a
 * version behind that: "data:vine:NAME#VERSION". Without '#' it is the question which
 * version that is. Nothing that a user may write as an option looks so. */
#define VINE_NAMED "vine:"
#define VINE_NAMED_VERSION 24
/* -1 with *err: 1 to 1,024 bytes, no control characters, no '#'. */
int vine_named_check(const char *name, struct vine_err *err);
/* Is this id one of those? *versioned: it names one version. */
bool vine_source_is_named(const char *id, bool *versioned);

/* Is it a URL, and may it name a source at all: a URL or an absolute path? */
bool vine_source_is_remote(const char *path);
bool vine_source_path_valid(const char *path);

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
