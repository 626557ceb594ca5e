/* status.c - vine-env status and ls: what this node has, once or again and again.
 *
 * A view is a request to the daemon and a way to print its answer; which of them is
 * shown, and how often, is decided in run_status alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/cli/cli.h"
#include "daemon/cli/screen.h"
#include "daemon/cli/status.h"
#include "daemon/cli/table.h"
#include "vine/clock.h"

#define WATCH_MS 1000
#define WATCH_CLUSTER_MS 2000 /* of thousands of nodes it is a long document */

struct short_digest status_digest(const char *digest)
{
    struct short_digest out;

    (void)snprintf(out.text, sizeof(out.text), "%s", digest);
    return out;
}

unsigned status_percent(uint64_t done, uint64_t total)
{
    if (done >= total)
        return total > 0 ? 100 : 0;
    return (unsigned)((double)done * 100 / (double)total);
}

struct figure status_rate(const struct status_before *before, uint64_t was,
                          uint64_t now)
{
    uint64_t bytes = now > was ? now - was : 0; /* less: the daemon was restarted */

    return figure_bytes(before->ms > 0 ? bytes * 1000 / before->ms : 0);
}

/* ---- this node --------------------------------------------------------------- */

/* What came since the answer before, a second. */
static void print_rate(FILE *out, const struct status_before *before, const json_t *now)
{
    const json_t *node = json_object_get(before->document, "node");

    if (before->ms == 0)
        return;
    fprintf(out, "now       %s/s from peers, %s/s from sources\n",
            status_rate(before, cli_number(node, "bytes_peer"),
                        cli_number(now, "bytes_peer"))
                .text,
            status_rate(before, cli_number(node, "bytes_origin"),
                        cli_number(now, "bytes_origin"))
                .text);
}

