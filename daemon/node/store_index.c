/* store_index.c - which object has a chunk: digest -> (object, chunk). Complete ones
 * are here, and parts of what is being built, of which not all need be there yet.
 *
 * An open table with linear probing; an entry is eight bytes, the digest itself stands
 * in the object's manifest. Several objects may have a chunk: the COPIES_MAX last used
 * are kept, since the others are evicted first. Of a chunk that one object has many
 * times (zeros) one entry is enough. At most VINE_INDEX_MAX entries: beyond it new
 * chunks are not found again, which costs their transfer and nothing else.
 *
 * Digests are SHA-256, so any of their bits are a hash. A user may choose the digests
 * that are looked up, but not those that are stored: these were verified. */
#include <stdlib.h>
#include <string.h>

#include "daemon/node/store_int.h"

#define COPIES_MAX 4u
#define SLOTS_MIN 1024u

struct index_entry {
    uint32_t object; /* place in objects[], plus 1; 0: empty */
    uint32_t chunk;
};

struct store_index {
    struct store_object *objects[VINE_OBJECTS_MAX];
    struct index_entry *slot;
    uint32_t slots, used; /* slots: a power of 2, at most half of them used */
};

struct store_index *index_new(void)
{
    return calloc(1, sizeof(struct store_index));
}

void index_free(struct store_index *index)
{
    if (index != NULL)
        free(index->slot);
    free(index);
}

static const struct vine_digest *digest_of(const struct store_index *index,
                                           struct index_entry e)
{
    return &index->objects[e.object - 1]->manifest.chunk[e.chunk].digest;
}

static uint64_t used_of(const struct store_index *index, struct index_entry e)
{
    return index->objects[e.object - 1]->used_ms;
}

static uint32_t home_of(const struct store_index *index,
                        const struct vine_digest *digest)
{
    uint32_t hash;

    memcpy(&hash, digest->b, sizeof(hash));
    return hash & (index->slots - 1);
}

static uint32_t after(const struct store_index *index, uint32_t at)
{
    return (at + 1) & (index->slots - 1);
}

static void put(struct store_index *index, struct index_entry e)
{
    uint32_t at = home_of(index, digest_of(index, e));

    while (index->slot[at].object != 0)
        at = after(index, at);
    index->slot[at] = e;
    index->used++;
}

static int grow(struct store_index *index)
{
    struct index_entry *old = index->slot, *bigger;
    uint32_t count = index->slots, slots = count == 0 ? SLOTS_MIN : 2 * count;

    bigger = calloc(slots, sizeof(*bigger));
    if (bigger == NULL)
        return -1;
    index->slot = bigger;
    index->slots = slots;
    index->used = 0;
    for (uint32_t i = 0; i < count; i++)
        if (old[i].object != 0)
            put(index, old[i]);
    free(old);
    return 0;
}

/* One chunk; false: no room. */
static bool add_chunk(struct store_index *index, struct index_entry e)
{
    const struct vine_digest *digest = digest_of(index, e);
    struct index_entry *oldest = NULL;
    uint32_t at, copies = 0;

    if (2 * index->used >= index->slots &&
        (index->used >= VINE_INDEX_MAX || grow(index) < 0))
        return false;
    for (at = home_of(index, digest); index->slot[at].object != 0;
         at = after(index, at)) {
        struct index_entry *other = &index->slot[at];
        if (!vine_digest_equal(digest_of(index, *other), digest))
            continue;
        if (other->object == e.object)
            return true;
        copies++;
        if (oldest == NULL || used_of(index, *other) < used_of(index, *oldest))
            oldest = other;
    }
    if (copies >= COPIES_MAX) {
        *oldest = e;
        return true;
    }
    index->slot[at] = e;
    index->used++;
    return true;
}

void index_add(struct store_index *index, struct store_object *object)
{
    uint32_t place = VINE_OBJECTS_MAX;

    for (uint32_t i = VINE_OBJECTS_MAX; i > 0; i--) {
        if (index->objects[i - 1] == object)
            return; /* since it became a part */
        if (index->objects[i - 1] == NULL)
            place = i - 1;
    }
    if (place == VINE_OBJECTS_MAX)
        return;
    index->objects[place] = object;
    for (uint32_t c = 0; c < object->manifest.count; c++)
        if (!add_chunk(index, (struct index_entry){place + 1, c}))
            return;
}

/* Empty a slot so that what was probed past it is still found. */
static void clear(struct store_index *index, uint32_t hole)
{
    uint32_t at = hole;

    for (;;) {
        uint32_t home, from_home, from_hole;
        at = after(index, at);
        if (index->slot[at].object == 0)
            break;
        home = home_of(index, digest_of(index, index->slot[at]));
        from_home = (at - home) & (index->slots - 1);
        from_hole = (at - hole) & (index->slots - 1);
        if (from_home < from_hole)
            continue; /* it stands where it should */
        index->slot[hole] = index->slot[at];
        hole = at;
    }
    index->slot[hole].object = 0;
    index->used--;
}

bool index_remove(struct store_index *index, const struct store_object *object)
{
    uint32_t place = 0;

    while (place < VINE_OBJECTS_MAX && index->objects[place] != object)
        place++;
    if (place == VINE_OBJECTS_MAX)
        return false;
    for (uint32_t c = 0; index->slots > 0 && c < object->manifest.count; c++) {
        uint32_t at = home_of(index, &object->manifest.chunk[c].digest);
        while (index->slot[at].object != 0 &&
               (index->slot[at].object != place + 1 || index->slot[at].chunk != c))
            at = after(index, at);
        if (index->slot[at].object != 0)
            clear(index, at);
    }
    index->objects[place] = NULL;
    return true;
}

uint32_t store_lookup(const struct store *store, const struct vine_digest *digest,
                      struct store_source found[STORE_SOURCES_MAX])
{
    const struct store_index *index = store->index;
    uint32_t count = 0, at;

    if (index->slots == 0)
        return 0;
    for (at = home_of(index, digest);
         index->slot[at].object != 0 && count < STORE_SOURCES_MAX;
         at = after(index, at)) {
        struct index_entry e = index->slot[at];
        struct store_object *object = index->objects[e.object - 1];
        if (vine_digest_equal(digest_of(index, e), digest) &&
            store_has_chunk(object, e.chunk))
            found[count++] = (struct store_source){object, e.chunk};
    }
    return count;
}

bool store_forget_chunks(struct store *store, const struct store_object *object)
{
    return index_remove(store->index, object);
}
