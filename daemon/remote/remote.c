/* remote.c - a file on a server, whatever breaks in between.
 *
 * Each time that bytes have come the count of tries begins anew: a line that breaks
 * every minute is slow, not dead. */
#include "daemon/remote/remote.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define OPEN_TRIES 3u
#define READ_TRIES 6u /* waits of 1, 2, 4, 8 and 8 s between them */
#define PAUSE_MAX_S 8

struct remote {
    const struct remote_door *door;
    struct vine_url url;
    struct remote_options options;
    struct remote_facts facts;
    void *connection; /* NULL: broken */
};

struct counter {
    const struct remote_sink *sink;
    uint64_t taken;
};

static int take_counted(void *ctx, const void *data, size_t len, struct vine_err *err)
{
    struct counter *counter = ctx;

    counter->taken += len;
    return counter->sink->take(counter->sink->ctx, data, len, err);
}

static int changed(const struct remote *r, struct vine_err *err)
{
    return vine_err_set(err, VINE_ECHANGED,
                        "'%.200s' on '%s' changed while it was read", r->url.path,
                        r->url.host);
}

static int compare(const struct remote *r, const struct remote_facts *now,
                   struct vine_err *err)
{
    if (now->size == r->facts.size && strcmp(now->stamp, r->facts.stamp) == 0)
        return 0;
    return changed(r, err);
}

static void drop(struct remote *r)
{
    if (r->connection != NULL)
        r->door->close(r->connection);
    r->connection = NULL;
}

static int reconnect(struct remote *r, struct vine_err *err)
{
    struct remote_facts now = {0};

    if (r->connection != NULL)
        return 0;
    if (r->door->open(&r->url, &r->options, &r->connection, &now, err) < 0) {
        r->connection = NULL;
        return -1;
    }
    return compare(r, &now, err);
}

static bool may_pass(const struct vine_err *err)
{
    return err->code == VINE_EDOWN || err->code == VINE_ETIMEDOUT;
}

/* After the n-th failure in a row. */
static void wait_a_little(unsigned n)
{
    struct timespec pause = {.tv_sec = n > 4 ? PAUSE_MAX_S : 1L << (n - 1)};

    (void)nanosleep(&pause, NULL);
}

int remote_open(const struct vine_url *url, const struct remote_options *options,
                struct remote **out, struct vine_err *err)
{
    struct remote *r = calloc(1, sizeof(*r));

    if (r == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    r->door = url->https ? &https_door : &sftp_door;
    r->url = *url;
    r->options = *options;
    for (unsigned tries = 1;; tries++) {
        struct vine_err why = {0};
        if (r->door->open(url, options, &r->connection, &r->facts, &why) == 0)
            break;
        if (!may_pass(&why) || tries == OPEN_TRIES) {
            free(r);
            return remote_pass(&why, err);
        }
        wait_a_little(tries);
    }
    *out = r;
    return 0;
}

const struct remote_facts *remote_facts(const struct remote *r)
{
    return &r->facts;
}

int remote_read(struct remote *r, uint64_t from, uint64_t to,
                const struct remote_sink *sink, struct vine_err *err)
{
    for (unsigned tries = 0;;) {
        struct counter counter = {.sink = sink};
        const struct remote_sink counted = {take_counted, &counter};
        struct vine_err why = {0};

        if (reconnect(r, &why) == 0 &&
            r->door->read(r->connection, from, to, &counted, &why) == 0)
            return 0;
        drop(r);
        from += counter.taken;
        tries = counter.taken > 0 ? 1 : tries + 1;
        if (!may_pass(&why) || tries == READ_TRIES)
            return remote_pass(&why, err);
        wait_a_little(tries);
    }
}

int remote_check(struct remote *r, struct vine_err *err)
{
    struct remote_facts now = {0};
    struct vine_err why = {0};

    if (r->connection != NULL) {
        if (r->door->look(r->connection, &now, &why) == 0)
            return compare(r, &now, err);
        drop(r);
        if (!may_pass(&why))
            return remote_pass(&why, err);
    }
    return reconnect(r, err);
}

void remote_close(struct remote *r)
{
    if (r == NULL)
        return;
    drop(r);
    free(r);
}
