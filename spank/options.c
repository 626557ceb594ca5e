/* options.c - registering, refusing early, reading late.
 *
 * On the client (srun, sbatch, salloc) Slurm hands values to the callback only, so they
 * are kept here until init_post_opt, where a refusal stops the command before anything
 * is submitted. On the nodes the values are read by spank_option_getopt from the job's
 * record; the callback has nothing to do there. Values are hostile: copied with a
 * bound. */
#include "spank/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    OPTION_ENV,
    OPTION_DATA,
    OPTION_FALLBACK,
    OPTION_START,
    OPTION_QUIET,
    OPTION_COUNT
};

/* The client's values. One byte over the limit is enough to be refused as too long. */
static struct {
    char *spec, *data, *fallback, *start;
} client;

static int keep(char **slot, const char *value)
{
    char *copy = strndup(value != NULL ? value : "", VINE_SPEC_MAX + 1);

    if (copy == NULL)
        return -1;
    free(*slot);
    *slot = copy;
    return 0;
}

static int on_option(int val, const char *value, int remote)
{
    if (remote)
        return 0;
    if (val == OPTION_ENV)
        return keep(&client.spec, value);
    if (val == OPTION_DATA)
        return keep(&client.data, value);
    if (val == OPTION_FALLBACK)
        return keep(&client.fallback, value);
    if (val == OPTION_START)
        return keep(&client.start, value);
    return 0;
}

/* Slurm's struct has no const; the texts are never written to. */
static struct spank_option table[OPTION_COUNT] = {
    {(char *)"vine-env", (char *)"SRC[:DST][,...]",
     (char *)"Use the environment at SRC (a directory, or an image made by 'vine-env "
             "pack') from this node's own disk, at its own path or at DST",
     1, OPTION_ENV, on_option},
    {(char *)"vine-data", (char *)"SRC[:DST][,...]",
     (char
          *)"Use the data at SRC (a file or a directory) from this node's own disk, at "
            "its own path or at DST",
     1, OPTION_DATA, on_option},
    {(char *)"vine-fallback", (char *)"origin|fail",
     (char *)"When it cannot be staged: run from the source itself (origin), or fail",
     1, OPTION_FALLBACK, on_option},
    {(char *)"vine-start", (char *)"full|lazy",
     (char
          *)"Start tasks when all of it is on the node (full), or as soon as it can be "
            "mounted, while the rest is still on its way (lazy)",
     1, OPTION_START, on_option},
    {(char *)"vine-quiet", NULL,
     (char *)"No progress lines while environments and data are staged", 0,
     OPTION_QUIET, on_option},
};

int options_register(spank_t sp)
{
    for (int i = 0; i < OPTION_COUNT; i++)
        if (spank_option_register(sp, &table[i]) != ESPANK_SUCCESS)
            return -1;
    return 0;
}

/* Only what is surely wrong: a source that this node may not see, or that is not
 * mounted here but hides behind an error, is the compute nodes' to judge. */
static int check_present(const struct vine_source *source, struct vine_err *err)
{
    struct stat st;

    if (vine_source_is_remote(source->path) || stat(source->path, &st) == 0 ||
        (errno != ENOENT && errno != ENOTDIR))
        return 0;
    return vine_err_set(
        err, VINE_ENOENT,
        "source '%.200s' does not exist here: give the absolute path of "
        "a directory or %s as SRC[:DST][,SRC[:DST]...]",
        source->path, source->data ? "file" : "image");
}

/* The two halves, either NULL. */
static int parse_both(const char *env, const char *data, struct vine_spec *spec,
                      struct vine_err *err)
{
    if (env != NULL && vine_spec_parse(env, spec, err) < 0)
        return -1;
    return data != NULL ? vine_spec_add_data(data, spec, err) : 0;
}

