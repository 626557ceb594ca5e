/* transfers.c - the files of the transfer log.
 *
 * Names are made of two numbers, so nothing from the wire becomes a path, and whose a
 * job was stands in the name. A line is written at once or not at all. The files are
 * small and the page cache takes them; a directory on a disk that hangs would hang the
 * manager, so it belongs on a local one. */
#include "daemon/manager/transfers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vine/escape.h"
#include "vine/log.h"

#define JOBS_MAX 1000          /* files; a day or a month, as jobs come */
#define ALL_MAX (1024ll << 20) /* bytes of all of them, when a job begins */
#define JOB_MAX (32ll << 20)   /* 4,096 nodes, each with as many senders as it tells */
#define PAGE_BYTES (256u << 10)

struct transfers {
    int dir_fd;
    bool told; /* that a line could not be written */
};

static const char *const from_names[MSG_FROM_KINDS] = {
    [MSG_FROM_SOURCE] = "source", [MSG_FROM_BUILT] = "built",
    [MSG_FROM_PEER] = "peer",     [MSG_FROM_REUSED] = "reused",
    [MSG_FROM_HERE] = "here",     [MSG_FROM_OTHERS] = "others",
};

struct file_name {
    char text[64];
};

static struct file_name name_of(uint64_t job, uint32_t uid)
{
    struct file_name name;

    (void)snprintf(name.text, sizeof(name.text), "%" PRIu64 ".%" PRIu32 ".jsonl", job,
                   uid);
    return name;
}

static bool is_ours(const char *name, uint64_t *job, uint32_t *uid)
{
    char text[64];

    return sscanf(name, "%20" SCNu64 ".%10" SCNu32 ".jsonl", job, uid) == 2 &&
           snprintf(text, sizeof(text), "%s", name_of(*job, *uid).text) > 0 &&
           strcmp(text, name) == 0;
}

int transfers_open(const char *dir, struct transfers **out, struct vine_err *err)
{
    struct transfers *t;
    int fd;

    *out = NULL;
    if (dir[0] == '\0')
        return 0;
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return vine_err_sys(err, "cannot make the transfer log '%s'", dir);
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return vine_err_sys(err, "cannot open the transfer log '%s'", dir);
    t = calloc(1, sizeof(*t));
    if (t == NULL || fchmod(fd, 0700) < 0) {
        vine_err_sys(err, "cannot use the transfer log '%s'", dir);
        close(fd);
        free(t);
        return -1;
    }
    t->dir_fd = fd;
    *out = t;
    return 0;
}

void transfers_close(struct transfers *t)
{
    if (t != NULL)
        close(t->dir_fd);
    free(t);
}

/* ---- what there is ----------------------------------------------------------- */

struct survey {
    uint64_t job; /* whose file is looked for; and what was found */
    bool found;
    uint32_t uid;
    struct timespec found_at;
    unsigned count;
    long long bytes;
    struct file_name oldest;
    struct timespec oldest_at;
};

static bool is_before(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec != b->tv_sec ? a->tv_sec < b->tv_sec : a->tv_nsec < b->tv_nsec;
}

static void survey_file(struct transfers *t, struct survey *s, const char *name)
{
    struct stat st;
    uint64_t job;
    uint32_t uid;

    if (!is_ours(name, &job, &uid) ||
        fstatat(t->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return;
    if (job == s->job && (!s->found || is_before(&s->found_at, &st.st_mtim))) {
        s->found = true;
        s->uid = uid;
        s->found_at = st.st_mtim;
    }
    if (s->count == 0 || is_before(&st.st_mtim, &s->oldest_at)) {
        s->oldest = name_of(job, uid);
        s->oldest_at = st.st_mtim;
    }
    s->count++;
    s->bytes += st.st_size;
}

static void survey(struct transfers *t, struct survey *s)
{
    int fd = openat(t->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;

    if (dir == NULL) {
        if (fd >= 0)
            close(fd);
        return;
    }
    while ((entry = readdir(dir)) != NULL)
        survey_file(t, s, entry->d_name);
    closedir(dir);
}

static void drop_oldest(struct transfers *t)
{
    for (int i = 0; i < JOBS_MAX; i++) {
        struct survey s = {0};
        survey(t, &s);
        if (s.count < JOBS_MAX && s.bytes < ALL_MAX)
            return;
        if (unlinkat(t->dir_fd, s.oldest.text, 0) < 0)
            return;
    }
}

/* ---- writing ----------------------------------------------------------------- */

static json_t *row_value(const struct msg_story *row, int64_t now_ms)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:I}", "kind", from_names[row->from], "peer",
                     row->peer, "bytes", (json_int_t)row->bytes, "first_ms",
                     (json_int_t)(now_ms - row->first_ms), "last_ms",
                     (json_int_t)(now_ms - row->last_ms));
}

