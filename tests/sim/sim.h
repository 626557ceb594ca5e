/* sim.h - what the simulator's files share.
 *
 *   sim.c       options, seeds
 *   bench.c     makespans against the optimum, the manager's cost
 *   meter.c     what the manager takes: processor time, memory
 *   queue.c     events in order of virtual time; random numbers; the trace
 *   clone.c     messages copied, so that they can be on their way
 *   control.c   the manager and its connections
 *   net.c       data: uplinks, downlinks, pipes between nodes
 *   host.c      a node: the core's ops, its disk, its life and death
 *   lazy.c      jobs that start before their object is there
 *   reuse.c     pieces that an older thing on its disk has
 *   origin.c    sources: resolving, building, streaming
 *   scenario.c  what happens in a run, drawn from the seed
 *   faults.c    what goes wrong in it
 *   check.c     what must hold
 *   waits.c     every wait ends
 *
 * Time is in microseconds; the cores see milliseconds. */
#ifndef VINE_SIM_H
#define VINE_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/core/mgr.h"
#include "daemon/core/node.h"

#define HOSTS_MAX 4200
#define THINGS_MAX 12
#define SOURCES_MAX 12 /* those of names.c too */
#define NAMED_MAX 3
#define JOBS_MAX 16
#define EVER UINT64_MAX
#define MS 1000ull
#define SECOND 1000000ull
#define RATE 50000000 /* bytes a second of a link */

struct sim;
struct host;

struct event {
    uint64_t at_us;
    void (*run)(struct sim *sim, struct event *e);
    uint32_t host;
    uint32_t epoch; /* of the host, or of the manager */
    uint64_t a, b;
    void *p;
    bool owned; /* p is freed when the run ends before the event */
};

struct waiting { /* an event in the queue */
    uint64_t at_us, seq;
    struct event *event;
};

struct thing { /* content: an object */
    struct vine_digest digest, key;
    uint64_t size;
    uint32_t pieces;
    uint32_t shares;  /* percent of its pieces, with the thing before it */
    bool forged;      /* its files name those pieces, and have other bytes */
    uint32_t part_of; /* parts: the thing they are stretches of */
};

struct origin_source { /* a path users name */
    char path[64];
    uint32_t thing;
    bool hollow;         /* its trailer names what the file does not have */
    bool packed;         /* the manifest is known beforehand: streamed */
    bool foreign;        /* packed, and signed by nobody: not for a kernel to mount */
    uint32_t denied_uid; /* may not read it; 0: everybody may */
    uint64_t bytes_read;
};

struct stored { /* a thing on a host's disk */
    bool present, complete, trusted;
    uint64_t *have;
    uint64_t reuse, reuse_until_us; /* under way: its number; 0: not */
    uint32_t *missing;              /* by piece, bytes; NULL: all of each */
    bool unproved;                  /* its pieces are reused one by one */
};

struct lazy_mount { /* of a thing that is on its way */
    bool standing, lost;
    uint64_t *told;          /* pieces vine-lazy knows to be there */
    struct msg_range tables; /* were found there */
};

struct saved { /* a binding on a host's disk */
    struct saved *next;
    uint64_t job;
    uint32_t uid, gid;
    struct vine_digest digest;
    char path[];
};

struct fetch { /* a transfer as the edge sees it */
    struct fetch *next;
    uint64_t id;
    uint32_t thing;
    uint32_t peer; /* host index; UINT32_MAX: own source */
    struct msg_range range;
    uint32_t left;
};

struct origin_ticket {
    struct origin_ticket *next;
    uint64_t id;
    uint32_t source;
    uint32_t owed; /* answers */
    bool changed;  /* the source, since it was opened */
};

struct pipe_piece {
    uint64_t fetch;
    uint32_t thing, piece;
    uint64_t since_us; /* asked for, or the last one of this request sent */
};

struct pipe {          /* data on one connection, from `from` to `to` */
    struct pipe *next; /* in the ring of its sender */
    uint32_t from, to, from_epoch, to_epoch;
    struct pipe_piece *queue;
    uint32_t first, count, room;
    uint64_t left; /* bytes of queue[first] not sent; 0: not begun */
    uint32_t in_flight;
    uint64_t told_us; /* the receiver's core was told of progress */
    bool dead, in_ring;
};

