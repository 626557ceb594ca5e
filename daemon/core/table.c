/* table.c - see table.h. */
#include "daemon/core/table.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS_FIRST 16

int table_init(struct table *table)
{
    table->count = 0;
    table->slots = SLOTS_FIRST;
    table->slot = calloc(SLOTS_FIRST, sizeof(struct table_link *));
    return table->slot == NULL ? -1 : 0;
}

void table_free(struct table *table)
{
    free(table->slot);
    *table = (struct table){0};
}

static struct table_link **slot_of(const struct table *table, uint64_t hash)
{
    return &table->slot[hash & (table->slots - 1)];
}

/* Twice the slots; entries keep their order within a chain. */
static void table_grow(struct table *table)
{
    struct table bigger = {.slots = table->slots * 2};

    bigger.slot = calloc(bigger.slots, sizeof(struct table_link *));
    if (bigger.slot == NULL)
        return;
    for (uint32_t i = 0; i < table->slots; i++) {
        struct table_link **low = &bigger.slot[i];
        struct table_link **high = &bigger.slot[i + table->slots];
        for (struct table_link *l = table->slot[i]; l != NULL; l = l->next) {
            struct table_link ***tail = l->hash & table->slots ? &high : &low;
            **tail = l;
            *tail = &l->next;
        }
        *low = NULL;
        *high = NULL;
    }
    free(table->slot);
    table->slot = bigger.slot;
    table->slots = bigger.slots;
}

void table_add(struct table *table, struct table_link *link, uint64_t hash)
{
    struct table_link **slot;

    if (table->count >= table->slots && table->slots < 1u << 30)
        table_grow(table);
    slot = slot_of(table, hash);
    link->hash = hash;
    link->next = *slot;
    *slot = link;
    table->count++;
}

void table_remove(struct table *table, struct table_link *link)
{
    struct table_link **at = slot_of(table, link->hash);

    while (*at != NULL && *at != link)
        at = &(*at)->next;
    if (*at == NULL)
        return;
    *at = link->next;
    table->count--;
}

struct table_link *table_find(const struct table *table, uint64_t hash)
{
    struct table_link *l = *slot_of(table, hash);

    while (l != NULL && l->hash != hash)
        l = l->next;
    return l;
}

struct table_link *table_next_same(const struct table_link *link)
{
    struct table_link *l = link->next;

    while (l != NULL && l->hash != link->hash)
        l = l->next;
    return l;
}

struct table_link *table_each(const struct table *table, const struct table_link *link)
{
    uint32_t i = 0;

    if (link != NULL) {
        if (link->next != NULL)
            return link->next;
        i = (uint32_t)(link->hash & (table->slots - 1)) + 1;
    }
    for (; i < table->slots; i++)
        if (table->slot[i] != NULL)
            return table->slot[i];
    return NULL;
}

uint64_t hash_u64(uint64_t value)
{
    value = (value ^ (value >> 33)) * 0xff51afd7ed558ccdull;
    value = (value ^ (value >> 33)) * 0xc4ceb9fe1a85ec53ull;
    return value ^ (value >> 33);
}

uint64_t hash_text(const char *text, uint64_t seed)
{
    uint64_t h = seed ^ 0xcbf29ce484222325ull;

    for (; *text != '\0'; text++)
        h = (h ^ (unsigned char)*text) * 0x100000001b3ull;
    return hash_u64(h);
}

uint64_t hash_digest(const struct vine_digest *digest)
{
    uint64_t h;

    memcpy(&h, digest->b, sizeof(h));
    return hash_u64(h);
}
