/* names.c - a hash table of paths. Entries are kept in an array in the order they came;
 * the table holds indices into it. The hash is keyed with random bytes: an archive's
 * author must not be able to choose names that all collide. */
#include "daemon/image/names.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/image/tree_int.h"
#include "vine/digest.h"

#define FIRST_SLOTS 1024u
#define NO_MEMORY "out of memory"

struct name {
    const char *path;
    uint64_t hash;
    enum name_type type;
};

struct names {
    uint64_t seed;
    struct name *name;
    uint32_t count, cap;
    uint32_t *slot; /* index + 1; 0 = empty */
    uint32_t slots; /* a power of two, more than count * 4 / 3 */
    struct tree_block *blocks;
};

struct names *names_new(void)
{
    struct names *n = calloc(1, sizeof(*n));

    if (n == NULL)
        return NULL;
    n->slots = FIRST_SLOTS;
    n->slot = calloc(n->slots, sizeof(*n->slot));
    if (n->slot == NULL || vine_random(&n->seed, sizeof(n->seed), NULL) < 0) {
        names_free(n);
        return NULL;
    }
    return n;
}

void names_free(struct names *names)
{
    if (names == NULL)
        return;
    tree_blocks_free(names->blocks);
    free(names->name);
    free(names->slot);
    free(names);
}

const char *names_make_plain(const char *name, char out[VINE_PATH_MAX])
{
    size_t used = 0;

    if (name[0] == '/')
        return "its name is absolute";
    while (*name != '\0') {
        size_t len = strcspn(name, "/");

        if (len == 2 && memcmp(name, "..", 2) == 0)
            return "its name has '..' in it";
        if (len > 255)
            return "a part of its name has more than 255 bytes";
        if (len > 0 && !(len == 1 && name[0] == '.')) {
            if (used + len + 2 > VINE_PATH_MAX)
                return "its name is too long";
            if (used > 0)
                out[used++] = '/';
            memcpy(out + used, name, len);
            used += len;
        }
        name += len;
        name += *name == '/';
    }
    out[used] = '\0';
    return NULL;
}

static uint64_t hash_of(const struct names *n, const char *path, size_t len)
{
    uint64_t h = n->seed;

    for (size_t i = 0; i < len; i++) {
        h = (h ^ (uint8_t)path[i]) * 0x9E3779B97F4A7C15ull;
        h ^= h >> 29;
    }
    return h;
}

/* The slot where path is, or the empty one where it would be. */
static uint32_t find_slot(const struct names *n, const char *path, size_t len,
                          uint64_t hash)
{
    uint32_t at = (uint32_t)hash & (n->slots - 1);

    for (; n->slot[at] != 0; at = (at + 1) & (n->slots - 1)) {
        const struct name *name = &n->name[n->slot[at] - 1];
        if (name->hash == hash && strlen(name->path) == len &&
            memcmp(name->path, path, len) == 0)
            break;
    }
    return at;
}

static struct name *find(const struct names *n, const char *path, size_t len)
{
    uint32_t at = find_slot(n, path, len, hash_of(n, path, len));

    return n->slot[at] != 0 ? &n->name[n->slot[at] - 1] : NULL;
}

enum name_type names_find(const struct names *names, const char *path)
{
    const struct name *name = find(names, path, strlen(path));

    return name != NULL ? name->type : NAME_NONE;
}

static bool grow(struct names *n)
{
    uint32_t slots = n->slots * 2;
    uint32_t *slot = calloc(slots, sizeof(*slot));

    if (slot == NULL)
        return false;
    for (uint32_t i = 0; i < n->count; i++) {
        uint32_t at = (uint32_t)n->name[i].hash & (slots - 1);
        while (slot[at] != 0)
            at = (at + 1) & (slots - 1);
        slot[at] = i + 1;
    }
    free(n->slot);
    n->slot = slot;
    n->slots = slots;
    return true;
}

static const char *insert(struct names *n, const char *path, size_t len,
                          enum name_type type)
{
    uint64_t hash = hash_of(n, path, len);
    const char *kept;

    if (n->count == TREE_ENTRIES_MAX)
        return "there are too many entries";
    if (n->count >= n->slots / 4 * 3 && !grow(n))
        return NO_MEMORY;
    if (n->count == n->cap) {
        uint32_t cap = n->cap > 0 ? 2 * n->cap : 256;
        void *grown = realloc(n->name, cap * sizeof(*n->name));
        if (grown == NULL)
            return NO_MEMORY;
        n->name = grown;
        n->cap = cap;
    }
    kept = tree_keep(&n->blocks, path, len);
    if (kept == NULL)
        return NO_MEMORY;
    n->name[n->count] = (struct name){kept, hash, type};
    n->slot[find_slot(n, path, len, hash)] = n->count + 1;
    n->count++;
    return NULL;
}

static const char *add_parents(struct names *n, const char *path)
{
    for (const char *slash = strchr(path, '/'); slash != NULL;
         slash = strchr(slash + 1, '/')) {
        size_t len = (size_t)(slash - path);
        const struct name *above = find(n, path, len);
        const char *wrong;

        if (above != NULL && above->type != NAME_DIR && above->type != NAME_IMPLIED)
            return above->type == NAME_LINK ? "it lies below a symbolic link"
                                            : "it lies below a file";
        if (above == NULL && (wrong = insert(n, path, len, NAME_IMPLIED)) != NULL)
            return wrong;
    }
    return NULL;
}

const char *names_add(struct names *names, const char *path, enum name_type type,
                      bool *again)
{
    const char *wrong = add_parents(names, path);
    struct name *name = find(names, path, strlen(path));

    *again = false;
    if (wrong != NULL)
        return wrong;
    if (name == NULL)
        return insert(names, path, strlen(path), type);
    if (type != NAME_DIR || (name->type != NAME_DIR && name->type != NAME_IMPLIED))
        return "its name is there twice";
    *again = name->type == NAME_DIR;
    name->type = NAME_DIR;
    return NULL;
}

int names_each_implied(const struct names *names,
                       int (*each)(void *ctx, const char *path), void *ctx)
{
    for (uint32_t i = 0; i < names->count; i++)
        if (names->name[i].type == NAME_IMPLIED && each(ctx, names->name[i].path) < 0)
            return -1;
    return 0;
}

uint64_t names_count(const struct names *names)
{
    return names->count;
}
