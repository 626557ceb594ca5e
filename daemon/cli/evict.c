/* evict.c - vine-env evict: remove objects that no job uses. */
#include <stdio.h>
#include <string.h>

#include "daemon/cli/cli.h"

#define PREFIX_MIN 4

/* The one digest that begins with `prefix`, from the daemon's list. Borrowed from
 * `document`. */
static const char *find_digest(const json_t *document, const char *prefix,
                               struct vine_err *err)
{
    const json_t *objects = json_object_get(document, "objects"), *o;
    const char *found = NULL;
    size_t index;

    json_array_foreach(objects, index, o)
    {
        const char *digest = cli_text(o, "digest");

        if (strncmp(digest, prefix, strlen(prefix)) != 0)
            continue;
        if (found != NULL) {
            vine_err_set(err, VINE_EINVAL,
                         "'%s' begins more than one digest: give more "
                         "of it",
                         prefix);
            return NULL;
        }
        found = digest;
    }
    if (found == NULL)
        vine_err_set(err, VINE_ENOENT,
                     "no object's digest begins with '%s': 'vine-env ls' lists them",
                     prefix);
    return found;
}

static int evict(struct cli *cli, const char *which)
{
    struct vine_err err = {0};
    json_t *event = NULL;
    int evicted, kept;

    if (cli_ask(cli, json_pack("{s:s,s:s}", "op", "evict", "digest", which), NULL, NULL,
                CLI_ANSWER_MS, &event, &err) < 0)
        return cli_fail(cli, &err);
    evicted = (int)cli_number(event, "evicted");
    kept = (int)cli_number(event, "kept_leased");
    json_decref(event);
    if (cli->json)
        return cli_print(
            json_pack("{s:i,s:i}", "evicted", evicted, "kept_leased", kept));
    printf("%d evicted, %d kept because jobs use them\n", evicted, kept);
    return CLI_OK;
}

static int evict_prefix(struct cli *cli, const char *prefix)
{
    struct vine_err err = {0};
    json_t *document = NULL;
    const char *digest;
    int result;

    if (cli_ask(cli, json_pack("{s:s}", "op", "status"), NULL, NULL, CLI_ANSWER_MS,
                &document, &err) < 0)
        return cli_fail(cli, &err);
    digest = find_digest(document, prefix, &err);
    result = digest != NULL ? evict(cli, digest) : cli_fail(cli, &err);
    json_decref(document);
    return result;
}

static int run_evict(struct cli *cli, int argc, char *argv[])
{
    bool all = cli_value(cli, "all") != NULL;

    if (all == (argc == 1))
        return cli_usage(cli, "one digest, or --all");
    if (all)
        return evict(cli, "all");
    if (strlen(argv[0]) < PREFIX_MIN || strlen(argv[0]) > 64 ||
        strspn(argv[0], "0123456789abcdef") != strlen(argv[0]))
        return cli_usage(cli,
                         "'%.80s' is not the first %d to 64 hex digits of a digest",
                         argv[0], PREFIX_MIN);
    return evict_prefix(cli, argv[0]);
}

static const struct cli_option options[] = {
    {"all", NULL, 0, "every object that no job uses"},
    {0},
};

const struct cli_command cli_evict = {
    .name = "evict",
    .arguments = "DIGEST-PREFIX|--all [--json]",
    .summary = "Remove objects that no job uses from this node's store (root)",
    .run = run_evict,
    .max_args = 1,
    .options = options,
};
