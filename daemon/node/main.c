/* vined: the core's node on a libuv loop. vined.h lists the parts.
 *
 * Here: start in an order in which each part finds what it needs, the core's ops handed
 * to the parts, and a stop that ends children and closes files but leaves partial
 * objects for the next start. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <malloc.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/base/topology.h"
#include "daemon/edge/metrics.h"
#include "daemon/node/vined.h"
#include "daemon/wire/name.h"
#include "vine/log.h"

/* Left to others, and to manifests and leases. */
#define DISK_RESERVE (16u << 20)

struct deferred {
    uv_timer_t timer;
    struct vined *vined;
    void (*run)(struct vined *vined, void *arg);
    void *arg;
};

uint64_t vined_now(struct vined *vined)
{
    return daemon_now(&vined->loop);
}

void vined_update(struct vined *vined)
{
    if (!vined->stopping)
        daemon_alarm_update(&vined->alarm);
}

void vined_measure(struct vined *vined)
{
    struct node_totals t;
    uint64_t total, available, room;

    if (store_space(vined->store, &total, &available, NULL) < 0)
        return;
    node_totals(vined->core, &t);
    room = t.store_used + (available > DISK_RESERVE ? available - DISK_RESERVE : 0);
    node_set_cache_max(vined->core, room < vined->cache_max ? room : vined->cache_max);
}

static void on_deferred_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_deferred(uv_timer_t *timer)
{
    struct deferred *d = timer->data;

    d->run(d->vined, d->arg);
    uv_close((uv_handle_t *)timer, on_deferred_closed);
}

void vined_defer(struct vined *vined, void (*run)(struct vined *vined, void *arg),
                 void *arg)
{
    struct deferred *d = calloc(1, sizeof(*d));

    if (d == NULL) {
        vine_log(VINE_LOG_ERR, "event=out-of-memory");
        return;
    }
    d->vined = vined;
    d->run = run;
    d->arg = arg;
    (void)uv_timer_init(&vined->loop, &d->timer);
    d->timer.data = d;
    (void)uv_timer_start(&d->timer, on_deferred, 0, 0);
}

/* The core's ops. */
static void op_send(void *ctx, const struct msg *m)
{
    manager_send(ctx, m);
}

static void op_manager_silent(void *ctx)
{
    manager_silent(ctx);
}

static void op_source_resolve(void *ctx, uint64_t ticket, uint32_t uid, uint32_t gid,
                              const char *path)
{
    source_resolve(ctx, ticket, uid, gid, path);
}

static void op_source_open(void *ctx, uint64_t ticket)
{
    source_open(ctx, ticket);
}

static void op_source_prove(void *ctx, uint64_t ticket)
{
    source_prove(ctx, ticket);
}

static void op_source_build(void *ctx, uint64_t ticket)
{
    source_build(ctx, ticket);
}

static void op_source_close(void *ctx, uint64_t ticket)
{
    source_close(ctx, ticket);
}

static void op_fetch(void *ctx, uint64_t transfer, const struct vine_digest *digest,
                     const struct msg_assign *assign)
{
    fetch_from_peer(ctx, transfer, digest, assign);
}

static void op_fetch_origin(void *ctx, uint64_t transfer,
                            const struct vine_digest *digest, uint64_t ticket,
                            struct msg_range range)
{
    source_fetch(ctx, transfer, digest, ticket, range);
}

static void op_fetch_cancel(void *ctx, uint64_t transfer)
{
    fetch_cancel(ctx, transfer);
}

static void op_reuse(void *ctx, const struct vine_digest *digest, bool proved)
{
    reuse_begin(ctx, digest, proved);
}

struct publication {
    struct vine_digest digest;
    bool trusted;
};

static void publish_late(struct vined *vined, void *arg)
{
    struct publication *p = arg;
    struct store_object *object = store_find(vined->store, &p->digest);
    struct vine_err err = {0};

    if (vined->stopping) {
        free(p);
        return;
    }
    if (object == NULL) {
        vine_err_set(&err, VINE_ENOENT, "the object to be published is gone");
    } else if (!object->complete &&
               store_publish(vined->store, object, p->trusted, &err) == 0) {
        lazy_published(vined, object);
        sync_object(vined, object);
    }
    node_published(vined->core, &p->digest, err.code != VINE_OK ? &err : NULL,
                   vined_now(vined));
    vined_update(vined);
    free(p);
}

static void op_publish(void *ctx, const struct vine_digest *digest, bool trusted)
{
    struct publication *p = calloc(1, sizeof(*p));

    if (p == NULL)
        return;
    p->digest = *digest;
    p->trusted = trusted;
    vined_defer(ctx, publish_late, p);
}

