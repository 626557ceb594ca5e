/* files.c - vine-env get and put: files that a job's tasks ask for, and offer to each
 * other, while they run. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/base/hostlist.h"
#include "daemon/cli/cli.h"
#include "daemon/cli/progress.h"
#include "daemon/cli/source.h"
#include "vine/client.h"
#include "vine/clock.h"
#include "vine/spec.h"

#define WAIT_MAX_S 86400
#define FIRST_PAUSE_MS 100 /* while nobody has put it yet */
#define LAST_PAUSE_MS 1000
#define AWAY_MS 30000 /* nodes that have it do not answer: they may come back */
#define REPLICAS_MAX 64

static void pause_ms(int64_t ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    (void)nanosleep(&ts, NULL);
}

static int read_number(struct cli *cli, const char *option, long min, long max,
                       long *out)
{
    const char *text = cli_value(cli, option);
    char *end;

    if (text == NULL)
        return 0;
    errno = 0;
    *out = strtol(text, &end, 10);
    if (errno == 0 && end != text && *end == '\0' && *out >= min && *out <= max)
        return 0;
    (void)cli_usage(cli, "--%s takes a number from %ld to %ld, not '%.40s'", option,
                    min, max, text);
    return -1;
}

/* ---- get ----------------------------------------------------------------------- */

static json_t *get_request(const char *src, struct vine_err *err)
{
    bool named = strncmp(src, VINE_NAMED, strlen(VINE_NAMED)) == 0;
    char *absolute = NULL, *text = NULL;
    json_t *request = NULL;

    if (named) {
        const char *name = src + strlen(VINE_NAMED);
        if (vine_named_check(name, err) == 0)
            text = vine_path_escape(name);
    } else {
        absolute = source_absolute(src, err);
        if (absolute != NULL)
            text = source_spec(absolute, true, err);
    }
    if (text != NULL)
        request = json_pack("{s:s,s:s,s:i}", "op", "get", named ? "name" : "data", text,
                            "progress_ms", PROGRESS_MS);
    if (text != NULL && request == NULL)
        vine_err_set(err, VINE_ENOMEM, "out of memory");
    free(text);
    free(absolute);
    return request;
}

/* The daemon's mount is there; can this process see it? */
static int check_view(const char *path, struct vine_err *err)
{
    if (access(path, R_OK) == 0)
        return 0;
    return vine_err_sys(err,
                        "it is on this node, but this process cannot open it at "
                        "'%.200s': does the job or its container have mounts of its "
                        "own, without those of /run/vine?",
                        path);
}

static int ask_until(struct cli *cli, const char *src, int64_t deadline,
                     struct progress *progress, json_t **event, struct vine_err *err)
{
    int64_t pause = FIRST_PAUSE_MS, away = vine_now_ms() + AWAY_MS;

    if (away < deadline)
        away = deadline;
    for (;;) {
        json_t *request = get_request(src, err);
        if (request == NULL)
            return -1;
        if (cli_ask(cli, request, progress_event, progress, 0, event, err) == 0)
            return 0;
        if ((err->code != VINE_ENOENT || vine_now_ms() + pause > deadline) &&
            (err->code != VINE_ETIMEDOUT || vine_now_ms() + pause > away))
            return -1;
        *err = (struct vine_err){0};
        pause_ms(pause);
        pause = 2 * pause < LAST_PAUSE_MS ? 2 * pause : LAST_PAUSE_MS;
    }
}

static int run_get(struct cli *cli, int argc, char *argv[])
{
    struct progress progress;
    struct vine_err err = {0};
    json_t *event = NULL;
    long wait_s = 0;
    char *path;
    int result;

    if (read_number(cli, "wait", 0, WAIT_MAX_S, &wait_s) < 0)
        return CLI_USAGE;
    progress_begin(&progress, argv[0], cli->json);
    result =
        ask_until(cli, argv[0], vine_now_ms() + wait_s * 1000, &progress, &event, &err);
    progress_end(&progress);
    if (result < 0)
        return cli_fail(cli, &err);
    path = strdup(cli_text(event, "path"));
    if (path == NULL || vine_path_unescape(path) < 0)
        vine_err_set(&err, VINE_EPROTO, "malformed answer from the daemon");
    else
        (void)check_view(path, &err);
    if (err.code != VINE_OK) {
        result = cli_fail(cli, &err);
    } else if (cli->json) {
        result = cli_print(json_pack("{s:s,s:s,s:I}", "path", cli_text(event, "path"),
                                     "digest", cli_text(event, "digest"), "size",
                                     (json_int_t)cli_number(event, "size")));
    } else {
        printf("%s\n", path);
        result = CLI_OK;
    }
    free(path);
    json_decref(event);
    return result;
}

static const struct cli_option get_options[] = {
    {"wait", "SECONDS", 0, "wait so long for what nobody has put yet"},
    {0},
};

