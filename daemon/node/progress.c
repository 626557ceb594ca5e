/* progress.c - how far a waiting client's sources are, told every so often.
 *
 * Who speaks to people asks for the other nodes, too: then the manager is asked each
 * time, and the event waits for its answer. One node a job does so. */
#include "daemon/node/local.h"

#define PROGRESS_MIN_MS 200

/* Steals `cluster`, which may be NULL. */
static void send_progress(struct client *c, json_t *cluster)
{
    struct node_progress p;
    json_t *event;

    if (node_progress(c->vined->core, c->id, &p) < 0) {
        json_decref(cluster);
        return;
    }
    event =
        json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "event", "progress", "phase",
                  p.phase, "bytes_done", (json_int_t)p.bytes_done, "bytes_total",
                  (json_int_t)p.bytes_total, "bytes_peer", (json_int_t)p.bytes_peer,
                  "bytes_origin", (json_int_t)p.bytes_origin, "bytes_reused",
                  (json_int_t)p.bytes_reused);
    if (cluster != NULL)
        (void)json_object_set_new(event, "cluster", cluster);
    client_send(c, event);
}

static void on_timer(uv_timer_t *timer)
{
    struct client *c = timer->data;
    struct vined *vined = c->vined;

    if (c->cluster && !c->cluster_asked &&
        node_ask_status(vined->core, c->id, c->job, c->job_uid, true, vined_now(vined),
                        NULL) == 0) {
        c->cluster_asked = true;
        manager_hurry(vined);
        vined_update(vined);
        return;
    }
    send_progress(c, NULL);
}

void progress_answer(struct client *c, json_t *cluster)
{
    c->cluster_asked = false;
    send_progress(c, cluster);
}

void progress_begin(struct client *c, const json_t *request)
{
    json_int_t every = json_integer_value(json_object_get(request, "progress_ms"));
    uint64_t ms = every < PROGRESS_MIN_MS ? PROGRESS_MIN_MS : (uint64_t)every;

    c->cluster = json_is_true(json_object_get(request, "cluster"));
    c->cluster_asked = false;
    if (every > 0)
        (void)uv_timer_start(&c->progress, on_timer, ms, ms);
}

void progress_end(struct client *c)
{
    (void)uv_timer_stop(&c->progress);
}
