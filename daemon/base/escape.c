/* escape.c - paths of any bytes as printable ASCII.
 *
 * The one form for JSON, messages and info blocks; linked into the plugin too. */
#include "vine/escape.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool is_plain(unsigned char byte)
{
    return byte >= 0x20 && byte < 0x7f && byte != '%';
}

char *vine_path_escape(const char *path)
{
    static const char hex[] = "0123456789ABCDEF";
    char *text = malloc(3 * strlen(path) + 1), *put = text;

    if (text == NULL)
        return NULL;
    for (const unsigned char *p = (const unsigned char *)path; *p != '\0'; p++) {
        if (is_plain(*p)) {
            *put++ = (char)*p;
            continue;
        }
        *put++ = '%';
        *put++ = hex[*p >> 4];
        *put++ = hex[*p & 15];
    }
    *put = '\0';
    return text;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int vine_path_unescape(char *text)
{
    char *put = text;

    /* Look first, so that a refused text stays as it was. */
    for (const char *p = strchr(text, '%'); p != NULL; p = strchr(p + 3, '%'))
        if (hex_value(p[1]) < 0 || hex_value(p[2]) < 0 || (p[1] == '0' && p[2] == '0'))
            return -1;
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '%') {
            *put++ = (char)(hex_value(p[1]) << 4 | hex_value(p[2]));
            p += 2;
        } else {
            *put++ = *p;
        }
    }
    *put = '\0';
    return 0;
}
