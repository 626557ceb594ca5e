/* spec.c - the option grammar SRC[:DST][,SRC[:DST]...], see spec.h.
 *
 * The text comes from users, job scripts and REST clients: it is hostile. One pass
 * takes it apart: a reader hands out single characters and says whether a backslash
 * made them literal, so that only bare ',' and ':' divide. Paths are tidied while they
 * are copied
 * ("//" and a trailing '/' go); then each source is checked as a whole, then all
 * against each other. The result is copied out on the last line, nowhere else.
 *
 * Messages name the option whose value is read, and are otherwise the same.
 *
 * Linked into the plugin with err.c alone: no streams, no system calls, no globals.
 *
 * What must hold: parse(text(parse(x))) equals parse(x). Escapes can make the canonical
 * text longer than what was typed; such a text is refused when it would not parse
 * again. */
#include "vine/spec.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vine/url.h"

#define SHOWN 80 /* characters of a path quoted in a message */

#define DATA_LEN (sizeof(VINE_DATA) - 1)
#define NAMED_LEN (sizeof(VINE_NAMED) - 1)
#define NAMED_MAX 1024
#define SERVER_MAX 512 /* of a URL: more than any that is valid has before its path */

enum { END = -1, COMMA = -2, COLON = -3, REFUSED = -4 };

struct reader {
    const char *next;
    bool data; /* whose value it is, --vine-data's */
    struct vine_err *err;
};

/* Every message ends in the right form, so that the user need not look it up. */
__attribute__((format(printf, 2, 3))) static int refuse(const struct reader *r,
                                                        const char *format, ...)
{
    char text[sizeof(r->err->text)];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return vine_err_set(
        r->err, VINE_EINVAL, "%s; write SRC[:DST][,SRC[:DST]...], for example %s", text,
        r->data ? "--vine-data=/shared/sets/a.h5" : "--vine-env=/shared/envs/ml");
}

/* The next literal character, or COMMA, COLON, END. */
static int reader_get(struct reader *r)
{
    char c = *r->next;

    if (c == '\0')
        return END;
    r->next++;
    if (c == ',')
        return COMMA;
    if (c == ':')
        return COLON;
    if (c == '\\' && *r->next != '\0' && strchr(",:\\", *r->next) != NULL)
        c = *r->next++;
    return (unsigned char)c;
}

static int text_check(const struct reader *r)
{
    const char *text = r->next;
    size_t len = strnlen(text, VINE_SPEC_MAX + 1);

    if (len == 0)
        return refuse(r, "no source is named");
    if (len > VINE_SPEC_MAX)
        return refuse(r, "longer than %d characters", VINE_SPEC_MAX);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            return refuse(r, "control character 0x%02x at position %zu",
                          (unsigned char)text[i], i + 1);
    return 0;
}

/* Copy one path behind the `from` bytes of out, up to a bare ',' ':' or the end, which
 * is returned; *too_long when it does not fit. Repeated and trailing slashes are left
 * out. */
static int path_read(struct reader *r, size_t from, char out[VINE_PATH_MAX],
                     bool *too_long)
{
    size_t len = from;
    int c;

    *too_long = false;
    while ((c = reader_get(r)) >= 0) {
        if (c == '/' && len > from && out[len - 1] == '/')
            continue;
        if (len == VINE_PATH_MAX - 1) {
            *too_long = true;
            break;
        }
        out[len++] = (char)c;
    }
    if (len > from + 1 && out[len - 1] == '/')
        len--;
    out[len] = '\0';
    return c;
}

static bool has_dot_component(const char *path)
{
    while ((path = strchr(path, '/')) != NULL) {
        path++;
        size_t n = strcspn(path, "/");
        if ((n == 1 && path[0] == '.') || (n == 2 && path[0] == '.' && path[1] == '.'))
            return true;
    }
    return false;
}

static bool has_ending(const char *path, const char *ending)
{
    size_t len = strlen(path), n = strlen(ending);

    return len >= n && strcmp(path + len - n, ending) == 0;
}

