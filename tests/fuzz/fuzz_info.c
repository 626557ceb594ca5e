/* fuzz_info.c - the end of an object; what decodes must survive being written again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/image/info.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct image_info info, again;
    static uint8_t block[IMAGE_INFO_MAX];
    bool found = false;
    size_t len;

    if (image_info_decode(data, size, &info, &found, NULL) < 0 || !found)
        return 0;
    len = image_info_encode(&info, block, NULL);
    if (len == 0 || image_info_decode(block, len, &again, &found, NULL) < 0 || !found)
        abort();
    if (strcmp(info.prefix, again.prefix) != 0 || info.activate != again.activate ||
        info.entries != again.entries || info.env != again.env ||
        (info.env != IMAGE_ENV_UNKNOWN && info.files != again.files) ||
        strcmp(info.tool, again.tool) != 0)
        abort();
    return 0;
}