struct host {
    uint32_t index, epoch;
    char name[16], addr[24];
    struct node *core;           /* NULL: dead */
    bool silent;                 /* died without a word: peers get no refusal */
    bool up;                     /* control connection, as this side sees it */
    uint64_t frozen_until_us;    /* 0: it runs */
    uint32_t conn;               /* 0: none */
    uint64_t up_rate, down_rate; /* bytes a second */
    uint64_t far_us;             /* its own part of each latency */
    uint32_t leaf;               /* its switch */
    uint64_t joined_us, done_us; /* seeded: asks; has it */
    bool slow;
    uint64_t cache_max;
    bool full;        /* its disk: nothing can be written now */
    bool was_full;    /* ever */
    uint64_t disk_us; /* to publish, and to mount */
    bool corrupt;     /* serves wrong bytes */
    struct stored stored[THINGS_MAX];
    struct lazy_mount lazy[THINGS_MAX];
    struct saved *saved;
    uint64_t owes_since_ms; /* the manager, without a word; EVER: nothing */
    uint64_t heard_ms;      /* of the manager */
    uint32_t publishing[THINGS_MAX], mounting; /* answers owed */
    struct fetch *fetches;
    struct origin_ticket *tickets;
    struct pipe *ring_last; /* those with something to send; last->next is first */
    bool uplink_busy;
    uint64_t down_free_us;
    uint64_t timer_us; /* scheduled; EVER: none */
    uint32_t idle_ticks;
    uint32_t deaths;
    bool lost_manager; /* ever */
    bool lost_pieces;  /* ever: by death or eviction */
};

enum wait_state {
    WAIT_NOT_YET,
    WAIT_ASKED,
    WAIT_RETRY,
    WAIT_DONE,
    WAIT_FAILED,
    WAIT_GONE
};

struct wait { /* one node's step of a job */
    enum wait_state state;
    uint32_t tries;
    enum vine_code code;
    uint64_t done_us;
};

struct sim_job {
    uint64_t job;
    uint32_t uid;
    uint32_t source_count;
    uint32_t source[2];
    bool lazy;
    bool ended, cancelled, stage; /* stage: through `vine-env stage` */
    uint32_t asker;               /* of a stage */
    bool answered;
    uint64_t start_us;
    struct wait *wait; /* by host; NULL state beyond its nodes: WAIT_GONE */
    bool *member;
};

struct conn {
    uint32_t host, host_epoch, mgr_epoch;
    bool open;
};

enum shape { /* of a seeded run */
             SHAPE_EQUAL,
             SHAPE_SLOW,   /* every 16th node at a tenth of the speed */
             SHAPE_LATE,   /* half of the nodes join while the others receive */
             SHAPE_WARM,   /* half of the nodes have it */
             SHAPE_DEATHS, /* every 20th node dies meanwhile */
             SHAPE_LEAVES, /* switches of 16 nodes (of 4 up to 16 in all), each with an
                              uplink for four */
             SHAPES
};

struct leaf_switch { /* its uplink, both ways */
    uint64_t rate, up_free_us, down_free_us;
};

struct meter { /* what the manager takes */
    uint64_t ns, bytes, peak, messages_in, messages_out;
};

struct options {
    uint64_t seed;
    uint32_t nodes, pieces; /* 0: drawn */
    bool trace, calm;       /* calm: no faults */
    bool seeded;            /* host 0 has the object; the others want it at once */
    uint64_t slow_nodes;
    uint32_t window, uploads; /* 0: the default */
    int trees;                /* tree_nodes; -1: the default */
    enum shape shape;
};

