/* lazy_int.h - one lazy mount; shared by lazy.c (its life), lazy_child.c (the
 * vine-lazy process and the talk with it) and lazy_trouble.c. */
#ifndef VINE_NODE_LAZY_INT_H
#define VINE_NODE_LAZY_INT_H

#include "daemon/node/vined.h"
#include "vine/lazy.h"

enum lazy_stage {
    LAZY_STARTING, /* the mount is being made, by a worker */
    LAZY_STANDING,
    LAZY_HANDING, /* the loop device moves, by a worker */
    LAZY_ENDING,  /* moved, or left; vine-lazy's report is awaited */
};

struct lazy {
    struct vined *vined;
    struct vine_digest digest;
    struct store_object *object; /* a reference; the complete one once it is */
    enum lazy_stage stage;
    bool published; /* object is complete: hand over as soon as possible */
    bool left;      /* no job wants it: to be unmounted after the report */
    bool removed;   /* to be unmounted and forgotten as soon as no worker has it */
    bool lost;      /* vine-lazy is gone before its time */
    bool mounted;
    int mount_fd, loop_fd;
    char device[32];
    uint64_t file_device, file_inode; /* of what the loop device reads from */
    uint64_t expired;                 /* reads that got EIO */

    /* lazy_child.c */
    int socket; /* -1: none */
    uv_poll_t *poll;
    uv_process_t *process; /* NULL: of a daemon before us, or gone */
    bool told[VINE_PIECES_MAX];
    uv_timer_t *watchdog;
    struct lazy *next;
};

struct lazies {
    char dir[VINE_CONF_TEXT + 8];
    struct lazy *first;
    int nice_value; /* of our threads */
    struct lazy_failure {
        struct vine_digest digest;
        char text[1024];
    } failures[16]; /* the latest, as a ring */
    unsigned failure_count;
};

/* DIR/DIGEST.ENDING */
void lazy_path(const struct lazy *l, const char *ending, char out[VINE_PATH_MAX]);

/* lazy_child.c */
/* Start vine-lazy for the partial image, on /dev/fuse as fuse_fd, and connect. */
int lazy_child_start(struct lazy *l, int fuse_fd, struct vine_err *err);
int lazy_child_connect(struct lazy *l, struct vine_err *err);
/* Tell it of all pieces that it was not told of. */
void lazy_child_update(struct lazy *l);
void lazy_child_finish(struct lazy *l); /* ask for its report */
/* It must do something within so long, or it is killed: the kernel ends its reads. */
void lazy_child_watch(struct lazy *l, unsigned ms);
void lazy_child_unwatch(struct lazy *l);
void lazy_child_kill(struct lazy *l);
/* Close what we have of it; it lives on (our stop) unless killed before. */
void lazy_child_close(struct lazy *l);

/* lazy_trouble.c: remember why reads failed, for lazy_trouble */
void lazy_note_failure(struct lazy *l, const char *text);

/* lazy.c, called by lazy_child.c */
void lazy_on_need(struct lazy *l, struct msg_range range);
void lazy_on_read(struct lazy *l, struct msg_range range);
void lazy_on_expired(struct lazy *l, struct msg_range range);
void lazy_on_report(struct lazy *l, const struct lazy_report *report);
void lazy_on_gone(struct lazy *l); /* the connection ended */

#endif
