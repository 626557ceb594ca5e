/* Manifests under libFuzzer: what decodes must encode to the very same bytes, and its
 * pieces must cover its chunks. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vine/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct manifest *m, const uint8_t *data, size_t size)
{
    uint8_t *again = malloc(manifest_encoded_size(m->count));
    uint32_t next = 0, pieces = manifest_pieces(m);

    manifest_encode(m, again);
    if (manifest_encoded_size(m->count) != size || memcmp(again, data, size) != 0)
        abort();
    if (pieces > VINE_PIECES_MAX)
        abort();
    for (uint32_t p = 1; p < pieces; p++) {
        uint32_t first, count;
        manifest_piece(m, p, &first, &count);
        if (first != next || count == 0)
            abort();
        next += count;
    }
    if (next != m->count)
        abort();
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct manifest m;

    if (manifest_decode(data, size, &m, NULL) == 0) {
        check(&m, data, size);
        manifest_free(&m);
    }
    return 0;
}
