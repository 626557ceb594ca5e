/* node.h - the node daemon's thinking: jobs, leases, objects, transfers.
 *
 * A state machine like mgr.h: events in with the time, actions out through node_ops. No
 * system calls. The edge does the disk, sockets, children and mounts, and answers each
 * action that says "-> node_x()" by exactly one such call, later or at once (never from
 * inside the op itself).
 *
 * Objects: ABSENT -> FETCHING (piece 0, then the rest as the manager assigns) ->
 * PUBLISHING -> COMPLETE, with mounts beside it: one per (object, mount uid). Trusted
 * objects are mounted by the kernel once for all users (mount uid NODE_ANY_UID);
 * untrusted ones once a user. What a job leases is never evicted; without a lease the
 * least recently used goes first. Space is admitted before the first byte.
 *
 * Jobs: created by stage or job_begin; a job belongs to one uid: another uid naming it
 * is refused (EACCES). Bindings (job, path) -> digest last as long as the job. Without
 * a manager: a bound or locally complete answer still works; else the request fails
 * with EDOWN after `manager_wait_ms`. A manager that answers no ping for
 * `manager_silent_ms` (stopped, hung, without power) is none.
 *
 * Lazy start: a client whose spec says so is answered when a trusted object can be
 * mounted, though it is not complete; the edge serves what is there and names the
 * pieces that tasks wait for. The rest is fetched as ever.
 *
 * Reuse: when piece 0 is there, and before any data, the edge takes what older objects
 * of the store have of it. The manager is told to wait (HAVE, reusing) until that is
 * over, so that it plans what is missing and nothing else. While the source is not
 * proved, all pieces are planned, and taken here from older objects one by one when
 * the node they are fetched from has them: bytes somebody read as the user.
 *
 * Transfers: each has a deadline `stall_ms` after its last progress; a failed one is
 * reported (FAILED) and its pieces await a new assignment. Data pieces are only begun
 * when piece 0 is there. A streaming origin fetches its own pieces from the source,
 * ascending, `origin_window` at once, and reports each. */
#ifndef VINE_CORE_NODE_H
#define VINE_CORE_NODE_H

#include "vine/msg.h"
#include "vine/spec.h"

#define NODE_ANY_UID UINT32_MAX

struct node;

struct node_result { /* of one source of a stage request */
    const char *path;
    enum vine_code code;       /* VINE_OK: mounted */
    const char *text;          /* when not ok */
    struct vine_digest digest; /* when ok */
    uint32_t mount_uid;        /* which mount: NODE_ANY_UID or the job's uid */
    uint64_t size;
    bool cached; /* ok: all of it was here before the job asked */
    bool first;  /* nobody of this job was answered before */
};

struct node_ops {
    /* Queue for the manager. Only called between node_manager_up and _down. */
    void (*send)(void *ctx, const struct msg *m);

    /* The manager does not answer: the node is without one (no node_manager_down need
     * follow). Close the connection and look for a manager. */
    void (*manager_silent)(void *ctx);

    /* As origin. Find key and estimate as user uid -> node_source_resolved. May leave
     * the content unopened: then source_open comes before anything else. */
    void (*source_resolve)(void *ctx, uint64_t ticket, uint32_t uid, uint32_t gid,
                           const char *path);
    /* Look into an unopened source -> node_source_opened. */
    void (*source_open)(void *ctx, uint64_t ticket);
    /* Read all of a source with a manifest as its user, and compare; nothing is kept
     * -> node_source_proved. */
    void (*source_prove)(void *ctx, uint64_t ticket);
    /* Make the object of a resolved source -> node_source_built. Finished stretches may
     * be told meanwhile, see node_source_part. */
    void (*source_build)(void *ctx, uint64_t ticket);
    /* Drop a resolved source; ends its child. No answer. Also after built. */
    void (*source_close)(void *ctx, uint64_t ticket);

    /* Carry out an assignment: first piece 0 alone (fetches and checks the manifest and
     * makes the partial file), later ranges of data pieces. Each verified and written
     * piece -> node_piece_done; the rest of the range after an error, as one
     * -> node_transfer_failed. Progress below a piece -> node_transfer_progress. */
    void (*fetch)(void *ctx, uint64_t transfer, const struct vine_digest *digest,
                  const struct msg_assign *assign);
    /* The same from this node's own resolved source (streaming origin). */
    void (*fetch_origin)(void *ctx, uint64_t transfer, const struct vine_digest *digest,
                         uint64_t ticket, struct msg_range range);
    /* Give a transfer up; no answer follows. */
    void (*fetch_cancel)(void *ctx, uint64_t transfer);

