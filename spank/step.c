/* step.c - a step's life on this node (see step.h).
 *
 * Everything that can go wrong ends up in `results`, one error a source. With
 * fallback=origin a failed source means one warning line and the job goes on from the
 * source; with fallback=fail it is raised in task_init_privileged, the only place where
 * srun reports it and no node drains. A malformed option always fails: there is no
 * source to fall back to.
 *
 * One line: messages come from local task 0 alone, and if the cause is the same on all
 * nodes, from the step's first node alone. The variable WARNED_VARIABLE in the task's
 * environment silences the job's later steps, which inherit it from the batch script.
 */
#include "spank/step.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "spank/bind.h"
#include "spank/cancel.h"
#include "spank/environ.h"
#include "spank/options.h"
#include "spank/stage.h"
#include "spank/text.h"

#define WARNED_VARIABLE "VINE_ENV_WARNED"

#define TROUBLE_WAIT_MS 500

/* Slurm's step ids from the end of the range; only newer headers name them. */
#define STEP_EXTERN ((uint32_t)0xfffffffc)

static struct step {
    bool wanted, fallback_origin, canceled;
    bool unplaced; /* in a task: no DST could be mounted, so paths are the sources' own
                    */
    uint32_t job, node_id;
    uid_t uid;
    gid_t gid;
    char node_name[VINE_NAME_MAX + 1];
    char private_dir[512], job_dir[512];
    struct vine_spec *spec;       /* NULL: `refused` says why */
    struct stage_source *results; /* one a source */
    struct vine_err refused;
} step;

/* ---- user_init --------------------------------------------------------------- */

static int read_ids(spank_t sp)
{
    char name[256];
    uint32_t step_id = 0;

    if (spank_get_item(sp, S_JOB_STEPID, &step_id) != ESPANK_SUCCESS ||
        step_id == STEP_EXTERN ||
        spank_get_item(sp, S_JOB_ID, &step.job) != ESPANK_SUCCESS ||
        spank_get_item(sp, S_JOB_UID, &step.uid) != ESPANK_SUCCESS ||
        spank_get_item(sp, S_JOB_GID, &step.gid) != ESPANK_SUCCESS)
        return -1;
    if (spank_get_item(sp, S_JOB_NODEID, &step.node_id) != ESPANK_SUCCESS)
        step.node_id = 0;
    if (spank_getenv(sp, "SLURMD_NODENAME", name, sizeof(name)) != ESPANK_SUCCESS &&
        gethostname(name, sizeof(name)) < 0)
        (void)snprintf(name, sizeof(name), "this node");
    name[sizeof(name) - 1] = '\0';
    (void)snprintf(step.node_name, sizeof(step.node_name), "%.*s", VINE_NAME_MAX, name);
    return 0;
}

static int read_spec(spank_t sp)
{
    int result = options_spec(sp, true, &step.spec, &step.refused);

    step.wanted = result < 0 || step.spec != NULL;
    return step.spec != NULL ? 0 : -1;
}

static bool look_canceled(void *arg)
{
    return cancel_look(arg);
}

static void say(void *arg, const char *line)
{
    slurm_spank_log("%s", line);
}

void step_stage(spank_t sp, const struct settings *settings)
{
    struct stage_request request = {
        .socket_path = settings->socket_path,
        .timeout_s = settings->stage_timeout_s,
        .progress_s = settings->progress_s,
    };

    struct cancel_watch watch = {0};

    if (read_ids(sp) < 0 || read_spec(sp) < 0)
        return;
    (void)snprintf(step.private_dir, sizeof(step.private_dir), "%s",
                   settings->private_dir);
    (void)snprintf(step.job_dir, sizeof(step.job_dir), "%s", settings->job_dir);
    step.spec->lazy = options_start_lazy(sp, true, settings->start_lazy);
    step.fallback_origin = options_fallback_origin(sp, settings->fallback_origin);
    step.results = calloc(step.spec->count, sizeof(*step.results));
    if (step.results == NULL) {
        vine_err_set(&step.refused, VINE_ENOMEM, "out of memory");
        return;
    }
    request.job = step.job;
    request.uid = step.uid;
    request.gid = step.gid;
    request.spec = step.spec;
    watch.job = step.job;
    request.canceled = look_canceled;
    request.arg = &watch;
    if (step.node_id == 0 && !options_quiet(sp))
        request.say = say;
    stage_wait(&request, step.results);
    for (unsigned i = 0; i < step.spec->count; i++)
        step.canceled = step.canceled || step.results[i].err.code == VINE_ECANCELED;
}

