/* fuzz_local.c - a stream to the local socket's decoder; the first byte is the portion
 * it comes in. */
#include <stdint.h>

#include "daemon/wire/local.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct local_decoder *d = local_decoder_new(65536);
    size_t portion, used;
    json_t *out;

    if (size == 0 || d == NULL) {
        local_decoder_free(d);
        return 0;
    }
    portion = data[0] + 1u;
    data++, size--;
    while (size > 0) {
        size_t n = size < portion ? size : portion;

        if (local_feed(d, data, n, &used, &out, NULL) < 0)
            break;
        json_decref(out);
        data += used;
        size -= used;
    }
    local_decoder_free(d);
    return 0;
}
