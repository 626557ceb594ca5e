/* daemon.h - what both daemons need around their loop: options, signals, clock. */
#ifndef VINE_EDGE_DAEMON_H
#define VINE_EDGE_DAEMON_H

#include <uv.h>

#include "vine/conf.h"
#include "vine/err.h"

struct daemon_about {
    const char *name; /* "vined" */
    const char *help; /* printed by --help, ends in a newline */
};

/* Handle --help, --version, --config PATH, --log-level WORD; load the configuration.
 * Returns -1: go on. Else the exit status: 0 after --help, 2 for a wrong command line
 * or configuration, 1 for one that cannot be read (told on stderr). */
int daemon_begin(const struct daemon_about *about, int argc, char **argv,
                 struct vine_conf *conf);

/* What main() returns after a failed start: 2 if only the administrator can mend it, so
 * that a service manager does not try again; 1 for all that may pass by itself. */
int daemon_exit_status(const struct vine_err *err);

/* Tell the service manager that requests are answered from now on: READY=1 to the
 * socket named by NOTIFY_SOCKET (sd_notify(3)), which leaves the environment. Without
 * one: nothing. Returns 0; -1 (errno) if it could not be told. */
int daemon_ready(void);

/* Milliseconds of the loop's monotonic clock, brought up to date. */
uint64_t daemon_now(uv_loop_t *loop);

/* Stop calls `stop` once on SIGTERM or SIGINT. */
struct daemon_signals {
    uv_signal_t term, interrupt;
    void (*stop)(void *ctx);
    void *ctx;
};
void daemon_signals_start(struct daemon_signals *signals, uv_loop_t *loop,
                          void (*stop)(void *ctx), void *ctx);
void daemon_signals_close(struct daemon_signals *signals);

/* A timer that follows a state machine's next deadline. */
struct daemon_alarm {
    uv_timer_t timer;
    uv_idle_t idle;
    uv_check_t check;
    uint64_t (*deadline)(void *ctx); /* ms of daemon_now; UINT64_MAX: none */
    void (*ring)(void *ctx, uint64_t now_ms);
    void *ctx;
};
void daemon_alarm_start(struct daemon_alarm *alarm, uv_loop_t *loop, void *ctx,
                        uint64_t (*deadline)(void *ctx),
                        void (*ring)(void *ctx, uint64_t now_ms));
/* Call after each event that may have moved the deadline. Cheap. */
void daemon_alarm_update(struct daemon_alarm *alarm);
void daemon_alarm_close(struct daemon_alarm *alarm);

#endif
