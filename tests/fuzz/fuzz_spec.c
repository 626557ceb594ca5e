/* The option grammar under libFuzzer: never a crash, and text gives the same spec back.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vine/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct vine_spec one, two;
    struct vine_err err = {0};
    char *text = malloc(size + 1), *back;

    memcpy(text, data, size);
    text[size] = '\0';
    memset(&one, 0, sizeof(one));
    memset(&two, 0, sizeof(two));
    if (vine_spec_parse(text, &one, &err) == 0) {
        back = vine_spec_text(&one);
        if (vine_spec_parse(back, &two, &err) < 0 ||
            memcmp(&one, &two, sizeof(one)) != 0)
            abort();
        free(back);
    } else if (err.code != VINE_EINVAL || err.text[0] == '\0') {
        abort();
    }
    free(text);
    return 0;
}
