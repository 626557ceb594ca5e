/* local.c - the Unix socket: requests of the plugin, the CLI and users' own programs.
 *
 * Anybody on the node may connect; the kernel says which uid it is. root (the plugin)
 * acts for any job; a user acts for itself only. A request is looked up in one table
 * that says who may make it. One request at a time a connection, but a connection may
 * ask again when it has its answer. */
#include "daemon/node/local.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vine/client.h"
#include "vine/log.h"

/* A few documents wait; more: the client does not read. */
#define OUTPUT_MAX (4u << 20)
/* One user's connections at once; root's (the plugin's): up to VINE_CLIENTS_MAX. */
#define USER_CLIENTS_MAX 32
/* VINE_CLIENTS_MAX strangers together cost at most 32 MiB; root may name all nodes. */
#define USER_FRAME_MAX (64u << 10)

struct local {
    uv_pipe_t listener;
    struct client *first;
    uint64_t next_id;
    unsigned count;
};

struct event_write {
    uv_write_t req;
    struct client *client;
    char *text;
};

static void on_event_written(uv_write_t *req, int status)
{
    struct event_write *w = (struct event_write *)(void *)req;

    free(w->text);
    free(w);
}

void client_send(struct client *c, json_t *event)
{
    struct event_write *w = calloc(1, sizeof(*w));
    struct vine_err err = {0};
    uv_buf_t buf;
    size_t len;

    if (c->closing || w == NULL || event == NULL ||
        local_encode(event, &w->text, &len, &err) < 0) {
        free(w);
        json_decref(event);
        if (!c->closing)
            client_close(c);
        return;
    }
    json_decref(event);
    buf = uv_buf_init(w->text, (unsigned)len);
    if (uv_stream_get_write_queue_size((uv_stream_t *)&c->pipe) > OUTPUT_MAX) {
        free(w->text);
        free(w);
        client_close(c); /* it asks and does not listen */
        return;
    }
    if (uv_write(&w->req, (uv_stream_t *)&c->pipe, &buf, 1, on_event_written) < 0) {
        free(w->text);
        free(w);
        client_close(c);
    }
}

/* Paths in it may hold any bytes: escaped, but for '%' itself, since nobody takes the
 * text apart again and terminals should not get control bytes. */
json_t *client_text(const char *text)
{
    char *escaped = vine_path_escape(text), *from = escaped, *to = escaped;
    json_t *value;

    while (from != NULL && *from != '\0') {
        *to++ = *from;
        from += strncmp(from, "%25", 3) == 0 ? 3 : 1;
    }
    if (to != NULL)
        *to = '\0';
    value = json_string(escaped != NULL ? escaped : "out of memory");
    free(escaped);
    return value;
}

void client_error(struct client *c, const struct vine_err *err)
{
    client_send(c,
                json_pack("{s:s, s:s, s:o}", "event", "error", "code",
                          vine_code_name(err->code), "text", client_text(err->text)));
}

static void send_ok(struct client *c)
{
    client_send(c, json_pack("{s:s, s:s}", "event", "ok", "version", VINE_VERSION));
}

static void on_client_closed(uv_handle_t *handle)
{
    struct client *c = handle->data;

    if (--c->handles > 0)
        return;
    local_decoder_free(c->decoder);
    free(c->spec);
    free(c);
}

struct gone { /* told to the core later: we may be inside one of its ops */
    uint64_t client, job;
};

static void tell_gone(struct vined *vined, void *arg)
{
    struct gone *gone = arg;

    if (!vined->stopping && gone->client != 0)
        node_client_gone(vined->core, gone->client, vined_now(vined));
    if (!vined->stopping && gone->job != 0)
        node_job_end(vined->core, gone->job, vined_now(vined));
    vined_update(vined);
    free(gone);
}

void client_close(struct client *c)
{
    struct vined *vined = c->vined;
    struct gone *gone;
    struct client **at = &vined->local->first;

    if (c->closing)
        return;
    c->closing = true;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    vined->local->count--;
    packing_end(c);
    files_end(c);
    uv_close((uv_handle_t *)&c->pipe, on_client_closed);
    uv_close((uv_handle_t *)&c->progress, on_client_closed);
    if (vined->stopping || (!c->waiting && !c->made_up))
        return;
    gone = calloc(1, sizeof(*gone));
    if (gone == NULL)
        return; /* the lease stays until the daemon's end */
    *gone =
        (struct gone){.client = c->waiting ? c->id : 0, .job = c->made_up ? c->job : 0};
    vined_defer(vined, tell_gone, gone);
}

