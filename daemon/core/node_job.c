/* node_job.c - jobs and their sources; who waits for them is in node_client.c.
 *
 * A source is wanted from the manager, then bound to an object, which it leases until
 * the job ends; every step that asks meanwhile gets the same version. A failure is told
 * to the clients that wait at that moment and to nobody else: the source is idle then,
 * and the next client that asks sets it going again.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/core/node_int.h"

struct node_job *node_job_find(const struct node *node, uint64_t job)
{
    struct table_link *l = table_find(&node->jobs, hash_u64(job));

    return l == NULL ? NULL : table_entry(l, struct node_job, link);
}

static struct job_source *source_find(const struct node_job *job, const char *path)
{
    struct job_source *s = job->sources;

    while (s != NULL && strcmp(s->path, path) != 0)
        s = s->next;
    return s;
}

struct job_source *node_job_source(const struct node *node, uint64_t job, uint32_t uid,
                                   const char *path)
{
    const struct node_job *j = node_job_find(node, job);

    return j == NULL || j->uid != uid ? NULL : source_find(j, path);
}

const struct node_job *node_job_wants(const struct node *node, uint64_t job,
                                      uint32_t uid, const char *path)
{
    for (const struct node_job *j = node->first_job; j != NULL; j = j->next)
        if ((job == 0 || j->job == job) && j->uid == uid &&
            source_find(j, path) != NULL)
            return j;
    return NULL;
}

int node_job_get(struct node *node, uint64_t job, uint32_t uid, uint32_t gid,
                 struct node_job **out, struct vine_err *err)
{
    struct node_job *j = node_job_find(node, job);

    if (j != NULL && j->uid != uid)
        return vine_err_set(err, VINE_EACCES, "job %llu belongs to another user",
                            (unsigned long long)job);
    if (j == NULL) {
        if (node->jobs.count >= VINE_JOBS_MAX)
            return vine_err_set(err, VINE_ELIMIT, "more than %d jobs on this node",
                                VINE_JOBS_MAX);
        j = calloc(1, sizeof(*j));
        if (j == NULL)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
        j->job = job;
        j->uid = uid;
        j->next = node->first_job;
        if (j->next != NULL)
            j->next->prev = j;
        node->first_job = j;
        table_add(&node->jobs, &j->link, hash_u64(job));
    }
    j->gid = gid;
    *out = j;
    return 0;
}

struct job_source *node_job_add_source(struct node *node, struct node_job *job,
                                       const char *path, struct vine_err *err)
{
    struct job_source *s = source_find(job, path), **at = &job->sources;
    size_t len = strlen(path) + 1;

    if (s != NULL)
        return s;
    if (node_uid_sources(node, job->uid) >= NODE_UID_SOURCES_MAX ||
        node->source_count >= NODE_SOURCES_MAX || len > VINE_PATH_MAX) {
        vine_err_set(err, VINE_ELIMIT,
                     "jobs of uid %u name more than %d sources here, or all jobs more "
                     "than %d",
                     job->uid, NODE_UID_SOURCES_MAX, NODE_SOURCES_MAX);
        return NULL;
    }
    s = calloc(1, sizeof(*s) + len);
    if (s == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        return NULL;
    }
    s->job = job;
    s->since_ms = node->now_ms;
    memcpy(s->path, path, len);
    while (*at != NULL)
        at = &(*at)->next;
    *at = s;
    job->source_count++;
    node->source_count++;
    return s;
}

void node_source_want(struct node *node, struct job_source *s)
{
    struct msg m = {.type = MSG_WANT,
                    .job = s->job->job,
                    .uid = s->job->uid,
                    .gid = s->job->gid,
                    .path = s->path};

    if (s->state != SOURCE_BOUND)
        s->state = SOURCE_WANTED;
    node_send(node, &m);
}

static void source_unbind(struct node *node, struct job_source *s)
{
    struct node_object *o = s->object;

    s->state = SOURCE_IDLE;
    s->object = NULL;
    if (o == NULL)
        return;
    node_object_used(node, o);
    if (--o->leases == 0 && o->stream == NULL)
        node_transfer_give_up(node, o);
    if (o->leases == 0) {
        node_story_forget(o);
        node_lazy_leave(node, o);
    }
    node->ops.save(node->ctx);
}

void node_source_bind(struct node *node, struct job_source *s, struct node_object *o)
{
    o->leases++;
    s->told = s->told && s->object == o;
    source_unbind(node, s);
    s->object = o;
    s->state = SOURCE_BOUND;
    s->claim = MSG_CLAIM_SHOWN;
    o->part = false;
    node_object_used(node, o);
}

uint32_t node_source_mount_uid(const struct job_source *s)
{
    return s->object->trusted ? NODE_ANY_UID : s->job->uid;
}

/* All of it is here, and its jobs may have it. */
bool node_source_settled(const struct job_source *s)
{
    return s->state == SOURCE_BOUND && s->object->state == OBJECT_COMPLETE &&
           s->claim == MSG_CLAIM_SHOWN;
}

