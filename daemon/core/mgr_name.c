/* mgr_name.c - what tasks offer to the other tasks of their job.
 *
 * The content itself is a source like any other (mgr_resolve.c), whose id holds a NAME
 * and a version: "data:vine:NAME#VERSION". Whoever offers a file makes the version up,
 * wants that source first, and so becomes its origin, and the only one that could read
 * it. Here stands which version a NAME means: the one that was offered last.
 * A version never changes its content, so nodes may keep what they have. When the next
 * one is offered they are told, and let go what no task of theirs was given: else a
 * task that offers the same name in a loop would fill the disks.
 *
 * A manager that was started just now has not heard of all nodes: what it was not told
 * itself may not be the last version, and may not be all there is.
 *
 * A name whose nodes are all gone is away at first, for connections break and daemons
 * are restarted; lost after that, until one of them comes back.
 *
 * Names outlive the nodes that offered them, or nobody could say that something is
 * lost. They go when a node leaves the job and no source of it is left. So many a job,
 * a user and in all there may be (limits.h); what is more is refused. A manager that
 * was started anew learns them from the bindings that nodes register with. */
#include <string.h>

#include "daemon/core/mgr_int.h"
#include "vine/spec.h"

#define AWAY_MS 10000 /* a node whose connection broke comes back within it */

static uint64_t name_hash(uint64_t job, uint32_t uid, const char *id, size_t len)
{
    char text[VINE_PATH_MAX];

    memcpy(text, id, len);
    text[len] = '\0';
    return hash_text(text, hash_u64(job) ^ uid);
}

/* Bytes of an id before its version. */
static size_t bare_length(const char *id)
{
    return strcspn(id, "#");
}

static struct name *name_find(const struct mgr *mgr, uint64_t job, uint32_t uid,
                              const char *id)
{
    size_t len = bare_length(id);
    struct table_link *l = table_find(&mgr->named, name_hash(job, uid, id, len));

    for (; l != NULL; l = table_next_same(l)) {
        struct name *n = table_entry(l, struct name, link);
        if (n->job->job == job && n->job->uid == uid && bare_length(n->id) == len &&
            memcmp(n->id, id, len) == 0)
            return n;
    }
    return NULL;
}

static struct named_job *named_job_find(const struct mgr *mgr, uint64_t job)
{
    struct table_link *l = table_find(&mgr->named_jobs, hash_u64(job));

    return l == NULL ? NULL : table_entry(l, struct named_job, by_job);
}

static void named_job_free(struct mgr *mgr, struct named_job *job)
{
    while (job->names != NULL) {
        struct name *n = job->names;
        job->names = n->next;
        table_remove(&mgr->named, &n->link);
        free(n->id);
        free(n);
    }
    table_remove(&mgr->named_jobs, &job->by_job);
    free(job);
}

static uint32_t names_of_user(const struct mgr *mgr, uint32_t uid)
{
    struct table_link *l = table_each(&mgr->named_jobs, NULL);
    uint32_t count = 0;

    for (; l != NULL; l = table_each(&mgr->named_jobs, l)) {
        const struct named_job *job = table_entry(l, struct named_job, by_job);
        count += job->uid == uid ? job->count : 0;
    }
    return count;
}

static int check_room(const struct mgr *mgr, const struct named_job *job,
                      struct vine_err *err)
{
    if (job->count >= VINE_JOB_NAMES_MAX)
        return vine_err_set(err, VINE_ELIMIT,
                            "job %llu has %u names already, as many as a job may have: "
                            "put newer files under names it has",
                            (unsigned long long)job->job, job->count);
    if (names_of_user(mgr, job->uid) >= VINE_UID_NAMES_MAX)
        return vine_err_set(err, VINE_ELIMIT,
                            "your jobs have %u names together, as many as they may: "
                            "put newer files under names the job has, or end a job",
                            VINE_UID_NAMES_MAX);
    if (mgr->named.count >= VINE_NAMES_MAX)
        return vine_err_set(err, VINE_ELIMIT,
                            "all jobs of the cluster have %u names together, as many "
                            "as the manager keeps: try again when some have ended",
                            VINE_NAMES_MAX);
    return 0;
}

static struct named_job *named_job_get(struct mgr *mgr, uint64_t number, uint32_t uid)
{
    struct named_job *job = named_job_find(mgr, number);

