/* vined.h - the parts of the node daemon and what they share.
 *
 *   main.c       start and stop, the core's ops
 *   manager.c    the control connection
 *   transfer.c   chunks on their way into the store, whoever they come from
 *   reuse.c      chunks that older objects of the store have
 *   fetch.c      data connections to peers: asking
 *   serve.c      data connections from peers: answering
 *   buffers.c    memory for chunks
 *   source*.c    sources this node is origin of: vine-source, vine-squash
 *   mount.c      images mounted
 *   lazy*.c      images mounted while they are on their way
 *   local.c      the Unix socket for plugin and CLI; fields.c what requests hold;
 *                status.c their documents; packing.c
 *   files.c      what tasks ask for, and offer, while their job runs; jobdir.c where
 *                they find it
 *   jobs.c       which jobs live; leases on disk; step.c what Slurm says of them
 *   store*.c     objects on disk
 *   sync.c       when they are made to last
 *
 * All of it runs on one loop thread, which alone touches the core; blocking work goes
 * to libuv's thread pool with a reference to what it uses. */
#ifndef VINE_NODE_VINED_H
#define VINE_NODE_VINED_H

#include <uv.h>

#include "daemon/core/node.h"
#include "daemon/edge/daemon.h"
#include "daemon/edge/link.h"
#include "daemon/node/store.h"
#include "vine/conf.h"

struct manager_link;
struct transfers;
struct buffers;
struct fetcher;
struct server;
struct sources;
struct mounts;
struct lazies;
struct local;
struct jobs;
struct metrics;
struct syncs;
struct jobdirs;
struct offer;

struct vined {
    uv_loop_t loop;
    struct vine_conf conf;
    char name[VINE_NAME_MAX + 1];
    char switch_name[VINE_NAME_MAX]; /* "": unknown */
    uint64_t start_ms, cache_max;
    uint32_t helper_uid, helper_gid;
    uint8_t image_key[64];
    size_t image_key_len; /* 0: no key, nothing is signed */
    struct daemon_signals signals;
    struct daemon_alarm alarm;
    struct node *core;
    struct store *store;
    struct manager_link *manager;
    struct transfers *transfers;
    struct buffers *buffers;
    struct fetcher *fetcher;
    struct server *server;
    struct sources *sources;
    struct mounts *mounts;
    struct lazies *lazies;
    struct local *local;
    struct jobs *jobs;
    struct metrics *metrics;
    struct syncs *syncs;
    struct jobdirs *jobdirs;
    struct offer *offers;
    uint64_t same_files, same_bytes; /* that builds took from older images */
    uint64_t bytes_served;           /* to other nodes */
    uint64_t results[VINE_CODES];    /* sources that steps were answered about */
    uint64_t waits, waited_ms;       /* of those steps */
    bool stopping;
};

uint64_t vined_now(struct vined *vined);

/* After any event given to the core. */
void vined_update(struct vined *vined);

/* Before anything that may admit an object: cache_max, or less if the disk is fuller.
 */
void vined_measure(struct vined *vined);

/* Call `run` from the loop soon, not from inside the current call. */
void vined_defer(struct vined *vined, void (*run)(struct vined *vined, void *arg),
                 void *arg);

/* manager.c */
int manager_start(struct vined *vined, struct vine_err *err);
/* Somebody waits for it: if it is away, do not pause before the next attempt. */
void manager_hurry(struct vined *vined);
void manager_send(struct vined *vined, const struct msg *m);
void manager_silent(struct vined *vined);            /* this one: look for another */
const char *manager_name(const struct vined *vined); /* the one connected, or NULL */
void manager_stop(struct vined *vined);

/* metrics.c - for Prometheus, if configured. A refusal is logged; the daemon goes on.
 */
void node_metrics_start(struct vined *vined);
/* A step that asked at `asked_ms` got these results. */
void node_metrics_answered(struct vined *vined, uint64_t asked_ms,
                           const struct node_result *results, uint32_t count);

/* buffers.c - each of VINE_CHUNK_MAX bytes. */
int buffers_start(struct vined *vined, struct vine_err *err);
void *buffer_get(struct vined *vined); /* NULL: out of memory */
void buffer_put(struct vined *vined, void *buffer);
void buffers_trim(struct vined *vined); /* nothing moves: give the memory back */
void buffers_stop(struct vined *vined);

/* transfer.c - a transfer is one assignment of the core's: a range of data pieces whose
 * chunks arrive in any order, or piece 0. Ids are the core's. */
