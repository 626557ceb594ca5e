/* report_model.c - the log's lines, gathered by node, and who fed whom.
 *
 * The tree: each node hangs on the sender that gave it most of those that hang on a
 * root already, the widest link first. So there are no circles, though two nodes may
 * well have fed each other, and a node that nobody is known to have fed hangs on the
 * store that it had its bytes from. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/cli/cli.h"
#include "daemon/cli/report.h"

#define STORIES_MAX 1000000u

const char *const report_kind_class[REPORT_KINDS] = {"shared", "peers", "reused",
                                                     "here"};
const char *const report_kind_name[REPORT_KINDS] = {"shared file system", "other nodes",
                                                    "older objects in the node's store",
                                                    "already on the node"};

static enum report_kind kind_of(const char *word)
{
    if (strcmp(word, "source") == 0 || strcmp(word, "built") == 0)
        return REPORT_SHARED;
    if (strcmp(word, "reused") == 0)
        return REPORT_REUSED;
    return strcmp(word, "here") == 0 ? REPORT_HERE : REPORT_PEERS;
}

static double time_of(const json_t *object, const char *key)
{
    return (double)json_integer_value(json_object_get(object, key));
}

/* ---- nodes ------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct report_node *)a)->name,
                  ((const struct report_node *)b)->name);
}

static int by_end(const void *a, const void *b)
{
    const struct report_node *x = a, *y = b;

    if (x->outside != y->outside)
        return x->outside - y->outside;
    return x->ended < y->ended ? -1 : x->ended > y->ended ? 1 : by_name(a, b);
}

/* Those of `nodes`, sorted by name, are one each afterwards. */
static uint32_t unite(struct report_node *nodes, uint32_t count)
{
    uint32_t kept = 0;

    if (count == 0)
        return 0;
    qsort(nodes, count, sizeof(*nodes), by_name);
    for (uint32_t i = 0; i < count; i++) {
        if (kept == 0 || strcmp(nodes[kept - 1].name, nodes[i].name) != 0)
            nodes[kept++] = nodes[i];
        else /* a node of the job, if any of them is */
            nodes[kept - 1].outside = nodes[kept - 1].outside && nodes[i].outside;
    }
    return kept;
}

static struct report_node *find_named(struct report_node *nodes, uint32_t count,
                                      const char *name)
{
    const struct report_node key = {.name = name};

    return bsearch(&key, nodes, count, sizeof(key), by_name);
}

