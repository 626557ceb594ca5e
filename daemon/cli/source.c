/* source.c - paths that users type. */
#include "daemon/cli/source.h"

#include <stdlib.h>
#include <string.h>

#include "vine/client.h"
#include "vine/spec.h"
#include "vine/url.h"

char *source_absolute(const char *path, struct vine_err *err)
{
    char *absolute = vine_source_path_valid(path) ? strdup(path) : realpath(path, NULL);

    if (absolute == NULL)
        vine_err_sys(err, "cannot find '%.200s'", path);
    return absolute;
}

/* Of a URL the path alone: a port's ':' is part of the grammar. */
static char *escape_grammar(const char *path, const char *dst)
{
    size_t bare =
        vine_source_is_remote(path) ? (size_t)(vine_url_path(path) - path) : 0;
    char *text = malloc(2 * strlen(path) + strlen(dst) + 1), *put = text;

    if (text == NULL)
        return NULL;
    memcpy(put, path, bare);
    put += bare;
    path += bare;
    for (; *path != '\0'; path++) {
        if (strchr(",:\\", *path) != NULL)
            *put++ = '\\';
        *put++ = *path;
    }
    memcpy(put, dst, strlen(dst) + 1);
    return text;
}

char *source_spec(const char *absolute, bool data, struct vine_err *err)
{
    struct vine_spec *spec = calloc(1, sizeof(*spec));
    /* Data on a server has no place of its own; in the store it needs none. */
    const char *dst = data && vine_source_is_remote(absolute) ? ":/any" : "";
    char *text = escape_grammar(absolute, dst), *escaped = NULL;

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
