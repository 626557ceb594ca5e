/* tree.c - nodes of an image, in lists of children and one table by parent and name.
 *
 * Paths come from a tar that a user's process wrote: every part is looked at, and what
 * a file name cannot be is refused. */
#include "daemon/squash/tree.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "vine/limits.h"

#define ROOM_FIRST 4096u
#define NODES_MAX 16000000u /* vine-source has a lower bound */
#define BLOCKS_FIRST 4u

struct nodes {
    struct node **bucket; /* [room], a power of two */
    size_t room, count;
    struct node *root;
};

static size_t hash_name(const struct node *parent, const char *name, size_t len)
{
    uint64_t h = (uintptr_t)parent;

    for (size_t i = 0; i < len; i++)
        h = (h ^ (uint8_t)name[i]) * 0x100000001b3u;
    return (size_t)(h ^ h >> 29);
}

static struct node *new_node(const char *name, size_t len)
{
    struct node *node = calloc(1, sizeof(*node) + len + 1);

    if (node == NULL)
        return NULL;
    memcpy(node->name, name, len);
    node->links = 1;
    node->file.tail_block = NO_TAIL;
    return node;
}

struct nodes *nodes_new(void)
{
    struct nodes *nodes = calloc(1, sizeof(*nodes));

    if (nodes == NULL)
        return NULL;
    nodes->room = ROOM_FIRST;
    nodes->bucket = calloc(nodes->room, sizeof(struct node *));
    nodes->root = new_node("", 0);
    if (nodes->bucket == NULL || nodes->root == NULL) {
        nodes_free(nodes);
        return NULL;
    }
    nodes->root->parent = nodes->root;
    nodes->root->mode = S_IFDIR | 0755;
    nodes->root->implied = true;
    nodes->count = 1;
    return nodes;
}

struct node *nodes_root(struct nodes *nodes)
{
    return nodes->root;
}

size_t nodes_count(const struct nodes *nodes)
{
    return nodes->count;
}

static struct node *find_child(const struct nodes *nodes, const struct node *parent,
                               const char *name, size_t len)
{
    struct node *n = nodes->bucket[hash_name(parent, name, len) & (nodes->room - 1)];

    while (n != NULL && (n->parent != parent || strncmp(n->name, name, len) != 0 ||
                         n->name[len] != '\0'))
        n = n->same_hash;
    return n;
}

static void put(struct node **bucket, size_t room, struct node *node)
{
    size_t at = hash_name(node->parent, node->name, strlen(node->name)) & (room - 1);

    node->same_hash = bucket[at];
    bucket[at] = node;
}

/* Twice the room, when the table is full. */
static int grow(struct nodes *nodes)
{
    size_t room = nodes->room * 2;
    struct node **bucket;

    if (nodes->count < nodes->room)
        return 0;
    bucket = calloc(room, sizeof(*bucket));
    if (bucket == NULL)
        return -1;
    for (size_t i = 0; i < nodes->room; i++)
        for (struct node *n = nodes->bucket[i], *next; n != NULL; n = next) {
            next = n->same_hash;
            put(bucket, room, n);
        }
    free(nodes->bucket);
    nodes->bucket = bucket;
    nodes->room = room;
    return 0;
}

struct node *nodes_add(struct nodes *nodes, struct node *parent, const char *name,
                       size_t len, struct vine_err *err)
{
    struct node *node;

    if (nodes->count >= NODES_MAX) {
        vine_err_set(err, VINE_ELIMIT, "more than %u entries", NODES_MAX);
        return NULL;
    }
    node = grow(nodes) < 0 ? NULL : new_node(name, len);
    if (node == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        return NULL;
    }
    node->parent = parent;
    node->next = parent->child;
    parent->child = node;
    parent->links++;
    put(nodes->bucket, nodes->room, node);
    nodes->count++;
    return node;
}

/* The next part of a path; its length in *len, 0: there is none. */
static const char *next_part(const char *path, size_t *len)
{
    for (;;) {
        while (*path == '/')
            path++;
        *len = strcspn(path, "/");
        if (*len != 1 || *path != '.')
            return path;
        path++;
    }
}

