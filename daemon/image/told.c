/* told.c - see told.h. The files are anybody's: what is found must be a plain path. */
#include "daemon/image/told.h"

#include <string.h>

#include "daemon/image/names.h"

#define ACTIVATE "VIRTUAL_ENV="

static bool is_systems(const char *prefix)
{
    return strcmp(prefix, "/usr") == 0 || strcmp(prefix, "/usr/local") == 0;
}

static void take_prefix(struct told *told, const char *text, size_t len)
{
    char path[VINE_PATH_MAX], plain[VINE_PATH_MAX];

    if (len < 2 || len >= sizeof(path) || *text != '/' ||
        memchr(text, '\0', len) != NULL)
        return;
    memcpy(path, text, len);
    path[len] = '\0';
    if (names_make_plain(path + 1, plain) != NULL || strcmp(plain, path + 1) != 0 ||
        is_systems(path))
        return;
    if (told->prefix[0] == '\0')
        memcpy(told->prefix, path, len + 1);
    else if (strcmp(told->prefix, path) != 0)
        told->differ = true;
}

/* "#!PREFIX/bin/python3.11 -E" */
static void take_script(struct told *told, const char *text, size_t len)
{
    static const char bin[] = "/bin/python";
    const char *end = memchr(text, '\n', len), *from = text + 2, *at, *stop;

    if (end == NULL)
        return;
    while (from < end && *from == ' ')
        from++;
    for (stop = from; stop < end && *stop != ' ' && *stop != '\t';)
        stop++;
    at = memrchr(from, '/', (size_t)(stop - from));
    if (at == NULL || at - from < 4 || (size_t)(stop - (at - 4)) < sizeof(bin) - 1 ||
        memcmp(at - 4, bin, sizeof(bin) - 1) != 0)
        return;
    take_prefix(told, from, (size_t)(at - 4 - from));
}

/* VIRTUAL_ENV=/path, with or without quotes; others compute it. */
static void take_activate(struct told *told, const char *text, size_t len)
{
    const char *end = text + len, *at;

    while ((at = memmem(text, (size_t)(end - text), ACTIVATE, sizeof(ACTIVATE) - 1)) !=
           NULL) {
        const char *from = at + sizeof(ACTIVATE) - 1, *stop;
        char quote = from < end && (*from == '"' || *from == '\'') ? *from : '\n';

        text = from;
        from += quote != '\n';
        stop = from < end ? memchr(from, quote, (size_t)(end - from)) : NULL;
        if (stop != NULL && (quote == '\n' || (stop + 1 < end && stop[1] == '\n')))
            take_prefix(told, from, (size_t)(stop - from));
    }
}

void told_take(struct told *told, const char *path, const void *data, size_t len)
{
    const char *text = data;

    if (strncmp(path, "bin/", 4) != 0 || strchr(path + 4, '/') != NULL)
        return;
    if (len > 2 && memcmp(text, "#!", 2) == 0)
        take_script(told, text, len);
    else if (strcmp(path, "bin/activate") == 0)
        take_activate(told, text, len);
}

const char *told_prefix(const struct told *told)
{
    return told->differ ? "" : told->prefix;
}
