/* fuzz_message.c - any text to the JSON decoder; what it takes must encode and decode
 * to the same text again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/wire/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct message *first = message_decode((const char *)data, size, NULL), *second;
    char *text, *again;
    size_t len, len_again;

    if (first == NULL)
        return 0;
    text = message_encode(message_msg(first), &len, NULL);
    if (text == NULL)
        abort();
    second = message_decode(text, len, NULL);
    if (second == NULL)
        abort();
    again = message_encode(message_msg(second), &len_again, NULL);
    if (again == NULL || len != len_again || memcmp(text, again, len) != 0)
        abort();
    free(text);
    free(again);
    message_free(first);
    message_free(second);
    return 0;
}
