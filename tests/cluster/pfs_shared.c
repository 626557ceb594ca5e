/* pfs_shared.c - cost model, counters and the ring of changes, in one mapped file.
 *
 * Costs are virtual clocks: a queue is the time at which its server will be free. A
 * request moves that time forward by its own cost with one compare-and-swap and sleeps
 * until then, so requests of all nodes queue at one server though no server exists.
 *
 * Coherence: whoever changes something writes it into the ring. Each client has a
 * thread that sleeps in a futex on the mapped file (a page is a page in every
 * namespace) and tells its kernel to forget what the change concerns. Two details:
 *   - A look-up that was answered just before the change may enter the kernel's cache
 *     just after our notification. So each change is handled twice, the second time
 *     SETTLE_NS later.
 *   - A follower that is a whole ring behind has lost changes: it forgets everything.
 */
#include "pfs_shared.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000LL

enum {
    RING_SLOTS = 16384,
    BATCH_NS = 4000000,     /* a follower wakes at most this often */
    SETTLE_NS = 10000000,   /* see above */
    ABANDON_NS = 200000000, /* a writer that died inside its slot is passed over */
    POLL_NS = 1000000,
};

/* `sequence` is position + 1 once the slot is whole, 0 while it is being written. */
struct slot {
    _Atomic uint64_t sequence;
    _Atomic int64_t posted_ns;
    uint32_t sender;
    struct pfs_change change;
};

struct pfs_shared {
    _Atomic int64_t settings[PFS_SETTINGS];
    _Atomic int64_t counters[PFS_COUNTERS];
    _Atomic int64_t mds_free_ns, pipe_free_ns;
    _Atomic uint32_t bell, sleepers; /* the futex word, and who listens to it */
    _Atomic uint64_t head;
    _Atomic uint64_t
        handled[PFS_CLIENTS_MAX]; /* per client: all before this is settled */
    struct slot ring[RING_SLOTS];
};

const char *const pfs_setting_names[PFS_SETTINGS] = {
    [PFS_LAT_US] = "lat_us",           [PFS_MDS_OPS] = "mds_ops",
    [PFS_BW_MBS] = "bw_mbs",           [PFS_CLIENT_MBS] = "client_mbs",
    [PFS_ROOT_SQUASH] = "root_squash",
};

const char *const pfs_counter_names[PFS_COUNTERS] = {
    [PFS_META_OPS] = "meta_ops",
    [PFS_IO_OPS] = "io_ops",
    [PFS_BYTES_READ] = "bytes_read",
    [PFS_BYTES_WRITTEN] = "bytes_written",
};

/* This process: its descriptor of the control file, its slot and its own data pipe. */
static int control_fd = -1;
static uint32_t my_client = UINT32_MAX;
static _Atomic int64_t my_pipe_free_ns;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND_NS + t.tv_nsec;
}

static struct timespec to_timespec(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / SECOND_NS, .tv_nsec = ns % SECOND_NS};
}

