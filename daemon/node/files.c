/* files.c - what a job's tasks ask for, and offer to each other, while they run.
 *
 * get: the source is staged for the job as one of its own, and appears in the job's
 * directory (jobdir.c). Of a "vine:NAME" the manager is asked first which version that
 * is now.
 *
 * put: the file becomes a source of a version made up here, which this node resolves
 * and builds, as its user and with the eyes of the asking process, whose mounts may
 * differ from ours. When it is in the store the manager is told its name. The content
 * is copied into the store, so the task may do with the file what it likes.
 *
 * Who asks is one of the job's processes (step.c); root may name a job. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/node/local.h"
#include "vine/client.h"
#include "vine/log.h"

#define NODES_TEXT_MAX 4096 /* names of one request */

struct filing {     /* what one client asks for */
    char *id;       /* of the source */
    char name[256]; /* what it is called in the job's directory */
    char *bare;     /* 'get' of a name: its id without a version */
    char *version;  /* the one that was asked for last */
    uint32_t copies, node_count;
    char **node;
};

static void filing_free(struct filing *f)
{
    if (f == NULL)
        return;
    for (uint32_t i = 0; i < f->node_count; i++)
        free(f->node[i]);
    free(f->node);
    free(f->bare);
    free(f->version);
    free(f->id);
    free(f);
}

/* ---- offers -------------------------------------------------------------------- */

const struct offer *files_offer(const struct vined *vined, uint32_t uid, const char *id)
{
    const struct offer *o = vined->offers;

    while (o != NULL && (o->uid != uid || strcmp(o->id, id) != 0))
        o = o->next;
    return o;
}

static void offer_free(struct offer *o)
{
    free(o->id);
    free(o->path);
    free(o);
}

static int offer_new(struct client *c, const char *id, const char *path,
                     struct vine_err *err)
{
    struct offer *o = calloc(1, sizeof(*o));

    if (o == NULL || (o->id = strdup(id)) == NULL || (o->path = strdup(path)) == NULL) {
        if (o != NULL)
            offer_free(o);
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    o->job = c->job;
    o->uid = c->uid;
    o->view = c->pid;
    o->next = c->vined->offers;
    c->vined->offers = o;
    return 0;
}

/* Once it is in the store, or is not to be: the process that sees it goes. */
static void offer_forget(struct vined *vined, const char *id)
{
    struct offer **at = &vined->offers;

    while (*at != NULL && strcmp((*at)->id, id) != 0)
        at = &(*at)->next;
    if (*at != NULL) {
        struct offer *o = *at;
        *at = o->next;
        offer_free(o);
    }
}

void files_end(struct client *c)
{
    if (c->filing != NULL && c->filing->id != NULL)
        offer_forget(c->vined, c->filing->id);
    filing_free(c->filing);
    c->filing = NULL;
}

void files_check(struct vined *vined)
{
    struct offer **at = &vined->offers;

    while (*at != NULL) {
        struct offer *o = *at;
        if (node_has_job(vined->core, o->job)) {
            at = &o->next;
            continue;
        }
        *at = o->next;
        offer_free(o);
    }
}

void files_stop(struct vined *vined)
{
    while (vined->offers != NULL) {
        struct offer *o = vined->offers;
        vined->offers = o->next;
        offer_free(o);
    }
}

/* ---- requests ------------------------------------------------------------------ */

static int find_job(struct client *c, const json_t *request, struct vine_err *err)
{
    if (c->made_up || c->filing != NULL)
        return vine_err_set(err, VINE_EINVAL, "one 'get' or 'put' a connection");
    if (c->uid == 0 && json_object_get(request, "job") != NULL)
        return need_job(request, &c->job, err) < 0 ||
                       need_id(request, "uid", &c->uid, err) < 0 ||
                       need_id(request, "gid", &c->gid, err) < 0
                   ? -1
                   : 0;
    c->job = step_of_process(c->pid, c->uid);
    if (c->job != 0)
        return 0;
    return vine_err_set(err, VINE_EINVAL,
                        "this process is in no step of a Slurm job on this node: call "
                        "it from a task of the job (srun, sbatch)");
}

static struct filing *filing_new(struct client *c, const char *shown,
                                 struct vine_err *err)
{
    const char *slash = strrchr(shown, '/');
    struct filing *f = calloc(1, sizeof(*f));

