/* mgr.h - the manager's thinking: who has what, who fetches which piece from whom.
 *
 * A state machine: events in (with the time), messages out through mgr_ops. No system
 * calls, no global state. Soft state only: all of it comes back when nodes register.
 *
 * What it does
 *  - WANT: (job, uid, path) is resolved once. The first wanting node becomes origin
 *    (RESOLVE); its answer has a key (what uid's source is, exactly) and perhaps the
 *    digest. Key or digest known and every piece available from live nodes: no build
 *    (CLOSE). Else BUILD, one build per key at a time; others wait for it. A source
 * whose manifest is known beforehand (packed image) is streamed: the origin node gains
 *    pieces by itself and reports them with HAVE.
 *  - A manifest alone is no title to the content: see mgr_proof.c.
 *  - The answer stays bound to (job, uid, path) until every node released the job or is
 *    gone: all nodes and all steps of a job see one version. Another job resolves anew.
 *  - BINDING goes to each wanting node; the planner then keeps each of them supplied.
 *  - Planner: rarest piece first; any sender, the poorest of a few receivers; at most
 * `window` pieces outstanding a receiver and `uploads` reserved at a sender; a slot
 * counts from planning to HAVE/FAILED/death. Piece 0 comes first and alone. Assigns
 * only what a source has verified (cut-through: as soon as it has). Endgame: a piece
 * outstanding longer than `slow_ms` may be assigned a second time from another source.
 *  - Blame: after ECORRUPT the two are kept apart for that object for `corrupt_ms`; a
 *    second accuser, or one when nothing else moves any more, makes the source avoided
 * by all. A receiver that alone accuses three sources is told that it is itself broken.
 *    A source that timed out or closed gets half its slots and is chosen last for
 *    `suspect_ms`; the pair pauses, 100 ms at first, then twice as long each time.
 *  - A node that serves, or is blamed, and is silent is asked whether it lives (PING).
 *  - A node that is silent for `dead_ms` is dropped like one that disconnected: its
 *    slots are freed, its pieces uncounted, its resolve or build given to another
 * wanting node (at most VINE_RESOLVE_TRIES); pieces nobody has any more: the source is
 *    resolved again by a wanting node. A tick that comes much too late means that the
 *    manager itself stood still: then nobody's silence counts.
 *  - Errors of resolve and build (EACCES, ENOENT, ECHANGED, ENOSPC ...) go to every
 *    wanting node as BINDING with code and text. ENOSPC: another wanting node is tried.
 */
#ifndef VINE_CORE_MGR_H
#define VINE_CORE_MGR_H

#include <stddef.h>

#include "vine/msg.h"

#define VINE_RESOLVE_TRIES 3

struct mgr;

struct mgr_ops {
    /* Queue a message for a node; must not call back into the mgr. */
    void (*send)(void *ctx, uint32_t conn, const struct msg *m);
    /* Close this connection; the mgr has forgotten it (no mgr_disconnected follows). */
    void (*drop)(void *ctx, uint32_t conn, const char *why);
    /* One `key=value ...` line; level as enum vine_log_level. May be NULL. */
    void (*log)(void *ctx, int level, const char *line);
};

struct mgr_limits {
    uint32_t window;   /* pieces outstanding at a receiver */
    uint32_t uploads;  /* pieces reserved at a sender */
    uint32_t slow_ms;  /* endgame after this */
    uint32_t feed_min; /* so many receivers are fed by trees, across switches a
                          32nd of them; 0: never */
    uint32_t suspect_ms, corrupt_ms;
    uint32_t heartbeat_ms; /* nodes with work ping this often, in crowds more
                              seldom; idle ones VINE_IDLE_FACTOR as seldom */
    uint32_t dead_ms;      /* silent for so long while it has work: gone (idle:
                              VINE_IDLE_FACTOR x) */
};
void mgr_limits_default(struct mgr_limits *limits);

/* NULL: out of memory. `ops` is copied; ctx is handed to every op. */
struct mgr *mgr_new(const struct mgr_ops *ops, void *ctx,
                    const struct mgr_limits *limits);
void mgr_free(struct mgr *mgr);

/* A node passed the handshake under this name, seen at this numeric address. An older
 * connection of the same name is dropped. `conn` is the edge's handle, unique while
 * connected. now_ms: any monotonic clock, never going back. */
int mgr_connected(struct mgr *mgr, uint32_t conn, const char *name, const char *addr,
                  uint64_t now_ms, struct vine_err *err);
void mgr_disconnected(struct mgr *mgr, uint32_t conn, uint64_t now_ms);

/* -1: the peer broke the protocol; the edge closes the connection and calls
 * mgr_disconnected. MSG_ASK_STATUS is the edge's to answer (by the visitors below). */
int mgr_message(struct mgr *mgr, uint32_t conn, const struct msg *m, uint64_t now_ms,
                struct vine_err *err);

/* When mgr_tick must next be called; UINT64_MAX: not before another event. */
uint64_t mgr_next_deadline(const struct mgr *mgr);
void mgr_tick(struct mgr *mgr, uint64_t now_ms);

/* Counters and lists for status and metrics, by visitor. */
struct mgr_node_info {
    const char *name, *addr;
    bool suspect;
    uint32_t complete_objects, sending, receiving;
    uint64_t bytes_planned_out;
};
struct mgr_object_info {
    struct vine_digest digest;
    uint64_t size;
    uint32_t pieces, seeds, wanting; /* seeds: nodes that have all of it */
};
/* What a job asked for, and how far its nodes are. */
struct mgr_source_info {
    uint64_t job;
    uint32_t uid;
    const char *path;
    const char *state;      /* "resolving", "queued" (another job's build goes on),
                               "building", "proving", "bound" */
    const char *origin;     /* who reads it; NULL: nobody */
    uint64_t read, to_read; /* building: bytes of the source; 0: not known */
    bool bound;             /* then: */
    struct vine_digest digest;
    uint64_t size;
    uint32_t nodes, ready; /* ready: they have all of it */
    const char *slowest;   /* of those that are not; NULL: all are */
    uint64_t slowest_bytes;
};
struct mgr_want_info {
    const char *node;
    uint64_t bytes;
    bool ready;
};
void mgr_each_node(const struct mgr *mgr,
                   void (*visit)(void *arg, const struct mgr_node_info *n), void *arg);
void mgr_each_object(const struct mgr *mgr,
                     void (*visit)(void *arg, const struct mgr_object_info *o),
                     void *arg);
/* The sources of a job of this uid (0: whosever it is), each followed by its nodes. */
void mgr_each_source(const struct mgr *mgr, uint64_t job, uint32_t uid,
                     void (*visit)(void *arg, const struct mgr_source_info *s),
                     void (*visit_node)(void *arg, const struct mgr_want_info *w),
                     void *arg);
/* Of the job's sources the one that this node must wait for longest; false: it wants
 * none of them. Costs as much as the job has nodes. */
bool mgr_longest_wait(const struct mgr *mgr, uint32_t conn, uint64_t job, uint32_t uid,
                      struct mgr_source_info *out);

#endif
