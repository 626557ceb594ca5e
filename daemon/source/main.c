/* vine-source - read a source on this node's file systems as the user it belongs to. */
#include "daemon/source/serve.h"

static bool reads(const char *path)
{
    return path[0] == '/';
}

static int open_source(const struct serve_options *options, void **source,
                       struct vine_err *err)
{
    struct image_source *opened;

    if (image_source_open(&options->image, &opened, err) < 0)
        return -1;
    *source = opened;
    return 0;
}

static const struct image_source_facts *facts(const void *source)
{
    return image_source_facts(source);
}

static int look(void *source, struct vine_err *err)
{
    return image_source_look(source, err);
}

static int build(void *source, int fd, const struct image_base *base,
                 const struct image_progress *progress, struct image_totals *totals,
                 struct vine_err *err)
{
    return image_source_build(source, fd, base, progress, totals, err);
}

static int copy(void *source, int fd, uint64_t offset, uint64_t length,
                const struct image_progress *progress, struct vine_err *err)
{
    return image_source_copy(source, fd, offset, length, progress, err);
}

static int manifest(void *source, int fd, struct vine_err *err)
{
    return image_source_manifest(source, fd, err);
}

int main(int argc, char **argv)
{
    static const struct serve_reader reader = {
        .program = "vine-source",
        .reads = reads,
        .open = open_source,
        .facts = facts,
        .look = look,
        .build = build,
        .copy = copy,
        .manifest = manifest,
    };

    return serve_main(&reader, argc, argv);
}
