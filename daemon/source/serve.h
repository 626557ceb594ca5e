/* serve.h - the process that reads a source for a daemon: PROTOCOL.md, whatever the
 * source is. vine-source reads this node's file systems, vine-remote servers. */
#ifndef VINE_SOURCE_SERVE_H
#define VINE_SOURCE_SERVE_H

#include "daemon/image/source.h"

struct serve_options {
    struct image_source_options image; /* its path is the source's name */
    const char *ca_file;               /* "": the system's; of servers */
    unsigned timeout_s;                /* of servers */
};

/* How a source is read; calls may block, one runs at a time. */
struct serve_reader {
    const char *program;
    bool (*reads)(const char *path); /* is it one of its sources? */
    int (*open)(const struct serve_options *options, void **source,
                struct vine_err *err);
    const struct image_source_facts *(*facts)(const void *source);
    /* As the functions of daemon/image/source.h. */
    int (*look)(void *source, struct vine_err *err);
    int (*build)(void *source, int fd, const struct image_base *base,
                 const struct image_progress *progress, struct image_totals *totals,
                 struct vine_err *err);
    int (*copy)(void *source, int fd, uint64_t offset, uint64_t length,
                const struct image_progress *progress, struct vine_err *err);
    int (*manifest)(void *source, int fd, struct vine_err *err);
};

/* The program's main; the value is for the shell. */
int serve_main(const struct serve_reader *reader, int argc, char **argv);

#endif