void client_done(struct client *c)
{
    c->waiting = false;
    c->asked = ASKED_NOTHING;
    progress_end(c);
}

struct client *client_find(struct vined *vined, uint64_t id)
{
    struct client *c = vined->local->first;

    while (c != NULL && c->id != id)
        c = c->next;
    return c;
}

void local_reply(struct vined *vined, uint64_t client,
                 const struct node_result *results, uint32_t count)
{
    struct client *c = client_find(vined, client);

    if (c == NULL)
        return;
    if (c->asked == ASKED_GET || c->asked == ASKED_PUT) {
        files_staged(c, &results[0]);
        return;
    }
    client_done(c);
    node_metrics_answered(vined, c->asked_ms, results, count);
    client_send(c, staged_document(c, results, count));
}

void local_answer(struct vined *vined, uint64_t client, enum vine_code code,
                  const char *text)
{
    struct client *c = client_find(vined, client);
    json_t *document = NULL;
    struct vine_err err = {0};

    if (c == NULL)
        return;
    if (code == VINE_OK && (c->asked == ASKED_VERSION || c->asked == ASKED_NAME)) {
        files_named(c, text);
        return;
    }
    /* The manager went away meanwhile: it is worth asking again. */
    if (code == VINE_EDOWN && c->asked == ASKED_VERSION)
        code = VINE_ETIMEDOUT;
    if (code == VINE_OK && c->asked != ASKED_NODES) {
        document = json_loads(text, 0, NULL);
        if (document == NULL)
            document = json_object();
    }
    if (c->asked == ASKED_STAGE) { /* it waits for more than this */
        progress_answer(c, document);
        return;
    }
    client_done(c);
    if (code != VINE_OK) {
        vine_err_set(&err, code, "%s", text);
        client_error(c, &err);
    } else if (document == NULL) {
        send_ok(c);
    } else {
        (void)json_object_set_new(document, "event", json_string(c->answer));
        client_send(c, document);
    }
}

static int op_ping(struct client *c, const json_t *request, struct vine_err *err)
{
    send_ok(c);
    return 0;
}

static int op_begin(struct client *c, const json_t *request, struct vine_err *err)
{
    struct vined *vined = c->vined;
    struct vine_spec *spec;
    uint32_t uid, gid;
    uint64_t job;
    int result;

    if (need_job(request, &job, err) < 0 || need_id(request, "uid", &uid, err) < 0 ||
        need_id(request, "gid", &gid, err) < 0)
        return -1;
    spec = need_spec(request, err);
    if (spec == NULL)
        return -1;
    result = node_job_begin(vined->core, job, uid, gid, spec, vined_now(vined), err);
    free(spec);
    if (result == 0)
        send_ok(c);
    return result;
}

/* Whose job: root says it; a user is itself, and its job is one we make up unless
 * named. */
static int stage_for(struct client *c, const json_t *request, uint32_t *uid,
                     uint32_t *gid, struct vine_err *err)
{
    *uid = c->uid;
    *gid = c->gid;
    if (json_object_get(request, "job") == NULL) {
        c->made_up = true;
        if (vine_random(&c->job, sizeof(c->job), err) < 0)
            return -1;
        c->job |= MADE_UP_JOB;
        return 0;
    }
    if (need_job(request, &c->job, err) < 0)
        return -1;
    if (c->uid == 0)
        return need_id(request, "uid", uid, err) < 0 ||
                       need_id(request, "gid", gid, err) < 0
                   ? -1
                   : 0;
    return vine_err_set(err, VINE_EACCES, "only root may act for a job");
}

static int op_stage(struct client *c, const json_t *request, struct vine_err *err)
{
    struct vined *vined = c->vined;
    uint32_t uid, gid;
    int result;

    if (c->made_up)
        return vine_err_set(err, VINE_EINVAL, "one 'stage' a connection");
    free(c->spec);
    c->spec = need_spec(request, err);
    if (c->spec == NULL || stage_for(c, request, &uid, &gid, err) < 0)
        return -1;
    c->waiting = true;
    c->asked = ASKED_STAGE;
    c->asked_ms = vined_now(vined);
    c->job_uid = uid;
    progress_begin(c, request);
    result = node_stage(vined->core, c->id, c->job, uid, gid, c->spec, vined_now(vined),
                        err);
    if (result < 0)
        client_done(c);
    jobs_watch(vined);
    return result;
}