static void op_mount(void *ctx, const struct vine_digest *digest, uint32_t mount_uid,
                     bool trusted)
{
    mount_object(ctx, digest, mount_uid, trusted);
}

static void op_remember_key(void *ctx, const struct vine_digest *digest,
                            const struct vine_digest *key)
{
    struct vined *vined = ctx;
    struct store_object *object = store_find(vined->store, digest);

    if (object != NULL)
        store_add_key(vined->store, object, key);
}

static void op_remove(void *ctx, const struct vine_digest *digest)
{
    struct vined *vined = ctx;
    struct store_object *object = store_find(vined->store, digest);

    lazy_remove(vined, digest);
    mount_remove(vined, digest);
    if (object == NULL)
        return;
    sync_forget(vined, object);
    store_remove(vined->store, object);
}

static void op_lazy_look(void *ctx, const struct vine_digest *digest)
{
    lazy_look(ctx, digest);
}

static void op_lazy_mount(void *ctx, const struct vine_digest *digest)
{
    lazy_mount(ctx, digest);
}

static void op_lazy_have(void *ctx, const struct vine_digest *digest, uint32_t piece)
{
    lazy_have(ctx, digest, piece);
}

static void op_lazy_leave(void *ctx, const struct vine_digest *digest)
{
    lazy_leave(ctx, digest);
}

static void op_touched(void *ctx, const struct vine_digest *digest,
                       const struct msg_range *ranges, uint32_t count)
{
    struct vined *vined = ctx;
    struct store_object *object = store_find(vined->store, digest);

    if (object == NULL)
        return;
    for (uint32_t i = 0; i < count; i++)
        store_note_reads(vined->store, object, ranges[i].first, ranges[i].count);
    store_save_reads(vined->store, object);
}

static void op_reply(void *ctx, uint64_t client, const struct node_result *results,
                     uint32_t count)
{
    local_reply(ctx, client, results, count);
}

static void op_answer(void *ctx, uint64_t client, enum vine_code code, const char *text)
{
    local_answer(ctx, client, code, text);
}

static bool op_has_tasks(void *ctx, uint64_t job)
{
    return jobs_has_step(job);
}

static bool op_shown(void *ctx, uint64_t job, const struct vine_digest *digest)
{
    return jobdir_has(ctx, job, digest);
}

static void op_save(void *ctx)
{
    jobs_save(ctx);
}

static void op_log(void *ctx, int level, const char *line)
{
    vine_log((enum vine_log_level)level, "%s", line);
}

static const struct node_ops core_ops = {
    .send = op_send,
    .manager_silent = op_manager_silent,
    .source_resolve = op_source_resolve,
    .source_open = op_source_open,
    .source_prove = op_source_prove,
    .source_build = op_source_build,
    .source_close = op_source_close,
    .fetch = op_fetch,
    .fetch_origin = op_fetch_origin,
    .fetch_cancel = op_fetch_cancel,
    .reuse = op_reuse,
    .publish = op_publish,
    .mount = op_mount,
    .remember_key = op_remember_key,
    .remove = op_remove,
    .lazy_look = op_lazy_look,
    .lazy_mount = op_lazy_mount,
    .lazy_have = op_lazy_have,
    .lazy_leave = op_lazy_leave,
    .touched = op_touched,
    .reply = op_reply,
    .answer = op_answer,
    .save = op_save,
    .has_tasks = op_has_tasks,
    .shown = op_shown,
    .log = op_log,
};

static uint64_t next_deadline(void *ctx)
{
    return node_next_deadline(((struct vined *)ctx)->core);
}

/* A compute node belongs to the job: what transfers and requests needed goes back. An
 * idle daemon comes here with each heartbeat. */
static void give_memory_back(struct vined *vined)
{
    struct node_totals t;

    node_totals(vined->core, &t);
    if (t.transfers > 0)
        return;
    buffers_trim(vined);
    (void)malloc_trim(0);
}

static void tick(void *ctx, uint64_t now_ms)
{
    node_tick(((struct vined *)ctx)->core, now_ms);
    give_memory_back(ctx);
}

/* Start. */
static int find_name(struct vined *vined, struct vine_err *err)
{
    char host[256] = "";

    if (vined->conf.node_name[0] != '\0')
        (void)snprintf(host, sizeof(host), "%.255s", vined->conf.node_name);
    else if (gethostname(host, sizeof(host) - 1) < 0)
        return vine_err_sys(err, "cannot get the host's name");
    else
        host[strcspn(host, ".")] = '\0';
    if (host[0] == '\0' || strlen(host) >= VINE_NAME_MAX ||
        strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                     "._-") != strlen(host))
        return vine_err_set(err, VINE_EINVAL,
                            "'%.80s' cannot be a node's name: set [node] name", host);
    (void)strcpy(vined->name, host);
    return 0;
}

