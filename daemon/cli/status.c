/* status.c - vine-env status and ls: what this node, or the cluster, has. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/cli/cli.h"
#include "daemon/cli/table.h"

#define DIGEST_SHOWN 12 /* enough to tell apart what one cluster holds */

struct short_digest {
    char text[DIGEST_SHOWN + 1];
};

static struct short_digest shorten(const char *digest)
{
    struct short_digest out;

    (void)snprintf(out.text, sizeof(out.text), "%s", digest);
    return out;
}

static int ask(struct cli *cli, const char *op, json_t **out)
{
    struct vine_err err = {0};

    if (cli_ask(cli, json_pack("{s:s}", "op", op), NULL, NULL, CLI_ANSWER_MS, out,
                &err) < 0)
        return cli_fail(cli, &err);
    return CLI_OK;
}

/* The document without what is only the protocol's. */
static int print_document(json_t *document)
{
    (void)json_object_del(document, "event");
    return cli_print(document);
}

static int finish(struct table *table)
{
    if (table_print(table, stdout) < 0) {
        fprintf(stderr, "vine-env: cannot write the result\n");
        return CLI_FAILED;
    }
    return CLI_OK;
}

/* ---- this node --------------------------------------------------------------- */

static void print_node(const json_t *node)
{
    const json_t *store = json_object_get(node, "store");
    const char *manager = cli_text(node, "manager");
    bool up = json_is_true(json_object_get(node, "manager_up"));

    printf("node      %s, vined %s, up %s\n", cli_text(node, "name"),
           cli_text(node, "version"),
           figure_seconds(cli_number(node, "uptime_s")).text);
    if (*cli_text(node, "switch") != '\0')
        printf("switch    %s\n", cli_text(node, "switch"));
    printf("manager   %s%s\n", *manager != '\0' ? manager : "none",
           up ? ", connected" : ", not connected");
    printf("store     %s of %s used in %s\n",
           figure_bytes(cli_number(store, "used")).text,
           figure_bytes(cli_number(store, "max")).text, cli_text(store, "path"));
    printf("received  %s from peers, %s from sources, %s reused, %s built here\n",
           figure_bytes(cli_number(node, "bytes_peer")).text,
           figure_bytes(cli_number(node, "bytes_origin")).text,
           figure_bytes(cli_number(node, "bytes_reused")).text,
           figure_bytes(cli_number(node, "bytes_built")).text);
    if (cli_number(node, "same_files") > 0)
        printf("unchanged %s files, %s of what was built here: not read again\n",
               figure_number(cli_number(node, "same_files")).text,
               figure_bytes(cli_number(node, "same_bytes")).text);
}

/* The paths by which jobs use an object, else "-". Caller frees. */
static char *users_of(const json_t *jobs, const char *digest)
{
    const json_t *job;
    size_t index;

    json_array_foreach(jobs, index, job)
    {
        if (strcmp(cli_text(job, "digest"), digest) == 0)
            return cli_shown_path(cli_text(job, "path"));
    }
    return strdup("-");
}

static int print_objects(const json_t *objects, const json_t *jobs)
{
    static const char *const headings[] = {"DIGEST", ">SIZE",  "STATE",   ">LEASES",
                                           ">USED",  ">PEERS", ">SOURCE", ">REUSED",
                                           "PATH",   NULL};
    struct table *table = table_new(headings);
    const json_t *o;
    size_t index;

    json_array_foreach(objects, index, o)
    {
        struct short_digest digest = shorten(cli_text(o, "digest"));
        struct figure size = figure_bytes(cli_number(o, "size"));
        struct figure leases = figure_number(cli_number(o, "leases"));
        struct figure used = figure_seconds(cli_number(o, "age_s"));
        struct figure peers = figure_bytes(cli_number(o, "bytes_peer"));
        struct figure source = figure_bytes(cli_number(o, "bytes_origin"));
        struct figure reused = figure_bytes(cli_number(o, "bytes_reused"));
        uint64_t total = cli_number(o, "size"), done = cli_number(o, "bytes_done");
        char *path = users_of(jobs, cli_text(o, "digest"));
        char state[64];

        (void)snprintf(state, sizeof(state), "%.40s", cli_text(o, "state"));
        if (done < total)
            (void)snprintf(state, sizeof(state), "%.40s %u %%", cli_text(o, "state"),
                           (unsigned)((double)done * 100 / (double)total));
        table_add(table,
                  (const char *const[]){digest.text, size.text, state, leases.text,
                                        used.text, peers.text, source.text, reused.text,
                                        path != NULL ? path : "?"});
        free(path);
    }
    return finish(table);
}

