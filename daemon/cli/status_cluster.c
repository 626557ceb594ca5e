/* status_cluster.c - vine-env status --cluster and --job: what the manager tells. */
#include <stdlib.h>
#include <string.h>

#include "daemon/cli/cli.h"
#include "daemon/cli/status.h"

/* ---- the cluster ------------------------------------------------------------- */

static int print_nodes(FILE *out, const json_t *nodes)
{
    static const char *const headings[] = {
        "NODE", "ADDRESS", ">SEEDS", ">SENDING", ">RECEIVING", "STATE", NULL};
    struct table *table = table_new(headings);
    const json_t *node;
    size_t index;

    json_array_foreach(nodes, index, node)
    {
        struct figure seeds = figure_number(cli_number(node, "seeds"));
        struct figure sending = figure_number(cli_number(node, "sending"));
        struct figure receiving = figure_number(cli_number(node, "receiving"));
        const json_t *suspect = json_object_get(node, "suspect");
        bool bad = json_is_true(suspect) || json_integer_value(suspect) > 0;

        table_add(table, (const char *const[]){
                             cli_text(node, "name"), cli_text(node, "addr"), seeds.text,
                             sending.text, receiving.text, bad ? "suspect" : "ok"});
    }
    return table_print(table, out);
}

static int print_cluster_objects(FILE *out, const json_t *objects)
{
    static const char *const headings[] = {"DIGEST", ">SIZE",    ">PIECES",
                                           ">SEEDS", ">WANTING", NULL};
    struct table *table = table_new(headings);
    const json_t *o;
    size_t index;

    json_array_foreach(objects, index, o)
    {
        struct short_digest digest = status_digest(cli_text(o, "digest"));
        struct figure size = figure_bytes(cli_number(o, "size"));
        struct figure pieces = figure_number(cli_number(o, "pieces"));
        struct figure seeds = figure_number(cli_number(o, "seeds"));
        struct figure wanting = figure_number(cli_number(o, "wanting"));

        table_add(table, (const char *const[]){digest.text, size.text, pieces.text,
                                               seeds.text, wanting.text});
    }
    return table_print(table, out);
}

int status_print_cluster(FILE *out, const json_t *document,
                         const struct status_before *before)
{
    const json_t *objects = json_object_get(document, "objects");
    int result;

    if (json_is_true(json_object_get(document, "truncated"))) {
        fprintf(out, "%s nodes, %s objects: too many to list\n",
                figure_count(cli_number(document, "node_count")).text,
                figure_count(cli_number(document, "object_count")).text);
        return ferror(out) ? -1 : 0;
    }
    result = print_nodes(out, json_object_get(document, "nodes"));
    if (json_array_size(objects) > 0) {
        (void)fputc('\n', out);
        result |= print_cluster_objects(out, objects);
    }
    return result;
}

/* ---- a job ------------------------------------------------------------------- */

/* "fetching", "building 40 % on n3", "ready". */
static void describe_state(const json_t *source, char *out, size_t size)
{
    const char *state = cli_text(source, "state"), *origin = cli_text(source, "origin");
    uint64_t total = cli_number(source, "bytes_total");
    char done[16] = "";

    if (strcmp(state, "bound") == 0) {
        bool ready = cli_number(source, "ready") == cli_number(source, "nodes");
        (void)snprintf(out, size, "%s", ready ? "ready" : "fetching");
        return;
    }
    if (strcmp(state, "building") == 0 && total > 0)
        (void)snprintf(done, sizeof(done), " %u %%",
                       status_percent(cli_number(source, "bytes_done"), total));
    (void)snprintf(out, size, "%.20s%s%s%.64s", state, done,
                   *origin != '\0' ? " on " : "", origin);
}

static int print_sources(FILE *out, const json_t *sources)
{
    static const char *const headings[] = {"SOURCE", ">UID",   "DIGEST", ">SIZE",
                                           "STATE",  ">NODES", ">READY", NULL};
    struct table *table = table_new(headings);
    const json_t *s;
    size_t index;

    json_array_foreach(sources, index, s)
    {
        struct short_digest digest = status_digest(cli_text(s, "digest"));
        bool bound = digest.text[0] != '\0';
        struct figure uid = figure_number(cli_number(s, "uid"));
        struct figure size = figure_bytes(cli_number(s, "bytes_total"));
        struct figure nodes = figure_number(cli_number(s, "nodes"));
        struct figure ready = figure_number(cli_number(s, "ready"));
        char *path = cli_shown_path(cli_text(s, "path")), state[128];

        describe_state(s, state, sizeof(state));
        table_add(table, (const char *const[]){path != NULL ? path : "?", uid.text,
                                               bound ? digest.text : "-",
                                               bound ? size.text : "-", state,
                                               nodes.text, ready.text});
        free(path);
    }
    return table_print(table, out);
}

