/* serve.c - answering peers: verified pieces only, from the store as they stand.
 *
 * Requests of a connection are answered in order, some chunks at a time. They go from
 * the page cache to the socket without a copy; what is not there is first read by a
 * worker. The next chunks are queued only while less than AHEAD bytes wait. A request
 * for pieces we cannot vouch for is refused, the rest of the connection goes on. One
 * for pieces that are on their way here is held: it goes on as they arrive, the
 * requests behind it overtake it meanwhile, and it is refused after NODE_HOLD_MS in
 * which none came. */
#include <stdlib.h>
#include <string.h>

#include "daemon/node/vined.h"
#include "daemon/wire/data.h"
#include "vine/log.h"

#define AHEAD (256u << 10)
#define REQUESTS_MAX 256 /* waiting on one connection */
#define CLIENTS_MAX 1024

struct answer { /* a request being answered */
    uint32_t tag;
    bool manifest, ask; /* ask: say when, send nothing */
    struct store_object *object;
    uint32_t next, end; /* chunks, or bytes of the manifest */
    uint8_t *encoded;   /* manifest: its bytes, made by the first part */
    uint64_t since_ms;  /* asked for, or the last chunk sent */
    struct answer *following;
};

struct served {
    struct server *server;
    struct link *link;
    struct answer *first;
    unsigned waiting;
    bool warming, closed; /* a chunk is read by a worker; the link is gone */
    struct served *next;
};

struct server {
    struct vined *vined;
    uv_tcp_t listener;
    uv_timer_t holding; /* runs while a request is held */
    struct served *first;
    unsigned count;
};

struct warm_job {
    uv_work_t work;
    struct served *served;
    struct store_object *object;
    uint32_t chunk, count;
    struct vine_err err;
};

static void go_on(struct served *s);

static void drop(struct served *s, struct answer *a)
{
    s->waiting--;
    store_put(a->object);
    free(a->encoded);
    free(a);
}

static void pop(struct served *s)
{
    struct answer *a = s->first;

    s->first = a->following;
    drop(s, a);
}

static void refuse(struct served *s, uint32_t tag, enum vine_code code)
{
    struct data_frame frame = {.kind = DATA_REFUSED, .tag = tag, .code = code};
    uint8_t body[DATA_BODY_MAX];
    size_t len;

    if (data_encode(&frame, body, &len, NULL) == 0)
        (void)link_send(s->link, (uint8_t)frame.kind, body, len);
}

static void send_bulk(struct served *s, const struct data_frame *frame, void *bulk)
{
    uint8_t body[DATA_BODY_MAX];
    size_t len;

    if (data_encode(frame, body, &len, NULL) < 0)
        free(bulk);
    else
        (void)link_send_bulk(s->link, (uint8_t)frame->kind, body, len, bulk,
                             frame->bulk_len);
}

static void free_served(struct served *s)
{
    struct served **at = &s->server->first;

    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    s->server->count--;
    while (s->first != NULL)
        pop(s);
    free(s);
}

static void release_object(void *ctx)
{
    store_put(ctx);
}

/* The chunks of the first answer that are sent next, together. */
static uint32_t next_run(const struct served *s, uint32_t *length)
{
    const struct answer *a = s->first;

    return manifest_run(&a->object->manifest, a->next, a->end, length);
}

static int send_here(struct served *s, const struct data_frame *frame)
{
    uint8_t body[DATA_BODY_MAX];
    size_t len;

    if (data_encode(frame, body, &len, NULL) < 0)
        return -1;
    return link_send(s->link, (uint8_t)frame->kind, body, len);
}

/* They are sent. -1: the link is closing. */
static int send_chunks(struct served *s)
{
    struct answer *a = s->first;
    struct store_object *object = a->object;
    struct data_frame frame = {.kind = DATA_CHUNK, .tag = a->tag, .chunk = a->next};
    struct outbox_file file = {.fd = object->image_fd,
                               .offset = object->manifest.chunk[a->next].offset,
                               .release = release_object,
                               .ctx = object};
    uint8_t body[DATA_BODY_MAX];
    size_t len;

    frame.count = next_run(s, &frame.bulk_len);
    file.len = frame.bulk_len;
    if (a->ask)
        frame.kind = DATA_HERE;
    else
        store_get(object);
    a->since_ms = vined_now(s->server->vined);
    a->next += frame.count;
    if (a->next == a->end)
        pop(s);
    if (frame.kind == DATA_HERE) {
        frame.bulk_len = 0;
        return send_here(s, &frame);
    }
    if (data_encode(&frame, body, &len, NULL) < 0) {
        store_put(object);
        return -1;
    }
    s->server->vined->bytes_served += frame.bulk_len;
    return link_send_file(s->link, (uint8_t)frame.kind, body, len, &file);
}

static void run_warm(uv_work_t *work)
{
    struct warm_job *job = work->data;

    (void)store_warm_chunks(job->object, job->chunk, job->count, &job->err);
}

