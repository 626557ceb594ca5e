/* stage.c - one request to the daemon, and the wait for its answer.
 *
 * In slurmstepd the effective uid is the user's, while the daemon must see root to let
 * a caller name a job: so the uid is raised around connect() alone (SO_PEERCRED is
 * taken there). The wait runs in slices, looks for a cancelled job in each, and
 * survives a restart of the daemon: staging is idempotent, so the request is simply
 * sent again. */
#include "spank/stage.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "spank/identity.h"
#include "spank/text.h"
#include "vine/client.h"
#include "vine/clock.h"

#define RETRY_MS 200 /* between attempts to reach a daemon that went away */
/* News a line: enough for the rate of a phase that began after the line before. */
#define NEWS_A_LINE 3
#define EARLY_MS 100 /* a line may be so early, to come with the news */

struct wait {
    const struct stage_request *request;
    struct stage_source *results;
    int64_t started, deadline, next_line, last_line, gone_since, last_event;
    uint64_t last_bytes;
    bool was_connected, said_something;
    struct text_progress progress;
    char phase[16], slowest[VINE_NAME_MAX + 1], worker[VINE_NAME_MAX + 1];
};

static void pause_ms(int ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

    (void)nanosleep(&ts, NULL);
}

/* ---- requests ---------------------------------------------------------------- */

/* One half of the spec, if it is not empty; `text` (NULL: no memory) is freed. */
static int add_half(json_t *request, const char *field, char *text)
{
    char *escaped = text != NULL ? vine_path_escape(text) : NULL;
    int result = -1;

    if (escaped != NULL)
        result = *escaped == '\0'
                     ? 0
                     : json_object_set_new(request, field, json_string(escaped));
    free(escaped);
    free(text);
    return result;
}

static json_t *make_request(const struct stage_request *r, const char *op,
                            struct vine_err *err)
{
    char job[16];
    json_t *out;

    (void)snprintf(job, sizeof(job), "%u", r->job);
    out = json_pack("{s:s,s:s,s:I,s:I}", "op", op, "job", job, "uid",
                    (json_int_t)r->uid, "gid", (json_int_t)r->gid);
    if (out == NULL || add_half(out, "spec", vine_spec_text(r->spec)) < 0 ||
        add_half(out, "data", vine_spec_data_text(r->spec)) < 0 ||
        (r->spec->lazy && json_object_set_new(out, "start", json_string("lazy")) < 0)) {
        json_decref(out);
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        return NULL;
    }
    return out;
}

static json_t *make_stage_request(const struct stage_request *r, struct vine_err *err)
{
    json_t *out = make_request(r, "stage", err);

    if (out != NULL &&
        (json_object_set_new(
             out, "progress_ms",
             json_integer((json_int_t)r->progress_s * 1000 / NEWS_A_LINE)) < 0 ||
         json_object_set_new(out, "wait", json_true()) < 0 ||
         json_object_set_new(out, "cluster", json_boolean(r->say != NULL)) < 0)) {
        json_decref(out);
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        return NULL;
    }
    return out;
}

/* Connect as root. Being left with the wrong uid is worse than any connection. */
static int open_as_root(const char *socket_path, int timeout_ms,
                        struct vine_client **out, struct vine_err *err)
{
    struct vine_client *c = NULL;
    struct vine_err lower = {0};
    uid_t was;
    int result;

    if (identity_raise(&was, err) < 0)
        return -1;
    result = vine_client_open(socket_path, timeout_ms, &c, err);
    if (identity_lower(was, &lower) < 0) {
        vine_client_close(c);
        *err = lower;
        return -1;
    }
    if (result == 0)
        *out = c;
    return result;
}

static int left_of(int64_t deadline)
{
    int64_t left = deadline - vine_now_ms();

    return left < 0 ? 0 : (int)left;
}

/* *event: the answer, caller's; NULL on error. */
static int tell(struct vine_client *c, const json_t *request, int64_t deadline,
                json_t **event, struct vine_err *err)
{
    int result = -1;

    *event = NULL;
    if (vine_client_send(c, request, left_of(deadline), err) == 0 &&
        vine_client_next(c, left_of(deadline), event, err) == 0)
        result = vine_client_check(*event, err);
    if (result < 0) {
        json_decref(*event);
        *event = NULL;
    }
    return result;
}

static json_t *make_job_request(const struct stage_request *r, const char *op)
{
    char job[16];

    (void)snprintf(job, sizeof(job), "%u", r->job);
    return json_pack("{s:s,s:s}", "op", op, "job", job);
}

