/* contents.h - what is in an image, told by a `vine-squash --list` of ours. */
#ifndef VINE_CLI_CONTENTS_H
#define VINE_CLI_CONTENTS_H

#include "daemon/cli/packages.h"
#include "vine/err.h"

struct contents {
    uint64_t files, bytes; /* regular ones, hard links once */
    uint64_t bad_lists;    /* of conda's that are none */
    struct packages *packages;
};

/* Of the image on fd, named so in messages. Caller: contents_free, in any case. */
int contents_read(int fd, const char *name, struct contents *out, struct vine_err *err);
void contents_free(struct contents *contents);

/* The same of what the program writes; for tests. */
int contents_parse(FILE *list, struct contents *out, struct vine_err *err);

#endif
