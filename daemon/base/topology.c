/* topology.c - Slurm's topology.conf: lines of Key=value words, any case, of which
 * SwitchName and Nodes matter here.
 *
 * A line that ends in '\' goes on in the next, '#' begins a comment, values may be
 * quoted. A line without SwitchName (blocks, options of other plugins) says nothing
 * about switches. The file is read to its end even when the node is found, so that all
 * nodes find the same fault in it. */
#include "daemon/base/topology.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "daemon/base/hostlist.h"
#include "daemon/base/text_file.h"

#define FILE_MAX (1u << 20)              /* thousands of switches */
#define NAMES_MAX (8ul * VINE_NODES_MAX) /* all lists together */

struct parser {
    const char *path, *node;
    unsigned line;
    size_t names; /* seen in lists */
    char leaf[VINE_NAME_MAX];
};

/* The next line with those that continue it, put together in place; NULL: no more. */
static char *take_line(char **rest, unsigned *line)
{
    char *start = *rest, *end = start, *part;
    bool more = true;

    while (more && (part = strsep(rest, "\n")) != NULL) {
        size_t len = strcspn(part, "#");
        while (len > 0 && isspace((unsigned char)part[len - 1]))
            len--;
        more = len > 0 && part[len - 1] == '\\';
        len -= more;
        memmove(end, part, len);
        end += len;
        (*line)++;
    }
    if (start != NULL)
        *end = '\0';
    return start;
}

/* Key=value at *p, both terminated. 1; 0: the line ends; -1: something else is there.
 */
static int take_word(char **p, char **key, char **value)
{
    char *end, *equals;

    *key = *p + strspn(*p, " \t\r");
    if (**key == '\0')
        return 0;
    for (end = *key; isalnum((unsigned char)*end) || *end == '_'; end++)
        ;
    equals = end + strspn(end, " \t");
    if (end == *key || *equals != '=')
        return -1;
    *end = '\0';
    *value = equals + 1 + strspn(equals + 1, " \t");
    if (**value == '"') {
        (*value)++;
        end = strchr(*value, '"');
        if (end == NULL)
            return -1;
    } else {
        end = *value + strcspn(*value, " \t\r");
    }
    *p = *end != '\0' ? end + 1 : end;
    *end = '\0';
    return 1;
}

static int has_node(struct parser *p, const char *text, bool *found,
                    struct vine_err *err)
{
    struct hostlist list;
    struct vine_err why = {0};

    if (hostlist_parse(text, &list, &why) < 0)
        return vine_err_set(err, why.code, "%s, line %u: Nodes: %.150s", p->path,
                            p->line, why.text);
    for (size_t i = 0; i < list.count; i++)
        *found |= strcmp(list.names[i], p->node) == 0;
    p->names += list.count;
    hostlist_free(&list);
    if (p->names > NAMES_MAX)
        return vine_err_set(err, VINE_ELIMIT, "%s, line %u: more than %lu nodes",
                            p->path, p->line, NAMES_MAX);
    return 0;
}

static int parse_line(struct parser *p, char *text, struct vine_err *err)
{
    const char *name = "";
    char *key, *value, *at = text;
    bool found = false;
    int words;

    while ((words = take_word(&at, &key, &value)) > 0) {
        if (strcasecmp(key, "SwitchName") == 0)
            name = value;
        else if (strcasecmp(key, "Nodes") == 0 && has_node(p, value, &found, err) < 0)
            return -1;
    }
    if (words < 0)
        return vine_err_set(err, VINE_EINVAL, "%s, line %u: '%.60s' is not Key=value",
                            p->path, p->line, key);
    if (strlen(name) >= VINE_NAME_MAX)
        return vine_err_set(err, VINE_ELIMIT,
                            "%s, line %u: a switch's name is over %d characters",
                            p->path, p->line, VINE_NAME_MAX - 1);
    if (found && p->leaf[0] == '\0')
        (void)strcpy(p->leaf, name);
    return 0;
}

int topology_parse(const char *path, char *text, const char *node,
                   char leaf[VINE_NAME_MAX], struct vine_err *err)
{
    struct parser p = {.path = path, .node = node};
    char *rest = text, *line;

    while ((line = take_line(&rest, &p.line)) != NULL)
        if (parse_line(&p, line, err) < 0)
            return -1;
    (void)strcpy(leaf, p.leaf);
    return 0;
}

void slurm_conf_dir(char *out, size_t size)
{
    static const char *const places[] = {"/etc/slurm", "/run/slurm/conf",
                                         "/etc/slurm-llnl", "/usr/local/etc",
                                         "/opt/slurm/etc"};
    const char *env = getenv("SLURM_CONF");
    char path[64];

    out[0] = '\0';
    if (env != NULL && *env == '/') {
        (void)snprintf(out, size, "%.*s", (int)(strrchr(env, '/') - env), env);
        return;
    }
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        (void)snprintf(path, sizeof(path), "%s/slurm.conf", places[i]);
        if (access(path, F_OK) == 0) {
            (void)snprintf(out, size, "%s", places[i]);
            return;
        }
    }
}

int topology_leaf(const char *path, const char *node, char leaf[VINE_NAME_MAX],
                  struct vine_err *err)
{
    char dir[400], beside[512], *text = NULL;
    int result = 0;

    if (*path == '\0') {
        slurm_conf_dir(dir, sizeof(dir));
        (void)snprintf(beside, sizeof(beside), "%s/topology.conf", dir);
        path = beside;
    }
    if (text_file_read(path, FILE_MAX, &text, err) < 0)
        return -1;
    if (text == NULL)
        leaf[0] = '\0';
    else
        result = topology_parse(path, text, node, leaf, err);
    free(text);
    return result;
}
