/* client.h - talk to the node daemon over its Unix socket: for plugin and CLI.
 *
 * Blocking with deadlines; no global state, threads, stdio, logging or signals, so it
 * is safe in slurmstepd, in srun and after fork. JSON frames (daemon/wire/PROTOCOL.md).
 */
#ifndef VINE_CLIENT_H
#define VINE_CLIENT_H

#include <jansson.h>
#include <stdint.h>

#include "vine/err.h"
#include "vine/escape.h"

struct vine_client;

/* Connect within timeout_ms. VINE_EDOWN: no daemon there (no socket, refused). */
int vine_client_open(const char *socket_path, int timeout_ms, struct vine_client **out,
                     struct vine_err *err);

/* Send one request; borrowed. */
int vine_client_send(struct vine_client *c, const json_t *request, int timeout_ms,
                     struct vine_err *err);

/* The next event. *out: caller json_decref()s it; untouched on error. VINE_ETIMEDOUT:
 * nothing came, the connection still stands and the call may be repeated;
 * VINE_EDOWN: the daemon hung up. An {"event":"error"} is returned as an event. */
int vine_client_next(struct vine_client *c, int timeout_ms, json_t **out,
                     struct vine_err *err);

/* If `event` is {"event":"error","code","text"}, put it into *err and return -1. */
int vine_client_check(const json_t *event, struct vine_err *err);

void vine_client_close(struct vine_client *c); /* NULL is fine */

#endif
