/* msg.h - what node daemon and manager say to each other, as the core sees it.
 *
 * One flat struct; each type uses the fields named beside it and leaves the others
 * zero. Pointers are borrowed: the receiver copies what it keeps. The wire
 * (daemon/wire/message.c) turns it into JSON and back and checks every bound, so the
 * core may rely on: strings present where named, terminated and below their limits;
 * counts below their limits; piece ranges with first < VINE_PIECES_MAX, count >= 1. */
#ifndef VINE_MSG_H
#define VINE_MSG_H

#include <stdbool.h>
#include <stdint.h>

#include "vine/digest.h"
#include "vine/err.h"
#include "vine/limits.h"

enum msg_type {
    /* node -> manager */
    MSG_REGISTER, /* port, switch_name; objects[]: complete and partial ones;
                     bindings[]: the jobs this node has (after a manager restart they
                     must stand). Ranges of partial objects follow as MSG_HAVE */
    MSG_WANT,     /* job uid gid path: this job needs this source on this node */
    MSG_RELEASE,  /* job: this node no longer wants anything for the job; code text: why
                     a made-up job of MSG_WANTED failed here (VINE_OK: done) */
    MSG_RESOLVED, /* ticket code text; ok: key, estimate (bytes to admit for a build),
                     and if the manifest is known already has_digest digest size pieces
                     trusted. A packed image: once with the key alone, from its stat;
                     after BUILD again, with what its trailer says */
    MSG_PROVED,   /* ticket code text: the answer to PROVE */
    MSG_BUILT, /* ticket code text; ok: digest key size pieces trusted (this node is a
                  seed). A stream tells by HAVE; BUILT ends it early: it failed, or
                  all of it was here already. Ticket 0: the manager that asked is gone,
                  the node has it all the same */
    MSG_BUILDING,  /* ticket offset size: so far it has read `offset` of the source's
                      `size` bytes; now and then, for those who wait for it */
    MSG_PART_MADE, /* ticket digest size pieces offset: while it builds, this node has a
                       stretch of the image as an object; gone when the ticket ends */
    MSG_HAVE,    /* digest ranges[] reusing: verified here, ready to be served. reusing:
                    more of it is being taken from older objects, so plan no data yet; a
                    HAVE without it follows */
    MSG_FAILED,  /* digest ranges[] peer code: assignment could not be carried out. Peer
                    "" and all pieces as one range: the node will not take the object */
    MSG_EVICTED, /* digest: gone from this node */
    MSG_STAGE,   /* ticket job uid gid path names[] (0 names = all nodes): `vine-env
                    stage` */
    MSG_PING,    /* keep-alive, either direction; answered with MSG_PONG */
    MSG_PONG,
    MSG_ASK_STATUS, /* ticket job uid brief: how the cluster stands (job 0), or what a
                       job of this uid (0: of anybody) has on its nodes; brief: only
                       the source of it that the asking node must wait for longest */
    MSG_URGENT,     /* digest ranges[]: tasks will need these pieces first, plan them
                       before others. To the origin of a stream: read these first */
    MSG_AWAITED, /* digest ranges[]: a task stands still until it has these; before all
                    that is urgent */
    MSG_TOUCHED, /* digest ranges[]: what the start of a job reads of it, for those who
                    start before they have it whole. Either direction; a hint only. Said
                    while a start goes on, in the order of its reads, too */

    MSG_HOLD,  /* digest hold: while tasks start on it, this node wants what is urgent
                  and nothing else; until a HOLD without it. To the origin of a stream:
                  so do all others who wait for it */
    MSG_STORY, /* job uid path digest size code wanted_ms begun_ms ended_ms rows[]:
                  how an object came to this node for a job, once, when it is there
                  (or, with a code, is given up). For the manager's log */
    MSG_ASK_STORIES, /* ticket job uid offset: what the manager's log has of a job */

    MSG_NAME, /* ticket job uid gid path copies names[]. With a version (spec.h): what
                 this node has of it goes by this name from now on, and is to be brought
                 to `copies` of these nodes. Without: which version is it? */