bool node_source_ready(const struct job_source *s)
{
    const struct mount *m;

    if (!node_source_settled(s))
        return false;
    if (s->job->staged)
        return true;
    m = node_mount_find(s->object, node_source_mount_uid(s));
    return m != NULL && m->mounted;
}

void node_source_failed(struct node *node, struct job_source *s,
                        const struct vine_err *err)
{
    node_clients_tell(node, s, err);
    if (s->job->staged)
        vine_err_set(&s->job->staged_err, err->code, "%s", err->text);
    node_story_end(node, s, err->code);
    source_unbind(node, s);
    node_parts_drop(node, s);
}

static void release(struct node *node, struct node_job *job)
{
    struct msg m = {.type = MSG_RELEASE,
                    .job = job->job,
                    .code = job->staged_err.code,
                    .text = job->staged_err.text};

    node_send(node, &m);
    node_job_free(node, job);
}

/* A made-up job ends when all it asked for is here, or at its first error. */
static bool staged_settled(const struct node_job *job)
{
    if (job->staged_err.code != VINE_OK)
        return true;
    for (const struct job_source *s = job->sources; s != NULL; s = s->next)
        if (!node_source_ready(s))
            return false;
    return true;
}

void node_jobs_settle(struct node *node)
{
    struct node_job *next;

    for (struct node_job *job = node->first_job; job != NULL; job = next) {
        next = job->next;
        if (job->staged && node->manager_up && staged_settled(job))
            release(node, job);
    }
}

static void source_free(struct node *node, struct job_source *s)
{
    node->source_count--;
    s->job->source_count--;
    node_story_end(node, s, VINE_ECANCELED);
    source_unbind(node, s);
    node_parts_drop(node, s);
    free(s);
}

void node_job_free(struct node *node, struct node_job *job)
{
    uint64_t number = job->job;

    table_remove(&node->jobs, &job->link);
    *(job->prev != NULL ? &job->prev->next : &node->first_job) = job->next;
    if (job->next != NULL)
        job->next->prev = job->prev;
    while (job->sources != NULL) {
        struct job_source *s = job->sources;
        job->sources = s->next;
        source_free(node, s);
    }
    free(job);
    node_origin_job_gone(node, number);
}

/* Set going what is not: a first ask, one after a failure, a mount that went away. */
static void source_ask(struct node *node, struct job_source *s)
{
    if (s->state == SOURCE_IDLE)
        node_source_want(node, s);
}

static int job_sources(struct node *node, struct node_job *job,
                       const struct vine_spec *spec, struct job_source **sources,
                       struct vine_err *err)
{
    char id[VINE_PATH_MAX];

    for (unsigned i = 0; i < spec->count; i++) {
        vine_source_id(&spec->source[i], id);
        sources[i] = node_job_add_source(node, job, id, err);
        if (sources[i] == NULL)
            return -1;
    }
    for (unsigned i = 0; i < spec->count; i++) {
        sources[i]->lazy |= spec->lazy;
        source_ask(node, sources[i]);
    }
    return 0;
}

static void job_free_unused(struct node *node, struct node_job *job)
{
    if (job->source_count == 0)
        node_job_free(node, job);
}

int node_job_ask(struct node *node, uint64_t number, uint32_t uid, uint32_t gid,
                 const struct vine_spec *spec, struct job_source **sources,
                 struct node_job **out, struct vine_err *err)
{
    struct node_job *job;

    if (spec->count == 0 || spec->count > VINE_SOURCES_MAX)
        return vine_err_set(err, VINE_EINVAL, "a request for %u sources", spec->count);
    if (node_job_get(node, number, uid, gid, &job, err) < 0)
        return -1;
    if (job_sources(node, job, spec, sources, err) < 0) {
        job_free_unused(node, job);
        return -1;
    }
    *out = job;
    return 0;
}