static int path_check(const struct reader *r, const char *path, const char *what)
{
    if (path[0] == '\0')
        return refuse(r, "empty %s", what);
    if (path[0] != '/')
        return refuse(r, "'%.*s' is not an absolute path", SHOWN, path);
    if (has_dot_component(path))
        return refuse(r, "'%.*s' has a '.' or '..' component: name the %s directly",
                      SHOWN, path, what);
    if (path[1] == '\0')
        return refuse(r, "'/' cannot be a %s", what);
    return 0;
}

/* Nothing of it is a directory, and a zip's table stands at its end. */
static int remote_check(const struct reader *r, const char *text)
{
    struct vine_err why = {0};
    struct vine_url *url = malloc(sizeof(*url));
    int result = 0;

    if (url == NULL)
        return vine_err_set(r->err, VINE_ENOMEM, "out of memory");
    if (vine_url_parse(text, url, &why) < 0)
        result = refuse(r, "%s", why.text);
    else if (has_dot_component(url->path))
        result =
            refuse(r, "'%.*s' has a '.' or '..' component: name the source directly",
                   SHOWN, text);
    else if (!r->data && vine_source_kind_of(text) == VINE_SOURCE_DIR)
        result =
            refuse(r, "'%.*s' is no image and no archive: a URL must name such a file",
                   SHOWN, text);
    else if (!r->data && has_ending(url->path, ".zip"))
        result = refuse(r, "'%.*s': a .zip cannot be read from a server: use .tar.zst",
                        SHOWN, text);
    free(url);
    return result;
}

/* What stands before a URL's path is copied as it is, the ':' of a port too. */
static int remote_read(struct reader *r, char out[VINE_PATH_MAX], bool *too_long)
{
    size_t server = (size_t)(vine_url_path(r->next) - r->next);
    int end;

    server = strcspn(r->next, ",\\") < server ? strcspn(r->next, ",\\") : server;
    *too_long = server > SERVER_MAX;
    if (*too_long)
        return END;
    memcpy(out, r->next, server);
    r->next += server;
    end = path_read(r, server, out, too_long);
    return !*too_long && remote_check(r, out) < 0 ? REFUSED : end;
}

static int source_read(struct reader *r, char out[VINE_PATH_MAX], bool *too_long)
{
    int end;

    if (vine_url_is(r->next))
        return remote_read(r, out, too_long);
    end = path_read(r, 0, out, too_long);
    return !*too_long && path_check(r, out, "source") < 0 ? REFUSED : end;
}

/* One part; *more says whether a ',' follows it. */
static int part_parse(struct reader *r, struct vine_source *s, bool *more)
{
    const char *start = r->next;
    bool too_long;
    size_t most;

    int end = source_read(r, s->path, &too_long);
    if (end == REFUSED)
        return -1;
    if (!too_long && end == COLON) {
        end = path_read(r, 0, s->dst, &too_long);
        if (!too_long && path_check(r, s->dst, "destination") < 0)
            return -1;
    }
    most = VINE_PATH_MAX - 1 - (r->data ? DATA_LEN : 0);
    if (too_long || strlen(s->path) > most)
        return refuse(r, "a path is longer than %zu characters", most);
    if (end == COLON)
        return refuse(r,
                      "more than one ':' in '%.*s' (write '\\:' for one that belongs "
                      "to a path)",
                      SHOWN, start);
    if (r->data && s->dst[0] == '\0' && vine_url_is(s->path))
        return refuse(r, "'%.*s' has no path of its own: add ':' and where it goes",
                      SHOWN, s->path);
    *more = end == COMMA;
    return 0;
}

/* Where it appears as far as the text says; NULL: decided by what the image records. */
static const char *known_destination(const struct vine_source *s)
{
    if (s->dst[0] != '\0')
        return s->dst;
    return s->data || vine_source_kind_of(s->path) == VINE_SOURCE_DIR ? s->path : NULL;
}

