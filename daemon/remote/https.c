/* https.c - files of https servers.
 *
 * The certificate is checked always. Redirections are followed to https alone, five at
 * most. No login, no cookies, no proxy, nothing of the environment or of ~/.netrc. The
 * first question asks for one byte: its answer tells whether the server can go on after
 * a break (206), and what the file is: ETag or Last-Modified, and its length. */
#include <curl/curl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "daemon/remote/remote.h"

#define REDIRECTS_MAX 5L
#define RECEIVE_BYTES (256L << 10)
#define TAG_BYTES 256u

struct answer {           /* what the headers of the last one said */
    uint64_t first, size; /* Content-Range */
    bool has_range;
    char tag[TAG_BYTES], modified[64];
};

struct https {
    struct vine_url url;
    CURL *curl;
    char address[VINE_PATH_MAX + VINE_URL_HOST + 32];
    char why[CURL_ERROR_SIZE];
    struct answer answer;
    bool ranges;              /* it answers parts of the file */
    struct answer file;       /* what it said of the file */
    uint64_t size;            /* the file's */
    char if_range[TAG_BYTES]; /* of which version parts are asked; "": of any */

    /* Of the transfer under way. */
    const struct remote_sink *sink; /* NULL: bytes do not matter */
    uint64_t from, skip, left;      /* skip: bytes before those that are wanted */
    bool begun;
    struct vine_err sink_err;
};

static void https_close(void *connection)
{
    struct https *h = connection;

    if (h->curl != NULL)
        curl_easy_cleanup(h->curl);
    free(h);
}

/* The value of header `name`, without blanks around it. */
static bool header_value(const char *line, size_t len, const char *name, char *out,
                         size_t size)
{
    size_t n = strlen(name);

    if (len <= n || strncasecmp(line, name, n) != 0 || line[n] != ':')
        return false;
    line += n + 1;
    len -= n + 1;
    while (len > 0 && (*line == ' ' || *line == '\t')) {
        line++;
        len--;
    }
    while (len > 0 && strchr("\r\n \t", line[len - 1]) != NULL)
        len--;
    if (len >= size || memchr(line, '\0', len) != NULL)
        return false;
    memcpy(out, line, len);
    out[len] = '\0';
    return true;
}

static size_t on_header(char *line, size_t one, size_t len, void *arg)
{
    struct answer *a = arg;
    char value[TAG_BYTES];

    if (len > 5 && strncasecmp(line, "HTTP/", 5) == 0)
        *a = (struct answer){0}; /* of a redirection, or of the last of several */
    else if (header_value(line, len, "ETag", value, sizeof(value)))
        memcpy(a->tag, value, sizeof(a->tag));
    else if (header_value(line, len, "Last-Modified", value, sizeof(a->modified)))
        memcpy(a->modified, value, sizeof(a->modified));
    else if (header_value(line, len, "Content-Range", value, sizeof(value)))
        a->has_range = sscanf(value, "bytes %" SCNu64 "-%*[0-9]/%" SCNu64, &a->first,
                              &a->size) == 2;
    return len;
}

static bool same_version(const struct https *h)
{
    const struct answer *a = &h->answer, *f = &h->file;

    return strcmp(a->tag, f->tag) == 0 && strcmp(a->modified, f->modified) == 0;
}

/* Headers are there, and the first byte: is it what was asked for? */
static int begin_body(struct https *h)
{
    const struct answer *a = &h->answer;
    curl_off_t length = -1;
    long status = 0;

    (void)curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &status);
    (void)curl_easy_getinfo(h->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    if (status >= 300)
        return -1; /* a page for people */
    if (status == 206 ? h->ranges && a->has_range && a->first == h->from &&
                            a->size == h->size && same_version(h)
                      : !h->ranges && length >= 0 && (uint64_t)length == h->size &&
                            same_version(h)) {
        h->skip = status == 206 ? 0 : h->from;
        return 0;
    }
    return vine_err_set(&h->sink_err, VINE_ECHANGED,
                        "'%.200s' on '%.100s' changed while it was read", h->url.path,
                        h->url.host);
}

static size_t on_body(char *data, size_t one, size_t len, void *arg)
{
    struct https *h = arg;
    size_t skipped, wanted;
    long status = 0;

    if (h->sink == NULL) { /* one byte; more of a server that does no parts */
        (void)curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &status);
        return status == 206 ? len : 0;
    }
    if (!h->begun && begin_body(h) < 0)
        return 0;
    h->begun = true;
    skipped = len < h->skip ? len : (size_t)h->skip;
    wanted = len - skipped < h->left ? len - skipped : (size_t)h->left;
    h->skip -= skipped;
    h->left -= wanted;
    if (wanted > 0 &&
        h->sink->take(h->sink->ctx, data + skipped, wanted, &h->sink_err) < 0)
        return 0;
    return skipped + wanted; /* less than len: all that is wanted was there */
}

