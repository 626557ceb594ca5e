/* mgr_int.h - what the files of the manager's core share.
 *
 *   mgr.c          events in: connections, messages, time
 *   mgr_object.c   objects, and who holds how much of them
 *   mgr_plan.c     which piece goes from whom to whom
 *   mgr_feed.c     standing orders, when many want the same
 *   mgr_tree.c     the trees along which they go
 *   mgr_slow.c     who holds the others up
 *   mgr_fail.c     assignments that failed, blame
 *   mgr_resolve.c  sources: origin, key, build, binding
 *   mgr_proof.c    who may have what others have
 *   mgr_source.c   the books of sources and wants
 *   mgr_parts.c    stretches of an image that is still being built
 *   mgr_stage.c    `vine-env stage`
 *   mgr_lazy.c     jobs that start before their object is there
 *   mgr_info.c     lists for status and metrics
 *
 * Everything hangs together by pointers: a node has holders (its share of an object)
 * and wants (its interest in a source); a source is bound to an object. What ends takes
 * its own links along. */
#ifndef VINE_CORE_MGR_INT_H
#define VINE_CORE_MGR_INT_H

#include "daemon/core/bits.h"
#include "daemon/core/mgr.h"
#include "daemon/core/table.h"
#include "vine/log.h"

#define SHUN_MAX 8      /* senders a receiver avoids at once; the oldest is forgotten */
#define ASSIGNS_MAX 256 /* in one FETCH, see msg.h */
#define SEGMENTS_KEPT 6 /* of an object's feeds, see mgr_feed.c */
#define FEEDS_MAX 12    /* at one receiver: two a segment */
#define FEEDS_OUT_MAX 48
#define DISTURBED_DEATH 16 /* so much does a death weigh for trees */

struct object;
struct source;
struct stage;

struct pace {
    bool slow;                   /* held others up, or would */
    uint64_t until_ms;           /* then it is tried again */
    uint64_t for_ms;             /* so long the last time */
    uint64_t good_ms;            /* when the last came in good time */
    uint32_t good;               /* how many did since it was slow */
    uint32_t late, guilty, seen; /* of what is out, while it is checked */
    bool found;
};

struct mgr_node {
    struct table_link by_conn, by_name;
    struct mgr_node *next, *prev; /* in order of connection */
    uint32_t id, conn;
    bool registered;
    char name[VINE_NAME_MAX + 1], addr[VINE_ADDR_MAX], switch_name[VINE_NAME_MAX + 1];
    uint16_t port;
    uint32_t switch_id; /* of switch_name; 0: unknown */
    uint64_t seen_ms, suspect_until_ms;
    struct pace in, out; /* of what it receives and of what it sends */
    uint64_t probed_ms;  /* asked whether it lives, not answered yet; 0: not asked */
    bool silent;         /* it does not answer: asked for nothing */
    uint32_t sending;    /* flights from here */
    uint32_t receiving;  /* pieces on their way here by flights */
    uint32_t feeding;    /* feeds from here */
    uint64_t bytes_planned_out;
    struct holder *holders; /* by node_next */
    struct holder *active;  /* those whose object somebody is being supplied with */
    struct want *wants;     /* by node_next */
    uint32_t holder_count, want_count, complete_count, tickets;
};

struct flight { /* an assignment that is out */
    uint32_t piece;
    bool fresh;   /* planned in this event, not sent yet */
    bool doubled; /* the endgame asked another one, too */
    struct mgr_node *from;
    uint64_t planned_ms;
};

struct feed { /* pieces from a sender that has them or was given them before */
    struct mgr_node *from; /* NULL: this entry is free */
    uint32_t first;
    uint64_t awaited; /* bit i: piece first + i */
    uint32_t segment;
    bool fresh;
    uint64_t ready_ms; /* since then the sender has all that is awaited; 0: not seen */
};

struct shun { /* a sender that this receiver does not ask for a while */
    uint32_t node_id;
    uint32_t fails;
    bool corrupt;
    uint64_t until_ms;
};

