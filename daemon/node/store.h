/* store.h - the node's objects on disk.
 *
 *   DIR/objects/DIGEST/{image,manifest,meta.json}        complete, never changed
 *   DIR/partial/DIGEST/{image,manifest,have,meta.json}   being fetched
 *   DIR/tmp/NAME                                         images being built, parts
 *   DIR/lock                                             one daemon a directory
 *
 * `manifest` is the canonical binary form, so its SHA-256 is the directory's name and a
 * damaged one shows itself. `have` has one byte a piece, 1 after the piece's bytes are
 * in `image`. An object is published by one rename and synced afterwards; until
 * meta.json says "synced" a restart hashes it again. Everything is root's, 0700; names
 * are digests.
 *
 * The list and reference counts belong to the loop thread; the calls marked (worker)
 * only use an object's descriptors and may run on any thread while a reference is held.
 */
#ifndef VINE_NODE_STORE_H
#define VINE_NODE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/image/listing.h"
#include "vine/err.h"
#include "vine/manifest.h"

struct store;

struct store_object {
    struct manifest manifest;
    int image_fd;     /* read-only when complete, read-write before */
    int have_fd;      /* -1 when complete */
    uint32_t pieces;  /* piece 0, the manifest, included */
    bool *have;       /* by piece */
    uint64_t *chunks; /* bitmap of those written; NULL when complete */
    bool complete, trusted;
    bool part;    /* of something being built: fetched or made by this daemon */
    bool adopted; /* its file was that of parts */
    bool synced;  /* else a restart hashes it */
    uint32_t key_count;
    struct vine_digest keys[VINE_KEYS_MAX];
    struct listing_head listing; /* trusted and complete: length 0: none */
    /* Of its files, taken from an older image when this daemon built it. */
    uint64_t same_files, same_bytes;
    bool *touched;    /* by piece: what starts read, a hint; NULL: not known */
    uint64_t used_ms; /* last use, wall clock */
    /* private */
    struct store_ahead *ahead; /* the file is shared with other parts; NULL: its own */
    uint64_t ahead_offset;
    bool alone; /* takes nothing from parts */
    bool removed;
    int refs;
    struct store_object *next;
};

/* Make or open the store; what is left of an interrupted daemon is removed, resumed or
 * hashed again (this may take a while for a large unsynced object). Fails if the
 * directory is not root's own, is a symbolic link, or another daemon has it. */
int store_open(const char *dir, struct store **out, struct vine_err *err);
void store_close(struct store *store);

/* Bytes of the file system that holds it. */
int store_space(const struct store *store, uint64_t *total, uint64_t *available,
                struct vine_err *err);

struct store_object *store_first(struct store *store); /* walk by ->next */
struct store_object *store_find(struct store *store, const struct vine_digest *digest);
void store_get(struct store_object *object); /* hold while workers use it */
void store_put(struct store_object *object);

/* Begin a partial object; space for all of it is allocated. `manifest` is moved in on
 * success. Piece 0 is had at once, and if `parts` chunks that came with parts. */
int store_create(struct store *store, struct manifest *manifest, bool parts,
                 struct store_object **out, struct vine_err *err);

/* (worker) Write chunks after checking each against the manifest. VINE_ECORRUPT: the
 * bytes are not theirs; nothing was written. */
int store_write_chunks(struct store_object *object, uint32_t first, uint32_t count,
                       const void *bytes, uint32_t length, struct vine_err *err);
int store_write_chunk(struct store_object *object, uint32_t chunk, const void *bytes,
                      uint32_t length, struct vine_err *err);

/* (worker) Read a chunk; buf holds its length. Short file: VINE_ECORRUPT. */
int store_read_chunk(const struct store_object *object, uint32_t chunk, void *buf,
                     struct vine_err *err);

/* (worker) Write chunks that follow one another with the bytes of as many of another
 * object's, of the same digests; buf holds them all. They are checked again, all before
 * the first is written, but for a part's: it came or was made a moment ago. */
int store_take_chunks(struct store_object *object, uint32_t first, uint32_t count,
                      const struct store_object *from, uint32_t from_first, void *buf,
                      struct vine_err *err);

/* Are chunks in the page cache, so that sending them will not wait for the disk? A
 * guess from some of their pages. If not: (worker) read them, so that they are. */
bool store_chunks_cached(const struct store_object *object, uint32_t first,
                         uint32_t count);
int store_warm_chunks(const struct store_object *object, uint32_t first, uint32_t count,
                      struct vine_err *err);

/* A chunk is written (checked), and whether it is. Parts of pieces are forgotten by a
 * restart. */
void store_mark_chunk(struct store_object *object, uint32_t chunk);
bool store_has_chunk(const struct store_object *object, uint32_t chunk);

/* All chunks of a data piece are written. */
void store_mark(struct store_object *object, uint32_t piece);

/* Complete objects, and parts, that have a chunk of this digest, at most
 * STORE_SOURCES_MAX; borrowed. */
#define STORE_SOURCES_MAX 4
struct store_source {
    struct store_object *object;
    uint32_t chunk;
};
uint32_t store_lookup(const struct store *store, const struct vine_digest *digest,
                      struct store_source found[STORE_SOURCES_MAX]);
/* It is damaged: find nothing in it any more. False: that was said before. */
bool store_forget_chunks(struct store *store, const struct store_object *object);

/* Rename into objects/. The caller has all pieces. */
int store_publish(struct store *store, struct store_object *object, bool trusted,
                  struct vine_err *err);

/* (worker) Sync to disk; then store_synced on the loop thread says so in meta.json. */
int store_sync(struct store *store, struct store_object *object, struct vine_err *err);
void store_synced(struct store *store, struct store_object *object);

/* A file in tmp/ for an image being built; `name` gets at most 32 bytes. */
int store_temp(struct store *store, uint64_t ticket, char name[32], int *fd,
               struct vine_err *err);
void store_temp_remove(struct store *store, const char *name);

/* Make a finished temporary file an object, complete and unsynced. `manifest` is moved
 * in on success. An object of that digest already there: it is used, the file removed;
 * a partial one is replaced. */
int store_adopt(struct store *store, const char *name, struct manifest *manifest,
                bool trusted, struct store_object **out, struct vine_err *err);

/* As store_create, for a part of what the manager calls `build`: there it will stand at
 * this offset. */
int store_create_part(struct store *store, struct manifest *manifest, uint64_t build,
                      uint64_t offset, struct store_object **out, struct vine_err *err);
/* It is a part of something being built: a restart removes it. */
void store_mark_part(struct store *store, struct store_object *object);

/* Remember that a source with this key gives this object. */
void store_add_key(struct store *store, struct store_object *object,
                   const struct vine_digest *key);
void store_touch(struct store *store, struct store_object *object); /* used now */
/* Remember that the start of a job reads these pieces, beside those known before. */
void store_note_reads(struct store *store, struct store_object *object, uint32_t first,
                      uint32_t count);
void store_save_reads(struct store *store, struct store_object *object);

/* Remove from disk at once; the struct lives until the last reference is put. */
void store_remove(struct store *store, struct store_object *object);

/* leases.json: replace, read (*text NULL: none; caller frees). */
int store_save_leases(struct store *store, const char *text, struct vine_err *err);
int store_load_leases(struct store *store, char **text, struct vine_err *err);

#endif