static int op_end(struct client *c, const json_t *request, struct vine_err *err)
{
    uint64_t job;

    if (need_job(request, &job, err) < 0)
        return -1;
    node_job_end(c->vined->core, job, vined_now(c->vined));
    send_ok(c);
    return 0;
}

static int op_trouble(struct client *c, const json_t *request, struct vine_err *err)
{
    char text[VINE_PATH_MAX];
    uint64_t job;

    if (need_job(request, &job, err) < 0)
        return -1;
    lazy_trouble(c->vined, job, text, sizeof(text));
    client_send(c, json_pack("{s:s, s:o}", "event", "ok", "text", client_text(text)));
    return 0;
}

static int op_status(struct client *c, const json_t *request, struct vine_err *err)
{
    client_send(c, status_document(c));
    return 0;
}

static int ask_manager(struct client *c, const char *answer, uint64_t job, uint32_t uid,
                       struct vine_err *err)
{
    c->waiting = true;
    c->asked = ASKED_STATUS;
    c->answer = answer;
    if (node_ask_status(c->vined->core, c->id, job, uid, false, vined_now(c->vined),
                        err) == 0)
        return 0;
    client_done(c);
    return -1;
}

static int op_cluster_status(struct client *c, const json_t *request,
                             struct vine_err *err)
{
    return ask_manager(c, "cluster_status", 0, 0, err);
}

static int op_stories(struct client *c, const json_t *request, struct vine_err *err)
{
    json_int_t offset = json_integer_value(json_object_get(request, "offset"));
    uint64_t job;

    if (need_job(request, &job, err) < 0)
        return -1;
    if (offset < 0 || offset > (json_int_t)VINE_OBJECT_MAX)
        return vine_err_set(err, VINE_EINVAL, "'offset' is no place in a log");
    c->waiting = true;
    c->asked = ASKED_STATUS;
    c->answer = "stories";
    if (node_ask_stories(c->vined->core, c->id, job, c->uid, (uint64_t)offset,
                         vined_now(c->vined), err) == 0)
        return 0;
    client_done(c);
    return -1;
}

/* A user sees its own jobs, uid 0 all. */
static int op_job_status(struct client *c, const json_t *request, struct vine_err *err)
{
    uint64_t job;

    if (need_job(request, &job, err) < 0)
        return -1;
    return ask_manager(c, "job_status", job, c->uid, err);
}

struct eviction {
    struct vine_digest *digests;
    uint32_t count, cap, leased;
};

static void collect_unleased(void *arg, const struct node_object_info *info)
{
    struct eviction *e = arg;

    if (info->leases > 0)
        e->leased++;
    else if (e->count < e->cap)
        e->digests[e->count++] = info->digest;
}

static int op_evict(struct client *c, const json_t *request, struct vine_err *err)
{
    struct vined *vined = c->vined;
    const char *which = json_string_value(json_object_get(request, "digest"));
    struct eviction e = {.cap = VINE_OBJECTS_MAX};
    struct vine_digest one;
    uint32_t evicted = 0;

    if (which == NULL ||
        (strcmp(which, "all") != 0 && vine_digest_parse(which, &one) < 0))
        return vine_err_set(err, VINE_EINVAL, "'digest' takes 64 hex digits or all");
    if (strcmp(which, "all") != 0) {
        if (node_evict(vined->core, &one, vined_now(vined), err) < 0)
            return -1;
        evicted = 1;
    } else {
        e.digests = calloc(e.cap, sizeof(*e.digests));
        if (e.digests == NULL)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
        node_each_object(vined->core, collect_unleased, &e);
        for (uint32_t i = 0; i < e.count; i++)
            evicted +=
                node_evict(vined->core, &e.digests[i], vined_now(vined), NULL) == 0;
        free(e.digests);
    }
    client_send(c, json_pack("{s:s, s:i, s:i}", "event", "ok", "evicted", (int)evicted,
                             "kept_leased", (int)e.leased));
    return 0;
}