struct sim {
    struct options options;
    uint64_t now_us, seq, events, hash, random;
    struct waiting *heap;
    struct event *spare; /* freed ones, by p */
    uint32_t heap_count, heap_room;
    struct mgr *mgr; /* NULL: down */
    struct mgr_limits mgr_limits;
    uint32_t mgr_epoch;
    uint64_t mgr_frozen_until_us; /* 0: it runs */
    uint64_t mgr_timer_us;
    uint32_t mgr_idle_ticks;
    struct task *tasks;
    uint32_t lazy_jobs;
    struct conn *conns;
    uint32_t conn_count, conn_room;
    struct host *hosts;
    uint32_t host_count;
    struct thing things[THINGS_MAX];
    uint32_t thing_count;
    uint32_t part_count; /* things[thing_count...]: announced while theirs is built */
    struct origin_source sources[SOURCES_MAX];
    uint32_t source_count;
    struct sim_job jobs[JOBS_MAX];
    uint32_t job_count;
    struct named *named;
    uint32_t named_count;
    uint64_t latency_us, quantum, source_rate, source_free_us, build_rate;
    uint64_t first_fetch_us, last_done_us;
    uint64_t bytes_sent, bytes_crossed; /* all; between switches */
    uint64_t bytes_reused;
    struct leaf_switch *leaves; /* NULL: one switch, as fast as its nodes */
    uint32_t leaf_count;
    struct meter meter;
    uint32_t troubles; /* each may cost another reading of a source */
    uint64_t storm_us; /* most of it goes wrong then; 0: at any time */
    bool hollow;       /* a source lies: its failed jobs are troubles */
    bool thawing;      /* somebody's timers come, who stood still */
    bool room_comes;   /* a full disk gets room again */
    bool faulty;       /* something died or lied: bounds on bytes do not hold */
    bool quiet;        /* all faults are over */
    uint64_t quiet_us;
    uint64_t checks;
    bool failed;
    char why[400];
};

