/* main.c - vine-env: which command, which options, and all help texts.
 *
 * Every command has one row in `commands` and its own table of options; help, parsing
 * and the messages about mistakes are made from these. */
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/cli/cli.h"

static const struct cli_command *const commands[] = {
    &cli_status, &cli_ls,  &cli_stage,  &cli_pack,  &cli_inspect, &cli_trace,
    &cli_get,    &cli_put, &cli_report, &cli_evict, &cli_doctor,
};
#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

enum { COMMON_JSON, COMMON_SOCKET, COMMON_CONFIG, COMMON_HELP, COMMON_COUNT };
static const struct cli_option common[COMMON_COUNT] = {
    {"json", NULL, 0, "one JSON document instead of text"},
    {"socket", "PATH", 0, "socket of the node daemon (default: RUN_DIR/vined.sock)"},
    {"config", "PATH", 0, "configuration file (default: " VINE_CONF_PATH ")"},
    {"help", NULL, 'h', "this text"},
};

#define VALUE_BASE 1000 /* getopt_long's values of the options, above any letter */

/* ---- help -------------------------------------------------------------------- */

static void print_option(const struct cli_option *o)
{
    char left[48];

    (void)snprintf(left, sizeof(left), "%s%c%s--%s%s%s", o->letter != 0 ? "-" : "  ",
                   o->letter != 0 ? o->letter : ' ', o->letter != 0 ? ", " : " ",
                   o->name, o->argument != NULL ? " " : "",
                   o->argument != NULL ? o->argument : "");
    printf("  %-24s  %s\n", left, o->help);
}

static int print_command_help(const struct cli_command *c)
{
    printf("usage: vine-env %s%s%s\n\n%s.\n\noptions:\n", c->name,
           *c->arguments != '\0' ? " " : "", c->arguments, c->summary);
    for (const struct cli_option *o = c->options; o != NULL && o->name != NULL; o++)
        print_option(o);
    for (int i = 0; i < COMMON_COUNT; i++)
        print_option(&common[i]);
    if (c->notes != NULL)
        printf("\n%s", c->notes);
    return CLI_OK;
}

static int print_help(void)
{
    printf("usage: vine-env COMMAND [OPTIONS] [ARGUMENTS]\n\n"
           "Environments on nodes' own disks: what is there, get it there, mend it.\n\n"
           "commands:\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        printf("  %-8s  %s\n", commands[i]->name, commands[i]->summary);
    printf(
        "\n'vine-env COMMAND --help' tells more. Exit status: 0 ok, 1 failed, 2 wrong "
        "usage,\n3 doctor found faults. See vine-env(1), vine-env.conf(5), "
        "vine_env(7).\n");
    return CLI_OK;
}

static void print_command_names(void)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(stderr, "%s%s", i == 0 ? "" : ", ", commands[i]->name);
}

/* ---- errors ------------------------------------------------------------------ */

int cli_usage(const struct cli *cli, const char *format, ...)
{
    va_list ap;

    fprintf(stderr, "vine-env %s: ", cli->command->name);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fprintf(stderr, "; the form is: vine-env %s %s\n", cli->command->name,
            cli->command->arguments);
    return CLI_USAGE;
}

int cli_fail(const struct cli *cli, const struct vine_err *err)
{
    fprintf(stderr, "vine-env %s: %s\n", cli->command->name, err->text);
    if (cli->json) {
        char *text = vine_path_escape(err->text);
        (void)cli_print(json_pack("{s:{s:s,s:s}}", "error", "code",
                                  vine_code_name(err->code), "text",
                                  text != NULL ? text : ""));
        free(text);
    }
    return CLI_FAILED;
}

int cli_print(json_t *document)
{
    int result = CLI_OK;

    if (document == NULL || json_dumpf(document, stdout, JSON_INDENT(2)) < 0 ||
        putchar('\n') == EOF || fflush(stdout) == EOF) {
        fprintf(stderr, "vine-env: cannot write the result\n");
        result = CLI_FAILED;
    }
    json_decref(document);
    return result;
}

/* ---- options ----------------------------------------------------------------- */

static int count_options(const struct cli_command *c)
{
    int count = 0;

    while (c->options != NULL && c->options[count].name != NULL)
        count++;
    return count;
}

const char *cli_value(const struct cli *cli, const char *name)
{
    int count = count_options(cli->command);

    for (int i = 0; i < count; i++)
        if (strcmp(cli->command->options[i].name, name) == 0)
            return cli->values[i];
    return NULL;
}

struct tables {
    struct option longs[CLI_OPTIONS_MAX + COMMON_COUNT + 1];
    char letters[2 * (CLI_OPTIONS_MAX + COMMON_COUNT) + 3];
};

