/* local.h - one connection of the Unix socket; shared by local.c (requests), fields.c
 * (what is in them), status.c (documents), progress.c, packing.c and files.c. */
#ifndef VINE_NODE_LOCAL_H
#define VINE_NODE_LOCAL_H

#include <jansson.h>

#include "daemon/node/vined.h"
#include "daemon/wire/local.h"

#define MADE_UP_JOB (1ull << 63)

struct packing;

struct client {
    struct vined *vined;
    uint64_t id; /* the core's handle */
    uv_pipe_t pipe;
    uv_timer_t progress;
    int handles;
    bool closing;
    uint32_t uid, gid, pid; /* of the process that connected */
    struct local_decoder *decoder;
    char buffer[16384];
    bool waiting; /* for the core's reply or answer */
    bool made_up; /* its job is our invention and ends with the connection */
    uint64_t job;
    uint64_t asked_ms; /* stage */
    uint32_t job_uid;  /* stage: whose job */
    bool cluster;      /* stage: progress of the other nodes, too */
    bool cluster_asked;
    struct vine_spec *spec;
    enum {
        ASKED_NOTHING,
        ASKED_STAGE,
        ASKED_NODES,
        ASKED_STATUS,
        ASKED_VERSION, /* get: which version a name means */
        ASKED_GET,
        ASKED_PUT,
        ASKED_NAME /* put: that others find it */
    } asked;
    const char *answer; /* ASKED_STATUS: the event's name */
    struct packing *packing;
    struct filing *filing;
    struct client *next;
};

/* Send an event; `event` is stolen. */
void client_send(struct client *c, json_t *event);
void client_error(struct client *c, const struct vine_err *err);
void client_close(struct client *c);
json_t *client_text(const char *text); /* a message as a JSON value, printable */

/* fields.c: -1 or NULL with *err set: the request lacks it. Caller frees *out and the
 * spec, which is of the fields "spec", "data" and "start". */
int need_text(const json_t *request, const char *field, char **out,
              struct vine_err *err);
int need_id(const json_t *request, const char *field, uint32_t *out,
            struct vine_err *err);
int need_job(const json_t *request, uint64_t *out, struct vine_err *err);
struct vine_spec *need_spec(const json_t *request, struct vine_err *err);

/* status.c */
json_t *status_document(struct client *c);
json_t *staged_document(struct client *c, const struct node_result *results,
                        uint32_t count);

/* progress.c: of a client that waits in `stage` */
void progress_begin(struct client *c, const json_t *request);
void progress_end(struct client *c);
/* The manager's answer, stolen; NULL: it gave none. */
void progress_answer(struct client *c, json_t *cluster);

/* local.c: by the core's handle; NULL: it is gone */
struct client *client_find(struct vined *vined, uint64_t id);
/* All this client waits for is answered. */
void client_done(struct client *c);

/* files.c: requests, and what the core says to them */
int files_get(struct client *c, const json_t *request, struct vine_err *err);
int files_put(struct client *c, const json_t *request, struct vine_err *err);
void files_staged(struct client *c, const struct node_result *result);
void files_named(struct client *c, const char *text);
void files_end(struct client *c); /* the client is going */

/* packing.c */
/* request: all but its paths is looked at here. */
void packing_begin(struct client *c, const json_t *request, const char *path,
                   const char *out);
void packing_end(struct client *c); /* the client is going */

#endif
