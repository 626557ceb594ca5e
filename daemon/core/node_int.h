/* node_int.h - what the files of the node's core share.
 *
 *   node.c           events in: manager, messages, time
 *   node_job.c       jobs, their sources, the clients that wait
 *   node_object.c    objects: space, publishing, mounts, eviction
 *   node_transfer.c  pieces on their way
 *   node_reuse.c     what older objects have of a new one
 *   node_parts.c     stretches of an image that is still being built
 *   node_origin.c    this node as origin: tickets, builds, streams
 *   node_lazy.c      jobs that start before their object is there
 *   node_hold.c      what these do not need waits
 *   node_story.c     how objects came here, for the manager's log
 *   node_info.c      progress, lists, totals
 *
 * A job has sources; a source is bound to an object and so leases it; an object has
 * transfers and mounts. Clients wait for sources of one job. Changes below are told
 * upwards by node_object_advance and node_source_failed, which answer the clients. */
#ifndef VINE_CORE_NODE_INT_H
#define VINE_CORE_NODE_INT_H

#include "daemon/core/bits.h"
#include "daemon/core/node.h"
#include "daemon/core/table.h"
#include "vine/log.h"

#define NODE_MADE_UP_JOB (1ull << 63)
#define NODE_UID_SOURCES_MAX 4096 /* of all jobs of a user, and their files */
#define NODE_SOURCES_MAX                                                               \
    (VINE_JOBS_MAX * VINE_SOURCES_MAX) /* told when registering                        \
                                        */
#define NODE_TICKETS_MAX 256
#define NODE_TRANSFERS_MAX 4096
#define NODE_UNTOLD_MAX 16  /* runs of pieces told together */
#define NODE_REFUSED_MAX 16 /* refusals that a binding may have crossed */
#define NODE_REQUESTS_MAX VINE_CLIENTS_MAX /* cluster stages and status, unanswered */

struct mount {
    struct mount *next;
    uint32_t uid; /* NODE_ANY_UID: trusted */
    bool mounted; /* false: under way */
};

enum object_state {
    OBJECT_PARTIAL,
    OBJECT_PUBLISHING,
    OBJECT_COMPLETE,
};

enum reuse_state {
    REUSE_UNTRIED,
    REUSE_RUNNING,
    REUSE_OVER,
};

enum lazy_state { /* of an object that is not complete */
                  LAZY_OFF,
                  LAZY_WAITING, /* for the piece with the superblock */
                  LAZY_LOOKING, /* the edge looks where the tables are */
                  LAZY_TABLES,  /* for the pieces with the tables */
                  LAZY_MOUNTING,
                  LAZY_MOUNTED,
                  LAZY_FAILED, /* jobs wait until it is complete */
};

struct node_object {
    struct table_link link;
    struct node_object *next, *prev;
    struct vine_digest digest;
    uint64_t size;
    uint32_t pieces;
    bool trusted;
    enum object_state state;
    uint64_t *have;
    uint32_t have_count;
    uint32_t key_count;
    struct vine_digest keys[VINE_KEYS_MAX]; /* oldest first */
    uint32_t leases;                        /* sources bound to it */
    struct transfer *transfers;             /* by object_next */
    struct mount *mounts;
    struct ticket *stream; /* this node reads it from its source */
    bool restored;         /* last used before this start, by another clock */
    uint64_t last_used_ms;
    uint64_t complete_ms; /* since when; 0: before this start */
    /* Of its data: how it came since the start; bytes_here: all that is verified. */
    uint64_t bytes_peer, bytes_origin, bytes_reused, bytes_here;
    enum reuse_state reuse;
    uint64_t reuse_deadline_ms, reuse_since_ms;
    uint32_t *missing; /* by piece, bytes: after reuse; NULL: all alike */
    uint32_t local_fails;
    struct msg_range untold[NODE_UNTOLD_MAX]; /* pieces the manager does not know of */
    uint32_t untold_count;
    uint64_t untold_ms; /* until when at most */
    enum lazy_state lazy;
    bool lazy_leaving;       /* its lazy mount is on its way out */
    bool lazy_served;        /* the edge wants to know of pieces */
    struct msg_range tables; /* LAZY_TABLES */
    uint64_t *first;         /* pieces wanted before others; NULL: none */
    uint64_t *touched;       /* pieces that starts read; NULL: not known */
    uint64_t *read;          /* told that this start read them; NULL: none */
    struct msg_range ahead;  /* what was wanted beside the last piece waited for */
    uint64_t ahead_bytes;
    bool holding;            /* the manager is to plan what is urgent, and no more */
    bool others_hold;        /* so do all who get it from this node's stream */
    uint64_t hold_since_ms;  /* 0: never */
    uint64_t busy_until_ms;  /* LAZY_MOUNTED: tasks read it a moment ago */
    struct vine_err trouble; /* of its source, while it is lazily mounted */
    uint64_t retry_ms;       /* then it is wanted again; 0: not */
    bool part; /* of something being built: for nobody to mount, goes with its leases */
    uint64_t part_build, part_offset;
    struct story_row *story; /* how it came; NULL: nothing is known */
    uint32_t story_count;
};

