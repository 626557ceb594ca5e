/* topology.conf under libFuzzer: never a crash; a fault is told, a name is bounded. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/topology.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vine_err err = {0};
    char leaf[VINE_NAME_MAX];
    char *text = malloc(size + 1);

    memcpy(text, data, size);
    text[size] = '\0';
    memset(leaf, 'x', sizeof(leaf));
    if (topology_parse("fuzzed", text, "n1", leaf, &err) == 0) {
        if (strnlen(leaf, sizeof(leaf)) == sizeof(leaf))
            abort();
    } else if (leaf[0] != 'x' || err.text[0] == '\0') {
        abort();
    }
    free(text);
    return 0;
}
