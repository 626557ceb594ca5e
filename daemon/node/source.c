/* source.c - a source's life: resolved, then built or copied, from its child's lines.
 *
 * A source that changes while it is read is started anew, SOURCE_TRIES times in all,
 * with the same struct: the one who waits sees only the outcome. */
#include "daemon/node/source.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vine/client.h"
#include "vine/log.h"
#include "vine/spec.h"
#include "vine/url.h"

#define SOURCE_TRIES 3
/* An archive's tree is larger than the archive; what is admitted before it is known. */
#define ARCHIVE_FACTOR 2

struct proof {
    uint32_t chunk;
    uint8_t bytes[VINE_CHUNK_MAX];
};

struct copy {
    struct vined *vined;
    uint64_t id;
    struct chunk_run run;
    uint32_t length;
    void *bytes;
};

static uint64_t number(const json_t *line, const char *field)
{
    json_int_t n = json_integer_value(json_object_get(line, field));

    return n > 0 ? (uint64_t)n : 0;
}

static const char *word(const json_t *line, const char *field)
{
    const char *text = json_string_value(json_object_get(line, field));

    return text != NULL ? text : "";
}

void source_fail(struct source *s, const struct vine_err *err)
{
    if (s->failed || s->freed)
        return;
    s->failed = true;
    s->ops.failed(s->ctx, s, err);
}

static void fail_with(struct source *s, enum vine_code code, const char *text)
{
    struct vine_err err = {0};

    vine_err_set(&err, code, "%s", text);
    source_fail(s, &err);
}

static int take_kind(struct source *s, const json_t *line)
{
    const char *kind = word(line, "kind");

    if (strcmp(kind, "dir") == 0)
        s->kind = SOURCE_DIR;
    else if (strcmp(kind, "archive") == 0)
        s->kind = SOURCE_ARCHIVE;
    else if (strcmp(kind, "image") == 0)
        s->kind = SOURCE_IMAGE;
    else if (strcmp(kind, "file") == 0 && s->data)
        s->kind = SOURCE_FILE;
    else
        return -1;
    return s->data && s->kind != SOURCE_FILE && s->kind != SOURCE_DIR ? -1 : 0;
}

static int key_of_named(struct source *s)
{
    struct vine_sha *sha = vine_sha_new();

    if (sha == NULL)
        return -1;
    vine_sha_add(sha, s->named, strlen(s->named) + 1);
    vine_sha_add(sha, s->key.b, sizeof(s->key.b));
    vine_sha_end(sha, &s->key);
    vine_sha_free(sha);
    return 0;
}

/* Only a path that an image may have. */
static void take_told(struct source *s, const json_t *line)
{
    char *told = strdup(word(line, "prefix"));

    free(s->told);
    s->told = NULL;
    if (told != NULL && vine_path_unescape(told) == 0 && told[0] == '/' &&
        strlen(told) < VINE_PATH_MAX)
        s->told = told;
    else
        free(told);
}

static int take_resolved(struct source *s, const json_t *line)
{
    const char *signature = word(line, "signature");
    char *canonical = strdup(word(line, "canonical"));

    s->was_resolved = true;
    free(s->canonical);
    s->canonical = canonical;
    s->unopened = false;
    if (canonical == NULL || vine_path_unescape(canonical) < 0 ||
        !vine_source_path_valid(canonical) || strlen(canonical) >= VINE_PATH_MAX ||
        take_kind(s, line) < 0 || vine_digest_parse(word(line, "key"), &s->key) < 0 ||
        image_activate_parse(word(line, "activate"), &s->activate) < 0)
        return -1;
    if (s->named != NULL && key_of_named(s) < 0)
        return -1;
    s->is_signed = *signature != '\0';
    if (s->is_signed && vine_digest_parse(signature, &s->signature) < 0)
        return -1;
    s->everybody = json_is_true(json_object_get(line, "everybody"));
    s->entries = number(line, "entries");
    s->bytes = number(line, "bytes");
    s->object_size = number(line, "object_size");
    s->manifest_bytes = number(line, "manifest_bytes");
    s->estimate = s->kind == SOURCE_DIR       ? number(line, "alloc")
                  : s->kind == SOURCE_ARCHIVE ? s->bytes * ARCHIVE_FACTOR
                                              : s->object_size;
    if (s->object_size > VINE_OBJECT_MAX ||
        s->manifest_bytes > manifest_encoded_size(VINE_CHUNKS_MAX) ||
        (s->kind != SOURCE_IMAGE && (s->manifest_bytes > 0 || s->is_signed)))
        return -1;
    return 0;
}

static void announce(struct source *s)
{
    struct vine_err err = {0};

    if (!s->building)
        s->ops.resolved(s->ctx, s);
    else if (build_start(s, &err) < 0) /* a further try */
        source_fail(s, &err);
}

