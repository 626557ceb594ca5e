/* environ.h - what activation does to a task's environment: pure, so it can be tested.
 *
 * The edits are idempotent: a step whose environment was activated before, because srun
 * passed the batch script's on, comes out the same. */
#ifndef VINE_SPANK_ENVIRON_H
#define VINE_SPANK_ENVIRON_H

#include <stddef.h>

enum environ_kind { ENVIRON_NONE, ENVIRON_VENV, ENVIRON_CONDA };

/* "venv", "conda"; all other words, and NULL, are ENVIRON_NONE. */
enum environ_kind environ_kind_of(const char *word);

/* `path` with `dir` first and nowhere else; the rest in its order, empty parts kept.
 * NULL or "": a plain default path follows. Caller frees; NULL: out of memory. */
char *environ_path_front(const char *path, const char *dir);

/* The value of `name` in an environment array, or NULL. Borrowed. */
const char *environ_find(char *const *env, const char *name);

/* Carry out the edits through `set`: value NULL unsets. `set` returns 0 or -1. */
typedef int (*environ_set)(void *arg, const char *name, const char *value);

/* PATH, VIRTUAL_ENV or CONDA_*, for an environment at `dst`. 0, or -1 if a set failed.
 */
int environ_activate(enum environ_kind kind, const char *dst, const char *path_now,
                     environ_set set, void *arg);

#endif
