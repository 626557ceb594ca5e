/* fetch.c - asking peers for pieces.
 *
 * One data connection a peer, made when first needed and closed after IDLE_MS without
 * work. Requests of several transfers are sent at once and answered in order, so the
 * link never waits for a round trip. A connection that breaks fails all its requests;
 * the core decides what then. A chunk that nobody waits for any more is read and
 * dropped.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/node/vined.h"
#include "daemon/wire/data.h"
#include "vine/log.h"

#define IDLE_MS 30000

struct request {
    uint64_t id; /* transfer; its low 32 bits are the tag */
    struct vine_digest digest;
    struct msg_range range;
    uint32_t left;     /* data: chunks to come */
    uint8_t *manifest; /* piece 0: collected here */
    uint32_t manifest_total, manifest_have;
    struct request *next;
};

struct peer {
    struct fetcher *fetcher;
    struct link *link;
    char name[VINE_NAME_MAX + 1], addr[VINE_ADDR_MAX];
    uint16_t port;
    bool ready, closing;
    struct request *first;
    uint64_t idle_since;
    /* The bulk being read. */
    struct data_frame frame;
    void *bulk; /* a buffer; NULL for a manifest somebody waits for */
    struct peer *next;
};

struct fetcher {
    struct vined *vined;
    struct peer *first;
    uv_timer_t sweep;
};

static void remove_request(struct peer *p, struct request *r)
{
    struct request **at = &p->first;

    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    free(r->manifest);
    free(r);
    if (p->first == NULL)
        p->idle_since = vined_now(p->fetcher->vined);
}

static struct request *find_request(struct peer *p, uint32_t tag)
{
    struct request *r = p->first;

    while (r != NULL && (uint32_t)r->id != tag)
        r = r->next;
    return r;
}

static void send_frame(struct peer *p, const struct data_frame *frame)
{
    uint8_t body[DATA_BODY_MAX];
    size_t len;

    if (data_encode(frame, body, &len, NULL) == 0)
        (void)link_send(p->link, (uint8_t)frame->kind, body, len);
}

/* A run of chunks that are missing. What older objects of the store have is not sent:
 * the peer only says when it has verified it. */
static void send_run(struct peer *p, const struct request *r,
                     const struct chunk_run *run, bool older)
{
    const struct data_frame frame = {.kind = older ? DATA_ASK : DATA_GET,
                                     .tag = (uint32_t)r->id,
                                     .digest = r->digest,
                                     .first_chunk = run->first,
                                     .count = run->count};

    send_frame(p, &frame);
}

/* All with the transfer's tag. */
static void send_request(struct peer *p, struct request *r)
{
    const struct data_frame frame = {
        .kind = DATA_GET_MANIFEST, .tag = (uint32_t)r->id, .digest = r->digest};
    struct chunk_run runs[TRANSFER_RUNS_MAX];
    uint32_t count = 0;

    if (r->range.first == 0)
        send_frame(p, &frame);
    else
        count = transfer_runs(p->fetcher->vined, r->id, runs);
    for (uint32_t i = 0; i < count; i++) {
        r->left += runs[i].count;
        send_run(p, r, &runs[i], runs[i].older);
    }
}

static void on_ready(void *ctx, struct link *link)
{
    struct peer *p = ctx;

    p->ready = true;
    for (struct request *r = p->first; r != NULL && !p->closing; r = r->next)
        send_request(p, r);
}

/* End a request towards the core. */
static void fail_request(struct peer *p, struct request *r, const struct vine_err *err)
{
    struct vined *vined = p->fetcher->vined;
    uint64_t id = r->id;

    remove_request(p, r);
    transfer_end(vined, id, err);
}

static void close_peer(struct peer *p, const struct vine_err *err)
{
    p->closing = true;
    link_close(p->link, err);
}

static void *bulk_for_chunk(struct peer *p, const struct data_frame *f)
{
    struct request *r = find_request(p, f->tag);
    const struct chunk_run run = {.first = f->chunk, .count = f->count};
    struct vine_err err = {0};
    uint64_t wanted;

    if (r != NULL && r->range.first != 0) {
        wanted = transfer_length(p->fetcher->vined, r->id, run);
        if (wanted != 0 && wanted != f->bulk_len) {
            vine_err_set(&err, VINE_ECORRUPT,
                         "chunks %u+%u from %s have %u bytes, not %llu", f->chunk,
                         f->count, p->name, f->bulk_len, (unsigned long long)wanted);
            fail_request(p, r, &err);
        }
    }
    return buffer_get(p->fetcher->vined);
}

static void *bulk_for_manifest(struct peer *p, const struct data_frame *f)
{
    struct request *r = find_request(p, f->tag);

    if (r == NULL || r->range.first != 0) {
        p->bulk = buffer_get(p->fetcher->vined); /* to be dropped */
        return p->bulk;
    }
    if (r->manifest == NULL) {
        r->manifest = malloc(f->total);
        r->manifest_total = f->total;
    }
    if (r->manifest == NULL || f->total != r->manifest_total ||
        f->offset != r->manifest_have || f->bulk_len > f->total - f->offset)
        return NULL;
    return r->manifest + f->offset;
}