static void after_warm(uv_work_t *work, int status)
{
    struct warm_job *job = work->data;
    struct served *s = job->served;

    s->warming = false;
    if (s->closed) {
        free_served(s);
    } else if (job->err.code != VINE_OK) {
        vine_log(VINE_LOG_ERR, "event=read-failed chunk=%u reason=%s", job->chunk,
                 vine_q(job->err.text));
        refuse(s, s->first->tag, job->err.code);
        pop(s);
        go_on(s);
    } else if (send_chunks(s) == 0) {
        go_on(s);
    }
    store_put(job->object);
    free(job);
}

static void warm_next(struct served *s)
{
    struct answer *a = s->first;
    struct warm_job *job = calloc(1, sizeof(*job));
    uint32_t length;

    if (job == NULL) {
        refuse(s, a->tag, VINE_ENOMEM);
        pop(s);
        return;
    }
    job->served = s;
    job->object = a->object;
    job->chunk = a->next;
    job->count = next_run(s, &length);
    job->work.data = job;
    store_get(a->object);
    s->warming = true;
    (void)uv_queue_work(&s->server->vined->loop, &job->work, run_warm, after_warm);
}

/* The next part of a manifest; small, so it is made in the loop. */
static void send_manifest_part(struct served *s)
{
    struct answer *a = s->first;
    uint32_t left = a->end - a->next;
    struct data_frame frame = {
        .kind = DATA_MANIFEST,
        .tag = a->tag,
        .total = a->end,
        .offset = a->next,
        .bulk_len = left < VINE_CHUNK_MAX ? left : VINE_CHUNK_MAX,
    };
    uint8_t *part = malloc(frame.bulk_len);

    if (a->encoded == NULL) {
        a->encoded = malloc(a->end);
        if (a->encoded != NULL)
            manifest_encode(&a->object->manifest, a->encoded);
    }
    if (a->encoded == NULL || part == NULL) {
        free(part);
        refuse(s, a->tag, VINE_ENOMEM);
        pop(s);
        return;
    }
    memcpy(part, a->encoded + frame.offset, frame.bulk_len);
    a->next += frame.bulk_len;
    if (a->next == a->end)
        pop(s);
    send_bulk(s, &frame, part);
}

static struct msg_range next_piece(const struct answer *a)
{
    if (a->manifest)
        return (struct msg_range){0, 1};
    return (struct msg_range){manifest_piece_of(&a->object->manifest, a->next), 1};
}

static bool is_here(const struct served *s, const struct answer *a)
{
    return a->manifest || node_may_serve(s->server->vined->core,
                                         &a->object->manifest.digest, next_piece(a));
}

/* The first request that can be answered now becomes the first of all. */
static bool bring_forward(struct served *s)
{
    struct answer **at = &s->first, *a;

    while (*at != NULL && !is_here(s, *at))
        at = &(*at)->following;
    a = *at;
    if (a == NULL)
        return false;
    *at = a->following;
    a->following = s->first;
    s->first = a;
    return true;
}

/* End what is held for too long, or for nothing. Returns how many are still held. */
static unsigned held_check(struct served *s)
{
    struct vined *vined = s->server->vined;
    unsigned held = 0;

    for (struct answer **at = &s->first; *at != NULL && !s->warming && !s->closed;) {
        struct answer *a = *at;
        bool late = vined_now(vined) >= a->since_ms + NODE_HOLD_MS;
        if (is_here(s, a) ||
            (!late &&
             node_may_wait(vined->core, &a->object->manifest.digest, next_piece(a)))) {
            held += !is_here(s, a);
            at = &a->following;
            continue;
        }
        *at = a->following;
        refuse(s, a->tag, late ? VINE_ECANCELED : VINE_ENOENT);
        drop(s, a);
    }
    return s->warming ? s->waiting : held;
}

static void on_holding(uv_timer_t *timer)
{
    struct server *server = timer->data;
    unsigned held = 0;

    for (struct served *s = server->first; s != NULL; s = s->next)
        held += held_check(s);
    if (held == 0)
        (void)uv_timer_stop(timer);
}

static void go_on(struct served *s)
{
    while (!s->warming && !s->closed && link_queued(s->link) < AHEAD &&
           bring_forward(s)) {
        const struct answer *a = s->first;
        uint32_t length;
        if (a->manifest)
            send_manifest_part(s);
        else if (!a->ask &&
                 !store_chunks_cached(a->object, a->next, next_run(s, &length)))
            warm_next(s);
        else if (send_chunks(s) < 0)
            return;
    }
}

/* The pieces that chunks [first, first + count) lie in; -1: none of the object's. */
static int pieces_of(const struct manifest *m, uint32_t first, uint32_t count,
                     struct msg_range *range)
{
    if (first >= m->count || count > m->count - first)
        return -1;
    range->first = manifest_piece_of(m, first);
    range->count = manifest_piece_of(m, first + count - 1) - range->first + 1;
    return 0;
}

