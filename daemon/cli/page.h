/* page.h - a page of HTML and SVG in memory: nothing foreign gets in unescaped. */
#ifndef VINE_CLI_PAGE_H
#define VINE_CLI_PAGE_H

#include <stdbool.h>
#include <stddef.h>

struct page {
    char *text; /* caller frees */
    size_t len, room;
    bool failed; /* out of memory: all that follows is left out */
};

/* Our own markup and numbers. Texts from elsewhere never go through this. */
void page_put(struct page *p, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A piece of another page. */
void page_raw(struct page *p, const struct page *from);

/* Any bytes, for text or a quoted attribute: markup is escaped, and what is no UTF-8 or
 * a control character is shown as \xNN. */
void page_text(struct page *p, const char *text);

/* At most `max` characters of it; what is longer ends with an ellipsis. */
void page_text_cut(struct page *p, const char *text, unsigned max);

#endif
