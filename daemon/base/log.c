/* log.c - one line an event on stderr; whoever runs the daemon keeps the lines.
 *
 * A line is built in one buffer and written by one write(2), so lines of threads and
 * of child processes never mix. */
#include "vine/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1400 /* a line stays within one syslog or journal record */
#define QUOTE_MAX 300

static enum vine_log_level max_level = VINE_LOG_INFO;

static const char *const level_names[] = {"ERR", "WARNING", "INFO", "DEBUG"};
static const char *const level_words[] = {"error", "warning", "info", "debug"};

void vine_log_set_level(enum vine_log_level level)
{
    max_level = level;
}

int vine_log_parse_level(const char *word, enum vine_log_level *level)
{
    for (int i = 0; i <= VINE_LOG_DEBUG; i++) {
        if (strcmp(word, level_words[i]) == 0) {
            *level = (enum vine_log_level)i;
            return 0;
        }
    }
    return -1;
}

void vine_log(enum vine_log_level level, const char *format, ...)
{
    char line[LINE_MAX_BYTES];
    struct timespec now;
    struct tm tm;
    va_list ap;
    size_t used;
    int n;

    if (level > max_level)
        return;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &tm);
    used = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &tm);
    n = snprintf(line + used, sizeof(line) - used, ".%03ldZ %s ", now.tv_nsec / 1000000,
                 level_names[level]);
    used += (size_t)n;
    va_start(ap, format);
    n = vsnprintf(line + used, sizeof(line) - used - 1, format, ap);
    va_end(ap);
    if (n < 0)
        return;
    used += (size_t)n < sizeof(line) - used - 1 ? (size_t)n : sizeof(line) - used - 2;
    line[used++] = '\n';
    if (write(STDERR_FILENO, line, used) < 0)
        return; /* nowhere left to say it */
}

const char *vine_q(const char *value)
{
    static _Thread_local char ring[4][4 * QUOTE_MAX + 4];
    static _Thread_local unsigned turn;
    char *out = ring[turn++ % 4], *p = out;

    *p++ = '"';
    for (int i = 0; value[i] != '\0' && i < QUOTE_MAX; i++) {
        unsigned char c = (unsigned char)value[i];
        if (c < 0x20 || c == 0x7f || c == '"' || c == '\\')
            p += sprintf(p, "\\x%02x", c);
        else
            *p++ = (char)c;
    }
    *p++ = '"';
    *p = '\0';
    return out;
}
