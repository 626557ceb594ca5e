/* trace.c - vine-env trace: what of an environment a command opens.
 *
 * The environment is walked first: what exists now is what can be opened, and files
 * that the command itself makes do not count. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/cli/cli.h"
#include "daemon/cli/packages.h"
#include "daemon/cli/source.h"
#include "daemon/cli/table.h"
#include "daemon/cli/watch.h"
#include "daemon/image/bytes.h"
#include "daemon/image/trace.h"
#include "daemon/image/tree.h"
#include "vine/escape.h"

#define SHOWN 10
#define LIST_MAX (16 << 20) /* of one of conda's lists */

struct tracing {
    struct cli *cli;
    char *prefix; /* canonical */
    size_t prefix_len;
    int root_fd;
    struct tree *tree;
    bool *opened;   /* [tree->count] */
    uint32_t *seen; /* indices, in the order they were opened; each once */
    uint32_t seen_count;
    uint64_t opened_bytes;
    char *output, *temporary; /* the trace file; NULL: none is wanted */
    FILE *file;
    struct watch watch;
    struct packages *packages;
};

/* ---- which environment ------------------------------------------------------- */

static bool is_environment(const char *dir)
{
    static const char *const marks[] = {"pyvenv.cfg", "conda-meta"};
    char path[VINE_PATH_MAX];

    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
        int n = snprintf(path, sizeof(path), "%s/%s", dir, marks[i]);

        if (n > 0 && (size_t)n < sizeof(path) && access(path, F_OK) == 0)
            return true;
    }
    return false;
}

/* The environment whose bin has this program; "" = none. */
static void environment_of(const char *program, char out[VINE_PATH_MAX])
{
    int n = snprintf(out, VINE_PATH_MAX, "%s", program);

    if (n >= VINE_PATH_MAX)
        out[0] = '\0';
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(out, '/');

        if (slash != NULL)
            *slash = '\0';
    }
    if (out[0] == '\0' || !is_environment(out))
        out[0] = '\0';
}

static void find_by_command(const char *name, char out[VINE_PATH_MAX])
{
    const char *path = getenv("PATH");
    char program[VINE_PATH_MAX];

    out[0] = '\0';
    if (strchr(name, '/') != NULL) {
        char *absolute = name[0] == '/' ? strdup(name) : NULL;

        if (absolute == NULL && realpath(".", program) != NULL &&
            asprintf(&absolute, "%s/%s", program, name) < 0)
            absolute = NULL;
        if (absolute != NULL)
            environment_of(absolute, out);
        free(absolute);
        return;
    }
    while (path != NULL && *path != '\0') {
        size_t len = strcspn(path, ":");
        int n = snprintf(program, sizeof(program), "%.*s/%s", (int)len, path, name);

        if (len > 0 && n > 0 && (size_t)n < sizeof(program) &&
            access(program, X_OK) == 0) {
            environment_of(program, out);
            return;
        }
        path += len + (path[len] == ':');
    }
}

static int find_environment(struct tracing *t, const char *command,
                            struct vine_err *err)
{
    static const char *const variables[] = {"VIRTUAL_ENV", "CONDA_PREFIX"};
    const char *given = cli_value(t->cli, "env");
    char found[VINE_PATH_MAX];

    if (given == NULL) {
        find_by_command(command, found);
        for (size_t i = 0; i < 2 && found[0] == '\0'; i++) {
            const char *value = getenv(variables[i]);
            if (value != NULL && value[0] == '/' && strlen(value) < sizeof(found))
                (void)snprintf(found, sizeof(found), "%s", value);
        }
        if (found[0] == '\0')
            return vine_err_set(err, VINE_EINVAL,
                                "cannot tell which environment '%.200s' uses: say "
                                "--env DIR",
                                command);
        given = found;
    }
    t->prefix = realpath(given, NULL);
    if (t->prefix == NULL)
        return vine_err_sys(err, "cannot find the environment '%.300s'", given);
    t->prefix_len = strlen(t->prefix);
    t->root_fd = open(t->prefix, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->root_fd < 0)
        return vine_err_sys(err, "cannot open the environment '%.300s'", t->prefix);
    return 0;
}