static void take_refusal(struct peer *p, const struct data_frame *f)
{
    struct request *r = find_request(p, f->tag);
    struct vine_err err = {0};

    if (r == NULL)
        return;
    vine_err_set(&err, f->code, "%s refused: %s", p->name, vine_code_name(f->code));
    fail_request(p, r, &err);
}

static void take_here(struct peer *p, const struct data_frame *f)
{
    const struct chunk_run run = {.first = f->chunk, .count = f->count};
    struct request *r = find_request(p, f->tag);
    struct vined *vined = p->fetcher->vined;
    uint32_t first, count;

    if (r == NULL || r->range.first == 0)
        return;
    if (transfer_chunks(vined, r->id, &first, &count) < 0)
        remove_request(p, r); /* failed: the rest of its answer is dropped */
    else
        transfer_take_older(vined, r->id, run);
}

static void *on_frame(void *ctx, struct link *link, const struct session_frame *frame)
{
    struct peer *p = ctx;
    struct vine_err err = {0};
    struct data_frame f;

    if (data_decode(frame->kind, frame->payload, frame->len, frame->bulk_len, &f,
                    &err) < 0) {
        close_peer(p, &err);
        return NULL;
    }
    p->frame = f;
    p->bulk = NULL;
    switch (f.kind) {
    case DATA_CHUNK:
        p->bulk = bulk_for_chunk(p, &f);
        return p->bulk;
    case DATA_MANIFEST:
        return bulk_for_manifest(p, &f);
    case DATA_REFUSED:
        take_refusal(p, &f);
        return NULL;
    case DATA_HERE:
        take_here(p, &f);
        return NULL;
    default:
        vine_err_set(&err, VINE_EPROTO, "%s asks on a connection we ask on", p->name);
        close_peer(p, &err);
        return NULL;
    }
}

static void count_arrived(struct peer *p, struct request *r, uint32_t count)
{
    if (count >= r->left)
        remove_request(p, r);
    else
        r->left -= count;
}

static void chunk_arrived(struct peer *p)
{
    struct vined *vined = p->fetcher->vined;
    struct request *r = find_request(p, p->frame.tag);
    const struct chunk_run run = {.first = p->frame.chunk, .count = p->frame.count};
    uint32_t first, count;
    void *bytes = p->bulk;

    p->bulk = NULL;
    if (r != NULL && transfer_chunks(vined, r->id, &first, &count) < 0) {
        remove_request(p, r); /* failed: the rest of its answer is dropped */
        r = NULL;
    }
    if (r == NULL) {
        buffer_put(vined, bytes);
        return;
    }
    transfer_take(vined, r->id, run, bytes, p->frame.bulk_len);
    count_arrived(p, r, run.count);
}

static void manifest_arrived(struct peer *p)
{
    struct vined *vined = p->fetcher->vined;
    struct request *r = find_request(p, p->frame.tag);
    struct request whole;

    if (r == NULL)
        return;
    r->manifest_have += p->frame.bulk_len;
    if (r->manifest_have < r->manifest_total)
        return;
    whole = *r;
    r->manifest = NULL;
    remove_request(p, r);
    transfer_manifest(vined, whole.id, &whole.digest, whole.manifest,
                      whole.manifest_total);
    free(whole.manifest);
}

static void on_bulk_end(void *ctx, struct link *link)
{
    struct peer *p = ctx;

    if (p->frame.kind == DATA_CHUNK) {
        chunk_arrived(p);
        return;
    }
    if (p->bulk != NULL) { /* a manifest nobody waits for */
        buffer_put(p->fetcher->vined, p->bulk);
        p->bulk = NULL;
        return;
    }
    manifest_arrived(p);
}

static void on_closed(void *ctx, struct link *link, const struct vine_err *err)
{
    struct peer *p = ctx, **at = &p->fetcher->first;
    struct vined *vined = p->fetcher->vined;
    struct vine_err why = {0};

    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    if (err->code != VINE_OK && !vined->stopping)
        vine_log(VINE_LOG_INFO, "event=peer-closed peer=%s reason=%s", p->name,
                 vine_q(err->text));
    vine_err_set(&why, err->code != VINE_OK ? err->code : VINE_EDOWN,
                 "connection to %s: %s", p->name,
                 err->code != VINE_OK ? err->text : "closed");
    while (p->first != NULL) {
        if (vined->stopping)
            remove_request(p, p->first);
        else
            fail_request(p, p->first, &why);
    }
    buffer_put(vined, p->bulk);
    free(p);
}

static const struct link_ops link_callbacks = {
    .ready = on_ready,
    .frame = on_frame,
    .bulk_end = on_bulk_end,
    .closed = on_closed,
};

