/* packing.c - `vine-env pack` through the daemon: built and signed here, so that a
 * kernel may mount the packed file wherever this site's key is known.
 *
 * The source is read and the output written by children that are the client's user; the
 * image between them is a file of the store's tmp/ that only we can write. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/node/local.h"
#include "daemon/node/source.h"
#include "daemon/node/store_int.h"
#include "vine/client.h"
#include "vine/log.h"

#define PROGRESS_EVERY_MS 500
#define EXPORT_LINE_MAX 8192

struct packing {
    struct client *client; /* NULL: gone */
    struct vined *vined;
    struct source *source;
    char *out, *prefix; /* prefix NULL: a directory's own */
    char **more;        /* arguments of vine-source; ends with NULL */
    bool force, is_signed, ended, freed;
    uint32_t mode; /* permission bits of the output */
    uint64_t start_ms, told_ms, object_size, file_size;
    struct vine_digest digest;
    /* The export child; each of its two handles holds the struct. */
    uint32_t uid, gid;
    int image_fd, trailer_fd;
    uv_process_t process;
    uv_pipe_t control;
    int handles;
    bool spawned, exporter_ended, asked;
    char line[EXPORT_LINE_MAX];
    size_t line_len;
};

static void free_if_unused(struct packing *p)
{
    if (p->handles > 0 || !p->freed)
        return;
    for (size_t i = 0; p->more != NULL && p->more[i] != NULL; i++)
        free(p->more[i]);
    free(p->more);
    free(p->out);
    free(p->prefix);
    free(p);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct packing *p = handle->data;

    p->handles--;
    free_if_unused(p);
}

static void free_late(struct vined *vined, void *arg)
{
    struct packing *p = arg;

    if (p->source != NULL)
        source_free(p->source);
    if (p->image_fd >= 0)
        (void)close(p->image_fd);
    if (p->trailer_fd >= 0)
        (void)close(p->trailer_fd);
    if (p->spawned) {
        uv_close((uv_handle_t *)&p->control, on_handle_closed);
        /* The end of that socket ends it: killed, it would leave its unfinished file.
         */
        if (!p->exporter_ended && vined->stopping)
            uv_unref((uv_handle_t *)&p->process);
    }
    p->freed = true;
    free_if_unused(p);
}

/* The last thing that happens to it; never from inside a source's event. */
static void end(struct packing *p)
{
    if (p->ended)
        return;
    p->ended = true;
    if (p->client != NULL)
        p->client->packing = NULL;
    vined_defer(p->vined, free_late, p);
}

static void fail(struct packing *p, const struct vine_err *err)
{
    if (p->ended)
        return;
    if (p->client != NULL)
        client_error(p->client, err);
    end(p);
}

static void on_resolved(void *ctx, struct source *s)
{
    struct packing *p = ctx;
    struct vine_err err = {0};
    uint64_t total, available;

    if (s->kind == SOURCE_IMAGE)
        vine_err_set(&err, VINE_EINVAL, "'%.200s' is an image already", s->path);
    else if (store_space(p->vined->store, &total, &available, &err) == 0 &&
             s->estimate > available)
        vine_err_set(&err, VINE_ENOSPC,
                     "packing may need %llu MB in '%s', %llu are free: evict, or pack "
                     "with --local",
                     (unsigned long long)s->estimate >> 20, p->vined->conf.cache_dir,
                     (unsigned long long)available >> 20);
    if (err.code != VINE_OK || source_begin_build(s, &err) < 0)
        fail(p, &err);
}

static void on_progress(void *ctx, struct source *s, uint64_t bytes)
{
    struct packing *p = ctx;
    uint64_t now = vined_now(p->vined);

    if (p->client == NULL || now - p->told_ms < PROGRESS_EVERY_MS)
        return;
    p->told_ms = now;
    client_send(p->client,
                json_pack("{s:s, s:I, s:I}", "event", "progress", "bytes_done",
                          (json_int_t)bytes, "bytes_total", (json_int_t)s->bytes));
}

static void on_failed(void *ctx, struct source *s, const struct vine_err *err)
{
    fail(ctx, err);
}

static int send_export(struct packing *p, struct vine_err *err)
{
    char *out = vine_path_escape(p->out);
    json_t *command =
        json_pack("{s:s, s:s, s:I, s:b, s:b, s:i}", "cmd", "export", "path",
                  out != NULL ? out : "", "size", (json_int_t)p->object_size, "trailer",
                  1, "force", p->force, "mode", (int)p->mode);
    int fds[2] = {p->image_fd, p->trailer_fd};

    if (out == NULL) {
        json_decref(command);
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    free(out);
    return pipe_send_fds(&p->control, command, fds, 2, err);
}

static void packed(struct packing *p)
{
    const struct source *s = p->source;
    char hex[VINE_HEX_LEN + 1];

    vine_digest_hex(&p->digest, hex);
    if (p->client != NULL)
        client_send(p->client,
                    json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:b, s:f}",
                              "event", "packed", "size", (json_int_t)p->file_size,
                              "object_size", (json_int_t)p->object_size, "entries",
                              (json_int_t)s->entries, "files", (json_int_t)s->files,
                              "bytes", (json_int_t)s->bytes, "env",
                              image_env_name(s->env), "digest", hex, "signed",
                              p->is_signed, "seconds",
                              (double)(vined_now(p->vined) - p->start_ms) / 1000));
    end(p);
}

