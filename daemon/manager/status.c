/* status.c - the cluster, or one job, as a JSON document.
 *
 * Of the cluster names, numbers and digests only: whose sources they are is not told.
 * Of a job its paths too: the node that asks says for whom, and shows them to nobody
 * else. A document that would be too long for the local socket gives counts. */
#include "daemon/manager/status.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "vine/escape.h"

#define STATUS_MAX (900u << 10) /* fits a frame of the local socket */

/* ---- the cluster ------------------------------------------------------------- */

static void list_node(void *arg, const struct mgr_node_info *n)
{
    (void)json_array_append_new(
        arg, json_pack("{s:s, s:s, s:I, s:I, s:I, s:b}", "name", n->name, "addr",
                       n->addr, "seeds", (json_int_t)n->complete_objects, "sending",
                       (json_int_t)n->sending, "receiving", (json_int_t)n->receiving,
                       "suspect", n->suspect));
}

static void list_object(void *arg, const struct mgr_object_info *o)
{
    char hex[VINE_HEX_LEN + 1];

    vine_digest_hex(&o->digest, hex);
    (void)json_array_append_new(
        arg, json_pack("{s:s, s:I, s:I, s:I, s:I}", "digest", hex, "size",
                       (json_int_t)o->size, "pieces", (json_int_t)o->pieces, "seeds",
                       (json_int_t)o->seeds, "wanting", (json_int_t)o->wanting));
}

/* Steals `root`. */
static char *print_short(json_t *root)
{
    char *text = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;

    if (text != NULL && strlen(text) > STATUS_MAX) {
        free(text); /* counts must do */
        text = json_dumps(json_object_get(root, "counts"), JSON_COMPACT);
    }
    json_decref(root);
    return text;
}

static char *cluster_text(const struct mgr *mgr)
{
    json_t *nodes = json_array(), *objects = json_array();

    mgr_each_node(mgr, list_node, nodes);
    mgr_each_object(mgr, list_object, objects);
    return print_short(json_pack("{s:s, s:{s:b, s:I, s:I}, s:o, s:o}", "version",
                                 VINE_VERSION, "counts", "truncated", 1, "node_count",
                                 (json_int_t)json_array_size(nodes), "object_count",
                                 (json_int_t)json_array_size(objects), "nodes", nodes,
                                 "objects", objects));
}

/* ---- a job ------------------------------------------------------------------- */

/* Bytes: of the build while there is one, else of the slowest node. */
static json_t *source_value(const struct mgr_source_info *s)
{
    bool read = s->to_read > 0;
    json_t *o = json_pack("{s:s, s:I, s:I, s:I, s:I}", "state", s->state, "nodes",
                          (json_int_t)s->nodes, "ready", (json_int_t)s->ready,
                          "bytes_done", (json_int_t)(read ? s->read : s->slowest_bytes),
                          "bytes_total", (json_int_t)(read ? s->to_read : s->size));

    if (s->origin != NULL)
        (void)json_object_set_new(o, "origin", json_string(s->origin));
    if (s->bound && s->slowest != NULL)
        (void)json_object_set_new(o, "slowest", json_string(s->slowest));
    return o;
}

struct job_lists {
    json_t *sources, *nodes; /* nodes: of the last source */
    bool without_nodes;
};

static void list_source(void *arg, const struct mgr_source_info *s)
{
    struct job_lists *lists = arg;
    char hex[VINE_HEX_LEN + 1] = "", *path = vine_path_escape(s->path);
    json_t *o = source_value(s);

    if (s->bound)
        vine_digest_hex(&s->digest, hex);
    lists->nodes = json_array();
    (void)json_object_set_new(o, "path", json_string(path != NULL ? path : ""));
    (void)json_object_set_new(o, "uid", json_integer((json_int_t)s->uid));
    (void)json_object_set_new(o, "digest", s->bound ? json_string(hex) : json_null());
    (void)json_object_set_new(o, "on", lists->nodes);
    (void)json_array_append_new(lists->sources, o);
    free(path);
}

static void list_want(void *arg, const struct mgr_want_info *w)
{
    struct job_lists *lists = arg;

    if (!lists->without_nodes)
        (void)json_array_append_new(
            lists->nodes, json_pack("{s:s, s:I, s:b}", "name", w->node, "bytes_done",
                                    (json_int_t)w->bytes, "ready", w->ready));
}

static char *job_text(const struct mgr *mgr, uint64_t job, uint32_t uid,
                      bool without_nodes)
{
    struct job_lists lists = {.sources = json_array(), .without_nodes = without_nodes};
    json_t *root;
    char *text;

    mgr_each_source(mgr, job, uid, list_source, list_want, &lists);
    root =
        json_pack("{s:b, s:o}", "truncated", without_nodes, "sources", lists.sources);
    text = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (text == NULL || strlen(text) <= STATUS_MAX || without_nodes)
        return text;
    free(text);
    return job_text(mgr, job, uid, true);
}

static char *brief_text(const struct mgr *mgr, uint32_t conn, const struct msg *m)
{
    struct mgr_source_info info;
    json_t *o = mgr_longest_wait(mgr, conn, m->job, m->uid, &info) ? source_value(&info)
                                                                   : json_object();
    char *text = json_dumps(o, JSON_COMPACT);

    json_decref(o);
    return text;
}

char *status_text(const struct mgr *mgr, uint32_t conn, const struct msg *m)
{
    if (m->job == 0)
        return cluster_text(mgr);
    return m->brief ? brief_text(mgr, conn, m) : job_text(mgr, m->job, m->uid, false);
}