static int check_spec(const char *env, const char *data, struct vine_err *err)
{
    struct vine_spec *spec = calloc(1, sizeof(*spec));
    int result;

    if (spec == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    result = parse_both(env, data, spec, err);
    for (unsigned i = 0; result == 0 && i < spec->count; i++)
        result = check_present(&spec->source[i], err);
    free(spec);
    return result;
}

static bool is_start(const char *text)
{
    return strcmp(text, "full") == 0 || strcmp(text, "lazy") == 0;
}

int options_check_client(struct vine_err *err)
{
    const char *env = client.spec, *data = client.data;
    const char *start = getenv(OPTIONS_START_VARIABLE);

    if (env == NULL)
        env = getenv(OPTIONS_SPEC_VARIABLE);
    if (data == NULL)
        data = getenv(OPTIONS_DATA_VARIABLE);
    if (client.start != NULL && !is_start(client.start))
        return vine_err_set(err, VINE_EINVAL,
                            "--vine-start takes full or lazy, not '%.60s'",
                            client.start);
    if (client.start == NULL && start != NULL && !is_start(start))
        return vine_err_set(err, VINE_EINVAL,
                            OPTIONS_START_VARIABLE " takes full or lazy, not '%.60s'",
                            start);

    if (client.fallback != NULL && strcmp(client.fallback, "origin") != 0 &&
        strcmp(client.fallback, "fail") != 0)
        return vine_err_set(err, VINE_EINVAL,
                            "--vine-fallback takes origin or fail, not '%.60s'",
                            client.fallback);
    return check_spec(env, data, err);
}

static int text_from_env(spank_t sp, const char *name, char **text,
                         struct vine_err *err)
{
    char *value = malloc(VINE_SPEC_MAX + 1);
    spank_err_t rc;

    if (value == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    rc = spank_getenv(sp, name, value, VINE_SPEC_MAX + 1);
    if (rc == ESPANK_SUCCESS) {
        *text = value;
        return 0;
    }
    free(value);
    if (rc == ESPANK_NOSPACE)
        return vine_err_set(err, VINE_EINVAL, "%s is over %d bytes", name,
                            VINE_SPEC_MAX);
    return 0;
}

/* `sbatch --export=NONE` keeps Slurm from handing the option to the batch step, but the
 * job's environment still has the variable that carried it. */
static char *option_from_env(spank_t sp, const char *name)
{
    char variable[128], *value = malloc(VINE_SPEC_MAX + 2);

    (void)snprintf(variable, sizeof(variable),
                   "SLURM_SPANK__SLURM_SPANK_OPTION_vine_env_%s", name);
    if (value != NULL &&
        spank_getenv(sp, variable, value, VINE_SPEC_MAX + 2) == ESPANK_SUCCESS)
        return value;
    free(value);
    return NULL;
}

static const struct half {
    int option;
    const char *carried, *variable;
} halves[2] = {
    {OPTION_ENV, "vine_env", OPTIONS_SPEC_VARIABLE},
    {OPTION_DATA, "vine_data", OPTIONS_DATA_VARIABLE},
};

/* *text: caller frees; NULL when this half was not asked for. */
static int half_text(spank_t sp, const struct half *half, bool env, char **text,
                     struct vine_err *err)
{
    char *value = NULL;

    *text = NULL;
    if (spank_option_getopt(sp, &table[half->option], &value) == ESPANK_SUCCESS) {
        *text = strndup(value != NULL ? value : "", VINE_SPEC_MAX + 1);
        return *text != NULL ? 0 : vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    if (!env)
        return 0;
    *text = option_from_env(sp, half->carried);
    return *text != NULL ? 0 : text_from_env(sp, half->variable, text, err);
}

int options_spec(spank_t sp, bool env, struct vine_spec **spec, struct vine_err *err)
{
    char *text[2] = {NULL, NULL};
    struct vine_spec *made = NULL;
    int result = -1;

    *spec = NULL;
    if (half_text(sp, &halves[0], env, &text[0], err) < 0 ||
        half_text(sp, &halves[1], env, &text[1], err) < 0)
        goto out;
    result = 0;
    if (text[0] == NULL && text[1] == NULL)
        goto out;
    made = calloc(1, sizeof(*made));
    result = made != NULL ? parse_both(text[0], text[1], made, err)
                          : vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (result == 0) {
        *spec = made;
        made = NULL;
    }
out:
    free(made);
    free(text[0]);
    free(text[1]);
    return result;
}

bool options_fallback_origin(spank_t sp, bool site_default)
{
    char *value = NULL, *carried;
    bool result;

    if (spank_option_getopt(sp, &table[OPTION_FALLBACK], &value) == ESPANK_SUCCESS &&
        value != NULL)
        return strcmp(value, "fail") != 0;
    carried = option_from_env(sp, "vine_fallback");
    result = carried != NULL ? strcmp(carried, "fail") != 0 : site_default;
    free(carried);
    return result;
}

bool options_start_lazy(spank_t sp, bool env, bool site_default)
{
    char *value = NULL, *carried, text[16];
    bool result = site_default;

    if (spank_option_getopt(sp, &table[OPTION_START], &value) == ESPANK_SUCCESS &&
        value != NULL)
        return strcmp(value, "lazy") == 0;
    if (!env)
        return site_default;
    carried = option_from_env(sp, "vine_start");
    if (carried != NULL)
        result = strcmp(carried, "lazy") == 0;
    else if (spank_getenv(sp, OPTIONS_START_VARIABLE, text, sizeof(text)) ==
                 ESPANK_SUCCESS &&
             is_start(text))
        result = strcmp(text, "lazy") == 0;
    free(carried);
    return result;
}

bool options_quiet(spank_t sp)
{
    return spank_option_getopt(sp, &table[OPTION_QUIET], NULL) == ESPANK_SUCCESS;
}
