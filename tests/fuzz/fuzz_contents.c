/* fuzz_contents.c - what vine-squash tells of an image that anybody may have made. */
#include "daemon/cli/contents.c"
#include "daemon/cli/packages.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct contents contents = {0};
    FILE *list = size > 0 ? fmemopen((void *)data, size, "r") : NULL;
    uint64_t files = 0;
    size_t count;

    if (list == NULL)
        return 0;
    if (contents_parse(list, &contents, NULL) == 0) {
        const struct package *found = packages_sorted(contents.packages, &count);

        for (size_t i = 0; i < count; i++)
            files += found[i].files;
        if (files != contents.files)
            abort();
    }
    contents_free(&contents);
    (void)fclose(list);
    return 0;
}
