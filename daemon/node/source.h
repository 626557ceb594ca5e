/* source.h - one source being read by its user's child; used by source_core.c (for the
 * core, as origin) and packing.c (for `vine-env pack`).
 *
 * Life: source_new starts vine-source -> resolved | failed. If `unopened` (only if
 * `key_first` was asked for): source_open -> resolved, once more. Then
 * source_begin_build -> built | failed, or source_begin_proof -> proved | failed, or
 * source_copy any number of times -> chunks ... source_free at any time but from inside
 * an event; it ends the child. After failed only source_free is left. */
#ifndef VINE_NODE_SOURCE_H
#define VINE_NODE_SOURCE_H

#include <jansson.h>

#include "daemon/image/image.h"
#include "daemon/node/vined.h"

#define SOURCE_ARGS_MAX (2 * (GLOBS_MAX + 3))

enum source_kind { SOURCE_DIR, SOURCE_ARCHIVE, SOURCE_IMAGE, SOURCE_FILE };

struct source;

struct source_ops {
    void (*resolved)(void *ctx, struct source *s);
    /* The temporary file `temp_name` of the store, open as temp_fd, is the object. The
     * manifest may be moved out. trusted: we made it. */
    void (*built)(void *ctx, struct source *s);
    void (*proved)(void *ctx, struct source *s);
    /* Bytes of source_copy, in order; malloc'ed, taken over. */
    void (*chunks)(void *ctx, struct source *s, uint64_t id, struct chunk_run run,
                   void *bytes, uint32_t length);
    void (*progress)(void *ctx, struct source *s, uint64_t bytes);
    void (*failed)(void *ctx, struct source *s, const struct vine_err *err);
};

struct source {
    struct vined *vined;
    struct source_ops ops;
    void *ctx;
    uint64_t ticket;
    uint32_t uid, gid;
    char *path;
    char *shown;             /* the same in logs and messages: no login of a URL */
    const char *const *more; /* arguments for vine-source; borrowed, NULL: none */
    const char *prefix; /* where it is to appear; borrowed, NULL: a directory's own */
    bool data;
    /* A job's file (files.c): its id, part of its key, for the path is of this node
     * alone, and the process that sees it. NULL, 0: an ordinary source. */
    char *named;
    uint32_t view;

    /* After resolved. */
    enum source_kind kind;
    struct vine_digest key, signature;
    bool is_signed, key_first, unopened;
    bool everybody;  /* all users may read all of it */
    char *canonical; /* raw bytes */
    uint64_t entries, bytes, estimate, object_size, manifest_bytes;
    enum image_activate activate;
    enum image_env env; /* this and files: after built */
    char *told;         /* archives: where it says it was; NULL: nothing */
    uint64_t files;
    struct manifest manifest; /* packed images; after built: of the object */
    bool has_manifest;

    /* After built. */
    uint64_t same_files, same_bytes; /* taken from an older image */
    char temp_name[32];
    int temp_fd;

    bool incremental; /* set by the owner: use and leave listings (listing.h) */
    bool no_base;     /* an older image was of no use */

    /* private */
    struct source_child *child;
    struct source_build *build;
    unsigned tries;
    bool was_resolved, building, failed, freed;
    int pins; /* workers and handles that still point here */
};

/* id: as spec.h has it, a path or "data:" and a path.
 * more: borrowed while it lives; ends with NULL, at most SOURCE_ARGS_MAX. NULL: none.
 */
struct source *source_new(struct vined *vined, uint64_t ticket, uint32_t uid,
                          uint32_t gid, const char *id, bool key_first,
                          const struct source_ops *ops, void *ctx,
                          const char *const *more, struct vine_err *err);
int source_look(struct source *s, struct vine_err *err);
/* Read all of the packed image; does it hold what its manifest says? */
int source_begin_proof(struct source *s, struct vine_err *err);
int source_begin_build(struct source *s, struct vine_err *err);
/* Chunks [first, first + count) of s->manifest; `id` comes back with each run of them.
 */
