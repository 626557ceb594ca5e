/* watch.c - see watch.h.
 *
 * The child installs the filter, sends us the listener and runs the command; from then
 * on it and all its descendants wait at each opening for our answer, which is always
 * "go on". So the loop must not stop while any of them is left: when the command has
 * ended and others have not, a process of ours stays behind for them. */
#include "daemon/cli/watch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#include "daemon/image/bytes.h"
#include "vine/limits.h"

#if defined(__x86_64__)
#define OUR_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OUR_ARCH AUDIT_ARCH_AARCH64
#elif defined(__powerpc64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define OUR_ARCH AUDIT_ARCH_PPC64LE
#else
#define OUR_ARCH 0 /* not known: refused */
#endif

#define PAGE 4096u
#define SCRIPT_LINE 256 /* as much of it as the kernel reads */

static const int calls[] = {
#ifdef SYS_open
    SYS_open,
#endif
    SYS_openat, SYS_openat2, SYS_execve, SYS_execveat,
};
#define CALL_COUNT (sizeof(calls) / sizeof(calls[0]))

static volatile pid_t command; /* gets the signals that we get */
static const int signals[] = {SIGINT, SIGQUIT, SIGTERM, SIGHUP};
#define SIGNAL_COUNT (sizeof(signals) / sizeof(signals[0]))
static struct sigaction before[SIGNAL_COUNT]; /* nohup's, say */

struct listener {
    struct watch *watch; /* NULL: only answer */
    int fd;
    struct seccomp_notif *request;
    struct seccomp_notif_resp *response;
    size_t request_size, response_size;
};

/* ---- the child ------------------------------------------------------------- */

/* "Tell for these calls, let the others pass." Returns the listener; -1 with errno. A
 * signal does not make a call begin anew while we look at it, if the kernel can do so.
 */
static int install_filter(void)
{
    struct sock_filter code[4 + CALL_COUNT + 2];
    struct sock_fprog program = {.filter = code};
    unsigned n = 0;

    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                             offsetof(struct seccomp_data, arch));
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OUR_ARCH, 0,
                                             CALL_COUNT + 1);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                             offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < CALL_COUNT; i++)
        code[n++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i],
                                         (uint8_t)(CALL_COUNT - i), 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
    program.len = (unsigned short)n;
    errno = ENOSYS;
    if (OUR_ARCH == 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -1;
#ifdef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV /* Linux 5.19 */
    int fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                          SECCOMP_FILTER_FLAG_NEW_LISTENER |
                              SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
                          &program);
    if (fd >= 0 || errno != EINVAL)
        return fd;
#endif
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                        SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

struct word { /* of the child: which step failed, and why */
    int step, number;
};
enum { STEP_FILTER, STEP_READY, STEP_EXEC };

/* One word, and the listener with it if it is not -1. */
static void say(int socket, int step, int number, int fd)
{
    struct word word = {step, number};
    struct iovec iov = {&word, sizeof(word)};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } rights = {0};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fd >= 0) {
        struct cmsghdr *header;

        msg.msg_control = rights.bytes;
        msg.msg_controllen = sizeof(rights.bytes);
        header = CMSG_FIRSTHDR(&msg);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &fd, sizeof(fd));
    }
    (void)sendmsg(socket, &msg, MSG_NOSIGNAL);
}

static void restore_signals(void)
{
    for (size_t i = 0; i < SIGNAL_COUNT; i++)
        (void)sigaction(signals[i], &before[i], NULL);
}

static void run_child(int socket, const struct watch *watch, char *const argv[])
{
    int fd;

    restore_signals();
    (void)signal(SIGPIPE, SIG_DFL);
    if (watch->stdout_to_stderr)
        (void)dup2(STDERR_FILENO, STDOUT_FILENO);
    fd = install_filter();
    if (fd < 0) {
        say(socket, STEP_FILTER, errno, -1);
        _exit(126);
    }
    say(socket, STEP_READY, 0, fd);
    (void)execvp(argv[0], argv);
    say(socket, STEP_EXEC, errno, -1);
    _exit(127);
}

/* ---- what is opened -------------------------------------------------------- */