/* Times are the manager's, in milliseconds since 1970. */
static char *line_of(const char *node, const struct msg *m)
{
    char job[24], hex[VINE_HEX_LEN + 1], *path = vine_path_escape(m->path);
    json_t *rows = json_array(), *line;
    struct timespec ts;
    int64_t now_ms;
    char *text;

    (void)clock_gettime(CLOCK_REALTIME, &ts);
    now_ms = (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
    (void)snprintf(job, sizeof(job), "%" PRIu64, m->job);
    vine_digest_hex(&m->digest, hex);
    for (uint32_t i = 0; i < m->row_count; i++)
        (void)json_array_append_new(rows, row_value(&m->rows[i], now_ms));
    line = json_pack("{s:s, s:I, s:s, s:s, s:s, s:I, s:s, s:I, s:I, s:I, s:o}", "job",
                     job, "uid", (json_int_t)m->uid, "node", node, "path",
                     path != NULL ? path : "", "digest", hex, "size",
                     (json_int_t)m->size, "code", vine_code_name(m->code), "wanted_ms",
                     (json_int_t)(now_ms - m->wanted_ms), "begun_ms",
                     (json_int_t)(now_ms - m->begun_ms), "ended_ms",
                     (json_int_t)(now_ms - m->ended_ms), "from", rows);
    text = line == NULL ? NULL : json_dumps(line, JSON_COMPACT);
    json_decref(line);
    free(path);
    return text;
}

static int append(struct transfers *t, const char *name, const char *text,
                  struct vine_err *err)
{
    int fd = openat(t->dir_fd, name, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
    size_t len = strlen(text);
    struct stat st;
    int result = 0;

    if (fd < 0 && errno == ENOENT) {
        drop_oldest(t);
        fd = openat(t->dir_fd, name,
                    O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    }
    if (fd < 0 || fstat(fd, &st) < 0)
        result = vine_err_sys(err, "cannot open '%s'", name);
    else if (st.st_size + (long long)len > JOB_MAX)
        result = vine_err_set(err, VINE_ELIMIT, "'%s' is full", name);
    else if (write(fd, text, len) != (ssize_t)len) {
        result = vine_err_sys(err, "cannot write '%s'", name);
        (void)!ftruncate(fd, st.st_size);
    }
    if (fd >= 0)
        close(fd);
    return result;
}

void transfers_add(struct transfers *t, const char *node, const struct msg *story)
{
    struct vine_err err = {0};
    char *text, *line;

    if (t == NULL)
        return;
    text = line_of(node, story);
    if (text == NULL || asprintf(&line, "%s\n", text) < 0) {
        free(text);
        return;
    }
    if (append(t, name_of(story->job, story->uid).text, line, &err) == 0)
        t->told = false;
    else if (!t->told) {
        vine_log(VINE_LOG_WARNING, "event=transfer-log-failed reason=%s",
                 vine_q(err.text));
        t->told = true;
    }
    free(line);
    free(text);
}

/* ---- reading ----------------------------------------------------------------- */

/* Whole lines of `page`; how many bytes they are. A line that a crash cut is left out.
 */
static size_t take_lines(char *page, size_t len, json_t *stories)
{
    size_t used = 0;
    char *end;

    while (used < len && (end = memchr(page + used, '\n', len - used)) != NULL) {
        size_t line = (size_t)(end - (page + used));
        json_t *story = json_loadb(page + used, line, JSON_REJECT_DUPLICATES, NULL);
        if (story != NULL)
            (void)json_array_append_new(stories, story);
        used += line + 1;
    }
    return used;
}

static int read_page(struct transfers *t, const char *name, uint64_t offset, char **out,
                     struct vine_err *err)
{
    char *page = malloc(PAGE_BYTES);
    int fd = openat(t->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t got =
        fd < 0 || page == NULL ? -1 : pread(fd, page, PAGE_BYTES, (off_t)offset);
    json_t *stories = json_array(), *root;
    size_t used;

    if (got < 0)
        vine_err_sys(err, "cannot read '%s' of the transfer log", name);
    else {
        used = take_lines(page, (size_t)got, stories);
        root = json_pack("{s:O, s:I}", "stories", stories, "next",
                         got == PAGE_BYTES && used > 0 ? (json_int_t)(offset + used)
                                                       : (json_int_t)0);
        *out = root == NULL ? NULL : json_dumps(root, JSON_COMPACT);
        json_decref(root);
        if (*out == NULL)
            vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    json_decref(stories);
    if (fd >= 0)
        close(fd);
    free(page);
    return err->code == VINE_OK ? 0 : -1;
}

int transfers_read(struct transfers *t, const struct msg *asked, char **out,
                   struct vine_err *err)
{
    struct survey s = {.job = asked->job};

    if (t == NULL)
        return vine_err_set(err, VINE_ENOENT,
                            "the manager keeps no transfer log: set transfer_log in "
                            "[manager] of its vine-env.conf and restart it");
    survey(t, &s);
    if (!s.found)
        return vine_err_set(err, VINE_ENOENT,
                            "the transfer log has nothing of job %" PRIu64
                            ": it used no environment, none of its nodes had one "
                            "whole yet, or it is too long ago",
                            asked->job);
    if (asked->uid != 0 && asked->uid != s.uid)
        return vine_err_set(err, VINE_EACCES, "job %" PRIu64 " is another user's",
                            asked->job);
    return read_page(t, name_of(asked->job, s.uid).text, asked->offset, out, err);
}
