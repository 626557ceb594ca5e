/* shape.c - see shape.h. Only the tree changes: what reads it afterwards knows two
 * roots and an order, and nothing of globs or traces. */
#include "daemon/image/shape.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/image/trace.h"
#include "daemon/image/tree_int.h"

static bool has_directory(const struct tree *tree, const char *path)
{
    uint32_t i = tree_find(tree, path);

    return i != UINT32_MAX && S_ISDIR(tree->entry[i].mode);
}

/* May it come in, and is there anything to take out for it? `over` is sorted: a
 * directory of it was decided before what is in it. */
static bool is_welcome(struct tree *tree, const struct tree *over, uint32_t i)
{
    const struct tree_entry *e = &over->entry[i];
    uint32_t own = tree_find(tree, e->path);
    const char *slash = strrchr(e->path, '/');
    uint32_t above;
    char *dir;

    if (!S_ISREG(e->mode) && !S_ISDIR(e->mode))
        return false;
    if (own != UINT32_MAX) {
        if (!S_ISREG(e->mode) || !S_ISREG(tree->entry[own].mode))
            return false;
        tree->entry[own].replaced = true;
        return true;
    }
    if (slash == NULL)
        return true;
    dir = strndup(e->path, (size_t)(slash - e->path));
    if (dir == NULL)
        return false;
    above = tree_find(over, dir);
    own = has_directory(tree, dir);
    free(dir);
    return own || (above != UINT32_MAX && over->entry[above].over);
}

/* Both in one array; the tree takes over what paths are kept in. */
static int merge(struct tree *tree, struct tree *over, struct vine_err *err)
{
    struct tree_entry *all = calloc((size_t)tree->count + over->count, sizeof(*all));
    struct tree_block *last = over->blocks;
    uint32_t count = 0;

    if (all == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    for (uint32_t i = 1; i < over->count; i++)
        over->entry[i].over = is_welcome(tree, over, i);
    for (uint32_t i = 0; i < tree->count; i++)
        if (!tree->entry[i].replaced)
            all[count++] = tree->entry[i];
    for (uint32_t i = 1; i < over->count; i++)
        if (over->entry[i].over)
            all[count++] = over->entry[i];
    free(tree->entry);
    tree->entry = all;
    tree->count = count;
    while (last != NULL && last->next != NULL)
        last = last->next;
    if (last != NULL) {
        last->next = tree->blocks;
        tree->blocks = over->blocks;
        over->blocks = NULL;
    }
    return 0;
}

int shape_add_overlay(struct tree *tree, int overlay_fd,
                      const struct walk_options *options, struct vine_err *err)
{
    struct tree *over;
    int result;

    if (tree_walk(overlay_fd, options, &over, err) < 0)
        return -1;
    result = merge(tree, over, err);
    tree_free(over);
    if (result < 0)
        return -1;
    tree->over_fd = overlay_fd;
    tree->files = tree->bytes = tree->alloc = 0;
    return tree_finish(tree, options, err);
}

int shape_set_order(struct tree *tree, const char *path, const char *name,
                    struct vine_err *err)
{
    struct trace trace = {.path = NULL};
    uint32_t *order = NULL, count = 0;
    bool *placed = NULL;

    if (trace_read(path, &trace, err) < 0)
        return -1;
    order = calloc(tree->count, sizeof(*order));
    placed = calloc(tree->count, sizeof(*placed));
    if (order == NULL || placed == NULL) {
        trace_free(&trace);
        free(order);
        free(placed);
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    order[count++] = 0; /* the root is the first */
    placed[0] = true;
    for (uint32_t k = 0; k < trace.count; k++) {
        uint32_t i = tree_find(tree, trace.path[k]);

        if (i == UINT32_MAX || !S_ISREG(tree->entry[i].mode))
            continue;
        i = tree->entry[i].link_to;
        if (!placed[i])
            order[count++] = i;
        placed[i] = true;
    }
    tree->order_first = count - 1;
    for (uint32_t i = 0; i < tree->count; i++)
        if (!placed[i])
            order[count++] = i;
    free(placed);
    tree->order = order;
    if (tree->order_first == 0)
        vine_err_set(
            err, VINE_EINVAL,
            "the trace '%.150s' names no file of '%.150s': it was made of %.100s", path,
            name, trace.prefix[0] != '\0' ? trace.prefix : "another environment");
    trace_free(&trace);
    return tree->order_first == 0 ? -1 : 0;
}
