/* lazy_child.c - a vine-lazy process and the talk with it (vine/lazy.h).
 *
 * It listens, we connect: so the daemon after us can, too. Nothing here waits: a packet
 * that does not fit into its socket is sent when there is room. What it says is the
 * word of a process that runs as nobody: numbers are checked, and the worst it can do
 * is to ask for the wrong pieces. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/node/lazy_int.h"
#include "vine/log.h"

#define LAZY_UID 0xeffffffeu /* nobody is this; beside those of squashfuse */
#define PACKETS_PER_EVENT 64

static int make_table(const struct manifest *m, struct vine_err *err)
{
    uint32_t pieces = manifest_pieces(m);
    size_t len = (size_t)(pieces - 1) * sizeof(uint64_t);
    uint64_t *ends = malloc(len + 1);
    int fd = memfd_create("vine-lazy", MFD_CLOEXEC);

    for (uint32_t p = 1; ends != NULL && p < pieces; p++) {
        uint32_t first, count;
        manifest_piece(m, p, &first, &count);
        ends[p - 1] =
            m->chunk[first + count - 1].offset + m->chunk[first + count - 1].length;
    }
    if (ends == NULL || fd < 0 || write(fd, ends, len) != (ssize_t)len) {
        vine_err_sys(err, "cannot make the table of pieces");
        if (fd >= 0)
            (void)close(fd);
        fd = -1;
    }
    free(ends);
    return fd;
}

static int address_of(const struct lazy *l, struct sockaddr_un *address,
                      struct vine_err *err)
{
    char path[VINE_PATH_MAX];

    lazy_path(l, "sock", path);
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address->sun_path))
        return vine_err_set(err, VINE_EINVAL,
                            "'%.200s' is too long for a socket: set a shorter run_dir",
                            path);
    memcpy(address->sun_path, path, strlen(path) + 1);
    return 0;
}

static int listen_at(const struct lazy *l, struct vine_err *err)
{
    struct sockaddr_un address;
    int fd;

    if (address_of(l, &address, err) < 0)
        return -1;
    (void)unlink(address.sun_path);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(fd, 4) < 0) {
        vine_err_sys(err, "cannot listen on '%s'", address.sun_path);
        if (fd >= 0)
            (void)close(fd);
        return -1;
    }
    return fd;
}

static void on_handle_closed(uv_handle_t *handle)
{
    free(handle);
}

static void on_exit_of_child(uv_process_t *process, int64_t status, int signal_number)
{
    struct lazy *l = process->data;

    if (l != NULL) {
        l->process = NULL;
        if (status != 0 || signal_number != 0)
            vine_log(VINE_LOG_WARNING, "event=vine-lazy-ended status=%lld signal=%d",
                     (long long)status, signal_number);
    }
    uv_close((uv_handle_t *)process, on_handle_closed);
}

static int spawn(struct lazy *l, int listen_fd, int table_fd, int fuse_fd, int image_fd,
                 struct vine_err *err)
{
    char uid[16], gid[16], timeout[24];
    char *args[] = {"vine-lazy", "--uid",        uid,     "--gid",
                    gid,         "--timeout-ms", timeout, NULL};
    char *env[] = {"PATH=/usr/bin:/bin", "LC_ALL=C", NULL};
    uv_stdio_container_t stdio[] = {
        {.flags = UV_IGNORE},
        {.flags = UV_IGNORE},
        {.flags = UV_IGNORE},
        [LAZY_FD_LISTEN] = {.flags = UV_INHERIT_FD, .data.fd = listen_fd},
        [LAZY_FD_IMAGE] = {.flags = UV_INHERIT_FD, .data.fd = image_fd},
        [LAZY_FD_TABLE] = {.flags = UV_INHERIT_FD, .data.fd = table_fd},
        [LAZY_FD_FUSE] = {.flags = UV_INHERIT_FD, .data.fd = fuse_fd},
    };
    uv_process_options_t options = {
        .file = VINE_LIBEXECDIR "/vine-lazy",
        .args = args,
        .env = env,
        .cwd = "/",
        .stdio = stdio,
        .stdio_count = sizeof(stdio) / sizeof(stdio[0]),
        .flags = UV_PROCESS_DETACHED,
        .exit_cb = on_exit_of_child,
    };
    int status;

