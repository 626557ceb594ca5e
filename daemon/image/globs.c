/* globs.c - see globs.h. A path is walked with its pattern part by part; "**" remembers
 * where it stood and takes one part more when the rest does not fit, as '*' would among
 * characters: the last one alone has to be tried again, so the work stays small. */
#include "daemon/image/globs.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "vine/limits.h"

#define NAME_BYTES 256
#define PARTS_MAX 64

struct glob {
    char text[GLOB_BYTES_MAX]; /* parts, each with a zero byte */
    const char *part[PARTS_MAX];
    unsigned parts;
    bool anywhere; /* a name, not a path */
    bool directories;
};

struct globs {
    unsigned count;
    struct glob glob[];
};

static const char *split(struct glob *g, const char *text)
{
    size_t len = strlen(text);
    char *next;

    if (len >= sizeof(g->text))
        return "it is too long";
    memcpy(g->text, text, len + 1);
    g->directories = len > 0 && text[len - 1] == '/';
    if (g->directories)
        g->text[len - 1] = '\0';
    g->anywhere = strchr(g->text, '/') == NULL && strcmp(g->text, "**") != 0;
    for (next = g->text + (g->text[0] == '/'); next != NULL;) {
        char *slash = strchr(next, '/');

        if (slash != NULL)
            *slash++ = '\0';
        if (*next == '\0')
            return "a part of it is empty";
        if (strcmp(next, ".") == 0 || strcmp(next, "..") == 0)
            return "it has '.' or '..' in it; paths begin at the environment's root";
        if (strlen(next) >= NAME_BYTES || g->parts == PARTS_MAX)
            return "it is too long";
        g->part[g->parts++] = next;
        next = slash;
    }
    return NULL;
}

struct globs *globs_new(const char *const *texts, unsigned count, struct vine_err *err)
{
    struct globs *globs;

    if (count > GLOBS_MAX) {
        vine_err_set(err, VINE_ELIMIT, "%u globs to exclude, limit %d", count,
                     GLOBS_MAX);
        return NULL;
    }
    globs = calloc(1, sizeof(*globs) + count * sizeof(globs->glob[0]));
    if (globs == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        return NULL;
    }
    for (; globs->count < count; globs->count++) {
        const char *wrong = split(&globs->glob[globs->count], texts[globs->count]);

        if (wrong == NULL)
            continue;
        vine_err_set(err, VINE_EINVAL, "cannot exclude '%.200s': %s",
                     texts[globs->count], wrong);
        globs_free(globs);
        return NULL;
    }
    return globs;
}

void globs_free(struct globs *globs)
{
    free(globs);
}

static bool name_fits(const char *pattern, const char *path)
{
    char name[NAME_BYTES];
    size_t len = strcspn(path, "/");

    if (len >= sizeof(name))
        return false;
    memcpy(name, path, len);
    name[len] = '\0';
    return fnmatch(pattern, name, 0) == 0;
}

static const char *next_part(const char *path)
{
    path += strcspn(path, "/");
    return path + (*path == '/');
}

static bool path_fits(const struct glob *g, const char *path)
{
    unsigned at = 0, stars_at = 0;
    const char *stars_path = NULL; /* NULL: no "**" yet */

    while (*path != '\0') {
        if (at < g->parts && strcmp(g->part[at], "**") == 0) {
            stars_at = ++at;
            stars_path = path;
        } else if (at < g->parts && name_fits(g->part[at], path)) {
            at++;
            path = next_part(path);
        } else if (stars_path != NULL) {
            at = stars_at;
            path = stars_path = next_part(stars_path);
        } else {
            return false;
        }
    }
    return at == g->parts;
}

bool globs_match(const struct globs *globs, const char *path, bool directory)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;

    for (unsigned i = 0; globs != NULL && i < globs->count; i++) {
        const struct glob *g = &globs->glob[i];

        if (g->directories && !directory)
            continue;
        if (g->anywhere ? name_fits(g->part[0], name) : path_fits(g, path))
            return true;
    }
    return false;
}

bool globs_match_above(const struct globs *globs, const char *path, bool directory)
{
    char above[VINE_PATH_MAX];

    if (globs == NULL)
        return false;
    for (const char *slash = strchr(path, '/'); slash != NULL;
         slash = strchr(slash + 1, '/')) {
        size_t len = (size_t)(slash - path);

        if (len >= sizeof(above))
            return false;
        memcpy(above, path, len);
        above[len] = '\0';
        if (globs_match(globs, above, true))
            return true;
    }
    return globs_match(globs, path, directory);
}
