/* conf.c - the configuration file: one table of keys, one parser, no stdio.
 *
 * The whole file is read into one buffer (64 KiB at most) and cut into lines in place.
 * A value is checked where it is read, by its row in the table, so that a daemon with a
 * wrong file says at start which line to mend and nothing is half-configured. */
#include "vine/conf.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/text_file.h"

#define FILE_MAX (64u << 10)
#define LAZY_TIMEOUT_MAX 59 /* seconds: see why_bounded */

enum kind { TEXT, PATH, NUMBER, YES_NO, FALLBACK, START, CACHING };

static const struct key {
    const char *section, *name;
    enum kind kind;
    size_t offset;
    uint64_t min, max;
    const char *text_default;
    uint64_t number_default;
} keys[] = {
#define FIELD(f) offsetof(struct vine_conf, f)
    {"cluster", "managers", TEXT, FIELD(managers), 0, 0, "", 0},
    {"cluster", "image_key", PATH, FIELD(image_key), 0, 0,
     VINE_SYSCONFDIR "/vine-env/image.key", 0},
    {"manager", "listen", TEXT, FIELD(manager_listen), 0, 0, "0.0.0.0:7110", 0},
    {"manager", "metrics", TEXT, FIELD(manager_metrics), 0, 0, "off", 0},
    {"manager", "transfer_log", PATH, FIELD(transfer_log), 0, 0, "", 0},
    {"manager", "window", NUMBER, FIELD(window), 1, 256, NULL, 6},
    {"manager", "uploads", NUMBER, FIELD(uploads), 1, 256, NULL, 6},
    {"manager", "tree_nodes", NUMBER, FIELD(tree_nodes), 0, 8192, NULL, 128},
    {"node", "listen", TEXT, FIELD(node_listen), 0, 0, "0.0.0.0:7111", 0},
    {"node", "metrics", TEXT, FIELD(node_metrics), 0, 0, "off", 0},
    {"node", "name", TEXT, FIELD(node_name), 0, 0, "", 0},
    {"node", "cache_dir", PATH, FIELD(cache_dir), 0, 0, "/var/cache/vine-env", 0},
    {"node", "cache_max", TEXT, FIELD(cache_max), 0, 0, "80%", 0},
    {"node", "run_dir", PATH, FIELD(run_dir), 0, 0, "/run/vine", 0},
    {"node", "helper_user", TEXT, FIELD(helper_user), 0, 0, "nobody", 0},
    {"node", "trust_user_images", YES_NO, FIELD(trust_user_images), 0, 0, NULL, 0},
    {"node", "switch", TEXT, FIELD(switch_name), 0, 0, "auto", 0},
    {"node", "topology", PATH, FIELD(topology), 0, 0, "", 0},
    {"node", "stall_ms", NUMBER, FIELD(stall_ms), 100, 600000, NULL, 5000},
    {"node", "manager_wait_ms", NUMBER, FIELD(manager_wait_ms), 0, 600000, NULL, 3000},
    {"node", "source_threads", NUMBER, FIELD(source_threads), 1, 64, NULL, 16},
    {"node", "remote_timeout", NUMBER, FIELD(remote_timeout_s), 1, 3600, NULL, 30},
    {"node", "remote_ca_file", TEXT, FIELD(remote_ca_file), 0, 0, "", 0},
    {"node", "source_caching", CACHING, FIELD(source_caching), 0, 0, "auto", 0},
    {"node", "build_threads", NUMBER, FIELD(build_threads), 0, 1024, NULL, 0},
    {"node", "build_ahead", YES_NO, FIELD(build_ahead), 0, 0, NULL, 1},
    {"node", "nice", NUMBER, FIELD(nice), 0, 19, NULL, 0},
    {"node", "log_level", TEXT, FIELD(log_level), 0, 0, "info", 0},
    {"node", "lazy_timeout", NUMBER, FIELD(lazy_timeout_s), 1, LAZY_TIMEOUT_MAX, NULL,
     30},
    {"plugin", "fallback", FALLBACK, FIELD(fallback_origin), 0, 0, NULL, 1},
    {"plugin", "start", START, FIELD(start_lazy), 0, 0, NULL, 0},
    {"plugin", "stage_timeout", NUMBER, FIELD(stage_timeout_s), 1, 86400, NULL, 600},
    {"plugin", "progress", NUMBER, FIELD(progress_s), 1, 3600, NULL, 3},
    {"plugin", "prolog_timeout_ms", NUMBER, FIELD(prolog_timeout_ms), 10, 5000, NULL,
     1000},
#undef FIELD
};
#define KEY_COUNT (sizeof(keys) / sizeof(keys[0]))

