/* pack.c - vine-env pack: make one file of an environment.
 *
 * The daemon packs if it answers, for it can sign (a signed image is mounted by the
 * kernel). Without one the same code packs here, as the calling user, unsigned. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/cli/cleanup.h"
#include "daemon/cli/cli.h"
#include "daemon/cli/compile.h"
#include "daemon/cli/pixi.h"
#include "daemon/cli/progress.h"
#include "daemon/cli/source.h"
#include "daemon/cli/table.h"
#include "daemon/image/image.h"
#include "daemon/image/names.h"
#include "daemon/image/peek.h"
#include "daemon/image/trace.h"
#include "vine/spec.h"

struct packing {
    struct cli *cli;
    char *source, *output; /* absolute */
    char *archive;         /* what the source was made of; NULL: nothing */
    char *prefix;          /* absolute; shape.prefix */
    struct pixi_tree pixi; /* its env is the source then */
    bool force, quiet;
    struct image_shape shape;
    char *trace;   /* absolute; shape.order */
    char *overlay; /* shape.overlay */
    struct compiled compiled;
    struct progress progress;
};

struct packed {
    uint64_t size, entries, files, bytes;
    const char *digest, *env;
    bool is_signed;
    double seconds;
};

/* The output need not exist, so realpath cannot be asked. */
static char *absolute_output(const char *path, struct vine_err *err)
{
    char *here, *out = NULL;

    if (*path == '/')
        out = strdup(path);
    else if ((here = getcwd(NULL, 0)) != NULL) {
        if (asprintf(&out, "%s/%s", here, path) < 0)
            out = NULL;
        free(here);
    }
    if (out == NULL)
        vine_err_sys(err, "cannot tell where '%.200s' is", path);
    return out;
}