static int print_jobs(const json_t *jobs)
{
    static const char *const headings[] = {"JOB", ">UID", "DIGEST", "PATH", NULL};
    struct table *table = table_new(headings);
    const json_t *job;
    size_t index;

    json_array_foreach(jobs, index, job)
    {
        struct short_digest digest = shorten(cli_text(job, "digest"));
        struct figure uid = figure_number(cli_number(job, "uid"));
        char *path = cli_shown_path(cli_text(job, "path"));
        const char *number = cli_text(job, "job");

        /* The daemon invents numbers for stages outside jobs, beyond any of Slurm's. */
        table_add(table, (const char *const[]){
                             strlen(number) > 12 ? "(stage)" : number, uid.text,
                             digest.text[0] != '\0' ? digest.text : "-",
                             path != NULL ? path : "?"});
        free(path);
    }
    return finish(table);
}

/* ---- the cluster ------------------------------------------------------------- */

static int print_nodes(const json_t *nodes)
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
    return finish(table);
}

static int print_cluster_objects(const json_t *objects)
{
    static const char *const headings[] = {"DIGEST", ">SIZE",    ">PIECES",
                                           ">SEEDS", ">WANTING", NULL};
    struct table *table = table_new(headings);
    const json_t *o;
    size_t index;

    json_array_foreach(objects, index, o)
    {
        struct short_digest digest = shorten(cli_text(o, "digest"));
        struct figure size = figure_bytes(cli_number(o, "size"));
        struct figure pieces = figure_number(cli_number(o, "pieces"));
        struct figure seeds = figure_number(cli_number(o, "seeds"));
        struct figure wanting = figure_number(cli_number(o, "wanting"));

        table_add(table, (const char *const[]){digest.text, size.text, pieces.text,
                                               seeds.text, wanting.text});
    }
    return finish(table);
}

static int run_cluster(struct cli *cli)
{
    json_t *document = NULL;
    int result = ask(cli, "cluster_status", &document);

    if (result != CLI_OK)
        return result;
    if (cli->json)
        return print_document(document);
    result = print_nodes(json_object_get(document, "nodes"));
    if (json_array_size(json_object_get(document, "objects")) > 0) {
        putchar('\n');
        result |= print_cluster_objects(json_object_get(document, "objects"));
    }
    json_decref(document);
    return result;
}

static int run_status(struct cli *cli, int argc, char *argv[])
{
    json_t *document = NULL;
    const json_t *objects, *jobs;
    int result;

    if (cli_value(cli, "cluster") != NULL)
        return run_cluster(cli);
    result = ask(cli, "status", &document);
    if (result != CLI_OK)
        return result;
    if (cli->json)
        return print_document(document);
    objects = json_object_get(document, "objects");
    jobs = json_object_get(document, "jobs");
    print_node(json_object_get(document, "node"));
    if (json_array_size(objects) > 0) {
        putchar('\n');
        result |= print_objects(objects, jobs);
    }
    if (json_array_size(jobs) > 0) {
        putchar('\n');
        result |= print_jobs(jobs);
    }
    json_decref(document);
    return result;
}

static int run_ls(struct cli *cli, int argc, char *argv[])
{
    json_t *document = NULL;
    int result = ask(cli, "status", &document);

    if (result != CLI_OK)
        return result;
    if (cli->json) {
        json_t *objects = json_incref(json_object_get(document, "objects"));
        json_decref(document);
        return cli_print(json_pack("{s:o}", "objects", objects));
    }
    result = print_objects(json_object_get(document, "objects"),
                           json_object_get(document, "jobs"));
    json_decref(document);
    return result;
}

static const struct cli_option status_options[] = {
    {"cluster", NULL, 0, "the nodes and objects that the manager knows"},
    {0},
};

const struct cli_command cli_status = {
    .name = "status",
    .arguments = "[--cluster] [--json]",
    .summary = "What this node's daemon does: manager, store, objects, jobs",
    .run = run_status,
    .options = status_options,
    .notes = "Ordinary users see their own jobs and the objects these use.\n",
};

const struct cli_command cli_ls = {
    .name = "ls",
    .arguments = "[--json]",
    .summary = "The objects in this node's store",
    .run = run_ls,
};