static void add_option(struct tables *t, int index, const struct cli_option *o)
{
    size_t used = strlen(t->letters);

    t->longs[index] = (struct option){
        .name = o->name,
        .has_arg = o->argument != NULL ? required_argument : no_argument,
        .val = VALUE_BASE + index,
    };
    if (o->letter != 0)
        (void)snprintf(t->letters + used, sizeof(t->letters) - used, "%c%s", o->letter,
                       o->argument != NULL ? ":" : "");
}

static void make_tables(const struct cli_command *c, struct tables *t)
{
    int count = count_options(c);

    memset(t, 0, sizeof(*t));
    (void)snprintf(t->letters, sizeof(t->letters), c->stops ? "+:" : ":");
    for (int i = 0; i < count; i++)
        add_option(t, i, &c->options[i]);
    for (int i = 0; i < COMMON_COUNT; i++)
        add_option(t, count + i, &common[i]);
}

/* Index in own options then common ones, of what getopt_long returned. */
static int index_of(const struct cli_command *c, int value)
{
    int count = count_options(c);

    if (value >= VALUE_BASE)
        return value - VALUE_BASE;
    for (int i = 0; i < count; i++)
        if (c->options[i].letter == value)
            return i;
    return count + COMMON_HELP;
}

/* CLI_MANY_MAX is more than any command takes: what takes them says so. */
static void take_own(struct cli *cli, int index)
{
    const struct cli_command *c = cli->command;

    cli->values[index] = optarg != NULL ? optarg : "";
    if (c->many != NULL && strcmp(c->options[index].name, c->many) == 0 &&
        cli->many_count < CLI_MANY_MAX)
        cli->many[cli->many_count++] = optarg;
}

static void take_option(struct cli *cli, int index, bool *help)
{
    int own = count_options(cli->command);

    if (index < own)
        take_own(cli, index);
    else if (index == own + COMMON_JSON)
        cli->json = true;
    else if (index == own + COMMON_CONFIG)
        cli->config_path = optarg;
    else if (index == own + COMMON_HELP)
        *help = true;
    else
        (void)snprintf(cli->socket_path, sizeof(cli->socket_path), "%s", optarg);
}

/* -1 to go on, else an exit code. */
static int parse_options(struct cli *cli, int argc, char *argv[])
{
    struct tables t;
    bool help = false;
    int value, args;

    make_tables(cli->command, &t);
    opterr = 0;
    while ((value = getopt_long(argc, argv, t.letters, t.longs, NULL)) != -1) {
        if (value == '?')
            return optopt >= VALUE_BASE
                       ? cli_usage(cli, "'%s' takes no value", argv[optind - 1])
                       : cli_usage(cli, "unknown option '%s'", argv[optind - 1]);
        if (value == ':')
            return cli_usage(cli, "'%s' needs a value", argv[optind - 1]);
        take_option(cli, index_of(cli->command, value), &help);
    }
    if (help)
        return print_command_help(cli->command);
    args = argc - optind;
    if (args < cli->command->min_args)
        return cli_usage(cli, "something is missing");
    if (args > cli->command->max_args)
        return cli_usage(cli, "'%s' is one too many",
                         argv[optind + cli->command->max_args]);
    return -1;
}

/* A wrong file is doctor's finding and everybody else's failure: they might talk to the
 * wrong socket. */
static int load_config(struct cli *cli)
{
    if (vine_conf_load(cli->config_path, &cli->conf, &cli->conf_err) < 0 &&
        cli->command != &cli_doctor)
        return cli_fail(cli, &cli->conf_err);
    if (cli->socket_path[0] == '\0')
        (void)snprintf(cli->socket_path, sizeof(cli->socket_path), "%s/vined.sock",
                       cli->conf.run_dir);
    return -1;
}

static const struct cli_command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

int main(int argc, char *argv[])
{
    static struct cli cli = {.config_path = VINE_CONF_PATH};
    int result;

    (void)signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        fprintf(stderr, "vine-env: a command is missing: ");
        print_command_names();
        fprintf(stderr, "; see 'vine-env --help'\n");
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("vine-env %s\n", VINE_VERSION);
        return CLI_OK;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0)
        return print_help();
    cli.command = find_command(argv[1]);
    if (cli.command == NULL) {
        fprintf(stderr, "vine-env: unknown command '%s': there are ", argv[1]);
        print_command_names();
        fprintf(stderr, "; see 'vine-env --help'\n");
        return CLI_USAGE;
    }
    result = parse_options(&cli, argc - 1, argv + 1);
    if (result < 0)
        result = load_config(&cli);
    if (result < 0)
        result = cli.command->run(&cli, argc - 1 - optind, argv + 1 + optind);
    return result;
}