    /* manager -> node */
    MSG_REGISTERED, /* heartbeat_ms: say something this often while there is work */
    MSG_RESOLVE,    /* ticket job uid gid path: become the origin, find the key */
    MSG_BUILD,   /* ticket parts: make the object of a resolved source, telling of parts
                    if somebody else waits for it; or stream it if its
                    manifest was known */
    MSG_PROVE,   /* ticket: others have this object; read all of the source and see
                    that it holds what its manifest says */
    MSG_CLOSE,   /* ticket: the resolved source is not needed (any more) */
    MSG_BINDING, /* job uid path code text; ok: digest size pieces trusted claim key
                    (all zero: not proved yet). Told again when key or claim change */
    MSG_PART, /* ticket job uid path digest size pieces offset: chunks that the source's
                 object will have; take it, unless the source is bound already. Whoever
                 took it or will not says EVICTED when it is over */
    MSG_FETCH, /* digest heartbeat_ms assigns[]: the heartbeat from now on, longer where
                  many nodes report */
    MSG_REVOKE,  /* digest ranges[]: forget these assignments if not begun */
    MSG_WANTED,  /* job uid gid path: act as if a local client had asked; release it
                    then, if the job is made up */
    MSG_STAGED,  /* ticket code text: all nodes of a MSG_STAGE have it, or failed */
    MSG_STATUS,  /* ticket text: JSON document for `vine-env status` */
    MSG_NAMED,   /* ticket code text; ok: path: the answer to NAME */
    MSG_STORIES, /* ticket code text: JSON document, the answer to ASK_STORIES */

    /* Versions of a job's files that a newer one replaced. */
    MSG_REPLACED, /* job uid path: manager to node: if no task here was given it, let it
                     go */
    MSG_LEAVE,    /* job uid path: node to manager: it is wanted here no more */
    MSG_TYPES
};

enum msg_claim { /* what a source has shown of the content that it names */
                 MSG_CLAIM_SHOWN, /* its jobs may have all of the object, wherever it
                                     comes from */
                 MSG_CLAIM_OWN, /* nothing; but all there is of the object was read from
                                   it */
                 MSG_CLAIM_OPEN, /* nothing, and others have the object by now: no start
                                  */
                 MSG_CLAIMS
};

enum msg_from {                  /* where bytes of an object came from */
                MSG_FROM_SOURCE, /* streamed from the source by this node */
                MSG_FROM_BUILT,  /* made here of the source's files */
                MSG_FROM_PEER,
                MSG_FROM_REUSED, /* chunks of older objects of this node's store */
                MSG_FROM_HERE,   /* they were here before the job asked */
                MSG_FROM_OTHERS, /* peers beyond VINE_STORY_MAX */
                MSG_FROM_KINDS
};

struct msg_range {
    uint32_t first, count; /* pieces */
};

/* Times are told as ages: no two clocks agree. */
struct msg_story {
    uint32_t from;    /* enum msg_from */
    const char *peer; /* MSG_FROM_PEER: its name; else "" */
    uint64_t bytes;
    uint32_t first_ms, last_ms; /* ago: when the first was asked for, the last came */
};

struct msg_assign {
    struct msg_range range;
    const char *peer; /* node name; for logs and MSG_FAILED */
    const char *addr; /* numeric IP address as text */
    uint16_t port;
    bool feed; /* the peer may still be waiting for them; tell when all are there */
};

struct msg_object {
    struct vine_digest digest;
    uint64_t size;
    uint32_t pieces;
    bool complete;
    bool trusted;                   /* built by a daemon, so a kernel may mount it; or
                                       a file of data, which nobody mounts */
    uint32_t key_count;             /* sources known to give this object */
    const struct vine_digest *keys; /* <= VINE_KEYS_MAX */
};

struct msg_binding {
    uint64_t job;
    uint32_t uid;
    const char *path;
    struct vine_digest digest;
};

struct msg {
    enum msg_type type;
    uint64_t ticket;
    uint64_t job; /* Slurm job id; top bit set: made up by a daemon for `stage` */
    uint32_t uid, gid;
    const char *path; /* a source's id (spec.h); its path is only ever opened by a child
                         that is uid */
    const char *text; /* error text or document */
    enum vine_code code;
    bool has_digest, trusted, reusing, parts, hold, brief;
    uint32_t claim; /* enum msg_claim */
    struct vine_digest digest, key;
    uint64_t size, estimate, offset; /* bytes */
    uint32_t pieces;                 /* piece 0, the manifest, included */
    uint32_t copies;                 /* <= name_count */
    const char *peer;
    const char *switch_name; /* leaf switch from Slurm's topology, "" = unknown */
    uint16_t port;
    uint32_t heartbeat_ms;
    uint32_t wanted_ms, begun_ms, ended_ms; /* ago */
    uint32_t row_count;
    const struct msg_story *rows; /* <= VINE_STORY_MAX */
    uint32_t range_count, assign_count, object_count, binding_count, name_count;
    const struct msg_range *ranges;     /* <= VINE_PIECES_MAX */
    const struct msg_assign *assigns;   /* <= 256 */
    const struct msg_object *objects;   /* <= VINE_OBJECTS_MAX */
    const struct msg_binding *bindings; /* <= VINE_JOBS_MAX * VINE_SOURCES_MAX */
    const char *const *names;           /* <= VINE_NODES_MAX */
};

/* "register", "want", ...: the `type` word on the wire and in logs. */
const char *msg_type_name(enum msg_type type);

#endif
