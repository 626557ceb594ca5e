/* source.h - a path from the command line as the daemon wants it. */
#ifndef VINE_CLI_SOURCE_H
#define VINE_CLI_SOURCE_H

#include <stdbool.h>

#include "vine/err.h"

/* `path` made absolute by the working directory (a relative one is resolved by
 * realpath, an absolute one is kept as it was typed). Caller frees; NULL with *err. */
char *source_absolute(const char *path, struct vine_err *err);

/* The option text of one source (data: of --vine-data), its ',' ':' '\' escaped for the
 * grammar, then the whole escaped for JSON. Caller frees; NULL with *err. */
char *source_spec(const char *absolute, bool data, struct vine_err *err);

#endif
