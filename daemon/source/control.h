/* control.h - JSON lines on a socket, with descriptors beside them. */
#ifndef VINE_SOURCE_CONTROL_H
#define VINE_SOURCE_CONTROL_H

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>

#include "daemon/image/source.h"
#include "vine/err.h"

#define CONTROL_LINE_MAX (64u << 10)
#define CONTROL_FDS_MAX 2

enum command_type {
    COMMAND_RESOLVE, /* not from outside: the first thing to do */
    COMMAND_OPEN,
    COMMAND_BUILD,
    COMMAND_MANIFEST,
    COMMAND_COPY,
    COMMAND_EXPORT,
    COMMAND_QUIT
};

struct command {
    enum command_type type;
    uint64_t offset, length; /* copy; build: of the base's listing */
    char *path;              /* export; owned */
    uint64_t size;
    unsigned mode;
    bool trailer, force;
    int fds[CONTROL_FDS_MAX]; /* -1 = none; owned */
};

struct control {
    int fd;
    pthread_mutex_t lock; /* of writing */
    char line[CONTROL_LINE_MAX];
    size_t used;
    int fds[CONTROL_FDS_MAX];
};

void control_init(struct control *control, int fd);

/* Wait for the next command. 1: *command set, 0: end of file, -1: error. */
int control_read(struct control *control, struct command *command,
                 struct vine_err *err);
void command_free(struct command *command);

/* Write a line from any thread. `event` is consumed; NULL is allowed (no memory). A
 * daemon that does not read any more is no error: the end of file says so soon. */
void control_send(struct control *control, json_t *event);
void control_send_error(struct control *control, const struct vine_err *err);

/* The "resolved" line, or "key" of one that is unread; NULL: no memory. */
json_t *control_resolved(const struct image_source_facts *facts);

#endif
