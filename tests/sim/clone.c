/* clone.c - deep copies of messages, since what the cores hand out is only borrowed.
 *
 * All a message points at is copied into one block behind it. */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

struct clone {
    struct msg m;
    size_t used, size;
    char data[];
};

static size_t text_size(const char *text)
{
    return text == NULL ? 0 : strlen(text) + 1;
}

static size_t padded(size_t size)
{
    return (size + 15) / 16 * 16;
}

static size_t total_size(const struct msg *m)
{
    size_t size = padded(text_size(m->path)) + padded(text_size(m->text)) +
                  padded(text_size(m->peer)) + padded(text_size(m->switch_name));

    size += padded(m->range_count * sizeof(*m->ranges));
    size += padded(m->assign_count * sizeof(*m->assigns));
    for (uint32_t i = 0; i < m->assign_count; i++)
        size += padded(text_size(m->assigns[i].peer)) +
                padded(text_size(m->assigns[i].addr));
    size += padded(m->object_count * sizeof(*m->objects));
    for (uint32_t i = 0; i < m->object_count; i++)
        size += padded(m->objects[i].key_count * sizeof(struct vine_digest));
    size += padded(m->binding_count * sizeof(*m->bindings));
    for (uint32_t i = 0; i < m->binding_count; i++)
        size += padded(text_size(m->bindings[i].path));
    size += padded(m->name_count * sizeof(*m->names));
    for (uint32_t i = 0; i < m->name_count; i++)
        size += padded(text_size(m->names[i]));
    return size;
}

static void *keep(struct clone *c, const void *data, size_t size)
{
    void *copy = c->data + c->used;

    if (data == NULL || size == 0)
        return NULL;
    if (c->used + padded(size) > c->size)
        abort();
    memcpy(copy, data, size);
    c->used += padded(size);
    return copy;
}

static char *keep_text(struct clone *c, const char *text)
{
    return keep(c, text, text_size(text));
}

static void keep_lists(struct clone *c, const struct msg *m)
{
    struct msg_assign *assigns;
    struct msg_object *objects;
    struct msg_binding *bindings;
    const char **names;

    c->m.ranges = keep(c, m->ranges, m->range_count * sizeof(*m->ranges));
    assigns = keep(c, m->assigns, m->assign_count * sizeof(*m->assigns));
    for (uint32_t i = 0; i < m->assign_count; i++) {
        assigns[i].peer = keep_text(c, m->assigns[i].peer);
        assigns[i].addr = keep_text(c, m->assigns[i].addr);
    }
    objects = keep(c, m->objects, m->object_count * sizeof(*m->objects));
    for (uint32_t i = 0; i < m->object_count; i++)
        objects[i].keys = keep(c, m->objects[i].keys,
                               m->objects[i].key_count * sizeof(struct vine_digest));
    bindings = keep(c, m->bindings, m->binding_count * sizeof(*m->bindings));
    for (uint32_t i = 0; i < m->binding_count; i++)
        bindings[i].path = keep_text(c, m->bindings[i].path);
    names = keep(c, m->names, m->name_count * sizeof(*m->names));
    for (uint32_t i = 0; i < m->name_count; i++)
        names[i] = keep_text(c, m->names[i]);
    c->m.assigns = assigns;
    c->m.objects = objects;
    c->m.bindings = bindings;
    c->m.names = names;
}

struct msg *msg_clone(const struct msg *m)
{
    size_t size = total_size(m);
    struct clone *c = calloc(1, sizeof(*c) + size);

    if (c == NULL)
        abort();
    c->m = *m;
    c->size = size;
    c->m.path = keep_text(c, m->path);
    c->m.text = keep_text(c, m->text);
    c->m.peer = keep_text(c, m->peer);
    c->m.switch_name = keep_text(c, m->switch_name);
    keep_lists(c, m);
    return &c->m;
}

void msg_clone_free(struct msg *m)
{
    free((struct clone *)(void *)m);
}
