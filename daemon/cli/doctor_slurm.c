/* doctor_slurm.c - is the plugin where Slurm finds it, and of Slurm's own release? */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/topology.h"
#include "daemon/cli/doctor.h"

#ifndef VINE_PLUGINDIR
#define VINE_PLUGINDIR "/usr/lib/vine-env"
#endif
#define PLUGIN "vine_env.so"
#define LINE "optional " VINE_PLUGINDIR "/" PLUGIN
#define RUN_MS 8000
#define CONFIG_MAX (256u << 10)

/* Slurm's answer to `scontrol show config`, or "" if it gives none. */
struct slurm {
    char *config;
    char conf_dir[400];
};

/* "Key   = value" in scontrol's output. Copies at most size - 1 bytes. */
static bool config_value(const struct slurm *slurm, const char *key, char *out,
                         size_t size)
{
    size_t len = strlen(key);

    for (const char *line = slurm->config; line != NULL && *line != '\0';) {
        const char *end = strchrnul(line, '\n');
        const char *equals = memchr(line, '=', (size_t)(end - line));

        if (equals != NULL && strncasecmp(line, key, len) == 0 &&
            strspn(line + len, " ") == (size_t)(equals - line) - len) {
            const char *value = equals + 1 + strspn(equals + 1, " ");
            int n = value < end ? (int)(end - value) : 0;
            (void)snprintf(out, size, "%.*s", n, value);
            return true;
        }
        line = *end != '\0' ? end + 1 : NULL;
    }
    return false;
}

/* Where plugstack.conf is: as slurmctld says, else beside slurm.conf. */
static void plugstack_path(const struct slurm *slurm, char *out, size_t size)
{
    char said[400];

    if (config_value(slurm, "PlugStackConfig", said, sizeof(said)) && said[0] == '/' &&
        access(said, F_OK) == 0)
        (void)snprintf(out, size, "%s", said);
    else
        (void)snprintf(out, size, "%s/plugstack.conf", slurm->conf_dir);
}

/* The first "N.N.N" in the output of `PROGRAM -V`. */
static bool installed_version(char *const argv[], unsigned version[3])
{
    char out[256];
    const char *p;

    if (doctor_run(argv, RUN_MS, out, sizeof(out)) != 0)
        return false;
    p = out + strcspn(out, "0123456789");
    return sscanf(p, "%u.%u.%u", &version[0], &version[1], &version[2]) == 3;
}

static void check_version(struct doctor *d, const char *path)
{
    static char *const programs[][3] = {
        {(char *)"slurmd", (char *)"-V", NULL},
        {(char *)"srun", (char *)"-V", NULL},
    };
    struct vine_err err = {0};
    uint32_t built = 0;
    unsigned found[3];
    bool any = false;

    if (elf_read_variable(path, "plugin_version", &built, &err) < 0) {
        doctor_add(d, DOCTOR_FAIL, "plugin version", "install vine-env again", "%s",
                   err.text);
        return;
    }
    for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
        if (!installed_version(programs[i], found))
            continue;
        any = true;
        /* Slurm compares the release, not the maintenance number. */
        if (found[0] == (built >> 16 & 0xff) && found[1] == (built >> 8 & 0xff))
            doctor_add(d, DOCTOR_OK, "plugin version", NULL,
                       "built for Slurm %02u.%02u, %s is %02u.%02u.%u",
                       built >> 16 & 0xff, built >> 8 & 0xff, programs[i][0], found[0],
                       found[1], found[2]);
        else
            doctor_add(
                d, DOCTOR_FAIL, "plugin version",
                "build vine-env against this Slurm's headers and install it again",
                "built for Slurm %02u.%02u, but %s is %02u.%02u.%u", built >> 16 & 0xff,
                built >> 8 & 0xff, programs[i][0], found[0], found[1], found[2]);
    }
    if (!any)
        doctor_add(d, DOCTOR_WARN, "plugin version",
                   "install Slurm, or put it into PATH",
                   "neither slurmd nor srun tells its version");
}

static void check_plugin_file(struct doctor *d, const struct slurm *slurm,
                              const char *written)
{
    char dirs[512], path[1024];
    char *rest = dirs, *dir;

    if (*written == '/') {
        (void)snprintf(path, sizeof(path), "%s", written);
    } else { /* Slurm looks in its own plugin directories */
        path[0] = '\0';
        if (!config_value(slurm, "PluginDir", dirs, sizeof(dirs)))
            dirs[0] = '\0';
        while ((dir = strsep(&rest, ":")) != NULL) {
            (void)snprintf(path, sizeof(path), "%s/%s", dir, written);
            if (access(path, F_OK) == 0)
                break;
        }
    }
    if (access(path, R_OK) < 0) {
        doctor_add(
            d, DOCTOR_FAIL, "plugin file",
            "run 'make install' on this node, or correct the path in plugstack.conf",
            "'%s' cannot be read: %s", *path != '\0' ? path : written, strerror(errno));
        return;
    }
    doctor_add(d, DOCTOR_OK, "plugin file", NULL, "'%s' is there", path);
    check_version(d, path);
}

