/* plugstack.c - look for a plugin in plugstack.conf as Slurm reads it: one
 * `required|optional PLUGIN ARGS` a line, '#' comments, `include GLOB` lines followed.
 */
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/cli/doctor.h"

#define DEPTH_MAX 8
#define BLANKS " \t\r\n"

struct search {
    const char *plugin;
    struct plugstack_entry *out;
};

static int read_file(struct search *s, const char *path, int depth,
                     struct vine_err *err);

/* Relative patterns are taken from the directory of the file that includes. */
static int read_included(struct search *s, const char *from, const char *pattern,
                         int depth, struct vine_err *err)
{
    const char *slash = strrchr(from, '/');
    char full[1024];
    glob_t found;
    int result = 0;

    if (depth >= DEPTH_MAX)
        return vine_err_set(err, VINE_ELIMIT,
                            "'%s': more than %d files include each other", from,
                            DEPTH_MAX);
    if (*pattern == '/' || slash == NULL)
        (void)snprintf(full, sizeof(full), "%s", pattern);
    else
        (void)snprintf(full, sizeof(full), "%.*s/%s", (int)(slash - from), from,
                       pattern);
    if (glob(full, 0, NULL, &found) != 0)
        return 0; /* no such file: Slurm does not mind either */
    for (size_t i = 0; i < found.gl_pathc && result == 0; i++)
        result = read_file(s, found.gl_pathv[i], depth + 1, err);
    globfree(&found);
    return result;
}

static int read_line(struct search *s, const char *file, char *line, int depth,
                     struct vine_err *err)
{
    char *rest = NULL, *word, *path;
    const char *base;

    line[strcspn(line, "#")] = '\0';
    word = strtok_r(line, BLANKS, &rest);
    path = word != NULL ? strtok_r(NULL, BLANKS, &rest) : NULL;
    if (path == NULL)
        return 0;
    if (strcmp(word, "include") == 0)
        return read_included(s, file, path, depth, err);
    base = strrchr(path, '/');
    base = base != NULL ? base + 1 : path;
    if (s->out->file[0] != '\0' || strcmp(base, s->plugin) != 0)
        return 0;
    (void)snprintf(s->out->file, sizeof(s->out->file), "%s", file);
    (void)snprintf(s->out->path, sizeof(s->out->path), "%s", path);
    s->out->required = strcmp(word, "required") == 0;
    return 0;
}

static int read_file(struct search *s, const char *path, int depth,
                     struct vine_err *err)
{
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t cap = 0;
    int result = 0;

    if (file == NULL)
        return vine_err_sys(err, "cannot open '%s'", path);
    while (result == 0 && getline(&line, &cap, file) >= 0)
        result = read_line(s, path, line, depth, err);
    free(line);
    (void)fclose(file);
    return result;
}

int plugstack_find(const char *conf_path, const char *plugin,
                   struct plugstack_entry *out, struct vine_err *err)
{
    struct search s = {.plugin = plugin, .out = out};

    *out = (struct plugstack_entry){0};
    return read_file(&s, conf_path, 0, err);
}
