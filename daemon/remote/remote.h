/* remote.h - one file on a server, read from its beginning to its end.
 *
 * What is open here can break and be opened again: whoever reads sees one file, or an
 * error. A server is waited for, but not for ever; a file that is another one after a
 * break is VINE_ECHANGED. All calls block. */
#ifndef VINE_REMOTE_REMOTE_H
#define VINE_REMOTE_REMOTE_H

#include <stddef.h>
#include <stdint.h>

#include "vine/err.h"
#include "vine/url.h"

#define REMOTE_STAMP 384

struct remote_options {
    const char *ca_file; /* "": the system's authorities */
    unsigned timeout_s;  /* without a byte; connecting */
};

struct remote_facts {
    uint64_t size;
    int64_t mtime;            /* 0: not said */
    char stamp[REMOTE_STAMP]; /* tells versions of one size apart */
};

struct remote_sink {
    int (*take)(void *ctx, const void *data, size_t len, struct vine_err *err);
    void *ctx;
};

/* A kind of server. Errors of VINE_EDOWN and VINE_ETIMEDOUT may pass: remote.c closes
 * and tries again. */
struct remote_door {
    int (*open)(const struct vine_url *url, const struct remote_options *options,
                void **connection, struct remote_facts *facts, struct vine_err *err);
    /* The file as it is now. */
    int (*look)(void *connection, struct remote_facts *facts, struct vine_err *err);
    /* Bytes [from, to), in order; when it fails, those before were given. */
    int (*read)(void *connection, uint64_t from, uint64_t to,
                const struct remote_sink *sink, struct vine_err *err);
    void (*close)(void *connection);
};
extern const struct remote_door sftp_door, https_door;

/* Give `why` to whoever asked, as it is. */
static inline int remote_pass(const struct vine_err *why, struct vine_err *err)
{
    if (err != NULL && err->code == VINE_OK)
        *err = *why;
    return -1;
}

struct remote;

int remote_open(const struct vine_url *url, const struct remote_options *options,
                struct remote **out, struct vine_err *err);
const struct remote_facts *remote_facts(const struct remote *remote);
/* Bytes [from, to), in order, over as many connections as it takes. */
int remote_read(struct remote *remote, uint64_t from, uint64_t to,
                const struct remote_sink *sink, struct vine_err *err);
/* Is it still the file that was opened? */
int remote_check(struct remote *remote, struct vine_err *err);
void remote_close(struct remote *remote);

#endif
