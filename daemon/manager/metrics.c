/* metrics.c - what Prometheus learns of the manager. */
#include "daemon/manager/metrics.h"

#include "daemon/edge/metrics.h"
#include "vine/log.h"

struct counts {
    uint64_t nodes, suspect, receiving;
    uint64_t objects, wanting, seeds;
};

static void count_node(void *arg, const struct mgr_node_info *node)
{
    struct counts *n = arg;

    n->nodes++;
    n->suspect += node->suspect;
    n->receiving += node->receiving;
}

static void count_object(void *arg, const struct mgr_object_info *object)
{
    struct counts *n = arg;

    n->objects++;
    n->wanting += object->wanting;
    n->seeds += object->seeds;
}

void manager_metrics_write(void *ctx, FILE *out)
{
    const struct manager_figures *figures = ctx;
    struct counts n = {0};

    mgr_each_node(figures->mgr, count_node, &n);
    mgr_each_object(figures->mgr, count_object, &n);
    metrics_family(out, "vine_manager_info", "gauge", "1, with the daemon's version.");
    metrics_value(out, "vine_manager_info", "version", VINE_VERSION, 1);
    metrics_one(out, "vine_nodes", "gauge", "Nodes that are registered.", n.nodes);
    metrics_one(out, "vine_nodes_suspect", "gauge",
                "Nodes that failed to send lately and are asked for less.", n.suspect);
    metrics_one(out, "vine_objects_known", "gauge", "Objects that some node has.",
                n.objects);
    metrics_one(out, "vine_copies", "gauge", "Whole copies on nodes, all objects.",
                n.seeds);
    metrics_one(out, "vine_copies_wanted", "gauge",
                "Copies that jobs wait for, all objects.", n.wanting);
    metrics_one(out, "vine_pieces_planned", "gauge",
                "Pieces that receivers were told to fetch, one by one.", n.receiving);
    metrics_family(out, "vine_messages_total", "counter",
                   "Messages from and to nodes.");
    metrics_value(out, "vine_messages_total", "direction", "in", figures->messages_in);
    metrics_value(out, "vine_messages_total", "direction", "out",
                  figures->messages_out);
    metrics_process(out);
}
