/* escape.h - paths of any bytes as printable ASCII, for JSON and messages.
 *
 * '%', bytes below 0x20, 0x7f and bytes from 0x80 up become %XX (upper-case hex). */
#ifndef VINE_IMAGE_ESCAPE_H
#define VINE_IMAGE_ESCAPE_H

#include <stddef.h>

/* Caller frees; NULL when out of memory. */
char *image_path_escape(const char *path);

/* Undo it. Bytes from 0x80 up may also stand for themselves. NULL on a '%' without two
 * hex digits, on %00, or when out of memory. Caller frees. */
char *image_path_unescape(const char *text);

#endif