static void sleep_until(int64_t ns)
{
    struct timespec t = to_timespec(ns);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

/* Stand in the queue of a server that needs cost_ns for us; returns when it is done. */
static int64_t queue_up(_Atomic int64_t *free_ns, int64_t start_ns, int64_t cost_ns)
{
    int64_t seen = *free_ns, done;
    do
        done = (seen > start_ns ? seen : start_ns) + cost_ns;
    while (!atomic_compare_exchange_weak(free_ns, &seen, done));
    return done;
}

struct pfs_shared *pfs_shared_open(const char *path)
{
    control_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (control_fd < 0 || ftruncate(control_fd, sizeof(struct pfs_shared)) < 0)
        return NULL;
    void *map = mmap(NULL, sizeof(struct pfs_shared), PROT_READ | PROT_WRITE,
                     MAP_SHARED, control_fd, 0);
    return map == MAP_FAILED ? NULL : map;
}

/* Client number N holds a lock on byte N of the control file: the lock belongs to the
 * open file, so it lives through daemonizing and goes with the process. */
int pfs_shared_join(struct pfs_shared *shared)
{
    for (uint32_t client = 0; client < PFS_CLIENTS_MAX; client++) {
        struct flock lock = {.l_type = F_WRLCK, .l_start = client, .l_len = 1};
        if (fcntl(control_fd, F_OFD_SETLK, &lock) == 0) {
            my_client = client;
            shared->handled[client] = atomic_load(&shared->head);
            return 0;
        }
    }
    errno = EUSERS;
    return -1;
}

static bool client_lives(uint32_t client)
{
    struct flock lock = {.l_type = F_WRLCK, .l_start = client, .l_len = 1};
    return fcntl(control_fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

int64_t pfs_setting(struct pfs_shared *shared, enum pfs_setting which)
{
    return atomic_load_explicit(&shared->settings[which], memory_order_relaxed);
}

void pfs_setting_set(struct pfs_shared *shared, enum pfs_setting which, int64_t value)
{
    shared->settings[which] = value;
}

int64_t pfs_counter(struct pfs_shared *shared, enum pfs_counter which)
{
    return shared->counters[which];
}

void pfs_counters_zero(struct pfs_shared *shared)
{
    for (int i = 0; i < PFS_COUNTERS; i++)
        shared->counters[i] = 0;
}

void pfs_pay_metadata(struct pfs_shared *shared)
{
    int64_t mds_ops = pfs_setting(shared, PFS_MDS_OPS);
    int64_t lat_us = pfs_setting(shared, PFS_LAT_US);

    shared->counters[PFS_META_OPS]++;
    if (mds_ops == 0 && lat_us == 0)
        return;
    int64_t done = now_ns();
    if (mds_ops > 0)
        done = queue_up(&shared->mds_free_ns, done, SECOND_NS / mds_ops);
    sleep_until(done + lat_us * 1000);
}

void pfs_pay_data(struct pfs_shared *shared, int64_t bytes, bool is_write)
{
    int64_t bw_mbs = pfs_setting(shared, PFS_BW_MBS);
    int64_t client_mbs = pfs_setting(shared, PFS_CLIENT_MBS);
    int64_t lat_us = pfs_setting(shared, PFS_LAT_US);

    shared->counters[PFS_IO_OPS]++;
    shared->counters[is_write ? PFS_BYTES_WRITTEN : PFS_BYTES_READ] += bytes;
    if (bw_mbs == 0 && client_mbs == 0 && lat_us == 0)
        return;
    int64_t start = now_ns(), done = start, mine = start;
    if (bw_mbs > 0)
        done = queue_up(&shared->pipe_free_ns, start, bytes * 1000 / bw_mbs);
    if (client_mbs > 0)
        mine = queue_up(&my_pipe_free_ns, start, bytes * 1000 / client_mbs);
    sleep_until((mine > done ? mine : done) + lat_us * 1000);
}

uint64_t pfs_change_post(struct pfs_shared *shared, const struct pfs_change *change)
{
    uint64_t at = atomic_fetch_add(&shared->head, 1);
    struct slot *slot = &shared->ring[at % RING_SLOTS];

    atomic_store(&slot->sequence, 0);
    slot->posted_ns = now_ns();
    slot->sender = change->everything ? UINT32_MAX : my_client;
    slot->change = *change;
    atomic_store(&slot->sequence, at + 1);
    atomic_fetch_add(&shared->bell, 1);
    if (atomic_load(&shared->sleepers) > 0)
        syscall(SYS_futex, &shared->bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    return at;
}

bool pfs_change_wait(struct pfs_shared *shared, uint64_t at, int64_t timeout_ms)
{
    int64_t deadline = now_ns() + timeout_ms * 1000000;

    for (uint32_t client = 0; client < PFS_CLIENTS_MAX; client++) {
        while (client_lives(client) && atomic_load(&shared->handled[client]) <= at) {
            if (now_ns() > deadline)
                return false;
            sleep_until(now_ns() + POLL_NS);
        }
    }
    return true;
}

enum slot_state { SLOT_READY, SLOT_PENDING, SLOT_LOST };

static enum slot_state slot_read(struct pfs_shared *shared, uint64_t at,
                                 struct slot *out)
{
    struct slot *slot = &shared->ring[at % RING_SLOTS];
    uint64_t before = atomic_load(&slot->sequence);

    if (before < at + 1)
        return SLOT_PENDING;
    out->posted_ns = atomic_load(&slot->posted_ns);
    out->sender = slot->sender;
    out->change = slot->change;
    atomic_thread_fence(memory_order_acquire);
    return atomic_load(&slot->sequence) == at + 1 ? SLOT_READY : SLOT_LOST;
}

/* One of the two passes over the ring: `next` is its place, and it leaves alone what is
 * younger than min_age_ns. */
struct pass {
    uint64_t next;
    int64_t min_age_ns;
    int64_t pending_since_ns;
};

static const struct pfs_change everything = {.everything = true};

/* Returns the time at which there will be more for this pass, 0 if that needs a bell.
 */
static int64_t pass_run(struct pass *pass, struct pfs_shared *shared,
                        void (*handle)(const struct pfs_change *, void *), void *arg)
{
    while (pass->next < atomic_load(&shared->head)) {
        struct slot slot;
        int64_t now = now_ns();
        enum slot_state state = slot_read(shared, pass->next, &slot);

        if (state == SLOT_PENDING) {
            if (pass->pending_since_ns == 0)
                pass->pending_since_ns = now;
            if (now - pass->pending_since_ns < ABANDON_NS)
                return now + POLL_NS;
        } else if (state == SLOT_LOST) {
            handle(&everything, arg);
            pass->next = atomic_load(&shared->head) - 1;
        } else if (now - slot.posted_ns < pass->min_age_ns) {
            return slot.posted_ns + pass->min_age_ns;
        } else if (slot.sender != my_client) {
            handle(&slot.change, arg);
        }
        pass->pending_since_ns = 0;
        pass->next++;
    }
    return 0;
}

static void wait_for_bell(struct pfs_shared *shared, uint32_t heard, int64_t until_ns)
{
    struct timespec left = to_timespec(0);
    if (until_ns > 0) {
        int64_t left_ns = until_ns - now_ns();
        left = to_timespec(left_ns > 0 ? left_ns : 0);
    }
    atomic_fetch_add(&shared->sleepers, 1);
    syscall(SYS_futex, &shared->bell, FUTEX_WAIT, heard, until_ns > 0 ? &left : NULL,
            NULL, 0);
    atomic_fetch_sub(&shared->sleepers, 1);
}

void pfs_change_follow(struct pfs_shared *shared,
                       void (*handle)(const struct pfs_change *change, void *arg),
                       void *arg)
{
    struct pass first = {.next = shared->handled[my_client]};
    struct pass second = {.next = first.next, .min_age_ns = SETTLE_NS};

    for (;;) {
        uint32_t heard = atomic_load(&shared->bell);
        int64_t more_ns = pass_run(&first, shared, handle, arg);
        int64_t again_ns = pass_run(&second, shared, handle, arg);
        atomic_store(&shared->handled[my_client], second.next);
        if (more_ns == 0 || (again_ns > 0 && again_ns < more_ns))
            more_ns = again_ns;
        wait_for_bell(shared, heard, more_ns);
        sleep_until(now_ns() + BATCH_NS);
    }
}
