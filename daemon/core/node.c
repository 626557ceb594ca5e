/* node.c - the node's events: the manager comes and goes, messages, time.
 *
 * Every public function sets the time first. Ops only begin work; what they lead to
 * comes back as another event, so no function below is ever entered twice. */
#include "daemon/core/node.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "daemon/core/node_int.h"

#define HEARTBEATS_QUIET                                                               \
    3u                   /* who works asks a manager that says nothing for so long     \
                          */
#define LATE_MS 1000u    /* past the deadline: we stood still, not the manager */
#define TICK_LATE_MS 50u /* past it: what has arrived is read first */

void node_limits_default(struct node_limits *limits)
{
    *limits = (struct node_limits){
        .cache_max = UINT64_MAX,
        .stall_ms = 5000,
        .manager_wait_ms = 3000,
        .manager_silent_ms = 10000,
        .origin_window = 4,
        .store_name = "",
        .switch_name = "",
        .manager_name = "",
    };
}

static bool node_works(const struct node *node)
{
    if (node->first_client != NULL || node->first_ticket != NULL ||
        node->first_transfer != NULL)
        return true;
    for (const struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (const struct job_source *s = job->sources; s != NULL; s = s->next)
            if (s->state == SOURCE_WANTED ||
                (s->state == SOURCE_BOUND && s->object->state != OBJECT_COMPLETE))
                return true;
    return false;
}

void node_time(struct node *node, uint64_t now_ms)
{
    if (now_ms > node->now_ms)
        node->now_ms = now_ms;
    if (!node_works(node))
        node->idle_ms = node->now_ms;
}

void node_log(struct node *node, enum vine_log_level level, const char *format, ...)
{
    char line[768];
    va_list ap;

    if (node->ops.log == NULL)
        return;
    va_start(ap, format);
    (void)vsnprintf(line, sizeof(line), format, ap);
    va_end(ap);
    node->ops.log(node->ctx, (int)level, line);
}

void node_send(struct node *node, struct msg *m)
{
    if (!node->manager_up)
        return;
    if (m->text == NULL)
        m->text = "";
    if (m->peer == NULL)
        m->peer = "";
    /* Nothing overtakes what is here already. */
    if (m->type != MSG_HAVE && m->type != MSG_REGISTER && m->type != MSG_PING &&
        m->type != MSG_PONG && m->type != MSG_STORY)
        node_have_tell_untold(node);
    node->sent_ms = node->now_ms;
    node->ops.send(node->ctx, m);
}

static char *copy_text(const char *text)
{
    return strdup(text != NULL ? text : "");
}

struct node *node_new(const struct node_ops *ops, void *ctx,
                      const struct node_limits *limits)
{
    struct node *node = calloc(1, sizeof(*node));
    bool ok;

    if (node == NULL)
        return NULL;
    node->ops = *ops;
    node->ctx = ctx;
    node->limits = *limits;
    node->store_name = copy_text(limits->store_name);
    node->switch_name = copy_text(limits->switch_name);
    node->manager_name = copy_text(limits->manager_name);
    ok = table_init(&node->objects) == 0;
    ok = table_init(&node->jobs) == 0 && ok;
    ok = table_init(&node->clients) == 0 && ok;
    ok = table_init(&node->transfers) == 0 && ok;
    ok = table_init(&node->tickets) == 0 && ok;
    if (ok && node->store_name != NULL && node->switch_name != NULL &&
        node->manager_name != NULL)
        return node;
    node_free(node);
    return NULL;
}

static void nothing(void *ctx, uint64_t id)
{
}

static void save_nothing(void *ctx)
{
}

/* Tasks go on reading: who serves them outlives this node's daemon. */
static void leave_nothing(void *ctx, const struct vine_digest *digest)
{
}

void node_free(struct node *node)
{
    if (node == NULL)
        return;
    node->manager_up = false;
    node->ops.fetch_cancel = nothing;
    node->ops.source_close = nothing;
    node->ops.save = save_nothing;
    node->ops.lazy_leave = leave_nothing;
    node_parts_free_all(node);
    while (node->first_client != NULL)
        node_client_free(node, node->first_client);
    while (node->first_ticket != NULL)
        node_ticket_free(node, node->first_ticket);
    while (node->first_job != NULL)
        node_job_free(node, node->first_job);
    while (node->first_object != NULL)
        node_object_free(node, node->first_object);
    while (node->first_request != NULL) {
        struct request *r = node->first_request;
        node->first_request = r->next;
        free(r);
    }
    table_free(&node->objects);
    table_free(&node->jobs);
    table_free(&node->clients);
    table_free(&node->transfers);
    table_free(&node->tickets);
    free(node->store_name);
    free(node->switch_name);
    free(node->manager_name);
    free(node);
}

static uint32_t list_objects(const struct node *node, struct msg_object *list)
{
    uint32_t count = 0;

    for (const struct node_object *o = node->first_object; o != NULL; o = o->next)
        list[count++] = (struct msg_object){.digest = o->digest,
                                            .size = o->size,
                                            .pieces = o->pieces,
                                            .complete = o->state == OBJECT_COMPLETE,
                                            .trusted = o->trusted,
                                            .key_count = o->key_count,
                                            .keys = o->keys};
    return count;
}

static uint32_t list_bindings(const struct node *node, struct msg_binding *list,
                              uint32_t room)
{
    uint32_t count = 0;

    for (const struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (const struct job_source *s = job->sources; s != NULL; s = s->next)
            if (s->state == SOURCE_BOUND && s->claim != MSG_CLAIM_OPEN && count < room)
                list[count++] = (struct msg_binding){.job = job->job,
                                                     .uid = job->uid,
                                                     .path = s->path,
                                                     .digest = s->object->digest};
    return count;
}

static uint32_t count_bindings(const struct node *node)
{
    uint32_t count = 0;

    for (const struct node_job *job = node->first_job; job != NULL; job = job->next)
        count += job->source_count;
    return count < VINE_JOBS_MAX * VINE_SOURCES_MAX ? count
                                                    : VINE_JOBS_MAX * VINE_SOURCES_MAX;
}

static void register_all(struct node *node)
{
    uint32_t room = count_bindings(node);
    struct msg_object *objects = calloc(node->objects.count + 1, sizeof(*objects));
    struct msg_binding *bindings = calloc(room + 1, sizeof(*bindings));
    struct msg m = {.type = MSG_REGISTER,
                    .port = node->limits.port,
                    .switch_name = node->switch_name,
                    .objects = objects,
                    .bindings = bindings};

    if (objects == NULL || bindings == NULL) {
        node_log(node, VINE_LOG_ERR, "event=register-failed reason=\"out of memory\"");
    } else {
        m.object_count = list_objects(node, objects);
        m.binding_count = list_bindings(node, bindings, room);
        node_send(node, &m);
    }
    free(objects);
    free(bindings);
}

void node_manager_up(struct node *node, uint64_t now_ms)
{
    node_time(node, now_ms);
    node->manager_up = true;
    node->heartbeat_ms = 0;
    node->heard_ms = node->asked_ms = node->now_ms; /* REGISTER is answered, too */
    for (struct node_object *o = node->first_object; o != NULL; o = o->next)
        node_have_forget_untold(node, o);
    register_all(node);
    for (struct node_object *o = node->first_object; o != NULL; o = o->next)
        if (o->state != OBJECT_COMPLETE) {
            if (node_object_has(o, 0)) /* bound before this start */
                node_reuse_begin(node, o);
            node_have_tell_all(node, o);
        }
    node_lazy_tell_all(node);
    node_hold_tell_all(node);
    node_job_want_all(node);
    node_story_settle_all(node);
}

static void requests_fail(struct node *node)
{
    while (node->first_request != NULL) {
        struct request *r = node->first_request;
        node->first_request = r->next;
        node->request_count--;
        if (r->client != 0)
            node->ops.answer(node->ctx, r->client, VINE_EDOWN,
                             "the connection to the manager was lost");
        free(r);
    }
}

void node_manager_down(struct node *node, uint64_t now_ms)
{
    node_time(node, now_ms);
    if (!node->manager_up)
        return;
    node->manager_up = false;
    node->manager_down_ms = node->now_ms;
    node_origin_manager_down(node);
    node_hold_manager_down(node);
    node_job_manager_down(node);
    requests_fail(node);
}

static int request_new(struct node *node, uint64_t client, struct msg *m,
                       struct vine_err *err)
{
    struct request *r;

    if (!node->manager_up)
        return vine_err_set(err, VINE_EDOWN, "no manager answers%s%s%s",
                            node->manager_name[0] != '\0' ? " (" : "",
                            node->manager_name,
                            node->manager_name[0] != '\0' ? ")" : "");
    if (node->request_count >= NODE_REQUESTS_MAX)
        return vine_err_set(err, VINE_ELIMIT, "more than %d requests wait",
                            NODE_REQUESTS_MAX);
    r = calloc(1, sizeof(*r));
    if (r == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    r->client = client;
    r->ticket = m->ticket = ++node->last_id;
    r->next = node->first_request;
    node->first_request = r;
    node->request_count++;
    node_send(node, m);
    return 0;
}

int node_cluster_stage(struct node *node, uint64_t client, uint32_t uid, uint32_t gid,
                       const char *path, const char *const *names, uint32_t name_count,
                       uint64_t job, uint64_t now_ms, struct vine_err *err)
{
    struct msg m = {.type = MSG_STAGE,
                    .job = job,
                    .uid = uid,
                    .gid = gid,
                    .path = path,
                    .names = names,
                    .name_count = name_count};

    node_time(node, now_ms);
    if (!(job & NODE_MADE_UP_JOB) || name_count > VINE_NODES_MAX)
        return vine_err_set(err, VINE_EINVAL, "a stage request for job %llu, %u nodes",
                            (unsigned long long)job, name_count);
    return request_new(node, client, &m, err);
}

int node_ask_status(struct node *node, uint64_t client, uint64_t job, uint32_t uid,
                    bool brief, uint64_t now_ms, struct vine_err *err)
{
    struct msg m = {.type = MSG_ASK_STATUS, .job = job, .uid = uid, .brief = brief};

    node_time(node, now_ms);
    return request_new(node, client, &m, err);
}

void node_requests_forget(struct node *node, uint64_t client)
{
    for (struct request *r = node->first_request; r != NULL; r = r->next)
        if (r->client == client)
            r->client = 0;
}

int node_name(struct node *node, uint64_t client, uint64_t job, uint32_t uid,
              uint32_t gid, const char *id, const char *const *names,
              uint32_t name_count, uint32_t copies, uint64_t now_ms,
              struct vine_err *err)
{
    struct msg m = {.type = MSG_NAME,
                    .job = job,
                    .uid = uid,
                    .gid = gid,
                    .path = id,
                    .names = names,
                    .name_count = name_count,
                    .copies = copies};
    bool versioned;

    node_time(node, now_ms);
    if (!vine_source_is_named(id, &versioned) || copies > name_count ||
        name_count > VINE_NODES_MAX)
        return vine_err_set(err, VINE_EINVAL, "'%.80s' is no name of a job's file", id);
    return request_new(node, client, &m, err);
}

int node_ask_stories(struct node *node, uint64_t client, uint64_t job, uint32_t uid,
                     uint64_t offset, uint64_t now_ms, struct vine_err *err)
{
    struct msg m = {.type = MSG_ASK_STORIES, .job = job, .uid = uid, .offset = offset};

    node_time(node, now_ms);
    return request_new(node, client, &m, err);
}

static void on_answer(struct node *node, const struct msg *m)
{
    const char *text = m->type == MSG_NAMED && m->code == VINE_OK ? m->path : m->text;

    struct request **at = &node->first_request, *r;

    while (*at != NULL && (*at)->ticket != m->ticket)
        at = &(*at)->next;
    r = *at;
    if (r == NULL)
        return;
    *at = r->next;
    node->request_count--;
    if (r->client != 0)
        node->ops.answer(node->ctx, r->client, m->code, text != NULL ? text : "");
    free(r);
}

static void on_ping(struct node *node)
{
    struct msg pong = {.type = MSG_PONG};

    node_send(node, &pong);
}

void node_set_cache_max(struct node *node, uint64_t cache_max)
{
    node->limits.cache_max = cache_max;
}

int node_message(struct node *node, const struct msg *m, uint64_t now_ms,
                 struct vine_err *err)
{
    node_time(node, now_ms);
    if (!node->manager_up)
        return vine_err_set(err, VINE_EPROTO, "a message without a manager");
    node->heard_ms = node->now_ms;
    node->asked_ms = 0;
    switch (m->type) {
    case MSG_REGISTERED:
        node->heartbeat_ms = m->heartbeat_ms;
        return 0;
    case MSG_RESOLVE:
    case MSG_BUILD:
    case MSG_PROVE:
    case MSG_CLOSE:
        return node_origin_message(node, m, err);
    case MSG_BINDING:
        return node_job_binding(node, m, err);
    case MSG_PART:
        node_part_offered(node, m);
        return 0;
    case MSG_FETCH:
        return node_transfer_fetch(node, m, err);
    case MSG_REVOKE:
        return node_transfer_revoke(node, m, err);
    case MSG_WANTED:
        node_job_wanted(node, m);
        return 0;
    case MSG_REPLACED:
        node_job_replaced(node, m);
        return 0;
    case MSG_STAGED:
    case MSG_STATUS:
    case MSG_NAMED:
    case MSG_STORIES:
        on_answer(node, m);
        return 0;
    case MSG_URGENT:
    case MSG_TOUCHED:
    case MSG_HOLD:
        return node_lazy_message(node, m, err);
    case MSG_PING:
        on_ping(node);
        return 0;
    case MSG_PONG:
        return 0;
    default:
        return vine_err_set(err, VINE_EPROTO, "a manager does not send '%s'",
                            msg_type_name(m->type));
    }
}

static uint64_t ping_deadline(const struct node *node)
{
    uint64_t pause = node->heartbeat_ms, due, quiet;

    if (!node->manager_up || pause == 0)
        return UINT64_MAX;
    if (!node_works(node))
        return node->sent_ms + pause * VINE_IDLE_FACTOR;
    due = node->sent_ms + pause;
    quiet = node->heard_ms + pause * HEARTBEATS_QUIET;
    if (node->asked_ms == 0 && quiet < due)
        due = quiet;
    return due > node->idle_ms ? due : node->idle_ms; /* not before there was work */
}

static uint64_t silence_deadline(const struct node *node)
{
    if (!node->manager_up || node->asked_ms == 0)
        return UINT64_MAX;
    return node->asked_ms + node->limits.manager_silent_ms;
}

static void ping(struct node *node)
{
    struct msg m = {.type = MSG_PING};

    if (node->asked_ms == 0)
        node->asked_ms = node->now_ms;
    node_send(node, &m);
}

/* Its process may be stopped or its host without power: the connection does not end by
 * that. */
static void silence_tick(struct node *node)
{
    if (silence_deadline(node) > node->now_ms)
        return;
    node_log(node, VINE_LOG_WARNING, "event=manager-silent ms=%llu",
             (unsigned long long)(node->now_ms - node->heard_ms));
    node_manager_down(node, node->now_ms);
    node->ops.manager_silent(node->ctx);
}

/* What others did meanwhile lies unread: it is not they who are late. */
static void stood_still(struct node *node, uint64_t ms)
{
    node_log(node, VINE_LOG_WARNING, "event=stood-still ms=%llu",
             (unsigned long long)ms);
    node_transfer_renew(node);
    node_reuse_renew(node);
    if (node->asked_ms == 0)
        return;
    node->asked_ms = 0;
    ping(node);
}

uint64_t node_next_deadline(const struct node *node)
{
    uint64_t deadline = ping_deadline(node), other = node_transfer_deadline(node);

    if (other < deadline)
        deadline = other;
    other = silence_deadline(node);
    if (other < deadline)
        deadline = other;
    other = node_reuse_deadline(node);
    if (other < deadline)
        deadline = other;
    other = node_clients_deadline(node);
    if (other < deadline)
        deadline = other;
    other = node_hold_deadline(node);
    if (other < deadline)
        deadline = other;
    other = node_lazy_deadline(node);
    return other < deadline ? other : deadline;
}

/* A late tick comes before what others did meanwhile is read: it is the next one that
 * says who is late, and all the rest of it. */
void node_tick(struct node *node, uint64_t now_ms)
{
    uint64_t deadline = node_next_deadline(node), late;

    node_time(node, now_ms);
    late = node->now_ms > deadline ? node->now_ms - deadline : 0;
    if (late > LATE_MS) {
        stood_still(node, late);
    } else if (late > TICK_LATE_MS && !node->put_off) {
        node->put_off = true;
        return;
    }
    node->put_off = false;
    node_transfer_tick(node);
    node_reuse_tick(node);
    node_clients_tick(node);
    node_lazy_tick(node);
    node_hold_tick(node);
    silence_tick(node);
    if (ping_deadline(node) <= node->now_ms)
        ping(node);
}
