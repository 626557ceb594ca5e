/* export.h - write a packed file as the user. */
#ifndef VINE_SOURCE_EXPORT_H
#define VINE_SOURCE_EXPORT_H

#include "daemon/source/control.h"

/* *written: the file's size. Nothing is left behind when it fails. */
int export_file(const struct command *command, const struct image_progress *progress,
                uint64_t *written, struct vine_err *err);

/* From another thread, just before _exit: remove the unfinished file, if there is one.
 */
void export_abandon(void);

#endif
