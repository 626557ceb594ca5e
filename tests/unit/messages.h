/* messages.h - a full message of every type, for the tests of both forms. */
#ifndef VINE_TESTS_UNIT_MESSAGES_H
#define VINE_TESTS_UNIT_MESSAGES_H

#include "daemon/wire/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct msg_range ranges[] = {{0, 1}, {7, VINE_PIECES_MAX - 7}};
static const struct msg_assign assigns[] = {
    {{0, 1}, "n1", "10.0.0.1", 7111, false},
    {{4095, 1}, "n-2.example_x", "2001:db8::1", 1, true},
};
static const struct vine_digest keys[] = {{{1}}, {{2}}};
static const struct msg_object objects[] = {
    {{{3}}, VINE_OBJECT_MAX, VINE_PIECES_MAX, true, true, 2, keys},
    {{{4}}, 0, 1, false, false, 0, NULL},
};
static const struct msg_binding bindings[] = {
    {UINT64_MAX, 0, "/a", {{5}}},
    {0, UINT32_MAX - 1, "/b/\xff%", {{6}}},
};
static const struct msg_story rows[] = {
    {MSG_FROM_PEER, "n-2.example_x", VINE_OBJECT_MAX, UINT32_MAX, 7},
    {MSG_FROM_OTHERS, "", 0, 0, 0},
};
static const char *const names[] = {"n1", "n2"};

/* All fields set: the encoder takes what the type has. */
static inline struct msg full(enum msg_type type)
{
    return (struct msg){
        .type = type,
        .ticket = 0xfedcba9876543210u,
        .job = 0x8000000000000001u,
        .uid = 20001,
        .gid = 20002,
        .path = "/shared/envs/ml",
        .text = "some \"text\"\n\xc3\xa9",
        .code = VINE_OK,
        .has_digest = true,
        .trusted = true,
        .brief = true,
        .claim = MSG_CLAIM_OPEN,
        .digest = {{0xab, 0xcd}},
        .key = {{0x12}},
        .size = 123456789,
        .estimate = INT64_MAX,
        .pieces = 17,
        .copies = 2,
        .peer = "n9",
        .switch_name = "leaf1",
        .port = 65535,
        .heartbeat_ms = UINT32_MAX,
        .offset = VINE_OBJECT_MAX,
        .wanted_ms = UINT32_MAX,
        .begun_ms = 2,
        .ended_ms = 1,
        .row_count = 2,
        .rows = rows,
        .range_count = 2,
        .assign_count = 2,
        .object_count = 2,
        .binding_count = 2,
        .name_count = 2,
        .ranges = ranges,
        .assigns = assigns,
        .objects = objects,
        .bindings = bindings,
        .names = names,
    };
}

/* In an exact-size heap block, so that an overread is seen. */
static inline struct message *decode(const char *text, size_t len, struct vine_err *err)
{
    char *exact = malloc(len + !len);
    struct message *message;

    memcpy(exact, text, len);
    message = message_decode(exact, len, err);
    free(exact);
    return message;
}

static inline void assert_same_lists(const struct msg *a, const struct msg *b)
{
    for (uint32_t i = 0; i < b->range_count; i++)
        assert_memory_equal(&a->ranges[i], &b->ranges[i], sizeof(*a->ranges));
    for (uint32_t i = 0; i < b->assign_count; i++) {
        assert_memory_equal(&a->assigns[i].range, &b->assigns[i].range,
                            sizeof(*a->ranges));
        assert_string_equal(a->assigns[i].peer, b->assigns[i].peer);
        assert_string_equal(a->assigns[i].addr, b->assigns[i].addr);
        assert_int_equal(a->assigns[i].port, b->assigns[i].port);
        assert_true(a->assigns[i].feed == b->assigns[i].feed);
    }
    for (uint32_t i = 0; i < b->object_count; i++) {
        const struct msg_object *x = &a->objects[i], *y = &b->objects[i];

        assert_memory_equal(&x->digest, &y->digest, VINE_DIGEST_LEN);
        assert_true(x->size == y->size && x->pieces == y->pieces &&
                    x->complete == y->complete && x->trusted == y->trusted &&
                    x->key_count == y->key_count);
        assert_memory_equal(x->keys, y->keys, x->key_count * VINE_DIGEST_LEN);
    }
    for (uint32_t i = 0; i < b->binding_count; i++) {
        const struct msg_binding *x = &a->bindings[i], *y = &b->bindings[i];

        assert_true(x->job == y->job && x->uid == y->uid);
        assert_string_equal(x->path, y->path);
        assert_memory_equal(&x->digest, &y->digest, VINE_DIGEST_LEN);
    }
    for (uint32_t i = 0; i < b->row_count; i++) {
        const struct msg_story *x = &a->rows[i], *y = &b->rows[i];

        assert_string_equal(x->peer, y->peer);
        assert_true(x->from == y->from && x->bytes == y->bytes &&
                    x->first_ms == y->first_ms && x->last_ms == y->last_ms);
    }
    for (uint32_t i = 0; i < b->name_count; i++)
        assert_string_equal(a->names[i], b->names[i]);
}

#endif
