/* daemon.c - the parts of a main() that are the same in both daemons. */
#include "daemon/edge/daemon.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "vine/log.h"

static const struct option long_options[] = {
    {"config", required_argument, NULL, 'c'},
    {"log-level", required_argument, NULL, 'l'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

static int wrong_usage(const struct daemon_about *about)
{
    (void)fprintf(stderr, "%s: try '%s --help'\n", about->name, about->name);
    return 2;
}

/* One or two descriptors an object, one a connection. */
static void raise_file_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int daemon_exit_status(const struct vine_err *err)
{
    return err->code == VINE_EINVAL ? 2 : 1;
}

int daemon_begin(const struct daemon_about *about, int argc, char **argv,
                 struct vine_conf *conf)
{
    const char *path = VINE_CONF_PATH, *level_word = NULL;
    enum vine_log_level level;
    struct vine_err err = {0};
    int option;

    while ((option = getopt_long(argc, argv, "c:l:hV", long_options, NULL)) != -1) {
        switch (option) {
        case 'c':
            path = optarg;
            break;
        case 'l':
            level_word = optarg;
            break;
        case 'h':
            (void)fputs(about->help, stdout);
            return 0;
        case 'V':
            (void)printf("%s %s\n", about->name, VINE_VERSION);
            return 0;
        default:
            return wrong_usage(about);
        }
    }
    if (optind < argc) {
        (void)fprintf(stderr, "%s: unexpected argument '%s'\n", about->name,
                      argv[optind]);
        return wrong_usage(about);
    }
    if (vine_conf_load(path, conf, &err) < 0) {
        (void)fprintf(stderr, "%s: %s\n", about->name, err.text);
        return daemon_exit_status(&err);
    }
    if (level_word == NULL)
        level_word = conf->log_level;
    if (vine_log_parse_level(level_word, &level) < 0) {
        (void)fprintf(stderr,
                      "%s: log level '%s' is not one of error, warning, info, debug\n",
                      about->name, level_word);
        return 2;
    }
    vine_log_set_level(level);
    (void)signal(SIGPIPE, SIG_IGN);
    raise_file_limit();
    return -1;
}

uint64_t daemon_now(uv_loop_t *loop)
{
    uv_update_time(loop);
    return uv_now(loop);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct daemon_signals *signals = handle->data;

    vine_log(VINE_LOG_INFO, "event=stop signal=%d", number);
    (void)uv_signal_stop(&signals->term);
    (void)uv_signal_stop(&signals->interrupt);
    signals->stop(signals->ctx);
}

void daemon_signals_start(struct daemon_signals *signals, uv_loop_t *loop,
                          void (*stop)(void *ctx), void *ctx)
{
    signals->stop = stop;
    signals->ctx = ctx;
    (void)uv_signal_init(loop, &signals->term);
    (void)uv_signal_init(loop, &signals->interrupt);
    signals->term.data = signals->interrupt.data = signals;
    (void)uv_signal_start(&signals->term, on_signal, SIGTERM);
    (void)uv_signal_start(&signals->interrupt, on_signal, SIGINT);
}

void daemon_signals_close(struct daemon_signals *signals)
{
    uv_close((uv_handle_t *)&signals->term, NULL);
    uv_close((uv_handle_t *)&signals->interrupt, NULL);
}

static void on_idle(uv_idle_t *idle)
{
}

/* What had come is read. */
static void on_check(uv_check_t *check)
{
    struct daemon_alarm *alarm = check->data;

    (void)uv_idle_stop(&alarm->idle);
    (void)uv_check_stop(check);
    alarm->ring(alarm->ctx, daemon_now(check->loop));
    daemon_alarm_update(alarm);
}

/* The loop runs its timers before it reads. After a busy moment others would be found
 * late whose messages are here, so the alarm rings after the reading: an idle handle
 * keeps the loop from waiting there. */
static void on_alarm(uv_timer_t *timer)
{
    struct daemon_alarm *alarm = timer->data;

    (void)uv_idle_start(&alarm->idle, on_idle);
    (void)uv_check_start(&alarm->check, on_check);
}

void daemon_alarm_start(struct daemon_alarm *alarm, uv_loop_t *loop, void *ctx,
                        uint64_t (*deadline)(void *ctx),
                        void (*ring)(void *ctx, uint64_t now_ms))
{
    alarm->ctx = ctx;
    alarm->deadline = deadline;
    alarm->ring = ring;
    (void)uv_timer_init(loop, &alarm->timer);
    (void)uv_idle_init(loop, &alarm->idle);
    (void)uv_check_init(loop, &alarm->check);
    alarm->timer.data = alarm->check.data = alarm;
    daemon_alarm_update(alarm);
}

void daemon_alarm_update(struct daemon_alarm *alarm)
{
    uint64_t at = alarm->deadline(alarm->ctx), now = uv_now(alarm->timer.loop);

    if (uv_is_closing((uv_handle_t *)&alarm->timer))
        return;
    if (at == UINT64_MAX)
        (void)uv_timer_stop(&alarm->timer);
    else
        (void)uv_timer_start(&alarm->timer, on_alarm, at > now ? at - now : 0, 0);
}

void daemon_alarm_close(struct daemon_alarm *alarm)
{
    uv_close((uv_handle_t *)&alarm->timer, NULL);
    uv_close((uv_handle_t *)&alarm->idle, NULL);
    uv_close((uv_handle_t *)&alarm->check, NULL);
}
