/* name.h - what a node may be called on the wire: [A-Za-z0-9._-]{1,63}. */
#ifndef VINE_WIRE_NAME_H
#define VINE_WIRE_NAME_H

#include <stdbool.h>
#include <string.h>

#include "vine/limits.h"

#define WIRE_NAME_CHARACTERS                                                           \
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

static inline bool wire_name_valid(const char *name)
{
    size_t len = strnlen(name, VINE_NAME_MAX);

    return len > 0 && len < VINE_NAME_MAX && strspn(name, WIRE_NAME_CHARACTERS) == len;
}

#endif