static bool is_archive(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static int print_packed(const struct packing *p, const struct packed *d)
{
    if (p->cli->json) {
        char *escaped = vine_path_escape(p->output);
        json_t *document =
            json_pack("{s:s, s:I, s:I, s:I, s:I, s:s, s:s, s:b, s:f, s:I, s:I}", "out",
                      escaped != NULL ? escaped : "", "size", (json_int_t)d->size,
                      "entries", (json_int_t)d->entries, "files", (json_int_t)d->files,
                      "bytes", (json_int_t)d->bytes, "env", d->env, "digest", d->digest,
                      "signed", (int)d->is_signed, "seconds", d->seconds, "compiled",
                      (json_int_t)p->compiled.files, "not_compiled",
                      (json_int_t)p->compiled.failed);
        free(escaped);
        return cli_print(document);
    }
    if (!p->quiet && strcmp(d->env, image_env_name(IMAGE_ENV_CONDA_PACK)) == 0 &&
        is_archive(p->source) && p->prefix == NULL)
        fprintf(stderr,
                "vine-env pack: note: files in an archive of conda-pack have paths of "
                "another place: if programs miss files, say with --prefix where it is "
                "to appear\n");
    if (!p->quiet && p->shape.overlay != NULL)
        printf("byte code was made for %llu sources; %llu are none for this "
               "Python\n",
               (unsigned long long)p->compiled.files,
               (unsigned long long)p->compiled.failed);
    if (!p->quiet)
        printf("%s: %s from %s entries of %s in %.1f s, digest %.12s, %s\n", p->output,
               figure_bytes(d->size).text, figure_count(d->entries).text,
               figure_bytes(d->bytes).text, d->seconds, d->digest,
               d->is_signed ? "signed" : "not signed");
    return CLI_OK;
}

static json_t *path_text(const char *path)
{
    char *escaped = vine_path_escape(path);
    json_t *text = escaped != NULL ? json_string(escaped) : NULL;

    free(escaped);
    return text;
}

static int add_shape(json_t *request, const struct image_shape *shape)
{
    json_t *globs = json_array();
    int result = globs != NULL ? 0 : -1;

    for (unsigned i = 0; i < shape->exclude_count && result == 0; i++)
        result = json_array_append_new(globs, path_text(shape->exclude[i]));
    if (result == 0)
        result = json_object_set(request, "exclude", globs);
    if (result == 0 && shape->order != NULL)
        result = json_object_set_new(request, "order", path_text(shape->order));
    if (result == 0 && shape->overlay != NULL)
        result = json_object_set_new(request, "overlay", path_text(shape->overlay));
    if (result == 0 && shape->prefix != NULL)
        result = json_object_set_new(request, "prefix", path_text(shape->prefix));
    json_decref(globs);
    return result;
}

/* The daemon writes the file as this user, but knows nothing of this process's umask.
 */
static mode_t current_umask(void)
{
    mode_t mask = umask(0);

    (void)umask(mask);
    return mask;
}

/* CLI_OK or CLI_FAILED; -1: no daemon answers. */
static int pack_by_daemon(struct packing *p)
{
    char *source = vine_path_escape(p->source), *output = vine_path_escape(p->output);
    struct vine_err err = {0};
    json_t *request = NULL, *event = NULL;
    int result;

    if (source != NULL && output != NULL)
        request = json_pack("{s:s,s:s,s:s,s:b,s:i}", "op", "pack", "path", source,
                            "out", output, "force", (int)p->force, "mode",
                            (int)(0666 & ~current_umask()));
    if (request != NULL && add_shape(request, &p->shape) < 0) {
        json_decref(request);
        request = NULL;
    }
    free(source);
    free(output);
    result = cli_ask(p->cli, request, progress_event, &p->progress, 0, &event, &err);
    progress_end(&p->progress);
    if (result < 0)
        return err.code == VINE_EDOWN ? -1 : cli_fail(p->cli, &err);
    result = print_packed(
        p, &(struct packed){.size = cli_number(event, "size"),
                            .entries = cli_number(event, "entries"),
                            .files = cli_number(event, "files"),
                            .bytes = cli_number(event, "bytes"),
                            .env = cli_text(event, "env"),
                            .digest = cli_text(event, "digest"),
                            .is_signed = json_is_true(json_object_get(event, "signed")),
                            .seconds =
                                json_number_value(json_object_get(event, "seconds"))});
    json_decref(event);
    return result;
}

static int on_local_progress(void *ctx, uint64_t done, uint64_t total, uint64_t files)
{
    struct packing *p = ctx;

    progress_show(&p->progress, "packing", done, total);
    return 0; /* cleanup.h sees to interruptions */
}

static void on_begin(void *ctx, const char *temporary)
{
    cleanup_file(temporary);
}

static double now_s(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int pack_here(struct packing *p)
{
    struct image_pack_options options = {
        .source = p->source,
        .output = p->output,
        .force = p->force,
        .shape = &p->shape,
        .progress = on_local_progress,
        .begin = on_begin,
        .ctx = p,
    };
    struct image_pack_result made = {0};
    struct vine_err err = {0};
    char digest[VINE_HEX_LEN + 1];
    double started = now_s();
    int result = image_pack_local(&options, &made, &err);

    progress_end(&p->progress);
    if (result < 0)
        return cli_fail(p->cli, &err);
    vine_digest_hex(&made.digest, digest);
    return print_packed(p, &(struct packed){.size = made.file_size,
                                            .entries = made.entries,
                                            .files = made.files,
                                            .bytes = made.bytes,
                                            .env = image_env_name(made.env),
                                            .digest = digest,
                                            .seconds = now_s() - started});
}

static int pack(struct packing *p)
{
    int result = -1;

    if (cli_value(p->cli, "local") == NULL) {
        result = pack_by_daemon(p);
        if (result < 0 && !p->quiet)
            fprintf(stderr,
                    "vine-env pack: no daemon answers at '%s': packing here, "
                    "unsigned\n",
                    p->cli->socket_path);
    }
    return result < 0 ? pack_here(p) : result;
}

/* Mistakes in globs and a trace are told before anything is begun. */
static int take_shape(struct packing *p, struct vine_err *err)
{
    const char *order = cli_value(p->cli, "sort-by-trace");
    struct trace trace = {.path = NULL};
    struct globs *globs = globs_new(p->cli->many, p->cli->many_count, err);

    if (globs == NULL)
        return -1;
    globs_free(globs);
    memcpy(p->shape.exclude, p->cli->many, p->cli->many_count * sizeof(char *));
    p->shape.exclude_count = p->cli->many_count;
    if (order == NULL)
        return 0;
    if (trace_read(order, &trace, err) < 0)
        return -1;
    trace_free(&trace);
    p->shape.order = p->trace = source_absolute(order, err);
    return p->trace != NULL ? 0 : -1;
}

static int compile(struct packing *p, struct vine_err *err)
{
    char *canonical;
    struct stat st;
    int result;

    if (cli_value(p->cli, "compile") == NULL)
        return 0;
    if (stat(p->source, &st) < 0)
        return vine_err_sys(err, "cannot look at '%.300s'", p->source);
    if (!S_ISDIR(st.st_mode))
        return vine_err_set(err, VINE_EINVAL,
                            "'%.300s' is no directory: its own Python compiles, so "
                            "unpack it, and pack the directory",
                            p->source);
    canonical = realpath(p->source, NULL);
    if (canonical == NULL ||
        asprintf(&p->overlay, "%s.compile-%ld", p->output, (long)getpid()) < 0) {
        p->overlay = NULL;
        free(canonical);
        return vine_err_sys(err, "cannot resolve '%.300s'", p->source);
    }
    progress_show(&p->progress, "compiling", 0, 0);
    result = compile_missing(canonical, p->prefix != NULL ? p->prefix : canonical,
                             p->overlay, &p->compiled, err);
    p->shape.overlay = p->overlay;
    free(canonical);
    return result;
}

/* An image of pixi-pack's archive has paths of its prefix in it. Without --prefix that
 * is where images without one appear, by the name that this one is given now. */
static int unpack(struct packing *p, struct vine_err *err)
{
    char name[VINE_PATH_MAX];

    if (!peek_is_pixi_pack(p->source))
        return 0;
    vine_source_name(p->output, name);
    if (p->prefix == NULL &&
        asprintf(&p->prefix, "%s/env/%s", p->cli->conf.run_dir, name) < 0) {
        p->prefix = NULL;
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    p->shape.prefix = p->prefix;
    if (pixi_unpack(p->source, p->output, p->prefix, &p->progress, &p->pixi, err) < 0)
        return -1;
    p->archive = p->source; /* the progress line has its name */
    p->source = strdup(p->pixi.env);
    return p->source != NULL ? 0 : vine_err_set(err, VINE_ENOMEM, "out of memory");
}

static int prepare_and_pack(struct packing *p)
{
    struct vine_err err = {0};
    int result;

    progress_begin(&p->progress, p->source, p->cli->json || p->quiet);
    if (cleanup_begin(&err) == 0 && unpack(p, &err) == 0 && compile(p, &err) == 0) {
        result = pack(p);
    } else {
        progress_end(&p->progress);
        result = cli_fail(p->cli, &err);
    }
    cleanup_remove_tree();
    pixi_end(&p->pixi);
    return result;
}

static int take_prefix(struct packing *p, struct vine_err *err)
{
    const char *given = cli_value(p->cli, "prefix"), *wrong;
    char plain[VINE_PATH_MAX];

    if (given == NULL)
        return 0;
    wrong = *given == '/' ? names_make_plain(given + 1, plain) : "it is not absolute";
    if (wrong == NULL && plain[0] == '\0')
        wrong = "nothing can appear there";
    if (wrong != NULL || strlen(plain) > VINE_PATH_MAX - 2)
        return vine_err_set(err, VINE_EINVAL, "'%.300s' cannot be a prefix: %s", given,
                            wrong != NULL ? wrong : "it is too long");
    if (asprintf(&p->prefix, "/%s", plain) < 0) {
        p->prefix = NULL;
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    p->shape.prefix = p->prefix;
    return 0;
}

static int run_pack(struct cli *cli, int argc, char *argv[])
{
    const char *output = cli_value(cli, "output");
    struct packing p = {.cli = cli,
                        .force = cli_value(cli, "force") != NULL,
                        .quiet = cli_value(cli, "quiet") != NULL};
    struct vine_err err = {0};
    size_t len = output != NULL ? strlen(output) : 0;
    int result;

    if (output == NULL)
        return cli_usage(cli, "-o FILE.sqsh is missing");
    if ((len < 6 || strcmp(output + len - 5, ".sqsh") != 0) &&
        (len < 10 || strcmp(output + len - 9, ".squashfs") != 0))
        return cli_usage(cli,
                         "'%.200s' must end in .sqsh or .squashfs: by that it is "
                         "known as an image",
                         output);
    p.source = source_absolute(argv[0], &err);
    p.output = p.source != NULL ? absolute_output(output, &err) : NULL;
    if (p.output != NULL && take_prefix(&p, &err) == 0 && take_shape(&p, &err) == 0)
        result = prepare_and_pack(&p);
    else
        result = cli_fail(cli, &err);
    free(p.source);
    free(p.archive);
    free(p.output);
    free(p.prefix);
    free(p.trace);
    free(p.overlay);
    return result;
}

static const struct cli_option options[] = {
    {"output", "FILE", 'o', "the image to write, FILE.sqsh"},
    {"force", NULL, 'f', "replace FILE if it exists"},
    {"local", NULL, 0, "pack here and unsigned, even if a daemon answers"},
    {"prefix", "PATH", 0, "where the image is to appear in jobs"},
    {"exclude", "GLOB", 0, "leave out what fits; may be repeated"},
    {"sort-by-trace", "TRACE", 0,
     "what 'vine-env trace' saw comes first, in its order"},
    {"compile", NULL, 0,
     "add the byte code that its own Python would make at each start"},
    {"quiet", NULL, 'q', "no progress, no result: only errors"},
    {0},
};

const struct cli_command cli_pack = {
    .name = "pack",
    .arguments = "SRC -o FILE.sqsh [--prefix PATH] [--compile] [--exclude GLOB]... "
                 "[--sort-by-trace TRACE] [--force] [--local] [--quiet] [--json]",
    .summary = "Make one image file of a directory or an archive",
    .run = run_pack,
    .min_args = 1,
    .max_args = 1,
    .options = options,
    .many = "exclude",
    .notes =
        "SRC is a directory (a conda prefix, a venv, any other), which the image\n"
        "remembers: --vine-env=FILE.sqsh mounts it there. Or an archive of one, as of\n"
        "conda-pack and venv-pack. Or one of pixi-pack, whose packages py-rattler\n"
        "installs (python3 -m pip install 'py-rattler>=0.28' installer).\n"
        "A GLOB without '/' is compared with every name, one with '/' with the path "
        "from\n"
        "SRC's root; '*', '?' and '[...]' stay within one name, '**' is any number of\n"
        "directories; '/' at the end: directories only. With a directory goes all in "
        "it.\n",
};
