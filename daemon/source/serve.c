/* serve.c - read a source as the user it belongs to. PROTOCOL.md says what is spoken.
 *
 * The main thread only reads commands, so that "quit", the daemon's death and a scancel
 * end this process at once whatever the file system does. One worker does what is
 * asked, in order; an error ends the process. */
#include "daemon/source/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "daemon/image/bytes.h"
#include "daemon/source/become.h"
#include "daemon/source/control.h"
#include "daemon/source/export.h"
#include "vine/clock.h"
#include "vine/escape.h"

#define CONTROL_FD 3
#define BULK_FD 4
#define QUEUE_MAX 64u
#define PROGRESS_MS 500
#define PIPE_BYTES (1 << 20)
#define REMOTE_TIMEOUT_S 30

struct arguments {
    uint64_t uid, gid, threads, max_bytes;
    uint64_t timeout, view;
    const char *path, *caching, *kind, *ca_file;
    bool key_first;
    struct image_shape shape;
};

struct session {
    const struct serve_reader *reader;
    struct serve_options options;
    bool exporting; /* --kind export: no source */
    void *source;   /* the reader's */
    struct control control;
    int bulk;
    int64_t told_ms; /* last progress line */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct command queue[QUEUE_MAX];
    unsigned first, count;
};

static int tell_progress(void *ctx, uint64_t bytes, uint64_t files)
{
    struct session *s = ctx;
    int64_t now = vine_now_ms();

    if (now - s->told_ms < PROGRESS_MS)
        return 0;
    s->told_ms = now;
    control_send(&s->control, json_pack("{s:s, s:I, s:I}", "event", "progress", "bytes",
                                        (json_int_t)bytes, "files", (json_int_t)files));
    return 0;
}

static void send_done(struct session *s, uint64_t bytes)
{
    control_send(&s->control,
                 json_pack("{s:s, s:I}", "event", "done", "bytes", (json_int_t)bytes));
}

static int do_resolve(struct session *s, struct vine_err *err)
{
    if (s->exporting) {
        control_send(&s->control, json_pack("{s:s}", "event", "ready"));
        return 0;
    }
    if (s->reader->open(&s->options, &s->source, err) < 0)
        return -1;
    control_send(&s->control, control_resolved(s->reader->facts(s->source)));
    return 0;
}

static int do_open(struct session *s, struct vine_err *err)
{
    if (s->reader->look(s->source, err) < 0)
        return -1;
    control_send(&s->control, control_resolved(s->reader->facts(s->source)));
    return 0;
}

static int do_build(struct session *s, const struct command *c,
                    const struct image_progress *progress, struct vine_err *err)
{
    const struct image_base base = {.listing_fd = c->fds[0],
                                    .base_fd = c->fds[1],
                                    .base_offset = c->offset,
                                    .base_length = c->length};
    struct image_totals totals = {0};
    auto_free char *prefix = NULL;

    if (s->bulk < 0)
        return vine_err_set(err, VINE_EPROTO, "built already");
    if (s->reader->build(s->source, s->bulk, &base, progress, &totals, err) < 0)
        return -1;
    close(s->bulk);
    s->bulk = -1;
    prefix = vine_path_escape(totals.prefix);
    control_send(
        &s->control,
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:s, s:s, s:s, s:I, s:I, s:I}", "event",
                  "done", "bytes", (json_int_t)totals.written, "entries",
                  (json_int_t)totals.entries, "files", (json_int_t)totals.files,
                  "source_bytes", (json_int_t)totals.bytes, "activate",
                  image_activate_name(totals.activate), "env",
                  image_env_name(totals.env), "prefix", prefix != NULL ? prefix : "",
                  "listing_bytes", (json_int_t)totals.listing_bytes, "same_files",
                  (json_int_t)totals.same_files, "same_bytes",
                  (json_int_t)totals.same_bytes));
    return 0;
}

