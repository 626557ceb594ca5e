/* known_hosts.h - is the server the one that the user knows? */
#ifndef VINE_REMOTE_KNOWN_HOSTS_H
#define VINE_REMOTE_KNOWN_HOSTS_H

#include <libssh2.h>
#include <stdint.h>

#include "vine/err.h"

/* Before the handshake: ask for a kind of key that is known of it. */
int known_hosts_prefer(LIBSSH2_SESSION *session, const char *home, const char *host,
                       uint16_t port, struct vine_err *err);
/* After it: VINE_EAUTH, with the line to add, unless it is known. */
int known_hosts_check(LIBSSH2_SESSION *session, const char *home, const char *host,
                      uint16_t port, struct vine_err *err);

#endif
