/* trace.c - see trace.h. A trace may be old, cut, or written by hand: a path that is
 * not in the tree does no harm, one that could not be in any is an error. */
#include "daemon/image/trace.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/image/bytes.h"
#include "daemon/image/names.h"
#include "vine/escape.h"

struct parsing {
    struct trace *trace;
    const char *name;
    unsigned line;
};

static int wrong(const struct parsing *p, const char *why, struct vine_err *err)
{
    return vine_err_set(err, VINE_EINVAL, "'%.300s', line %u: %s", p->name, p->line,
                        why);
}

static int add_path(const struct parsing *p, char *text, struct vine_err *err)
{
    struct trace *t = p->trace;
    char plain[VINE_PATH_MAX];
    const char *why;

    if (vine_path_unescape(text) < 0)
        return wrong(p, "a '%' is not followed by two hex digits", err);
    why = names_make_plain(text, plain);
    if (why != NULL)
        return wrong(p, why, err);
    if (plain[0] == '\0')
        return wrong(p, "no path", err);
    if (t->count == t->room) {
        uint32_t room = t->room * 2 + 1024;
        void *grown = realloc(t->path, room * sizeof(*t->path));

        if (grown == NULL)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
        t->path = grown;
        t->room = room;
    }
    memcpy(text, plain, strlen(plain) + 1); /* never longer */
    t->path[t->count++] = text;
    return 0;
}

static int take_prefix(const struct parsing *p, char *text, struct vine_err *err)
{
    if (vine_path_unescape(text) < 0 || text[0] != '/' || strlen(text) >= VINE_PATH_MAX)
        return wrong(p, "the prefix is no absolute path", err);
    memcpy(p->trace->prefix, text, strlen(text) + 1);
    return 0;
}

static int take_line(const struct parsing *p, char *text, struct vine_err *err)
{
    size_t len = strlen(TRACE_PREFIX_LINE);

    if (p->line == 1)
        return strcmp(text, TRACE_FIRST_LINE) == 0
                   ? 0
                   : vine_err_set(err, VINE_EINVAL,
                                  "'%.300s' is no trace: 'vine-env trace -o FILE -- "
                                  "CMD' makes one",
                                  p->name);
    if (strncmp(text, TRACE_PREFIX_LINE, len) == 0)
        return take_prefix(p, text + len, err);
    return text[0] == '#' || text[0] == '\0' ? 0 : add_path(p, text, err);
}

int trace_parse(char *text, size_t len, const char *name, struct trace *out,
                struct vine_err *err)
{
    struct trace *t = calloc(1, sizeof(*t));
    struct parsing p = {.trace = t, .name = name};
    char *next = text, *end = text + len;
    int result = 0;

    if (t == NULL) {
        free(text);
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    t->text = text;
    do {
        char *newline = memchr(next, '\n', (size_t)(end - next));

        if (newline == NULL)
            newline = end;
        *newline = '\0';
        p.line++;
        result = strlen(next) == (size_t)(newline - next)
                     ? take_line(&p, next, err)
                     : wrong(&p, "a zero byte", err);
        next = newline + 1;
    } while (result == 0 && next < end);
    if (result == 0)
        *out = *t;
    else
        trace_free(t);
    free(t);
    return result;
}

int trace_read(const char *path, struct trace *out, struct vine_err *err)
{
    auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct stat st;
    char *text;
    ssize_t n;

    if (fd < 0 || fstat(fd, &st) < 0)
        return vine_err_sys(err, "cannot open the trace '%.300s'", path);
    if (!S_ISREG(st.st_mode) || st.st_size > TRACE_BYTES_MAX)
        return vine_err_set(err, VINE_EINVAL, "'%.300s' is no trace: %s", path,
                            S_ISREG(st.st_mode) ? "it is too large" : "it is no file");
    text = malloc((size_t)st.st_size + 1);
    if (text == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    n = pread_whole(fd, text, (size_t)st.st_size, 0);
    if (n < 0) {
        vine_err_sys(err, "cannot read the trace '%.300s'", path);
        free(text);
        return -1;
    }
    text[n] = '\0';
    return trace_parse(text, (size_t)n, path, out, err);
}

void trace_free(struct trace *trace)
{
    free(trace->path);
    free(trace->text);
    trace->path = NULL;
    trace->text = NULL;
    trace->count = trace->room = 0;
}