static int do_command(struct session *s, const struct command *c, struct vine_err *err)
{
    const struct image_progress progress = {tell_progress, s};
    uint64_t written = 0;

    if (c->type == COMMAND_RESOLVE)
        return do_resolve(s, err);
    if (s->exporting != (c->type == COMMAND_EXPORT))
        return vine_err_set(err, VINE_EPROTO, "this command does not fit --kind");
    if (c->type != COMMAND_OPEN && !s->exporting && s->reader->facts(s->source)->unread)
        return vine_err_set(err, VINE_EPROTO, "'open' comes first");
    switch (c->type) {
    case COMMAND_OPEN:
        return do_open(s, err);
    case COMMAND_BUILD:
        return do_build(s, c, &progress, err);
    case COMMAND_MANIFEST:
        if (s->reader->manifest(s->source, s->bulk, err) < 0)
            return -1;
        written = s->reader->facts(s->source)->manifest_bytes;
        break;
    case COMMAND_COPY:
        if (s->reader->copy(s->source, s->bulk, c->offset, c->length, &progress, err) <
            0)
            return -1;
        written = c->length;
        break;
    default:
        if (export_file(c, &progress, &written, err) < 0)
            return -1;
    }
    send_done(s, written);
    return 0;
}

static void *work(void *arg)
{
    struct session *s = arg;
    struct vine_err err = {0};

    for (;;) {
        struct command command;
        int result;

        pthread_mutex_lock(&s->lock);
        while (s->count == 0)
            pthread_cond_wait(&s->changed, &s->lock);
        command = s->queue[s->first];
        s->first = (s->first + 1) % QUEUE_MAX;
        s->count--;
        pthread_mutex_unlock(&s->lock);
        result = do_command(s, &command, &err);
        command_free(&command);
        if (result < 0) {
            control_send_error(&s->control, &err);
            _exit(0); /* closes fd 4 after the error was said */
        }
    }
}

static int enqueue(struct session *s, const struct command *command,
                   struct vine_err *err)
{
    int result = 0;

    pthread_mutex_lock(&s->lock);
    if (s->count == QUEUE_MAX) {
        result = vine_err_set(err, VINE_ELIMIT, "more than %u commands", QUEUE_MAX);
    } else {
        s->queue[(s->first + s->count++) % QUEUE_MAX] = *command;
        pthread_cond_signal(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return result;
}

static void serve(struct session *s, struct vine_err *err)
{
    const struct command resolve = {.type = COMMAND_RESOLVE, .fds = {-1, -1}};
    struct command command;
    pthread_t worker;

    if (enqueue(s, &resolve, err) < 0)
        return;
    if (pthread_create(&worker, NULL, work, s) != 0) {
        vine_err_set(err, VINE_ESYS, "cannot start a thread");
        return;
    }
    while (control_read(&s->control, &command, err) == 1) {
        if (command.type == COMMAND_QUIT)
            break;
        if (enqueue(s, &command, err) < 0)
            break;
    }
    export_abandon();
}

static int parse_number(const char *text, uint64_t max, uint64_t *out)
{
    char *end;
    unsigned long long value;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || value > max)
        return -1;
    *out = value;
    return 0;
}

static int parse_caching(const char *word, enum tree_caching *caching)
{
    static const char *const words[] = {"auto", "coherent", "strict"};

    for (int i = 0; i < 3; i++)
        if (strcmp(word, words[i]) == 0) {
            *caching = (enum tree_caching)i;
            return 0;
        }
    return -1;
}

static int parse_arguments(int argc, char **argv, struct arguments *a)
{
    static const struct option options[] = {
        {"uid", required_argument, NULL, 'u'},
        {"gid", required_argument, NULL, 'g'},
        {"path", required_argument, NULL, 'p'},
        {"threads", required_argument, NULL, 't'},
        {"max-bytes", required_argument, NULL, 'm'},
        {"caching", required_argument, NULL, 'c'},
        {"kind", required_argument, NULL, 'k'},
        {"key-first", no_argument, NULL, 'f'},
        {"exclude", required_argument, NULL, 'x'},
        {"order", required_argument, NULL, 'o'},
        {"overlay", required_argument, NULL, 'v'},
        {"prefix", required_argument, NULL, 'r'},
        {"ca-file", required_argument, NULL, 'a'},
        {"timeout", required_argument, NULL, 's'},
        {"view", required_argument, NULL, 'w'},
        {NULL, 0, NULL, 0},
    };
    int c, bad = 0;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'u')
            bad |= parse_number(optarg, UINT32_MAX - 1, &a->uid);
        else if (c == 'g')
            bad |= parse_number(optarg, UINT32_MAX - 1, &a->gid);
        else if (c == 't')
            bad |= parse_number(optarg, 64, &a->threads) < 0 || a->threads == 0;
        else if (c == 'm')
            bad |= parse_number(optarg, INT64_MAX, &a->max_bytes);
        else if (c == 's')
            bad |= parse_number(optarg, 3600, &a->timeout) < 0 || a->timeout == 0;
        else if (c == 'w')
            bad |= parse_number(optarg, INT32_MAX, &a->view);
        else if (c == 'a')
            a->ca_file = optarg;
        else if (c == 'p')
            a->path = optarg;
        else if (c == 'c')
            a->caching = optarg;
        else if (c == 'k')
            a->kind = optarg;
        else if (c == 'f')
            a->key_first = true;
        else if (c == 'x' && a->shape.exclude_count < GLOBS_MAX)
            a->shape.exclude[a->shape.exclude_count++] = optarg;
        else if (c == 'o')
            a->shape.order = optarg;
        else if (c == 'v')
            a->shape.overlay = optarg;
        else if (c == 'r')
            a->shape.prefix = optarg;
        else
            bad = 1;
    }
    if (bad || optind != argc || a->uid == UINT64_MAX || a->gid == UINT64_MAX ||
        a->path == NULL)
        return -1;
    return strcmp(a->kind, "auto") == 0 || strcmp(a->kind, "data") == 0 ||
                   strcmp(a->kind, "export") == 0
               ? 0
               : -1;
}

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

