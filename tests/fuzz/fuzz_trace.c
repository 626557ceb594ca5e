/* fuzz_trace.c - a trace that anybody wrote, and its paths as globs. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/image/globs.h"
#include "daemon/image/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_globs(const struct trace *trace)
{
    uint32_t count = trace->count < 8 ? trace->count : 8;
    struct globs *globs = globs_new(trace->path, count, NULL);

    for (uint32_t i = 0; globs != NULL && i < count; i++)
        if (globs_match(globs, trace->path[i], false) &&
            !globs_match_above(globs, trace->path[i], false))
            abort();
    globs_free(globs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t head = strlen(TRACE_FIRST_LINE "\n");
    char *text = malloc(head + size + 1);
    struct trace trace;

    memcpy(text, TRACE_FIRST_LINE "\n", head);
    memcpy(text + head, data, size);
    text[head + size] = '\0';
    if (trace_parse(text, head + size, "fuzz", &trace, NULL) < 0)
        return 0;
    for (uint32_t i = 0; i < trace.count; i++)
        if (trace.path[i][0] == '/' || trace.path[i][0] == '\0')
            abort();
    try_globs(&trace);
    trace_free(&trace);
    return 0;
}