/* Objects whose mounts went away, or whose publishing failed, get another try. */
void node_sources_advance(struct node *node, struct job_source **sources,
                          uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (sources[i]->state == SOURCE_BOUND) {
            node_object_used(node, sources[i]->object);
            node_object_advance(node, sources[i]->object);
        }
}

int node_job_begin(struct node *node, uint64_t job, uint32_t uid, uint32_t gid,
                   const struct vine_spec *spec, uint64_t now_ms, struct vine_err *err)
{
    struct job_source *sources[VINE_SOURCES_MAX];
    struct node_job *j;

    node_time(node, now_ms);
    if (node_job_ask(node, job, uid, gid, spec, sources, &j, err) < 0)
        return -1;
    node->ops.save(node->ctx);
    node_sources_advance(node, sources, spec->count);
    return 0;
}

bool node_has_job(const struct node *node, uint64_t job)
{
    return node_job_find(node, job) != NULL;
}

bool node_has_jobs(const struct node *node)
{
    return node->first_job != NULL;
}

void node_job_end(struct node *node, uint64_t job, uint64_t now_ms)
{
    struct node_job *j = node_job_find(node, job);

    node_time(node, now_ms);
    if (j == NULL)
        return;
    node_clients_job_ended(node, j);
    j->staged_err = (struct vine_err){0};
    release(node, j);
    node->ops.save(node->ctx);
}

/* The manager says that this node has or will have another version than the one bound
 * here. What is complete stays: the job began with it. */
static bool keeps_version(struct node *node, const struct job_source *s,
                          const struct msg *m)
{
    if (!node_source_settled(s) || vine_digest_equal(&s->object->digest, &m->digest))
        return false;
    if (node_object_find(node, &m->digest) == NULL)
        node_object_refuse(node, &m->digest, m->pieces, VINE_ECANCELED);
    return true;
}

static void binding_failed(struct node *node, struct job_source *s,
                           const struct vine_err *err)
{
    if (node_source_settled(s))
        return;
    if (node_lazy_keeps(node, s, err)) {
        if (s->claim == MSG_CLAIM_SHOWN)
            return;
        s->claim = MSG_CLAIM_OPEN; /* what comes now is not its own source's */
        node_clients_tell(node, s, err);
        node_clients_check(node);
        return;
    }
    node_source_failed(node, s, err);
    node_clients_check(node);
}

/* What the source is that gave this object. Told again when the manager knows. */
static void binding_key(struct node *node, struct node_object *o,
                        const struct vine_digest *key)
{
    static const struct vine_digest unknown;

    if (vine_digest_equal(key, &unknown))
        return;
    node_object_add_key(o, key);
    if (o->state == OBJECT_COMPLETE)
        node->ops.remember_key(node->ctx, &o->digest, key);
}

int node_job_binding(struct node *node, const struct msg *m, struct vine_err *err)
{
    struct node_job *job = node_job_find(node, m->job);
    struct job_source *s = job == NULL ? NULL : source_find(job, m->path);
    struct node_object *o =
        m->code != VINE_OK ? NULL : node_object_find(node, &m->digest);
    struct vine_err why = {0};

    if (o != NULL && node_object_check(o, m->size, m->pieces, err) < 0)
        return -1;
    if (s == NULL || job->uid != m->uid) /* ended while this was on its way */
        return 0;
    if (m->code != VINE_OK) {
        vine_err_set(&why, m->code, "%s", m->text != NULL ? m->text : "");
        binding_failed(node, s, &why);
        return 0;
    }
    if (keeps_version(node, s, m))
        return 0;
    if (node_object_get(node, &m->digest, m->size, m->pieces, m->trusted, &o, &why) <
        0) {
        if (why.code == VINE_EPROTO)
            return vine_err_set(err, why.code, "%s", why.text);
        node_object_refuse(node, &m->digest, m->pieces, why.code);
        binding_failed(node, s, &why);
        return 0;
    }
    if (s->object != o) {
        node_source_bind(node, s, o);
        node_parts_stop(node, s);
        node->ops.save(node->ctx);
        if (o->state != OBJECT_COMPLETE && node_object_was_refused(node, &m->digest))
            node_source_want(node, s); /* the manager may hear of the refusal now */
    }
    s->claim = (enum msg_claim)m->claim;
    binding_key(node, o, &m->key);
    node_object_advance(node, o);
    return 0;
}

/* A copy for another node's put, whose caller said which nodes the job has. */
static bool is_strange(const struct node *node, const struct msg *m)
{
    return !(m->job & NODE_MADE_UP_JOB) && node_job_find(node, m->job) == NULL &&
           node->ops.has_tasks != NULL && !node->ops.has_tasks(node->ctx, m->job);
}

