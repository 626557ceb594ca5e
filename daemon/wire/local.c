/* local.c - frames of JSON on the local Unix socket: decoder and encoder of the daemon.
 *
 * A small text can make a parser build a large tree ("[{},{},..."), so values are
 * counted first: outside strings every value but the first of its array or object
 * comes after a ',' and every nesting after a '[' or '{'. */
#include "daemon/wire/local.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/wire/bytes.h"

#define HEADER_LEN 4
#define BODY_FIRST 512  /* most requests fit */
#define BODY_KEEP 65536 /* larger buffers do not stay between requests */

struct local_decoder {
    size_t frame_max;
    uint8_t header[HEADER_LEN];
    size_t header_have;
    char *body;
    size_t body_len, body_have, body_cap;
    struct vine_err err;
};

struct local_decoder *local_decoder_new(size_t frame_max)
{
    struct local_decoder *d = calloc(1, sizeof(*d));

    if (d == NULL)
        return NULL;
    d->frame_max =
        frame_max == 0 || frame_max > LOCAL_FRAME_MAX ? LOCAL_FRAME_MAX : frame_max;
    return d;
}

void local_decoder_free(struct local_decoder *d)
{
    if (d == NULL)
        return;
    free(d->body);
    free(d);
}

static bool too_many_values(const char *text, size_t len)
{
    size_t values = 0;
    bool in_string = false;

    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        if (in_string && c == '\\')
            i++;
        else if (c == '"')
            in_string = !in_string;
        else if (!in_string && (c == ',' || c == '[' || c == '{'))
            values++;
    }
    return values > LOCAL_VALUES_MAX;
}

/* The four header bytes are there. */
static int take_header(struct local_decoder *d)
{
    struct reader r = {.next = d->header, .left = HEADER_LEN};
    size_t len = get_u32(&r);

    if (len < 2 || len > d->frame_max)
        return vine_err_set(&d->err, len > d->frame_max ? VINE_ELIMIT : VINE_EPROTO,
                            "request of %zu bytes, allowed are 2 to %zu", len,
                            d->frame_max);
    d->body_len = len;
    return 0;
}

static int body_add(struct local_decoder *d, const uint8_t *bytes, size_t n)
{
    if (d->body_have + n > d->body_cap) {
        size_t cap = d->body_cap > 0 ? d->body_cap : BODY_FIRST;
        char *grown;

        while (cap < d->body_have + n)
            cap *= 2;
        grown = realloc(d->body, cap);
        if (grown == NULL)
            return vine_err_set(&d->err, VINE_ENOMEM, "out of memory for a request");
        d->body = grown;
        d->body_cap = cap;
    }
    memcpy(d->body + d->body_have, bytes, n);
    d->body_have += n;
    return 0;
}

/* The body is there: make it an object and be ready for the next frame. */
static json_t *take_body(struct local_decoder *d)
{
    json_error_t jerr;
    json_t *object;

    if (too_many_values(d->body, d->body_len)) {
        (void)vine_err_set(&d->err, VINE_ELIMIT, "request has over %u values",
                           LOCAL_VALUES_MAX);
        return NULL;
    }
    object = json_loadb(d->body, d->body_len, JSON_REJECT_DUPLICATES, &jerr);
    if (object == NULL) {
        (void)vine_err_set(&d->err, VINE_EPROTO, "cannot parse request at byte %d: %s",
                           jerr.position, jerr.text);
        return NULL;
    }
    if (!json_is_object(object)) {
        json_decref(object);
        (void)vine_err_set(&d->err, VINE_EPROTO, "request is not a JSON object");
        return NULL;
    }
    d->header_have = d->body_have = d->body_len = 0;
    if (d->body_cap > BODY_KEEP) {
        free(d->body);
        d->body = NULL;
        d->body_cap = 0;
    }
    return object;
}

static int pass_error(const struct local_decoder *d, struct vine_err *err)
{
    return vine_err_set(err, d->err.code, "%s", d->err.text);
}

int local_feed(struct local_decoder *d, const void *buf, size_t len, size_t *consumed,
               json_t **out, struct vine_err *err)
{
    const uint8_t *bytes = buf;
    size_t n;

    *consumed = 0;
    *out = NULL;
    if (d->err.code != VINE_OK)
        return pass_error(d, err);
    while (d->header_have < HEADER_LEN) {
        if (*consumed == len)
            return 0;
        d->header[d->header_have++] = bytes[(*consumed)++];
        if (d->header_have == HEADER_LEN && take_header(d) < 0)
            return pass_error(d, err);
    }
    n = d->body_len - d->body_have;
    if (n > len - *consumed)
        n = len - *consumed;
    if (n > 0 && body_add(d, bytes + *consumed, n) < 0)
        return pass_error(d, err);
    *consumed += n;
    if (d->body_have < d->body_len)
        return 0;
    *out = take_body(d);
    return *out != NULL ? 0 : pass_error(d, err);
}

int local_encode(const json_t *object, char **out, size_t *len, struct vine_err *err)
{
    size_t size = json_dumpb(object, NULL, 0, JSON_COMPACT);
    struct writer w;
    char *frame;

    if (size < 2 || size > LOCAL_FRAME_MAX)
        return vine_err_set(err, size < 2 ? VINE_EINVAL : VINE_ELIMIT,
                            "answer of %zu bytes, limit %u", size, LOCAL_FRAME_MAX);
    frame = malloc(HEADER_LEN + size);
    if (frame == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory for an answer");
    w = (struct writer){.next = (uint8_t *)frame, .left = HEADER_LEN};
    put_u32(&w, (uint32_t)size);
    if (json_dumpb(object, frame + HEADER_LEN, size, JSON_COMPACT) != size) {
        free(frame);
        return vine_err_set(err, VINE_ENOMEM, "out of memory for an answer");
    }
    *out = frame;
    *len = HEADER_LEN + size;
    return 0;
}