static void set_number(struct vine_conf *conf, const struct key *key, uint64_t value)
{
    if (key->kind == NUMBER)
        memcpy((char *)conf + key->offset, &value, sizeof(value));
    else
        *(bool *)(void *)((char *)conf + key->offset) = value != 0;
}

void vine_conf_default(struct vine_conf *conf)
{
    memset(conf, 0, sizeof(*conf));
    for (size_t i = 0; i < KEY_COUNT; i++) {
        if (keys[i].text_default != NULL)
            (void)snprintf((char *)conf + keys[i].offset, VINE_CONF_TEXT, "%s",
                           keys[i].text_default);
        else
            set_number(conf, &keys[i], keys[i].number_default);
    }
}

static char *trim(char *text)
{
    char *end = text + strlen(text);

    while (*text == ' ' || *text == '\t')
        text++;
    while (end > text && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r'))
        *--end = '\0';
    return text;
}

static int parse_number(const char *value, uint64_t min, uint64_t max, uint64_t *out)
{
    char *end;
    unsigned long long n;

    if (*value < '0' || *value > '9')
        return -1;
    errno = 0;
    n = strtoull(value, &end, 10);
    if (errno != 0 || *end != '\0' || n < min || n > max)
        return -1;
    *out = n;
    return 0;
}

static int parse_word(const char *value, const char *yes, const char *no, uint64_t *out)
{
    if (strcmp(value, yes) != 0 && strcmp(value, no) != 0)
        return -1;
    *out = strcmp(value, yes) == 0;
    return 0;
}

static int set_text(struct vine_conf *conf, const struct key *key, const char *value,
                    const char *path, unsigned line, struct vine_err *err)
{
    if (strlen(value) >= VINE_CONF_TEXT)
        return vine_err_set(err, VINE_EINVAL, "%s, line %u: '%s' is over %d bytes",
                            path, line, key->name, VINE_CONF_TEXT - 1);
    (void)snprintf((char *)conf + key->offset, VINE_CONF_TEXT, "%s", value);
    return 0;
}

/* A read that waits cannot be killed. Slurm waits for UnkillableStepTimeout, 60 s if
 * nobody set it, for the end of a task that it kills, and then drains the node. */
static const char *why_bounded(const struct key *key)
{
    return strcmp(key->name, "lazy_timeout") == 0
               ? ": it must end before Slurm's UnkillableStepTimeout, 60 s by default, "
                 "drains the node"
               : "";
}

static int set_value(struct vine_conf *conf, const struct key *key, const char *value,
                     const char *path, unsigned line, struct vine_err *err)
{
    uint64_t n = 0;

    switch (key->kind) {
    case PATH:
        if (*value != '\0' && *value != '/')
            return vine_err_set(err, VINE_EINVAL,
                                "%s, line %u: '%s' takes an absolute path, not '%s'",
                                path, line, key->name, value);
        return set_text(conf, key, value, path, line, err);
    case CACHING:
        if (strcmp(value, "auto") != 0 && strcmp(value, "coherent") != 0 &&
            strcmp(value, "strict") != 0)
            return vine_err_set(
                err, VINE_EINVAL,
                "%s, line %u: '%s' takes auto, coherent or strict, not '%s'", path,
                line, key->name, value);
        return set_text(conf, key, value, path, line, err);
    case TEXT:
        return set_text(conf, key, value, path, line, err);
    case NUMBER:
        if (parse_number(value, key->min, key->max, &n) < 0)
            return vine_err_set(
                err, VINE_EINVAL,
                "%s, line %u: '%s' takes a whole number from %llu to %llu, not '%s'%s",
                path, line, key->name, (unsigned long long)key->min,
                (unsigned long long)key->max, value, why_bounded(key));
        break;
    case YES_NO:
        if (parse_word(value, "yes", "no", &n) < 0)
            return vine_err_set(err, VINE_EINVAL,
                                "%s, line %u: '%s' takes yes or no, not '%s'", path,
                                line, key->name, value);
        break;
    case FALLBACK:
        if (parse_word(value, "origin", "fail", &n) < 0)
            return vine_err_set(err, VINE_EINVAL,
                                "%s, line %u: '%s' takes origin or fail, not '%s'",
                                path, line, key->name, value);
        break;
    case START:
        if (parse_word(value, "lazy", "full", &n) < 0)
            return vine_err_set(err, VINE_EINVAL,
                                "%s, line %u: '%s' takes full or lazy, not '%s'", path,
                                line, key->name, value);
        break;
    }
    set_number(conf, key, n);
    return 0;
}

static bool known_section(const char *name)
{
    for (size_t i = 0; i < KEY_COUNT; i++)
        if (strcmp(keys[i].section, name) == 0)
            return true;
    return false;
}

static const struct key *find_key(const char *section, const char *name)
{
    for (size_t i = 0; i < KEY_COUNT; i++)
        if (strcmp(keys[i].section, section) == 0 && strcmp(keys[i].name, name) == 0)
            return &keys[i];
    return NULL;
}

struct parser {
    const char *path;
    unsigned line;
    char section[32];
    bool seen[KEY_COUNT];
};

static int parse_section(struct parser *p, char *text, struct vine_err *err)
{
    size_t len = strlen(text);

    if (text[len - 1] == ']') {
        text[len - 1] = '\0';
        if (known_section(text + 1)) {
            (void)snprintf(p->section, sizeof(p->section), "%s", text + 1);
            return 0;
        }
    }
    return vine_err_set(err, VINE_EINVAL,
                        "%s, line %u: unknown section '%.60s'; sections are [cluster] "
                        "[manager] [node] [plugin]",
                        p->path, p->line, text);
}

static int parse_line(struct parser *p, char *text, struct vine_conf *conf,
                      struct vine_err *err)
{
    const struct key *key;
    char *equals, *name;

    text = trim(text);
    if (*text == '\0' || *text == '#' || *text == ';')
        return 0;
    if (*text == '[')
        return parse_section(p, text, err);
    equals = strchr(text, '=');
    if (equals == NULL)
        return vine_err_set(err, VINE_EINVAL,
                            "%s, line %u: '%.60s' is not of the form key = value",
                            p->path, p->line, text);
    *equals = '\0';
    name = trim(text);
    key = find_key(p->section, name);
    if (key == NULL)
        return vine_err_set(err, VINE_EINVAL,
                            "%s, line %u: section [%s] has no key '%.60s'; see man "
                            "vine-env.conf",
                            p->path, p->line, p->section, name);
    if (p->seen[key - keys])
        return vine_err_set(err, VINE_EINVAL, "%s, line %u: '%s' is given twice",
                            p->path, p->line, name);
    p->seen[key - keys] = true;
    return set_value(conf, key, trim(equals + 1), p->path, p->line, err);
}

static int parse_text(const char *path, char *text, struct vine_conf *conf,
                      struct vine_err *err)
{
    struct parser p = {.path = path};
    char *rest = text, *line;

    while ((line = strsep(&rest, "\n")) != NULL) {
        p.line++;
        if (parse_line(&p, line, conf, err) < 0)
            return -1;
    }
    return 0;
}

int vine_conf_load(const char *path, struct vine_conf *conf, struct vine_err *err)
{
    char *text;
    int result;

    vine_conf_default(conf);
    if (text_file_read(path, FILE_MAX, &text, err) < 0)
        return -1;
    if (text == NULL)
        return 0;
    result = parse_text(path, text, conf, err);
    if (result < 0)
        vine_conf_default(conf);
    free(text);
    return result;
}

int vine_conf_host_port(const char *text, uint16_t default_port, char host[256],
                        uint16_t *port, struct vine_err *err)
{
    const char *host_end, *port_text = NULL;
    const char *start = text;
    uint64_t n = default_port;

    if (*text == '[') {
        start = text + 1;
        host_end = strchr(start, ']');
        if (host_end != NULL && host_end[1] == ':')
            port_text = host_end + 2;
        else if (host_end != NULL && host_end[1] != '\0')
            host_end = NULL;
    } else {
        host_end = strchr(text, ':');
        if (host_end != NULL)
            port_text = host_end + 1;
        else
            host_end = text + strlen(text);
    }
    if (host_end == NULL || host_end == start || host_end - start > 255 ||
        (port_text != NULL && parse_number(port_text, 1, 65535, &n) < 0))
        return vine_err_set(err, VINE_EINVAL,
                            "'%.100s' is not HOST, HOST:PORT or [ADDRESS]:PORT", text);
    memcpy(host, start, (size_t)(host_end - start));
    host[host_end - start] = '\0';
    *port = (uint16_t)n;
    return 0;
}

int vine_conf_size(const char *text, uint64_t total, uint64_t *bytes,
                   struct vine_err *err)
{
    static const char units[] = "KMGT";
    char *end;
    unsigned long long n;
    const char *unit;

    errno = 0;
    n = strtoull(text, &end, 10);
    if (*text >= '0' && *text <= '9' && errno == 0) {
        if (strcmp(end, "%") == 0 && n >= 1 && n <= 100) {
            *bytes = total / 100 * n;
            return 0;
        }
        if (*end == '\0') {
            *bytes = n;
            return 0;
        }
        unit = strchr(units, *end);
        if (unit != NULL && end[1] == '\0' && n < (1ull << 23)) {
            *bytes = n << (10 * (unit - units + 1));
            return 0;
        }
    }
    return vine_err_set(err, VINE_EINVAL,
                        "'%.60s' is not a size: write 4096, 512M, 10G, 2T or 80%%",
                        text);
}
