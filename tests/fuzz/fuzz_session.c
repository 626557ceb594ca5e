/* fuzz_session.c - a stream of a stranger to a session that is not yet authenticated.
 *
 * Bit 0 of the first byte: accepting or connecting side. Munge is replaced by one that
 * takes every credential as its own payload, so offers are reached too; MACs cannot be
 * guessed, so no frame of the application may ever come out. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/wire/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int fuzz_encode(void *ctx, const void *payload, size_t len, uid_t reader,
                       char **cred, struct vine_err *err)
{
    *cred = strdup("credential");
    return *cred != NULL ? 0 : -1;
}

/* Names are text, so an offer of printable bytes exists for every field but numbers:
 * '~' stands for zero, '!' for one and '"' for two. */
static int fuzz_decode(void *ctx, const char *cred, void *payload, size_t cap,
                       size_t *len, uid_t *uid, struct vine_err *err)
{
    uint8_t *out = payload;

    *len = strlen(cred);
    if (*len > cap)
        return vine_err_set(err, VINE_EPROTO, "payload too long");
    for (size_t i = 0; i < *len; i++)
        out[i] = cred[i] == '~'  ? 0
                 : cred[i] < '-' ? (uint8_t)(cred[i] - ' ')
                                 : (uint8_t)cred[i];
    *uid = geteuid();
    return 0;
}

static const struct auth_ops fuzz_auth = {.encode = fuzz_encode, .decode = fuzz_decode};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct session_config config = {
        .service = SESSION_CONTROL, .self = "a", .peer = "b", .auth = &fuzz_auth};
    struct session_frame frame;
    struct session *s;
    size_t used = 1;

    if (size == 0)
        return 0;
    config.role = data[0] & 1 ? SESSION_CONNECT : SESSION_ACCEPT;
    s = session_new(&config, NULL);
    if (s == NULL)
        return 0;
    if (session_needs_work(s))
        (void)session_work(s, NULL);
    data++, size--;
    while (size > 0 && session_feed(s, data, size, &used, NULL) == 0 && used > 0) {
        data += used;
        size -= used;
        if (session_needs_work(s))
            (void)session_work(s, NULL);
        if (session_next(s, &frame))
            abort();
    }
    session_free(s);
    return 0;
}
