/* fuzz_archive.c - an archive of a user's, read and written again as a tar. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/image/unpack.h"

#define INPUT_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct unpack_options options = {.name = "input",
                                           .max_bytes = 16u << 20,
                                           .prefix = size / 512 % 2 ? "/prefix" : NULL};
    struct image_totals totals = {0};
    struct vine_err err = {0};
    struct tar_out *tar;
    int in, out;

    if (size > INPUT_MAX)
        return 0;
    in = memfd_create("fuzz", MFD_CLOEXEC);
    out = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (in < 0 || out < 0 || pwrite(in, data, size, 0) != (ssize_t)size)
        abort();
    tar = tar_out_new(out, &err);
    if (tar != NULL && unpack_to_tar(in, &options, tar, NULL, &totals, &err) < 0 &&
        err.code == VINE_OK)
        abort();
    tar_out_free(tar);
    close(in);
    close(out);
    return 0;
}
