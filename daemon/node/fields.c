/* fields.c - what requests of local clients must hold (see local.h).
 *
 * Anybody on the node writes them: each field is checked for its type and bounds before
 * it is used. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/node/local.h"
#include "vine/client.h"

int need_text(const json_t *request, const char *field, char **out,
              struct vine_err *err)
{
    const char *text = json_string_value(json_object_get(request, field));
    char *copy = text != NULL ? strdup(text) : NULL;

    if (copy == NULL || vine_path_unescape(copy) < 0) {
        free(copy);
        return vine_err_set(err, VINE_EINVAL, "request lacks the text '%s'", field);
    }
    *out = copy;
    return 0;
}

int need_id(const json_t *request, const char *field, uint32_t *out,
            struct vine_err *err)
{
    const json_t *value = json_object_get(request, field);
    json_int_t n = json_integer_value(value);

    if (!json_is_integer(value) || n < 0 || n >= UINT32_MAX)
        return vine_err_set(err, VINE_EINVAL, "request lacks the number '%s'", field);
    *out = (uint32_t)n;
    return 0;
}

int need_job(const json_t *request, uint64_t *out, struct vine_err *err)
{
    const char *text = json_string_value(json_object_get(request, "job"));
    unsigned long long n;
    char *end;

    errno = 0;
    n = text != NULL ? strtoull(text, &end, 10) : 0;
    if (text == NULL || *text < '0' || *text > '9' || errno != 0 || *end != '\0' ||
        n == 0 || n >= MADE_UP_JOB)
        return vine_err_set(err, VINE_EINVAL, "request lacks the job id 'job'");
    *out = n;
    return 0;
}

/* One half of a spec, if the request has it. */
static int add_half(const json_t *request, const char *field, struct vine_spec *spec,
                    int (*parse)(const char *text, struct vine_spec *spec,
                                 struct vine_err *err),
                    struct vine_err *err)
{
    char *text = NULL;
    int result = 0;

    if (json_object_get(request, field) == NULL)
        return 0;
    if (need_text(request, field, &text, err) < 0)
        return -1;
    result = parse(text, spec, err);
    free(text);
    return result;
}

struct vine_spec *need_spec(const json_t *request, struct vine_err *err)
{
    const char *start = json_string_value(json_object_get(request, "start"));
    struct vine_spec *spec = calloc(1, sizeof(*spec));

    if (spec == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
    } else if (add_half(request, "spec", spec, vine_spec_parse, err) == 0 &&
               add_half(request, "data", spec, vine_spec_add_data, err) == 0) {
        spec->lazy = start != NULL && strcmp(start, "lazy") == 0;
        if (spec->count > 0)
            return spec;
        vine_err_set(err, VINE_EINVAL, "request lacks the text 'spec'");
    }
    free(spec);
    return NULL;
}
