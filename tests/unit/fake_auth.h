/* fake_auth.h - a stand-in for munge that keeps its rules; for tests of sessions. */
#ifndef TESTS_FAKE_AUTH_H
#define TESTS_FAKE_AUTH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/wire/auth.h"
#include "daemon/wire/handshake.h"

struct fake {
    uid_t maker; /* who encode claims to be */
    bool down;
    const char *pretend; /* encode puts this name into the offer */
    bool replays_pass;   /* a munged that lost its replay cache */
    char *seen[8];       /* decoded credentials */
    unsigned seen_count;
};

static inline int fake_encode(void *ctx, const void *payload, size_t len, uid_t reader,
                              char **cred, struct vine_err *err)
{
    struct fake *fake = ctx;
    uint8_t bytes[HANDSHAKE_OFFER_MAX];
    struct handshake_offer offer;
    char *text;
    size_t used;

    if (fake->down)
        return vine_err_set(err, VINE_EDOWN, "munged is not running on this host");
    assert_int_equal(handshake_decode(payload, len, &offer, err), 0);
    if (fake->pretend != NULL)
        strcpy(offer.self, fake->pretend);
    len = handshake_encode(&offer, bytes);
    text = malloc(64 + 2 * len);
    used = (size_t)sprintf(text, "FAKE:%u:%u:", fake->maker, reader);
    for (size_t i = 0; i < len; i++)
        used += (size_t)sprintf(text + used, "%02x", bytes[i]);
    *cred = text;
    return 0;
}

static inline int fake_decode(void *ctx, const char *cred, void *payload, size_t cap,
                              size_t *len, uid_t *uid, struct vine_err *err)
{
    struct fake *fake = ctx;
    unsigned maker, reader, byte;
    uint8_t *out = payload;
    int start = 0;
    size_t n;

    if (fake->down)
        return vine_err_set(err, VINE_EDOWN, "munged is not running on this host");
    if (sscanf(cred, "FAKE:%u:%u:%n", &maker, &reader, &start) != 2 || start == 0)
        return vine_err_set(err, VINE_EAUTH, "no credential");
    if (reader != geteuid())
        return vine_err_set(err, VINE_EAUTH, "credential is for uid %u", reader);
    for (unsigned i = 0; i < fake->seen_count && !fake->replays_pass; i++)
        if (strcmp(fake->seen[i], cred) == 0)
            return vine_err_set(err, VINE_EAUTH, "credential was used before");
    if (fake->seen_count < 8)
        fake->seen[fake->seen_count++] = strdup(cred);
    n = strlen(cred + start) / 2;
    if (n > cap)
        return vine_err_set(err, VINE_EPROTO, "payload too long");
    for (size_t i = 0; i < n; i++) {
        (void)sscanf(cred + start + 2 * i, "%2x", &byte);
        out[i] = (uint8_t)byte;
    }
    *len = n;
    *uid = maker;
    return 0;
}

static const struct auth_ops fake_ops = {.encode = fake_encode, .decode = fake_decode};

#endif