static void copy_refuse(struct node *node, const struct msg *m, const char *why)
{
    struct msg leave = {
        .type = MSG_LEAVE, .job = m->job, .uid = m->uid, .path = m->path};

    node_log(node, VINE_LOG_WARNING, "event=copy-refused job=%llu reason=\"%s\"",
             (unsigned long long)m->job, why);
    node_send(node, &leave);
}

void node_job_wanted(struct node *node, const struct msg *m)
{
    struct msg refused = {.type = MSG_RELEASE, .job = m->job};
    struct vine_err err = {0};
    struct job_source *s = NULL;
    struct node_job *job = NULL;

    if (is_strange(node, m)) {
        copy_refuse(node, m, "it has no tasks on this node");
        return;
    }
    if (node_job_get(node, m->job, m->uid, m->gid, &job, &err) == 0)
        s = node_job_add_source(node, job, m->path, &err);
    if (s == NULL) {
        if (job != NULL)
            job_free_unused(node, job);
        if (!(m->job & NODE_MADE_UP_JOB)) { /* what else it has here is not touched */
            copy_refuse(node, m, err.text);
            return;
        }
        refused.code = err.code;
        refused.text = err.text;
        node_send(node, &refused);
        return;
    }
    job->staged = (m->job & NODE_MADE_UP_JOB) != 0;
    if (!job->staged)
        node->ops.save(node->ctx);
    source_ask(node, s);
}

/* What tasks were given stays until the job ends, and so does what one waits for. */
void node_job_replaced(struct node *node, const struct msg *m)
{
    struct job_source *s = node_job_source(node, m->job, m->uid, m->path), **at;
    struct msg leave = {
        .type = MSG_LEAVE, .job = m->job, .uid = m->uid, .path = m->path};
    struct node_job *job;
    bool versioned;

    if (s == NULL || !vine_source_is_named(m->path, &versioned) || !versioned ||
        node_clients_wait(node, s) ||
        (s->object != NULL && node->ops.shown != NULL &&
         node->ops.shown(node->ctx, m->job, &s->object->digest)))
        return;
    job = s->job;
    for (at = &job->sources; *at != s; at = &(*at)->next)
        ;
    *at = s->next;
    node_send(node, &leave);
    source_free(node, s);
    job_free_unused(node, job);
    node->ops.save(node->ctx);
}

void node_job_want_claims(struct node *node, const struct node_object *o)
{
    for (struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (struct job_source *s = job->sources; s != NULL; s = s->next)
            if (s->object == o && s->claim != MSG_CLAIM_SHOWN)
                node_source_want(node, s);
}

void node_job_want_all(struct node *node)
{
    for (struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (struct job_source *s = job->sources; s != NULL; s = s->next)
            if (s->state == SOURCE_WANTED ||
                (s->state == SOURCE_BOUND && s->claim == MSG_CLAIM_OPEN))
                node_source_want(node, s);
    node_clients_check(node);
}

/* What comes now was planned while nobody else had it; what others had by then the next
 * manager is asked for anew. */
void node_job_manager_down(struct node *node)
{
    for (struct node_job *job = node->first_job; job != NULL; job = job->next)
        for (struct job_source *s = job->sources; s != NULL; s = s->next)
            if (s->claim == MSG_CLAIM_OWN)
                s->claim = MSG_CLAIM_SHOWN;
    node_clients_check(node);
}

int node_restore_binding(struct node *node, const struct msg_binding *binding,
                         uint32_t gid, struct vine_err *err)
{
    struct node_object *o = node_object_find(node, &binding->digest);
    struct node_job *job;
    struct job_source *s;

    if (binding->job & NODE_MADE_UP_JOB) /* nobody would end it */
        return 0;
    if (o == NULL)
        return vine_err_set(err, VINE_ENOENT,
                            "job %llu: its object is not in the store",
                            (unsigned long long)binding->job);
    if (node_job_get(node, binding->job, binding->uid, gid, &job, err) < 0)
        return -1;
    s = node_job_add_source(node, job, binding->path, err);
    if (s == NULL) {
        job_free_unused(node, job);
        return -1;
    }
    if (s->object != o)
        node_source_bind(node, s, o);
    s->answered = true;
    s->told = o->state == OBJECT_COMPLETE; /* by the daemon before this one */
    return 0;
}