static int op_stage_nodes(struct client *c, const json_t *request, struct vine_err *err)
{
    const json_t *list = json_object_get(request, "nodes");
    struct vine_spec *spec = need_spec(request, err);
    size_t count = json_array_size(list);
    char source[VINE_PATH_MAX];
    const char **names;
    uint64_t job; /* not the client's: a 'stage' before this one keeps its own */
    int result = -1;

    if (spec == NULL)
        return -1;
    names = count <= VINE_NODES_MAX ? calloc(count + 1, sizeof(*names)) : NULL;
    for (size_t i = 0; names != NULL && i < count; i++) {
        names[i] = json_string_value(json_array_get(list, i));
        if (names[i] == NULL || strlen(names[i]) >= VINE_NAME_MAX)
            vine_err_set(err, VINE_EINVAL, "'nodes' takes a list of node names");
    }
    c->waiting = true;
    c->asked = ASKED_NODES;
    if (names == NULL || spec->count != 1)
        vine_err_set(err, VINE_EINVAL, "one source, at most %d nodes", VINE_NODES_MAX);
    vine_source_id(&spec->source[0], source);
    if (err->code == VINE_OK && vine_random(&job, sizeof(job), err) == 0)
        result = node_cluster_stage(c->vined->core, c->id, c->uid, c->gid, source,
                                    names, (uint32_t)count, job | MADE_UP_JOB,
                                    vined_now(c->vined), err);
    if (result < 0)
        client_done(c);
    free(names);
    free(spec);
    return result;
}

static int op_pack(struct client *c, const json_t *request, struct vine_err *err)
{
    char *path = NULL, *out = NULL;
    int result = -1;

    if (c->packing != NULL)
        vine_err_set(err, VINE_EINVAL, "one 'pack' a connection");
    else if (need_text(request, "path", &path, err) == 0 &&
             need_text(request, "out", &out, err) == 0) {
        if (path[0] == '/' && out[0] == '/' && strlen(path) < VINE_PATH_MAX &&
            strlen(out) < VINE_PATH_MAX) {
            packing_begin(c, request, path, out);
            result = 0;
        } else {
            vine_err_set(err, VINE_EINVAL, "'path' and 'out' take absolute paths");
        }
    }
    free(path);
    free(out);
    return result;
}

static const struct op {
    const char *name;
    bool root_only;
    int (*run)(struct client *c, const json_t *request, struct vine_err *err);
} ops[] = {
    {"ping", false, op_ping},
    {"begin", true, op_begin},
    {"stage", false, op_stage},
    {"end", true, op_end},
    {"status", false, op_status},
    {"cluster_status", false, op_cluster_status},
    {"job_status", false, op_job_status},
    {"evict", true, op_evict},
    {"stage_nodes", false, op_stage_nodes},
    {"get", false, files_get},
    {"put", false, files_put},
    {"pack", false, op_pack},
    {"trouble", true, op_trouble},
    {"stories", false, op_stories},
};

static void take_request(struct client *c, const json_t *request)
{
    const char *name = json_string_value(json_object_get(request, "op"));
    struct vine_err err = {0};
    const struct op *op = NULL;

    for (size_t i = 0; name != NULL && i < sizeof(ops) / sizeof(ops[0]); i++)
        if (strcmp(ops[i].name, name) == 0)
            op = &ops[i];
    vined_measure(c->vined);
    if (c->waiting)
        vine_err_set(&err, VINE_EINVAL, "the request before is not answered yet");
    else if (op == NULL)
        vine_err_set(&err, VINE_EINVAL,
                     "unknown request; is vine-env of another version "
                     "than the daemon (" VINE_VERSION ")?");
    else if (op->root_only && c->uid != 0)
        vine_err_set(&err, VINE_EACCES, "'%s' is for root only", name);
    else if (op->run(c, request, &err) == 0)
        err.code = VINE_OK;
    if (err.code != VINE_OK)
        client_error(c, &err);
    manager_hurry(c->vined);
    vined_update(c->vined);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct client *c = stream->data;
    struct vine_err err = {0};
    size_t at = 0, used;

    if (n < 0) {
        client_close(c);
        return;
    }
    while (at < (size_t)n && !c->closing) {
        json_t *request = NULL;
        if (local_feed(c->decoder, buf->base + at, (size_t)n - at, &used, &request,
                       &err) < 0) {
            client_error(c, &err);
            client_close(c);
            return;
        }
        at += used;
        if (request != NULL)
            take_request(c, request);
        json_decref(request);
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct client *c = handle->data;

    *buf = uv_buf_init(c->buffer, sizeof(c->buffer));
}

static int identify(struct client *c)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);
    uv_os_fd_t fd;

    if (uv_fileno((uv_handle_t *)&c->pipe, &fd) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return -1;
    c->uid = cred.uid;
    c->gid = cred.gid;
    c->pid = (uint32_t)cred.pid;
    return 0;
}