/* slurmd writes its pid when it starts, and looks then whether a plugin has an epilog.
 * Without a file there is no slurmd here, or none that we know of. */
static void check_slurmd_start(struct doctor *d, const struct slurm *slurm,
                               const char *plugstack)
{
    struct stat started, written;
    char path[512];

    if (!config_value(slurm, "SlurmdPidFile", path, sizeof(path)) ||
        stat(path, &started) < 0 || stat(plugstack, &written) < 0)
        return;
    if (started.st_mtime < written.st_mtime)
        doctor_add(d, DOCTOR_WARN, "slurmd",
                   "'systemctl restart slurmd', which jobs survive",
                   "it started before '%s' was changed: if the line is new, images of "
                   "jobs that end are kept in use",
                   plugstack);
    else
        doctor_add(d, DOCTOR_OK, "slurmd", NULL, "started after '%s' was changed",
                   plugstack);
}

static void check_plugstack(struct doctor *d, const struct slurm *slurm)
{
    static const char mend[] = "add the line '" LINE "' to plugstack.conf on all nodes";
    struct plugstack_entry entry;
    struct vine_err err = {0};
    char path[512];

    if (slurm->conf_dir[0] == '\0' && slurm->config[0] == '\0') {
        doctor_add(d, DOCTOR_FAIL, "plugstack.conf",
                   "install Slurm here, or set SLURM_CONF to its slurm.conf",
                   "no slurm.conf found");
        return;
    }
    plugstack_path(slurm, path, sizeof(path));
    if (plugstack_find(path, PLUGIN, &entry, &err) < 0)
        doctor_add(d, DOCTOR_FAIL, "plugstack.conf", mend, "%s", err.text);
    else if (entry.file[0] == '\0')
        doctor_add(d, DOCTOR_FAIL, "plugstack.conf", mend, "'%s' does not name " PLUGIN,
                   path);
    else
        doctor_add(d, DOCTOR_OK, "plugstack.conf", NULL, "'%s' names %s", entry.file,
                   entry.path);
    if (entry.file[0] == '\0')
        return;
    check_plugin_file(d, slurm, entry.path);
    check_slurmd_start(d, slurm, entry.file);
}

static bool has_word(const char *list, const char *word)
{
    size_t len = strlen(word);

    for (const char *p = list; p != NULL; p = strchr(p, ',')) {
        p += *p == ',';
        if (strncasecmp(p, word, len) == 0 && (p[len] == ',' || p[len] == '\0'))
            return true;
    }
    return false;
}

static void check_prolog_flags(struct doctor *d, const struct slurm *slurm)
{
    char flags[256];
    bool alloc, contain;

    if (!config_value(slurm, "PrologFlags", flags, sizeof(flags))) {
        doctor_add(d, DOCTOR_WARN, "PrologFlags", "start slurmctld, then ask again",
                   "'scontrol show config' gives no answer");
        return;
    }
    alloc = has_word(flags, "Alloc") || has_word(flags, "Contain");
    contain = has_word(flags, "Contain");
    if (alloc && contain)
        doctor_add(d, DOCTOR_OK, "PrologFlags", NULL, "%s", flags);
    else
        doctor_add(
            d, DOCTOR_WARN, "PrologFlags",
            "set PrologFlags=Alloc,Contain in slurm.conf and 'scontrol reconfigure'",
            "'%s' lacks %s: staging begins only when a step reaches a node", flags,
            alloc ? "Contain" : "Alloc");
}

void doctor_slurm(struct doctor *d)
{
    static char *const show[] = {(char *)"scontrol", (char *)"show", (char *)"config",
                                 NULL};
    struct slurm slurm = {.config = malloc(CONFIG_MAX)};

    if (slurm.config == NULL)
        return;
    if (doctor_run(show, RUN_MS, slurm.config, CONFIG_MAX) != 0)
        slurm.config[0] = '\0';
    slurm_conf_dir(slurm.conf_dir, sizeof(slurm.conf_dir));
    check_plugstack(d, &slurm);
    check_prolog_flags(d, &slurm);
    free(slurm.config);
}