int source_copy(struct source *s, uint64_t id, uint32_t first, uint32_t count,
                struct vine_err *err);
void source_free(struct source *s);

/* Between source.c, source_child.c and source_build.c. */
void source_fail(struct source *s, const struct vine_err *err);
void source_unpin(struct source *s);

/* source_child.c: vine-source and its two descriptors. */
/* Start our program args[0] with these arguments; bulk_fd -1: none. The handle is
 * initialised in every case and must be closed. */
int child_spawn(struct vined *vined, uv_process_t *process, char **args, int control_fd,
                int bulk_fd, uv_exit_cb on_exit_cb, struct vine_err *err);
int child_start(struct source *s, struct vine_err *err);
int child_send(struct source *s, json_t *command, struct vine_err *err); /* steals */
/* A first, small line, with descriptors; they stay the caller's. `command` is stolen.
 */
int child_send_fds(struct source *s, json_t *command, const int *fds, unsigned count,
                   struct vine_err *err);
int pipe_send_fds(uv_pipe_t *control, json_t *command, const int *fds, unsigned count,
                  struct vine_err *err);
int child_take_bulk_fd(struct source *s); /* for vine-squash; caller closes */
/* Read exactly `len` bytes from the bulk pipe into `buf`, then call `done`; or `drop`
 * (may be NULL) if the child ends or is given up first. In order; any number may be
 * queued. On error neither is called. */
int child_read(struct source *s, void *buf, size_t len,
               void (*done)(struct source *s, void *arg), void (*drop)(void *arg),
               void *arg, struct vine_err *err);
void child_end(struct source *s);
/* Called by source_child.c on lines; implemented in source.c. */
void source_line(struct source *s, const json_t *line);

/* Begin anew with the same struct: another child. */
void source_restart(struct source *s);

/* source_base.c: the older image that a build takes files from. */
struct source_base {
    struct store_object *object;     /* held; NULL: none */
    int listing_fd;                  /* gets the new listing; -1: none is wanted */
    uint64_t listing_bytes;          /* of its body; 0: none was left */
    uint64_t same_files, same_bytes; /* taken from the object */
};
void base_begin(struct source *s, struct source_base *base);
void base_end(struct source_base *base);
int base_send_build(struct source *s, const struct source_base *base,
                    struct vine_err *err);
void base_take_done(struct source_base *base, const json_t *line);
/* (worker) Has the object its manifest's bytes? */
bool base_is_whole(const struct source_base *base);
/* (worker) What was left goes behind the image. */
int base_append_listing(const struct source *s, const struct source_base *base, int fd,
                        struct image_info *info, struct vine_err *err);
void base_is_damaged(struct source *s, struct source_base *base);

/* source_build.c */
int build_start(struct source *s, struct vine_err *err);
void build_child_done(struct source *s, const json_t *line); /* vine-source said done */
/* True, and the source has failed with its words: the image builder ended badly. */
bool build_failed(struct source *s);
void build_end(struct source *s);
/* Whose chunks may leave as parts; NULL: none now. With a base none do: the others have
 * nearly all of it, and copying parts out of the image takes longer than building it.
 */
struct image_follow *build_follow(const struct source *s);

/* source_parts.c: stretches of what is being built for one of the core's tickets */
struct source_parts {
    const struct image_follow *of; /* compared only */
    size_t next;                   /* number of the chunk the next one begins with */
    uint64_t bytes;                /* told */
    bool busy;
};
/* Is there enough for the next one? To be asked now and then. */
void source_parts_look(struct vined *vined, struct source_parts *parts,
                       const struct source *s);
/* source_core.c: of an open ticket; NULL: it is not open any more. */
struct source_parts *source_parts_of(struct vined *vined, uint64_t ticket,
                                     const struct source **source);

#endif