/* ---- messages ---------------------------------------------------------------- */

static bool is_first_task(spank_t sp)
{
    int task = 0;

    return spank_get_item(sp, S_TASK_ID, &task) != ESPANK_SUCCESS || task == 0;
}

static bool was_warned(spank_t sp)
{
    char value[32];

    return spank_getenv(sp, WARNED_VARIABLE, value, sizeof(value)) == ESPANK_SUCCESS &&
           strtoul(value, NULL, 10) == step.job;
}

static void set_warned(spank_t sp)
{
    char value[32];

    (void)snprintf(value, sizeof(value), "%u", step.job);
    (void)spank_setenv(sp, WARNED_VARIABLE, value, 1);
}

/* A file or directory, which the job can use where it lies. */
static bool runs_in_place(const struct vine_source *source)
{
    return !vine_source_is_remote(source->path) &&
           (source->data || vine_source_kind_of(source->path) == VINE_SOURCE_DIR);
}

/* The first failed source and how many there are; NULL: none. */
static const struct stage_source *first_failure(unsigned *index, unsigned *count)
{
    const struct stage_source *first = NULL;

    *count = 0;
    for (unsigned i = 0; i < step.spec->count; i++) {
        if (step.results[i].err.code == VINE_OK)
            continue;
        if (first == NULL) {
            first = &step.results[i];
            *index = i;
        }
        (*count)++;
    }
    return first;
}

/* "n3: " for what concerns this node alone. */
static const char *where(const struct stage_source *failure,
                         char text[VINE_NAME_MAX + 4])
{
    text[0] = '\0';
    if (!failure->cluster)
        (void)snprintf(text, VINE_NAME_MAX + 4, "%s: ", step.node_name);
    return text;
}

static bool may_speak(spank_t sp, bool cluster)
{
    return is_first_task(sp) && (!cluster || step.node_id == 0);
}

static void warn(spank_t sp)
{
    char line[2 * TEXT_LINE_MAX], node[VINE_NAME_MAX + 8], more[32] = "";
    unsigned index = 0, count;
    const struct stage_source *failure = first_failure(&index, &count);
    const struct vine_source *source;

    if (failure == NULL)
        return;
    source = &step.spec->source[index];
    if (count > 1)
        (void)snprintf(more, sizeof(more), " (and %u more)", count - 1);
    if (!was_warned(sp) && may_speak(sp, failure->cluster)) {
        (void)snprintf(line, sizeof(line),
                       runs_in_place(source)
                           ? "vine-env: warning: %s%s: running from '%.900s'%s instead"
                           : "vine-env: warning: %s%s: running without '%.900s'%s",
                       where(failure, node), failure->err.text, source->path, more);
        text_clean(line);
        slurm_spank_log("%s", line);
    }
    set_warned(sp);
}

static int raise_refused(spank_t sp)
{
    if (may_speak(sp, true)) {
        text_clean(step.refused.text);
        slurm_error("vine-env: %s", step.refused.text);
    }
    return -1;
}

static int raise_failure(spank_t sp, const struct stage_source *failure,
                         const struct vine_source *source)
{
    char line[2 * TEXT_LINE_MAX], node[VINE_NAME_MAX + 8];

    if (may_speak(sp, failure->cluster)) {
        (void)snprintf(
            line, sizeof(line),
            "vine-env: %s%s%s; without --vine-fallback=fail the job would run "
            "%s '%.900s'",
            where(failure, node), failure->err.text, text_mend(failure->err.code),
            runs_in_place(source) ? "from" : "without", source->path);
        text_clean(line);
        slurm_error("%s", line);
    }
    return -1;
}

/* ---- task_init_privileged ---------------------------------------------------- */

/* Where source i appears in the job. Fallback: where the user asked for it. */
static const char *dst_of(unsigned i)
{
    const struct vine_source *source = &step.spec->source[i];

    if (step.results[i].err.code == VINE_OK)
        return step.results[i].dst;
    return source->dst[0] != '\0' && !step.unplaced ? source->dst : source->path;
}

/* The mounts that this step needs: images and files, and directories and data that fall
 * back but were asked for at another path. */