struct intake {      /* what a holder needs while it receives */
    uint64_t order;  /* its place in trees; 0: none yet */
    uint64_t *asked; /* by flights and feeds */
    uint32_t asked_count;
    uint32_t outstanding; /* pieces of flights */
    uint64_t *urgent;     /* tasks will need these first; NULL: none ever */
    uint64_t *awaited;    /* of those, tasks wait for these; NULL: none ever */
    bool held;            /* plan only what is urgent, or was so for others */
    struct flight *flight;
    uint32_t flights, room;
    struct feed feed[FEEDS_MAX];
    uint32_t feeds;
    bool loose; /* pieces that feeds should have brought may be nobody's */
    struct shun shun[SHUN_MAX];
};

struct list { /* growing array of pointers */
    void **at;
    uint32_t count, room;
};

struct seat {          /* among the senders, or the receivers, of an object */
    struct list *list; /* NULL: in none */
    uint32_t at;
};

/* One node's share of one object. */
struct holder {
    struct table_link link;
    struct mgr_node *node;
    struct object *object;
    struct holder *node_next, *node_prev;
    struct holder *active_next, *active_prev;
    struct holder *object_next, *object_prev;
    uint32_t supply; /* wants on this node that are bound to the object */
    bool complete;
    uint32_t have_count;
    bool reusing;      /* takes data from older objects of its own: plan none yet */
    uint64_t *have;    /* NULL when complete */
    struct intake *in; /* NULL unless it is supplied */
    bool top;          /* whole subtrees hang on what it feeds */
    bool avoided;      /* as a sender, for wrong bytes; cleared by the sweep */
    uint64_t avoid_until_ms;
    uint32_t accusers;   /* different receivers of wrong bytes from here */
    uint32_t accuser_id; /* the first of them */
    struct seat send, receive;
    uint32_t dirty_at; /* index + 1 in mgr->dirty */
    bool fresh;
};

enum feed_state {
    FEED_OFF,
    FEED_GATHER, /* many want it: soon, when they have the manifest */
    FEED_ON,
};

/* The segments of an object that were given out as feeds; arrays by segment. */
struct feeding {
    enum feed_state state;
    uint64_t since_ms;    /* of FEED_GATHER; or the last disturbance */
    uint64_t lacked_ms;   /* then a holder had no manifest, in FEED_GATHER */
    uint64_t began_ms;    /* of FEED_ON */
    uint32_t next, low;   /* pieces: given out below next; feeds run from low on */
    uint32_t size;        /* pieces of the last segment */
    uint32_t segment;     /* the next */
    uint32_t pending;     /* segments that few have whole */
    uint64_t took_ms;     /* the last that was had took so long after the one before */
    uint32_t piece_ms;    /* of that, for one piece; 0: not known */
    uint64_t last_had_ms; /* when that was */
    uint64_t wait_ms;     /* no segment before */
    uint32_t members, disturbed;
    uint64_t joined_ms; /* somebody, or was slow or died */
    uint32_t died;      /* of those while the trees grew */
    uint64_t again_ms;  /* no trees before */
    uint64_t calm_ms;   /* until then what is late is so by another's fault */
    uint32_t first[SEGMENTS_KEPT], total[SEGMENTS_KEPT], over[SEGMENTS_KEPT];
    uint64_t had_ms[SEGMENTS_KEPT]; /* many have it since; 0: not yet */
};

