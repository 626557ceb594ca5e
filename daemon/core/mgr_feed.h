/* mgr_feed.h - what mgr_feed.c and mgr_tree.c share: pieces as words. */
#ifndef VINE_CORE_MGR_FEED_H
#define VINE_CORE_MGR_FEED_H

#include "daemon/core/mgr_int.h"

static inline uint64_t word_of(const uint64_t *set, uint32_t words, uint32_t first)
{
    uint32_t i = first / 64, shift = first % 64;
    uint64_t low = i < words ? set[i] >> shift : 0;

    return shift == 0 || i + 1 >= words ? low : low | set[i + 1] << (64 - shift);
}

static inline uint64_t mask_of(uint32_t count)
{
    return count >= 64 ? ~0ull : (1ull << count) - 1;
}

/* Pieces of the range that the holder has. */
static inline uint64_t has_mask(const struct holder *h, struct msg_range range)
{
    if (h->complete)
        return mask_of(range.count);
    return word_of(h->have, bits_words(h->object->pieces), range.first) &
           mask_of(range.count);
}

static inline uint64_t asked_mask(const struct holder *h, struct msg_range range)
{
    return word_of(h->in->asked, bits_words(h->object->pieces), range.first) &
           mask_of(range.count);
}

/* More than so many nodes: each costs messages, so they are spoken with less often. */
#define MEMBERS_FEW 512u

/* A millisecond more for so many of those beyond MEMBERS_FEW. */
static inline uint32_t crowd_ms(uint32_t members, uint32_t a_ms)
{
    return members > MEMBERS_FEW ? (members - MEMBERS_FEW) / a_ms : 0;
}

#define HEARTBEAT_A_MS 2u /* so many of those report a millisecond less often, */
#define QUIET_A_MS 4u     /* and so many have one more until they are asked */

/* Added to whatever bounds the silence of one of so many. */
static inline uint32_t crowd_quiet_ms(uint32_t crowd)
{
    return crowd_ms(crowd, HEARTBEAT_A_MS) + crowd_ms(crowd, QUIET_A_MS);
}

static inline uint32_t slot_of(uint32_t segment)
{
    return segment % SEGMENTS_KEPT;
}

struct cast { /* who takes part in a segment */
    struct holder **source, **receiver;
    uint32_t sources, receivers;
    uint32_t full; /* would be receivers, but await as much as they may */
};

/* mgr_tree.c; the arrays have room for all holders. */
void mgr_tree_cast(struct mgr *mgr, const struct object *o, struct msg_range range,
                   struct cast *cast);
void mgr_tree_plant(struct mgr *mgr, struct object *o, const struct cast *cast,
                    struct msg_range range);
/* It takes part no more, or anew: the newest gets its place, so that all others keep
 * theirs. */
void mgr_tree_leave(struct mgr *mgr, struct holder *h);
/* The origin that reads the object now, if it has come so far; NULL: none. */
struct holder *mgr_tree_stream(const struct mgr *mgr, const struct object *o,
                               uint32_t piece);

#endif