static unsigned list_binds(struct bind_source binds[VINE_SOURCES_MAX])
{
    unsigned count = 0;

    for (unsigned i = 0; i < step.spec->count; i++) {
        const struct vine_source *source = &step.spec->source[i];
        const char *path = source->path;
        bool origin = step.results[i].err.code != VINE_OK;

        if (origin && (strcmp(dst_of(i), path) == 0 || !runs_in_place(source)))
            continue;
        binds[count++] = (struct bind_source){
            .from = origin ? path : step.results[i].mount,
            .data = source->data,
            .dst = dst_of(i),
            .origin = origin,
            .own_path = strcmp(dst_of(i), path) == 0,
        };
    }
    return count;
}

/* Slurm owns the array. Without it, the primary group alone: less is safe. */
static struct identity_user job_user(spank_t sp)
{
    struct identity_user user = {.uid = step.uid, .gid = step.gid};
    gid_t *groups = NULL;
    int count = 0;

    if (spank_get_item(sp, S_JOB_SUPPLEMENTARY_GIDS, &groups, &count) ==
            ESPANK_SUCCESS &&
        groups != NULL) {
        user.groups = groups;
        user.group_count = count;
    }
    return user;
}

static int mount_sources(const struct bind_place *place, struct vine_err *err)
{
    struct bind_source binds[VINE_SOURCES_MAX];
    unsigned count = list_binds(binds);

    if (count == 0)
        return 0;
    return bind_sources(binds, count, place, err);
}

/* A mount failed and its batch was undone: nothing is local any more. */
static void all_from_origin(const struct vine_err *err)
{
    for (unsigned i = 0; i < step.spec->count; i++)
        if (step.results[i].err.code == VINE_OK)
            step.results[i].err = *err;
}

/* Mounts with one step back: images, else the sources themselves. */
static void mount_or_fall_back(spank_t sp)
{
    struct bind_place place = {.user = job_user(sp),
                               .node_name = step.node_name,
                               .private_dir = step.private_dir};
    struct bind_source binds[VINE_SOURCES_MAX];
    struct vine_err err = {0};

    if (list_binds(binds) == 0)
        return;
    if (bind_enter(&err) == 0 && mount_sources(&place, &err) == 0)
        return;
    all_from_origin(&err);
    if (step.fallback_origin && mount_sources(&place, NULL) < 0)
        step.unplaced = true;
}

int step_mount(spank_t sp)
{
    const struct stage_source *failure;
    unsigned index = 0, count;

    if (!step.wanted)
        return 0;
    if (step.spec == NULL || step.results == NULL)
        return raise_refused(sp);
    if (step.canceled)
        return -1; /* the job is being ended: start nothing more, say nothing */
    if (step.fallback_origin || first_failure(&index, &count) == NULL)
        mount_or_fall_back(sp);
    failure = first_failure(&index, &count);
    if (failure != NULL && !step.fallback_origin)
        return raise_failure(sp, failure, &step.spec->source[index]);
    warn(sp);
    return 0;
}

/* ---- task_init --------------------------------------------------------------- */

static int set_variable(void *arg, const char *name, const char *value)
{
    spank_t sp = arg;
    spank_err_t rc =
        value != NULL ? spank_setenv(sp, name, value, 1) : spank_unsetenv(sp, name);

    return rc == ESPANK_SUCCESS || (value == NULL && rc != ESPANK_BAD_ARG) ? 0 : -1;
}

/* What the daemon said. It does not look into archives, and says nothing about a source
 * that runs from its origin: then what lies there. */
static enum environ_kind kind_of(unsigned i)
{
    char path[VINE_PATH_MAX + 16];
    struct stat st;

    if (step.results[i].err.code == VINE_OK && step.results[i].kind != ENVIRON_NONE)
        return step.results[i].kind;
    (void)snprintf(path, sizeof(path), "%s/pyvenv.cfg", dst_of(i));
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
        return ENVIRON_VENV;
    (void)snprintf(path, sizeof(path), "%s/conda-meta", dst_of(i));
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return ENVIRON_CONDA;
    return ENVIRON_NONE;
}

/* Where the first of each kind is, and whether all of that kind are local. */
static void tell_kind(spank_t sp, bool data, const char *const names[3])
{
    unsigned first = step.spec->count;
    bool local = true;

    for (unsigned i = step.spec->count; i-- > 0;) {
        if (step.spec->source[i].data != data)
            continue;
        local = local && step.results[i].err.code == VINE_OK;
        first = i;
    }
    if (first == step.spec->count)
        return;
    (void)set_variable(sp, names[0], dst_of(first));
    (void)set_variable(sp, names[1], local ? "local" : "origin");
    (void)set_variable(
        sp, names[2],
        step.results[first].err.code == VINE_OK ? step.results[first].digest : NULL);
}