struct share { /* one node's of one source */
    const json_t *node, *source;
    uint64_t done, total, was; /* bytes; was: in the answer before */
};

/* The slowest first: they are what one waits for. */
static int compare(const void *a, const void *b)
{
    const struct share *x = a, *y = b;
    unsigned left = status_percent(x->done, x->total),
             right = status_percent(y->done, y->total);

    if (left != right)
        return left < right ? -1 : 1;
    return strcmp(cli_text(x->node, "name"), cli_text(y->node, "name"));
}

/* Lists keep their order, mostly: it is likely where it was. */
static const json_t *find_text(const json_t *list, size_t at, const char *key,
                               const char *text)
{
    const json_t *entry = json_array_get(list, at);
    size_t index;

    if (entry != NULL && strcmp(cli_text(entry, key), text) == 0)
        return entry;
    json_array_foreach(list, index, entry)
    {
        if (strcmp(cli_text(entry, key), text) == 0)
            return entry;
    }
    return NULL;
}

/* Caller frees; NULL: no memory. */
static struct share *list_shares(const json_t *sources, const json_t *before,
                                 size_t *count)
{
    struct share *shares;
    const json_t *s, *node;
    size_t i, j, room = 0;

    *count = 0;
    json_array_foreach(sources, i, s)
    {
        room += json_array_size(json_object_get(s, "on"));
    }
    shares = calloc(room + 1, sizeof(*shares));
    if (shares == NULL)
        return NULL;
    json_array_foreach(sources, i, s)
    {
        const json_t *was = find_text(before, i, "path", cli_text(s, "path"));
        bool bound = strcmp(cli_text(s, "state"), "bound") == 0;

        json_array_foreach(json_object_get(s, "on"), j, node)
        {
            const json_t *known = find_text(json_object_get(was, "on"), j, "name",
                                            cli_text(node, "name"));

            shares[(*count)++] = (struct share){
                .node = node,
                .source = s,
                .done = cli_number(node, "bytes_done"),
                .total = bound ? cli_number(s, "bytes_total") : 0,
                .was = cli_number(known, "bytes_done"),
            };
        }
    }
    return shares;
}

static void add_share(struct table *table, const struct share *s,
                      const struct status_before *before)
{
    struct figure here = figure_bytes(s->done), of = figure_bytes(s->total);
    char *path = cli_shown_path(cli_text(s->source, "path"));
    char state[32] = "waiting", rate[FIGURE_MAX + 4] = "-";

    if (json_is_true(json_object_get(s->node, "ready")))
        (void)snprintf(state, sizeof(state), "ready");
    else if (s->total > 0)
        (void)snprintf(state, sizeof(state), "%u %%",
                       status_percent(s->done, s->total));
    if (before->ms > 0)
        (void)snprintf(rate, sizeof(rate), "%s/s",
                       status_rate(before, s->was, s->done).text);
    table_add(table, (const char *const[]){cli_text(s->node, "name"), here.text,
                                           s->total > 0 ? of.text : "-", rate, state,
                                           path != NULL ? path : "?"});
    free(path);
}

static int print_shares(FILE *out, const json_t *sources,
                        const struct status_before *before)
{
    static const char *const headings[] = {"NODE",  ">HERE",  ">OF", ">RATE",
                                           "STATE", "SOURCE", NULL};
    const json_t *was = json_object_get(before->document, "sources");
    struct table *table = table_new(headings);
    size_t count = 0;
    struct share *shares = list_shares(sources, was, &count);

    if (shares != NULL)
        qsort(shares, count, sizeof(*shares), compare);
    for (size_t i = 0; i < count; i++)
        add_share(table, &shares[i], before);
    free(shares);
    return table_print(table, out);
}

int status_print_job(FILE *out, const json_t *document,
                     const struct status_before *before)
{
    const json_t *sources = json_object_get(document, "sources");
    int result = print_sources(out, sources);

    if (json_is_true(json_object_get(document, "truncated"))) {
        fprintf(out, "\nToo many nodes to list.\n");
        return result < 0 || ferror(out) ? -1 : 0;
    }
    (void)fputc('\n', out);
    return result | print_shares(out, sources, before);
}