struct story_row { /* bytes from one sender */
    enum msg_from from;
    char peer[VINE_NAME_MAX + 1];
    uint64_t bytes, first_ms, last_ms;
};

struct transfer {
    struct table_link link;
    struct transfer *next, *prev, *object_next, *object_prev;
    uint64_t id;
    struct node_object *object;
    struct msg_range range;
    uint32_t reported;     /* pieces the edge finished */
    struct ticket *origin; /* NULL: from a peer */
    char peer[VINE_NAME_MAX + 1];
    bool feed; /* told of when it is done */
    bool begun;
    uint64_t asked_ms, deadline_ms;
};

enum source_state {
    SOURCE_IDLE,   /* failed; asked again when a client asks again */
    SOURCE_WANTED, /* the manager is, or will be, asked */
    SOURCE_BOUND,
};

struct job_source {
    struct node_job *job;
    struct job_source *next;
    enum source_state state;
    bool lazy;                  /* somebody asked for a lazy start */
    bool told;                  /* how its object came */
    bool answered;              /* a client got it */
    uint64_t since_ms;          /* the job asked */
    struct node_object *object; /* when bound: leased */
    enum msg_claim claim;       /* to all of it */
    struct node_object **part;  /* leased until the object is here: [part_count] */
    uint32_t part_count;
    char path[];
};

struct node_job {
    struct table_link link;
    struct node_job *next, *prev;
    uint64_t job;
    uint32_t uid, gid;
    bool staged; /* made up by MSG_WANTED: ends by itself */
    struct vine_err staged_err;
    uint32_t source_count;
    struct job_source *sources;
};

struct client {
    struct table_link link;
    struct client *next, *prev;
    uint64_t id;
    struct node_job *job;
    uint64_t since_ms;
    bool lazy;
    uint32_t count;
    struct job_source *source[VINE_SOURCES_MAX];
    struct vine_err err[VINE_SOURCES_MAX]; /* set: that source failed for this client */
};

enum ticket_state {
    TICKET_RESOLVING,
    TICKET_RESOLVED,
    TICKET_OPENING,
    TICKET_PROVING,
    TICKET_BUILDING,
    TICKET_STREAMING,
};

struct ticket { /* this node as origin of one source */
    struct table_link link;
    struct ticket *next, *prev;
    uint64_t id;         /* ours: the manager's may repeat after its restart */
    uint64_t mgr_ticket; /* 0: the manager that asked is gone */
    uint64_t job;
    uint32_t uid, gid;
    char *path;
    enum ticket_state state;
    struct node_resolved resolved;
    bool untold;                /* resolved, but others of its job are not */
    bool prove;                 /* when it has streamed */
    uint64_t build_ms;          /* begun */
    uint64_t admitted;          /* bytes reserved for the build */
    struct node_object *object; /* streamed */
    uint64_t read, to_read;     /* bytes, by the build; to_read 0: not known */
    uint64_t told_ms;           /* the manager, of these */
    bool parts_wanted;
    struct node_object **part; /* announced, leased: [part_count] */
    uint32_t part_count;
};

