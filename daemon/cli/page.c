/* page.c - text that grows, and its escapes. */
#include "daemon/cli/page.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROOM_FIRST 65536u

static bool make_room(struct page *p, size_t more)
{
    size_t room = p->room == 0 ? ROOM_FIRST : p->room;
    char *text;

    while (room - p->len <= more)
        room *= 2;
    if (room == p->room)
        return true;
    text = realloc(p->text, room);
    if (text == NULL) {
        p->failed = true;
        return false;
    }
    p->text = text;
    p->room = room;
    return true;
}

static void add(struct page *p, const char *bytes, size_t len)
{
    if (p->failed || !make_room(p, len))
        return;
    memcpy(p->text + p->len, bytes, len);
    p->len += len;
    p->text[p->len] = '\0';
}

void page_put(struct page *p, const char *format, ...)
{
    char line[1024];
    va_list ap;
    int len;

    va_start(ap, format);
    len = vsnprintf(line, sizeof(line), format, ap);
    va_end(ap);
    if (len < 0 || (size_t)len >= sizeof(line))
        p->failed = true; /* our own, and none is so long */
    else
        add(p, line, (size_t)len);
}

void page_raw(struct page *p, const struct page *from)
{
    p->failed |= from->failed;
    if (from->text != NULL)
        add(p, from->text, from->len);
}

/* Bytes of the character at `s` if it is well-formed and no control; else 0. */
static size_t character(const unsigned char *s)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len = s[0] < 0x80             ? 1
                 : (s[0] & 0xe0) == 0xc0 ? 2
                 : (s[0] & 0xf0) == 0xe0 ? 3
                 : (s[0] & 0xf8) == 0xf0 ? 4
                                         : 0;
    uint32_t c = len <= 1 ? s[0] : s[0] & (0x7fu >> len);

    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    if (len == 0 || c < 0x20 || (c >= 0x7f && c < 0xa0) || c < least[len] ||
        c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        return 0;
    if ((c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069))
        return 0; /* these turn around what stands beside them */
    return len;
}

static void add_character(struct page *p, const unsigned char *s, size_t len)
{
    switch (*s) {
    case '&':
        add(p, "&amp;", 5);
        return;
    case '<':
        add(p, "&lt;", 4);
        return;
    case '>':
        add(p, "&gt;", 4);
        return;
    case '"':
        add(p, "&quot;", 6);
        return;
    case '\'':
        add(p, "&#39;", 5);
        return;
    default:
        add(p, (const char *)s, len);
    }
}

void page_text_cut(struct page *p, const char *text, unsigned max)
{
    const unsigned char *s = (const unsigned char *)text;
    unsigned count = 0;

    for (; *s != '\0'; count++) {
        size_t len = character(s);
        if (count + 1 >= max && s[len > 0 ? len : 1] != '\0') {
            add(p, "\xe2\x80\xa6", 3);
            return;
        }
        if (len == 0)
            page_put(p, "\\x%02x", *s);
        else
            add_character(p, s, len);
        s += len > 0 ? len : 1;
    }
}

void page_text(struct page *p, const char *text)
{
    page_text_cut(p, text, UINT32_MAX);
}