static int walk(struct tracing *t, struct vine_err *err)
{
    const struct walk_options options = {.name = t->prefix};

    if (tree_walk(t->root_fd, &options, &t->tree, err) < 0)
        return -1;
    t->opened = calloc(t->tree->count, sizeof(*t->opened));
    t->seen = calloc(t->tree->count, sizeof(*t->seen));
    if (t->opened == NULL || t->seen == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    return 0;
}

/* ---- while it runs ------------------------------------------------------------ */

/* The part of an absolute path below the environment; NULL: it is not there. */
static const char *below(const struct tracing *t, const char *path)
{
    if (strncmp(path, t->prefix, t->prefix_len) != 0 || path[t->prefix_len] != '/')
        return NULL;
    return path + t->prefix_len + 1;
}

static uint32_t find_file(const struct tracing *t, const char *path)
{
    const char *rest = below(t, path);
    uint32_t i = rest != NULL ? tree_find(t->tree, rest) : UINT32_MAX;

    return i != UINT32_MAX && S_ISREG(t->tree->entry[i].mode) ? i : UINT32_MAX;
}

/* Where the path leads, by links and "..". */
static uint32_t find_linked(const struct tracing *t, const char *path)
{
    auto_fd int fd = open(path, O_PATH | O_CLOEXEC);
    char link[32], real[VINE_PATH_MAX];
    ssize_t n;

    if (fd < 0)
        return UINT32_MAX;
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, real, sizeof(real) - 1);
    if (n <= 0)
        return UINT32_MAX;
    real[n] = '\0';
    return find_file(t, real);
}

static void on_opened(void *ctx, const char *path)
{
    struct tracing *t = ctx;
    uint32_t i = find_file(t, path);

    if (i == UINT32_MAX)
        i = find_linked(t, path);
    if (i == UINT32_MAX)
        return;
    i = t->tree->entry[i].link_to;
    if (t->opened[i])
        return;
    t->opened[i] = true;
    t->opened_bytes += t->tree->entry[i].size;
    t->seen[t->seen_count++] = i;
}

/* ---- the trace file ----------------------------------------------------------- */

