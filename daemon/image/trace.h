/* trace.h - which files of an environment a program opened, in the order it did.
 *
 * A text: "# vine-env trace 1", then "# prefix PATH", where the environment was; one
 * path from there a line. Paths are escaped as in escape.h; empty lines and further
 * lines that begin with '#' say nothing. */
#ifndef VINE_IMAGE_TRACE_H
#define VINE_IMAGE_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "vine/err.h"
#include "vine/limits.h"

#define TRACE_BYTES_MAX (256u << 20)
#define TRACE_FIRST_LINE "# vine-env trace 1"
#define TRACE_PREFIX_LINE "# prefix "

struct trace {
    char prefix[VINE_PATH_MAX]; /* "": it does not say */
    const char **path;          /* [count], plain: no "..", no '/' at the ends */
    uint32_t count, room;
    char *text; /* private */
};

/* Errors name the file and the line. Caller: trace_free, after a success only. */
int trace_read(const char *path, struct trace *out, struct vine_err *err);
/* The same of a text, `len` bytes and a zero byte; it is taken over in any case. */
int trace_parse(char *text, size_t len, const char *name, struct trace *out,
                struct vine_err *err);
void trace_free(struct trace *trace);

#endif