    if (job != NULL)
        return job->uid == uid ? job : NULL;
    job = calloc(1, sizeof(*job));
    if (job == NULL)
        return NULL;
    job->job = number;
    job->uid = uid;
    table_add(&mgr->named_jobs, &job->by_job, hash_u64(number));
    return job;
}

static void tell_replaced(struct mgr *mgr, struct mgr_node *node, uint64_t job,
                          uint32_t uid, const char *id)
{
    struct msg m = {.type = MSG_REPLACED, .job = job, .uid = uid, .path = id};

    mgr_send(mgr, node, &m);
}

static int name_new(struct mgr *mgr, uint64_t number, uint32_t uid, char *id, bool told,
                    struct vine_err *err)
{
    struct named_job *job = named_job_get(mgr, number, uid);
    struct name *n;

    if (job == NULL)
        return vine_err_set(err, VINE_EACCES, "job %llu belongs to another user",
                            (unsigned long long)number);
    n = check_room(mgr, job, err) == 0 ? calloc(1, sizeof(*n)) : NULL;
    if (n == NULL) {
        if (err != NULL && err->code == VINE_OK)
            vine_err_set(err, VINE_ENOMEM, "the manager is out of memory");
        if (job->count == 0)
            named_job_free(mgr, job);
        return -1;
    }
    n->id = id;
    n->told = told;
    n->job = job;
    n->next = job->names;
    job->names = n;
    job->count++;
    table_add(&mgr->named, &n->link, name_hash(number, uid, id, bare_length(id)));
    return 0;
}

/* What is told last stands, as clocks of nodes differ; of what nodes bring along, the
 * highest version. ELIMIT, EACCES: the job is another user's, ENOMEM. */
static int name_set(struct mgr *mgr, uint64_t number, uint32_t uid, const char *id,
                    bool told, struct vine_err *err)
{
    struct name *n = name_find(mgr, number, uid, id);
    const struct source *old;
    char *copy;

    if (n != NULL && !told && (n->told || strcmp(n->id, id) >= 0))
        return 0;
    copy = strdup(id);
    if (copy == NULL)
        return vine_err_set(err, VINE_ENOMEM, "the manager is out of memory");
    if (n == NULL) {
        if (name_new(mgr, number, uid, copy, told, err) == 0)
            return 0;
        free(copy);
        return -1;
    }
    old = told && strcmp(n->id, id) != 0 ? mgr_source_find(mgr, number, uid, n->id)
                                         : NULL;
    for (const struct want *w = old != NULL ? old->wants : NULL; w != NULL;
         w = w->source_next)
        tell_replaced(mgr, w->node, number, uid, n->id);
    free(n->id);
    n->id = copy;
    n->told = told;
    n->away_since_ms = 0;
    return 0;
}

/* What is only brought along replaces nothing: the clocks of nodes differ. */
void mgr_name_restore(struct mgr *mgr, struct mgr_node *node, uint64_t job,
                      uint32_t uid, const char *id)
{
    const struct name *n;
    bool versioned;

    if (!vine_source_is_named(id, &versioned) || !versioned)
        return;
    (void)name_set(mgr, job, uid, id, false, NULL); /* not known then: none is put */
    n = name_find(mgr, job, uid, id);
    if (n != NULL && n->told && strcmp(n->id, id) != 0)
        tell_replaced(mgr, node, job, uid, id);
}

void mgr_name_job_left(struct mgr *mgr, uint64_t number)
{
    struct named_job *job = named_job_find(mgr, number);
    struct table_link *l = table_each(&mgr->sources, NULL);

    if (job == NULL)
        return;
    for (; l != NULL; l = table_each(&mgr->sources, l))
        if (table_entry(l, struct source, by_name)->job == number)
            return;
    named_job_free(mgr, job);
}

/* ---- copies -------------------------------------------------------------------- */

static void send_named(struct mgr *mgr, struct mgr_node *asker, uint64_t ticket,
                       const char *id, const struct vine_err *err)
{
    struct msg m = {.type = MSG_NAMED,
                    .ticket = ticket,
                    .code = err->code,
                    .text = err->text,
                    .path = id};

    if (asker != NULL)
        mgr_send(mgr, asker, &m);
}

