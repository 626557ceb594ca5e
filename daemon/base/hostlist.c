/* hostlist.c - expand node lists, bounded.
 *
 * One name is expanded by recursion over its brackets: text before the bracket is
 * copied, each number of the bracket is appended in turn, and the rest is expanded
 * behind it. The depth is the number of brackets in a name (BRACKETS_MAX), the total is
 * VINE_NODES_MAX. */
#include "daemon/base/hostlist.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BRACKETS_MAX 4
#define DIGITS_MAX 9 /* numbers stay below 2^31 */
#define FORM "a node list is n1,n2 or n[1-4,7]"

static bool is_name_char(char c)
{
    return isalnum((unsigned char)c) || c == '-' || c == '_' || c == '.';
}

static int add_name(struct hostlist *list, const char *name, struct vine_err *err)
{
    char **names;

    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->names[i], name) == 0)
            return 0;
    if (list->count >= VINE_NODES_MAX)
        return vine_err_set(err, VINE_ELIMIT, "more than %d nodes", VINE_NODES_MAX);
    if ((list->count & (list->count - 1)) == 0) { /* full at every power of two */
        names = realloc(list->names, (list->count * 2 + 1) * sizeof(*names));
        if (names == NULL)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
        list->names = names;
    }
    list->names[list->count] = strdup(name);
    if (list->names[list->count] == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    list->count++;
    return 0;
}

/* Digits at *p: their value and how many. 0 if there are none or too many. */
static size_t take_number(const char **p, unsigned long *value)
{
    size_t len = strspn(*p, "0123456789");

    if (len == 0 || len > DIGITS_MAX)
        return 0;
    *value = strtoul(*p, NULL, 10);
    *p += len;
    return len;
}

struct range {
    unsigned long first, last;
    int width; /* zero-padded to the length of the first number */
};

static int take_range(const char **p, struct range *range, struct vine_err *err)
{
    const char *start = *p;
    size_t len = take_number(p, &range->first);
    bool good = len > 0;

    range->last = range->first;
    range->width = (int)len;
    if (good && **p == '-') {
        (*p)++;
        good = take_number(p, &range->last) > 0 && range->last >= range->first;
    }
    if (!good || (**p != ',' && **p != ']'))
        return vine_err_set(err, VINE_EINVAL, "'%.40s' is no number or range; " FORM,
                            start);
    if (range->last - range->first >= VINE_NODES_MAX)
        return vine_err_set(err, VINE_ELIMIT, "more than %d nodes", VINE_NODES_MAX);
    return 0;
}

/* `done`: the name so far; `rest`: what follows, up to `end`. */
static int expand(struct hostlist *list, const char *done, const char *rest,
                  const char *end, int depth, struct vine_err *err)
{
    char name[VINE_NAME_MAX + 1];
    size_t used = strlen(done), plain = 0;

    while (rest + plain < end && is_name_char(rest[plain]))
        plain++;
    if (used + plain >= VINE_NAME_MAX)
        return vine_err_set(err, VINE_EINVAL, "a node's name is over %d characters",
                            VINE_NAME_MAX - 1);
    (void)snprintf(name, sizeof(name), "%s%.*s", done, (int)plain, rest);
    rest += plain;
    if (rest == end)
        return *name != '\0' ? add_name(list, name, err)
                             : vine_err_set(err, VINE_EINVAL, "an empty name; " FORM);
    if (*rest != '[' || depth >= BRACKETS_MAX)
        return vine_err_set(err, VINE_EINVAL, "'%.40s' is no node name; " FORM, rest);
    const char *close = memchr(rest, ']', (size_t)(end - rest));
    if (close == NULL)
        return vine_err_set(err, VINE_EINVAL, "'%.40s' lacks its ']'; " FORM, rest);
    for (rest++; rest < close; rest += rest < close) {
        struct range range = {0};

        if (take_range(&rest, &range, err) < 0)
            return -1;
        if (*rest == ',' && rest + 1 == close)
            return vine_err_set(err, VINE_EINVAL, "a ',' before ']'; " FORM);
        for (unsigned long n = range.first; n <= range.last; n++) {
            char longer[2 * VINE_NAME_MAX];
            (void)snprintf(longer, sizeof(longer), "%s%0*lu", name, range.width, n);
            if (expand(list, longer, close + 1, end, depth + 1, err) < 0)
                return -1;
        }
    }
    if (close[-1] == '[')
        return vine_err_set(err, VINE_EINVAL, "'[]' is empty; " FORM);
    return 0;
}

/* The end of the name at `text`: a ',' outside brackets, or the end. */
static const char *end_of_name(const char *text)
{
    bool inside = false;

    for (; *text != '\0' && (inside || *text != ','); text++)
        inside = *text == '[' || (inside && *text != ']');
    return text;
}

int hostlist_parse(const char *text, struct hostlist *out, struct vine_err *err)
{
    struct hostlist list = {0};

    for (const char *p = text;; p++) {
        const char *end = end_of_name(p);

        if (expand(&list, "", p, end, 0, err) < 0) {
            hostlist_free(&list);
            return -1;
        }
        p = end;
        if (*p == '\0')
            break;
    }
    *out = list;
    return 0;
}

void hostlist_free(struct hostlist *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->names[i]);
    free(list->names);
    *list = (struct hostlist){0};
}
