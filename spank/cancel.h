/* cancel.h - is this step being signalled while it waits? */
#ifndef VINE_SPANK_CANCEL_H
#define VINE_SPANK_CANCEL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct cancel_watch {
    uint32_t job;
    ino_t pending;  /* the request seen waiting, 0: none */
    unsigned looks; /* how often in a row */
};

/* Look once; to be called about twice a second. True when a request to signal this step
 * has been waiting for CANCEL_LOOKS looks. */
bool cancel_look(struct cancel_watch *watch);

#define CANCEL_LOOKS 3

#endif