/* A line of the exporter: ready, progress, done or error. */
static void take_line(struct packing *p, const json_t *line)
{
    const char *event = json_string_value(json_object_get(line, "event"));
    const char *code = json_string_value(json_object_get(line, "code"));
    const char *text = json_string_value(json_object_get(line, "text"));
    struct vine_err err = {0};

    if (event == NULL)
        vine_err_set(&err, VINE_EPROTO, "malformed line from vine-source");
    else if (strcmp(event, "ready") == 0 && !p->asked) {
        p->asked = true;
        (void)send_export(p, &err);
    } else if (strcmp(event, "done") == 0 && p->asked) {
        packed(p);
        return;
    } else if (strcmp(event, "error") == 0) {
        enum vine_code number = vine_code_parse(code != NULL ? code : "");
        vine_err_set(&err, number != VINE_OK ? number : VINE_EPROTO, "%s",
                     text != NULL ? text : "error");
    } else if (strcmp(event, "progress") != 0) {
        vine_err_set(&err, VINE_EPROTO, "unexpected '%.40s' from vine-source", event);
    }
    if (err.code != VINE_OK)
        fail(p, &err);
}

static void on_control(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct packing *p = stream->data;
    struct vine_err err = {0};
    char *newline;

    if (n == 0 || p->ended)
        return;
    p->line_len += n > 0 ? (size_t)n : 0;
    while (!p->ended && (newline = memchr(p->line, '\n', p->line_len)) != NULL) {
        size_t len = (size_t)(newline - p->line) + 1;
        json_t *line = json_loadb(p->line, len, JSON_REJECT_DUPLICATES, NULL);
        take_line(p, line);
        json_decref(line);
        p->line_len -= len;
        memmove(p->line, newline + 1, p->line_len);
    }
    if (p->ended || (n > 0 && p->line_len < sizeof(p->line)))
        return;
    vine_err_set(&err, VINE_ESYS, "the child that writes '%.200s' ended early", p->out);
    fail(p, &err);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct packing *p = handle->data;

    *buf =
        uv_buf_init(p->line + p->line_len, (unsigned)(sizeof(p->line) - p->line_len));
}

static void on_exporter_exit(uv_process_t *process, int64_t status, int signal_number)
{
    struct packing *p = process->data;

    /* What it had to say is on the socket; its end is the end of file there. */
    p->exporter_ended = true;
    uv_close((uv_handle_t *)process, on_handle_closed);
}

static int spawn_exporter(struct packing *p, struct vine_err *err)
{
    char uid[16], gid[16];
    char *args[] = {"vine-source", "--kind", "export", "--uid", uid,
                    "--gid",       gid,      "--path", "/",     NULL};
    int control[2], result;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control) < 0)
        return vine_err_sys(err, "cannot make a socket pair");
    (void)snprintf(uid, sizeof(uid), "%u", p->uid);
    (void)snprintf(gid, sizeof(gid), "%u", p->gid);
    result =
        child_spawn(p->vined, &p->process, args, control[1], -1, on_exporter_exit, err);
    (void)close(control[1]);
    (void)uv_pipe_init(&p->vined->loop, &p->control, 0);
    (void)uv_pipe_open(&p->control, control[0]);
    p->process.data = p->control.data = p;
    p->spawned = true;
    p->handles = 2;
    if (result < 0) {
        p->exporter_ended = true;
        uv_close((uv_handle_t *)&p->process, on_handle_closed);
        return -1;
    }
    (void)uv_read_start((uv_stream_t *)&p->control, on_alloc, on_control);
    return 0;
}

/* The trailer in a file of its own, to be handed over by descriptor. */
static int make_trailer(struct packing *p, const struct manifest *m,
                        struct vine_err *err)
{
    struct vined *vined = p->vined;
    struct vine_digest signature;
    size_t len;
    uint8_t *bytes;
    int result = 0;

