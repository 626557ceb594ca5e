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

#include "daemon/cli/cli.h"
#include "daemon/cli/progress.h"
#include "daemon/cli/source.h"
#include "daemon/cli/table.h"
#include "daemon/image/image.h"

struct packing {
    struct cli *cli;
    char *source, *output; /* absolute */
    bool force;
    struct progress progress;
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

static int print_packed(const struct packing *p, uint64_t size, uint64_t entries,
                        uint64_t bytes, const char *digest, bool is_signed,
                        double seconds)
{
    if (p->cli->json) {
        char *escaped = vine_path_escape(p->output);
        json_t *document =
            json_pack("{s:s,s:I,s:I,s:I,s:s,s:b,s:f}", "out",
                      escaped != NULL ? escaped : "", "size", (json_int_t)size,
                      "entries", (json_int_t)entries, "bytes", (json_int_t)bytes,
                      "digest", digest, "signed", (int)is_signed, "seconds", seconds);
        free(escaped);
        return cli_print(document);
    }
    printf("%s: %s from %llu entries of %s in %.1f s, digest %.12s, %s\n", p->output,
           figure_bytes(size).text, (unsigned long long)entries,
           figure_bytes(bytes).text, seconds, digest,
           is_signed ? "signed" : "not signed");
    return CLI_OK;
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
    free(source);
    free(output);
    result = cli_ask(p->cli, request, progress_event, &p->progress, 0, &event, &err);
    progress_end(&p->progress);
    if (result < 0)
        return err.code == VINE_EDOWN ? -1 : cli_fail(p->cli, &err);
    result = print_packed(p, cli_number(event, "size"), cli_number(event, "entries"),
                          cli_number(event, "bytes"), cli_text(event, "digest"),
                          json_is_true(json_object_get(event, "signed")),
                          json_number_value(json_object_get(event, "seconds")));
    json_decref(event);
    return result;
}

static int on_local_progress(void *ctx, uint64_t done, uint64_t total, uint64_t files)
{
    progress_show(ctx, "packing", done, total);
    return progress_interrupted();
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
        .progress = on_local_progress,
        .ctx = &p->progress,
    };
    struct image_pack_result packed = {0};
    struct vine_err err = {0};
    char digest[VINE_HEX_LEN + 1];
    double started = now_s();
    int result = image_pack_local(&options, &packed, &err);

    progress_end(&p->progress);
    if (result < 0)
        return cli_fail(p->cli, &err);
    vine_digest_hex(&packed.digest, digest);
    return print_packed(p, packed.file_size, packed.entries, packed.bytes, digest,
                        false, now_s() - started);
}

static int pack(struct packing *p)
{
    int result = -1;

    if (cli_value(p->cli, "local") == NULL) {
        result = pack_by_daemon(p);
        if (result < 0)
            fprintf(stderr,
                    "vine-env pack: no daemon answers at '%s': packing here, "
                    "unsigned\n",
                    p->cli->socket_path);
    }
    return result < 0 ? pack_here(p) : result;
}

static int run_pack(struct cli *cli, int argc, char *argv[])
{
    const char *output = cli_value(cli, "output");
    struct packing p = {.cli = cli, .force = cli_value(cli, "force") != NULL};
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
    if (p.output != NULL) {
        progress_begin(&p.progress, argv[0], cli->json);
        result = pack(&p);
    } else {
        result = cli_fail(cli, &err);
    }
    free(p.source);
    free(p.output);
    return result;
}

static const struct cli_option options[] = {
    {"output", "FILE", 'o', "the image to write, FILE.sqsh"},
    {"force", NULL, 'f', "replace FILE if it exists"},
    {"local", NULL, 0, "pack here and unsigned, even if a daemon answers"},
    {0},
};

const struct cli_command cli_pack = {
    .name = "pack",
    .arguments = "DIR -o FILE.sqsh [--force] [--local] [--json]",
    .summary = "Make one image file of a directory or an archive",
    .run = run_pack,
    .min_args = 1,
    .max_args = 1,
    .options = options,
    .notes = "The image remembers DIR: --vine-env=FILE.sqsh mounts it there.\n",
};
