/* jobs.c - which jobs live here, and their leases on disk.
 *
 * Slurm tells us of a job's end by its epilog, which may never run. slurmstepd
 * processes title themselves "slurmstepd: [JOB.STEP]", so /proc says which jobs have a
 * step here:
 *  - a job that waits for us and had its "extern" step, and has it no more, is being
 *    ended: whoever waits is told (looked at every second while anybody waits);
 *  - a job without any step for ABSENT_MS has ended without an epilog: its lease goes
 *    (looked at once a minute while there are leases). A job between two steps keeps
 *    its binding at the manager and simply asks again. Of a job that is known from
 *    before a restart even that much is not known: RESTORED_ABSENT_MS.
 * An epilog that found no daemon, or one that did not answer in time, leaves a note,
 * RUN_DIR/ended/JOB. The kernel tells of it. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/node/vined.h"
#include "vine/client.h"
#include "vine/log.h"
#include "vine/spec.h"

#define WAIT_LOOK_MS 1000
#define LEASE_LOOK_MS 60000
#define ABSENT_MS 600000
#define RESTORED_ABSENT_MS 30000
#define MADE_UP_JOB (1ull << 63)

struct watched {
    uint64_t job;
    bool listed;   /* the core has it */
    bool restored; /* and no step of it was seen since this daemon started */
    bool has_step; /* a slurmstepd of it was seen in this look */
    bool extern_now, extern_before;
    uint64_t absent_since; /* 0: has a step */
};

struct jobs {
    struct vined *vined;
    char ended_dir[VINE_CONF_TEXT + 8];
    uv_timer_t timer;
    uv_fs_event_t notes;
    bool saving;
    unsigned count;
    struct watched list[VINE_JOBS_MAX];
};

static struct watched *find(struct jobs *jobs, uint64_t job)
{
    for (unsigned i = 0; i < jobs->count; i++)
        if (jobs->list[i].job == job)
            return &jobs->list[i];
    return NULL;
}

static void list_job(void *arg, const struct node_job_info *info)
{
    struct jobs *jobs = arg;
    struct watched *w = find(jobs, info->job);

    if ((info->job & MADE_UP_JOB) != 0)
        return;
    if (w == NULL && jobs->count < VINE_JOBS_MAX) {
        w = &jobs->list[jobs->count++];
        *w = (struct watched){.job = info->job};
    }
    if (w != NULL)
        w->listed = true;
}

static void read_titles(struct jobs *jobs)
{
    struct dirent *entry;
    DIR *proc = opendir("/proc");

    if (proc == NULL)
        return;
    while ((entry = readdir(proc)) != NULL) {
        bool external = false;
        uint64_t job =
            step_of_daemon((uint32_t)strtoul(entry->d_name, NULL, 10), &external);
        struct watched *w = job != 0 ? find(jobs, job) : NULL;
        if (w == NULL)
            continue;
        w->has_step = true;
        w->extern_now |= external;
    }
    (void)closedir(proc);
}

bool jobs_has_step(uint64_t job)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    bool found = false, external;

    while (proc != NULL && !found && (entry = readdir(proc)) != NULL)
        found = isdigit((unsigned char)entry->d_name[0]) &&
                step_of_daemon((uint32_t)strtoul(entry->d_name, NULL, 10), &external) ==
                    job;
    if (proc != NULL)
        (void)closedir(proc);
    return found;
}

static void judge(struct jobs *jobs, struct watched *w, uint64_t now)
{
    struct vined *vined = jobs->vined;
    uint64_t job = w->job, absent_ms = w->restored ? RESTORED_ABSENT_MS : ABSENT_MS;

    if (w->has_step) {
        w->absent_since = 0;
        w->restored = false;
    } else if (w->absent_since == 0)
        w->absent_since = now;
    if (w->extern_before && !w->extern_now && local_job_waits(vined, job)) {
        vine_log(VINE_LOG_INFO, "event=job-ending job=%llu", (unsigned long long)job);
        local_cancel_job(vined, job);
        node_job_end(vined->core, job, now);
    } else if (w->absent_since != 0 && now - w->absent_since >= absent_ms) {
        vine_log(VINE_LOG_INFO, "event=lease-dropped job=%llu reason=\"no step left\"",
                 (unsigned long long)job);
        node_job_end(vined->core, job, now);
    }
    w->extern_before = w->extern_now;
}