struct node *nodes_find(const struct nodes *nodes, const char *path)
{
    struct node *node = nodes->root;
    size_t len;

    for (const char *part = next_part(path, &len); len > 0 && node != NULL;
         part = next_part(part + len, &len))
        node = len > SQUASH_NAME_MAX ? NULL : find_child(nodes, node, part, len);
    return node;
}

static struct node *make_part(struct nodes *nodes, struct node *parent,
                              const char *part, size_t len, struct vine_err *err)
{
    struct node *node;

    if (len > SQUASH_NAME_MAX || (len == 2 && memcmp(part, "..", 2) == 0)) {
        vine_err_set(err, VINE_EINVAL, "bad name in '%s'", part);
        return NULL;
    }
    node = find_child(nodes, parent, part, len);
    if (node != NULL)
        return node;
    node = nodes_add(nodes, parent, part, len, err);
    if (node == NULL)
        return NULL;
    node->mode = S_IFDIR | 0755;
    node->implied = true;
    return node;
}

struct node *nodes_make(struct nodes *nodes, const char *path, bool directory,
                        struct vine_err *err)
{
    struct node *node = nodes->root;
    size_t len;

    if (strlen(path) >= VINE_PATH_MAX) {
        vine_err_set(err, VINE_ELIMIT, "a path of over %d bytes", VINE_PATH_MAX - 1);
        return NULL;
    }
    for (const char *part = next_part(path, &len); len > 0;
         part = next_part(part + len, &len)) {
        if (!S_ISDIR(node->mode) || node->link != NULL) {
            vine_err_set(err, VINE_EINVAL, "'%s' is below something else", path);
            return NULL;
        }
        node = make_part(nodes, node, part, len, err);
        if (node == NULL)
            return NULL;
    }
    if (!node->implied ||
        (!directory && (node->child != NULL || node == nodes->root))) {
        vine_err_set(err, VINE_EINVAL, "'%s' comes twice", path);
        return NULL;
    }
    node->implied = false;
    return node;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(struct node *const *)a)->name, (*(struct node *const *)b)->name);
}

static void sort_children(struct node *dir, struct node **room)
{
    size_t count = 0;

    for (struct node *n = dir->child; n != NULL; n = n->next)
        room[count++] = n;
    qsort(room, count, sizeof(*room), by_name);
    dir->child = NULL;
    while (count > 0) {
        room[--count]->next = dir->child;
        dir->child = room[count];
    }
}

int nodes_sort(struct nodes *nodes, struct vine_err *err)
{
    struct node **room = calloc(nodes->count, sizeof(*room));

    if (room == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    sort_children(nodes->root, room);
    for (size_t i = 0; i < nodes->room; i++)
        for (struct node *n = nodes->bucket[i]; n != NULL; n = n->same_hash)
            if (n->child != NULL)
                sort_children(n, room);
    free(room);
    return 0;
}

static void free_node(struct node *node)
{
    free(node->file.block);
    free(node->target);
    free(node);
}

void nodes_free(struct nodes *nodes)
{
    if (nodes == NULL)
        return;
    for (size_t i = 0; nodes->bucket != NULL && i < nodes->room; i++)
        for (struct node *n = nodes->bucket[i], *next; n != NULL; n = next) {
            next = n->same_hash;
            free_node(n);
        }
    if (nodes->root != NULL)
        free_node(nodes->root);
    free(nodes->bucket);
    free(nodes);
}

int file_add_block(struct squash_file *file, uint32_t word, struct vine_err *err)
{
    if (file->count == file->room) {
        uint32_t room = file->room == 0 ? BLOCKS_FIRST : file->room * 2;
        uint32_t *grown = realloc(file->block, room * sizeof(*grown));

        if (grown == NULL)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
        file->block = grown;
        file->room = room;
    }
    file->block[file->count++] = word;
    return 0;
}