/* The last source against those before it. */
static int duplicate_check(const struct reader *r, const struct vine_spec *spec)
{
    const struct vine_source *last = &spec->source[spec->count - 1];
    const char *last_dst = known_destination(last);

    for (unsigned i = 0; i + 1 < spec->count; i++) {
        const struct vine_source *s = &spec->source[i];
        const char *dst = known_destination(s);
        if (s->data == last->data && strcmp(s->path, last->path) == 0)
            return refuse(r, "source '%.*s' is named twice", SHOWN, last->path);
        if (dst != NULL && last_dst != NULL && strcmp(dst, last_dst) == 0)
            return refuse(r, "destination '%.*s' is named twice", SHOWN, dst);
    }
    return 0;
}

/* Up to here nothing of a path is escaped. */
static const char *bare_end(const char *path)
{
    return vine_url_is(path) ? vine_url_path(path) : path;
}

static size_t escaped_len(const char *path)
{
    size_t len = (size_t)(bare_end(path) - path);

    for (path += len; *path != '\0'; path++)
        len += 1 + (strchr(",:\\", *path) != NULL);
    return len;
}

static size_t text_len(const struct vine_spec *spec, bool data)
{
    size_t len = 0;

    for (unsigned i = 0; i < spec->count; i++) {
        const struct vine_source *s = &spec->source[i];
        if (s->data != data)
            continue;
        len += (len > 0) + escaped_len(s->path);
        if (s->dst[0] != '\0')
            len += 1 + escaped_len(s->dst);
    }
    return len;
}

static int spec_fill(struct reader *r, struct vine_spec *spec)
{
    bool more = true;

    while (more) {
        struct vine_source *s = &spec->source[spec->count];
        if (spec->count == VINE_SOURCES_MAX)
            return refuse(r, "more than %d sources", VINE_SOURCES_MAX);
        s->data = r->data;
        if (part_parse(r, s, &more) < 0)
            return -1;
        spec->count++;
        if (duplicate_check(r, spec) < 0)
            return -1;
    }
    if (text_len(spec, r->data) > VINE_SPEC_MAX)
        return refuse(r, "longer than %d characters when each '\\' is doubled",
                      VINE_SPEC_MAX);
    return 0;
}

/* Behind what *spec has, if `before`; *spec is untouched on error. */
static int parse(struct reader *r, const struct vine_spec *before,
                 struct vine_spec *spec)
{
    struct vine_spec *made;
    int rc;

    if (text_check(r) < 0)
        return -1;
    made = calloc(1, sizeof(*made));
    if (made == NULL)
        return vine_err_set(r->err, VINE_ENOMEM, "out of memory");
    if (before != NULL)
        *made = *before;
    rc = spec_fill(r, made);
    if (rc == 0)
        *spec = *made;
    free(made);
    return rc;
}

int vine_spec_parse(const char *text, struct vine_spec *spec, struct vine_err *err)
{
    struct reader r = {.next = text, .err = err};

    return parse(&r, NULL, spec);
}

int vine_spec_add_data(const char *text, struct vine_spec *spec, struct vine_err *err)
{
    struct reader r = {.next = text, .data = true, .err = err};

    return parse(&r, spec, spec);
}

static char *escaped_put(char *out, const char *path)
{
    for (const char *bare = bare_end(path); path < bare; path++)
        *out++ = *path;
    for (; *path != '\0'; path++) {
        if (strchr(",:\\", *path) != NULL)
            *out++ = '\\';
        *out++ = *path;
    }
    return out;
}

static char *text_of(const struct vine_spec *spec, bool data)
{
    char *text = malloc(text_len(spec, data) + 1), *out = text;

    if (text == NULL)
        return NULL;
    for (unsigned i = 0; i < spec->count; i++) {
        const struct vine_source *s = &spec->source[i];
        if (s->data != data)
            continue;
        if (out > text)
            *out++ = ',';
        out = escaped_put(out, s->path);
        if (s->dst[0] != '\0') {
            *out++ = ':';
            out = escaped_put(out, s->dst);
        }
    }
    *out = '\0';
    return text;
}

char *vine_spec_text(const struct vine_spec *spec)
{
    return text_of(spec, false);
}

char *vine_spec_data_text(const struct vine_spec *spec)
{
    return text_of(spec, true);
}