/* Opened before the command runs: that may take hours. */
static int begin_file(struct tracing *t, struct vine_err *err)
{
    const char *output = cli_value(t->cli, "output");

    if (output == NULL)
        return 0;
    t->output = strdup(output);
    if (t->output == NULL ||
        asprintf(&t->temporary, "%s.tmp-%ld", output, (long)getpid()) < 0) {
        t->temporary = NULL;
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    t->file = fopen(t->temporary, "wxe");
    if (t->file == NULL)
        return vine_err_sys(err, "cannot create '%.300s'", t->temporary);
    return 0;
}

static bool put_line(FILE *file, const char *before, const char *path)
{
    char *escaped = vine_path_escape(path);
    bool done = escaped != NULL && fprintf(file, "%s%s\n", before, escaped) >= 0;

    free(escaped);
    return done;
}

static int end_file(struct tracing *t, struct vine_err *err)
{
    bool done = true;

    if (t->file == NULL)
        return 0;
    done = fprintf(t->file, TRACE_FIRST_LINE "\n") >= 0 &&
           put_line(t->file, TRACE_PREFIX_LINE, t->prefix);
    for (uint32_t i = 0; i < t->seen_count && done; i++)
        done = put_line(t->file, "", t->tree->entry[t->seen[i]].path);
    done = fclose(t->file) == 0 && done;
    t->file = NULL;
    if (!done || rename(t->temporary, t->output) < 0)
        return vine_err_sys(err, "cannot write '%.300s'", t->output);
    free(t->temporary);
    t->temporary = NULL;
    return 0;
}

/* ---- the report --------------------------------------------------------------- */

static void take_list(struct tracing *t, const struct tree_entry *e)
{
    auto_fd int fd = openat(t->root_fd, e->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    char *bytes = fd >= 0 && e->size <= LIST_MAX ? malloc(e->size + 1) : NULL;
    ssize_t n = bytes != NULL ? pread_whole(fd, bytes, e->size, 0) : -1;

    if (n >= 0)
        (void)packages_add_list(t->packages, bytes, (size_t)n);
    free(bytes);
}

static int sort_into_packages(struct tracing *t, struct vine_err *err)
{
    const struct tree *tree = t->tree;

    t->packages = packages_new();
    if (t->packages == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < tree->count; i++)
        if (S_ISREG(tree->entry[i].mode) && packages_is_list(tree->entry[i].path))
            take_list(t, &tree->entry[i]);
    for (uint32_t i = 0; i < tree->count; i++) {
        const struct tree_entry *e = &tree->entry[i];

        if (S_ISREG(e->mode) && e->link_to == i &&
            packages_add_file(t->packages, e->path, e->size, t->opened[i]) < 0)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    return 0;
}

static int print_json(struct tracing *t, const char *command)
{
    const struct tree *tree = t->tree;
    char *prefix = vine_path_escape(t->prefix), *name = vine_path_escape(command);
    json_t *packages = packages_json(t->packages, tree->bytes, true);
    json_t *document = NULL;

    if (prefix != NULL && name != NULL && packages != NULL)
        document = json_pack("{s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:O}", "command",
                             name, "prefix", prefix, "status", t->watch.status, "files",
                             (json_int_t)tree->files, "bytes", (json_int_t)tree->bytes,
                             "opened_files", (json_int_t)t->seen_count, "opened_bytes",
                             (json_int_t)t->opened_bytes, "unseen",
                             (json_int_t)t->watch.unseen, "packages", packages);
    free(prefix);
    free(name);
    json_decref(packages);
    return cli_print(document);
}

static void print_untouched(struct tracing *t)
{
    static const char *const headings[] = {"NEVER TOUCHED", ">FILES", ">SIZE", ">SHARE",
                                           NULL};
    struct table *table = table_new(headings);
    uint64_t bytes = 0, total = t->tree->bytes > 0 ? t->tree->bytes : 1;
    size_t count, untouched = 0;
    const struct package *list = packages_sorted(t->packages, &count);

    for (size_t i = 0; i < count; i++) {
        struct figure files = figure_count(list[i].files);
        struct figure size = figure_bytes(list[i].bytes), share;
        char *name = vine_path_escape(list[i].name);
        const char *cells[] = {name != NULL ? name : "", files.text, size.text,
                               share.text};

        (void)snprintf(share.text, sizeof(share.text), "%.1f %%",
                       100.0 * (double)list[i].bytes / (double)total);
        if (list[i].opened_files == 0) {
            bytes += list[i].bytes;
            if (++untouched <= SHOWN)
                table_add(table, cells);
        }
        free(name);
    }
    fprintf(stderr, "%zu of %zu packages were never touched, %s (%.0f %%)%s\n",
            untouched, count, figure_bytes(bytes).text,
            100.0 * (double)bytes / (double)total,
            untouched > SHOWN ? "; the largest:" : "");
    (void)table_print(table, stderr);
}

static int print_text(struct tracing *t, const char *command)
{
    const struct tree *tree = t->tree;

    fprintf(stderr,
            "vine-env trace: '%s' opened %s of %s files, %s of %s (%.0f %%) of %s\n",
            command, figure_count(t->seen_count).text, figure_count(tree->files).text,
            figure_bytes(t->opened_bytes).text, figure_bytes(tree->bytes).text,
            tree->bytes > 0 ? 100.0 * (double)t->opened_bytes / (double)tree->bytes
                            : 0.0,
            t->prefix);
    if (t->watch.unseen > 0)
        fprintf(stderr,
                "%llu openings could not be looked at: their processes do not let "
                "others read their memory\n",
                (unsigned long long)t->watch.unseen);
    print_untouched(t);
    return CLI_OK;
}

/* ---- the command -------------------------------------------------------------- */

static int trace(struct tracing *t, char *argv[], struct vine_err *err)
{
    if (find_environment(t, argv[0], err) < 0 || begin_file(t, err) < 0 ||
        walk(t, err) < 0)
        return -1;
    t->watch.opened = on_opened;
    t->watch.ctx = t;
    t->watch.stdout_to_stderr = t->cli->json;
    if (watch_run(&t->watch, argv, err) < 0)
        return -1;
    return end_file(t, err) < 0 || sort_into_packages(t, err) < 0 ? -1 : 0;
}

static int run_trace(struct cli *cli, int argc, char *argv[])
{
    struct tracing t = {.cli = cli, .root_fd = -1};
    struct vine_err err = {0};
    int result;

    if (trace(&t, argv, &err) < 0)
        result = cli_fail(cli, &err);
    else if (cli->json)
        result = print_json(&t, argv[0]);
    else
        result = print_text(&t, argv[0]);
    if (result == CLI_OK)
        result = t.watch.status;
    if (t.file != NULL)
        (void)fclose(t.file);
    if (t.temporary != NULL)
        (void)unlink(t.temporary);
    if (t.root_fd >= 0)
        (void)close(t.root_fd);
    packages_free(t.packages);
    tree_free(t.tree);
    free(t.opened);
    free(t.seen);
    free(t.prefix);
    free(t.output);
    free(t.temporary);
    return result;
}

static const struct cli_option options[] = {
    {"output", "FILE", 'o', "write the trace, for 'vine-env pack --sort-by-trace'"},
    {"env", "DIR", 0, "the environment (default: the command's, else the active one)"},
    {0},
};

const struct cli_command cli_trace = {
    .name = "trace",
    .arguments = "[-o FILE] [--env DIR] [--json] -- COMMAND [ARGUMENT]...",
    .summary = "Run a command and tell what of its environment it opens",
    .run = run_trace,
    .min_args = 1,
    .max_args = INT_MAX,
    .options = options,
    .stops = true,
    .notes =
        "The report goes to stderr; with --json the document alone goes to stdout, "
        "and\n"
        "what the command writes there to stderr. Exit status: the command's. Files\n"
        "that another step of a job opens are not seen: trace inside of srun, not\n"
        "around it. See vine-env(1) for what else is not.\n",
};