/* Of topology.conf and not of SLURM_TOPOLOGY_ADDR, which says the same but only to
 * steps: the manager is told when the daemon connects. */
static int find_switch(struct vined *vined, struct vine_err *err)
{
    const char *set = vined->conf.switch_name;
    struct vine_err bad = {0};

    if (strcmp(set, "auto") != 0) {
        if (*set != '\0' && !wire_name_valid(set))
            return vine_err_set(err, VINE_EINVAL,
                                "'%.80s' cannot be a switch's name: set [node] switch",
                                set);
        (void)strcpy(vined->switch_name, set);
        return 0;
    }
    if (topology_leaf(vined->conf.topology, vined->name, vined->switch_name, &bad) < 0)
        vined->switch_name[0] = '\0';
    else if (vined->switch_name[0] != '\0' && !wire_name_valid(vined->switch_name)) {
        vine_err_set(&bad, VINE_EINVAL, "'%s' cannot be a switch's name",
                     vined->switch_name);
        vined->switch_name[0] = '\0';
    }
    if (bad.code != VINE_OK)
        vine_log(VINE_LOG_WARNING, "event=topology-refused reason=%s",
                 vine_q(bad.text));
    return 0;
}

static int find_helper(struct vined *vined, struct vine_err *err)
{
    const struct passwd *pw = getpwnam(vined->conf.helper_user);

    if (pw == NULL) /* a directory service may be late */
        return vine_err_set(err, VINE_ENOENT,
                            "helper_user '%.60s' is not known here: create this user",
                            vined->conf.helper_user);
    if (pw->pw_uid == 0)
        return vine_err_set(err, VINE_EINVAL, "helper_user '%.60s' must not be root",
                            vined->conf.helper_user);
    vined->helper_uid = pw->pw_uid;
    vined->helper_gid = pw->pw_gid;
    return 0;
}

/* Absent is fine: packed images are then unsigned, so served by squashfuse. */
static int load_image_key(struct vined *vined, struct vine_err *err)
{
    const char *path = vined->conf.image_key;
    struct stat st;
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0)
        return vine_err_sys(err, "cannot open image_key '%s'", path);
    n = read(fd, vined->image_key, sizeof(vined->image_key));
    if (fstat(fd, &st) < 0 || (st.st_mode & 077) != 0 || st.st_uid != geteuid())
        vine_err_set(err, VINE_EACCES,
                     "image_key '%s' must belong to root with mode 0600", path);
    else if (n < 32)
        vine_err_set(err, VINE_EINVAL,
                     "image_key '%s' is shorter than 32 bytes: make one by 'head -c 32 "
                     "/dev/urandom'",
                     path);
    (void)close(fd);
    if (err->code != VINE_OK)
        return -1;
    vined->image_key_len = (size_t)n;
    return 0;
}

/* What starts read of an object, from its meta.json. */
static void restore_reads(struct vined *vined, const struct store_object *o)
{
    struct msg_range *runs = calloc(o->pieces, sizeof(*runs));
    uint32_t count = 0;

    for (uint32_t p = 1; runs != NULL && o->touched != NULL && p < o->pieces; p++)
        if (o->touched[p])
            runs[count++] = (struct msg_range){p, 1};
    if (count > 0)
        node_touched(vined->core, &o->manifest.digest, runs, count, vined_now(vined));
    free(runs);
}

static int restore_objects(struct vined *vined, struct vine_err *err)
{
    struct timespec wall;
    uint64_t now = vined_now(vined), wall_ms;

    (void)clock_gettime(CLOCK_REALTIME, &wall);
    wall_ms = (uint64_t)wall.tv_sec * 1000 + (uint64_t)wall.tv_nsec / 1000000;
    for (struct store_object *o = store_first(vined->store); o != NULL; o = o->next) {
        uint64_t ago = wall_ms > o->used_ms ? wall_ms - o->used_ms : 0;
        struct msg_object object = {.digest = o->manifest.digest,
                                    .size = o->manifest.size,
                                    .pieces = o->pieces,
                                    .complete = o->complete,
                                    .trusted = o->trusted,
                                    .key_count = o->key_count,
                                    .keys = o->keys};
        if (node_restore_object(vined->core, &object, o->have,
                                now > ago ? now - ago : 0, err) < 0)
            return -1;
        restore_reads(vined, o);
    }
    return 0;
}