static unsigned connections_of(const struct local *local, uint32_t uid)
{
    unsigned count = 0;

    for (const struct client *c = local->first; c != NULL; c = c->next)
        count += c->uid == uid;
    return count;
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct vined *vined = listener->data;
    struct local *local = vined->local;
    struct client *c = calloc(1, sizeof(*c));
    struct vine_err err = {0};

    if (status < 0 || c == NULL) {
        free(c);
        return;
    }
    c->vined = vined;
    c->id = ++local->next_id;
    c->handles = 2;
    (void)uv_pipe_init(&vined->loop, &c->pipe, 0);
    (void)uv_timer_init(&vined->loop, &c->progress);
    c->pipe.data = c->progress.data = c;
    c->next = local->first;
    local->first = c;
    local->count++;
    if (uv_accept(listener, (uv_stream_t *)&c->pipe) == 0 && identify(c) == 0)
        c->decoder = local_decoder_new(c->uid == 0 ? 0 : USER_FRAME_MAX);
    if (c->decoder == NULL) {
        client_close(c);
        return;
    }
    /* Others end soon: get and put try again. */
    if (c->uid != 0 && connections_of(local, c->uid) > USER_CLIENTS_MAX)
        vine_err_set(&err, VINE_ETIMEDOUT,
                     "busy: %d requests of yours are under way on this node",
                     USER_CLIENTS_MAX);
    if (local->count > VINE_CLIENTS_MAX && c->uid != 0)
        vine_err_set(&err, VINE_ETIMEDOUT,
                     "busy: %d requests are under way on this node", VINE_CLIENTS_MAX);
    if (err.code != VINE_OK) {
        client_error(c, &err);
        client_close(c);
        return;
    }
    (void)uv_read_start((uv_stream_t *)&c->pipe, on_alloc, on_read);
}

static bool waits_for(const struct client *c, uint64_t job)
{
    return c->job == job &&
           (c->asked == ASKED_STAGE || c->asked == ASKED_GET || c->asked == ASKED_PUT);
}

void local_cancel_job(struct vined *vined, uint64_t job)
{
    struct client *c = vined->local->first;
    struct vine_err err = {0};

    vine_err_set(&err, VINE_ECANCELED, "the job is being ended");
    while (c != NULL) {
        struct client *next = c->next;
        if (waits_for(c, job)) {
            client_error(c, &err);
            client_close(c);
        }
        c = next;
    }
}

bool local_job_waits(struct vined *vined, uint64_t job)
{
    for (struct client *c = vined->local->first; c != NULL; c = c->next)
        if (waits_for(c, job))
            return true;
    return false;
}

int local_start(struct vined *vined, struct vine_err *err)
{
    struct local *local = calloc(1, sizeof(*local));
    char path[VINE_CONF_TEXT + 16];
    int status;

    if (local == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    vined->local = local;
    (void)snprintf(path, sizeof(path), "%s/vined.sock", vined->conf.run_dir);
    /* A socket of a daemon before us; the store's lock says that none runs. */
    (void)unlink(path);
    (void)uv_pipe_init(&vined->loop, &local->listener, 0);
    local->listener.data = vined;
    status = uv_pipe_bind(&local->listener, path);
    if (status == 0)
        status = uv_listen((uv_stream_t *)&local->listener, 128, on_connection);
    if (status < 0)
        return vine_err_uv(err, status, path);
    if (chmod(path, 0666) < 0)
        return vine_err_sys(err, "cannot set the mode of '%s'", path);
    return 0;
}

void local_stop(struct vined *vined)
{
    uv_close((uv_handle_t *)&vined->local->listener, NULL);
    while (vined->local->first != NULL)
        client_close(vined->local->first);
}
