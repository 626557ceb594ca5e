/* fuzz_listing.c - a listing's body, as it is and as what zstd makes of it; what is
 * read of it must survive being written again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <zstd.h>

#include "daemon/image/listing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* How many files the body has, added to `out` (may be NULL); -1: damaged. */
static int copy(const uint8_t *data, size_t size, struct listing_out *out)
{
    struct listing_in *in = listing_in_new(data, size, NULL);
    struct listing_file file;
    int count = 0, more = -1;

    while (in != NULL && (more = listing_in_next(in, &file, NULL)) == 1) {
        if (out != NULL && listing_out_add(out, &file) < 0)
            abort();
        count++;
    }
    listing_in_free(in);
    return more < 0 ? -1 : count;
}

static void try_body(const uint8_t *data, size_t size)
{
    struct listing_out *out = listing_out_new();
    int count = copy(data, size, out), fd = memfd_create("listing", MFD_CLOEXEC);
    uint64_t length = 0;
    uint8_t *again;

    if (count >= 0) {
        if (listing_out_end(out, fd, &length, NULL) < 0 || length == 0)
            abort();
        again = malloc(length);
        if (pread(fd, again, length, 0) != (ssize_t)length ||
            copy(again, length, NULL) != count)
            abort();
        free(again);
    }
    listing_out_free(out);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t room = ZSTD_compressBound(size);
    uint8_t *body = malloc(room);

    try_body(data, size);
    try_body(body, ZSTD_compress(body, room, data, size, 1));
    free(body);
    return 0;
}