/* A string of another process, read up to the end of each page. */
static int read_string(pid_t pid, uint64_t address, char *out, size_t cap)
{
    size_t used = 0;

    while (used < cap) {
        size_t step = PAGE - (size_t)((address + used) % PAGE);
        struct iovec here = {out + used, step < cap - used ? step : cap - used};
        struct iovec there = {(void *)(uintptr_t)(address + used), here.iov_len};
        ssize_t n = process_vm_readv(pid, &here, 1, &there, 1, 0);

        if (n <= 0)
            return -1;
        if (memchr(out + used, '\0', (size_t)n) != NULL)
            return 0;
        used += (size_t)n;
    }
    return -1;
}

/* Absolute, by the directory it is relative to. */
static int make_absolute(pid_t pid, int dir_fd, const char *path,
                         char out[2 * VINE_PATH_MAX])
{
    char link[64];
    ssize_t n = 0;

    if (path[0] == '/')
        return snprintf(out, 2 * VINE_PATH_MAX, "%s", path);
    if (dir_fd == AT_FDCWD)
        (void)snprintf(link, sizeof(link), "/proc/%d/cwd", (int)pid);
    else
        (void)snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)pid, dir_fd);
    n = readlink(link, out, VINE_PATH_MAX - 1);
    if (n <= 0)
        return -1;
    return snprintf(out + n, VINE_PATH_MAX, "%s%s", path[0] != '\0' ? "/" : "", path);
}

/* "#!interpreter": the kernel opens that one too, without a call of its own. */
static void tell_interpreter(const struct watch *watch, const char *path)
{
    auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    char line[SCRIPT_LINE + 1];
    ssize_t n = fd >= 0 ? pread_whole(fd, line, SCRIPT_LINE, 0) : -1;
    char *name;

    if (n < 3 || line[0] != '#' || line[1] != '!')
        return;
    line[n] = '\0';
    name = line + 2 + strspn(line + 2, " \t");
    name[strcspn(name, " \t\n")] = '\0';
    if (name[0] == '/')
        watch->opened(watch->ctx, name);
}

static bool is_current(const struct listener *l)
{
    return ioctl(l->fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &l->request->id) == 0;
}

static void look(struct listener *l)
{
    const struct seccomp_data *d = &l->request->data;
    pid_t pid = (pid_t)l->request->pid;
    bool runs = d->nr == SYS_execve || d->nr == SYS_execveat;
    bool at = d->nr == SYS_openat || d->nr == SYS_openat2 || d->nr == SYS_execveat;
    char path[VINE_PATH_MAX], absolute[2 * VINE_PATH_MAX];

    /* Its process waits for us: the path is read before it is asked whether it still
     * does, so it cannot be another process's. */
    if (read_string(pid, d->args[at ? 1 : 0], path, sizeof(path)) < 0 ||
        make_absolute(pid, at ? (int)d->args[0] : AT_FDCWD, path, absolute) < 0) {
        l->watch->unseen += is_current(l);
        return;
    }
    if (!is_current(l))
        return;
    l->watch->opened(l->watch->ctx, absolute);
    if (runs)
        tell_interpreter(l->watch, absolute);
}

/* ---- the loop -------------------------------------------------------------- */

static int listener_init(struct listener *l, struct vine_err *err)
{
    struct seccomp_notif_sizes sizes;

    if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) < 0)
        return vine_err_sys(err, "cannot hear of opened files");
    /* The kernel's may be larger than those we were built with. */
    l->request_size = sizes.seccomp_notif > sizeof(*l->request) ? sizes.seccomp_notif
                                                                : sizeof(*l->request);
    l->response_size = sizes.seccomp_notif_resp > sizeof(*l->response)
                           ? sizes.seccomp_notif_resp
                           : sizeof(*l->response);
    l->request = calloc(1, l->request_size);
    l->response = calloc(1, l->response_size);
    return l->request != NULL && l->response != NULL
               ? 0
               : vine_err_set(err, VINE_ENOMEM, "out of memory");
}

static void answer_one(struct listener *l)
{
    memset(l->request, 0, l->request_size);
    if (ioctl(l->fd, SECCOMP_IOCTL_NOTIF_RECV, l->request) < 0)
        return; /* it was killed meanwhile */
    if (l->watch != NULL)
        look(l);
    memset(l->response, 0, l->response_size);
    l->response->id = l->request->id;
    l->response->flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    (void)ioctl(l->fd, SECCOMP_IOCTL_NOTIF_SEND, l->response);
}

