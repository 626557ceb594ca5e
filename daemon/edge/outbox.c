/* outbox.c - writing in order, without copies where it can be.
 *
 * A frame before its bulk is sent with MSG_MORE, so that both leave in full segments.
 * sendfile has no flag against SIGPIPE: the daemons ignore it. */
#include "daemon/edge/outbox.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

struct outbox_part {
    struct outbox_part *next;
    const char *bytes; /* NULL: of a file */
    void *taken;       /* to be freed */
    size_t at, len;
    struct outbox_file file;
    char copy[];
};

void outbox_init(struct outbox *box)
{
    *box = (struct outbox){.last = &box->first};
}

static void drop_first(struct outbox *box)
{
    struct outbox_part *part = box->first;

    box->queued -= part->len - part->at;
    box->first = part->next;
    if (box->first == NULL)
        box->last = &box->first;
    if (part->bytes == NULL)
        part->file.release(part->file.ctx);
    free(part->taken);
    free(part);
}

void outbox_clear(struct outbox *box)
{
    while (box->first != NULL)
        drop_first(box);
}

static struct outbox_part *append(struct outbox *box, size_t len, size_t copied)
{
    struct outbox_part *part = malloc(sizeof(*part) + copied);

    if (part == NULL)
        return NULL;
    *part = (struct outbox_part){.len = len};
    *box->last = part;
    box->last = &part->next;
    box->queued += len;
    return part;
}

int outbox_copy(struct outbox *box, const void *bytes, size_t len)
{
    struct outbox_part *part = append(box, len, len);

    if (part == NULL)
        return -1;
    memcpy(part->copy, bytes, len);
    part->bytes = part->copy;
    return 0;
}

int outbox_take(struct outbox *box, void *bytes, size_t len)
{
    struct outbox_part *part = append(box, len, 0);

    if (part == NULL)
        return -1;
    part->bytes = part->taken = bytes;
    return 0;
}

int outbox_file(struct outbox *box, const struct outbox_file *file)
{
    struct outbox_part *part = append(box, file->len, 0);

    if (part == NULL)
        return -1;
    part->file = *file;
    return 0;
}

/* Bytes written, 0 when the socket is full, -1 with *err. */
static ssize_t write_some(struct outbox_part *part, int fd, size_t most,
                          struct vine_err *err)
{
    size_t left = part->len - part->at, len = left < most ? left : most;
    off_t offset = (off_t)(part->file.offset + part->at);
    ssize_t n;

    do {
        if (part->bytes != NULL)
            n = send(fd, part->bytes + part->at, len,
                     MSG_NOSIGNAL | (part->next != NULL ? MSG_MORE : 0));
        else
            n = sendfile(fd, part->file.fd, &offset, len);
    } while (n < 0 && errno == EINTR);
    if (n > 0)
        return n;
    if (n == 0)
        return vine_err_set(err, VINE_ECORRUPT, "a file of the store is too short");
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return 0;
    if (errno == EPIPE || errno == ECONNRESET || errno == ETIMEDOUT)
        return vine_err_set(err, VINE_EDOWN, "cannot write to the peer: %s",
                            strerror(errno));
    return vine_err_sys(err, "cannot write to the peer");
}

int outbox_flush(struct outbox *box, int socket_fd, size_t *budget,
                 struct vine_err *err)
{
    while (box->first != NULL && *budget > 0) {
        ssize_t n = write_some(box->first, socket_fd, *budget, err);
        if (n <= 0)
            return (int)n;
        box->first->at += (size_t)n;
        box->queued -= (size_t)n;
        *budget -= (size_t)n;
        if (box->first->at == box->first->len)
            drop_first(box);
    }
    return 0;
}
