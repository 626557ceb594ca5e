/* auth.h - prove who sends a few bytes: munge, or a stand-in for tests.
 *
 * A credential is text that carries a payload, readable by one uid only, and says which
 * uid made it. Both calls block (munged is asked over its socket): worker threads only.
 */
#ifndef VINE_WIRE_AUTH_H
#define VINE_WIRE_AUTH_H

#include <stddef.h>
#include <sys/types.h>

#include "vine/err.h"

struct auth_ops {
    /* Make a credential that only `reader` may decode. Caller frees *cred. */
    int (*encode)(void *ctx, const void *payload, size_t len, uid_t reader, char **cred,
                  struct vine_err *err);
    /* Check a credential; at most `cap` bytes of payload are accepted. Replayed,
     * expired and forged ones are refused. *uid: who made it. */
    int (*decode)(void *ctx, const char *cred, void *payload, size_t cap, size_t *len,
                  uid_t *uid, struct vine_err *err);
};

/* munge; ctx is the path of munged's socket (const char *), NULL for the default one.
 * VINE_EDOWN: munged does not answer; VINE_EAUTH: the credential is refused. */
extern const struct auth_ops auth_munge;

#endif