    p->is_signed = vined->image_key_len > 0;
    if (p->is_signed)
        image_sign(vined->image_key, vined->image_key_len, &m->digest, &signature);
    bytes = image_trailer_encode(m, p->is_signed ? &signature : NULL, &len);
    if (bytes == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    p->trailer_fd = memfd_create("vine-trailer", MFD_CLOEXEC);
    if (p->trailer_fd < 0)
        result = vine_err_sys(err, "cannot make a memory file");
    else
        result = disk_pwrite_all(p->trailer_fd, bytes, len, 0, err);
    free(bytes);
    p->digest = m->digest;
    p->object_size = m->size;
    p->file_size = m->size + len;
    return result;
}

static void on_built(void *ctx, struct source *s)
{
    struct packing *p = ctx;
    struct vine_err err = {0};

    p->image_fd = fcntl(s->temp_fd, F_DUPFD_CLOEXEC, 3);
    if (p->image_fd < 0)
        vine_err_sys(&err, "cannot keep the new image");
    if (err.code != VINE_OK || make_trailer(p, &s->manifest, &err) < 0 ||
        spawn_exporter(p, &err) < 0)
        fail(p, &err);
}

static const struct source_ops packing_ops = {
    .resolved = on_resolved,
    .built = on_built,
    .progress = on_progress,
    .failed = on_failed,
};

static int add_argument(struct packing *p, size_t *count, const char *option,
                        const json_t *value, struct vine_err *err)
{
    char *text = json_is_string(value) ? strdup(json_string_value(value)) : NULL;

    if (text == NULL || vine_path_unescape(text) < 0 || strlen(text) >= VINE_PATH_MAX ||
        *count + 2 > SOURCE_ARGS_MAX) {
        free(text);
        return vine_err_set(
            err, VINE_EINVAL,
            "'exclude', 'order', 'overlay' and 'prefix' take at most %d globs and "
            "a path each",
            GLOBS_MAX);
    }
    p->more[*count] = strdup(option);
    if (p->more[*count] == NULL) {
        free(text);
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    p->more[*count + 1] = text;
    *count += 2;
    return 0;
}

/* What of the source goes in, in the words of vine-source; it alone opens the paths. */
static int take_shape(struct packing *p, const json_t *request, struct vine_err *err)
{
    const json_t *globs = json_object_get(request, "exclude");
    const json_t *order = json_object_get(request, "order");
    const json_t *overlay = json_object_get(request, "overlay"), *glob;
    const json_t *prefix = json_object_get(request, "prefix");
    size_t count = 0, i;

    p->more = calloc(SOURCE_ARGS_MAX + 1, sizeof(*p->more));
    if (p->more == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    json_array_foreach(globs, i, glob)
    {
        if (add_argument(p, &count, "--exclude", glob, err) < 0)
            return -1;
    }
    if (order != NULL && add_argument(p, &count, "--order", order, err) < 0)
        return -1;
    if (overlay != NULL && add_argument(p, &count, "--overlay", overlay, err) < 0)
        return -1;
    return prefix == NULL ? 0 : add_argument(p, &count, "--prefix", prefix, err);
}

/* It is only written down: a job's mount there is judged as any other. */
static int take_prefix(struct packing *p, const json_t *request, struct vine_err *err)
{
    if (json_object_get(request, "prefix") == NULL)
        return 0;
    if (need_text(request, "prefix", &p->prefix, err) < 0)
        return -1;
    if (p->prefix[0] == '/' && strlen(p->prefix) < VINE_PATH_MAX)
        return 0;
    return vine_err_set(err, VINE_EINVAL, "'prefix' is no absolute path");
}

void packing_begin(struct client *c, const json_t *request, const char *path,
                   const char *out)
{
    const json_t *mode = json_object_get(request, "mode");
    struct packing *p = calloc(1, sizeof(*p));
    struct vine_err err = {0};

    if (p != NULL)
        p->out = strdup(out);
    if (p == NULL || p->out == NULL)
        vine_err_set(&err, VINE_ENOMEM, "out of memory");
    if (err.code != VINE_OK || take_shape(p, request, &err) < 0 ||
        take_prefix(p, request, &err) < 0) {
        client_error(c, &err);
        if (p != NULL) {
            p->freed = true;
            free_if_unused(p);
        }
        return;
    }
    p->image_fd = p->trailer_fd = -1;
    p->client = c;
    p->vined = c->vined;
    p->force = json_is_true(json_object_get(request, "force"));
    p->mode = mode != NULL ? json_integer_value(mode) & 0777 : 0600;
    p->uid = c->uid;
    p->gid = c->gid;
    p->start_ms = vined_now(c->vined);
    c->packing = p;
    /* Tickets of the core are small numbers; a client's are marked by the top bit. */
    p->source = source_new(c->vined, c->id | 1ull << 63, c->uid, c->gid, path, false,
                           &packing_ops, p, (const char *const *)p->more, &err);
    if (p->source == NULL)
        fail(p, &err);
    else
        p->source->prefix = p->prefix;
}

void packing_end(struct client *c)
{
    struct packing *p = c->packing;

    if (p == NULL)
        return;
    c->packing = NULL;
    p->client = NULL;
    end(p);
}
