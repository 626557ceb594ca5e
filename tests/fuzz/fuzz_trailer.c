/* fuzz_trailer.c - a whole packed file. The input is a file as it is; and then again
 * with a foot whose sizes add up, so that the manifest behind it is reached. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/image/pack.h"

#define FOOT_BYTES 56u
#define INPUT_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_file(int fd, size_t size)
{
    struct image_trailer trailer;
    struct manifest manifest;
    bool found = false;

    if (image_trailer_read(fd, size, &trailer, &manifest, &found, NULL) < 0 || !found)
        return;
    if (trailer.object_size != manifest.size || trailer.object_size > size ||
        trailer.manifest_offset + trailer.manifest_bytes > size)
        abort();
    manifest_free(&manifest);
}

static void put_be64(uint8_t *out, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)(value >> (56 - 8 * i));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t foot[FOOT_BYTES] = {0}, super[96] = {0};
    uint64_t used;
    int fd;

    if (size < 2 || size > INPUT_MAX)
        return 0;
    fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    read_file(fd, size);
    memcpy(super, data, size < sizeof(super) ? size : sizeof(super));
    (void)image_superblock_valid(super, size, &used);

    /* Object: the first data[0] bytes; then the start magic; the rest is the manifest.
     */
    uint64_t object = data[0] < size ? data[0] : size;
    put_be64(foot + 32, object);
    put_be64(foot + 40, 8 + (size - object) + FOOT_BYTES);
    memcpy(foot + 48, "VNPACKED", 8);
    if (pwrite(fd, "VNPACK1\n", 8, (off_t)object) != 8 ||
        pwrite(fd, data + object, size - object, (off_t)object + 8) < 0 ||
        pwrite(fd, foot, FOOT_BYTES, (off_t)size + 8) != FOOT_BYTES)
        abort();
    read_file(fd, size + 8 + FOOT_BYTES);
    close(fd);
    return 0;
}