static int start_core(struct vined *vined, struct vine_err *err)
{
    struct node_limits limits;
    uint64_t total, available;
    char host[256];

    node_limits_default(&limits);
    if (store_space(vined->store, &total, &available, err) < 0 ||
        vine_conf_size(vined->conf.cache_max, total, &limits.cache_max, err) < 0 ||
        vine_conf_host_port(vined->conf.node_listen, VINE_NODE_PORT, host, &limits.port,
                            err) < 0)
        return -1;
    vined->cache_max = limits.cache_max;
    limits.stall_ms = (uint32_t)vined->conf.stall_ms;
    limits.manager_wait_ms = (uint32_t)vined->conf.manager_wait_ms;
    limits.store_name = vined->conf.cache_dir;
    limits.manager_name = vined->conf.managers;
    limits.switch_name = vined->switch_name;
    vined->core = node_new(&core_ops, vined, &limits);
    if (vined->core == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    return restore_objects(vined, err);
}

static int start(struct vined *vined, struct vine_err *err)
{
    if (geteuid() != 0)
        return vine_err_set(err, VINE_EACCES, "vined must run as root");
    if (find_name(vined, err) < 0 || find_switch(vined, err) < 0 ||
        find_helper(vined, err) < 0 || load_image_key(vined, err) < 0 ||
        store_open(vined->conf.cache_dir, &vined->store, err) < 0 ||
        /* The store's lock says that no other daemon has mounts here. */
        mounts_start(vined, err) < 0 || jobdirs_start(vined, err) < 0 ||
        start_core(vined, err) < 0 || lazies_start(vined, err) < 0 ||
        buffers_start(vined, err) < 0 || transfers_start(vined, err) < 0 ||
        sources_start(vined, err) < 0 || syncs_start(vined, err) < 0 ||
        fetch_start(vined, err) < 0 || jobs_start(vined, err) < 0)
        return -1;
    daemon_alarm_start(&vined->alarm, &vined->loop, vined, next_deadline, tick);
    if (serve_start(vined, err) < 0 || local_start(vined, err) < 0)
        return -1;
    node_metrics_start(vined);
    return manager_start(vined, err);
}

static void stop(void *ctx)
{
    struct vined *vined = ctx;

    vined->stopping = true;
    daemon_signals_close(&vined->signals);
    daemon_alarm_close(&vined->alarm);
    metrics_stop(vined->metrics);
    manager_stop(vined);
    local_stop(vined);
    serve_stop(vined);
    fetch_stop(vined);
    jobs_stop(vined);
    files_stop(vined);
    jobdirs_stop(vined);
    sources_stop(vined);
    syncs_stop(vined);
    lazies_stop(vined);
    mounts_stop(vined);
}

static const struct daemon_about about = {
    .name = "vined",
    .help =
        "usage: vined [--config PATH] [--log-level LEVEL]\n"
        "\n"
        "The node daemon of vine-env: keeps environments on this node's disk, fetches\n"
        "and serves them, mounts them for jobs. Runs in the foreground as root, logs "
        "to\n"
        "stderr. One a node; listens on port 7111 and on RUN_DIR/vined.sock.\n"
        "\n"
        "  -c, --config PATH      configuration (default " VINE_CONF_PATH ")\n"
        "  -l, --log-level LEVEL  error, warning, info or debug\n"
        "  -h, --help             this text\n"
        "  -V, --version          the version\n"
        "\n"
        "See vined(8) and vine-env.conf(5).\n",
};

int main(int argc, char **argv)
{
    static struct vined vined;
    struct vine_err err = {0};
    int status = daemon_begin(&about, argc, argv, &vined.conf);

    if (status >= 0)
        return status;
    (void)umask(077);
    (void)mallopt(M_ARENA_MAX,
                  1); /* workers allocate little: one heap, all of it ours */
    (void)prctl(PR_SET_DUMPABLE, 0); /* keys of connections are in our memory */
    if (vined.conf.nice > 0)
        (void)setpriority(PRIO_PROCESS, 0, (int)vined.conf.nice);
    (void)uv_loop_init(&vined.loop);
    vined.start_ms = vined_now(&vined);
    srandom((unsigned)time(NULL) ^ (unsigned)getpid());
    if (start(&vined, &err) < 0) {
        vine_log(VINE_LOG_ERR, "event=start-failed reason=%s", vine_q(err.text));
        return daemon_exit_status(&err);
    }
    daemon_signals_start(&vined.signals, &vined.loop, stop, &vined);
    vine_log(VINE_LOG_INFO, "event=start version=" VINE_VERSION " node=%s cache_dir=%s",
             vined.name, vined.conf.cache_dir);
    if (daemon_ready() < 0)
        vine_log(VINE_LOG_WARNING, "event=not-told-ready reason=%s", strerror(errno));
    (void)uv_run(&vined.loop, UV_RUN_DEFAULT);
    transfers_stop(&vined);
    buffers_stop(&vined);
    node_free(vined.core);
    store_close(vined.store);
    return 0;
}