    if (f == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        return NULL;
    }
    slash = slash != NULL ? slash + 1 : shown;
    (void)snprintf(f->name, sizeof(f->name), "%.*s", (int)strcspn(slash, "#"), slash);
    c->filing = f;
    return f;
}

/* This node alone is told of: an answer about others would be taken for the one that
 * is waited for. */
static void begin_progress(struct client *c, const json_t *request)
{
    progress_begin(c, request);
    c->cluster = false;
}

/* Have the client's source staged for its job. */
static int stage(struct client *c, struct vine_err *err)
{
    struct vined *vined = c->vined;
    int result;

    c->waiting = true;
    c->asked_ms = vined_now(vined);
    result = node_stage(vined->core, c->id, c->job, c->uid, c->gid, c->spec,
                        vined_now(vined), err);
    if (result < 0)
        client_done(c);
    jobs_watch(vined);
    return result;
}

/* A version of a file of the job, by its id. */
static int stage_version(struct client *c, const char *id, struct vine_err *err)
{
    free(c->spec);
    c->spec = calloc(1, sizeof(*c->spec));
    if (c->spec == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    c->spec->count = 1;
    c->spec->source[0].data = true;
    (void)snprintf(c->spec->source[0].path, VINE_PATH_MAX, "%s",
                   id + strlen(VINE_DATA));
    return stage(c, err);
}

static int ask_name(struct client *c, const char *id, struct vine_err *err)
{
    const struct filing *f = c->filing;
    const char *names[NODES_TEXT_MAX / 2];
    int result;

    for (uint32_t i = 0; i < f->node_count; i++)
        names[i] = f->node[i];
    c->waiting = true;
    result = node_name(c->vined->core, c->id, c->job, c->uid, c->gid, id, names,
                       f->node_count, f->copies, vined_now(c->vined), err);
    if (result < 0)
        client_done(c);
    if (err->code == VINE_EDOWN) /* the manager: it may be back soon */
        err->code = VINE_ETIMEDOUT;
    return result;
}

static int get_named(struct client *c, const json_t *request, struct vine_err *err)
{
    char id[VINE_PATH_MAX], *name = NULL;
    int result = -1;

    if (need_text(request, "name", &name, err) == 0 &&
        vine_named_check(name, err) == 0 && filing_new(c, name, err) != NULL) {
        (void)snprintf(id, sizeof(id), VINE_DATA VINE_NAMED "%s", name);
        c->asked = ASKED_VERSION;
        c->filing->bare = strdup(id);
        result = c->filing->bare != NULL
                     ? ask_name(c, id, err)
                     : vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    free(name);
    return result;
}

static int get_source(struct client *c, const json_t *request, struct vine_err *err)
{
    free(c->spec);
    c->spec = need_spec(request, err);
    if (c->spec == NULL)
        return -1;
    if (c->spec->count != 1 || !c->spec->source[0].data)
        return vine_err_set(err, VINE_EINVAL, "'get' takes one source of data");
    if (filing_new(c, c->spec->source[0].path, err) == NULL)
        return -1;
    c->spec->lazy = false;
    c->asked = ASKED_GET;
    return stage(c, err);
}

int files_get(struct client *c, const json_t *request, struct vine_err *err)
{
    int result = find_job(c, request, err);

    begin_progress(c, request);
    if (result == 0)
        result = json_object_get(request, "name") != NULL ? get_named(c, request, err)
                                                          : get_source(c, request, err);
    if (result < 0) {
        progress_end(c);
        files_end(c);
    }
    return result;
}

/* A version that is higher than all before it, on whichever node. */
static int make_id(const char *name, char id[VINE_PATH_MAX], struct vine_err *err)
{
    uint32_t tail;
    uv_timeval64_t now;

    if (vine_named_check(name, err) < 0 || vine_random(&tail, sizeof(tail), err) < 0)
        return -1;
    (void)uv_gettimeofday(&now);
    (void)snprintf(id, VINE_PATH_MAX, VINE_DATA VINE_NAMED "%s#%016llx%08x", name,
                   (unsigned long long)now.tv_sec * 1000000 +
                       (unsigned long long)now.tv_usec,
                   tail);
    return 0;
}

static int take_copies(struct filing *f, const json_t *request, struct vine_err *err)
{
    const json_t *list = json_object_get(request, "nodes");
    size_t count = json_array_size(list);

    if (json_object_get(request, "copies") == NULL)
        return 0;
    if (need_id(request, "copies", &f->copies, err) < 0)
        return -1;
    if (count > NODES_TEXT_MAX / 2 || f->copies > count)
        return vine_err_set(err, VINE_EINVAL, "'nodes' takes 'copies' to %d names",
                            NODES_TEXT_MAX / 2);
    f->node = calloc(count + 1, sizeof(*f->node));
    for (size_t i = 0; f->node != NULL && i < count; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (name == NULL || strlen(name) >= VINE_NAME_MAX)
            return vine_err_set(err, VINE_EINVAL, "'nodes' takes a list of node names");
        f->node[i] = strdup(name);
        if (f->node[i] == NULL)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
        f->node_count++;
    }
    return f->node != NULL ? 0 : vine_err_set(err, VINE_ENOMEM, "out of memory");
}

static int put(struct client *c, const json_t *request, const char *file,
               const char *name, struct vine_err *err)
{
    struct filing *f = filing_new(c, name, err);
    char id[VINE_PATH_MAX];

    if (f == NULL || take_copies(f, request, err) < 0)
        return -1;
    if (file[0] != '/' || strlen(file) >= VINE_PATH_MAX)
        return vine_err_set(err, VINE_EINVAL, "'file' takes an absolute path");
    if (make_id(name, id, err) < 0)
        return -1;
    f->id = strdup(id);
    if (f->id == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (offer_new(c, id, file, err) < 0)
        return -1;
    c->asked = ASKED_PUT;
    return stage_version(c, id, err);
}

int files_put(struct client *c, const json_t *request, struct vine_err *err)
{
    char *file = NULL, *name = NULL;
    int result = -1;

    begin_progress(c, request);
    if (find_job(c, request, err) == 0 && need_text(request, "file", &file, err) == 0 &&
        need_text(request, "name", &name, err) == 0)
        result = put(c, request, file, name, err);
    free(file);
    free(name);
    if (result < 0) {
        progress_end(c);
        files_end(c);
    }
    return result;
}

/* ---- answers ------------------------------------------------------------------- */

static void fail(struct client *c, const struct vine_err *err)
{
    client_done(c);
    client_error(c, err);
    files_end(c);
}

/* Put it where the job's tasks can open it, and say where. */
static int show(struct client *c, const struct node_result *result,
                struct vine_err *err)
{
    struct vined *vined = c->vined;
    const struct store_object *object = store_find(vined->store, &result->digest);
    char from[VINE_PATH_MAX], path[VINE_PATH_MAX], hex[VINE_HEX_LEN + 1], *escaped;

    mount_path(vined, &result->digest, result->mount_uid, from);
    if (object == NULL)
        return vine_err_set(err, VINE_ENOENT, "the object is gone from the store");
    if (jobdir_add(vined, c->job, c->uid, c->gid, &result->digest, from,
                   object->manifest.file, c->filing->name, path, err) < 0)
        return -1;
    escaped = vine_path_escape(path);
    if (escaped == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    vine_digest_hex(&result->digest, hex);
    client_done(c);
    client_send(c, json_pack("{s:s, s:s, s:s, s:I}", "event", "got", "path", escaped,
                             "digest", hex, "size", (json_int_t)result->size));
    free(escaped);
    return 0;
}

struct next_step { /* the core must not be asked from inside its own answer */
    uint64_t client;
    char id[VINE_PATH_MAX];
};

static void go_on(struct vined *vined, void *arg)
{
    struct next_step *next = arg;
    struct client *c = client_find(vined, next->client);
    struct vine_err err = {0};

    if (!vined->stopping && c != NULL && c->filing != NULL) {
        if ((c->asked == ASKED_GET ? stage_version(c, next->id, &err)
                                   : ask_name(c, next->id, &err)) < 0)
            fail(c, &err);
        manager_hurry(vined);
        vined_update(vined);
    }
    free(next);
}

static int keep_text(char **kept, const char *text, struct vine_err *err)
{
    free(*kept);
    *kept = strdup(text);
    return *kept != NULL ? 0 : vine_err_set(err, VINE_ENOMEM, "out of memory");
}

static int go_on_later(struct client *c, const char *id, struct vine_err *err)
{
    struct next_step *next = calloc(1, sizeof(*next));

    if (next == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    next->client = c->id;
    (void)snprintf(next->id, sizeof(next->id), "%s", id);
    vined_defer(c->vined, go_on, next);
    return 0;
}

/* The version that the name meant a moment ago may have been replaced since, and given
 * up by those who had it. */
static bool look_again(struct client *c, const struct node_result *result)
{
    struct vine_err err = {0};

    if (c->asked != ASKED_GET || c->filing->version == NULL ||
        result->code != VINE_ELOST)
        return false;
    c->asked = ASKED_VERSION;
    return go_on_later(c, c->filing->bare, &err) == 0;
}

void files_staged(struct client *c, const struct node_result *result)
{
    struct vine_err err = {0};
    int done = -1;

    node_metrics_answered(c->vined, c->asked_ms, result, 1);
    if (look_again(c, result))
        return;
    if (result->code != VINE_OK) {
        vine_err_set(&err, result->code, "%s", result->text);
    } else if (c->asked == ASKED_GET) {
        done = show(c, result, &err);
        if (done == 0)
            files_end(c);
    } else {
        offer_forget(c->vined, c->filing->id);
        c->asked = ASKED_NAME;
        done = go_on_later(c, c->filing->id, &err);
    }
    if (done < 0)
        fail(c, &err);
}

void files_named(struct client *c, const char *text)
{
    struct vine_err err = {0};
    bool versioned;

    if (c->asked == ASKED_NAME) {
        client_done(c);
        client_send(c, json_pack("{s:s}", "event", "ok"));
        files_end(c);
        return;
    }
    c->asked = ASKED_GET;
    if (!vine_source_is_named(text, &versioned) || !versioned)
        vine_err_set(&err, VINE_EPROTO, "the manager gave no version of it");
    else if (c->filing->version != NULL && strcmp(c->filing->version, text) == 0)
        vine_err_set(&err, VINE_ELOST,
                     "'%.200s' is lost: the nodes that had it are gone (run the task "
                     "that makes it again; --replicas keeps copies)",
                     c->filing->bare + strlen(VINE_DATA VINE_NAMED));
    else if (keep_text(&c->filing->version, text, &err) == 0 &&
             go_on_later(c, text, &err) == 0)
        return;
    fail(c, &err);
}