    /* Piece 0 is there: read, verify and write what older objects of the store have of
     * it -> node_reused; node_reuse_progress meanwhile. Not proved: its source is not
     * known to hold all of it yet (mgr_proof.c), so nothing is taken now; of a piece
     * that is fetched from a peer, when the peer has verified it
     * -> node_transfer_reused. NULL: nothing is ever reused. */
    void (*reuse)(void *ctx, const struct vine_digest *digest, bool proved);

    /* Has the job tasks on this node? NULL: it is taken for granted. */
    bool (*has_tasks)(void *ctx, uint64_t job);
    /* Was a task of the job given the path of this object? NULL: none ever is. */
    bool (*shown)(void *ctx, uint64_t job, const struct vine_digest *digest);

    /* All pieces are there: sync, rename into place -> node_published. */
    void (*publish)(void *ctx, const struct vine_digest *digest, bool trusted);
    /* -> node_mounted */
    void (*mount)(void *ctx, const struct vine_digest *digest, uint32_t mount_uid,
                  bool trusted);
    /* This source's key gives this complete object: note it on disk. No answer. */
    void (*remember_key)(void *ctx, const struct vine_digest *digest,
                         const struct vine_digest *key);
    /* Lazy start, node_lazy.c. Find the tables of an image whose first piece is here ->
     * node_lazy_tables. */
    void (*lazy_look)(void *ctx, const struct vine_digest *digest);
    /* Mount it as it is, served as far as it is there -> node_lazy_mounted. */
    void (*lazy_mount)(void *ctx, const struct vine_digest *digest);
    /* A piece came of an object that is lazily mounted. */
    void (*lazy_have)(void *ctx, const struct vine_digest *digest, uint32_t piece);
    /* No job wants it any more though it is not complete: unmount -> node_unmounted. */
    void (*lazy_leave)(void *ctx, const struct vine_digest *digest);
    /* What starts read of it, told by the manager: to be kept with the object. */
    void (*touched)(void *ctx, const struct vine_digest *digest,
                    const struct msg_range *ranges, uint32_t count);
    /* Unmount (lazily), remove complete or partial files. No answer. */
    void (*remove)(void *ctx, const struct vine_digest *digest);

    /* The answer to node_stage, perhaps before that returns; client handle is free
     * afterwards. */
    void (*reply)(void *ctx, uint64_t client, const struct node_result *results,
                  uint32_t count);
    /* The answer to node_cluster_stage, node_name and what node_ask_... asked: code and
     * text. */
    void (*answer)(void *ctx, uint64_t client, enum vine_code code, const char *text);
    /* Leases or bindings changed: the edge writes them down (node_each_job) soon. */
    void (*save)(void *ctx);
    void (*log)(void *ctx, int level, const char *line); /* may be NULL */
};

struct node_limits {
    uint64_t cache_max; /* bytes, all objects and partial ones together */
    uint32_t stall_ms, manager_wait_ms, origin_window;
    uint32_t manager_silent_ms; /* without an answer: it is given up */
    uint16_t port;              /* told to the manager */
    const char *store_name;     /* for messages: the cache directory; copied */
    const char *switch_name;    /* copied; "" unknown */
    const char *manager_name;   /* for messages: "ctl:7110"; copied; "" unknown */
};
void node_limits_default(struct node_limits *limits);

struct node *node_new(const struct node_ops *ops, void *ctx,
                      const struct node_limits *limits);
void node_free(struct node *node);

/* At start, before the manager: what the store has, and leases that stand. Partial
 * objects: have[] says which pieces (0 = manifest) are verified. */
int node_restore_object(struct node *node, const struct msg_object *object,
                        const bool *have, uint64_t last_used_ms, struct vine_err *err);
/* ENOENT: its object is not in the store. Made-up jobs (`stage`) are not restored. */
int node_restore_binding(struct node *node, const struct msg_binding *binding,
                         uint32_t gid, struct vine_err *err);

void node_manager_up(struct node *node,
                     uint64_t now_ms); /* handshake done: registers */
void node_manager_down(struct node *node, uint64_t now_ms);
int node_message(struct node *node, const struct msg *m, uint64_t now_ms,
                 struct vine_err *err);

/* Local requests. `client` is the edge's handle, unique while open. node_stage is
 * idempotent; it refuses at once (-1) only what is malformed or over a limit. */
int node_job_begin(struct node *node, uint64_t job, uint32_t uid, uint32_t gid,
                   const struct vine_spec *spec, uint64_t now_ms, struct vine_err *err);
int node_stage(struct node *node, uint64_t client, uint64_t job, uint32_t uid,
               uint32_t gid, const struct vine_spec *spec, uint64_t now_ms,
               struct vine_err *err);