struct object {
    struct table_link link;
    struct object *next, *prev; /* all, oldest first */
    uint32_t id;
    struct vine_digest digest;
    uint64_t size;
    uint32_t pieces;
    bool trusted;
    bool unproved; /* all of it comes from `feeder`, not yet read to its end */
    struct vine_digest feeder;
    struct key *keys;
    uint32_t key_count;
    struct holder *holders;
    uint32_t holder_count, seeds;
    struct source *sources; /* bound to it */
    uint32_t part_of;       /* builds that announced it as a part */
    uint32_t reusing;       /* holders that look at what older objects have */
    uint32_t hungry;        /* holders that are supplied and incomplete */
    /* While hungry > 0: */
    struct object *active_next, *active_prev;
    bool active;
    uint32_t *copies; /* by piece: holders that may serve it */
    uint32_t *spread; /* copies, flights, and what feeds bring */
    uint32_t missing; /* pieces without a copy */
    uint64_t missing_since_ms;
    uint32_t first_ms, firsts; /* what flights of manifests took, and how many */
    uint64_t first_squares;    /* of the same times */
    uint32_t mean_ms;          /* of a flight, moving; not of those that are slow */
    uint32_t slow_in;          /* hungry ones that receive slowly, at the last look */
    uint32_t slow_out;         /* holders that send slowly, then */
    uint32_t urgents;          /* holders with urgent pieces */
    uint32_t held;             /* holders that are held */
    uint64_t *soon;            /* pieces that tasks anywhere read; NULL: none */
    uint32_t *read_at;         /* of those, which was read when: 1, 2, .. */
    uint32_t reads;            /* pieces in it */
    struct list senders, receivers; /* who may send now, has room now */
    struct list last_senders;       /* such that are asked when no other does */
    struct feeding feed;
};

struct key { /* a source's content is known to give this object */
    struct table_link link;
    struct key *next;
    struct vine_digest key;
    struct object *object;
};

enum source_state {
    SOURCE_RESOLVING, /* origin looks for the key */
    SOURCE_QUEUED,    /* another source's build or proof goes on */
    SOURCE_BUILDING,  /* or looks into an image file */
    SOURCE_PROVING,   /* origin reads it all, to show that it can */
    SOURCE_BOUND,     /* origin may still stream */
};

struct part {
    struct object *object;
    uint64_t offset; /* in the image */
};

struct source { /* what (job, uid, path) is */
    struct table_link by_name, by_ticket;
    uint64_t job;
    uint32_t uid, gid;
    char *path;
    enum source_state state;
    bool streaming;
    bool held;       /* the origin was told that all who wait for its stream hold */
    bool due;        /* the next tick finds it another origin */
    uint64_t ticket; /* 0: no origin at work */
    struct mgr_node *origin;
    uint32_t tries;
    uint64_t read, to_read;  /* bytes, by a build */
    bool has_key;            /* then in mgr->resolved, while the ticket is open */
    bool keyed;              /* key is what the last origin said; stays */
    bool proved;             /* by the ticket's origin */
    bool packed;             /* the ticket's origin told what its trailer says */
    struct msg_object offer; /* that */
    struct vine_digest key;
    struct table_link by_key;
    struct object *object; /* stays while it is resolved again */
    struct part *part;     /* while it is built: [parts of VINE_PARTS_MAX] */
    uint32_t parts;
    struct source *object_next, *object_prev;
    struct want *wants; /* by source_next, oldest first */
    struct want *wants_last;
    struct stage *stage;
    struct vine_err last; /* why the last origin failed */
};

struct want {
    struct source *source;
    struct mgr_node *node;
    struct want *source_next, *source_prev, *node_next, *node_prev;
    struct holder *holder; /* supplied through this; NULL: not bound or given up */
    uint64_t parts;        /* bits: supplied with these parts of the source */
    bool tried;            /* as origin */
    bool knows_key;        /* it was told */
    uint32_t claim;        /* of enum msg_claim; it was told */
    bool again;            /* to be supplied once more */
};

struct stage {
    struct table_link by_job;
    uint64_t job, ticket;
    struct mgr_node *asker; /* NULL: gone */
    uint32_t pending;
    struct mgr_node **node; /* [pending]: those that do not have it yet */
};

struct name { /* the version that a name of a job's file means */
    struct table_link link;
    struct named_job *job;
    struct name *next;
    char *id;               /* with the version */
    bool told;              /* to this manager, not brought along by a node */
    uint64_t away_since_ms; /* as somebody noticed who asked; 0: here */
};