static void copying_end(struct mgr *mgr, struct copying *c, const struct vine_err *err)
{
    struct copying **at = &mgr->first_copying;

    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    send_named(mgr, c->asker, c->ticket, c->source->path, err);
    free(c->node);
    free(c);
}

static bool copying_take(struct copying *c, const struct mgr_node *node)
{
    for (uint32_t i = 0; i < c->pending; i++)
        if (c->node[i] == node) {
            c->node[i] = c->node[--c->pending];
            return true;
        }
    return false;
}

void mgr_name_node_done(struct mgr *mgr, const struct source *s, struct mgr_node *node)
{
    struct vine_err ok = {0};
    struct copying *next;

    for (struct copying *c = mgr->first_copying; c != NULL; c = next) {
        next = c->next;
        if (c->source == s && copying_take(c, node) && c->pending == 0)
            copying_end(mgr, c, &ok);
    }
}

/* s NULL: any. */
static void copies_fail(struct mgr *mgr, const struct source *s,
                        const struct mgr_node *node, const char *text)
{
    struct copying *next;

    for (struct copying *c = mgr->first_copying; c != NULL; c = next) {
        struct vine_err err = {0};
        next = c->next;
        if ((s != NULL && c->source != s) || !copying_take(c, node))
            continue;
        vine_err_set(&err, VINE_EDOWN, "offered, but not copied to %s: %s", node->name,
                     text);
        copying_end(mgr, c, &err);
    }
}

void mgr_name_node_failed(struct mgr *mgr, const struct source *s,
                          struct mgr_node *node, const char *text)
{
    copies_fail(mgr, s, node, text);
}

void mgr_name_node_gone(struct mgr *mgr, struct mgr_node *node)
{
    for (struct copying *c = mgr->first_copying; c != NULL; c = c->next)
        if (c->asker == node)
            c->asker = NULL;
    copies_fail(mgr, NULL, node, "the node is gone");
}

void mgr_name_source_gone(struct mgr *mgr, const struct source *s)
{
    struct vine_err err = {0};
    struct copying *next;

    vine_err_set(&err, VINE_ECANCELED, "offered, but not copied: the job has ended");
    for (struct copying *c = mgr->first_copying; c != NULL; c = next) {
        next = c->next;
        if (c->source == s)
            copying_end(mgr, c, &err);
    }
}

/* A node that may not take it (its limits, another user's job of that number) says so
 * in its log alone. */
void mgr_name_tick(struct mgr *mgr)
{
    struct copying *next;

    for (struct copying *c = mgr->first_copying; c != NULL; c = next) {
        uint32_t i = 0;
        next = c->next;
        if (mgr->now_ms - c->since_ms < AWAY_MS)
            continue;
        while (i < c->pending && mgr_want_find(c->source, c->node[i]) != NULL)
            i++;
        if (i < c->pending) {
            copies_fail(mgr, c->source, c->node[i], "it did not begin to take it");
            next = mgr->first_copying; /* others may have waited for the same */
        }
    }
}

/* So many of the named nodes that are here, but not the one that has it. */
static int copying_fill(struct mgr *mgr, struct copying *c, const struct msg *m,
                        struct vine_err *err)
{
    c->node = calloc(m->copies, sizeof(struct mgr_node *));
    if (c->node == NULL)
        return vine_err_set(err, VINE_ENOMEM, "the manager is out of memory");
    for (uint32_t i = 0; i < m->name_count && c->pending < m->copies; i++) {
        struct mgr_node *node = mgr_find_name(mgr, m->names[i]);
        bool twice = false;
        for (uint32_t k = 0; k < c->pending; k++)
            twice = twice || c->node[k] == node;
        if (node != NULL && node->registered && node != c->asker && !twice)
            c->node[c->pending++] = node;
    }
    if (c->pending == m->copies)
        return 0;
    return vine_err_set(err, VINE_EDOWN,
                        "offered, but only %u of the job's other nodes are there to "
                        "copy it to, %u are asked for",
                        c->pending, m->copies);
}

