/* vine-lazy: one image, still on its way, as a file.
 *
 *   vine-lazy --uid U --gid G --timeout-ms N
 *
 * Started by vined as root with the descriptors of vine/lazy.h; gives up everything it
 * can before it reads the first request: it keeps a uid that nobody else is, an empty
 * network, and these descriptors. The kernel's loop device reads from it; a read of
 * what is there is answered from the image's file, one of what is not waits until vined
 * says LAZY_HAVE.
 *
 * One thread, one poll: nothing here blocks but the disk. A read that waits while
 * nothing at all arrives for the whole timeout gets EIO: the task that reads must not
 * hang for ever. Until something arrives again, others like it fail at once: one file
 * is many reads. vined may go away and come back meanwhile; without a connection there
 * are no arrivals, so the same deadline holds. When this process dies the kernel ends
 * all reads with an error. */
#define FUSE_USE_VERSION 314

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/lazy/pieces.h"
#include "vine/clock.h"

#define READ_MAX (1u << 20)

struct waiting { /* a read of what is not there */
    fuse_req_t req;
    uint64_t offset;
    size_t len;
    uint32_t first, last;
    uint64_t since_ms, asked_ms;
    struct waiting *next;
};

static struct {
    struct pieces pieces;
    uint64_t timeout_ms, progress_ms; /* when something arrived last */
    uint64_t told_ms;                 /* LAZY_READ */
    struct waiting *first;
    int connection; /* -1: none */
    bool starved;   /* a read expired, and nothing has arrived since */
    bool ended;
    uint64_t reads, bytes, waits, errors;
    char buffer[READ_MAX];
} lazy = {.connection = -1};

/* Never waits: what is lost is said again. */
static void tell(enum lazy_type type, uint32_t first, uint32_t last)
{
    struct lazy_msg m = {.type = type, .first = first, .count = last - first + 1};

    if (lazy.connection >= 0)
        (void)send(lazy.connection, &m, sizeof(m), MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void ask(struct waiting *w, uint64_t now)
{
    w->asked_ms = now;
    tell(LAZY_NEED, pieces_missing(&lazy.pieces, w->first, w->last), w->last);
}

/* ---- reads ------------------------------------------------------------------- */

static void answer(fuse_req_t req, uint64_t offset, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = pread(LAZY_FD_IMAGE, lazy.buffer + done, len - done,
                          (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    if (done < len) {
        lazy.errors++;
        (void)fuse_reply_err(req, EIO);
        return;
    }
    lazy.bytes += len;
    (void)fuse_reply_buf(req, lazy.buffer, len);
}

static void on_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                    struct fuse_file_info *fi)
{
    uint64_t offset = (uint64_t)off, now = vine_now_ms();
    size_t len = size < READ_MAX ? size : READ_MAX;
    struct waiting *w;
    uint32_t first, last;
    bool news = false;

    lazy.reads++;
    if (offset >= lazy.pieces.size || len == 0) {
        (void)fuse_reply_buf(req, NULL, 0);
        return;
    }
    if (len > lazy.pieces.size - offset)
        len = (size_t)(lazy.pieces.size - offset);
    pieces_span(&lazy.pieces, offset, len, &first, &last);
    for (uint32_t p = first; p <= last; p++) {
        news |= !lazy.pieces.touched[p];
        lazy.pieces.touched[p] = true;
    }
    if (pieces_missing(&lazy.pieces, first, last) == 0) {
        if (news || now >= lazy.told_ms + LAZY_READ_MS) {
            lazy.told_ms = now;
            tell(LAZY_READ, first, last);
        }
        answer(req, offset, len);
        return;
    }
    if (lazy.starved) {
        lazy.errors++;
        tell(LAZY_NEED, pieces_missing(&lazy.pieces, first, last), last);
        (void)fuse_reply_err(req, EIO);
        return;
    }
    w = calloc(1, sizeof(*w));
    if (w == NULL) {
        (void)fuse_reply_err(req, ENOMEM);
        return;
    }
    lazy.waits++;
    *w = (struct waiting){.req = req,
                          .offset = offset,
                          .len = len,
                          .first = first,
                          .last = last,
                          .since_ms = now,
                          .next = lazy.first};
    lazy.first = w;
    ask(w, now);
}

static void answer_ready(void)
{
    struct waiting **at = &lazy.first;

    while (*at != NULL) {
        struct waiting *w = *at;
        if (pieces_missing(&lazy.pieces, w->first, w->last) != 0) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        answer(w->req, w->offset, w->len);
        free(w);
    }
}

static void expire_and_repeat(void)
{
    struct waiting **at = &lazy.first;
    uint64_t now = vine_now_ms();

    while (*at != NULL) {
        struct waiting *w = *at;
        uint64_t since =
            w->since_ms > lazy.progress_ms ? w->since_ms : lazy.progress_ms;
        if (now - since < lazy.timeout_ms) {
            if (now - w->asked_ms >= LAZY_REPEAT_MS)
                ask(w, now);
            at = &w->next;
            continue;
        }
        *at = w->next;
        lazy.errors++;
        lazy.starved = true;
        tell(LAZY_EXPIRED, pieces_missing(&lazy.pieces, w->first, w->last), w->last);
        (void)fuse_reply_err(w->req, EIO);
        free(w);
    }
}

/* ---- the other calls of a file system that is one file --------------------------- */

static void on_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat st = {.st_ino = FUSE_ROOT_ID,
                      .st_mode = S_IFREG | 0400,
                      .st_nlink = 1,
                      .st_size = (off_t)lazy.pieces.size,
                      .st_blocks = (blkcnt_t)(lazy.pieces.size / 512)};

    (void)fuse_reply_attr(req, &st, 86400);
}

/* Direct: the file system above caches what it reads, once is enough. */
static void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    if ((fi->flags & O_ACCMODE) != O_RDONLY) {
        (void)fuse_reply_err(req, EROFS);
        return;
    }
    fi->direct_io = 1;
    fi->noflush = 1;
    (void)fuse_reply_open(req, fi);
}

static const struct fuse_lowlevel_ops operations = {
    .getattr = on_getattr,
    .open = on_open,
    .read = on_read,
};

/* ---- vined ------------------------------------------------------------------------
 */

static void report(void)
{
    struct lazy_report r = {.head = {.type = LAZY_REPORT},
                            .reads = lazy.reads,
                            .bytes = lazy.bytes,
                            .waits = lazy.waits,
                            .errors = lazy.errors};

    for (uint32_t p = 1; p <= lazy.pieces.count; p++)
        if (lazy.pieces.touched[p])
            r.touched[p / 64] |= 1ull << (p % 64);
    (void)send(lazy.connection, &r, sizeof(r), MSG_NOSIGNAL);
    lazy.ended = true;
}

static void on_message(void)
{
    struct lazy_msg m;
    ssize_t n = recv(lazy.connection, &m, sizeof(m), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) { /* vined went away; another may come */
        (void)close(lazy.connection);
        lazy.connection = -1;
        return;
    }
    if (n != sizeof(m))
        return;
    if (m.type == LAZY_HAVE) {
        lazy.progress_ms = vine_now_ms();
        lazy.starved = false;
        pieces_add(&lazy.pieces, m.first, m.count);
        answer_ready();
    } else if (m.type == LAZY_END) {
        report();
    }
}

static void on_connect(void)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    int fd = accept4(LAZY_FD_LISTEN, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || peer.uid != 0) {
        (void)close(fd);
        return;
    }
    if (lazy.connection >= 0)
        (void)close(lazy.connection);
    lazy.connection = fd;
    for (struct waiting *w = lazy.first; w != NULL; w = w->next)
        ask(w, vine_now_ms());
}

