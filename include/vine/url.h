/* url.h - sources on servers: sftp://[user@]host[:port]/path[#sha256=HEX] and https://.
 *
 * Hostile input; no system calls, so that the plugin can use it. A URL is a source's
 * name, seen by others: it can hold no password, and no query, which would be one. */
#ifndef VINE_URL_H
#define VINE_URL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vine/err.h"
#include "vine/limits.h"

#define VINE_SFTP "sftp://"
#define VINE_HTTPS "https://"
#define VINE_SHA256 "#sha256="

#define VINE_URL_USER 64
#define VINE_URL_HOST 256

struct vine_url {
    bool https;
    char user[VINE_URL_USER]; /* "": the one who asks */
    char host[VINE_URL_HOST]; /* without the brackets of IPv6 */
    uint16_t port;
    char path[VINE_PATH_MAX]; /* begins with '/'; sftp: as it is; https: encoded */
    char sha256[65];          /* of the file; "": not said */
};

/* "scheme://" of any kind at the start? */
bool vine_url_is(const char *text);

/* Take one apart. -1: VINE_EINVAL and what is wrong with it; *url untouched. */
int vine_url_parse(const char *text, struct vine_url *url, struct vine_err *err);

/* Where its path begins; its end, if it has none. */
const char *vine_url_path(const char *text);

/* The bytes of its path without what follows a '#'. */
size_t vine_url_path_length(const char *path);

/* As logs and messages have it: without the login. Other texts as they are. */
void vine_url_shown(const char *text, char out[VINE_PATH_MAX]);

#endif