void stage_trouble(const struct stage_request *request, int timeout_ms, char *text,
                   size_t size)
{
    int64_t deadline = vine_now_ms() + timeout_ms;
    json_t *message = make_job_request(request, "trouble"), *event = NULL;
    struct vine_client *c = NULL;
    struct vine_err err = {0};
    const char *said = NULL;

    if (message != NULL &&
        open_as_root(request->socket_path, timeout_ms, &c, &err) == 0 &&
        tell(c, message, deadline, &event, &err) == 0)
        said = json_string_value(json_object_get(event, "text"));
    (void)snprintf(text, size, "%s", said != NULL ? said : "");
    vine_client_close(c);
    json_decref(event);
    json_decref(message);
}

int stage_tell(const struct stage_request *request, const char *op, int timeout_ms,
               struct vine_err *err)
{
    int64_t deadline = vine_now_ms() + timeout_ms;
    struct vine_client *c = NULL;
    json_t *message = NULL, *event = NULL;
    int result = -1;

    if (strcmp(op, "end") == 0) {
        message = make_job_request(request, op);
        if (message == NULL)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
    } else {
        message = make_request(request, op, err);
        if (message == NULL)
            return -1;
    }
    if (open_as_root(request->socket_path, timeout_ms, &c, err) == 0)
        result = tell(c, message, deadline, &event, err);
    json_decref(event);
    vine_client_close(c);
    json_decref(message);
    return result;
}

/* ---- progress ---------------------------------------------------------------- */

static uint64_t number_of(const json_t *event, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(event, key));

    return n > 0 ? (uint64_t)n : 0;
}

/* A file of data is read where an image would be built. */
static const char *phase_of(const struct vine_spec *spec, const char *phase)
{
    if (phase == NULL || strcmp(phase, "building") != 0)
        return phase;
    for (unsigned i = 0; i < spec->count; i++)
        if (!spec->source[i].data)
            return phase;
    return "reading";
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text != NULL ? text : "";
}

/* What the job's other nodes do, as far as the daemon knows. While this node has
 * nothing to do but wait for another's work, that is what it tells. */
static void note_cluster(struct wait *w, const json_t *cluster, const char **phase)
{
    const char *state = text_of(cluster, "state");
    uint64_t done = number_of(cluster, "bytes_done");
    uint64_t total = number_of(cluster, "bytes_total");

    w->progress.nodes = (unsigned)number_of(cluster, "nodes");
    (void)snprintf(w->slowest, sizeof(w->slowest), "%s", text_of(cluster, "slowest"));
    if (total > 0)
        w->progress.slowest_percent =
            done >= total ? 100 : (unsigned)((double)done * 100.0 / (double)total);
    if (*phase == NULL || strcmp(*phase, "resolving") != 0 || *state == '\0' ||
        strcmp(state, "bound") == 0)
        return;
    *phase = phase_of(w->request->spec, state);
    (void)snprintf(w->worker, sizeof(w->worker), "%s", text_of(cluster, "origin"));
    if (strcmp(state, "building") == 0) {
        w->progress.bytes_done = done;
        w->progress.bytes_total = total;
    }
}

static void note_progress(struct wait *w, const json_t *event)
{
    const char *phase =
        phase_of(w->request->spec, json_string_value(json_object_get(event, "phase")));

    w->slowest[0] = w->worker[0] = '\0';
    w->progress = (struct text_progress){
        .phase = w->phase,
        .bytes_done = number_of(event, "bytes_done"),
        .bytes_total = number_of(event, "bytes_total"),
        .bytes_peer = number_of(event, "bytes_peer"),
        .bytes_origin = number_of(event, "bytes_origin"),
        .bytes_reused = number_of(event, "bytes_reused"),
        .slowest = w->slowest,
        .worker = w->worker,
    };
    note_cluster(w, json_object_get(event, "cluster"), &phase);
    if (phase == NULL || strcmp(phase, w->phase) != 0) { /* a rate is of one phase */
        w->last_bytes = w->progress.bytes_done;
        w->last_line = vine_now_ms();
    }
    (void)snprintf(w->phase, sizeof(w->phase), "%s", phase != NULL ? phase : "");
}

/* The first source's name stands for all in the lines. */
static void name_of(const struct wait *w, char name[VINE_PATH_MAX + 32])
{
    const struct vine_source *first = &w->request->spec->source[0];
    unsigned count = w->request->spec->count;

    if (first->data)
        (void)snprintf(name, VINE_PATH_MAX, "%s", strrchr(first->path, '/') + 1);
    else
        vine_source_name(first->path, name);
    if (count > 1)
        (void)snprintf(name + strlen(name), 32, " and %u more", count - 1);
}

