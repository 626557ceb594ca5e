/* vine-remote - read a source on a server as the user it belongs to.
 *
 * A program of its own: a source on this node's file systems is then read without all
 * the code that speaks with servers, and starts in half the time. */
#include "daemon/remote/remote_source.h"
#include "daemon/source/serve.h"
#include "vine/spec.h"

static int open_source(const struct serve_options *options, void **source,
                       struct vine_err *err)
{
    const struct remote_options how = {.ca_file = options->ca_file,
                                       .timeout_s = options->timeout_s};
    struct remote_source *opened;

    if (remote_source_open(options->image.path, &options->image, &how, &opened, err) <
        0)
        return -1;
    *source = opened;
    return 0;
}

static const struct image_source_facts *facts(const void *source)
{
    return remote_source_facts(source);
}

static int look(void *source, struct vine_err *err)
{
    return remote_source_look(source, err);
}

static int build(void *source, int fd, const struct image_base *base,
                 const struct image_progress *progress, struct image_totals *totals,
                 struct vine_err *err)
{
    (void)base; /* of directories alone */
    return remote_source_build(source, fd, progress, totals, err);
}

static int copy(void *source, int fd, uint64_t offset, uint64_t length,
                const struct image_progress *progress, struct vine_err *err)
{
    return remote_source_copy(source, fd, offset, length, progress, err);
}

static int manifest(void *source, int fd, struct vine_err *err)
{
    (void)source;
    (void)fd;
    return vine_err_set(err, VINE_EPROTO, "a source on a server has no manifest");
}

int main(int argc, char **argv)
{
    static const struct serve_reader reader = {
        .program = "vine-remote",
        .reads = vine_source_is_remote,
        .open = open_source,
        .facts = facts,
        .look = look,
        .build = build,
        .copy = copy,
        .manifest = manifest,
    };

    return serve_main(&reader, argc, argv);
}
