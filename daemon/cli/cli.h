/* cli.h - what the subcommands of vine-env share.
 *
 * main.c parses options by each command's table and calls its run(). Results go to
 * stdout (text in columns, or one JSON document with --json), all else to stderr. */
#ifndef VINE_CLI_CLI_H
#define VINE_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "vine/client.h"
#include "vine/conf.h"
#include "vine/err.h"

/* Exit codes; vine-env.1 has them too. */
enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_FAULTS = 3 };

#define CLI_OPTIONS_MAX 16
#define CLI_CONNECT_MS 5000
#define CLI_ANSWER_MS 30000 /* for requests that the daemon answers at once */

struct cli_option {
    const char *name, *argument; /* argument NULL: a flag */
    char letter;                 /* 0: none */
    const char *help;
};

#define CLI_MANY_MAX 256

struct cli;

struct cli_command {
    const char *name, *arguments, *summary;
    int (*run)(struct cli *cli, int argc, char *argv[]); /* returns an exit code */
    int min_args, max_args;
    const struct cli_option *options; /* ends with a NULL name; NULL: none */
    bool stops;       /* options end with the first argument: the rest is a command's */
    const char *many; /* the option that may be repeated; or NULL */
    const char *notes; /* at the end of the help; NULL: none */
};

struct cli {
    const struct cli_command *command;
    const char *values[CLI_OPTIONS_MAX]; /* of command->options; "" for a given flag */
    const char *many[CLI_MANY_MAX];      /* of the option that may be repeated */
    unsigned many_count;
    bool json;
    const char *config_path;
    struct vine_conf conf;
    struct vine_err conf_err;
    char socket_path[VINE_CONF_TEXT + 16];
};

extern const struct cli_command cli_status, cli_ls, cli_stage, cli_pack, cli_inspect,
    cli_trace, cli_evict, cli_doctor, cli_get, cli_put, cli_report;

/* The value of an option of the command's own table, "" for a flag; NULL: not given. */
const char *cli_value(const struct cli *cli, const char *name);

/* A mistake in the call: tells it and the right form. Returns CLI_USAGE. */
int cli_usage(const struct cli *cli, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Tell an error (and with --json, as a document too). Returns CLI_FAILED. */
int cli_fail(const struct cli *cli, const struct vine_err *err);

/* Print and free a document. Returns CLI_OK, or CLI_FAILED if stdout cannot be written.
 */
int cli_print(json_t *document);

/* request.c: connect, send `request` (stolen, NULL = out of memory), and return the
 * final event in *out. Events "progress" go to `progress` (may be NULL) on the way,
 * which may stop the wait by returning -1. An {"event":"error"} becomes *err. */
typedef int (*cli_progress)(void *arg, const json_t *event);
int cli_ask(const struct cli *cli, json_t *request, cli_progress progress, void *arg,
            int timeout_ms, json_t **out, struct vine_err *err);

/* Text and number members of a document, with "" and 0 for what is absent. Texts are
 * borrowed. */
const char *cli_text(const json_t *object, const char *key);
uint64_t cli_number(const json_t *object, const char *key);

/* A path as it came from the daemon (escaped), for a terminal: control bytes stay
 * escaped, everything else is shown as it is. Caller frees; NULL: out of memory. */
char *cli_shown_path(const char *escaped);

#endif