static void on_sweep(uv_timer_t *timer)
{
    struct fetcher *fetcher = timer->data;
    uint64_t now = vined_now(fetcher->vined);

    for (struct peer *p = fetcher->first; p != NULL; p = p->next)
        if (!p->closing && p->first == NULL && now - p->idle_since >= IDLE_MS)
            close_peer(p, NULL);
    buffers_trim(fetcher->vined);
    if (fetcher->first == NULL)
        (void)uv_timer_stop(timer);
}

static struct peer *connect_peer(struct fetcher *fetcher,
                                 const struct msg_assign *assign, struct vine_err *err)
{
    struct session_config config = {
        .role = SESSION_CONNECT,
        .service = SESSION_DATA,
        .self = fetcher->vined->name,
        .peer = assign->peer,
    };
    struct peer *p = calloc(1, sizeof(*p));

    if (p == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        return NULL;
    }
    p->fetcher = fetcher;
    p->port = assign->port;
    (void)strncpy(p->name, assign->peer, sizeof(p->name) - 1);
    (void)strncpy(p->addr, assign->addr, sizeof(p->addr) - 1);
    p->link = link_connect(&fetcher->vined->loop, assign->addr, assign->port, &config,
                           &link_callbacks, p, err);
    if (p->link == NULL) {
        free(p);
        return NULL;
    }
    p->idle_since = vined_now(fetcher->vined);
    p->next = fetcher->first;
    fetcher->first = p;
    if (!uv_is_active((uv_handle_t *)&fetcher->sweep))
        (void)uv_timer_start(&fetcher->sweep, on_sweep, IDLE_MS, IDLE_MS);
    return p;
}

static struct peer *find_peer(struct fetcher *fetcher, const struct msg_assign *assign)
{
    struct peer *p = fetcher->first;

    while (p != NULL &&
           (p->closing || p->port != assign->port ||
            strcmp(p->addr, assign->addr) != 0 || strcmp(p->name, assign->peer) != 0))
        p = p->next;
    return p;
}

static int begin(struct vined *vined, uint64_t id, const struct vine_digest *digest,
                 const struct msg_assign *assign, struct vine_err *err)
{
    struct peer *p = find_peer(vined->fetcher, assign);
    struct chunk_run runs[TRANSFER_RUNS_MAX];
    struct request *r, **at;

    if (p == NULL)
        p = connect_peer(vined->fetcher, assign, err);
    if (p == NULL)
        return -1;
    r = calloc(1, sizeof(*r));
    if (r == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if ((assign->range.first == 0
             ? transfer_expect_manifest(vined, id, err)
             : transfer_begin(vined, id, digest, assign->range, err)) < 0) {
        free(r);
        return -1;
    }
    if (assign->range.first != 0 && transfer_runs(vined, id, runs) == 0) {
        free(r); /* all of it is here: the transfer tells so */
        return 0;
    }
    r->id = id;
    r->digest = *digest;
    r->range = assign->range;
    for (at = &p->first; *at != NULL; at = &(*at)->next)
        ;
    *at = r;
    if (p->ready)
        send_request(p, r);
    return 0;
}

void fetch_from_peer(struct vined *vined, uint64_t id, const struct vine_digest *digest,
                     const struct msg_assign *assign)
{
    struct vine_err err = {0};

    if (begin(vined, id, digest, assign, &err) < 0)
        transfer_end_later(vined, id, &err);
}

void fetch_cancel(struct vined *vined, uint64_t id)
{
    transfer_end(vined, id, NULL);
    for (struct peer *p = vined->fetcher->first; p != NULL; p = p->next) {
        struct request *r = find_request(p, (uint32_t)id);
        /* A manifest may be on its way into r->manifest: it goes with the answer. */
        if (r != NULL && r->id == id && r->range.first != 0)
            remove_request(p, r);
    }
}

void fetch_took_older(struct vined *vined, uint64_t id, struct chunk_run run, bool took)
{
    for (struct peer *p = vined->fetcher->first; p != NULL; p = p->next) {
        struct request *r = p->closing ? NULL : find_request(p, (uint32_t)id);
        if (r == NULL || r->id != id)
            continue;
        if (took)
            count_arrived(p, r, run.count);
        else
            send_run(p, r, &run, false);
        return;
    }
}

int fetch_start(struct vined *vined, struct vine_err *err)
{
    vined->fetcher = calloc(1, sizeof(*vined->fetcher));
    if (vined->fetcher == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    vined->fetcher->vined = vined;
    (void)uv_timer_init(&vined->loop, &vined->fetcher->sweep);
    vined->fetcher->sweep.data = vined->fetcher;
    return 0;
}

void fetch_stop(struct vined *vined)
{
    uv_close((uv_handle_t *)&vined->fetcher->sweep, NULL);
    for (struct peer *p = vined->fetcher->first; p != NULL; p = p->next)
        if (!p->closing)
            close_peer(p, NULL);
}