/* The room changes: others use the disk too. Takes effect at the next admission. */
void node_set_cache_max(struct node *node, uint64_t cache_max);
/* Does anything here belong to this job, or to any? */
bool node_has_job(const struct node *node, uint64_t job);
bool node_has_jobs(const struct node *node);
void node_job_end(struct node *node, uint64_t job, uint64_t now_ms);
/* The client hung up: no reply; its job stays until node_job_end. */
void node_client_gone(struct node *node, uint64_t client, uint64_t now_ms);
int node_cluster_stage(struct node *node, uint64_t client, uint32_t uid, uint32_t gid,
                       const char *path, const char *const *names, uint32_t name_count,
                       uint64_t job, uint64_t now_ms, struct vine_err *err);
/* The fields are MSG_ASK_STATUS's. A client that waits in node_stage may ask with
 * `brief`: the answer comes before its reply or not at all. */
int node_ask_status(struct node *node, uint64_t client, uint64_t job, uint32_t uid,
                    bool brief, uint64_t now_ms, struct vine_err *err);
/* What tasks of a job offer to each other (spec.h). `id` with a version, which the job
 * has here: it goes by its name from now on, answered when `copies` of the nodes have
 * it too. Without: the answer's text is the id with its version; VINE_ENOENT: nobody
 * has offered it yet; VINE_ETIMEDOUT: ask again, those who have it do not answer now;
 * VINE_ELOST: they are gone. */
int node_name(struct node *node, uint64_t client, uint64_t job, uint32_t uid,
              uint32_t gid, const char *id, const char *const *names,
              uint32_t name_count, uint32_t copies, uint64_t now_ms,
              struct vine_err *err);
/* What the manager's log has of a job, from `offset` on, that this user may see. */
int node_ask_stories(struct node *node, uint64_t client, uint64_t job, uint32_t uid,
                     uint64_t offset, uint64_t now_ms, struct vine_err *err);
/* Evict an object without a lease; VINE_ELIMIT if leased, ENOENT if absent. */
int node_evict(struct node *node, const struct vine_digest *digest, uint64_t now_ms,
               struct vine_err *err);

/* Answers of the edge. err->code VINE_OK (or err NULL): success. */
struct node_resolved {
    struct vine_digest key;
    uint64_t estimate; /* bytes to admit before a build */
    uint64_t least;    /* bytes its object will surely have; 0: not known yet */
    bool unopened;     /* an image file: only its key is known yet */
    bool has_manifest; /* packed image: stream it, no build */
    struct vine_digest digest;
    uint64_t size;
    uint32_t pieces;
    bool trusted;
};
void node_source_resolved(struct node *node, uint64_t ticket,
                          const struct node_resolved *r, const struct vine_err *err,
                          uint64_t now_ms);
void node_source_opened(struct node *node, uint64_t ticket,
                        const struct node_resolved *r, const struct vine_err *err,
                        uint64_t now_ms);
void node_source_proved(struct node *node, uint64_t ticket, const struct vine_err *err,
                        uint64_t now_ms);
/* So far a build has read so many bytes of `size`; as often as the edge likes. */
void node_source_building(struct node *node, uint64_t ticket, uint64_t bytes,
                          uint64_t size, uint64_t now_ms);
void node_source_built(struct node *node, uint64_t ticket,
                       const struct msg_object *object, const struct vine_err *err,
                       uint64_t now_ms);
/* A stretch of what is being built is in the store, as an object of its own. The edge
 * is told to remove it when it is of no use (any more). Worth the work while other
 * nodes wait for the source: node_wants_parts. */
bool node_wants_parts(const struct node *node, uint64_t ticket);
void node_source_part(struct node *node, uint64_t ticket,
                      const struct msg_object *object, uint64_t offset,
                      uint64_t now_ms);
void node_piece_done(struct node *node, uint64_t transfer, uint32_t piece,
                     uint64_t now_ms);
/* bytes: received by this transfer so far, finished pieces included. */
void node_transfer_progress(struct node *node, uint64_t transfer, uint64_t bytes,
                            uint64_t now_ms);
void node_transfer_failed(struct node *node, uint64_t transfer,
                          const struct vine_err *err, uint64_t now_ms);
/* So many bytes of a piece that is not done yet came from older objects. */
void node_transfer_reused(struct node *node, uint64_t transfer, uint32_t piece,
                          uint64_t bytes);