static int curl_failed(const struct https *h, CURLcode code, struct vine_err *err)
{
    const char *why = h->why[0] != '\0' ? h->why : curl_easy_strerror(code);

    switch (code) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_ISSUER_ERROR:
        return vine_err_set(err, VINE_EAUTH,
                            "the certificate of '%.100s' is not valid: %.160s",
                            h->url.host, why);
    case CURLE_SSL_CACERT_BADFILE:
        return vine_err_set(err, VINE_EINVAL, "remote_ca_file: %.160s", why);
    case CURLE_TOO_MANY_REDIRECTS:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
        return vine_err_set(err, VINE_EINVAL,
                            "'%.100s' leads elsewhere, and not by https or too often: "
                            "%.160s",
                            h->url.host, why);
    case CURLE_OUT_OF_MEMORY:
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    default:
        return vine_err_set(err, VINE_EDOWN, "cannot read from '%.100s': %.160s",
                            h->url.host, why);
    }
}

static int status_failed(const struct https *h, long status, struct vine_err *err)
{
    const char *path = h->url.path, *host = h->url.host;

    if (status == 401 || status == 403)
        return vine_err_set(err, VINE_EACCES,
                            "'%.100s' does not give '%.200s' to everybody (%ld)", host,
                            path, status);
    if (status == 404 || status == 410)
        return vine_err_set(err, VINE_ENOENT, "'%.200s' on '%.100s' does not exist",
                            path, host);
    if (status == 416 || status == 412)
        return vine_err_set(err, VINE_ECHANGED,
                            "'%.200s' on '%.100s' changed while it was read", path,
                            host);
    if (status == 408 || status == 425 || status == 429 || status >= 500)
        return vine_err_set(err, VINE_EDOWN, "'%.100s' answers with status %ld", host,
                            status);
    return vine_err_set(err, VINE_EINVAL,
                        "'%.100s' answers with status %ld for '%.200s'", host, status,
                        path);
}

/* Bytes [from, to) to `sink`; NULL: only the headers of such a question. -1 also when
 * the answer is an error. */
static int ask(struct https *h, uint64_t from, uint64_t to,
               const struct remote_sink *sink, long *status, struct vine_err *err)
{
    char condition[TAG_BYTES + 16], range[64];
    struct curl_slist *headers = NULL;
    CURLcode code;

    (void)snprintf(condition, sizeof(condition), "If-Range: %s", h->if_range);
    (void)snprintf(range, sizeof(range), "%" PRIu64 "-%" PRIu64, from, to - 1);
    if (h->if_range[0] != '\0')
        headers = curl_slist_append(NULL, condition);
    (void)curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, headers);
    (void)curl_easy_setopt(h->curl, CURLOPT_RANGE,
                           sink == NULL || h->ranges ? range : NULL);
    h->why[0] = '\0';
    h->sink = sink;
    h->from = from;
    h->left = to - from;
    h->begun = false;
    h->sink_err = (struct vine_err){0};
    h->answer = (struct answer){0};
    code = curl_easy_perform(h->curl);
    (void)curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);
    *status = 0;
    (void)curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, status);
    if (h->sink_err.code != VINE_OK)
        return remote_pass(&h->sink_err, err);
    if (code != CURLE_OK && code != CURLE_WRITE_ERROR)
        return curl_failed(h, code, err);
    return *status >= 300 ? status_failed(h, *status, err) : 0;
}

/* A weak tag does not say that bytes are equal, so no part can be asked by it. */
static void set_if_range(struct https *h)
{
    const struct answer *a = &h->answer;

    (void)snprintf(h->if_range, sizeof(h->if_range), "%s",
                   a->tag[0] == '"' ? a->tag : a->modified);
}

static int https_look(void *connection, struct remote_facts *facts,
                      struct vine_err *err)
{
    struct https *h = connection;
    const struct answer *a = &h->answer;
    curl_off_t length = -1, modified = -1;
    long status;
    struct vine_err why = {0};