static void print_node(FILE *out, const json_t *node)
{
    const json_t *store = json_object_get(node, "store");
    const char *manager = cli_text(node, "manager");
    bool up = json_is_true(json_object_get(node, "manager_up"));

    fprintf(out, "node      %s, vined %s, up %s\n", cli_text(node, "name"),
            cli_text(node, "version"),
            figure_seconds(cli_number(node, "uptime_s")).text);
    if (*cli_text(node, "switch") != '\0')
        fprintf(out, "switch    %s\n", cli_text(node, "switch"));
    fprintf(out, "manager   %s%s\n", *manager != '\0' ? manager : "none",
            up ? ", connected" : ", not connected");
    fprintf(out, "store     %s of %s used in %s\n",
            figure_bytes(cli_number(store, "used")).text,
            figure_bytes(cli_number(store, "max")).text, cli_text(store, "path"));
    fprintf(out, "received  %s from peers, %s from sources, %s reused, %s built here\n",
            figure_bytes(cli_number(node, "bytes_peer")).text,
            figure_bytes(cli_number(node, "bytes_origin")).text,
            figure_bytes(cli_number(node, "bytes_reused")).text,
            figure_bytes(cli_number(node, "bytes_built")).text);
    if (cli_number(node, "same_files") > 0)
        fprintf(out, "unchanged %s files, %s of what was built here: not read again\n",
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

static int print_objects(FILE *out, const json_t *objects, const json_t *jobs)
{
    static const char *const headings[] = {"DIGEST", ">SIZE",  "STATE",   ">LEASES",
                                           ">USED",  ">PEERS", ">SOURCE", ">REUSED",
                                           "PATH",   NULL};
    struct table *table = table_new(headings);
    const json_t *o;
    size_t index;

    json_array_foreach(objects, index, o)
    {
        struct short_digest digest = status_digest(cli_text(o, "digest"));
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
                           status_percent(done, total));
        table_add(table,
                  (const char *const[]){digest.text, size.text, state, leases.text,
                                        used.text, peers.text, source.text, reused.text,
                                        path != NULL ? path : "?"});
        free(path);
    }
    return table_print(table, out);
}

static int print_jobs(FILE *out, const json_t *jobs)
{
    static const char *const headings[] = {"JOB", ">UID", "DIGEST", "PATH", NULL};
    struct table *table = table_new(headings);
    const json_t *job;
    size_t index;

    json_array_foreach(jobs, index, job)
    {
        struct short_digest digest = status_digest(cli_text(job, "digest"));
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
    return table_print(table, out);
}

static int print_all(FILE *out, const json_t *document,
                     const struct status_before *before)
{
    const json_t *objects = json_object_get(document, "objects");
    const json_t *jobs = json_object_get(document, "jobs");
    const json_t *node = json_object_get(document, "node");
    int result = 0;

    print_node(out, node);
    print_rate(out, before, node);
    if (json_array_size(objects) > 0) {
        (void)fputc('\n', out);
        result |= print_objects(out, objects, jobs);
    }
    if (json_array_size(jobs) > 0) {
        (void)fputc('\n', out);
        result |= print_jobs(out, jobs);
    }
    return result;
}

static int print_ls(FILE *out, const json_t *document,
                    const struct status_before *before)
{
    return print_objects(out, json_object_get(document, "objects"),
                         json_object_get(document, "jobs"));
}

/* ---- views ------------------------------------------------------------------- */

struct view {
    const char *op;
    const char *job; /* of job_status */
    int (*print)(FILE *out, const json_t *document, const struct status_before *before);
    unsigned every_ms; /* when it is watched */
};

/* The document without what is only the protocol's. */
static int view_ask(const struct cli *cli, const struct view *view, json_t **out,
                    struct vine_err *err)
{
    json_t *request = json_pack("{s:s}", "op", view->op);

    if (view->job != NULL)
        (void)json_object_set_new(request, "job", json_string(view->job));
    if (cli_ask(cli, request, NULL, NULL, CLI_ANSWER_MS, out, err) < 0)
        return -1;
    (void)json_object_del(*out, "event");
    if (view->job == NULL || json_array_size(json_object_get(*out, "sources")) > 0)
        return 0;
    json_decref(*out);
    return vine_err_set(err, VINE_ENOENT,
                        "job %s has nothing staged now: it has ended or not begun, "
                        "asked for nothing, or is not yours",
                        view->job);
}

static int cannot_write(void)
{
    fprintf(stderr, "vine-env: cannot write the result\n");
    return CLI_FAILED;
}

static int show_once(struct cli *cli, const struct view *view)
{
    const struct status_before before = {0};
    json_t *document = NULL;
    struct vine_err err = {0};
    int result;

    if (view_ask(cli, view, &document, &err) < 0)
        return cli_fail(cli, &err);
    if (cli->json)
        return cli_print(document);
    result = view->print(stdout, document, &before) < 0 || fflush(stdout) == EOF
                 ? cannot_write()
                 : CLI_OK;
    json_decref(document);
    return result;
}

/* One JSON document a line, or a screen. *before is what was shown last. */
static int show_next(const struct cli *cli, const struct view *view,
                     struct screen *screen, json_t *document,
                     struct status_before *before)
{
    int result = 0;

    if (cli->json) {
        if (json_dumpf(document, stdout, JSON_COMPACT) < 0 || putchar('\n') == EOF ||
            fflush(stdout) == EOF)
            result = -1;
    } else {
        FILE *out = screen_begin(screen);
        result = out == NULL ? -1 : view->print(out, document, before);
        if (out != NULL && screen_end(screen) < 0)
            result = -1;
    }
    json_decref(before->document);
    before->document = document;
    return result;
}

/* Until the user or the terminal ends it. A daemon that is being restarted, or a job
 * that has not begun, is waited for. */
static int show_always(struct cli *cli, const struct view *view)
{
    struct status_before before = {0};
    struct screen screen;
    int64_t shown_ms = 0;

    screen_init(&screen, stdout);
    for (;;) {
        struct vine_err err = {0};
        json_t *document = NULL;
        int result = view_ask(cli, view, &document, &err);
        int64_t now = vine_now_ms();

        if (result < 0 && shown_ms == 0 && err.code != VINE_ENOENT)
            return cli_fail(cli, &err);
        before.ms = before.document != NULL ? (uint64_t)(now - shown_ms) : 0;
        if (result == 0)
            result = show_next(cli, view, &screen, document, &before);
        else
            result = cli->json ? 0 : screen_line(&screen, err.text);
        if (result < 0)
            return cannot_write();
        shown_ms = now;
        screen_wait(view->every_ms);
    }
}

static bool is_number(const char *text)
{
    size_t digits = strspn(text, "0123456789");

    return digits > 0 && digits <= 10 && text[digits] == '\0';
}

static int run_status(struct cli *cli, int argc, char *argv[])
{
    static const struct view node = {"status", NULL, print_all, WATCH_MS};
    static const struct view cluster = {"cluster_status", NULL, status_print_cluster,
                                        WATCH_CLUSTER_MS};
    struct view job = {"job_status", cli_value(cli, "job"), status_print_job, WATCH_MS};
    const struct view *view = job.job != NULL                     ? &job
                              : cli_value(cli, "cluster") != NULL ? &cluster
                                                                  : &node;

    if (job.job != NULL && cli_value(cli, "cluster") != NULL)
        return cli_usage(cli, "--job and --cluster are two different views");
    if (job.job != NULL && !is_number(job.job))
        return cli_usage(cli, "'%.40s' is no job number", job.job);
    return cli_value(cli, "watch") != NULL ? show_always(cli, view)
                                           : show_once(cli, view);
}

static int run_ls(struct cli *cli, int argc, char *argv[])
{
    static const struct view view = {"status", NULL, print_ls, 0};
    json_t *document = NULL, *objects;
    struct vine_err err = {0};

    if (!cli->json)
        return show_once(cli, &view);
    if (view_ask(cli, &view, &document, &err) < 0)
        return cli_fail(cli, &err);
    objects = json_incref(json_object_get(document, "objects"));
    json_decref(document);
    return cli_print(json_pack("{s:o}", "objects", objects));
}

static const struct cli_option status_options[] = {
    {"job", "ID", 'j', "how far each node of this job is"},
    {"cluster", NULL, 0, "the nodes and objects that the manager knows"},
    {"watch", NULL, 'w', "again and again, until Ctrl-C"},
    {0},
};

const struct cli_command cli_status = {
    .name = "status",
    .arguments = "[--job ID|--cluster] [--watch] [--json]",
    .summary = "What this node's daemon, a job or the cluster does",
    .run = run_status,
    .options = status_options,
    .notes =
        "Ordinary users see their own jobs and the objects these use. With --watch "
        "and\n--json: one document a line.\n",
};

const struct cli_command cli_ls = {
    .name = "ls",
    .arguments = "[--json]",
    .summary = "The objects in this node's store",
    .run = run_ls,
};
