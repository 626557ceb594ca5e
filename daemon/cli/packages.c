/* packages.c - see packages.h.
 *
 * Names and paths come from an environment or an image that anybody may have made: they
 * are compared and counted, and shown escaped. */
#include "daemon/cli/packages.h"

#include <stdlib.h>
#include <string.h>

#include "vine/escape.h"
#include "vine/limits.h"

#define PACKAGES_MAX 100000 /* more share the last one's place */
#define META "conda-meta/"

struct packages {
    struct package *list;
    size_t count, room;
    json_t *index;  /* name -> number in list */
    json_t *owners; /* path -> number in list */
};

struct packages *packages_new(void)
{
    struct packages *p = calloc(1, sizeof(*p));

    if (p == NULL)
        return NULL;
    p->index = json_object();
    p->owners = json_object();
    if (p->index != NULL && p->owners != NULL)
        return p;
    packages_free(p);
    return NULL;
}

void packages_free(struct packages *p)
{
    if (p == NULL)
        return;
    for (size_t i = 0; i < p->count; i++) {
        free(p->list[i].name);
        free(p->list[i].version);
    }
    free(p->list);
    json_decref(p->index);
    json_decref(p->owners);
    free(p);
}

static int make_room(struct packages *p)
{
    size_t room = p->room * 2 + 64;
    struct package *grown;

    if (p->count < p->room)
        return 0;
    grown = realloc(p->list, room * sizeof(*grown));
    if (grown == NULL)
        return -1;
    p->list = grown;
    p->room = room;
    return 0;
}

/* The number of the package of this name, made if there is none; -1: out of memory. */
static int64_t number_of(struct packages *p, const char *name, size_t len,
                         const char *version)
{
    const json_t *known = json_object_getn(p->index, name, len);
    struct package *new;

    if (known != NULL)
        return json_integer_value(known);
    if (p->count == PACKAGES_MAX)
        return PACKAGES_MAX - 1;
    if (make_room(p) < 0)
        return -1;
    new = &p->list[p->count];
    *new = (struct package){.name = strndup(name, len), .version = strdup(version)};
    if (new->name == NULL || new->version == NULL ||
        json_object_setn_new_nocheck(p->index, name, len,
                                     json_integer((json_int_t)p->count)) < 0) {
        free(new->name);
        free(new->version);
        return -1;
    }
    return (int64_t)p->count++;
}

bool packages_is_list(const char *path)
{
    size_t len = strlen(path);

    return strncmp(path, META, strlen(META)) == 0 &&
           strchr(path + strlen(META), '/') == NULL && len > 5 &&
           strcmp(path + len - 5, ".json") == 0;
}

bool packages_add_list(struct packages *p, const char *json, size_t len)
{
    json_t *root = json_loadb(json, len, 0, NULL);
    const json_t *name = json_object_get(root, "name");
    const json_t *version = json_object_get(root, "version");
    const json_t *files = json_object_get(root, "files"), *file;
    int64_t number = -1;
    size_t i;

    if (json_is_string(name) && json_string_length(name) > 0)
        number = number_of(p, json_string_value(name), json_string_length(name),
                           json_is_string(version) ? json_string_value(version) : "");
    if (number >= 0) {
        json_array_foreach(files, i, file)
        {
            if (json_is_string(file))
                (void)json_object_setn_new_nocheck(p->owners, json_string_value(file),
                                                   json_string_length(file),
                                                   json_integer(number));
        }
    }
    json_decref(root);
    return number >= 0;
}

/* What follows the last "site-packages/" or "dist-packages/"; NULL: it has none. */
static const char *below_site(const char *path)
{
    static const char *const names[] = {"site-packages/", "dist-packages/"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *at = strstr(path, names[i]);

        if (at != NULL && (at == path || at[-1] == '/'))
            return at + strlen(names[i]);
    }
    return NULL;
}

/* "numpy" of numpy/, numpy.libs/, numpy-2.1.dist-info/, __pycache__/numpy.x.pyc. */
static size_t site_name(const char **rest)
{
    static const char cache[] = "__pycache__/";
    size_t len;

    if (strncmp(*rest, cache, strlen(cache)) == 0)
        *rest += strlen(cache);
    len = strcspn(*rest, "/.-");
    return len > 0 ? len : strcspn(*rest, "/"); /* a name that begins with a dot */
}

static int64_t owner_of(struct packages *p, const char *path)
{
    const json_t *owner = json_object_get(p->owners, path);
    const char *rest = below_site(path), *slash = strchr(path, '/');
    size_t len;

    if (owner != NULL)
        return json_integer_value(owner);
    if (rest != NULL && (len = site_name(&rest)) > 0)
        return number_of(p, rest, len, "");
    if (strncmp(path, "lib/python", 10) == 0 && strchr(path + 10, '/') != NULL)
        return number_of(p, "python", 6, "");
    if (slash != NULL)
        return number_of(p, path, (size_t)(slash - path) + 1, "");
    return number_of(p, "./", 2, "");
}

int packages_add_file(struct packages *p, const char *path, uint64_t bytes, bool opened)
{
    int64_t number = owner_of(p, path);

    if (number < 0)
        return -1;
    p->list[number].files++;
    p->list[number].bytes += bytes;
    p->list[number].opened_files += opened;
    p->list[number].opened_bytes += opened ? bytes : 0;
    return 0;
}

static int by_size(const void *a, const void *b)
{
    const struct package *x = a, *y = b;

    if ((x->files == 0) != (y->files == 0))
        return x->files == 0 ? 1 : -1;
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

const struct package *packages_sorted(struct packages *p, size_t *count)
{
    /* Numbers change: whoever adds after this finds no package any more. */
    json_object_clear(p->index);
    json_object_clear(p->owners);
    if (p->count > 0)
        qsort(p->list, p->count, sizeof(*p->list), by_size);
    *count = 0;
    while (*count < p->count && p->list[*count].files > 0)
        ++*count;
    return p->list;
}

static json_t *package_json(const struct package *p, uint64_t total, bool opened)
{
    char *name = vine_path_escape(p->name), *version = vine_path_escape(p->version);
    json_t *one = NULL;

    if (name != NULL && version != NULL)
        one = json_pack("{s:s, s:s, s:I, s:I, s:f}", "name", name, "version", version,
                        "files", (json_int_t)p->files, "bytes", (json_int_t)p->bytes,
                        "share", total > 0 ? (double)p->bytes / (double)total : 0.0);
    if (one != NULL && opened) {
        (void)json_object_set_new(one, "opened_files",
                                  json_integer((json_int_t)p->opened_files));
        (void)json_object_set_new(one, "opened_bytes",
                                  json_integer((json_int_t)p->opened_bytes));
    }
    free(name);
    free(version);
    return one;
}

json_t *packages_json(struct packages *p, uint64_t total, bool opened)
{
    json_t *array = json_array();
    size_t count;
    const struct package *list = packages_sorted(p, &count);

    for (size_t i = 0; i < count && array != NULL; i++)
        if (json_array_append_new(array, package_json(&list[i], total, opened)) < 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}
