/* text_file.h - a small text file, whole. */
#ifndef VINE_BASE_TEXT_FILE_H
#define VINE_BASE_TEXT_FILE_H

#include <stddef.h>

#include "vine/err.h"

/* Read `path`, at most `max` bytes and none of them zero, into a fresh terminated
 * buffer; caller frees. No such file: 0 and *out NULL. On error *out is untouched. */
int text_file_read(const char *path, size_t max, char **out, struct vine_err *err);

#endif