int transfers_start(struct vined *vined, struct vine_err *err);
/* Chunks will come. The object must be in the store. */
int transfer_begin(struct vined *vined, uint64_t id, const struct vine_digest *digest,
                   struct msg_range range, struct vine_err *err);
/* First chunk and number of chunks of a transfer; -1: no such transfer (any more). */
int transfer_chunks(struct vined *vined, uint64_t id, uint32_t *first, uint32_t *count);
/* The chunks of a transfer that are not there yet, as runs to be asked for, ascending;
 * the last run may hold some that are. 0: none, or no such transfer. */
#define TRANSFER_RUNS_MAX 16
struct chunk_run {
    uint32_t first, count;
    bool older; /* older objects of the store have them, it seems */
};
uint32_t transfer_runs(struct vined *vined, uint64_t id,
                       struct chunk_run runs[TRANSFER_RUNS_MAX]);
/* Bytes that these chunks must have; 0: not of this transfer or no such transfer. */
uint64_t transfer_length(struct vined *vined, uint64_t id, struct chunk_run run);
/* Chunks' bytes in a buffer, taken over. Verified, written, told to the core. */
void transfer_take(struct vined *vined, uint64_t id, struct chunk_run run, void *bytes,
                   uint32_t length);
/* The peer has verified these chunks: older objects may give them. */
void transfer_take_older(struct vined *vined, uint64_t id, struct chunk_run run);
void transfer_took_older(struct vined *vined, uint64_t id, struct store_object *object,
                         struct chunk_run run, bool took);
/* Piece 0 is on its way; transfer_end gives it up. */
int transfer_expect_manifest(struct vined *vined, uint64_t id, struct vine_err *err);
/* The manifest's bytes (piece 0) of `digest`: checked, the partial object made, told to
 * the core; nothing if it was given up. `bytes` borrowed. */
void transfer_manifest(struct vined *vined, uint64_t id,
                       const struct vine_digest *digest, const void *bytes, size_t len);
/* Give up: tells the core unless the core itself gave it up (err NULL). */
void transfer_end(struct vined *vined, uint64_t id, const struct vine_err *err);
/* The same, but not from inside the core's own op. */
void transfer_end_later(struct vined *vined, uint64_t id, const struct vine_err *err);
/* It comes from this node's own source; when that fails, all of its transfers do. */
void transfer_set_origin(struct vined *vined, uint64_t id, uint64_t ticket);
void transfers_fail_origin(struct vined *vined, uint64_t ticket,
                           const struct vine_err *err);
void transfers_stop(struct vined *vined);

/* reuse.c */
void reuse_begin(struct vined *vined, const struct vine_digest *digest, bool proved);
bool reuse_knows(const struct vined *vined, const struct store_object *object,
                 uint32_t chunk);
/* Chunks of a transfer from older objects, all or none -> transfer_took_older. */
void reuse_take(struct vined *vined, uint64_t id, struct store_object *object,
                struct chunk_run run);

/* sync.c */
int syncs_start(struct vined *vined, struct vine_err *err);
/* Sync a published object in the background, later, and note that it is. */
void sync_object(struct vined *vined, struct store_object *object);
void sync_forget(struct vined *vined, const struct store_object *object); /* removed */
void syncs_stop(struct vined *vined);

/* fetch.c */
int fetch_start(struct vined *vined, struct vine_err *err);
void fetch_from_peer(struct vined *vined, uint64_t id, const struct vine_digest *digest,
                     const struct msg_assign *assign);
void fetch_cancel(struct vined *vined, uint64_t id);
/* Older objects gave them, or could not: then the peer is asked for their bytes. */
void fetch_took_older(struct vined *vined, uint64_t id, struct chunk_run run,
                      bool took);
void fetch_stop(struct vined *vined);

/* serve.c */
int serve_start(struct vined *vined, struct vine_err *err);
/* Pieces arrived that held requests may wait for. */
void serve_more(struct vined *vined);
void serve_stop(struct vined *vined);

/* source.c */
int sources_start(struct vined *vined, struct vine_err *err);
void source_resolve(struct vined *vined, uint64_t ticket, uint32_t uid, uint32_t gid,
                    const char *path);
void source_open(struct vined *vined, uint64_t ticket);
void source_prove(struct vined *vined, uint64_t ticket);
void source_build(struct vined *vined, uint64_t ticket);
void source_close(struct vined *vined, uint64_t ticket);
void source_fetch(struct vined *vined, uint64_t id, const struct vine_digest *digest,
                  uint64_t ticket, struct msg_range range);