/* ---- start -------------------------------------------------------------------- */

/* An empty network namespace needs root; without it we go on: there is no code here
 * that would use one. */
static int give_up_rights(uid_t uid, gid_t gid)
{
    const struct rlimit none = {0, 0};

    (void)unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS);
    if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 ||
        setresuid(uid, uid, uid) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return -1;
    (void)setrlimit(RLIMIT_NPROC, &none);
    (void)setrlimit(RLIMIT_FSIZE, &none);
    (void)setrlimit(RLIMIT_CORE, &none);
    return 0;
}

/* Once the loop device has left, no read can come, but vined wants its report. */
static void loop(struct fuse_session *session)
{
    struct fuse_buf buf = {0};
    int fuse = LAZY_FD_FUSE;

    while (!lazy.ended && (fuse >= 0 || lazy.connection >= 0)) {
        struct pollfd fds[] = {
            {.fd = fuse, .events = POLLIN},
            {.fd = LAZY_FD_LISTEN, .events = POLLIN},
            {.fd = lazy.connection, .events = POLLIN}, /* -1: not looked at */
        };
        int n = poll(fds, 3, lazy.first != NULL ? 200 : -1);
        if (n < 0 && errno != EINTR)
            break;
        if (n > 0 && fds[2].revents != 0)
            on_message();
        if (n > 0 && fds[1].revents != 0)
            on_connect();
        if (n > 0 && fds[0].revents != 0) {
            int got = fuse_session_receive_buf(session, &buf);
            if (got > 0)
                fuse_session_process_buf(session, &buf);
            else if (got != -EINTR && got != -EAGAIN)
                fuse = -1;
            if (fuse_session_exited(session))
                fuse = -1;
        }
        expire_and_repeat();
    }
    free(buf.mem);
}

static int number_of(const char *text, uint64_t max, uint64_t *out)
{
    char *end;

    errno = 0;
    *out = strtoull(text, &end, 10);
    return *text < '0' || *text > '9' || errno != 0 || *end != '\0' || *out > max ? -1
                                                                                  : 0;
}

static int parse(int argc, char **argv, uint64_t *uid, uint64_t *gid)
{
    if (argc != 7 || strcmp(argv[1], "--uid") != 0 || strcmp(argv[3], "--gid") != 0 ||
        strcmp(argv[5], "--timeout-ms") != 0)
        return -1;
    return number_of(argv[2], UINT32_MAX - 1, uid) < 0 ||
                   number_of(argv[4], UINT32_MAX - 1, gid) < 0 ||
                   number_of(argv[6], INT32_MAX, &lazy.timeout_ms) < 0 || *uid == 0
               ? -1
               : 0;
}

int main(int argc, char **argv)
{
    char *fuse_argv[] = {(char *)"vine-lazy", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(1, fuse_argv);
    struct fuse_session *session;
    char mount_name[32];
    uint64_t uid, gid;

    if (parse(argc, argv, &uid, &gid) < 0) {
        (void)fprintf(stderr, "vine-lazy is started by vined\n");
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    (void)setpriority(PRIO_PROCESS, 0, 0); /* tasks wait for us, not for vined */
    session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
    (void)snprintf(mount_name, sizeof(mount_name), "/dev/fd/%d", LAZY_FD_FUSE);
    if (pieces_load(&lazy.pieces, LAZY_FD_TABLE) < 0 || session == NULL ||
        fuse_session_mount(session, mount_name) < 0 ||
        fcntl(LAZY_FD_FUSE, F_SETFL, O_NONBLOCK) < 0 ||
        give_up_rights((uid_t)uid, (gid_t)gid) < 0)
        return 1;
    lazy.progress_ms = vine_now_ms();
    loop(session);
    /* The mount is the kernel's: it goes with its last user. */
    return 0;
}
