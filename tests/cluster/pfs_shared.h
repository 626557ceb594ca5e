/* pfs_shared.h - the control file that all pfs processes of one cluster map.
 *
 * It is the "server side" of the stand-in: the cost model with its virtual clocks, the
 * counters, and a ring of changes that keeps the caches of all nodes coherent. All of
 * it is lock-free, so a process killed at any instruction holds up nobody. */
#ifndef PFS_SHARED_H
#define PFS_SHARED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { PFS_CLIENTS_MAX = 256, PFS_NAME_MAX = 255 };

/* What a client knows about a change. A zero inode number or an empty name means "not
 * concerned". `everything` drops all that the clients keep, and reaches the sender too.
 */
struct pfs_change {
    uint64_t parent;
    uint64_t child;
    bool everything;
    char name[PFS_NAME_MAX + 1];
};

enum pfs_setting {
    PFS_LAT_US,      /* added to every request */
    PFS_MDS_OPS,     /* metadata operations a second, all clients together */
    PFS_BW_MBS,      /* 10^6 bytes a second, all clients together */
    PFS_CLIENT_MBS,  /* 10^6 bytes a second, one client */
    PFS_ROOT_SQUASH, /* 1: uid 0 is nobody */
    PFS_SETTINGS
};

enum pfs_counter {
    PFS_META_OPS,
    PFS_IO_OPS,
    PFS_BYTES_READ,
    PFS_BYTES_WRITTEN,
    PFS_COUNTERS
};

extern const char *const pfs_setting_names[PFS_SETTINGS];
extern const char *const pfs_counter_names[PFS_COUNTERS];

struct pfs_shared;

/* Map the control file, creating it if need be. NULL with errno on failure. */
struct pfs_shared *pfs_shared_open(const char *path);

/* Become a client: a slot of our own, freed by the kernel when the process dies. 0 or
 * -1 with errno (EUSERS: too many clients). */
int pfs_shared_join(struct pfs_shared *shared);

int64_t pfs_setting(struct pfs_shared *shared, enum pfs_setting which);
void pfs_setting_set(struct pfs_shared *shared, enum pfs_setting which, int64_t value);
int64_t pfs_counter(struct pfs_shared *shared, enum pfs_counter which);
void pfs_counters_zero(struct pfs_shared *shared);

/* Count one metadata operation, or a read or write of `bytes`, and block for its cost.
 */
void pfs_pay_metadata(struct pfs_shared *shared);
void pfs_pay_data(struct pfs_shared *shared, int64_t bytes, bool is_write);

/* Tell the other clients; does not wait. Returns the position of the change. */
uint64_t pfs_change_post(struct pfs_shared *shared, const struct pfs_change *change);

/* Wait until every living client has handled position `at`. False: not within the time.
 */
bool pfs_change_wait(struct pfs_shared *shared, uint64_t at, int64_t timeout_ms);

/* Hand the changes of others to `handle`, for ever. For one thread of a client. */
void pfs_change_follow(struct pfs_shared *shared,
                       void (*handle)(const struct pfs_change *change, void *arg),
                       void *arg);

#endif
