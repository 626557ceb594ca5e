/* relocate.c - see relocate.h. The list is one of Python:
 *
 *     _prefix_records = [
 *     ('bin/tool', '/where/it/was', 'text'),
 *     ('lib/libx.so', '/placehold_placehold', 'binary')
 *     ]
 */
#include "daemon/image/relocate.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/image/bytes.h"
#include "daemon/image/names.h"

#define LIST "\n_prefix_records = ["
#define RECORDS_MAX (1u << 20)

struct record {
    char *path, *placeholder;
    bool binary;
};

struct relocate {
    struct record *record; /* sorted by path */
    size_t count, cap;
};

struct parsing {
    const char *next, *end;
};

void relocate_free(struct relocate *r)
{
    if (r == NULL)
        return;
    for (size_t i = 0; i < r->count; i++) {
        free(r->record[i].path);
        free(r->record[i].placeholder);
    }
    free(r->record);
    free(r);
}

/* The next character that is no white space is `c`, and taken. */
static bool take(struct parsing *p, char c)
{
    while (p->next < p->end && strchr(" \t\r\n", *p->next) != NULL && *p->next != '\0')
        p->next++;
    if (p->next == p->end || *p->next != c)
        return false;
    p->next++;
    return true;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* What stands for a character after a backslash; -1: nothing we know. */
static int take_escape(struct parsing *p)
{
    static const char plain[] = "\\'\"", letters[] = "nrt", controls[] = "\n\r\t";
    const char *at;
    int high, low;
    char c;

    if (p->next == p->end)
        return -1;
    c = *p->next++;
    if (c != '\0' && strchr(plain, c) != NULL)
        return (unsigned char)c;
    at = c != '\0' ? strchr(letters, c) : NULL;
    if (at != NULL)
        return controls[at - letters];
    if (c != 'x' || p->end - p->next < 2)
        return -1;
    high = hex_value(p->next[0]);
    low = hex_value(p->next[1]);
    p->next += 2;
    /* From 0x80 on it stands for a character of two bytes: nobody names files so. */
    return high < 0 || high > 7 || low < 0 || high + low == 0 ? -1 : high * 16 + low;
}

/* A string; NULL: there is none, or no memory. Caller frees. */
static char *take_string(struct parsing *p)
{
    char quote = take(p, '\'') ? '\'' : '"', *out;
    size_t len = 0, cap;

    if (quote == '"' && !take(p, '"'))
        return NULL;
    cap = (size_t)(p->end - p->next);
    if (cap > VINE_PATH_MAX)
        cap = VINE_PATH_MAX;
    out = malloc(cap + 1);
    while (out != NULL && p->next < p->end && *p->next != quote && len < cap) {
        int c = (unsigned char)*p->next++;

        if (c == '\\')
            c = take_escape(p);
        if (c <= 0)
            p->next = p->end; /* it has no end then */
        else
            out[len++] = (char)c;
    }
    if (out == NULL || p->next == p->end || *p->next != quote) {
        free(out);
        return NULL;
    }
    p->next++;
    out[len] = '\0';
    return out;
}

static bool take_record(struct parsing *p, struct record *out)
{
    auto_free char *path = NULL, *placeholder = NULL, *mode = NULL;
    char plain[VINE_PATH_MAX];

    if (!take(p, '(') || (path = take_string(p)) == NULL || !take(p, ',') ||
        (placeholder = take_string(p)) == NULL || !take(p, ',') ||
        (mode = take_string(p)) == NULL || !take(p, ')'))
        return false;
    out->binary = strcmp(mode, "binary") == 0;
    if ((!out->binary && strcmp(mode, "text") != 0) || *placeholder == '\0' ||
        names_make_plain(path, plain) != NULL)
        return false;
    out->path = strdup(plain); /* those are larger than what is in them */
    out->placeholder = strdup(placeholder);
    if (out->path != NULL && out->placeholder != NULL)
        return true;
    free(out->path);
    free(out->placeholder);
    return false;
}

static bool add_record(struct relocate *r, struct parsing *p)
{
    if (r->count == r->cap) {
        size_t cap = r->cap > 0 ? 2 * r->cap : 64;
        struct record *more = reallocarray(r->record, cap, sizeof(*more));

        if (more == NULL || r->count >= RECORDS_MAX) {
            r->record = more != NULL ? more : r->record;
            return false;
        }
        r->record = more;
        r->cap = cap;
    }
    if (!take_record(p, &r->record[r->count]))
        return false;
    r->count++;
    return true;
}

static bool take_list(struct relocate *r, struct parsing *p)
{
    while (!take(p, ']'))
        if (!add_record(r, p) ||
            (!take(p, ',') && (p->next == p->end || *p->next != ']')))
            return false;
    return true;
}

static int compare(const void *a, const void *b)
{
    return strcmp(((const struct record *)a)->path, ((const struct record *)b)->path);
}

int relocate_parse(const char *script, size_t len, struct relocate **out,
                   struct vine_err *err)
{
    const char *list = memmem(script, len, LIST, sizeof(LIST) - 1);
    struct relocate *r = calloc(1, sizeof(*r));
    struct parsing p = {list, script + len};

    if (r == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (list != NULL)
        p.next += sizeof(LIST) - 1;
    if (list == NULL || !take_list(r, &p)) {
        relocate_free(r);
        return vine_err_set(
            err, VINE_EINVAL,
            "its " RELOCATE_SCRIPT " has no list of files as conda-pack writes it: "
            "unpack it where it is to be used, run that, and pack the directory");
    }
    if (r->count > 0)
        qsort(r->record, r->count, sizeof(*r->record), compare);
    *out = r;
    return 0;
}

static const struct record *find(const struct relocate *r, const char *path)
{
    const struct record key = {.path = (char *)path};

    if (r == NULL || r->count == 0)
        return NULL;
    return bsearch(&key, r->record, r->count, sizeof(key), compare);
}

bool relocate_has(const struct relocate *relocate, const char *path)
{
    return find(relocate, path) != NULL;
}

/* `from` as `to` in the `len` bytes at `in`, to `out`, which has room: bytes there. */
static size_t replace_all(const uint8_t *in, size_t len, const char *from,
                          const char *to, uint8_t *out)
{
    size_t from_len = strlen(from), to_len = strlen(to), n = 0;
    const uint8_t *end = in + len, *hit;

    while ((hit = memmem(in, (size_t)(end - in), from, from_len)) != NULL) {
        memmove(out + n, in, (size_t)(hit - in));
        n += (size_t)(hit - in);
        memcpy(out + n, to, to_len);
        n += to_len;
        in = hit + from_len;
    }
    memmove(out + n, in, (size_t)(end - in));
    return n + (size_t)(end - in);
}

static size_t count_in(const uint8_t *in, size_t len, const char *what)
{
    const uint8_t *end = in + len, *hit;
    size_t count = 0, what_len = strlen(what);

    for (; (hit = memmem(in, (size_t)(end - in), what, what_len)) != NULL; count++)
        in = hit + what_len;
    return count;
}

static int apply_text(const struct record *r, const char *prefix, uint8_t **data,
                      size_t *len, struct vine_err *err)
{
    size_t count = count_in(*data, *len, r->placeholder), more = strlen(prefix);
    uint8_t *out;

    if (count == 0)
        return 0;
    out = malloc(*len + count * more);
    if (out == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    *len = replace_all(*data, *len, r->placeholder, prefix, out);
    free(*data);
    *data = out;
    return 0;
}

/* A string ends with a zero; what is behind it must stay where it is. */
static int apply_binary(const struct record *r, const char *prefix, uint8_t *data,
                        size_t len, struct vine_err *err)
{
    size_t placeholder_len = strlen(r->placeholder);
    uint8_t *at = data, *zero;

    if (strlen(prefix) > placeholder_len)
        return vine_err_set(err, VINE_EINVAL,
                            "the prefix has %zu bytes, and the file has room for %zu: "
                            "give a shorter one",
                            strlen(prefix), placeholder_len);
    while ((at = memmem(at, (size_t)(data + len - at), r->placeholder,
                        placeholder_len)) != NULL &&
           (zero = memchr(at, '\0', (size_t)(data + len - at))) != NULL) {
        size_t size = (size_t)(zero - at);
        size_t now = replace_all(at, size, r->placeholder, prefix, at);

        memset(at + now, 0, size - now);
        at = zero;
    }
    return 0;
}

int relocate_apply(const struct relocate *relocate, const char *path,
                   const char *prefix, uint8_t **data, size_t *len,
                   struct vine_err *err)
{
    const struct record *r = find(relocate, path);

    if (r == NULL)
        return 0;
    return r->binary ? apply_binary(r, prefix, *data, *len, err)
                     : apply_text(r, prefix, data, len, err);
}
