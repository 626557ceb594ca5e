/* escape.h - paths of any bytes as printable ASCII, for JSON and messages.
 *
 * '%', bytes below 0x20 and bytes from 0x7f on are written %XX (upper-case hex). */
#ifndef VINE_ESCAPE_H
#define VINE_ESCAPE_H

/* Caller frees; NULL: out of memory. */
char *vine_path_escape(const char *path);

/* In place. Bytes that need no escape may also stand for themselves. -1, and `text` as
 * it was, if a '%' is not followed by two hex digits or %00 stands there. */
int vine_path_unescape(char *text);

#endif