static void prepare_process(void)
{
    struct rlimit files;

    (void)signal(SIGPIPE, SIG_IGN);
    (void)umask(0077);
    (void)fcntl(BULK_FD, F_SETPIPE_SZ,
                PIPE_BYTES); /* fewer switches; smaller is fine */
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max; /* deep trees keep directories open */
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
}

int serve_main(const struct serve_reader *reader, int argc, char **argv)
{
    static struct session session;
    struct arguments a = {.uid = UINT64_MAX,
                          .gid = UINT64_MAX,
                          .timeout = REMOTE_TIMEOUT_S,
                          .caching = "auto",
                          .kind = "auto",
                          .ca_file = ""};
    struct vine_err err = {0};
    pid_t parent = getppid();

    if (parse_arguments(argc, argv, &a) < 0 ||
        parse_caching(a.caching, &session.options.image.caching) < 0 ||
        !reader->reads(a.path) || !is_open(CONTROL_FD) ||
        (!is_open(BULK_FD) && strcmp(a.kind, "export") != 0)) {
        (void)fprintf(stderr, "%s is started by vined, see its protocol\n",
                      reader->program);
        return 2;
    }
    prepare_process();
    control_init(&session.control, CONTROL_FD);
    session.reader = reader;
    session.bulk = BULK_FD;
    session.options.image.path = a.path;
    session.options.image.threads = (unsigned)a.threads;
    session.options.image.max_bytes = a.max_bytes;
    session.options.image.key_first = a.key_first;
    session.options.image.shape = a.shape;
    session.options.image.view = a.view;
    session.options.image.data = strcmp(a.kind, "data") == 0;
    session.options.ca_file = a.ca_file;
    session.options.timeout_s = (unsigned)a.timeout;
    session.exporting = strcmp(a.kind, "export") == 0;
    pthread_mutex_init(&session.lock, NULL);
    pthread_cond_init(&session.changed, NULL);
    if (source_become((uid_t)a.uid, (gid_t)a.gid, parent, &err) == 0)
        serve(&session, &err);
    if (err.code != VINE_OK)
        control_send_error(&session.control, &err);
    _exit(0); /* the worker may be anywhere */
}
