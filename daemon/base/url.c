/* url.c - sources on servers, see url.h.
 *
 * A path of https goes into a request as it is, so it must be encoded already; one of
 * sftp is a file's name and is not decoded. Linked into the plugin. */
#include "vine/url.h"

#include <string.h>

#define LENGTH(literal) (sizeof(literal) - 1)
#define SHOWN 80
#define SSH_PORT 22
#define HTTPS_PORT 443
#define SHA256_DIGITS 64
#define NAME_CHARACTERS                                                                \
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
#define SCHEME_CHARACTERS                                                              \
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-"

static size_t scheme_length(const char *text)
{
    size_t n = strspn(text, SCHEME_CHARACTERS);

    return n > 0 && strncmp(text + n, "://", 3) == 0 ? n + 3 : 0;
}

bool vine_url_is(const char *text)
{
    return scheme_length(text) > 0;
}

const char *vine_url_path(const char *text)
{
    const char *server = text + scheme_length(text);

    return server + strcspn(server, "/");
}

size_t vine_url_path_length(const char *path)
{
    return strcspn(path, "#");
}

/* [from, end) into out, if it fits and is not empty. */
static bool copy(char *out, size_t size, const char *from, const char *end)
{
    size_t len = (size_t)(end - from);

    if (len == 0 || len >= size)
        return false;
    memcpy(out, from, len);
    out[len] = '\0';
    return true;
}

static bool name_valid(const char *name)
{
    return name[0] != '-' && name[0] != '.' &&
           strspn(name, NAME_CHARACTERS) == strlen(name);
}

/* ":port" up to end, or nothing. */
static bool take_port(const char *text, const char *end, uint16_t *port)
{
    uint32_t value = 0;

    if (text == end)
        return true;
    if (*text++ != ':' || text == end || end - text > 5)
        return false;
    for (; text < end; text++) {
        if (*text < '0' || *text > '9')
            return false;
        value = 10 * value + (uint32_t)(*text - '0');
    }
    *port = (uint16_t)value;
    return value > 0 && value <= UINT16_MAX;
}

static bool take_host(const char *text, const char *end, struct vine_url *url)
{
    const char *stop;

    if (text < end && *text == '[') {
        stop = memchr(text, ']', (size_t)(end - text));
        return stop != NULL && copy(url->host, sizeof(url->host), text + 1, stop) &&
               strspn(url->host, "0123456789abcdefABCDEF:.") == strlen(url->host) &&
               take_port(stop + 1, end, &url->port);
    }
    stop = memchr(text, ':', (size_t)(end - text));
    stop = stop != NULL ? stop : end;
    return copy(url->host, sizeof(url->host), text, stop) && name_valid(url->host) &&
           take_port(stop, end, &url->port);
}

static int take_server(const char *text, const char *end, struct vine_url *url,
                       struct vine_err *err)
{
    const char *at = memchr(text, '@', (size_t)(end - text));
    int shown = end - text < SHOWN ? (int)(end - text) : SHOWN;

    if (at != NULL && memchr(text, ':', (size_t)(at - text)) != NULL)
        return vine_err_set(err, VINE_EINVAL, "a URL must not hold a password");
    if (at != NULL && url->https)
        return vine_err_set(err, VINE_EINVAL, "https:// takes no login");
    if ((at != NULL &&
         !(copy(url->user, sizeof(url->user), text, at) && name_valid(url->user))) ||
        !take_host(at != NULL ? at + 1 : text, end, url))
        return vine_err_set(err, VINE_EINVAL,
                            "'%.*s' is no server: write %shost[:port]", shown, text,
                            url->https ? "" : "[user@]");
    return 0;
}

static int check_encoded(const char *path, struct vine_err *err)
{
    for (; *path != '\0'; path++) {
        unsigned char c = (unsigned char)*path;
        if (c == '?')
            return vine_err_set(err, VINE_EINVAL,
                                "a URL must not have a query ('?'): others see it");
        if (c <= 0x20 || c >= 0x7f || strchr("\"<>\\^`{|}", c) != NULL)
            return vine_err_set(err, VINE_EINVAL,
                                "write byte 0x%02x of the URL as %%%02X", c, c);
    }
    return 0;
}

static int take_fragment(const char *text, struct vine_url *url, struct vine_err *err)
{
    if (*text == '\0')
        return 0;
    if (strncmp(text, VINE_SHA256, LENGTH(VINE_SHA256)) != 0 ||
        strlen(text) != LENGTH(VINE_SHA256) + SHA256_DIGITS ||
        strspn(text + LENGTH(VINE_SHA256), "0123456789abcdef") != SHA256_DIGITS)
        return vine_err_set(err, VINE_EINVAL,
                            "'#' in a URL begins #sha256= and 64 digits of 0-9 a-f");
    memcpy(url->sha256, text + LENGTH(VINE_SHA256), SHA256_DIGITS + 1);
    return 0;
}

static int take_path(const char *path, struct vine_url *url, struct vine_err *err)
{
    size_t len = vine_url_path_length(path);

    if (take_fragment(path + len, url, err) < 0)
        return -1;
    if (len < 2 || path[len - 1] == '/')
        return vine_err_set(err, VINE_EINVAL, "a URL must name a file");
    if (!copy(url->path, sizeof(url->path), path, path + len))
        return vine_err_set(err, VINE_EINVAL, "a URL's path is too long");
    return url->https ? check_encoded(url->path, err) : 0;
}

int vine_url_parse(const char *text, struct vine_url *out, struct vine_err *err)
{
    const char *server = text + scheme_length(text), *path = vine_url_path(text);
    struct vine_url url = {.https = strncmp(text, VINE_HTTPS, LENGTH(VINE_HTTPS)) == 0};

    url.port = url.https ? HTTPS_PORT : SSH_PORT;
    if (!url.https && strncmp(text, VINE_SFTP, LENGTH(VINE_SFTP)) != 0)
        return vine_err_set(err, VINE_EINVAL,
                            "'%.*s': of URLs only sftp:// and https:// are sources",
                            SHOWN, text);
    if (take_server(server, path, &url, err) < 0 || take_path(path, &url, err) < 0)
        return -1;
    *out = url;
    return 0;
}

void vine_url_shown(const char *text, char out[VINE_PATH_MAX])
{
    size_t scheme = scheme_length(text), len;
    const char *server = text + scheme, *at = NULL;

    if (scheme >= VINE_URL_HOST) /* no scheme of ours */
        scheme = 0;
    if (scheme > 0)
        at = memchr(server, '@', (size_t)(vine_url_path(text) - server));
    memcpy(out, text, scheme);
    server = at != NULL ? at + 1 : text + scheme;
    len = strnlen(server, VINE_PATH_MAX - 1 - scheme);
    memcpy(out + scheme, server, len);
    out[scheme + len] = '\0';
}
