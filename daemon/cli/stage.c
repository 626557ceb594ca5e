/* stage.c - vine-env stage: get a source onto this node, or onto many. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/hostlist.h"
#include "daemon/cli/cli.h"
#include "daemon/cli/progress.h"
#include "daemon/cli/source.h"
#include "daemon/cli/table.h"

/* What is to be staged: the field of requests that names it, and its text, owned. */
struct wanted {
    const char *field;
    char *spec;
};

static json_t *stage_request(const struct wanted *wanted)
{
    return json_pack("{s:s,s:s,s:i,s:b}", "op", "stage", wanted->field, wanted->spec,
                     "progress_ms", PROGRESS_MS, "wait", 1);
}

static json_t *nodes_request(const struct wanted *wanted, const struct hostlist *list)
{
    json_t *names = json_array();

    for (size_t i = 0; i < list->count; i++)
        (void)json_array_append_new(names, json_string(list->names[i]));
    return json_pack("{s:s,s:s,s:i,s:o}", "op", "stage_nodes", wanted->field,
                     wanted->spec, "progress_ms", PROGRESS_MS, "nodes", names);
}

static int print_staged(const struct cli *cli, json_t *event)
{
    const json_t *source = json_array_get(json_object_get(event, "sources"), 0);
    const char *code = cli_text(source, "code");
    struct vine_err err = {0};
    int result = CLI_OK;

    if (strcmp(code, "ok") != 0) {
        char *text = cli_shown_path(cli_text(source, "text"));
        vine_err_set(&err, vine_code_parse(code), "%s", text != NULL ? text : code);
        free(text);
        result = cli_fail(cli, &err);
    } else if (cli->json) {
        return cli_print(
            json_pack("{s:O}", "sources", json_object_get(event, "sources")));
    } else {
        char *path = cli_shown_path(cli_text(source, "path"));
        printf("%s: %s, digest %.12s, activation %s\n", path != NULL ? path : "",
               figure_bytes(cli_number(source, "size")).text,
               cli_text(source, "digest"), cli_text(source, "activate"));
        free(path);
    }
    json_decref(event);
    return result;
}

static int stage_here(struct cli *cli, const struct wanted *wanted,
                      struct progress *progress)
{
    struct vine_err err = {0};
    json_t *event = NULL;
    int result =
        cli_ask(cli, stage_request(wanted), progress_event, progress, 0, &event, &err);

    progress_end(progress);
    return result < 0 ? cli_fail(cli, &err) : print_staged(cli, event);
}

static int stage_there(struct cli *cli, const struct wanted *wanted,
                       const struct hostlist *list, struct progress *progress)
{
    struct vine_err err = {0};
    json_t *event = NULL;
    int result = cli_ask(cli, nodes_request(wanted, list), progress_event, progress, 0,
                         &event, &err);

    progress_end(progress);
    if (result < 0)
        return cli_fail(cli, &err);
    json_decref(event);
    if (cli->json)
        return cli_print(
            json_pack("{s:b,s:i}", "staged", 1, "nodes", (int)list->count));
    if (list->count == 0)
        printf("staged on all nodes\n");
    else
        printf("staged on %zu %s\n", list->count, list->count == 1 ? "node" : "nodes");
    return CLI_OK;
}

static int run_stage(struct cli *cli, int argc, char *argv[])
{
    const char *nodes = cli_value(cli, "nodes");
    struct hostlist list = {0};
    struct progress progress;
    struct vine_err err = {0};
    bool data = cli_value(cli, "data") != NULL;
    struct wanted wanted = {.field = data ? "data" : "spec"};
    char *absolute;
    int result;

    if (nodes != NULL && strcmp(nodes, "all") != 0 &&
        hostlist_parse(nodes, &list, &err) < 0)
        return cli_usage(cli, "%s", err.text);
    absolute = source_absolute(argv[0], &err);
    if (absolute != NULL)
        wanted.spec = source_spec(absolute, data, &err);
    if (wanted.spec == NULL) {
        result = cli_fail(cli, &err);
    } else {
        progress_begin(&progress, argv[0], cli->json);
        result = nodes == NULL ? stage_here(cli, &wanted, &progress)
                               : stage_there(cli, &wanted, &list, &progress);
    }
    free(wanted.spec);
    free(absolute);
    hostlist_free(&list);
    return result;
}

static const struct cli_option options[] = {
    {"data", NULL, 0, "PATH is data: a file is itself, whatever its name"},
    {"nodes", "LIST|all", 0, "these nodes, as n[1-4,7], instead of this one"},
    {0},
};

const struct cli_command cli_stage = {
    .name = "stage",
    .arguments = "PATH [--data] [--nodes LIST|all] [--json]",
    .summary = "Get an environment or data onto nodes' disks before a job asks for it",
    .run = run_stage,
    .min_args = 1,
    .max_args = 1,
    .options = options,
    .notes =
        "PATH is a directory, an image or an archive that you can read, as --vine-env\n"
        "takes it; with --data a directory or a file, as --vine-data takes it. It "
        "stays\n"
        "in the store until the space is needed and no job uses it.\n",
};
