/* environ.c - PATH, VIRTUAL_ENV and CONDA_* as `activate` would leave them. */
#include "spank/environ.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin" /* slurmstepd's own habit */

enum environ_kind environ_kind_of(const char *word)
{
    if (word != NULL && strcmp(word, "venv") == 0)
        return ENVIRON_VENV;
    if (word != NULL && strcmp(word, "conda") == 0)
        return ENVIRON_CONDA;
    return ENVIRON_NONE;
}

char *environ_path_front(const char *path, const char *dir)
{
    size_t dir_len = strlen(dir);
    char *out, *put;

    if (path == NULL || *path == '\0')
        path = DEFAULT_PATH;
    out = malloc(dir_len + 1 + strlen(path) + 1);
    if (out == NULL)
        return NULL;
    memcpy(out, dir, dir_len);
    put = out + dir_len;
    for (const char *part = path; part != NULL;) {
        const char *colon = strchr(part, ':');
        size_t len = colon != NULL ? (size_t)(colon - part) : strlen(part);

        if (len != dir_len || memcmp(part, dir, len) != 0) {
            *put++ = ':';
            memcpy(put, part, len);
            put += len;
        }
        part = colon != NULL ? colon + 1 : NULL;
    }
    *put = '\0';
    return out;
}

const char *environ_find(char *const *env, const char *name)
{
    size_t len = strlen(name);

    for (; env != NULL && *env != NULL; env++)
        if (strncmp(*env, name, len) == 0 && (*env)[len] == '=')
            return *env + len + 1;
    return NULL;
}

/* conda names an environment below .../envs by its last part, any other by its path. */
static const char *conda_name(const char *dst)
{
    const char *base = strrchr(dst, '/');

    if (base != NULL && base - dst >= 5 && memcmp(base - 5, "/envs", 5) == 0)
        return base + 1;
    return dst;
}

static int set_path(const char *dst, const char *path_now, environ_set set, void *arg)
{
    size_t size = strlen(dst) + sizeof("/bin");
    char *bin = malloc(size), *path = NULL;
    int result = -1;

    if (bin != NULL) {
        (void)snprintf(bin, size, "%s/bin", dst);
        path = environ_path_front(path_now, bin);
    }
    if (path != NULL)
        result = set(arg, "PATH", path);
    free(path);
    free(bin);
    return result;
}

int environ_activate(enum environ_kind kind, const char *dst, const char *path_now,
                     environ_set set, void *arg)
{
    if (kind == ENVIRON_NONE)
        return 0;
    if (set_path(dst, path_now, set, arg) < 0)
        return -1;
    if (kind == ENVIRON_VENV)
        return set(arg, "VIRTUAL_ENV", dst) < 0 || set(arg, "PYTHONHOME", NULL) < 0 ? -1
                                                                                    : 0;
    if (set(arg, "CONDA_PREFIX", dst) < 0 || set(arg, "CONDA_SHLVL", "1") < 0)
        return -1;
    return set(arg, "CONDA_DEFAULT_ENV", conda_name(dst));
}
