/* sync.c - complete objects reach the disk a while after they are complete.
 *
 * Writing them out at once would take the disk and the processors from nodes that still
 * copy what they know, and from tasks that begin now. Nothing is lost by the wait:
 * until an object is noted as synced a restart hashes it. Who waits is dropped when the
 * object is removed, so that its space is free at once. */
#include <stdlib.h>

#include "daemon/node/vined.h"
#include "vine/log.h"

#define SYNC_DELAY_MS 10000

struct sync_job {
    uv_work_t work;
    struct vined *vined;
    struct store_object *object;
    uint64_t due_ms;
    struct sync_job *next;
    struct vine_err err;
};

struct syncs {
    uv_timer_t timer;
    struct sync_job *first, **last; /* those that wait, the oldest first */
};

static void job_free(struct sync_job *job)
{
    store_put(job->object);
    free(job);
}

static void run_sync(uv_work_t *work)
{
    struct sync_job *job = work->data;

    (void)store_sync(job->vined->store, job->object, &job->err);
}

static void after_sync(uv_work_t *work, int status)
{
    struct sync_job *job = work->data;

    if (job->err.code == VINE_OK)
        store_synced(job->vined->store, job->object);
    else if (job->err.code != VINE_ENOENT) /* evicted meanwhile */
        vine_log(VINE_LOG_WARNING, "event=sync-failed reason=%s",
                 vine_q(job->err.text));
    job_free(job);
}

static struct sync_job *unlink_job(struct syncs *syncs, struct sync_job **at)
{
    struct sync_job *job = *at;

    *at = job->next;
    if (syncs->last == &job->next)
        syncs->last = at;
    return job;
}

static void on_timer(uv_timer_t *timer)
{
    struct vined *vined = timer->data;
    struct syncs *syncs = vined->syncs;
    uint64_t now = vined_now(vined);

    while (syncs->first != NULL && syncs->first->due_ms <= now) {
        struct sync_job *job = unlink_job(syncs, &syncs->first);
        (void)uv_queue_work(&vined->loop, &job->work, run_sync, after_sync);
    }
    if (syncs->first != NULL)
        (void)uv_timer_start(timer, on_timer, syncs->first->due_ms - now, 0);
}

int syncs_start(struct vined *vined, struct vine_err *err)
{
    struct syncs *syncs = calloc(1, sizeof(*syncs));

    if (syncs == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    syncs->last = &syncs->first;
    (void)uv_timer_init(&vined->loop, &syncs->timer);
    syncs->timer.data = vined;
    vined->syncs = syncs;
    return 0;
}

void sync_object(struct vined *vined, struct store_object *object)
{
    struct syncs *syncs = vined->syncs;
    struct sync_job *job = calloc(1, sizeof(*job));

    if (job == NULL)
        return; /* unsynced: the next start hashes it */
    job->vined = vined;
    job->object = object;
    job->due_ms = vined_now(vined) + SYNC_DELAY_MS;
    job->work.data = job;
    store_get(object);
    *syncs->last = job;
    syncs->last = &job->next;
    if (!uv_is_active((uv_handle_t *)&syncs->timer))
        (void)uv_timer_start(&syncs->timer, on_timer, SYNC_DELAY_MS, 0);
}

void sync_forget(struct vined *vined, const struct store_object *object)
{
    struct sync_job **at = &vined->syncs->first;

    while (*at != NULL)
        if ((*at)->object == object)
            job_free(unlink_job(vined->syncs, at));
        else
            at = &(*at)->next;
}

void syncs_stop(struct vined *vined)
{
    struct syncs *syncs = vined->syncs;

    while (syncs->first != NULL)
        job_free(unlink_job(syncs, &syncs->first));
    uv_close((uv_handle_t *)&syncs->timer, NULL);
}
