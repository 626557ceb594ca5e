/* screen.h - the same picture drawn again and again: for --watch. */
#ifndef VINE_CLI_SCREEN_H
#define VINE_CLI_SCREEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct screen {
    FILE *out;
    bool terminal;
    bool drawn;
    FILE *memory; /* between screen_begin and screen_end */
    char *text;
    size_t len;
};

void screen_init(struct screen *screen, FILE *out);
/* Print into what this returns (NULL: no memory), then draw it: on a terminal over the
 * picture before, cut to its size; else after it. -1: no memory, or `out` failed. */
FILE *screen_begin(struct screen *screen);
int screen_end(struct screen *screen);
int screen_line(struct screen *screen, const char *text); /* a picture of one line */
void screen_wait(unsigned ms);

#endif