const struct cli_command cli_get = {
    .name = "get",
    .arguments = "SRC [--wait SECONDS] [--json]",
    .summary = "In a job: bring a file or directory to this node, print its path there",
    .run = run_get,
    .min_args = 1,
    .max_args = 1,
    .options = get_options,
    .notes =
        "SRC is a path or a URL, as --vine-data takes it, or vine:NAME, which a task\n"
        "of the same job has put. The path is below $VINE_DIR, readable by the job's\n"
        "user alone, and goes with the job.\n",
};

/* ---- put ----------------------------------------------------------------------- */

/* Other nodes of the job, from another one on each time, so that copies spread. */
static json_t *other_nodes(struct vine_err *err)
{
    const char *text = getenv("SLURM_JOB_NODELIST"), *own = getenv("SLURMD_NODENAME");
    struct hostlist list = {0};
    json_t *names = json_array();
    size_t first;

    if (text == NULL || hostlist_parse(text, &list, err) < 0) {
        json_decref(names);
        vine_err_set(err, VINE_EINVAL,
                     "--replicas needs SLURM_JOB_NODELIST, which a task of a job has");
        return NULL;
    }
    first = list.count > 0 ? (size_t)getpid() % list.count : 0;
    for (size_t i = 0; i < list.count; i++) {
        const char *name = list.names[(first + i) % list.count];
        if (own == NULL || strcmp(name, own) != 0)
            (void)json_array_append_new(names, json_string(name));
    }
    hostlist_free(&list);
    return names;
}

static int add_replicas(json_t *request, long replicas, struct vine_err *err)
{
    json_t *names;

    if (replicas <= 1)
        return 0;
    names = other_nodes(err);
    if (names == NULL)
        return -1;
    if (json_array_size(names) < (size_t)replicas - 1) {
        vine_err_set(err, VINE_EINVAL,
                     "--replicas %ld: the job has %zu nodes beside this one", replicas,
                     json_array_size(names));
        json_decref(names);
        return -1;
    }
    (void)json_object_set_new(request, "nodes", names);
    (void)json_object_set_new(request, "copies", json_integer(replicas - 1));
    return 0;
}

static json_t *put_request(const char *file, const char *name, long replicas,
                           struct vine_err *err)
{
    char *absolute = realpath(file, NULL);
    char *path = absolute != NULL ? vine_path_escape(absolute) : NULL;
    char *label = vine_path_escape(name);
    json_t *request = NULL;

    if (absolute == NULL)
        vine_err_sys(err, "cannot find '%.200s'", file);
    else if (path == NULL || label == NULL)
        vine_err_set(err, VINE_ENOMEM, "out of memory");
    else if (vine_named_check(name, err) == 0)
        request = json_pack("{s:s,s:s,s:s,s:i}", "op", "put", "file", path, "name",
                            label, "progress_ms", PROGRESS_MS);
    if (request != NULL && add_replicas(request, replicas, err) < 0) {
        json_decref(request);
        request = NULL;
    }
    free(label);
    free(path);
    free(absolute);
    return request;
}

static int run_put(struct cli *cli, int argc, char *argv[])
{
    struct progress progress;
    struct vine_err err = {0};
    json_t *request, *event = NULL;
    int64_t away = vine_now_ms() + AWAY_MS;
    long replicas = 1;
    int result = -1;

    if (read_number(cli, "replicas", 1, REPLICAS_MAX, &replicas) < 0)
        return CLI_USAGE;
    progress_begin(&progress, argv[0], cli->json);
    do {
        if (err.code != VINE_OK)
            pause_ms(LAST_PAUSE_MS);
        err = (struct vine_err){0};
        request = put_request(argv[0], argv[1], replicas, &err);
        if (request != NULL)
            result = cli_ask(cli, request, progress_event, &progress, 0, &event, &err);
    } while (result < 0 && err.code == VINE_ETIMEDOUT && vine_now_ms() < away);
    progress_end(&progress);
    if (result < 0)
        return cli_fail(cli, &err);
    json_decref(event);
    if (cli->json)
        return cli_print(
            json_pack("{s:s,s:i}", "name", argv[1], "replicas", (int)replicas));
    return CLI_OK;
}

static const struct cli_option put_options[] = {
    {"replicas", "K", 0,
     "return when K nodes of the job have it (default 1: this one)"},
    {0},
};

const struct cli_command cli_put = {
    .name = "put",
    .arguments = "FILE NAME [--replicas K] [--json]",
    .summary = "In a job: offer a file or directory to the job's other nodes",
    .run = run_put,
    .min_args = 2,
    .max_args = 2,
    .options = put_options,
    .notes =
        "Tasks of the same job get it as vine:NAME, from this node's disk or from any\n"
        "node's that has it by then. It is copied into this node's store: FILE may\n"
        "change or go afterwards. Putting the same NAME again replaces it for those\n"
        "who ask later; where a task has got the file before, that stays until the\n"
        "job ends. It ends with the job, or with the last node that has it.\n",
};
