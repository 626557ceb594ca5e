/* table.h - an intrusive chained hash table.
 *
 * The link lives inside the entry: no allocation when one is added, but for the slots,
 * which double as the table fills; when that memory is missing the chains grow longer
 * and nothing fails. Equal keys are the caller's affair: table_next_same walks all
 * entries of one hash. Order depends on the hashes and on nothing else (no addresses),
 * so that a simulation replays. */
#ifndef VINE_CORE_TABLE_H
#define VINE_CORE_TABLE_H

#include <stddef.h>
#include <stdint.h>

#include "vine/digest.h"

struct table_link {
    struct table_link *next;
    uint64_t hash;
};

struct table {
    struct table_link **slot;
    uint32_t slots; /* a power of two */
    uint32_t count;
};

int table_init(struct table *table);  /* 0, or -1 when out of memory */
void table_free(struct table *table); /* the slots only */
void table_add(struct table *table, struct table_link *link, uint64_t hash);
void table_remove(struct table *table, struct table_link *link);
/* First entry with this hash, then the others; NULL: none. */
struct table_link *table_find(const struct table *table, uint64_t hash);
struct table_link *table_next_same(const struct table_link *link);
/* Walk all entries; link NULL: the first. The table must not change meanwhile. */
struct table_link *table_each(const struct table *table, const struct table_link *link);

uint64_t hash_u64(uint64_t value);
uint64_t hash_text(const char *text, uint64_t seed);
uint64_t hash_digest(const struct vine_digest *digest);

#define table_entry(link, type, member)                                                \
    ((type *)((char *)(link)-offsetof(type, member)))

#endif