/* Until the process has ended, or with pid_fd -1 nobody is left. False: nobody is. */
static bool answer(struct listener *l, int pid_fd)
{
    for (;;) {
        struct pollfd polled[] = {{.fd = l->fd, .events = POLLIN},
                                  {.fd = pid_fd, .events = POLLIN}};

        if (poll(polled, 2, -1) < 0 && errno != EINTR)
            return false;
        if ((polled[0].revents & POLLIN) != 0)
            answer_one(l);
        else if ((polled[0].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0)
            return false;
        else if ((polled[1].revents & POLLIN) != 0)
            return true;
    }
}

/* Older kernels say that nobody is left only when the last one was waited for. */
static bool is_used(const struct listener *l)
{
    struct pollfd polled = {.fd = l->fd, .events = POLLIN};

    return poll(&polled, 1, 0) == 0 || (polled.revents & POLLHUP) == 0;
}

/* Who is left would get ENOSYS for each opening if nobody answered. */
static void answer_in_background(struct listener *l)
{
    int null;

    if (fork() != 0)
        return;
    (void)setsid();
    null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd <= STDERR_FILENO && null >= 0; fd++)
        (void)dup2(null, fd);
    l->watch = NULL;
    (void)answer(l, -1);
    _exit(0);
}

static void forward(int number)
{
    if (command > 0)
        (void)kill(command, number);
}

/* Ctrl-C is the command's matter: it gets it from the terminal, we wait for its end. */
static void set_signals(void)
{
    for (size_t i = 0; i < SIGNAL_COUNT; i++) {
        struct sigaction action = {.sa_handler = i < 2 ? SIG_IGN : forward};

        (void)sigaction(signals[i], &action, &before[i]);
        if (before[i].sa_handler == SIG_IGN)
            (void)sigaction(signals[i], &before[i], NULL);
    }
}

/* The listener; -1 with *err set. */
static int receive_listener(int socket, struct vine_err *err)
{
    struct word word = {STEP_FILTER, 0};
    struct iovec iov = {&word, sizeof(word)};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } rights;
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = rights.bytes,
                         .msg_controllen = sizeof(rights.bytes)};
    ssize_t n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);
    const struct cmsghdr *header = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
    int fd;

    if (header != NULL && header->cmsg_type == SCM_RIGHTS) {
        memcpy(&fd, CMSG_DATA(header), sizeof(fd));
        return fd;
    }
    if (word.number == EBUSY)
        return vine_err_set(err, VINE_ESYS,
                            "another program hears of this one's calls already, as a "
                            "container or 'vine-env trace' around it do: call it "
                            "outside of that");
    errno = word.number != 0 ? word.number : EPROTO;
    return vine_err_sys(err, "cannot hear of opened files, which takes Linux 5.5 or "
                             "newer and no container that forbids seccomp");
}

static void take_status(pid_t pid, struct watch *watch)
{
    int status = 0;

    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    watch->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int listen_to(struct watch *watch, pid_t pid, int socket, const char *name,
                     struct vine_err *err)
{
    struct listener l = {.watch = watch};
    auto_fd int pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct word word = {STEP_READY, 0};
    bool left = false;
    int result = -1;

    l.fd = receive_listener(socket, err);
    if (l.fd >= 0 && pid_fd < 0)
        vine_err_sys(err, "cannot wait for '%.200s'", name);
    else if (l.fd >= 0 && listener_init(&l, err) == 0)
        result = 0;
    if (result == 0)
        left = answer(&l, pid_fd);
    else
        (void)kill(pid, SIGKILL);
    take_status(pid, watch);
    if (left && is_used(&l))
        answer_in_background(&l);
    if (l.fd >= 0)
        (void)close(l.fd);
    free(l.request);
    free(l.response);
    if (result == 0 &&
        recv(socket, &word, sizeof(word), MSG_DONTWAIT) == sizeof(word) &&
        word.step == STEP_EXEC) {
        errno = word.number;
        result = vine_err_sys(err, "cannot run '%.200s'", name);
    }
    return result;
}

int watch_run(struct watch *watch, char *const argv[], struct vine_err *err)
{
    int sockets[2], result;
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        return vine_err_sys(err, "cannot make a socket pair");
    set_signals();
    pid = fork();
    if (pid == 0)
        run_child(sockets[1], watch, argv);
    (void)close(sockets[1]);
    if (pid < 0) {
        result = vine_err_sys(err, "cannot start '%.200s'", argv[0]);
    } else {
        command = pid;
        result = listen_to(watch, pid, sockets[0], argv[0], err);
        command = 0;
    }
    (void)close(sockets[0]);
    restore_signals();
    return result;
}
