/* control.c - commands in, events out. Lines come from a root daemon, but are checked
 * as if they did not: this process has a user's rights and a bug must end here. */
#include "daemon/source/control.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/image/bytes.h"
#include "vine/escape.h"

static const struct {
    const char *word;
    enum command_type type;
} commands[] = {
    {"open", COMMAND_OPEN}, {"build", COMMAND_BUILD},   {"manifest", COMMAND_MANIFEST},
    {"copy", COMMAND_COPY}, {"export", COMMAND_EXPORT}, {"quit", COMMAND_QUIT},
};

void control_init(struct control *control, int fd)
{
    memset(control, 0, sizeof(*control));
    control->fd = fd;
    for (int i = 0; i < CONTROL_FDS_MAX; i++)
        control->fds[i] = -1;
    pthread_mutex_init(&control->lock, NULL);
}

void command_free(struct command *command)
{
    for (int i = 0; i < CONTROL_FDS_MAX; i++) {
        if (command->fds[i] >= 0)
            close(command->fds[i]);
        command->fds[i] = -1;
    }
    free(command->path);
    command->path = NULL;
}

/* Keep descriptors until the line they came with is complete; close what is too many.
 */
static void keep_fds(struct control *control, struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < count; i++) {
            int fd, at = 0;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            while (at < CONTROL_FDS_MAX && control->fds[at] >= 0)
                at++;
            if (at < CONTROL_FDS_MAX)
                control->fds[at] = fd;
            else
                close(fd);
        }
    }
}

/* 1: more bytes are there, 0: end of file, -1: error. */
static int receive(struct control *control, struct vine_err *err)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(CONTROL_FDS_MAX * sizeof(int))];
    } ancillary;
    struct iovec iov = {.iov_base = control->line + control->used,
                        .iov_len = sizeof(control->line) - control->used};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &ancillary,
                         .msg_controllen = sizeof(ancillary)};
    ssize_t n;

    if (iov.iov_len == 0)
        return vine_err_set(err, VINE_EPROTO, "a line has more than %u bytes",
                            CONTROL_LINE_MAX);
    do
        n = recvmsg(control->fd, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno != ECONNRESET)
        return vine_err_sys(err, "cannot read commands");
    keep_fds(control, &msg);
    if (n <= 0)
        return 0;
    control->used += (size_t)n;
    return 1;
}

static int get_count(const json_t *line, const char *name, uint64_t *out)
{
    const json_t *value = json_object_get(line, name);

    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return -1;
    *out = (uint64_t)json_integer_value(value);
    return 0;
}

static int parse_export(const json_t *line, struct command *command)
{
    const json_t *path = json_object_get(line, "path");
    uint64_t mode = 0600;

    if (!json_is_string(path) || get_count(line, "size", &command->size) < 0)
        return -1;
    if (json_object_get(line, "mode") != NULL &&
        (get_count(line, "mode", &mode) < 0 || mode > 0777))
        return -1;
    command->mode = (unsigned)mode;
    command->trailer = json_is_true(json_object_get(line, "trailer"));
    command->force = json_is_true(json_object_get(line, "force"));
    command->path = strdup(json_string_value(path));
    return command->path != NULL && vine_path_unescape(command->path) == 0 &&
                   command->path[0] == '/'
               ? 0
               : -1;
}

static int parse(const char *text, size_t len, struct command *command,
                 struct vine_err *err)
{
    json_auto_t *line = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
    const char *word = json_string_value(json_object_get(line, "cmd"));
    int result = -1;

    for (size_t i = 0; word != NULL && i < sizeof(commands) / sizeof(commands[0]); i++)
        if (strcmp(word, commands[i].word) == 0) {
            command->type = commands[i].type;
            result = 0;
        }
    if (result == 0 && command->type == COMMAND_COPY &&
        (get_count(line, "offset", &command->offset) < 0 ||
         get_count(line, "length", &command->length) < 0))
        result = -1;
    if (result == 0 && command->type == COMMAND_BUILD &&
        json_object_get(line, "base_length") != NULL &&
        (get_count(line, "base_offset", &command->offset) < 0 ||
         get_count(line, "base_length", &command->length) < 0))
        result = -1;
    if (result == 0 && command->type == COMMAND_EXPORT)
        result = parse_export(line, command);
    if (result < 0)
        return vine_err_set(err, VINE_EPROTO, "cannot understand a command");
    return 0;
}

int control_read(struct control *control, struct command *command, struct vine_err *err)
{
    char *end;
    size_t len;
    int result;

    while ((end = memchr(control->line, '\n', control->used)) == NULL) {
        result = receive(control, err);
        if (result <= 0)
            return result;
    }
    len = (size_t)(end - control->line);
    memset(command, 0, sizeof(*command));
    memcpy(command->fds, control->fds, sizeof(command->fds));
    for (int i = 0; i < CONTROL_FDS_MAX; i++)
        control->fds[i] = -1;
    result = parse(control->line, len, command, err);
    control->used -= len + 1;
    memmove(control->line, end + 1, control->used);
    if (result < 0)
        command_free(command);
    return result < 0 ? -1 : 1;
}

void control_send(struct control *control, json_t *event)
{
    char *text = event != NULL ? json_dumps(event, JSON_COMPACT) : NULL;
    size_t len = text != NULL ? strlen(text) : 0;

    json_decref(event);
    if (text == NULL)
        return;
    text[len] = '\n'; /* in place of the zero: the line is sent, not kept */
    pthread_mutex_lock(&control->lock);
    (void)write_whole(control->fd, text, len + 1);
    pthread_mutex_unlock(&control->lock);
    free(text);
}

void control_send_error(struct control *control, const struct vine_err *err)
{
    auto_free char *text = vine_path_escape(err->text);

    control_send(control, json_pack("{s:s, s:s, s:s}", "event", "error", "code",
                                    vine_code_name(err->code), "text",
                                    text != NULL ? text : "out of memory"));
}

json_t *control_resolved(const struct image_source_facts *f)
{
    auto_free char *canonical = vine_path_escape(f->canonical);
    char key[VINE_HEX_LEN + 1], signature[VINE_HEX_LEN + 1] = "";

    if (canonical == NULL)
        return NULL;
    vine_digest_hex(&f->key, key);
    if (f->unread)
        return json_pack("{s:s, s:s, s:I}", "event", "key", "key", key, "bytes",
                         (json_int_t)f->bytes);
    if (f->is_signed)
        vine_digest_hex(&f->signature, signature);
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:{s:I, s:I, s:I, s:I}, s:s, s:I, "
        "s:I, s:s, s:b}",
        "event", "resolved", "kind", image_source_kind_name(f->kind), "key", key,
        "canonical", canonical, "entries", (json_int_t)f->entries, "bytes",
        (json_int_t)f->bytes, "alloc", (json_int_t)f->alloc, "skipped",
        (json_int_t)f->skipped, "root", "mode", (json_int_t)f->root_mode, "uid",
        (json_int_t)f->root_uid, "gid", (json_int_t)f->root_gid, "mtime",
        (json_int_t)f->root_mtime, "activate", image_activate_name(f->activate),
        "manifest_bytes", (json_int_t)f->manifest_bytes, "object_size",
        (json_int_t)f->object_size, "signature", signature, "everybody", f->everybody);
}