/* Every name in the log, of the job or a sender; sorted. */
static int list_nodes(struct report *r, struct vine_err *err)
{
    const json_t *story, *row;
    size_t i, j, room = 2;
    uint32_t count = 0;

    json_array_foreach(r->stories, i, story) room +=
        1 + json_array_size(json_object_get(story, "from"));
    r->nodes = calloc(room, sizeof(*r->nodes));
    if (r->nodes == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    json_array_foreach(r->stories, i, story)
    {
        r->nodes[count++] = (struct report_node){.name = cli_text(story, "node")};
        json_array_foreach(json_object_get(story, "from"), j, row)
        {
            if (*cli_text(row, "peer") != '\0')
                r->nodes[count++] = (struct report_node){.name = cli_text(row, "peer"),
                                                         .outside = true};
        }
    }
    r->all_count = unite(r->nodes, count);
    return 0;
}

static int add_rows(struct report *r, struct report_node *n, const json_t *story,
                    struct vine_err *err)
{
    const json_t *list = json_object_get(story, "from"), *row;
    struct report_row *rows =
        realloc(n->rows, (n->row_count + json_array_size(list) + 1) * sizeof(*rows));
    size_t i;

    if (rows == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    n->rows = rows;
    json_array_foreach(list, i, row)
    {
        struct report_row *to = &rows[n->row_count++];
        *to = (struct report_row){
            .kind = kind_of(cli_text(row, "kind")),
            .peer = cli_text(row, "peer"),
            .bytes = (double)cli_number(row, "bytes"),
            .first = (time_of(row, "first_ms") - r->started_ms) / 1000,
            .last = (time_of(row, "last_ms") - r->started_ms) / 1000};
        n->bytes += to->bytes;
        n->by_kind[to->kind] += to->bytes;
        r->bytes += to->bytes;
        r->by_kind[to->kind] += to->bytes;
    }
    return 0;
}

static int add_story(struct report *r, const json_t *story, struct vine_err *err)
{
    struct report_node *n = find_named(r->nodes, r->all_count, cli_text(story, "node"));
    double wanted = (time_of(story, "wanted_ms") - r->started_ms) / 1000;
    double begun = (time_of(story, "begun_ms") - r->started_ms) / 1000;
    double ended = (time_of(story, "ended_ms") - r->started_ms) / 1000;

    if (n->objects == 0 || wanted < n->wanted)
        n->wanted = wanted;
    if (n->objects == 0 || begun < n->begun)
        n->begun = begun;
    if (n->objects == 0 || ended > n->ended)
        n->ended = ended;
    n->objects++;
    n->failed += strcmp(cli_text(story, "code"), "ok") != 0;
    if (ended > r->seconds)
        r->seconds = ended;
    return add_rows(r, n, story, err);
}

static int count_given(struct report *r)
{
    for (uint32_t i = 0; i < r->all_count; i++)
        for (uint32_t j = 0; j < r->nodes[i].row_count; j++) {
            const struct report_row *row = &r->nodes[i].rows[j];
            struct report_node *from =
                *row->peer == '\0' ? NULL
                                   : find_named(r->nodes, r->all_count, row->peer);
            if (from != NULL)
                from->given += row->bytes;
        }
    return 0;
}

/* ---- sources ----------------------------------------------------------------- */

static struct report_source *source_get(struct report *r, const json_t *story)
{
    const char *path = cli_text(story, "path"), *digest = cli_text(story, "digest");
    struct report_source *list = r->sources;

    for (uint32_t i = 0; i < r->source_count; i++)
        if (strcmp(list[i].path, path) == 0 && strcmp(list[i].digest, digest) == 0)
            return &list[i];
    list = realloc(list, (r->source_count + 1) * sizeof(*list));
    if (list == NULL)
        return NULL;
    r->sources = list;
    list[r->source_count] =
        (struct report_source){.path = path,
                               .digest = digest,
                               .code = "",
                               .size = (double)cli_number(story, "size")};
    return &list[r->source_count++];
}

static int list_sources(struct report *r, struct vine_err *err)
{
    const json_t *story;
    size_t i;

    json_array_foreach(r->stories, i, story)
    {
        struct report_source *s = source_get(r, story);
        if (s == NULL)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
        s->nodes++;
        if (strcmp(cli_text(story, "code"), "ok") != 0 && s->failed++ == 0)
            s->code = cli_text(story, "code");
    }
    return 0;
}

/* ---- the tree ---------------------------------------------------------------- */

struct edge {
    uint32_t from, to;
    double bytes;
};

static int by_sender(const void *a, const void *b)
{
    const struct edge *x = a, *y = b;

    return x->from < y->from ? -1 : x->from > y->from;
}

static bool was_fed(const struct report_node *n)
{
    return n->by_kind[REPORT_SHARED] + n->by_kind[REPORT_PEERS] > 0;
}

/* Sorted by sender; of the two roots too. What a node had itself counts where nobody
 * fed it. Caller frees; NULL: out of memory. */
static struct edge *list_edges(const struct report *r, const uint32_t *index_of,
                               struct report_node *named, size_t *count)
{
    size_t room = 1;
    struct edge *edges;

    for (uint32_t i = 0; i < r->node_count; i++)
        room += r->nodes[i].row_count;
    edges = calloc(room, sizeof(*edges));
    *count = 0;
    for (uint32_t i = 0; edges != NULL && i < r->node_count; i++)
        for (uint32_t j = 0; j < r->nodes[i].row_count; j++) {
            const struct report_row *row = &r->nodes[i].rows[j];
            bool own = row->kind == REPORT_REUSED || row->kind == REPORT_HERE;
            if (own && was_fed(&r->nodes[i]))
                continue;
            const struct report_node *from =
                *row->peer == '\0' ? NULL
                                   : find_named(named, r->all_count - 2, row->peer);
            uint32_t sender = row->kind == REPORT_SHARED ? report_root_shared(r)
                              : from != NULL             ? index_of[from - named]
                                                         : report_root_store(r);
            edges[(*count)++] = (struct edge){sender, i, row->bytes};
        }
    if (edges != NULL)
        qsort(edges, *count, sizeof(*edges), by_sender);
    return edges;
}

static void hang(struct report *r, uint32_t node, uint32_t parent, double bytes)
{
    r->nodes[node].parent = parent;
    r->nodes[node].from_parent = bytes;
    r->nodes[node].next_sibling = r->nodes[parent].first_child;
    r->nodes[parent].first_child = node;
    for (uint32_t up = parent; up != REPORT_NONE; up = r->nodes[up].parent)
        r->nodes[up].below++;
}

/* What hangs already offers its bytes to those that do not. */
static void offer(const struct edge *edges, size_t count, uint32_t from, double *best,
                  uint32_t *giver)
{
    size_t low = 0, high = count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (edges[middle].from < from)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < count && edges[low].from == from; low++)
        if (edges[low].bytes > best[edges[low].to]) {
            best[edges[low].to] = edges[low].bytes;
            giver[edges[low].to] = from;
        }
}

static void grow(struct report *r, const struct edge *edges, size_t count, double *best,
                 uint32_t *giver)
{
    for (uint32_t i = 0; i < r->all_count; i++) {
        best[i] = 0;
        giver[i] = report_root_store(r);
    }
    offer(edges, count, report_root_shared(r), best, giver);
    offer(edges, count, report_root_store(r), best, giver);
    for (uint32_t i = r->node_count; i < r->all_count - 2; i++) {
        hang(r, i, report_root_store(r), 0);
        offer(edges, count, i, best, giver);
    }
    for (uint32_t left = r->node_count; left > 0; left--) {
        uint32_t next = REPORT_NONE;
        for (uint32_t i = 0; i < r->node_count; i++)
            if (r->nodes[i].parent == REPORT_NONE &&
                (next == REPORT_NONE || best[i] > best[next]))
                next = i;
        hang(r, next, giver[next], best[next]);
        offer(edges, count, next, best, giver);
    }
}

/* nodes are in the order of their ends here; `named` has them by name. */
static int make_tree(struct report *r, struct vine_err *err)
{
    uint32_t count = r->all_count - 2;
    struct report_node *named = calloc(r->all_count, sizeof(*named));
    uint32_t *index_of = calloc(r->all_count, sizeof(*index_of));
    uint32_t *giver = calloc(r->all_count, sizeof(*giver));
    double *best = calloc(r->all_count, sizeof(*best));
    struct edge *edges = NULL;
    size_t edge_count = 0;

    if (named != NULL && index_of != NULL && giver != NULL && best != NULL) {
        for (uint32_t i = 0; i < count; i++) {
            named[i].name = r->nodes[i].name;
            named[i].below = i; /* where it stands in nodes */
        }
        qsort(named, count, sizeof(*named), by_name);
        for (uint32_t i = 0; i < count; i++)
            index_of[i] = named[i].below;
        edges = list_edges(r, index_of, named, &edge_count);
        if (edges != NULL)
            grow(r, edges, edge_count, best, giver);
    }
    if (edges == NULL)
        vine_err_set(err, VINE_ENOMEM, "out of memory");
    free(edges);
    free(best);
    free(giver);
    free(index_of);
    free(named);
    return err->code == VINE_OK ? 0 : -1;
}

/* ---- all of it --------------------------------------------------------------- */

static void begin_time(struct report *r)
{
    const json_t *story;
    size_t i;

    r->started_ms = INFINITY;
    json_array_foreach(r->stories, i, story) r->started_ms =
        fmin(r->started_ms, time_of(story, "wanted_ms"));
}

int report_make(struct report *r, const char *job, json_t *stories,
                struct vine_err *err)
{
    const json_t *story;
    size_t i;

    *r = (struct report){.job = job, .stories = stories};
    if (json_array_size(stories) == 0 || json_array_size(stories) > STORIES_MAX)
        return vine_err_set(err, VINE_EPROTO,
                            "the transfer log of job %s has %zu lines", job,
                            json_array_size(stories));
    begin_time(r);
    if (list_nodes(r, err) < 0 || list_sources(r, err) < 0)
        return -1;
    json_array_foreach(stories, i, story)
    {
        if (add_story(r, story, err) < 0)
            return -1;
    }
    count_given(r);
    qsort(r->nodes, r->all_count, sizeof(*r->nodes), by_end);
    while (r->node_count < r->all_count && !r->nodes[r->node_count].outside)
        r->node_count++;
    r->nodes[r->all_count++] = (struct report_node){.name = "shared file system"};
    r->nodes[r->all_count++] = (struct report_node){.name = "nodes' own stores"};
    for (uint32_t n = 0; n < r->all_count; n++)
        r->nodes[n].parent = r->nodes[n].first_child = r->nodes[n].next_sibling =
            REPORT_NONE;
    return make_tree(r, err);
}

void report_clear(struct report *r)
{
    for (uint32_t i = 0; r->nodes != NULL && i < r->all_count; i++)
        free(r->nodes[i].rows);
    free(r->nodes);
    free(r->sources);
    *r = (struct report){0};
}