void sources_stop(struct vined *vined);

/* mount.c */
int mounts_start(struct vined *vined, struct vine_err *err);
void mount_object(struct vined *vined, const struct vine_digest *digest,
                  uint32_t mount_uid, bool trusted);
void mount_remove(struct vined *vined, const struct vine_digest *digest);
/* Path of a mount; "" if there is none. */
void mount_path(struct vined *vined, const struct vine_digest *digest,
                uint32_t mount_uid, char out[VINE_PATH_MAX]);
void mounts_stop(struct vined *vined);
/* For lazy.c. (worker) An image, as squashfs, at a directory that is there: the loop
 * device's descriptor, and its name. flags: LO_FLAGS_* beside the usual. */
int mount_image(int image_fd, uint32_t flags, const char *path, char device[32],
                struct vine_err *err);
void mount_undo(const char *path); /* and the directory goes */
/* With that mode, also when it was there. */
int mount_make_dir(const char *path, mode_t mode, struct vine_err *err);
/* It is at mount_path, made by somebody else, for all users. */
int mount_adopt(struct vined *vined, const struct vine_digest *digest);

/* lazy.c - mounts of images that are still on their way (core's ops of these names) */
int lazies_start(struct vined *vined, struct vine_err *err);
void lazy_look(struct vined *vined, const struct vine_digest *digest);
void lazy_mount(struct vined *vined, const struct vine_digest *digest);
void lazy_have(struct vined *vined, const struct vine_digest *digest, uint32_t piece);
void lazy_leave(struct vined *vined, const struct vine_digest *digest);
/* The object is complete now: its mount, if it is a lazy one, moves to the file. */
void lazy_published(struct vined *vined, struct store_object *object);
void lazy_remove(struct vined *vined, const struct vine_digest *digest);
/* What a job that started lazily could not read; "" if nothing. */
void lazy_trouble(struct vined *vined, uint64_t job, char *text, size_t size);
void lazies_stop(struct vined *vined);

/* local.c */
int local_start(struct vined *vined, struct vine_err *err);
void local_reply(struct vined *vined, uint64_t client,
                 const struct node_result *results, uint32_t count);
void local_answer(struct vined *vined, uint64_t client, enum vine_code code,
                  const char *text);
/* The job is being terminated: those who wait for it are told. */
void local_cancel_job(struct vined *vined, uint64_t job);
bool local_job_waits(struct vined *vined, uint64_t job);
void local_stop(struct vined *vined);

/* step.c - of which job's step is a process? Slurm's own words for it. */
/* Of which job's step is it the slurmstepd? 0: it is none. *external: ".extern". */
uint64_t step_of_daemon(uint32_t pid, bool *external);
uint64_t step_of_process(uint32_t pid, uint32_t uid); /* 0: none */

/* jobdir.c - RUN_DIR/job/JOB, where a job's tasks find what they asked for. */
int jobdirs_start(struct vined *vined, struct vine_err *err);
/* An object that is mounted at `from` appears for the job under its digest and `name`,
 * a single component. *out: there. */
int jobdir_add(struct vined *vined, uint64_t job, uint32_t uid, uint32_t gid,
               const struct vine_digest *digest, const char *from, bool file,
               const char *name, char out[VINE_PATH_MAX], struct vine_err *err);
/* Was this added to it? */
bool jobdir_has(const struct vined *vined, uint64_t job,
                const struct vine_digest *digest);
void jobdirs_check(struct vined *vined); /* those of ended jobs go */
void jobdirs_stop(struct vined *vined);

/* files.c - `vine-env get` and `put` */
struct offer {
    uint64_t job;
    uint32_t uid, view; /* view: the process that sees the path */
    char *id, *path;
    struct offer *next;
};
/* What is behind this id of a job's file on this node; NULL: nothing. Borrowed. */
const struct offer *files_offer(const struct vined *vined, uint32_t uid,
                                const char *id);
void files_check(struct vined *vined); /* those of ended jobs go */
void files_stop(struct vined *vined);

/* jobs.c */
int jobs_start(struct vined *vined, struct vine_err *err);
bool jobs_has_step(uint64_t job); /* looks through /proc */
void jobs_save(struct vined *vined);
void jobs_watch(struct vined *vined); /* somebody waits: look often */
void jobs_stop(struct vined *vined);

#endif