struct request { /* of a client to the manager */
    struct request *next;
    uint64_t client, ticket;
};

struct node {
    struct node_ops ops;
    void *ctx;
    struct node_limits limits;
    char *store_name, *switch_name, *manager_name;
    uint64_t now_ms;
    bool manager_up;
    uint64_t manager_down_ms; /* since when; 0 at start */
    uint32_t heartbeat_ms;    /* of the manager's last word on it */
    uint64_t sent_ms;         /* last message to the manager */
    uint64_t heard_ms;        /* last one from it */
    uint64_t idle_ms;         /* last event that found nothing to do */
    uint64_t asked_ms;        /* what it has not answered yet; 0: nothing */
    bool put_off;             /* the last tick was late and did nothing */
    uint64_t last_id;         /* transfers, tickets, requests */
    struct table objects, jobs, clients, transfers, tickets;
    struct node_object *first_object;
    struct node_job *first_job;
    struct client *first_client;
    struct transfer *first_transfer;
    struct ticket *first_ticket;
    struct request *first_request;
    uint32_t request_count;
    uint32_t source_count;   /* of all jobs */
    uint32_t untold_objects; /* with pieces to tell */
    uint32_t reusing;        /* objects */
    uint64_t store_used;     /* objects and reservations */
    uint64_t bytes_peer, bytes_origin, bytes_built, bytes_reused;
    struct vine_digest refused[NODE_REFUSED_MAX]; /* a ring */
    uint32_t refused_count;
};

/* node.c */
void node_send(struct node *node,
               struct msg *m); /* dropped while no manager is there */
