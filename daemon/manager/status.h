/* status.h - the documents that nodes ask the manager for. */
#ifndef VINE_MANAGER_STATUS_H
#define VINE_MANAGER_STATUS_H

#include "daemon/core/mgr.h"

/* The answer to this MSG_ASK_STATUS of connection `conn`, as JSON. Caller frees; NULL:
 * out of memory. */
char *status_text(const struct mgr *mgr, uint32_t conn, const struct msg *m);

#endif
