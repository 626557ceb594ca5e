/* stage.h - ask the node daemon for a step's environments and wait. No SPANK in here.
 */
#ifndef VINE_SPANK_STAGE_H
#define VINE_SPANK_STAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "spank/environ.h"
#include "vine/err.h"
#include "vine/spec.h"

struct stage_request {
    const char *socket_path;
    uint32_t job, uid, gid;
    const struct vine_spec *spec; /* `lazy` in it is heeded */
    uint64_t timeout_s, progress_s;
    /* Asked every STAGE_SLICE_MS; true ends the wait with VINE_ECANCELED. NULL: never.
     */
    bool (*canceled)(void *arg);
    /* One line for the user, of progress and of the end; NULL: quiet. */
    void (*say)(void *arg, const char *line);
    void *arg;
};

#define STAGE_SLICE_MS 500
#define STAGE_CONNECT_MS 2000
/* A daemon that went away while a step waits is given this long to come back: systemd
 * restarts it within seconds. */
#define STAGE_RECONNECT_S 30
/* The daemon sends progress every progress_s. One that says nothing for so long, and
 * for five times progress_s, hangs: the job had better run from the source. */
#define STAGE_SILENCE_S 30

struct stage_source {
    struct vine_err err; /* VINE_OK: staged, and the rest is set */
    bool cluster;        /* the error is the same on all nodes */
    char dst[VINE_PATH_MAX];
    char mount[VINE_PATH_MAX];
    bool file;   /* `mount` and `dst` are files */
    bool cached; /* all of it was here before the job asked */
    bool first;  /* no step of the job was answered on this node before */
    char digest[65];
    enum environ_kind kind;
};

/* Fill one result for each source of the spec; results has spec->count places. A
 * failure of the whole is put into every place. Never fails itself. */
void stage_wait(const struct stage_request *request, struct stage_source *results);

/* What tasks of a job that started lazily could not read; "" nothing, or no answer. */
void stage_trouble(const struct stage_request *request, int timeout_ms, char *text,
                   size_t size);

/* Tell the daemon that a job begins ("begin": the spec and ids are used) or ended
 * ("end"), within timeout_ms in all. */
int stage_tell(const struct stage_request *request, const char *op, int timeout_ms,
               struct vine_err *err);

#endif