struct node_reused {
    const bool *have;        /* by piece: all of it is verified and written */
    const uint32_t *missing; /* by piece: bytes of it that are not */
    uint64_t bytes;          /* taken from older objects, whole pieces or less */
    uint64_t bytes_parts;    /* from parts of its build, which came from peers */
};
/* r NULL: nothing could be taken, nothing is known. Neither is fatal. */
void node_reused(struct node *node, const struct vine_digest *digest,
                 const struct node_reused *r, uint64_t now_ms);
void node_reuse_progress(struct node *node, const struct vine_digest *digest,
                         uint64_t now_ms);
void node_published(struct node *node, const struct vine_digest *digest,
                    const struct vine_err *err, uint64_t now_ms);
void node_mounted(struct node *node, const struct vine_digest *digest,
                  uint32_t mount_uid, const struct vine_err *err, uint64_t now_ms);
/* The edge found the mount gone (FUSE process died): mount again on next use. */
void node_unmounted(struct node *node, const struct vine_digest *digest,
                    uint32_t mount_uid, uint64_t now_ms);

/* Lazy start: answers and events of the edge. */
void node_lazy_tables(struct node *node, const struct vine_digest *digest,
                      struct msg_range tables, const struct vine_err *err,
                      uint64_t now_ms);
void node_lazy_mounted(struct node *node, const struct vine_digest *digest,
                       const struct vine_err *err, uint64_t now_ms);
/* Whoever served it is gone: nobody else begins on it before it is complete. */
void node_lazy_lost(struct node *node, const struct vine_digest *digest,
                    uint64_t now_ms);
/* A mount of a daemon before us still reads from it. */
void node_lazy_adopt(struct node *node, const struct vine_digest *digest);
/* Tasks read these pieces, which are there: to be said of the first read of each, and
 * a few times a second while they read. */
void node_lazy_read(struct node *node, const struct vine_digest *digest,
                    struct msg_range range, uint64_t now_ms);
/* A task waits for these pieces. */
void node_lazy_need(struct node *node, const struct vine_digest *digest,
                    struct msg_range range, uint64_t now_ms);
/* What a start has read. */
void node_touched(struct node *node, const struct vine_digest *digest,
                  const struct msg_range *ranges, uint32_t count, uint64_t now_ms);
/* Why pieces of it may be long in coming; "" if nothing is known. Borrowed. */
const char *node_lazy_trouble(const struct node *node,
                              const struct vine_digest *digest);

uint64_t node_next_deadline(const struct node *node);
void node_tick(struct node *node, uint64_t now_ms);

/* May a peer be served these pieces now? (verified and not being removed) */
bool node_may_serve(const struct node *node, const struct vine_digest *digest,
                    struct msg_range range);

/* Not all here perhaps, but on their way: a peer's request may wait for them. At most
 * NODE_HOLD_MS without one of them: then refuse it with ECANCELED, which blames nobody
 * and comes before the peer's stall_ms. */
#define NODE_HOLD_MS 2000u
bool node_may_wait(const struct node *node, const struct vine_digest *digest,
                   struct msg_range range);

/* A source is known to have all of this object. What else here has of it may be used
 * then; before, what a manifest names is no proof that its user has the bytes. */
bool node_knows_source(const struct node *node, const struct vine_digest *digest);

/* Is this object only a part of something that is being built? Of what, by the
 * manager's number, and where it will stand there. */
bool node_is_part(const struct node *node, const struct vine_digest *digest,
                  uint64_t *build, uint64_t *offset);

/* Progress of a waiting client, summed over its sources. */
struct node_progress {
    const char *phase; /* "waiting", "resolving", "building", "fetching", "mounting" */
    uint64_t bytes_done, bytes_total; /* total 0: not known yet */
    uint64_t bytes_peer, bytes_origin, bytes_reused;
};
int node_progress(const struct node *node, uint64_t client, struct node_progress *out);

struct node_object_info {
    struct vine_digest digest;
    uint64_t size, bytes_done, last_used_ms;
    /* How its bytes came here since the start. */
    uint64_t bytes_peer, bytes_origin, bytes_reused;
    const char *state; /* "fetching", "complete", ... */
    bool trusted;
    uint32_t leases, mounts;
};
struct node_job_info {
    uint64_t job;
    uint32_t uid, gid;
    const char *path;
    bool bound;
    struct vine_digest digest;
};
struct node_totals {
    uint64_t store_used, store_max;
    uint64_t bytes_peer, bytes_origin, bytes_built, bytes_reused;
    uint32_t objects, jobs, transfers;
    bool manager_up;
};
void node_each_object(const struct node *node,
                      void (*visit)(void *arg, const struct node_object_info *o),
                      void *arg);
void node_each_job(const struct node *node,
                   void (*visit)(void *arg, const struct node_job_info *j), void *arg);
void node_totals(const struct node *node, struct node_totals *out);

#endif
