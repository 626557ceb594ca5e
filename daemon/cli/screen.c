/* screen.c - pictures on a terminal, one over the other (see screen.h).
 *
 * Nothing is switched on that would have to be switched off: the picture stays where it
 * is when Ctrl-C ends the program. Each line wipes what is left of the one below it,
 * so nothing flickers. */
#include "daemon/cli/screen.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define HOME "\033[H"
#define WIPE_ALL "\033[2J"
#define WIPE_LINE "\033[K"
#define WIPE_BELOW "\033[J"

void screen_init(struct screen *screen, FILE *out)
{
    *screen = (struct screen){.out = out, .terminal = isatty(fileno(out)) == 1};
}

FILE *screen_begin(struct screen *screen)
{
    screen->memory = open_memstream(&screen->text, &screen->len);
    return screen->memory;
}

/* Bytes of at most `columns` characters of UTF-8. */
static int cut(const char *line, size_t len, unsigned columns)
{
    unsigned width = 0;
    size_t i = 0;

    for (; i < len; i++) {
        width += ((unsigned char)line[i] & 0xc0) != 0x80;
        if (width > columns)
            break;
    }
    return (int)i;
}

static void draw(const struct screen *screen)
{
    struct winsize size = {0};
    const char *line = screen->text;
    unsigned left;

    if (ioctl(fileno(screen->out), TIOCGWINSZ, &size) < 0 || size.ws_row < 2 ||
        size.ws_col < 2)
        size = (struct winsize){.ws_row = 24, .ws_col = 80};
    left = size.ws_row - 1u; /* the cursor's */
    (void)fputs(screen->drawn ? HOME : WIPE_ALL HOME, screen->out);
    while (*line != '\0') {
        size_t len = strcspn(line, "\n");
        bool last = line[len] == '\0' || line[len + 1] == '\0';

        if (left == 1 && !last) {
            (void)fprintf(screen->out, "..." WIPE_LINE "\n");
            break;
        }
        (void)fprintf(screen->out, "%.*s" WIPE_LINE "\n", cut(line, len, size.ws_col),
                      line);
        line += len + (line[len] != '\0');
        left--;
    }
    (void)fputs(WIPE_BELOW, screen->out);
}

int screen_end(struct screen *screen)
{
    int result = fclose(screen->memory) == 0 ? 0 : -1;

    screen->memory = NULL;
    if (result == 0 && screen->terminal)
        draw(screen);
    else if (result == 0)
        (void)fprintf(screen->out, "%s%s", screen->drawn ? "\n" : "", screen->text);
    screen->drawn = true;
    free(screen->text);
    screen->text = NULL;
    return result < 0 || fflush(screen->out) == EOF ? -1 : 0;
}

int screen_line(struct screen *screen, const char *text)
{
    FILE *out = screen_begin(screen);

    if (out == NULL)
        return -1;
    (void)fprintf(out, "%s\n", text);
    return screen_end(screen);
}

void screen_wait(unsigned ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

    (void)nanosleep(&ts, NULL);
}
