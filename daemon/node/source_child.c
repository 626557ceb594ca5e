/* source_child.c - a vine-source process: spawned as root, it becomes the user itself.
 *
 * Descriptor 3 is a socket pair for JSON lines, descriptor 4 the write end of a pipe
 * for bulk bytes (daemon/source/PROTOCOL.md). What comes back is the word of a process
 * that runs as the user: lines are bounded, bulk is read only as far as it was asked
 * for, and nothing of it is used as a path. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/node/source.h"
#include "vine/log.h"
#include "vine/spec.h"

#define LINE_MAX_BYTES (64u << 10)
#define SENT_FDS_MAX 2u

struct reading {
    char *buf;
    size_t left;
    void (*done)(struct source *s, void *arg);
    void (*drop)(void *arg); /* instead of done, when the child is given up; or NULL */
    void *arg;
    struct reading *next;
};

struct source_child {
    struct source *source; /* NULL: the source does not care any more */
    uv_process_t process;
    uv_pipe_t control, bulk;
    int bulk_fd; /* read end while libuv does not have it; -1 after */
    bool bulk_open, ended;
    int handles;
    char line[LINE_MAX_BYTES];
    size_t line_len;
    struct reading *first, **last;
};

struct line_write {
    uv_write_t req;
    char text[];
};

static void free_readings(struct source_child *c)
{
    while (c->first != NULL) {
        struct reading *r = c->first;
        c->first = r->next;
        if (r->drop != NULL)
            r->drop(r->arg);
        free(r);
    }
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct source_child *c = handle->data;

    if (--c->handles > 0)
        return;
    free_readings(c);
    free(c);
}

static void close_handle(uv_handle_t *handle)
{
    if (!uv_is_closing(handle))
        uv_close(handle, on_handle_closed);
}

static void on_child_exit(uv_process_t *process, int64_t status, int signal_number)
{
    struct source_child *c = process->data;
    struct source *s = c->source;
    struct vine_err err = {0};

    c->ended = true;
    close_handle((uv_handle_t *)process);
    if (s == NULL || (status == 0 && signal_number == 0))
        return; /* what it had to say came, or comes, by the socket */
    vine_err_set(&err, VINE_ESYS, "vine-source ended with %s %d",
                 signal_number != 0 ? "signal" : "status",
                 signal_number != 0 ? signal_number : (int)status);
    source_fail(s, &err);
}

static void take_line(struct source_child *c, const char *text, size_t len)
{
    json_error_t why;
    json_t *line = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    struct vine_err err = {0};

    if (json_is_object(line))
        source_line(c->source, line);
    else {
        vine_err_set(&err, VINE_EPROTO, "vine-source wrote no JSON object");
        source_fail(c->source, &err);
    }
    json_decref(line);
}

static void take_lines(struct source_child *c)
{
    char *start = c->line, *end;

    while (c->source != NULL &&
           (end = memchr(start, '\n', c->line_len - (size_t)(start - c->line))) !=
               NULL) {
        take_line(c, start, (size_t)(end - start));
        start = end + 1;
    }
    c->line_len -= (size_t)(start - c->line);
    memmove(c->line, start, c->line_len);
}

static void on_control(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct source_child *c = stream->data;
    struct vine_err err = {0};

    if (n == 0 || c->source == NULL)
        return;
    if (n > 0) {
        c->line_len += (size_t)n;
        take_lines(c);
        if (c->source == NULL || c->line_len < LINE_MAX_BYTES)
            return;
        vine_err_set(&err, VINE_EPROTO, "vine-source wrote a line over %u bytes",
                     LINE_MAX_BYTES);
    } else {
        vine_err_set(&err, VINE_ESYS, "vine-source ended early");
    }
    source_fail(c->source, &err);
}

static void alloc_line(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct source_child *c = handle->data;

    *buf = uv_buf_init(c->line + c->line_len, (unsigned)(LINE_MAX_BYTES - c->line_len));
}

static void alloc_bulk(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct source_child *c = handle->data;

    *buf = c->first == NULL ? uv_buf_init(NULL, 0)
                            : uv_buf_init(c->first->buf, (unsigned)c->first->left);
}

static void on_bulk(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct source_child *c = stream->data;
    struct reading *r = c->first;
    struct source *s = c->source;

    if (n < 0 || r == NULL)
        (void)uv_read_stop(stream); /* the socket says why it ended */
    if (n <= 0 || r == NULL)
        return;
    r->buf += n;
    r->left -= (size_t)n;
    if (r->left > 0)
        return;
    c->first = r->next;
    if (c->first == NULL) {
        c->last = &c->first;
        (void)uv_read_stop(stream);
    }
    if (s != NULL)
        r->done(s, r->arg);
    else if (r->drop != NULL)
        r->drop(r->arg);
    free(r);
}

