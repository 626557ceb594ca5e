/* auth.c - the only file that talks to munge.
 *
 * Each call makes a context of its own, so calls on several threads do not meet. What a
 * user sees when munge fails must say what to mend: the usual faults are a munged that
 * does not run, clocks that differ and keys that differ. Payloads hold key halves, so
 * munge's copy is wiped before it is freed. */
#include "daemon/wire/auth.h"

#include <munge.h>
#include <stdlib.h>
#include <string.h>

/* Seconds a credential lives: long enough for a slow munged and small clock skew. */
#define CREDENTIAL_TTL_S 300

/* One row an error a site can do something about. */
static const struct {
    munge_err_t number;
    enum vine_code code;
    const char *advice;
} advices[] = {
    {EMUNGE_SOCKET, VINE_EDOWN,
     "munged is not running on this host or does not answer: start it (systemctl start "
     "munge)"},
    {EMUNGE_TIMEOUT, VINE_EDOWN, "munged does not answer: restart it"},
    {EMUNGE_CRED_EXPIRED, VINE_EAUTH,
     "the peer's credential has expired: the clocks of the two hosts differ, or one "
     "was "
     "very slow"},
    {EMUNGE_CRED_REWOUND, VINE_EAUTH,
     "the peer's credential is from the future: the clocks of the two hosts differ"},
    {EMUNGE_CRED_REPLAYED, VINE_EAUTH,
     "the peer's credential was used before: somebody replays it"},
    {EMUNGE_CRED_UNAUTHORIZED, VINE_EAUTH,
     "the peer's credential is for another uid: both daemons must run as one user"},
    {EMUNGE_CRED_INVALID, VINE_EAUTH,
     "the peer's credential does not verify: both hosts must have one munge.key"},
    {EMUNGE_BAD_CRED, VINE_EAUTH, "the peer sent no munge credential"},
    {EMUNGE_NO_MEMORY, VINE_ENOMEM, "out of memory"},
};

static int set_munge_error(struct vine_err *err, munge_err_t number, munge_ctx_t ctx,
                           const char *verb)
{
    const char *words = ctx != NULL ? munge_ctx_strerror(ctx) : NULL;

    if (words == NULL)
        words = munge_strerror(number);
    for (size_t i = 0; i < sizeof(advices) / sizeof(*advices); i++)
        if (advices[i].number == number)
            return vine_err_set(err, advices[i].code, "cannot %s credential: %s (%s)",
                                verb, advices[i].advice, words);
    return vine_err_set(err, VINE_EAUTH, "cannot %s credential: %s", verb, words);
}

static munge_ctx_t new_ctx(void *ctx, struct vine_err *err)
{
    munge_ctx_t munge = munge_ctx_create();

    if (munge == NULL) {
        (void)vine_err_set(err, VINE_ENOMEM, "cannot use munge: out of memory");
        return NULL;
    }
    if (ctx != NULL && munge_ctx_set(munge, MUNGE_OPT_SOCKET, ctx) != EMUNGE_SUCCESS) {
        (void)vine_err_set(err, VINE_EINVAL, "cannot use munge socket '%s': %s",
                           (const char *)ctx, munge_ctx_strerror(munge));
        munge_ctx_destroy(munge);
        return NULL;
    }
    return munge;
}

static int munge_make(void *ctx, const void *payload, size_t len, uid_t reader,
                      char **cred, struct vine_err *err)
{
    munge_ctx_t munge = new_ctx(ctx, err);
    munge_err_t rc;
    char *made = NULL;
    int result = 0;

    if (munge == NULL)
        return -1;
    rc = munge_ctx_set(munge, MUNGE_OPT_UID_RESTRICTION, reader);
    if (rc == EMUNGE_SUCCESS)
        rc = munge_ctx_set(munge, MUNGE_OPT_TTL, CREDENTIAL_TTL_S);
    if (rc == EMUNGE_SUCCESS)
        rc = munge_encode(&made, munge, payload, (int)len);
    if (rc == EMUNGE_SUCCESS)
        *cred = made;
    else
        result = set_munge_error(err, rc, munge, "make");
    munge_ctx_destroy(munge);
    return result;
}

static int munge_check(void *ctx, const char *cred, void *payload, size_t cap,
                       size_t *len, uid_t *uid, struct vine_err *err)
{
    munge_ctx_t munge = new_ctx(ctx, err);
    munge_err_t rc;
    void *data = NULL;
    int size = 0, result = 0;
    uid_t maker = (uid_t)-1;
    gid_t group;

    if (munge == NULL)
        return -1;
    /* For some refused credentials munge hands the payload out all the same. */
    rc = munge_decode(cred, munge, &data, &size, &maker, &group);
    if (rc != EMUNGE_SUCCESS) {
        result = set_munge_error(err, rc, munge, "check");
    } else if (size <= 0 || (size_t)size > cap) {
        result = vine_err_set(err, VINE_EPROTO,
                              "credential carries %d bytes, limit %zu", size, cap);
    } else {
        memcpy(payload, data, (size_t)size);
        *len = (size_t)size;
        *uid = maker;
    }
    if (data != NULL && size > 0)
        explicit_bzero(data, (size_t)size);
    free(data);
    munge_ctx_destroy(munge);
    return result;
}

const struct auth_ops auth_munge = {.encode = munge_make, .decode = munge_check};
