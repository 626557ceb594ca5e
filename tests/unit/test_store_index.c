/* The store's index: a chunk is found while an object that has it is there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/node/store_int.h"

/* Only what the index looks at: no files behind it. */
static struct store_object *object(uint32_t count, uint32_t first, uint32_t step,
                                   uint64_t used_ms)
{
    struct store_object *o = calloc(1, sizeof(*o));

    o->manifest.count = count;
    o->manifest.chunk = calloc(count, sizeof(*o->manifest.chunk));
    for (uint32_t i = 0; i < count; i++) {
        uint32_t word = first + i * step;
        o->manifest.chunk[i].length = 1;
        /* The same hash for every 16 of them: long probes. */
        o->manifest.chunk[i].digest.b[1] = (uint8_t)(word >> 12);
        o->manifest.chunk[i].digest.b[0] = (uint8_t)(word >> 4);
        memcpy(o->manifest.chunk[i].digest.b + 8, &word, sizeof(word));
    }
    o->used_ms = used_ms;
    return o;
}

static void drop(struct store_object *o)
{
    free(o->manifest.chunk);
    free(o);
}

static bool finds(const struct store *store, const struct store_object *o, uint32_t c)
{
    struct store_source found[STORE_SOURCES_MAX];
    uint32_t count = store_lookup(store, &o->manifest.chunk[c].digest, found);

    for (uint32_t i = 0; i < count; i++)
        if (found[i].object == o && found[i].chunk == c)
            return true;
    return false;
}

static void test_what_is_there_is_found(void **state)
{
    struct store store = {.index = index_new()};
    struct store_object *a = object(5000, 0, 1, 1), *b = object(5000, 2500, 1, 2);

    assert_false(finds(&store, a, 0));
    index_add(store.index, a);
    index_add(store.index, b);
    for (uint32_t c = 0; c < 5000; c++)
        assert_true(finds(&store, a, c) && finds(&store, b, c));
    assert_true(index_remove(store.index, a));
    assert_false(index_remove(store.index, a));
    for (uint32_t c = 0; c < 5000; c++)
        assert_true(!finds(&store, a, c) && finds(&store, b, c));
    index_add(store.index, a);
    assert_true(store_forget_chunks(&store, b));
    for (uint32_t c = 0; c < 5000; c++)
        assert_true(finds(&store, a, c) && !finds(&store, b, c));
    index_free(store.index);
    drop(a);
    drop(b);
}

static void test_the_last_used_copies_are_kept(void **state)
{
    struct store store = {.index = index_new()};
    struct store_object *o[7];

    for (uint32_t i = 0; i < 7; i++) {
        o[i] = object(10, 0, 1, i == 3 ? 100 : 10 + i);
        index_add(store.index, o[i]);
    }
    for (uint32_t i = 0; i < 7; i++)
        assert_int_equal(finds(&store, o[i], 4), i >= 3);
    index_free(store.index);
    for (uint32_t i = 0; i < 7; i++)
        drop(o[i]);
}

static void test_many_times_the_same_chunk_costs_one_entry(void **state)
{
    struct store store = {.index = index_new()};
    struct store_object *zeros = object(200000, 7, 0, 1), *other = object(10, 0, 1, 1);
    struct store_source found[STORE_SOURCES_MAX];

    index_add(store.index, zeros);
    index_add(store.index, other);
    assert_int_equal(store_lookup(&store, &zeros->manifest.chunk[9].digest, found), 2);
    assert_true(index_remove(store.index, zeros));
    assert_int_equal(store_lookup(&store, &zeros->manifest.chunk[9].digest, found), 1);
    index_free(store.index);
    drop(zeros);
    drop(other);
}

static void test_objects_come_and_go(void **state)
{
    struct store store = {.index = index_new()};
    struct store_object *o[20] = {0};
    uint64_t x = 88172645463325252ull;

    for (int round = 0; round < 2000; round++) {
        uint32_t at;
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        at = (uint32_t)(x % 20);
        if (o[at] != NULL) {
            assert_true(index_remove(store.index, o[at]));
            drop(o[at]);
            o[at] = NULL;
        } else { /* nobody else has these */
            o[at] = object(1 + (uint32_t)(x >> 40) % 300, at, 20, 1);
            index_add(store.index, o[at]);
        }
        for (int i = 0; i < 20; i++)
            if (o[i] != NULL)
                assert_true(
                    finds(&store, o[i], (uint32_t)round % o[i]->manifest.count));
    }
    index_free(store.index);
    for (int i = 0; i < 20; i++)
        if (o[i] != NULL)
            drop(o[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_there_is_found),
        cmocka_unit_test(test_the_last_used_copies_are_kept),
        cmocka_unit_test(test_many_times_the_same_chunk_costs_one_entry),
        cmocka_unit_test(test_objects_come_and_go),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