static void take_notes(struct jobs *jobs, uint64_t now)
{
    DIR *notes = opendir(jobs->ended_dir);
    struct dirent *entry;

    if (notes == NULL)
        return;
    while ((entry = readdir(notes)) != NULL) {
        char *end;
        unsigned long long job = strtoull(entry->d_name, &end, 10);
        if (!isdigit((unsigned char)entry->d_name[0]) || *end != '\0' ||
            (job & MADE_UP_JOB) != 0)
            continue;
        vine_log(VINE_LOG_INFO, "event=job-ended job=%llu reason=\"epilog's note\"",
                 job);
        node_job_end(jobs->vined->core, job, now);
        (void)unlinkat(dirfd(notes), entry->d_name, 0);
    }
    (void)closedir(notes);
}

static void look(struct jobs *jobs)
{
    uint64_t now = vined_now(jobs->vined);
    bool waits = false;
    unsigned kept = 0;

    take_notes(jobs, now);

    for (unsigned i = 0; i < jobs->count; i++)
        jobs->list[i].listed = jobs->list[i].has_step = jobs->list[i].extern_now =
            false;
    node_each_job(jobs->vined->core, list_job, jobs);
    for (unsigned i = 0; i < jobs->count; i++)
        if (jobs->list[i].listed)
            jobs->list[kept++] = jobs->list[i];
    jobs->count = kept;
    if (kept == 0) {
        (void)uv_timer_stop(&jobs->timer);
        return;
    }
    read_titles(jobs);
    for (unsigned i = 0; i < jobs->count; i++) {
        waits = waits || local_job_waits(jobs->vined, jobs->list[i].job);
        judge(jobs, &jobs->list[i], now);
    }
    (void)uv_timer_set_repeat(&jobs->timer, waits ? WAIT_LOOK_MS : LEASE_LOOK_MS);
    (void)uv_timer_again(&jobs->timer);
    vined_update(jobs->vined);
}

static void on_note(uv_fs_event_t *notes, const char *name, int events, int status)
{
    struct jobs *jobs = notes->data;

    (void)name;
    (void)events;
    (void)status; /* the directory is looked at in any case */
    take_notes(jobs, vined_now(jobs->vined));
    vined_update(jobs->vined);
}

static void on_timer(uv_timer_t *timer)
{
    look(timer->data);
}

void jobs_watch(struct vined *vined)
{
    uv_timer_t *timer = &vined->jobs->timer;

    if (!uv_is_active((uv_handle_t *)timer) ||
        uv_timer_get_repeat(timer) != WAIT_LOOK_MS)
        (void)uv_timer_start(timer, on_timer, 0, WAIT_LOOK_MS);
}

static void save_job(void *arg, const struct node_job_info *info)
{
    char *path = vine_path_escape(info->path), job[24], hex[VINE_HEX_LEN + 1];

    if (path == NULL || !info->bound || (info->job & MADE_UP_JOB) != 0) {
        free(path);
        return;
    }
    (void)snprintf(job, sizeof(job), "%llu", (unsigned long long)info->job);
    vine_digest_hex(&info->digest, hex);
    (void)json_array_append_new(arg, json_pack("{s:s, s:I, s:I, s:s, s:s}", "job", job,
                                               "uid", (json_int_t)info->uid, "gid",
                                               (json_int_t)info->gid, "path", path,
                                               "digest", hex));
    free(path);
}

