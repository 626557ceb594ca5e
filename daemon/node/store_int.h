/* store_int.h - shared by store.c (objects in memory and their life), store_disk.c
 * (files and directories), store_index.c (which object has a chunk), store_parts.c
 * (parts of what is being built) and store_scan.c (what a start finds). */
#ifndef VINE_NODE_STORE_INT_H
#define VINE_NODE_STORE_INT_H

#include <sys/types.h>

#include "daemon/node/store.h"

struct store_ahead;
struct store_index;

struct store {
    struct store_index *index;
    int dir_fd, objects_fd, partial_fd, tmp_fd, lock_fd;
    struct store_object *first;
    struct store_ahead *first_ahead;
};

/* Files below a directory descriptor. */
int disk_open_dir(int at, const char *name, bool create, struct vine_err *err);
int disk_write_file(int at, const char *name, const void *bytes, size_t len,
                    struct vine_err *err);
/* Whole file into a fresh buffer, with a zero byte behind it. */
int disk_read_file(int at, const char *name, size_t max, uint8_t **out, size_t *len,
                   struct vine_err *err);
void disk_remove_tree(int at, const char *name); /* one level of files below */
int disk_pread_all(int fd, void *buf, size_t len, uint64_t offset,
                   struct vine_err *err);
int disk_pwrite_all(int fd, const void *buf, size_t len, uint64_t offset,
                    struct vine_err *err);

/* meta.json of an object's directory. */
int meta_save(int dir_fd, const struct store_object *object, bool synced,
              struct vine_err *err);
/* Missing or malformed: defaults (untrusted, unsynced, no keys). */
void meta_load(int dir_fd, struct store_object *object, bool *synced);

void object_name(const struct store_object *object, char name[VINE_HEX_LEN + 1]);
struct store_object *object_new(struct manifest *manifest, struct vine_err *err);
/* Ignores what are no pieces of it. */
void object_note_reads(struct store_object *object, uint32_t first, uint32_t count);
void object_free(struct store_object *object);
void store_complete(struct store *store, struct store_object *object);

/* Files and list entry of a new object; `manifest` gets its manifest back on error, and
 * the object is freed. */
int store_create_object(struct store *store, struct store_object *object,
                        struct manifest *manifest, struct vine_err *err);

/* store_parts.c: the file that parts of one build share. */
int ahead_open(struct store_object *part, struct vine_err *err);
/* It is the image's from now on: image_fd, what chunks there are. False: none fits. */
bool ahead_become(struct store *store, int dir_fd, struct store_object *image);
void ahead_put(struct store_ahead *ahead); /* NULL is allowed */

struct store_index *index_new(void); /* NULL: out of memory */
void index_free(struct store_index *index);
void index_add(struct store_index *index, struct store_object *object);
bool index_remove(struct store_index *index, const struct store_object *object);

int store_scan(struct store *store, struct vine_err *err);

#endif
