/* metrics.c - what Prometheus learns of a node. No label names a user, a job or a path.
 */
#include <string.h>

#include "daemon/edge/metrics.h"
#include "daemon/node/vined.h"
#include "vine/log.h"

struct counts {
    uint64_t complete, partial, fetching, other;
    uint64_t mounts, leases;
};

static void count_object(void *arg, const struct node_object_info *o)
{
    struct counts *n = arg;

    if (strcmp(o->state, "complete") == 0)
        n->complete++;
    else if (strcmp(o->state, "fetching") == 0)
        n->fetching++;
    else if (strcmp(o->state, "partial") == 0)
        n->partial++;
    else
        n->other++;
    n->mounts += o->mounts;
    n->leases += o->leases;
}

static void write_objects(const struct vined *vined, FILE *out)
{
    struct counts n = {0};

    node_each_object(vined->core, count_object, &n);
    metrics_family(out, "vine_objects", "gauge", "Objects in the store.");
    metrics_value(out, "vine_objects", "state", "complete", n.complete);
    metrics_value(out, "vine_objects", "state", "fetching", n.fetching);
    metrics_value(out, "vine_objects", "state", "partial", n.partial);
    metrics_value(out, "vine_objects", "state", "other", n.other);
    metrics_one(out, "vine_mounts", "gauge", "Mounted images.", n.mounts);
    metrics_one(out, "vine_leases", "gauge", "Objects held by jobs, once a job.",
                n.leases);
}

static void write_totals(const struct vined *vined, FILE *out)
{
    struct node_totals t;

    node_totals(vined->core, &t);
    metrics_one(out, "vine_manager_up", "gauge", "1: registered with a manager.",
                t.manager_up);
    metrics_family(out, "vine_received_bytes_total", "counter",
                   "Content that came to this node, by where from: other nodes, the "
                   "source itself, an image built here, older objects of the store.");
    metrics_value(out, "vine_received_bytes_total", "from", "peer", t.bytes_peer);
    metrics_value(out, "vine_received_bytes_total", "from", "origin", t.bytes_origin);
    metrics_value(out, "vine_received_bytes_total", "from", "built", t.bytes_built);
    metrics_value(out, "vine_received_bytes_total", "from", "local", t.bytes_reused);
    metrics_one(out, "vine_served_bytes_total", "counter",
                "Content sent to other nodes.", vined->bytes_served);
    metrics_one(out, "vine_store_bytes", "gauge", "Bytes that the store takes.",
                t.store_used);
    metrics_one(out, "vine_store_limit_bytes", "gauge", "Bytes that it may take.",
                t.store_max);
    metrics_one(out, "vine_transfers", "gauge", "Transfers to this node under way.",
                t.transfers);
    metrics_one(out, "vine_jobs", "gauge", "Jobs that hold or want a source.", t.jobs);
}

static void write_requests(const struct vined *vined, FILE *out)
{
    metrics_family(out, "vine_sources_total", "counter",
                   "Sources that steps asked for and were answered, by result.");
    for (int code = 0; code < VINE_CODES; code++)
        metrics_value(out, "vine_sources_total", "result", vine_code_name(code),
                      vined->results[code]);
    metrics_family(out, "vine_wait_seconds_total", "counter",
                   "Time that answered steps have waited; over vine_waits_total, the "
                   "mean.");
    (void)fprintf(out, "vine_wait_seconds_total %llu.%03llu\n",
                  (unsigned long long)(vined->waited_ms / 1000),
                  (unsigned long long)(vined->waited_ms % 1000));
    metrics_one(out, "vine_waits_total", "counter", "Steps that were answered.",
                vined->waits);
}

static void write_page(void *ctx, FILE *out)
{
    struct vined *vined = ctx;

    metrics_family(out, "vine_node_info", "gauge", "1, with the daemon's version.");
    metrics_value(out, "vine_node_info", "version", VINE_VERSION, 1);
    write_totals(vined, out);
    write_objects(vined, out);
    write_requests(vined, out);
    metrics_process(out);
}

void node_metrics_answered(struct vined *vined, uint64_t asked_ms,
                           const struct node_result *results, uint32_t count)
{
    vined->waits++;
    vined->waited_ms += vined_now(vined) - asked_ms;
    for (uint32_t i = 0; i < count; i++)
        vined->results[results[i].code]++;
}

void node_metrics_start(struct vined *vined)
{
    struct vine_err err = {0};

    if (metrics_start(&vined->loop, vined->conf.node_metrics, VINE_NODE_METRICS_PORT,
                      write_page, vined, &vined->metrics, &err) < 0)
        vine_log(VINE_LOG_WARNING, "event=metrics-refused reason=%s", vine_q(err.text));
}