static void copying_begin(struct mgr *mgr, struct mgr_node *asker, struct source *s,
                          const struct msg *m)
{
    struct msg wanted = {.type = MSG_WANTED,
                         .job = m->job,
                         .uid = m->uid,
                         .gid = m->gid,
                         .path = m->path};
    struct copying *c = calloc(1, sizeof(*c));
    struct mgr_node **node;
    struct vine_err err = {0};
    uint32_t count;

    if (c == NULL) {
        vine_err_set(&err, VINE_ENOMEM, "the manager is out of memory");
        send_named(mgr, asker, m->ticket, m->path, &err);
        return;
    }
    c->ticket = m->ticket;
    c->since_ms = mgr->now_ms;
    c->asker = asker;
    c->source = s;
    c->next = mgr->first_copying;
    mgr->first_copying = c;
    if (copying_fill(mgr, c, m, &err) < 0) {
        copying_end(mgr, c, &err);
        return;
    }
    node = c->node;
    count = c->pending;
    for (uint32_t i = 0; i < count; i++)
        mgr_send(mgr, node[i], &wanted);
    /* Some may have it: nothing more is heard of these. */
    for (uint32_t i = count; i-- > 0;) {
        struct want *w = mgr_want_find(s, node[i]);
        bool last = c->pending == 1;
        if (w == NULL || w->holder == NULL || !w->holder->complete)
            continue;
        mgr_name_node_done(mgr, s, node[i]);
        if (last)
            return;
    }
}

/* ---- messages ------------------------------------------------------------------ */

static const char *shown(const char *id)
{
    return id + strlen(VINE_DATA VINE_NAMED);
}

static bool is_here(const struct mgr *mgr, const struct name *n)
{
    const struct source *s = mgr_source_find(mgr, n->job->job, n->job->uid, n->id);

    return s != NULL && s->object != NULL && mgr_object_available(mgr, s->object);
}

static void look_up(struct mgr *mgr, struct mgr_node *node, const struct msg *m)
{
    struct name *n = name_find(mgr, m->job, m->uid, m->path);
    struct vine_err err = {0};

    if (mgr->now_ms - mgr->started_ms < AWAY_MS && (n == NULL || !n->told))
        vine_err_set(&err, VINE_ETIMEDOUT,
                     "the manager has just been started and does not know yet who has "
                     "'%s'",
                     shown(m->path));
    else if (n == NULL)
        vine_err_set(&err, VINE_ENOENT, "no task of job %llu has put '%s'",
                     (unsigned long long)m->job, shown(m->path));
    else if (is_here(mgr, n))
        n->away_since_ms = 0;
    else if (n->away_since_ms == 0)
        n->away_since_ms = mgr->now_ms;
    if (n != NULL && n->away_since_ms != 0 && mgr->now_ms - n->away_since_ms < AWAY_MS)
        vine_err_set(&err, VINE_ETIMEDOUT,
                     "the nodes of job %llu that have '%s' do not answer",
                     (unsigned long long)m->job, shown(m->path));
    else if (n != NULL && n->away_since_ms != 0)
        vine_err_set(
            &err, VINE_ELOST,
            "'%s' is lost: the nodes of job %llu that had it are gone (run the "
            "task that makes it again; --replicas keeps copies)",
            shown(m->path), (unsigned long long)m->job);
    send_named(mgr, node, m->ticket, n != NULL ? n->id : m->path, &err);
}

int mgr_name_message(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                     struct vine_err *err)
{
    struct source *s = mgr_source_find(mgr, m->job, m->uid, m->path);
    const struct want *w = s != NULL ? mgr_want_find(s, node) : NULL;
    struct vine_err why = {0};
    bool versioned;

    if (!vine_source_is_named(m->path, &versioned) || m->copies > m->name_count)
        return vine_err_set(err, VINE_EPROTO, "name: malformed");
    if (!versioned) {
        look_up(mgr, node, m);
        return 0;
    }
    if (w == NULL || w->holder == NULL || !w->holder->complete)
        vine_err_set(&why, VINE_ECANCELED, "the job has ended on this node");
    else
        (void)name_set(mgr, m->job, m->uid, m->path, true, &why);
    if (why.code != VINE_OK || m->copies == 0)
        send_named(mgr, node, m->ticket, m->path, &why);
    else
        copying_begin(mgr, node, s, m);
    return 0;
}

void mgr_name_free_all(struct mgr *mgr)
{
    struct table_link *l;

    while (mgr->first_copying != NULL) {
        struct copying *c = mgr->first_copying;
        mgr->first_copying = c->next;
        free(c->node);
        free(c);
    }
    while ((l = table_each(&mgr->named_jobs, NULL)) != NULL)
        named_job_free(mgr, table_entry(l, struct named_job, by_job));
}