int child_read(struct source *s, void *buf, size_t len,
               void (*done)(struct source *s, void *arg), void (*drop)(void *arg),
               void *arg, struct vine_err *err)
{
    struct source_child *c = s->child;
    struct reading *r;

    if (c == NULL || (!c->bulk_open && c->bulk_fd < 0))
        return vine_err_set(err, VINE_ESYS, "the source's child is gone");
    r = calloc(1, sizeof(*r));
    if (r == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    *r = (struct reading){
        .buf = buf, .left = len, .done = done, .drop = drop, .arg = arg};
    if (!c->bulk_open) {
        (void)uv_pipe_init(&s->vined->loop, &c->bulk, 0);
        c->bulk.data = c;
        c->handles++;
        c->bulk_open = true;
        (void)uv_pipe_open(&c->bulk, c->bulk_fd);
        c->bulk_fd = -1;
    }
    if (c->first == NULL)
        (void)uv_read_start((uv_stream_t *)&c->bulk, alloc_bulk, on_bulk);
    *c->last = r;
    c->last = &r->next;
    return 0;
}

int child_take_bulk_fd(struct source *s)
{
    int fd = s->child->bulk_fd;

    s->child->bulk_fd = -1;
    return fd;
}

static void on_line_written(uv_write_t *req, int status)
{
    free(req); /* the first member of its struct; a failure shows as end of file */
}

int child_send(struct source *s, json_t *command, struct vine_err *err)
{
    char *text = json_dumps(command, JSON_COMPACT);
    struct line_write *w = NULL;
    uv_buf_t buf;
    size_t len;

    json_decref(command);
    if (text != NULL) {
        len = strlen(text);
        w = malloc(sizeof(*w) + len + 1);
    }
    if (w == NULL) {
        free(text);
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    memcpy(w->text, text, len);
    w->text[len] = '\n';
    free(text);
    buf = uv_buf_init(w->text, (unsigned)len + 1);
    if (uv_write(&w->req, (uv_stream_t *)&s->child->control, &buf, 1, on_line_written) <
        0) {
        free(w);
        return vine_err_set(err, VINE_ESYS, "the source's child is gone");
    }
    return 0;
}

int pipe_send_fds(uv_pipe_t *control, json_t *command, const int *fds, unsigned count,
                  struct vine_err *err)
{
    char *text = command != NULL ? json_dumps(command, JSON_COMPACT) : NULL;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(SENT_FDS_MAX * sizeof(int))];
    } rights = {0};
    struct iovec iov = {.iov_base = text};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &rights};
    struct cmsghdr *header;
    int result = 0;
    uv_os_fd_t fd;

    json_decref(command);
    if (text == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    iov.iov_len = strlen(text) + 1;
    text[iov.iov_len - 1] = '\n'; /* the terminating zero is not sent */
    msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
    header = CMSG_FIRSTHDR(&msg);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, count * sizeof(int));
    /* One small message on a fresh socket: there is room for it. */
    if (uv_stream_get_write_queue_size((uv_stream_t *)control) > 0 ||
        uv_fileno((uv_handle_t *)control, &fd) < 0 ||
        sendmsg(fd, &msg, MSG_NOSIGNAL) != (ssize_t)iov.iov_len)
        result = vine_err_sys(err, "cannot reach vine-source");
    free(text);
    return result;
}

int child_send_fds(struct source *s, json_t *command, const int *fds, unsigned count,
                   struct vine_err *err)
{
    return pipe_send_fds(&s->child->control, command, fds, count, err);
}

void child_end(struct source *s)
{
    struct source_child *c = s->child;

    if (c == NULL)
        return;
    s->child = NULL;
    c->source = NULL;
    if (!c->ended)
        (void)uv_process_kill(&c->process, SIGKILL);
    /* It may hang in the kernel on a dead file system; a stop does not wait for that.
     */
    if (!c->ended && s->vined->stopping)
        uv_unref((uv_handle_t *)&c->process);
    if (c->bulk_fd >= 0)
        (void)close(c->bulk_fd);
    c->bulk_fd = -1;
    close_handle((uv_handle_t *)&c->control);
    if (c->bulk_open)
        close_handle((uv_handle_t *)&c->bulk);
}