struct named_job {
    struct table_link by_job;
    uint64_t job;
    uint32_t uid, count;
    struct name *names;
};

struct copying { /* a file of a job is brought to more of its nodes */
    struct copying *next;
    uint64_t ticket, since_ms;
    struct mgr_node *asker;
    struct source *source;
    uint32_t pending;
    struct mgr_node **node; /* [pending]: those that do not have it yet */
};

#define TOUCHED_OBJECTS_MAX 64 /* of which the manager remembers what starts read */

struct touched {
    struct vine_digest digest;
    uint32_t pieces;
    uint64_t *set; /* NULL: free place */
    uint64_t used_ms;
};

struct mgr {
    struct mgr_ops ops;
    void *ctx;
    struct mgr_limits limits;
    uint64_t now_ms;
    uint64_t started_ms; /* its first event; 0: none yet */
    uint64_t next_tick_ms;
    uint32_t senders; /* nodes that had something to send at the last tick, */
    uint32_t sending; /* to others than those they feed, */
    uint32_t slow;    /* or were slow; at most so many */
    uint32_t crowd;   /* senders, or members of the largest trees */
    uint64_t last_ticket;
    uint32_t last_node_id, last_object_id;
    uint64_t last_order; /* of intakes */
    uint32_t turn;       /* of partners, so that all come first now and then */
    struct table conns, names, holders, objects, keys;
    struct table sources, tickets, resolved, stages, named, named_jobs;
    struct copying *first_copying;
    uint32_t due_sources;
    struct mgr_node *first_node, *last_node;
    struct object *first_object, *last_object;
    struct object *first_active;
    uint64_t next_sweep_ms, next_look_ms;
    uint32_t late_ticks;  /* the last so many came late */
    bool feed_due;        /* a segment may have to be planned */
    bool feed_search;     /* look closely, as at a tick */
    struct list switches; /* names; the first has id 1 */
    struct list dirty;    /* holders to plan for */
    struct list fresh;    /* holders with fresh flights */
    struct touched touched[TOUCHED_OBJECTS_MAX];
};

