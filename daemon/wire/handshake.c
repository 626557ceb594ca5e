/* handshake.c - offers, the payload of munge credentials, and session keys.
 *
 * An offer names who made it and for whom, so a credential stolen on its way is worth
 * nothing elsewhere; the nonce it carries comes back in the answer, so an old answer is
 * worth nothing later. Keys need both halves, and a half is readable only by who may
 * decode the credential. Extract and expand as in RFC 5869, one block a key. */
#include "daemon/wire/handshake.h"

#include <string.h>

#include "daemon/wire/bytes.h"
#include "daemon/wire/name.h"

int handshake_fill(struct handshake_offer *offer, struct vine_err *err)
{
    if (vine_random(offer->nonce, sizeof(offer->nonce), err) < 0)
        return -1;
    return vine_random(offer->half, sizeof(offer->half), err);
}

static void put_name(struct writer *w, const char *name)
{
    size_t len = strlen(name);

    put_u8(w, (uint8_t)len);
    put_bytes(w, name, len);
}

static void get_name(struct reader *r, char out[VINE_NAME_MAX])
{
    size_t len = get_u8(r);

    memset(out, 0, VINE_NAME_MAX);
    get_bytes(r, out, VINE_NAME_MAX - 1, len);
    if (!wire_name_valid(out) || strlen(out) != len)
        r->bad = true;
}

size_t handshake_encode(const struct handshake_offer *offer,
                        uint8_t out[HANDSHAKE_OFFER_MAX])
{
    struct writer w = {.next = out, .left = HANDSHAKE_OFFER_MAX};

    put_u8(&w, (uint8_t)offer->step);
    put_u16(&w, offer->version);
    put_u8(&w, offer->service);
    put_name(&w, offer->self);
    put_name(&w, offer->peer);
    put_bytes(&w, offer->nonce, sizeof(offer->nonce));
    put_bytes(&w, offer->echo, sizeof(offer->echo));
    put_bytes(&w, offer->half, sizeof(offer->half));
    return HANDSHAKE_OFFER_MAX - w.left;
}

int handshake_decode(const uint8_t *buf, size_t len, struct handshake_offer *offer,
                     struct vine_err *err)
{
    struct reader r = {.next = buf, .left = len};
    struct handshake_offer o = {0};
    uint8_t step = get_u8(&r);
    int rc = 0;

    if (step != HANDSHAKE_HELLO && step != HANDSHAKE_WELCOME)
        return vine_err_set(err, VINE_EPROTO,
                            "credential is not of a vine-env handshake");
    o.step = (enum handshake_step)step;
    o.version = get_u16(&r);
    o.service = get_u8(&r);
    get_name(&r, o.self);
    get_name(&r, o.peer);
    get_bytes(&r, o.nonce, sizeof(o.nonce), sizeof(o.nonce));
    get_bytes(&r, o.echo, sizeof(o.echo), sizeof(o.echo));
    get_bytes(&r, o.half, sizeof(o.half), sizeof(o.half));
    if (reader_done(&r))
        *offer = o;
    else
        rc = vine_err_set(err, VINE_EPROTO, "credential carries a malformed handshake");
    explicit_bzero(&o, sizeof(o));
    return rc;
}

/* prk keys one HMAC over what tells this key from every other. */
static void expand(const struct vine_digest *prk, const char *label,
                   const struct handshake_offer *hello, struct vine_digest *key)
{
    uint8_t info[64 + 1 + 2 * VINE_NAME_MAX];
    struct writer w = {.next = info, .left = sizeof(info)};

    put_bytes(&w, label, strlen(label));
    put_u8(&w, hello->service);
    put_name(&w, hello->self);
    put_name(&w, hello->peer);
    put_u8(&w, 1);
    vine_hmac(prk->b, sizeof(prk->b), info, sizeof(info) - w.left, key);
}

void handshake_keys(const struct handshake_offer *hello,
                    const struct handshake_offer *welcome,
                    struct vine_digest *to_accept, struct vine_digest *to_connect)
{
    uint8_t salt[2 * HANDSHAKE_SECRET_LEN], halves[2 * HANDSHAKE_SECRET_LEN];
    struct vine_digest prk;

    memcpy(salt, hello->nonce, HANDSHAKE_SECRET_LEN);
    memcpy(salt + HANDSHAKE_SECRET_LEN, welcome->nonce, HANDSHAKE_SECRET_LEN);
    memcpy(halves, hello->half, HANDSHAKE_SECRET_LEN);
    memcpy(halves + HANDSHAKE_SECRET_LEN, welcome->half, HANDSHAKE_SECRET_LEN);
    vine_hmac(salt, sizeof(salt), halves, sizeof(halves), &prk);
    expand(&prk, "vine-env 1 connect to accept", hello, to_accept);
    expand(&prk, "vine-env 1 accept to connect", hello, to_connect);
    explicit_bzero(halves, sizeof(halves));
    explicit_bzero(&prk, sizeof(prk));
}