static void say_progress(struct wait *w)
{
    char name[VINE_PATH_MAX + 32], line[TEXT_LINE_MAX];
    int64_t now = vine_now_ms();
    int64_t interval = now - w->last_line;

    if (w->request->say == NULL)
        return;
    if (w->phase[0] == '\0')
        w->progress.phase = "waiting";
    w->progress.bytes_per_s = 0;
    if (interval > 0 && w->progress.bytes_done > w->last_bytes)
        w->progress.bytes_per_s =
            (w->progress.bytes_done - w->last_bytes) * 1000 / (uint64_t)interval;
    name_of(w, name);
    text_progress_line(line, sizeof(line), name, &w->progress);
    w->request->say(w->request->arg, line);
    w->said_something = true;
    w->last_line = now;
    w->last_bytes = w->progress.bytes_done;
    w->next_line = now + (int64_t)w->request->progress_s * 1000;
}

/* A line follows the daemon's news; without any it comes a little late. */
static void say_progress_when_due(struct wait *w, bool news)
{
    if (vine_now_ms() >= w->next_line + (news ? -EARLY_MS : STAGE_SLICE_MS))
        say_progress(w);
}

/* One line for each job on a node, and one after progress lines: its end. A later step
 * of the job finds what the first one got, and says nothing. */
static void say_ready(const struct wait *w)
{
    char name[VINE_PATH_MAX + 32], line[TEXT_LINE_MAX];
    unsigned seconds = (unsigned)((vine_now_ms() - w->started + 500) / 1000);
    bool first = w->said_something, cached = true;

    if (w->request->say == NULL)
        return;
    for (unsigned i = 0; i < w->request->spec->count; i++) {
        if (w->results[i].err.code != VINE_OK)
            return;
        first = first || w->results[i].first;
        cached = cached && w->results[i].cached;
    }
    if (!first)
        return;
    name_of(w, name);
    (void)snprintf(line, sizeof(line), "vine-env: %.200s: %s", name,
                   cached ? "cached" : "ready");
    if (!cached && seconds > 0)
        (void)snprintf(line + strlen(line), sizeof(line) - strlen(line), " after %u s",
                       seconds);
    text_clean(line);
    w->request->say(w->request->arg, line);
}

/* ---- the answer -------------------------------------------------------------- */

static int copy_path(const json_t *source, const char *key, char out[VINE_PATH_MAX])
{
    const char *text = json_string_value(json_object_get(source, key));
    char copy[3 * VINE_PATH_MAX];

    if (text == NULL || strlen(text) >= sizeof(copy))
        return -1;
    (void)snprintf(copy, sizeof(copy), "%s", text);
    if (vine_path_unescape(copy) < 0 || strlen(copy) >= VINE_PATH_MAX)
        return -1;
    memcpy(out, copy, strlen(copy) + 1);
    return 0;
}

static int read_staged(const json_t *source, struct stage_source *out)
{
    const char *digest = json_string_value(json_object_get(source, "digest"));

    if (copy_path(source, "dst", out->dst) < 0 || out->dst[0] != '/' ||
        copy_path(source, "mount", out->mount) < 0 || out->mount[0] != '/' ||
        digest == NULL || strlen(digest) >= sizeof(out->digest))
        return vine_err_set(&out->err, VINE_EPROTO, "malformed answer from the daemon");
    (void)snprintf(out->digest, sizeof(out->digest), "%s", digest);
    out->file = json_is_true(json_object_get(source, "file"));
    out->cached = json_is_true(json_object_get(source, "cached"));
    out->first = json_is_true(json_object_get(source, "first"));
    out->kind = environ_kind_of(json_string_value(json_object_get(source, "activate")));
    return 0;
}

static int read_source(const json_t *source, const char *path, struct stage_source *out)
{
    const char *code = json_string_value(json_object_get(source, "code"));
    const char *text = json_string_value(json_object_get(source, "text"));
    const char *scope = json_string_value(json_object_get(source, "scope"));
    char named[VINE_PATH_MAX];

    if (code == NULL || copy_path(source, "path", named) < 0 ||
        strcmp(named, path) != 0)
        return vine_err_set(&out->err, VINE_EPROTO, "malformed answer from the daemon");
    if (strcmp(code, "ok") == 0)
        return read_staged(source, out);
    out->cluster = scope != NULL && strcmp(scope, "cluster") == 0;
    vine_err_set(&out->err, vine_code_parse(code), "%s",
                 text != NULL && *text != '\0' ? text : code);
    (void)vine_path_unescape(out->err.text);
    return -1;
}

static void fail_all(struct wait *w, const struct vine_err *err, bool cluster)
{
    for (unsigned i = 0; i < w->request->spec->count; i++) {
        w->results[i] = (struct stage_source){0};
        w->results[i].err = *err;
        w->results[i].cluster = cluster;
    }
}

static void read_answer(struct wait *w, const json_t *event)
{
    const json_t *sources = json_object_get(event, "sources");
    struct vine_err err = {0};

    if (json_array_size(sources) != w->request->spec->count) {
        vine_err_set(&err, VINE_EPROTO, "malformed answer from the daemon");
        fail_all(w, &err, false);
        return;
    }
    for (unsigned i = 0; i < w->request->spec->count; i++)
        (void)read_source(json_array_get(sources, i), w->request->spec->source[i].path,
                          &w->results[i]);
}

