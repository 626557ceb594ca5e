/* err.c - the error struct that every layer passes up unchanged. */
#include "vine/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const code_names[VINE_CODES] = {
    [VINE_OK] = "ok",
    [VINE_EINVAL] = "einval",
    [VINE_ENOENT] = "enoent",
    [VINE_EACCES] = "eacces",
    [VINE_ENOSPC] = "enospc",
    [VINE_ETIMEDOUT] = "etimedout",
    [VINE_EDOWN] = "edown",
    [VINE_EPROTO] = "eproto",
    [VINE_EAUTH] = "eauth",
    [VINE_ELIMIT] = "elimit",
    [VINE_ECORRUPT] = "ecorrupt",
    [VINE_ECHANGED] = "echanged",
    [VINE_ECANCELED] = "ecanceled",
    [VINE_ENOMEM] = "enomem",
    [VINE_ESYS] = "esys",
    [VINE_ELOST] = "elost",
};

static enum vine_code code_of_errno(int number)
{
    switch (number) {
    case ENOENT:
    case ENOTDIR:
        return VINE_ENOENT;
    case EACCES:
    case EPERM:
        return VINE_EACCES;
    case ENOSPC:
    case EDQUOT:
        return VINE_ENOSPC;
    case ENOMEM:
        return VINE_ENOMEM;
    case ETIMEDOUT:
        return VINE_ETIMEDOUT;
    default:
        return VINE_ESYS;
    }
}

int vine_err_set(struct vine_err *err, enum vine_code code, const char *format, ...)
{
    va_list ap;

    if (err == NULL || err->code != VINE_OK)
        return -1;
    err->code = code;
    err->sys_errno = 0;
    va_start(ap, format);
    (void)vsnprintf(err->text, sizeof(err->text), format, ap);
    va_end(ap);
    return -1;
}

int vine_err_sys(struct vine_err *err, const char *format, ...)
{
    int saved = errno;
    va_list ap;
    size_t used;

    if (err == NULL || err->code != VINE_OK)
        return -1;
    err->code = code_of_errno(saved);
    err->sys_errno = saved;
    va_start(ap, format);
    (void)vsnprintf(err->text, sizeof(err->text), format, ap);
    va_end(ap);
    used = strlen(err->text);
    (void)snprintf(err->text + used, sizeof(err->text) - used, ": %s", strerror(saved));
    return -1;
}

const char *vine_code_name(enum vine_code code)
{
    return (unsigned)code < VINE_CODES ? code_names[code] : "eproto";
}

enum vine_code vine_code_parse(const char *name)
{
    for (int i = 0; i < VINE_CODES; i++)
        if (strcmp(code_names[i], name) == 0)
            return (enum vine_code)i;
    return VINE_EPROTO;
}