/* mgr.c */
void mgr_send(struct mgr *mgr, struct mgr_node *node, const struct msg *m);
void mgr_log(struct mgr *mgr, enum vine_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void mgr_probe(struct mgr *mgr, struct mgr_node *node); /* does it live? */
int mgr_list_push(struct list *list, void *entry);
struct mgr_node *mgr_find_conn(const struct mgr *mgr, uint32_t conn);
struct mgr_node *mgr_find_name(const struct mgr *mgr, const char *name);

/* mgr_object.c */
struct object *mgr_object_find(const struct mgr *mgr, const struct vine_digest *digest);
/* Find or make; -1: another size or number of pieces was told before. */
int mgr_object_get(struct mgr *mgr, const struct vine_digest *digest, uint64_t size,
                   uint32_t pieces, bool trusted, struct object **out,
                   struct vine_err *err);
void mgr_object_put(struct mgr *mgr,
                    struct object *o); /* frees it when nobody needs it */
int mgr_object_add_key(struct mgr *mgr, struct object *o,
                       const struct vine_digest *key);
struct object *mgr_object_of_key(const struct mgr *mgr, const struct vine_digest *key);
/* Every piece is with somebody who may serve it, or an origin streams it now. */
bool mgr_object_available(const struct mgr *mgr, const struct object *o);
struct holder *mgr_holder_find(const struct mgr *mgr, const struct object *o,
                               const struct mgr_node *node);
struct holder *mgr_holder_get(struct mgr *mgr, struct object *o, struct mgr_node *node);
void mgr_holder_free(struct mgr *mgr, struct holder *h);
void mgr_holder_put(struct mgr *mgr,
                    struct holder *h); /* frees it when it means nothing */
bool mgr_holder_has(const struct holder *h, uint32_t piece);
int mgr_holder_complete(struct mgr *mgr, struct holder *h);
int mgr_holder_add_pieces(struct mgr *mgr, struct holder *h, struct msg_range range);
int mgr_holder_supply(struct mgr *mgr, struct holder *h);
void mgr_holder_unsupply(struct mgr *mgr, struct holder *h);
void mgr_holder_avoid(struct mgr *mgr, struct holder *h, uint64_t until_ms);
/* Put it into the lists its state asks for, and plan for it at the event's end. */
void mgr_holder_changed(struct mgr *mgr, struct holder *h);
void mgr_node_changed(struct mgr *mgr, struct mgr_node *node);
void mgr_flight_remove(struct mgr *mgr, struct holder *h, uint32_t index);
void mgr_object_sweep_avoided(struct mgr *mgr, struct object *o);

/* mgr_plan.c */
bool mgr_plan_may_send(const struct mgr *mgr, const struct holder *h);
/* Trees would wait for what it sends beside. */
static inline bool mgr_plan_is_top(const struct holder *h)
{
    return h->top && h->node->feeding > 0 && h->object->feed.state == FEED_ON;
}
bool mgr_plan_has_room(const struct mgr *mgr, const struct holder *h);
void mgr_plan_run(struct mgr *mgr); /* at the end of each event */
void mgr_plan_sweep(
    struct mgr *mgr); /* at each tick: what run's bounded search missed */
void mgr_plan_endgame(struct mgr *mgr); /* at each tick: what is overdue, once more */
uint64_t mgr_plan_piece_bytes(const struct object *o);

/* mgr_feed.c */
/* Are so many receivers enough for trees? */
bool mgr_feed_many(const struct mgr *mgr, const struct object *o, uint32_t receivers);
void mgr_feed_run(struct mgr *mgr);  /* at the end of an event */
void mgr_feed_tick(struct mgr *mgr); /* look closely */
bool mgr_feed_awaits(const struct intake *in, uint32_t piece);
void mgr_feed_arrived(struct mgr *mgr, struct holder *h, struct msg_range range);
/* Feeds of these pieces from `peer` ("": any) end; *from: who it was. */
void mgr_feed_failed(struct mgr *mgr, struct holder *h, struct msg_range range,
                     const char *peer, struct mgr_node **from);
/* What `from` was to feed to h ends; the pieces go to ranges. Returns their number. */
uint32_t mgr_feed_cut(struct mgr *mgr, struct holder *h, struct mgr_node *from,
                      struct msg_range *ranges, uint32_t room);
/* It sends nothing that it does not have already. */
void mgr_feed_sender_gone(struct mgr *mgr, struct object *o, struct mgr_node *from);
void mgr_feed_give_up(struct mgr *mgr, struct object *o);
/* How often one that receives it is to say something. */
uint32_t mgr_feed_heartbeat_ms(const struct mgr *mgr, const struct object *o);
/* Somebody joined, was slow or died meanwhile. */
void mgr_feed_disturbed(struct mgr *mgr, struct object *o, uint32_t weight);
void mgr_feed_drop_all(struct mgr *mgr, struct holder *h);
/* A fed holder lacks something that its feeds do not bring. */
bool mgr_feed_loose(const struct holder *h);

static inline void mgr_ask(struct intake *in, uint32_t piece)
{
    in->asked_count += !bits_get(in->asked, piece);
    bits_set(in->asked, piece);
}

static inline void mgr_unask(struct intake *in, uint32_t piece)
{
    in->asked_count -= bits_get(in->asked, piece);
    bits_clear(in->asked, piece);
}

/* mgr_slow.c */
void mgr_slow_check(struct mgr *mgr);                         /* at each tick */
void mgr_slow_heard(struct mgr *mgr, struct mgr_node *node);  /* of a silent one */
void mgr_slow_trust(struct mgr *mgr, const struct object *o); /* as trees begin */
/* A piece arrived by this flight. */
void mgr_slow_arrived(struct mgr *mgr, struct holder *h, const struct flight *f);
/* Longer out than it should be. */
bool mgr_slow_flight(const struct mgr *mgr, const struct object *o,
                     const struct flight *f);
static inline bool mgr_slow_either(const struct mgr_node *node)
{
    return node->in.slow || node->out.slow;
}

/* mgr_fail.c */
int mgr_fail_message(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                     struct vine_err *err);
bool mgr_fail_shunned(const struct mgr *mgr, const struct holder *h,
                      const struct mgr_node *from);
void mgr_fail_forgive(struct holder *h, const struct mgr_node *from);
void mgr_fail_starving(struct mgr *mgr, struct object *o);
void mgr_fail_holder_gone(struct mgr *mgr, struct holder *gone);
void mgr_fail_node_gone(struct mgr *mgr, struct mgr_node *node);

/* mgr_source.c */
struct source *mgr_source_find(const struct mgr *mgr, uint64_t job, uint32_t uid,
                               const char *path);
struct source *mgr_source_new(struct mgr *mgr, uint64_t job, uint32_t uid, uint32_t gid,
                              const char *path);
struct source *mgr_source_of_ticket(const struct mgr *mgr, uint64_t ticket);
struct source *mgr_source_of_key(const struct mgr *mgr, const struct source *s,
                                 enum source_state state);
void mgr_ticket_send(struct mgr *mgr, struct source *s, enum msg_type type);
void mgr_build_begin(struct mgr *mgr, struct source *s);
void mgr_source_building(struct mgr *mgr, const struct mgr_node *node,
                         const struct msg *m);
/* The origin's work is over or taken from it; tell: it does not know yet. */
void mgr_ticket_end(struct mgr *mgr, struct source *s, bool tell);
void mgr_source_unlink(struct mgr *mgr, struct source *s);
void mgr_source_link(struct source *s, struct object *o);
void mgr_source_due_clear(struct mgr *mgr, struct source *s);
void mgr_source_free(struct mgr *mgr, struct source *s);
void mgr_source_bind(struct mgr *mgr, struct source *s, struct object *o);
/* All who waited for this key have their answer now. */
/* Give the binding back: the next tick finds an origin that shows what it has. */
void mgr_source_look_again(struct mgr *mgr, struct source *s);
void mgr_source_bind_same_key(struct mgr *mgr, const struct vine_digest *key,
                              struct object *o);
struct want *mgr_want_find(const struct source *s, const struct mgr_node *node);
struct want *mgr_want_new(struct source *s, struct mgr_node *node);
void mgr_want_unsupply(struct mgr *mgr, struct want *w);
void mgr_want_free(struct mgr *mgr, struct want *w);
/* The caller looks after a source that is left without wants, here too. */
void mgr_want_fail(struct mgr *mgr, struct want *w, enum vine_code code,
                   const char *text);
void mgr_want_bind(struct mgr *mgr, struct want *w);
void mgr_want_tell_key(struct mgr *mgr, struct want *w); /* unless it knows it */
/* It gets no more before the source has shown its content. */
void mgr_want_suspend(struct mgr *mgr, struct want *w);

/* mgr_proof.c */
/* The source's key is known, and its offer if it is packed. `o`: the object that has
 * the key or is offered; NULL: none. */
void mgr_proof_decide(struct mgr *mgr, struct source *s, struct object *o);
void mgr_proof_decide_offer(struct mgr *mgr, struct source *s);
/* A node has all of it, by what this manager planned. */
void mgr_proof_completed(struct mgr *mgr, struct object *o);
/* A node has all of it from elsewhere: who fed it has shown nothing by that. */
void mgr_proof_elsewhere(struct mgr *mgr, const struct vine_digest *digest);
/* The same if a node registers with some of it, and not for who feeds it. m: what it
 * says. */
void mgr_proof_registered(struct mgr *mgr, const struct object *o, const struct msg *m);
void mgr_proof_retry(struct mgr *mgr); /* at each tick: one of those that wait */

/* mgr_resolve.c */
int mgr_source_want(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                    struct vine_err *err);
int mgr_source_resolved(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                        struct vine_err *err);
int mgr_source_proved(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                      struct vine_err *err);
int mgr_source_built(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                     struct vine_err *err);
int mgr_source_bound_before(struct mgr *mgr, struct mgr_node *node,
                            const struct msg_binding *b, struct vine_err *err);
void mgr_source_leave(struct mgr *mgr, struct mgr_node *node, const struct msg *m);
void mgr_source_release(struct mgr *mgr, struct mgr_node *node, const struct msg *m);
void mgr_source_node_gone(struct mgr *mgr, struct mgr_node *node);
void mgr_source_evicted(struct mgr *mgr, struct holder *h);
void mgr_source_refused(struct mgr *mgr, struct holder *h);
void mgr_source_completed(struct mgr *mgr, struct holder *h);
void mgr_source_start_due(struct mgr *mgr);
void mgr_source_check_object(struct mgr *mgr, struct object *o);
/* This node cannot have it. */
void mgr_source_fail_holder(struct mgr *mgr, struct holder *h, enum vine_code code,
                            const char *text);

/* mgr_lazy.c */
/* URGENT or AWAITED. */
int mgr_lazy_urgent(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                    struct vine_err *err);
int mgr_lazy_touched(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                     struct vine_err *err);
/* Only what is urgent for a node, or all again. */
void mgr_lazy_hold(struct mgr *mgr, struct mgr_node *node, const struct msg *m);
/* So many more nodes have tasks that wait for pieces of it. */
void mgr_lazy_waits(struct mgr *mgr, struct object *o, int more);
void mgr_lazy_unhold(struct holder *h); /* its intake ends */
/* How far streams of it are to be read: tell, if that has changed. */
void mgr_lazy_tell_origins(struct mgr *mgr, struct object *o);
/* What starts read of it, if that is known. */
void mgr_lazy_tell(struct mgr *mgr, struct mgr_node *node, const struct object *o);
void mgr_lazy_free_all(struct mgr *mgr);

/* mgr_parts.c */
int mgr_parts_made(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                   struct vine_err *err);
void mgr_parts_offer(struct mgr *mgr, struct want *w); /* all there are */
void mgr_parts_withdraw(struct mgr *mgr, struct want *w);
/* This holder receives no more, whatever for. */
void mgr_parts_lost(struct mgr *mgr, struct holder *h);
void mgr_parts_end(struct mgr *mgr, struct source *s); /* with the ticket */

/* mgr_name.c */
int mgr_name_message(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                     struct vine_err *err);
/* A node had this before this manager knew of it. */
void mgr_name_restore(struct mgr *mgr, struct mgr_node *node, uint64_t job,
                      uint32_t uid, const char *id);
/* A node has left the job: its names go with its last source. */
void mgr_name_job_left(struct mgr *mgr, uint64_t job);
/* For those who wait for copies: this node has the source, or will not have it. */
void mgr_name_node_done(struct mgr *mgr, const struct source *s, struct mgr_node *node);
void mgr_name_node_failed(struct mgr *mgr, const struct source *s,
                          struct mgr_node *node, const char *text);
void mgr_name_node_gone(struct mgr *mgr, struct mgr_node *node);
void mgr_name_tick(struct mgr *mgr); /* nodes that do not begin to take copies */
void mgr_name_source_gone(struct mgr *mgr, const struct source *s);
void mgr_name_free_all(struct mgr *mgr);

/* mgr_stage.c */
int mgr_stage_begin(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                    struct vine_err *err);
struct stage *mgr_stage_find(const struct mgr *mgr, uint64_t job);
void mgr_stage_node_done(struct mgr *mgr, struct stage *stage, struct mgr_node *node);
void mgr_stage_node_failed(struct mgr *mgr, struct stage *stage, struct mgr_node *node,
                           enum vine_code code, const char *text);
void mgr_stage_node_gone(struct mgr *mgr, struct mgr_node *node);

#endif