void vine_source_id(const struct vine_source *source, char out[VINE_PATH_MAX])
{
    size_t len = 0, room = VINE_PATH_MAX - 1;

    if (source->data) {
        memcpy(out, VINE_DATA, DATA_LEN);
        len = DATA_LEN;
    }
    room = strnlen(source->path, room - len);
    memcpy(out + len, source->path, room);
    out[len + room] = '\0';
}

/* NAME or NAME#VERSION. */
static bool named_valid(const char *text)
{
    const char *hash = strchr(text, '#');
    size_t len = hash != NULL ? (size_t)(hash - text) : strlen(text);
    char name[NAMED_MAX + 1];

    if (len > NAMED_MAX)
        return false;
    memcpy(name, text, len);
    name[len] = '\0';
    return vine_named_check(name, NULL) == 0 &&
           (hash == NULL ||
            (strlen(hash + 1) == VINE_NAMED_VERSION &&
             strspn(hash + 1, "0123456789abcdef") == VINE_NAMED_VERSION));
}

const char *vine_source_id_path(const char *id, bool *data)
{
    *data = strncmp(id, VINE_DATA, DATA_LEN) == 0;
    id += *data ? DATA_LEN : 0;
    if (*data && strncmp(id, VINE_NAMED, NAMED_LEN) == 0)
        return named_valid(id + NAMED_LEN) ? id : NULL;
    return vine_source_path_valid(id) ? id : NULL;
}

int vine_named_check(const char *name, struct vine_err *err)
{
    size_t len = strnlen(name, NAMED_MAX + 1);

    if (len == 0 || len > NAMED_MAX)
        return vine_err_set(err, VINE_EINVAL, "a NAME has 1 to %d bytes", NAMED_MAX);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f || name[i] == '#')
            return vine_err_set(err, VINE_EINVAL,
                                "a NAME has no control characters and no '#'");
    return 0;
}

bool vine_source_is_named(const char *id, bool *versioned)
{
    bool data;
    const char *path = vine_source_id_path(id, &data);

    *versioned = path != NULL && strchr(path, '#') != NULL;
    return path != NULL && strncmp(path, VINE_NAMED, NAMED_LEN) == 0;
}

bool vine_source_path_valid(const char *path)
{
    return path[0] == '/' || vine_source_is_remote(path);
}

bool vine_source_is_remote(const char *path)
{
    return vine_url_is(path);
}

static const struct ending {
    const char *text;
    enum vine_source_kind kind;
} endings[] = {
    {".sqsh", VINE_SOURCE_IMAGE},     {".squashfs", VINE_SOURCE_IMAGE},
    {".tar", VINE_SOURCE_ARCHIVE},    {".tar.gz", VINE_SOURCE_ARCHIVE},
    {".tgz", VINE_SOURCE_ARCHIVE},    {".tar.zst", VINE_SOURCE_ARCHIVE},
    {".tar.xz", VINE_SOURCE_ARCHIVE}, {".tar.bz2", VINE_SOURCE_ARCHIVE},
    {".zip", VINE_SOURCE_ARCHIVE},
};

/* Without what follows the '#' of a URL. */
static const char *last_component(const char *path, size_t *len)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash == NULL ? path : slash + 1;

    *len = vine_url_is(path) ? vine_url_path_length(name) : strlen(name);
    return name;
}

/* The known ending of a name; a name that is nothing but an ending has none. */
static const struct ending *find_ending(const char *name, size_t len)
{

    for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
        size_t n = strlen(endings[i].text);
        if (len > n && memcmp(name + len - n, endings[i].text, n) == 0)
            return &endings[i];
    }
    return NULL;
}

enum vine_source_kind vine_source_kind_of(const char *path)
{
    size_t len;
    const char *name = last_component(path, &len);
    const struct ending *e = find_ending(name, len);

    return e == NULL ? VINE_SOURCE_DIR : e->kind;
}

void vine_source_name(const char *path, char *out)
{
    size_t len;
    const char *name = last_component(path, &len);
    const struct ending *e = find_ending(name, len);

    if (e != NULL)
        len -= strlen(e->text);
    len = len < VINE_PATH_MAX ? len : VINE_PATH_MAX - 1;
    memcpy(out, name, len);
    out[len] = '\0';
}
