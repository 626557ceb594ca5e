/* handshake.h - what the two credentials of a handshake carry, and the keys made of it.
 */
#ifndef VINE_WIRE_HANDSHAKE_H
#define VINE_WIRE_HANDSHAKE_H

#include <stdint.h>

#include "vine/digest.h"
#include "vine/err.h"
#include "vine/limits.h"

#define HANDSHAKE_SECRET_LEN 32

/* step, version, service, two names with their lengths, three secrets */
#define HANDSHAKE_OFFER_MAX (1 + 2 + 1 + 2 * VINE_NAME_MAX + 3 * HANDSHAKE_SECRET_LEN)

enum handshake_step { HANDSHAKE_HELLO = 1, HANDSHAKE_WELCOME = 2 };

struct handshake_offer {
    enum handshake_step step;
    uint16_t version;
    uint8_t service;
    char self[VINE_NAME_MAX]; /* who made it */
    char peer[VINE_NAME_MAX]; /* for whom */
    uint8_t nonce[HANDSHAKE_SECRET_LEN];
    uint8_t echo[HANDSHAKE_SECRET_LEN]; /* WELCOME: the nonce it answers; HELLO: zero */
    uint8_t half[HANDSHAKE_SECRET_LEN]; /* of the key */
};

/* Fresh nonce and key half. */
int handshake_fill(struct handshake_offer *offer, struct vine_err *err);

/* Bytes written to out, never more than HANDSHAKE_OFFER_MAX. */
size_t handshake_encode(const struct handshake_offer *offer,
                        uint8_t out[HANDSHAKE_OFFER_MAX]);

/* *offer untouched on error. */
int handshake_decode(const uint8_t *buf, size_t len, struct handshake_offer *offer,
                     struct vine_err *err);

/* One key a direction, from both halves, both nonces, both names and the service. */
void handshake_keys(const struct handshake_offer *hello,
                    const struct handshake_offer *welcome,
                    struct vine_digest *to_accept, struct vine_digest *to_connect);

#endif