static void save_now(struct vined *vined, void *arg)
{
    json_t *list = json_array();
    struct vine_err err = {0};
    char *text;

    vined->jobs->saving = false;
    jobdirs_check(vined);
    files_check(vined);
    node_each_job(vined->core, save_job, list);
    text = json_dumps(list, JSON_INDENT(1));
    json_decref(list);
    if (text == NULL || store_save_leases(vined->store, text, &err) < 0)
        vine_log(VINE_LOG_ERR, "event=leases-not-saved reason=%s", vine_q(err.text));
    free(text);
    if (!uv_is_active((uv_handle_t *)&vined->jobs->timer))
        jobs_watch(vined);
}

void jobs_save(struct vined *vined)
{
    if (vined->jobs->saving)
        return;
    vined->jobs->saving = true;
    vined_defer(vined, save_now, NULL);
}

static void restore_one(struct vined *vined, const json_t *row)
{
    const char *job = json_string_value(json_object_get(row, "job"));
    const char *path = json_string_value(json_object_get(row, "path"));
    const char *hex = json_string_value(json_object_get(row, "digest"));
    bool data;
    char *raw = path != NULL ? strdup(path) : NULL;
    struct msg_binding binding = {
        .job = job != NULL ? strtoull(job, NULL, 10) : 0,
        .uid = (uint32_t)json_integer_value(json_object_get(row, "uid")),
        .path = raw};
    uint32_t gid = (uint32_t)json_integer_value(json_object_get(row, "gid"));
    struct vine_err err = {0};

    if (binding.job != 0 && raw != NULL && vine_path_unescape(raw) == 0 &&
        vine_source_id_path(raw, &data) != NULL && strlen(raw) < VINE_PATH_MAX &&
        hex != NULL && vine_digest_parse(hex, &binding.digest) == 0 &&
        node_restore_binding(vined->core, &binding, gid, &err) < 0)
        vine_log(VINE_LOG_WARNING, "event=lease-lost job=%s reason=%s", job,
                 vine_q(err.text));
    free(raw);
}

static void restore(struct vined *vined)
{
    struct vine_err err = {0};
    char *text = NULL;
    json_t *list;
    size_t i;
    json_t *row;

    if (store_load_leases(vined->store, &text, &err) < 0)
        vine_log(VINE_LOG_WARNING, "event=leases-not-read reason=%s", vine_q(err.text));
    list = text != NULL ? json_loads(text, 0, NULL) : NULL;
    free(text);
    json_array_foreach(list, i, row) restore_one(vined, row);
    json_decref(list);
}

int jobs_start(struct vined *vined, struct vine_err *err)
{
    int status;

    vined->jobs = calloc(1, sizeof(*vined->jobs));
    if (vined->jobs == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    vined->jobs->vined = vined;
    (void)uv_timer_init(&vined->loop, &vined->jobs->timer);
    vined->jobs->timer.data = vined->jobs;
    (void)snprintf(vined->jobs->ended_dir, sizeof(vined->jobs->ended_dir), "%s/ended",
                   vined->conf.run_dir);
    if (mkdir(vined->jobs->ended_dir, 0700) < 0 && errno != EEXIST)
        return vine_err_sys(err, "cannot make '%s'", vined->jobs->ended_dir);
    vined->jobs->notes.data = vined->jobs;
    (void)uv_fs_event_init(&vined->loop, &vined->jobs->notes);
    status = uv_fs_event_start(&vined->jobs->notes, on_note, vined->jobs->ended_dir, 0);
    if (status < 0)
        return vine_err_uv(err, status, "cannot watch the directory of ended jobs");
    restore(vined);
    jobdirs_check(vined);
    node_each_job(vined->core, list_job, vined->jobs);
    for (unsigned i = 0; i < vined->jobs->count; i++)
        vined->jobs->list[i].restored = true;
    jobs_watch(vined);
    return 0;
}

void jobs_stop(struct vined *vined)
{
    if (vined->jobs->saving)
        save_now(vined, NULL);
    uv_close((uv_handle_t *)&vined->jobs->timer, NULL);
    uv_close((uv_handle_t *)&vined->jobs->notes, NULL);
}