    (void)snprintf(uid, sizeof(uid), "%u", LAZY_UID);
    (void)snprintf(gid, sizeof(gid), "%u", l->vined->helper_gid);
    (void)snprintf(timeout, sizeof(timeout), "%llu",
                   (unsigned long long)l->vined->conf.lazy_timeout_s * 1000);
    l->process = calloc(1, sizeof(*l->process));
    if (l->process == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    status = uv_spawn(&l->vined->loop, l->process, &options);
    l->process->data = l;
    if (status == 0) {
        uv_unref((uv_handle_t *)l->process);
        return 0;
    }
    l->process->data = NULL;
    uv_close((uv_handle_t *)l->process, on_handle_closed);
    l->process = NULL;
    return vine_err_uv(err, status, "cannot start " VINE_LIBEXECDIR "/vine-lazy");
}

int lazy_child_start(struct lazy *l, int fuse_fd, struct vine_err *err)
{
    char path[32];
    int table = make_table(&l->object->manifest, err);
    int listener = table < 0 ? -1 : listen_at(l, err);
    int image = -1, result = -1;

    /* A descriptor that cannot write: the one we have can. */
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", l->object->image_fd);
    if (listener >= 0) {
        image = open(path, O_RDONLY | O_CLOEXEC);
        result = image < 0 ? vine_err_sys(err, "cannot open the partial image")
                           : spawn(l, listener, table, fuse_fd, image, err);
    }
    if (image >= 0)
        (void)close(image);
    if (listener >= 0)
        (void)close(listener);
    if (table >= 0)
        (void)close(table);
    return result < 0 ? -1 : lazy_child_connect(l, err);
}

/* ---- the connection ----------------------------------------------------------------
 */

static void take_packet(struct lazy *l, const struct lazy_report *packet, size_t len)
{
    const struct lazy_msg *m = &packet->head;
    struct msg_range range = {m->first, m->count};

    if (len == sizeof(*packet) && m->type == LAZY_REPORT) {
        lazy_on_report(l, packet);
        return;
    }
    if (len != sizeof(*m) || m->first == 0 || m->first >= l->object->pieces ||
        m->count == 0 || m->count > l->object->pieces - m->first)
        return;
    if (m->type == LAZY_NEED)
        lazy_on_need(l, range);
    else if (m->type == LAZY_READ)
        lazy_on_read(l, range);
    else if (m->type == LAZY_EXPIRED)
        lazy_on_expired(l, range);
}

static void on_socket(uv_poll_t *poll, int status, int events)
{
    struct lazy *l = poll->data;
    struct lazy_report packet;

    if ((events & UV_WRITABLE) != 0)
        lazy_child_update(l);
    for (int i = 0; i < PACKETS_PER_EVENT && poll->data != NULL; i++) {
        ssize_t n = recv(l->socket, &packet, sizeof(packet), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            lazy_on_gone(l);
            return;
        }
        take_packet(l, &packet, (size_t)n); /* it may end */
    }
}

int lazy_child_connect(struct lazy *l, struct vine_err *err)
{
    struct sockaddr_un address;
    int fd;

    if (address_of(l, &address, err) < 0)
        return -1;
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        vine_err_sys(err, "cannot reach vine-lazy at '%s'", address.sun_path);
        if (fd >= 0)
            (void)close(fd);
        return -1;
    }
    l->poll = calloc(1, sizeof(*l->poll));
    if (l->poll == NULL || uv_poll_init(&l->vined->loop, l->poll, fd) < 0) {
        free(l->poll);
        l->poll = NULL;
        (void)close(fd);
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    l->poll->data = l;
    l->socket = fd;
    (void)uv_poll_start(l->poll, UV_READABLE, on_socket);
    lazy_child_update(l);
    return 0;
}

static bool send_packet(struct lazy *l, const struct lazy_msg *m)
{
    return l->socket >= 0 &&
           send(l->socket, m, sizeof(*m), MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof(*m);
}

void lazy_child_update(struct lazy *l)
{
    const struct store_object *o = l->object;
    uint32_t p = 1;
    bool full = false;

    while (p < o->pieces && !full && l->socket >= 0) {
        struct lazy_msg m = {.type = LAZY_HAVE};
        while (p < o->pieces && (!o->have[p] || l->told[p]))
            p++;
        for (m.first = p; p < o->pieces && o->have[p] && !l->told[p]; p++)
            m.count++;
        if (m.count == 0)
            break;
        full = !send_packet(l, &m);
        for (uint32_t i = 0; !full && i < m.count; i++)
            l->told[m.first + i] = true;
    }
    if (l->poll != NULL)
        (void)uv_poll_start(l->poll, UV_READABLE | (full ? UV_WRITABLE : 0), on_socket);
}

void lazy_child_finish(struct lazy *l)
{
    struct lazy_msg m = {.type = LAZY_END};

    (void)send_packet(l, &m);
}

/* ---- its end -----------------------------------------------------------------------
 */

void lazy_child_kill(struct lazy *l)
{
    if (l->process != NULL)
        (void)uv_process_kill(l->process, SIGKILL);
}

static void on_watchdog(uv_timer_t *timer)
{
    struct lazy *l = timer->data;

    vine_log(VINE_LOG_WARNING, "event=vine-lazy-hangs mend=\"it is killed\"");
    lazy_child_unwatch(l);
    lazy_child_kill(l);
    if (l->stage == LAZY_ENDING)
        lazy_on_gone(l);
}

void lazy_child_watch(struct lazy *l, unsigned ms)
{
    lazy_child_unwatch(l);
    l->watchdog = calloc(1, sizeof(*l->watchdog));
    if (l->watchdog == NULL)
        return;
    (void)uv_timer_init(&l->vined->loop, l->watchdog);
    l->watchdog->data = l;
    (void)uv_timer_start(l->watchdog, on_watchdog, ms, 0);
}

void lazy_child_unwatch(struct lazy *l)
{
    if (l->watchdog != NULL)
        uv_close((uv_handle_t *)l->watchdog, on_handle_closed);
    l->watchdog = NULL;
}

void lazy_child_close(struct lazy *l)
{
    lazy_child_unwatch(l);
    if (l->poll != NULL) {
        l->poll->data = NULL;
        uv_close((uv_handle_t *)l->poll, on_handle_closed);
        (void)close(l->socket);
    }
    l->poll = NULL;
    l->socket = -1;
    if (l->process != NULL)
        l->process->data = NULL;
    l->process = NULL;
}
