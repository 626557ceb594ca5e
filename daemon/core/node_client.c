/* node_client.c - the clients that wait for their job's sources.
 *
 * A client waits for up to VINE_SOURCES_MAX sources of one job and is answered once,
 * when each is ready (complete and mounted) or has failed for it. While no manager
 * answers, what needs one fails after manager_wait_ms; what is here already does not.
 */
#include <string.h>

#include "daemon/core/node_int.h"

void node_clients_tell(struct node *node, const struct job_source *s,
                       const struct vine_err *err)
{
    for (struct client *c = node->first_client; c != NULL; c = c->next)
        for (uint32_t i = 0; i < c->count; i++)
            if (c->source[i] == s && c->err[i].code == VINE_OK)
                c->err[i] = *err;
}

void node_clients_mount_failed(struct node *node, const struct node_object *o,
                               uint32_t uid, const struct vine_err *err)
{
    for (struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (struct job_source *s = job->sources; s != NULL; s = s->next)
            if (s->object == o && node_source_mount_uid(s) == uid)
                node_clients_tell(node, s, err);
}

void node_client_free(struct node *node, struct client *c)
{
    table_remove(&node->clients, &c->link);
    *(c->prev != NULL ? &c->prev->next : &node->first_client) = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    free(c);
}

static struct client *client_find(const struct node *node, uint64_t id)
{
    struct table_link *l = table_find(&node->clients, hash_u64(id));

    return l == NULL ? NULL : table_entry(l, struct client, link);
}

static void client_reply(struct node *node, struct client *c)
{
    struct node_result results[VINE_SOURCES_MAX] = {{0}};
    struct client whole = *c;

    for (uint32_t i = 0; i < c->count; i++) {
        struct job_source *s = c->source[i];
        results[i].path = s->path;
        results[i].code = c->err[i].code;
        results[i].text = whole.err[i].text;
        if (c->err[i].code != VINE_OK)
            continue;
        results[i].digest = s->object->digest;
        results[i].mount_uid = node_source_mount_uid(s);
        results[i].size = s->object->size;
        results[i].cached =
            node_source_settled(s) && s->object->complete_ms < s->since_ms;
        results[i].first = !s->answered;
        s->answered = true;
    }
    node_requests_forget(node, whole.id);
    node_client_free(node, c);
    node->ops.reply(node->ctx, whole.id, results, whole.count);
}

static bool client_settled(const struct client *c)
{
    for (uint32_t i = 0; i < c->count; i++)
        if (c->err[i].code == VINE_OK && !node_source_ready(c->source[i]) &&
            !(c->lazy && node_lazy_ready(c->source[i])))
            return false;
    return true;
}

void node_clients_check(struct node *node)
{
    struct client *next;

    for (struct client *c = node->first_client; c != NULL; c = next) {
        next = c->next;
        if (client_settled(c))
            client_reply(node, c);
    }
    node_jobs_settle(node);
}

bool node_clients_wait(const struct node *node, const struct job_source *s)
{
    for (const struct client *c = node->first_client; c != NULL; c = c->next)
        for (uint32_t i = 0; i < c->count; i++)
            if (c->source[i] == s)
                return true;
    return false;
}

void node_clients_job_ended(struct node *node, const struct node_job *job)
{
    struct vine_err err = {0};
    struct client *next;

    vine_err_set(&err, VINE_ECANCELED, "job %llu has ended",
                 (unsigned long long)job->job);
    for (struct client *c = node->first_client; c != NULL; c = next) {
        next = c->next;
        if (c->job != job)
            continue;
        for (uint32_t i = 0; i < c->count; i++)
            if (!node_source_ready(c->source[i]))
                vine_err_set(&c->err[i], err.code, "%s", err.text);
        client_reply(node, c);
    }
}

int node_stage(struct node *node, uint64_t client, uint64_t job, uint32_t uid,
               uint32_t gid, const struct vine_spec *spec, uint64_t now_ms,
               struct vine_err *err)
{
    struct job_source *sources[VINE_SOURCES_MAX];
    struct client *c;

    node_time(node, now_ms);
    if (client_find(node, client) != NULL)
        return vine_err_set(err, VINE_EINVAL, "this client is waiting already");
    if (node->clients.count >= VINE_CLIENTS_MAX)
        return vine_err_set(err, VINE_ELIMIT, "more than %d clients wait on this node",
                            VINE_CLIENTS_MAX);
    c = calloc(1, sizeof(*c));
    if (c == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (node_job_ask(node, job, uid, gid, spec, c->source, &c->job, err) < 0) {
        free(c);
        return -1;
    }
    c->id = client;
    c->since_ms = node->now_ms;
    c->lazy = spec->lazy;
    c->count = spec->count;
    c->next = node->first_client;
    if (c->next != NULL)
        c->next->prev = c;
    node->first_client = c;
    table_add(&node->clients, &c->link, hash_u64(client));
    node->ops.save(node->ctx);
    /* The first source's answer may be the last one missing: then `c` is gone. */
    memcpy(sources, c->source, sizeof(sources));
    node_sources_advance(node, sources, spec->count);
    return 0;
}

void node_client_gone(struct node *node, uint64_t client, uint64_t now_ms)
{
    struct client *c = client_find(node, client);

    node_time(node, now_ms);
    if (c != NULL)
        node_client_free(node, c);
    node_requests_forget(node, client);
}

/* When a client gives up waiting for a manager. */
static uint64_t client_deadline(const struct node *node, const struct client *c)
{
    uint64_t since = c->since_ms;

    if (since < node->manager_down_ms)
        since = node->manager_down_ms;
    return since + node->limits.manager_wait_ms;
}

/* It cannot go on without a manager. */
static bool source_stuck(const struct job_source *s)
{
    if (s->state != SOURCE_BOUND)
        return true;
    if (s->object->state == OBJECT_COMPLETE)
        return s->claim != MSG_CLAIM_SHOWN;
    return s->object->state == OBJECT_PARTIAL && s->object->transfers == NULL &&
           s->object->reuse != REUSE_RUNNING;
}

static bool client_stuck(const struct client *c)
{
    for (uint32_t i = 0; i < c->count; i++)
        if (c->err[i].code == VINE_OK && source_stuck(c->source[i]))
            return true;
    return false;
}

uint64_t node_clients_deadline(const struct node *node)
{
    uint64_t deadline = UINT64_MAX;

    if (node->manager_up)
        return UINT64_MAX;
    for (const struct client *c = node->first_client; c != NULL; c = c->next)
        if (client_stuck(c) && client_deadline(node, c) < deadline)
            deadline = client_deadline(node, c);
    return deadline;
}

void node_clients_tick(struct node *node)
{
    const char *name = node->manager_name;

    if (node->manager_up)
        return;
    for (struct client *c = node->first_client; c != NULL; c = c->next) {
        if (client_deadline(node, c) > node->now_ms)
            continue;
        for (uint32_t i = 0; i < c->count; i++)
            if (source_stuck(c->source[i]))
                vine_err_set(&c->err[i], VINE_EDOWN,
                             "no manager answers%s%s%s: waited %u ms; is vine-managerd "
                             "running there?",
                             name[0] != '\0' ? " (" : "", name,
                             name[0] != '\0' ? ")" : "", node->limits.manager_wait_ms);
    }
    node_clients_check(node);
}