int child_spawn(struct vined *vined, uv_process_t *process, char **args, int control_fd,
                int bulk_fd, uv_exit_cb on_exit_cb, struct vine_err *err)
{
    char file[sizeof(VINE_LIBEXECDIR) + 32];
    char *env[] = {"PATH=/usr/bin:/bin", "LC_ALL=C", NULL};
    uv_stdio_container_t stdio[5] = {
        {.flags = UV_IGNORE},
        {.flags = UV_IGNORE},
        {.flags = UV_INHERIT_FD, .data.fd = 2},
        {.flags = UV_INHERIT_FD, .data.fd = control_fd},
        {.flags = UV_INHERIT_FD, .data.fd = bulk_fd},
    };
    uv_process_options_t options = {
        .file = file,
        .args = args,
        .env = env,
        .cwd = "/",
        .stdio = stdio,
        .stdio_count = bulk_fd >= 0 ? 5 : 4,
        .exit_cb = on_exit_cb,
    };
    int status;

    (void)snprintf(file, sizeof(file), VINE_LIBEXECDIR "/%s", args[0]);
    status = uv_spawn(&vined->loop, process, &options);
    if (status < 0)
        return vine_err_uv(err, status, "cannot start the program that reads sources");
    return 0;
}

static int spawn(struct source *s, struct source_child *c, int control_fd, int bulk_fd,
                 struct vine_err *err)
{
    char *program =
        (char *)(vine_source_is_remote(s->path) ? "vine-remote" : "vine-source");
    char uid[16], gid[16], threads[24], timeout[24], view[16];
    char *args[21 + SOURCE_ARGS_MAX] = {program,
                                        "--uid",
                                        uid,
                                        "--gid",
                                        gid,
                                        "--path",
                                        s->path,
                                        "--threads",
                                        threads,
                                        "--caching",
                                        s->vined->conf.source_caching,
                                        "--kind",
                                        s->data ? "data" : "auto",
                                        "--timeout",
                                        timeout,
                                        "--ca-file",
                                        s->vined->conf.remote_ca_file};
    size_t count = 17;
    int result;

    for (size_t i = 0; s->more != NULL && s->more[i] != NULL && i < SOURCE_ARGS_MAX;
         i++)
        args[count++] = (char *)s->more[i];
    if (s->key_first)
        args[count++] = (char *)"--key-first"; /* `more` is of those that pack */
    if (s->view != 0) {
        (void)snprintf(view, sizeof(view), "%u", s->view);
        args[count++] = (char *)"--view";
        args[count++] = view;
    }
    (void)snprintf(uid, sizeof(uid), "%u", s->uid);
    (void)snprintf(gid, sizeof(gid), "%u", s->gid);
    (void)snprintf(threads, sizeof(threads), "%llu",
                   (unsigned long long)s->vined->conf.source_threads);
    (void)snprintf(timeout, sizeof(timeout), "%llu",
                   (unsigned long long)s->vined->conf.remote_timeout_s);
    result = child_spawn(s->vined, &c->process, args, control_fd, bulk_fd,
                         on_child_exit, err);
    c->process.data = c;
    c->handles++;
    if (result < 0) {
        c->ended = true;
        close_handle((uv_handle_t *)&c->process);
    }
    return result;
}

int child_start(struct source *s, struct vine_err *err)
{
    struct source_child *c = calloc(1, sizeof(*c));
    int control[2], bulk[2], result;

    if (c == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control) < 0) {
        free(c);
        return vine_err_sys(err, "cannot make a socket pair");
    }
    if (pipe2(bulk, O_CLOEXEC) < 0) {
        (void)close(control[0]);
        (void)close(control[1]);
        free(c);
        return vine_err_sys(err, "cannot make a pipe");
    }
    (void)fcntl(bulk[0], F_SETPIPE_SZ, 1 << 20); /* fewer switches; optional */
    c->source = s;
    c->bulk_fd = bulk[0];
    c->last = &c->first;
    (void)uv_pipe_init(&s->vined->loop, &c->control, 0);
    c->control.data = c;
    c->handles++;
    (void)uv_pipe_open(&c->control, control[0]);
    result = spawn(s, c, control[1], bulk[1], err);
    (void)close(control[1]);
    (void)close(bulk[1]);
    s->child = c;
    if (result < 0) {
        child_end(s);
        return -1;
    }
    (void)uv_read_start((uv_stream_t *)&c->control, alloc_line, on_control);
    return 0;
}
