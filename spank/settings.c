/* settings.c - plugin arguments and the [plugin] section (see settings.h). */
#include "spank/settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vine/conf.h"

static const char config_word[] = "config=", socket_word[] = "socket=";

static const char *value_of(int ac, char *const av[], const char *word)
{
    const char *value = NULL;

    for (int i = 0; i < ac; i++)
        if (strncmp(av[i], word, strlen(word)) == 0)
            value = av[i] + strlen(word);
    return value;
}

const char *settings_unknown(int ac, char *const av[])
{
    for (int i = 0; i < ac; i++)
        if (strncmp(av[i], config_word, sizeof(config_word) - 1) != 0 &&
            strncmp(av[i], socket_word, sizeof(socket_word) - 1) != 0)
            return av[i];
    return NULL;
}

int settings_load(int ac, char *const av[], struct settings *out, struct vine_err *err)
{
    const char *config = value_of(ac, av, config_word);
    const char *socket_path = value_of(ac, av, socket_word);
    struct vine_conf *conf = malloc(sizeof(*conf)); /* 6 KiB: not on a guest's stack */
    int result;

    *out = (struct settings){.fallback_origin = true,
                             .stage_timeout_s = 600,
                             .progress_s = 3,
                             .prolog_timeout_ms = 1000};
    (void)snprintf(out->socket_path, sizeof(out->socket_path), "/run/vine/vined.sock");
    (void)snprintf(out->private_dir, sizeof(out->private_dir), "/run/vine/env");
    (void)snprintf(out->job_dir, sizeof(out->job_dir), "/run/vine/job");
    (void)snprintf(out->ended_dir, sizeof(out->ended_dir), "/run/vine/ended");
    if (conf == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    result = vine_conf_load(config != NULL ? config : VINE_CONF_PATH, conf, err);
    out->fallback_origin = conf->fallback_origin;
    out->start_lazy = conf->start_lazy;
    out->stage_timeout_s = conf->stage_timeout_s;
    out->progress_s = conf->progress_s;
    out->prolog_timeout_ms = conf->prolog_timeout_ms;
    (void)snprintf(out->socket_path, sizeof(out->socket_path), "%.90s/vined.sock",
                   conf->run_dir);
    (void)snprintf(out->private_dir, sizeof(out->private_dir), "%.500s/env",
                   conf->run_dir);
    (void)snprintf(out->job_dir, sizeof(out->job_dir), "%.500s/job", conf->run_dir);
    (void)snprintf(out->ended_dir, sizeof(out->ended_dir), "%.500s/ended",
                   conf->run_dir);
    if (socket_path != NULL)
        (void)snprintf(out->socket_path, sizeof(out->socket_path), "%s", socket_path);
    free(conf);
    return result;
}