/* Where `vine-env get` puts what the job asks for. */
static void tell_dir(spank_t sp)
{
    char path[600];

    (void)snprintf(path, sizeof(path), "%s/%u", step.job_dir, step.job);
    (void)set_variable(sp, "VINE_DIR", path);
}

void step_activate(spank_t sp)
{
    static const char *const of_env[] = {"VINE_ENV", "VINE_ENV_STATE",
                                         "VINE_ENV_DIGEST"};
    static const char *const of_data[] = {"VINE_DATA", "VINE_DATA_STATE",
                                          "VINE_DATA_DIGEST"};

    if (!step.wanted || step.spec == NULL || step.results == NULL)
        return;
    /* From the last to the first, so that the first is in front. */
    for (unsigned i = step.spec->count; i-- > 0;) {
        char **env = NULL;

        if (step.spec->source[i].data)
            continue;
        if (spank_get_item(sp, S_JOB_ENV, &env) != ESPANK_SUCCESS)
            return;
        (void)environ_activate(kind_of(i), dst_of(i), environ_find(env, "PATH"),
                               set_variable, sp);
    }
    tell_dir(sp);
    tell_kind(sp, false, of_env);
    tell_kind(sp, true, of_data);
}

/* ---- task_exit ---------------------------------------------------------------- */

void step_task_exit(spank_t sp, const struct settings *settings)
{
    struct stage_request request = {.socket_path = settings->socket_path,
                                    .job = step.job};
    char text[TEXT_LINE_MAX], line[2 * TEXT_LINE_MAX];
    static bool said;

    if (said || !step.wanted || step.spec == NULL || !step.spec->lazy)
        return;
    stage_trouble(&request, TROUBLE_WAIT_MS, text, sizeof(text));
    if (text[0] == '\0')
        return;
    said = true;
    (void)snprintf(line, sizeof(line), "vine-env: %s: %s", step.node_name, text);
    text_clean(line);
    slurm_spank_log("%s", line);
}

/* ---- job_prolog, job_epilog -------------------------------------------------- */

/* In these a fresh process has Slurm's variables in its own environment. */
static int number_from_env(const char *name, uint32_t *out)
{
    const char *text = getenv(name);
    char *end;
    unsigned long long n;

    if (text == NULL || *text < '0' || *text > '9')
        return -1;
    n = strtoull(text, &end, 10);
    if (*end != '\0' || n > UINT32_MAX - 1)
        return -1;
    *out = (uint32_t)n;
    return 0;
}

void step_job_begin(spank_t sp, const struct settings *settings)
{
    struct stage_request request = {.socket_path = settings->socket_path};
    struct vine_spec *spec = NULL;
    struct vine_err err = {0};

    if (options_spec(sp, false, &spec, &err) == 0 && spec != NULL &&
        number_from_env("SLURM_JOB_ID", &request.job) == 0 &&
        number_from_env("SLURM_JOB_UID", &request.uid) == 0 &&
        number_from_env("SLURM_JOB_GID", &request.gid) == 0) {
        spec->lazy = options_start_lazy(sp, false, settings->start_lazy);
        request.spec = spec;
        if (stage_tell(&request, "begin", (int)settings->prolog_timeout_ms, &err) < 0)
            slurm_info("vine-env: job %u is staged later, by its first step: %s",
                       request.job, err.text);
    }
    free(spec);
}

/* The directory is made by the daemon, and root's alone: where there is none, there is
 * no daemon that could keep anything. */
static int ended_note(const char *dir, uint32_t job)
{
    char path[600];
    int fd;

    (void)snprintf(path, sizeof(path), "%s/%u", dir, job);
    fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    return fd >= 0 ? close(fd) : -1;
}

void step_job_end(spank_t sp, const struct settings *settings)
{
    struct stage_request request = {.socket_path = settings->socket_path};

    /* Always: the job may have asked by VINE_ENV_SPEC, which is not seen here. */
    if (number_from_env("SLURM_JOB_ID", &request.job) < 0 ||
        stage_tell(&request, "end", (int)settings->prolog_timeout_ms, NULL) == 0)
        return;
    /* A daemon that is just being restarted, or busy, must not keep the job's lease. */
    if (ended_note(settings->ended_dir, request.job) < 0 && errno != ENOENT)
        slurm_info("vine-env: the daemon does not know yet that job %u has ended",
                   request.job);
}