/* queue.c */
void at(struct sim *sim, uint64_t at_us, struct event e);
struct event *next_event(struct sim *sim); /* NULL: none; event_free it */
void event_free(struct sim *sim, struct event *e);
uint64_t draw(struct sim *sim, uint64_t below);
bool chance(struct sim *sim, uint32_t percent);
void note(struct sim *sim, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void fail(struct sim *sim, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
uint64_t now_ms(const struct sim *sim);

/* clone.c */
struct msg *msg_clone(const struct msg *m); /* msg_clone_free */
void msg_clone_free(struct msg *m);

/* control.c */
void manager_start(struct sim *sim);
void manager_stop(struct sim *sim);
void manager_timer(struct sim *sim);
void manager_freeze(struct sim *sim, uint64_t until_us);
void manager_silent(void *ctx); /* a host gives it up */
void control_connect(struct sim *sim, struct host *h, uint64_t delay_us);
void control_cut(struct sim *sim, struct host *h, bool host_notices);
void control_bury(struct sim *sim);
void control_send(struct sim *sim, struct host *h, const struct msg *m);

/* net.c */
void net_fetch(struct sim *sim, struct host *h, struct fetch *f);
void net_cancel(struct sim *sim, struct host *h, const struct fetch *f);
void net_kick(struct sim *sim, struct host *h); /* it has more than before */
uint64_t net_latency_us(const struct sim *sim, const struct host *a,
                        const struct host *b); /* b NULL: the manager */
void net_free(struct host *h);
void net_host_gone(struct sim *sim, struct host *h);

/* host.c */
void host_init(struct sim *sim, uint32_t index);
void host_boot(struct sim *sim, struct host *h);
void host_die(struct sim *sim, struct host *h, bool silent);
void host_freeze(struct sim *sim, struct host *h, uint64_t until_us); /* EVER */
/* It is frozen: e happens when it goes on. */
bool host_held(struct sim *sim, const struct host *h, const struct event *e);
void host_free(struct host *h);
void host_timer(struct sim *sim, struct host *h);
void host_store(struct sim *sim, struct host *h, uint32_t thing); /* all of it */
struct fetch *host_find_fetch(struct host *h, uint64_t id);
void host_end_fetch(struct host *h, uint64_t id);
void host_piece(struct sim *sim, struct host *h, uint64_t fetch, uint32_t piece);
void host_fetch_failed(struct sim *sim, struct host *h, uint64_t fetch,
                       enum vine_code code, const char *text);
uint32_t thing_of(const struct sim *sim, const struct vine_digest *digest);
uint64_t piece_bytes(const struct sim *sim, uint32_t thing, uint32_t piece);

/* reuse.c */
void host_reuse(void *ctx, const struct vine_digest *digest, bool proved);
/* A piece came from a peer: so much of it did not, its source not being proved. */
void host_reuse_piece(struct sim *sim, struct host *h, const struct fetch *f,
                      uint32_t piece);
/* A forged thing's piece: nobody may ever have it, since nobody can read it. */
bool piece_claimed(const struct sim *sim, uint32_t thing, uint32_t piece);
bool thing_claims(const struct sim *sim, uint32_t thing);
/* Bytes of a piece that are to be sent to the host. */
uint64_t host_piece_bytes(const struct sim *sim, const struct host *h, uint32_t thing,
                          uint32_t piece);

/* lazy.c */
void lazy_look(void *ctx, const struct vine_digest *digest);
void lazy_mount(void *ctx, const struct vine_digest *digest);
void lazy_have(void *ctx, const struct vine_digest *digest, uint32_t piece);
void lazy_leave(void *ctx, const struct vine_digest *digest);
void lazy_touched(void *ctx, const struct vine_digest *digest,
                  const struct msg_range *ranges, uint32_t count);
void lazy_task(struct sim *sim, struct host *h, struct sim_job *j, uint32_t thing);
bool lazy_busy(const struct sim *sim, const struct sim_job *j); /* a task reads */
void lazy_complete(struct sim *sim, struct host *h, uint32_t thing);
void lazy_removed(struct sim *sim, struct host *h, uint32_t thing);
void lazy_lost(struct sim *sim, struct host *h);
void lazy_drop(struct host *h, uint32_t thing);
void lazy_host_gone(struct sim *sim, struct host *h, bool power);
void lazy_booted(struct sim *sim, struct host *h);
void lazy_free(struct sim *sim);

/* origin.c */
extern const struct node_ops host_ops;
void origin_resolve(void *ctx, uint64_t ticket, uint32_t uid, uint32_t gid,
                    const char *path);
void origin_open(void *ctx, uint64_t ticket);
void origin_prove(void *ctx, uint64_t ticket);
void origin_build(void *ctx, uint64_t ticket);
void origin_changed(struct sim *sim, uint32_t source);
void origin_close(void *ctx, uint64_t ticket);
void origin_fetch(void *ctx, uint64_t transfer, const struct vine_digest *digest,
                  uint64_t ticket, struct msg_range range);
/* Copies of one image have one content, and each a key of its own. */
struct vine_digest origin_key(const struct sim *sim, uint32_t source);
struct sim *sim_of(const struct host *h);

/* scenario.c */
void scenario_draw(struct sim *sim);
void scenario_reply(struct sim *sim, struct host *h, uint64_t client,
                    const struct node_result *results, uint32_t count);
void scenario_answer(struct sim *sim, struct host *h, uint64_t client,
                     enum vine_code code, const char *text);
void scenario_task_over(struct sim *sim, struct sim_job *j);
void scenario_booted(struct sim *sim, struct host *h);
void scenario_died(struct sim *sim, struct host *h, bool for_good);
void scenario_job_end(struct sim *sim, struct event *e); /* p: job, a: cancelled */
bool scenario_over(const struct sim *sim);
uint64_t scenario_ideal_us(const struct sim *sim); /* S/B */

/* names.c */
void names_draw(struct sim *sim);
/* Of a name, and this host is not the one that offers it. */
bool names_only(const struct sim *sim, uint32_t source, uint32_t host);
bool names_make(const struct sim *sim, uint32_t thing);       /* somebody offers it */
uint32_t names_tries(const struct sim *sim, uint32_t source); /* to offer it */
void names_check(struct sim *sim, const struct sim_job *j);
bool names_busy(const struct sim *sim, const struct sim_job *j);
/* False: it is none of theirs. */
bool names_reply(struct sim *sim, struct host *h, uint64_t client,
                 const struct node_result *r);
bool names_answer(struct sim *sim, struct host *h, uint64_t client, enum vine_code code,
                  const char *text);
void names_free(struct sim *sim);

/* faults.c */
void fault_draw(struct sim *sim);

/* meter.c - only what happens between enter and leave counts. */
void meter_enter(struct sim *sim);
void meter_leave(struct sim *sim);

/* bench.c */
int bench_shape(const char *name); /* -1: there is none */
int bench(const struct options *base, bool json);

/* check.c */
void check_assign(struct sim *sim, uint32_t to, const struct msg *m);
void check_paused(struct sim *sim, uint64_t ms);
void check_served(struct sim *sim, const struct host *from, uint32_t thing,
                  uint32_t piece);
void check_read(struct sim *sim, uint32_t source);
void check_manager(struct sim *sim); /* after each of its events */
void check_deep(struct sim *sim);    /* the manager's books */
void check_end(struct sim *sim);
void check_dump(struct sim *sim);

/* waits.c */
void check_waits(struct sim *sim, struct host *h);

/* sim.c */
bool sim_run(struct sim *sim, const struct options *options);
void sim_free(struct sim *sim);

#endif