static void manifest_read(struct source *s, void *arg)
{
    struct vine_err err = {0};
    int result = manifest_decode(arg, s->manifest_bytes, &s->manifest, &err);

    free(arg);
    if (result == 0 && (s->manifest.file || s->manifest.size != s->object_size))
        result = vine_err_set(&err, VINE_ECORRUPT,
                              "'%.200s': its manifest is of %" PRIu64
                              " bytes, the image of %" PRIu64 ": pack it again",
                              s->shown, s->manifest.size, s->object_size);
    if (result < 0) {
        source_fail(s, &err);
        return;
    }
    s->has_manifest = true;
    announce(s);
}

static void ask_manifest(struct source *s)
{
    struct vine_err err = {0};
    void *buf = malloc(s->manifest_bytes);

    if (buf == NULL)
        vine_err_set(&err, VINE_ENOMEM, "out of memory");
    else if (child_read(s, buf, s->manifest_bytes, manifest_read, free, buf, &err) < 0)
        free(buf);
    else if (child_send(s, json_pack("{s:s}", "cmd", "manifest"), &err) == 0)
        return;
    source_fail(s, &err);
}

/* An image file, of which only the outside was looked at. */
static void take_key(struct source *s, const json_t *line)
{
    struct vine_err err = {0};

    if (!s->key_first || s->data || s->unopened || s->was_resolved ||
        vine_digest_parse(word(line, "key"), &s->key) < 0) {
        fail_with(s, VINE_EPROTO, "vine-source wrote a malformed line");
        return;
    }
    s->kind = SOURCE_IMAGE;
    s->unopened = true;
    s->bytes = s->estimate = number(line, "bytes");
    if (!s->building)
        s->ops.resolved(s->ctx, s);
    else if (source_look(s, &err) < 0) /* a further try */
        source_fail(s, &err);
}

void source_restart(struct source *s)
{
    struct vine_err err = {0};

    build_end(s);
    child_end(s);
    manifest_free(&s->manifest);
    memset(&s->manifest, 0, sizeof(s->manifest));
    s->has_manifest = s->was_resolved = false;
    if (child_start(s, &err) < 0)
        source_fail(s, &err);
}

/* Start over if it only changed while it was read. */
static bool try_again(struct source *s, enum vine_code code)
{
    if (code != VINE_ECHANGED || ++s->tries >= SOURCE_TRIES)
        return false;
    if (s->key_first && s->kind == SOURCE_IMAGE && !s->building)
        return false; /* the key that was told is of what was there before */
    vine_log(VINE_LOG_INFO, "event=source-changed ticket=%" PRIx64 " try=%u path=%s",
             s->ticket, s->tries + 1, vine_q(s->shown));
    source_restart(s);
    return true;
}

void source_line(struct source *s, const json_t *line)
{
    const char *event = word(line, "event");
    enum vine_code code;

    if (s->failed || s->freed)
        return;
    if (strcmp(event, "key") == 0) {
        take_key(s, line);
    } else if (strcmp(event, "resolved") == 0) {
        /* Once a child: what is under way relies on its first word. */
        if (s->was_resolved || take_resolved(s, line) < 0)
            fail_with(s, VINE_EPROTO, "vine-source wrote a malformed line");
        else if (s->manifest_bytes > 0)
            ask_manifest(s);
        else
            announce(s);
    } else if (strcmp(event, "progress") == 0) {
        s->ops.progress(s->ctx, s, number(line, "bytes"));
    } else if (strcmp(event, "done") == 0) {
        if (s->building && s->kind == SOURCE_ARCHIVE) { /* known when it is read */
            s->entries = number(line, "entries");
            s->bytes = number(line, "source_bytes");
            (void)image_activate_parse(word(line, "activate"), &s->activate);
            take_told(s, line);
        }
        s->files = number(line, "files");
        (void)image_env_parse(word(line, "env"), &s->env);
        if (s->building)
            build_child_done(s, line);
    } else if (strcmp(event, "error") == 0) {
        code = vine_code_parse(word(line, "code"));
        if (code == VINE_OK)
            code = VINE_EPROTO;
        if (code == VINE_ESYS && build_failed(s))
            return; /* the pipe broke because vine-squash had ended: that is told */
        if (!try_again(s, code))
            fail_with(s, code, word(line, "text"));
    } else {
        fail_with(s, VINE_EPROTO, "vine-source wrote an unknown event");
    }
}

struct source *source_new(struct vined *vined, uint64_t ticket, uint32_t uid,
                          uint32_t gid, const char *id, bool key_first,
                          const struct source_ops *ops, void *ctx,
                          const char *const *more, struct vine_err *err)
{
    struct source *s = calloc(1, sizeof(*s));
    const struct offer *offer = files_offer(vined, uid, id);
    const char *path;
    bool versioned;

    if (offer == NULL && vine_source_is_named(id, &versioned)) {
        free(s);
        vine_err_set(err, VINE_ELOST, "the nodes that had '%.200s' are gone",
                     strstr(id, VINE_NAMED) + strlen(VINE_NAMED));
        return NULL;
    }

    if (s != NULL && (path = vine_source_id_path(id, &s->data)) != NULL) {
        if (offer != NULL) {
            path = offer->path;
            s->named = strdup(id);
            s->view = offer->view;
        }
        s->path = strdup(path);
        s->shown = malloc(VINE_PATH_MAX);
    }
    if (s == NULL || s->path == NULL || s->shown == NULL ||
        (offer != NULL && s->named == NULL)) {
        if (s != NULL) {
            free(s->path);
            free(s->named);
        }
        free(s);
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        return NULL;
    }
    vine_url_shown(s->path, s->shown);
    s->vined = vined;
    s->ops = *ops;
    s->ctx = ctx;
    s->ticket = ticket;
    s->uid = uid;
    s->gid = gid;
    s->key_first = key_first;
    s->more = more;
    s->temp_fd = -1;
    s->pins = 1;
    if (child_start(s, err) < 0) {
        source_free(s);
        return NULL;
    }
    return s;
}

