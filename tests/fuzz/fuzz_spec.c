/* The option grammar under libFuzzer: never a crash, and text gives the same spec back.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vine/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct {
    int (*parse)(const char *text, struct vine_spec *spec, struct vine_err *err);
    char *(*text)(const struct vine_spec *spec);
} halves[] = {
    {vine_spec_parse, vine_spec_text},
    {vine_spec_add_data, vine_spec_data_text},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct vine_spec one, two;
    char *text = malloc(size + 1), *back;

    memcpy(text, data, size);
    text[size] = '\0';
    for (int i = 0; i < 2; i++) {
        struct vine_err err = {0};
        memset(&one, 0, sizeof(one));
        memset(&two, 0, sizeof(two));
        if (halves[i].parse(text, &one, &err) == 0) {
            back = halves[i].text(&one);
            if (halves[i].parse(back, &two, &err) < 0 ||
                memcmp(&one, &two, sizeof(one)) != 0)
                abort();
            free(back);
        } else if (err.code != VINE_EINVAL || err.text[0] == '\0') {
            abort();
        }
    }
    free(text);
    return 0;
}