/* ---- the wait ---------------------------------------------------------------- */

/* One event: 0 to go on, 1 when the answer is in w->results, -1 with *err. */
static int take_event(struct wait *w, const json_t *event, struct vine_err *err)
{
    const char *word = json_string_value(json_object_get(event, "event"));

    if (strcmp(word, "progress") == 0) {
        note_progress(w, event);
        say_progress_when_due(w, true);
        return 0;
    }
    if (strcmp(word, "staged") == 0) {
        read_answer(w, event);
        return 1;
    }
    if (vine_client_check(event, err) < 0) {
        const char *scope = json_string_value(json_object_get(event, "scope"));
        fail_all(w, err, scope != NULL && strcmp(scope, "cluster") == 0);
        return 1;
    }
    return vine_err_set(err, VINE_EPROTO, "unexpected event '%.40s' from the daemon",
                        word);
}

static int check_silence(const struct wait *w, struct vine_err *err)
{
    int64_t limit_s = (int64_t)w->request->progress_s * 5;

    if (limit_s < STAGE_SILENCE_S)
        limit_s = STAGE_SILENCE_S;
    if (vine_now_ms() - w->last_event < limit_s * 1000)
        return 0;
    return vine_err_set(err, VINE_ETIMEDOUT, "the daemon at '%s' says nothing for %u s",
                        w->request->socket_path, (unsigned)limit_s);
}

static int check_time(struct wait *w, struct vine_err *err)
{
    if (w->request->canceled != NULL && w->request->canceled(w->request->arg))
        return vine_err_set(err, VINE_ECANCELED, "the job is being terminated");
    if (vine_now_ms() >= w->deadline)
        return vine_err_set(err, VINE_ETIMEDOUT, "not staged within %u s",
                            (unsigned)w->request->timeout_s);
    return 0;
}

/* Ask and listen on one connection. 1: answered; -1 with *err: VINE_EDOWN may be tried
 * again. */
static int ask(struct wait *w, struct vine_client *c, const json_t *message,
               struct vine_err *err)
{
    int result = vine_client_send(c, message, STAGE_CONNECT_MS, err);

    while (result == 0) {
        struct vine_err none = {0};
        json_t *event = NULL;
        int slice = left_of(w->deadline);

        if (check_time(w, err) < 0 || check_silence(w, err) < 0)
            return -1;
        say_progress_when_due(w, false);
        if (slice > STAGE_SLICE_MS)
            slice = STAGE_SLICE_MS;
        if (vine_client_next(c, slice, &event, &none) == 0) {
            w->gone_since = 0;
            w->last_event = vine_now_ms();
            result = take_event(w, event, err);
            json_decref(event);
        } else if (none.code != VINE_ETIMEDOUT) {
            *err = none;
            result = -1;
        }
    }
    return result;
}

/* Is another attempt worth it? Only a daemon that was there and went away. */
static bool may_retry(struct wait *w, const struct vine_err *err)
{
    if (err->code != VINE_EDOWN || !w->was_connected)
        return false;
    if (w->gone_since == 0)
        w->gone_since = vine_now_ms();
    return vine_now_ms() - w->gone_since < STAGE_RECONNECT_S * 1000;
}

static int attempt(struct wait *w, const json_t *message, struct vine_err *err)
{
    struct vine_client *c = NULL;
    int result;

    if (open_as_root(w->request->socket_path, STAGE_CONNECT_MS, &c, err) < 0)
        return -1;
    w->was_connected = true;
    w->last_event = vine_now_ms();
    result = ask(w, c, message, err);
    vine_client_close(c);
    return result;
}

void stage_wait(const struct stage_request *request, struct stage_source *results)
{
    int64_t now = vine_now_ms();
    struct wait w = {
        .request = request,
        .results = results,
        .started = now,
        .deadline = now + (int64_t)request->timeout_s * 1000,
        .next_line = now + (int64_t)request->progress_s * 1000,
        .last_line = now,
    };
    struct vine_err err = {0};
    json_t *message = make_stage_request(request, &err);

    memset(results, 0, request->spec->count * sizeof(*results));
    while (message != NULL) {
        err = (struct vine_err){0};
        if (attempt(&w, message, &err) == 1) {
            say_ready(&w);
            json_decref(message);
            return;
        }
        if (!may_retry(&w, &err))
            break;
        err = (struct vine_err){0};
        if (check_time(&w, &err) < 0)
            break;
        say_progress_when_due(&w, false);
        pause_ms(RETRY_MS);
    }
    fail_all(&w, &err, false);
    json_decref(message);
}
