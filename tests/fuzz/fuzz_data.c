/* fuzz_data.c - kind, bulk length and body from the input; what decodes must encode to
 * the same bytes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/wire/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t body[DATA_BODY_MAX];
    struct data_frame f;
    uint32_t bulk_len;
    size_t len;

    if (size < 5)
        return 0;
    memcpy(&bulk_len, data + 1, 4);
    if (data_decode(data[0], data + 5, size - 5, bulk_len, &f, NULL) < 0)
        return 0;
    if (data_encode(&f, body, &len, NULL) < 0 || len != size - 5 ||
        memcmp(body, data + 5, len) != 0)
        abort();
    return 0;
}