void node_log(struct node *node, enum vine_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void node_time(struct node *node, uint64_t now_ms);
/* What this client asked the manager is not to be answered any more. */
void node_requests_forget(struct node *node, uint64_t client);

/* node_job.c */
uint32_t node_uid_sources(const struct node *node, uint32_t uid);
struct node_job *node_job_find(const struct node *node, uint64_t job);
struct job_source *node_job_source(const struct node *node, uint64_t job, uint32_t uid,
                                   const char *path);
/* A job of this uid (this one, if job is not 0) that has this source; NULL: none. */
const struct node_job *node_job_wants(const struct node *node, uint64_t job,
                                      uint32_t uid, const char *path);
void node_job_free(struct node *node, struct node_job *job);
struct job_source *node_job_add_source(struct node *node, struct node_job *job,
                                       const char *path, struct vine_err *err);
int node_job_get(struct node *node, uint64_t job, uint32_t uid, uint32_t gid,
                 struct node_job **out, struct vine_err *err);
int node_job_binding(struct node *node, const struct msg *m, struct vine_err *err);
void node_job_wanted(struct node *node, const struct msg *m);
/* A newer version of a job's file came. */
void node_job_replaced(struct node *node, const struct msg *m);
void node_job_manager_down(struct node *node);
void node_job_want_claims(struct node *node, const struct node_object *o);
void node_job_want_all(struct node *node); /* after REGISTER */
void node_source_bind(struct node *node, struct job_source *s, struct node_object *o);
/* Its clients are told; the binding is given up. */
void node_source_failed(struct node *node, struct job_source *s,
                        const struct vine_err *err);
void node_source_want(struct node *node, struct job_source *s); /* ask the manager */
uint32_t node_source_mount_uid(const struct job_source *s);
bool node_source_ready(const struct job_source *s);
/* All of it is here, and its jobs may have it. */
bool node_source_settled(const struct job_source *s);
/* The job, with these sources set going; made if it is new. sources: as many as the
 * spec has. */
int node_job_ask(struct node *node, uint64_t number, uint32_t uid, uint32_t gid,
                 const struct vine_spec *spec, struct job_source **sources,
                 struct node_job **out, struct vine_err *err);
void node_sources_advance(struct node *node, struct job_source **sources,
                          uint32_t count);
void node_jobs_settle(struct node *node); /* made-up ones end that have all */

/* node_client.c */
void node_clients_tell(struct node *node, const struct job_source *s,
                       const struct vine_err *err);
/* Answer those that wait for nothing more. */
void node_clients_check(struct node *node);
bool node_clients_wait(const struct node *node, const struct job_source *s);
void node_clients_job_ended(struct node *node, const struct node_job *job);
void node_clients_mount_failed(struct node *node, const struct node_object *o,
                               uint32_t uid, const struct vine_err *err);
void node_clients_tick(struct node *node);
uint64_t node_clients_deadline(const struct node *node);
void node_client_free(struct node *node, struct client *c);

/* node_object.c */
struct node_object *node_object_find(const struct node *node,
                                     const struct vine_digest *digest);
int node_object_check(const struct node_object *o, uint64_t size, uint32_t pieces,
                      struct vine_err *err);
struct node_object *node_object_new(struct node *node, const struct vine_digest *digest,
                                    uint64_t size, uint32_t pieces, bool trusted);
/* Find or make; space is admitted. ENOSPC, ELIMIT, EPROTO. */
int node_object_get(struct node *node, const struct vine_digest *digest, uint64_t size,
                    uint32_t pieces, bool trusted, struct node_object **out,
                    struct vine_err *err);
void node_object_free(struct node *node, struct node_object *o);
/* Remove it from disk and tell the manager. */
void node_object_evict(struct node *node, struct node_object *o);
void node_object_add_key(struct node_object *o, const struct vine_digest *key);
bool node_object_has(const struct node_object *o, uint32_t piece);
void node_object_set_complete(struct node *node, struct node_object *o);
void node_object_used(struct node *node, struct node_object *o);
/* Do what its state and leases ask for: publish, mount; then answer clients. */
void node_object_advance(struct node *node, struct node_object *o);
/* Its own disk failed it: those who lease it are told, what there is goes. */
void node_object_failed(struct node *node, struct node_object *o,
                        const struct vine_err *err);
void node_object_refuse(struct node *node, const struct vine_digest *digest,
                        uint32_t pieces, enum vine_code code);
/* Since the last such question? */
bool node_object_was_refused(struct node *node, const struct vine_digest *digest);
/* Could the store ever hold what the sources of a job need together? ENOSPC. */
int node_store_fits(const struct node *node, uint64_t bytes, unsigned sources,
                    struct vine_err *err);
int node_store_admit(struct node *node, uint64_t bytes, const char *what,
                     struct vine_err *err);
struct mount *node_mount_find(const struct node_object *o, uint32_t uid);
/* NULL: out of memory. Not mounted yet. */
struct mount *node_mount_new(struct node_object *o, uint32_t uid);
void node_mount_free(struct node_object *o, struct mount *gone);

/* node_transfer.c */
int node_transfer_fetch(struct node *node, const struct msg *m, struct vine_err *err);
int node_transfer_revoke(struct node *node, const struct msg *m, struct vine_err *err);
struct transfer *node_transfer_new(struct node *node, struct node_object *o,
                                   struct msg_range range);
void node_transfer_free(struct node *node, struct transfer *t);
void node_transfer_cancel(struct node *node, struct transfer *t);
void node_transfer_cancel_all(struct node *node, struct node_object *o);
void node_transfer_give_up(struct node *node, struct node_object *o);
bool node_transfer_covers(const struct node_object *o, uint32_t piece);
void node_transfer_tick(struct node *node);
void node_transfer_renew(struct node *node); /* all that wait have their time again */
uint64_t node_transfer_deadline(const struct node *node);
void node_have_tell(struct node *node, struct node_object *o, struct msg_range range);
/* Together with others, at most `wait_ms` later. */
void node_have_tell_soon(struct node *node, struct node_object *o, uint32_t piece,
                         uint32_t wait_ms);
void node_have_tell_untold(struct node *node);
void node_have_forget_untold(struct node *node, struct node_object *o);
void node_have_tell_all(struct node *node, struct node_object *o);
/* End the transfers of which nothing is left. */
void node_transfer_finish(struct node *node, struct node_object *o);

/* node_reuse.c */
void node_reuse_begin(struct node *node, struct node_object *o);
/* The manager is not to plan data for it yet. */
bool node_reuse_pending(const struct node *node, const struct node_object *o);
void node_reuse_end(struct node *node, struct node_object *o);
/* Bytes that a data piece still needs, or needed when it began. */
uint64_t node_reuse_missing(const struct node_object *o, uint32_t piece);
void node_reuse_tick(struct node *node);
void node_reuse_renew(struct node *node);
uint64_t node_reuse_deadline(const struct node *node);

/* node_lazy.c */
/* A client that starts lazily need not wait for this source any longer. */
bool node_lazy_ready(const struct job_source *s);
void node_lazy_advance(struct node *node, struct node_object *o);
void node_lazy_piece(struct node *node, struct node_object *o, uint32_t piece);
void node_lazy_complete(struct node_object *o);
void node_lazy_leave(struct node *node, struct node_object *o); /* no lease is left */
/* The manager says that its source fails. True: a job runs on it already, so it stays
 * wanted, and is asked for again later. */
bool node_lazy_keeps(struct node *node, struct job_source *s,
                     const struct vine_err *err);
int node_lazy_message(struct node *node, const struct msg *m, struct vine_err *err);
void node_lazy_tell_all(struct node *node); /* after REGISTER */
void node_lazy_tick(struct node *node);
uint64_t node_lazy_deadline(const struct node *node);
void node_lazy_free(struct node_object *o);

/* node_hold.c */
/* Hold, or no longer, as things are now. */
void node_hold_check(struct node *node, struct node_object *o);
/* It was read, or is mounted now. */
void node_hold_busy(struct node *node, struct node_object *o, bool mounted_now);
/* Its stream is to read what is urgent only. */
bool node_hold_stream(const struct node_object *o);
void node_hold_message(struct node *node, struct node_object *o, bool hold);
void node_hold_tell_all(struct node *node); /* after REGISTER */
void node_hold_manager_down(struct node *node);
void node_hold_forget(struct node_object *o);
void node_hold_drop(struct node *node, struct node_object *o);
void node_hold_tick(struct node *node);
uint64_t node_hold_deadline(const struct node *node);

/* node_story.c */
/* These bytes came from there; the first of them was asked for then. */
void node_story_add(struct node *node, struct node_object *o, enum msg_from from,
                    const char *peer, uint64_t bytes, uint64_t since_ms);
/* So many of its bytes were parts: whoever sent those sent them. */
void node_story_parts(struct node *node, struct node_object *o, uint64_t bytes);
/* It is complete: the manager is told once for each job that has it. */
void node_story_settle(struct node *node, struct node_object *o);
void node_story_settle_all(struct node *node); /* after REGISTER */
/* It is given up for this source, if it was not complete. */
void node_story_end(struct node *node, struct job_source *s, enum vine_code code);
void node_story_forget(struct node_object *o);

/* node_parts.c */
void node_part_offered(struct node *node, const struct msg *m);
void node_parts_stop(struct node *node, struct job_source *s); /* fetch no more */
void node_parts_drop(struct node *node, struct job_source *s);
/* The object is complete: the sources bound to it need no parts any more. */
void node_parts_arrived(struct node *node, struct node_object *o);
void node_ticket_parts_drop(struct node *node, struct ticket *t);
/* Remove a part that nobody leases, once nothing goes on with it. */
void node_part_check(struct node *node, struct node_object *o);
void node_part_forget(struct node *node, struct node_object *o); /* it is going */
/* All that sources have of them here, for lack of space; false: nothing. */
bool node_parts_yield(struct node *node);
void node_parts_free_all(struct node *node); /* the lists; the end */

/* node_origin.c */
struct ticket *node_ticket_find(const struct node *node, uint64_t id);
int node_origin_message(struct node *node, const struct msg *m, struct vine_err *err);
void node_origin_job_gone(struct node *node, uint64_t job);
void node_origin_manager_down(struct node *node);
void node_origin_fail(struct node *node, struct ticket *t, const struct vine_err *err);
void node_origin_advance(struct node *node, struct ticket *t);
void node_origin_streamed(struct node *node, struct ticket *t);
/* No answer is owed: ends transfers, the child, the reservation. */
void node_ticket_free(struct node *node, struct ticket *t);

#endif
