/* source.c - paths that users type. */
#include "daemon/cli/source.h"

#include <stdlib.h>
#include <string.h>

#include "vine/client.h"
#include "vine/spec.h"

char *source_absolute(const char *path, struct vine_err *err)
{
    char *absolute = *path == '/' ? strdup(path) : realpath(path, NULL);

    if (absolute == NULL)
        vine_err_sys(err, "cannot find '%.200s'", path);
    return absolute;
}

static char *escape_grammar(const char *path)
{
    char *text = malloc(2 * strlen(path) + 1), *put = text;

    if (text == NULL)
        return NULL;
    for (; *path != '\0'; path++) {
        if (strchr(",:\\", *path) != NULL)
            *put++ = '\\';
        *put++ = *path;
    }
    *put = '\0';
    return text;
}

char *source_spec(const char *absolute, bool data, struct vine_err *err)
{
    struct vine_spec *spec = calloc(1, sizeof(*spec));
    char *text = escape_grammar(absolute), *escaped = NULL;

    if (spec == NULL || text == NULL)
        vine_err_set(err, VINE_ENOMEM, "out of memory");
    else if ((data ? vine_spec_add_data : vine_spec_parse)(text, spec, err) == 0) {
        escaped = vine_path_escape(text);
        if (escaped == NULL)
            vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    free(text);
    free(spec);
    return escaped;
}