    h->if_range[0] = '\0';
    if (ask(h, 0, 1, NULL, &status, &why) < 0)
        return status == 416
                   ? vine_err_set(err, VINE_EINVAL, "'%.200s' on '%.100s' is empty",
                                  h->url.path, h->url.host)
                   : remote_pass(&why, err);
    h->ranges = status == 206;
    (void)curl_easy_getinfo(h->curl, CURLINFO_FILETIME_T, &modified);
    (void)curl_easy_getinfo(h->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    if (h->ranges ? !a->has_range : length < 0)
        return vine_err_set(err, VINE_EINVAL,
                            "'%.100s' does not say how long '%.200s' is", h->url.host,
                            h->url.path);
    if (a->tag[0] == '\0' && a->modified[0] == '\0' && h->url.sha256[0] == '\0')
        return vine_err_set(err, VINE_EINVAL,
                            "'%.100s' tells versions of '%.200s' apart by nothing: add "
                            "#sha256= and its digest",
                            h->url.host, h->url.path);
    *facts = (struct remote_facts){.size = h->ranges ? a->size : (uint64_t)length,
                                   .mtime = modified > 0 ? (int64_t)modified : 0};
    (void)snprintf(facts->stamp, sizeof(facts->stamp), "etag=%s modified=%s", a->tag,
                   a->modified);
    h->file = *a;
    h->size = facts->size;
    set_if_range(h);
    return 0;
}

static int set_up(struct https *h, const struct remote_options *o, struct vine_err *err)
{
    const char *bracket = strchr(h->url.host, ':') != NULL ? "[" : "";
    CURLcode bad = 0;

    (void)snprintf(h->address, sizeof(h->address), "https://%s%s%s:%u%s", bracket,
                   h->url.host, bracket[0] != '\0' ? "]" : "", h->url.port,
                   h->url.path);
    bad |= curl_easy_setopt(h->curl, CURLOPT_URL, h->address);
    bad |= curl_easy_setopt(h->curl, CURLOPT_PROTOCOLS_STR, "https");
    bad |= curl_easy_setopt(h->curl, CURLOPT_REDIR_PROTOCOLS_STR, "https");
    bad |= curl_easy_setopt(h->curl, CURLOPT_FOLLOWLOCATION, 1L);
    bad |= curl_easy_setopt(h->curl, CURLOPT_MAXREDIRS, REDIRECTS_MAX);
    bad |= curl_easy_setopt(h->curl, CURLOPT_SSL_VERIFYPEER, 1L);
    bad |= curl_easy_setopt(h->curl, CURLOPT_SSL_VERIFYHOST, 2L);
    if (o->ca_file[0] != '\0')
        bad |= curl_easy_setopt(h->curl, CURLOPT_CAINFO, o->ca_file);
    bad |= curl_easy_setopt(h->curl, CURLOPT_PROXY, "");
    bad |= curl_easy_setopt(h->curl, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    bad |= curl_easy_setopt(h->curl, CURLOPT_NOSIGNAL, 1L);
    bad |= curl_easy_setopt(h->curl, CURLOPT_FILETIME, 1L);
    bad |= curl_easy_setopt(h->curl, CURLOPT_BUFFERSIZE, RECEIVE_BYTES);
    bad |= curl_easy_setopt(h->curl, CURLOPT_USERAGENT, "vine-env/" VINE_VERSION);
    bad |= curl_easy_setopt(h->curl, CURLOPT_CONNECTTIMEOUT, (long)o->timeout_s);
    bad |= curl_easy_setopt(h->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    bad |= curl_easy_setopt(h->curl, CURLOPT_LOW_SPEED_TIME, (long)o->timeout_s);
    bad |= curl_easy_setopt(h->curl, CURLOPT_ERRORBUFFER, h->why);
    bad |= curl_easy_setopt(h->curl, CURLOPT_HEADERFUNCTION, on_header);
    bad |= curl_easy_setopt(h->curl, CURLOPT_HEADERDATA, &h->answer);
    bad |= curl_easy_setopt(h->curl, CURLOPT_WRITEFUNCTION, on_body);
    bad |= curl_easy_setopt(h->curl, CURLOPT_WRITEDATA, h);
    if (bad != CURLE_OK)
        return vine_err_set(err, VINE_ESYS, "libcurl cannot do https as it is needed");
    return 0;
}

static int https_open(const struct vine_url *url, const struct remote_options *options,
                      void **connection, struct remote_facts *facts,
                      struct vine_err *err)
{
    struct https *h = calloc(1, sizeof(*h));

    if (h == NULL || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        free(h);
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    h->url = *url;
    h->curl = curl_easy_init();
    if (h->curl == NULL)
        vine_err_set(err, VINE_ENOMEM, "out of memory");
    else if (set_up(h, options, err) == 0 && https_look(h, facts, err) == 0) {
        *connection = h;
        return 0;
    }
    https_close(h);
    return -1;
}

static int https_read(void *connection, uint64_t from, uint64_t to,
                      const struct remote_sink *sink, struct vine_err *err)
{
    struct https *h = connection;
    long status;

    if (from >= to)
        return 0;
    if (ask(h, from, to, sink, &status, err) < 0)
        return -1;
    if (h->left > 0)
        return vine_err_set(err, VINE_EDOWN, "'%.100s' broke off its answer",
                            h->url.host);
    return 0;
}

const struct remote_door https_door = {
    .open = https_open, .look = https_look, .read = https_read, .close = https_close};