int source_look(struct source *s, struct vine_err *err)
{
    return child_send(s, json_pack("{s:s}", "cmd", "open"), err);
}

int source_begin_build(struct source *s, struct vine_err *err)
{
    s->building = true;
    return build_start(s, err);
}

static int prove_next(struct source *s, struct proof *p, struct vine_err *err);

static void chunk_read(struct source *s, void *arg)
{
    struct proof *p = arg;
    const struct manifest_chunk *chunk = &s->manifest.chunk[p->chunk];
    struct vine_digest digest;
    struct vine_err err = {0};

    if (s->failed) {
        free(p);
        return;
    }
    vine_digest_of(p->bytes, chunk->length, &digest);
    if (!vine_digest_equal(&digest, &chunk->digest)) {
        vine_err_set(&err, VINE_ECORRUPT,
                     "'%.200s' is damaged: chunk %u has the wrong bytes; pack it again",
                     s->shown, p->chunk);
        free(p);
        source_fail(s, &err);
    } else if (++p->chunk == s->manifest.count) {
        free(p);
        s->ops.proved(s->ctx, s);
    } else if (prove_next(s, p, &err) < 0) {
        source_fail(s, &err);
    }
}

/* One chunk at a time: the pipe holds the child back. Takes `p`. */
static int prove_next(struct source *s, struct proof *p, struct vine_err *err)
{
    if (child_read(s, p->bytes, s->manifest.chunk[p->chunk].length, chunk_read, free, p,
                   err) == 0)
        return 0;
    free(p);
    return -1;
}

int source_begin_proof(struct source *s, struct vine_err *err)
{
    struct proof *p;

    if (s->failed || !s->has_manifest || s->child == NULL || s->manifest.count == 0)
        return vine_err_set(err, VINE_EDOWN, "the source is not open any more");
    p = calloc(1, sizeof(*p));
    if (p == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (prove_next(s, p, err) < 0)
        return -1;
    return child_send(s,
                      json_pack("{s:s, s:I, s:I}", "cmd", "copy", "offset",
                                (json_int_t)0, "length", (json_int_t)s->manifest.size),
                      err);
}

static void copied(struct source *s, void *arg)
{
    struct copy *c = arg;

    s->ops.chunks(s->ctx, s, c->id, c->run, c->bytes, c->length);
    free(c);
}

static void drop_copy(void *arg)
{
    struct copy *c = arg;

    buffer_put(c->vined, c->bytes);
    free(c);
}

/* The first of the chunks [first, end) that go together; 0: an error. */
static uint32_t queue_run(struct source *s, uint64_t id, uint32_t first, uint32_t end,
                          struct vine_err *err)
{
    struct copy *c = calloc(1, sizeof(*c));

    if (c != NULL)
        c->bytes = buffer_get(s->vined);
    if (c == NULL || c->bytes == NULL) {
        free(c);
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        return 0;
    }
    c->vined = s->vined;
    c->id = id;
    c->run.first = first;
    c->run.count = manifest_run(&s->manifest, first, end, &c->length);
    if (child_read(s, c->bytes, c->length, copied, drop_copy, c, err) == 0)
        return c->run.count;
    drop_copy(c);
    return 0;
}

int source_copy(struct source *s, uint64_t id, uint32_t first, uint32_t count,
                struct vine_err *err)
{
    const struct manifest_chunk *chunk, *last;

    if (s->failed || !s->has_manifest || s->child == NULL)
        return vine_err_set(err, VINE_EDOWN, "the source is not open any more");
    chunk = &s->manifest.chunk[first];
    last = &s->manifest.chunk[first + count - 1];
    for (uint32_t next = first; next < first + count;) {
        uint32_t queued = queue_run(s, id, next, first + count, err);
        if (queued == 0)
            return -1;
        next += queued;
    }
    return child_send(
        s,
        json_pack("{s:s, s:I, s:I}", "cmd", "copy", "offset", (json_int_t)chunk->offset,
                  "length", (json_int_t)(last->offset + last->length - chunk->offset)),
        err);
}

void source_unpin(struct source *s)
{
    if (--s->pins > 0)
        return;
    manifest_free(&s->manifest);
    free(s->canonical);
    free(s->told);
    free(s->path);
    free(s->named);
    free(s->shown);
    free(s);
}

void source_free(struct source *s)
{
    s->freed = true;
    build_end(s);
    child_end(s);
    source_unpin(s);
}
