/* escape.c - percent-escaping of paths. See escape.h for the rule. */
#include "daemon/image/escape.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static bool must_escape(unsigned char c)
{
    return c == '%' || c < 0x20 || c >= 0x7f;
}

char *image_path_escape(const char *path)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t len = strlen(path);
    char *out = len < SIZE_MAX / 4 ? malloc(3 * len + 1) : NULL;
    char *next = out;

    if (out == NULL)
        return NULL;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)path[i];

        if (!must_escape(c)) {
            *next++ = (char)c;
            continue;
        }
        *next++ = '%';
        *next++ = hex[c >> 4];
        *next++ = hex[c & 15];
    }
    *next = '\0';
    return out;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

/* The byte after a '%', or -1. Never reads past the terminating zero. */
static int escaped_byte(const char *text)
{
    int high = hex_value(text[0]);
    int low = high < 0 ? -1 : hex_value(text[1]);

    return low < 0 ? -1 : high * 16 + low;
}

char *image_path_unescape(const char *text)
{
    char *out = malloc(strlen(text) + 1);
    char *next = out;

    if (out == NULL)
        return NULL;
    while (*text != '\0') {
        if (*text != '%') {
            *next++ = *text++;
            continue;
        }
        int byte = escaped_byte(text + 1);
        if (byte <= 0) {
            free(out);
            return NULL;
        }
        *next++ = (char)byte;
        text += 3;
    }
    *next = '\0';
    return out;
}