static void take_request(struct served *s, const struct data_frame *f)
{
    struct vined *vined = s->server->vined;
    struct store_object *object = store_find(vined->store, &f->digest);
    bool chunks = f->kind != DATA_GET_MANIFEST;
    struct msg_range range = {0, 1};
    struct answer *a, **at;

    if (object == NULL ||
        (chunks &&
         pieces_of(&object->manifest, f->first_chunk, f->count, &range) < 0) ||
        (!node_may_serve(vined->core, &f->digest, range) &&
         (!chunks || !node_may_wait(vined->core, &f->digest, range)))) {
        refuse(s, f->tag, VINE_ENOENT);
        return;
    }
    a = s->waiting < REQUESTS_MAX ? calloc(1, sizeof(*a)) : NULL;
    if (a == NULL) {
        refuse(s, f->tag, VINE_ELIMIT);
        return;
    }
    a->tag = f->tag;
    a->object = object;
    a->since_ms = vined_now(vined);
    a->manifest = !chunks;
    a->ask = f->kind == DATA_ASK;
    if (a->manifest) {
        a->end = (uint32_t)manifest_encoded_size(object->manifest.count);
    } else {
        a->next = f->first_chunk;
        a->end = f->first_chunk + f->count;
    }
    store_get(object);
    for (at = &s->first; *at != NULL; at = &(*at)->following)
        ;
    *at = a;
    s->waiting++;
    if (!is_here(s, a) && !uv_is_active((uv_handle_t *)&s->server->holding))
        (void)uv_timer_start(&s->server->holding, on_holding, NODE_HOLD_MS / 4,
                             NODE_HOLD_MS / 4);
    go_on(s);
}

static void *on_frame(void *ctx, struct link *link, const struct session_frame *frame)
{
    struct served *s = ctx;
    struct vine_err err = {0};
    struct data_frame f;

    if (data_decode(frame->kind, frame->payload, frame->len, frame->bulk_len, &f,
                    &err) < 0)
        link_close(link, &err);
    else if (f.kind == DATA_GET || f.kind == DATA_GET_MANIFEST || f.kind == DATA_ASK)
        take_request(s, &f);
    else {
        vine_err_set(&err, VINE_EPROTO, "an answer to no request");
        link_close(link, &err);
    }
    return NULL;
}

static void on_ready(void *ctx, struct link *link)
{
    vine_log(VINE_LOG_DEBUG, "event=serving peer=%s", link_peer_name(link));
}

static void on_written(void *ctx, struct link *link)
{
    go_on(ctx);
}

static void on_closed(void *ctx, struct link *link, const struct vine_err *err)
{
    struct served *s = ctx;

    if (err->code == VINE_EAUTH || err->code == VINE_EPROTO)
        vine_log(VINE_LOG_WARNING, "event=peer-refused addr=%s reason=%s",
                 link_peer_addr(link), vine_q(err->text));
    s->closed = true;
    if (!s->warming)
        free_served(s);
}

static const struct link_ops link_callbacks = {
    .ready = on_ready,
    .frame = on_frame,
    .written = on_written,
    .closed = on_closed,
};

static void on_connection(uv_stream_t *listener, int status)
{
    struct server *server = listener->data;
    struct session_config config = {
        .role = SESSION_ACCEPT,
        .service = SESSION_DATA,
        .self = server->vined->name,
    };
    struct served *s = calloc(1, sizeof(*s));
    struct vine_err err = {0};

    if (status < 0 || s == NULL) {
        free(s);
        return;
    }
    s->server = server;
    s->link = link_accept(listener, &config, &link_callbacks, s, &err);
    if (s->link == NULL) {
        vine_log(VINE_LOG_WARNING, "event=accept-failed reason=%s", vine_q(err.text));
        free(s);
        return;
    }
    s->next = server->first;
    server->first = s;
    if (++server->count > CLIENTS_MAX)
        link_close(s->link, NULL);
}

int serve_start(struct vined *vined, struct vine_err *err)
{
    struct server *server = calloc(1, sizeof(*server));
    char host[256];
    uint16_t port;

    if (server == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    vined->server = server;
    server->vined = vined;
    server->listener.data = server;
    (void)uv_timer_init(&vined->loop, &server->holding);
    server->holding.data = server;
    if (vine_conf_host_port(vined->conf.node_listen, VINE_NODE_PORT, host, &port, err) <
        0)
        return -1;
    return link_listen(&vined->loop, &server->listener, host, port, on_connection, err);
}

void serve_more(struct vined *vined)
{
    if (!uv_is_active((uv_handle_t *)&vined->server->holding))
        return;
    for (struct served *s = vined->server->first; s != NULL; s = s->next)
        go_on(s);
}

void serve_stop(struct vined *vined)
{
    uv_close((uv_handle_t *)&vined->server->listener, NULL);
    uv_close((uv_handle_t *)&vined->server->holding, NULL);
    for (struct served *s = vined->server->first; s != NULL; s = s->next)
        if (!s->closed)
            link_close(s->link, NULL);
}
