/* session.c - handshake states, frame checks and the error latch of one connection.
 *
 *   connect:  MAKE_HELLO -> AWAIT_WELCOME -> CHECK_WELCOME -> READY
 *   accept:   AWAIT_HELLO -> CHECK_HELLO -> AWAIT_CONFIRM -> READY
 *
 * MAKE and CHECK states are munge steps, done by session_work. In each state one kind
 * of frame is legal and its length is bounded before a byte of it is kept. Nobody may
 * send ahead: a byte that comes while a munge step is due is a violation.
 *
 * An accepting session is READY only after CONFIRM, a frame without content whose MAC
 * shows that the peer could read our key half: a replayed credential gets no further,
 * so it cannot make a manager drop the true connection of that name.
 *
 * Errors are written to s->err once, by die(); every public function reports that. */
#include "daemon/wire/session.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/wire/bytes.h"
#include "daemon/wire/frame.h"
#include "daemon/wire/handshake.h"
#include "daemon/wire/name.h"

/* Frame kinds of the session itself. */
enum {
    KIND_HELLO = 0xf0,
    KIND_WELCOME = 0xf1,
    KIND_REFUSED = 0xf2,
    KIND_CONFIRM = 0xf3,
};

/* HELLO, WELCOME and REFUSED begin with this and u16 version, in all versions. */
static const char magic[4] = {'V', 'I', 'N', 'E'};
#define PREFACE_LEN (sizeof(magic) + 2)

/* Why an accepting side refuses: a number, so that no text of a stranger is shown. */
enum refusal {
    REFUSAL_VERSION = 1,
    REFUSAL_CREDENTIAL = 2,
    REFUSAL_UID = 3,
    REFUSAL_NAME = 4,
    REFUSAL_INTERNAL = 5,
};

enum state {
    MAKE_HELLO,
    AWAIT_WELCOME,
    CHECK_WELCOME,
    AWAIT_HELLO,
    CHECK_HELLO,
    AWAIT_CONFIRM,
    READY,
    DEAD
};

struct session {
    enum state state;
    enum session_role role;
    enum session_service service;
    char self[VINE_NAME_MAX];
    char
        peer[VINE_NAME_MAX]; /* connect: expected; accept: proved or, before, claimed */
    uint32_t frame_max, bulk_max;
    const struct auth_ops *auth;
    void *auth_ctx;

    struct handshake_offer mine, theirs; /* wiped once the keys exist */
    char *credential;                    /* received, waiting for session_work */
    struct vine_digest key_in, key_out;
    uint64_t sequence_in, sequence_out;

    struct frame_queue in;      /* at most one frame */
    struct frame_header header; /* of it, once header_known */
    bool header_known;
    bool frame_waiting; /* complete and verified; session_next has not given it */
    bool frame_given;   /* borrowed: goes at the next session_feed */
    uint32_t bulk_left, bulk_due;

    struct frame_queue out;
    struct vine_err err;
};

/* s->err is set, or is set here; whatever is secret goes at once. A frame the caller
 * has borrowed and the bulk it is counting stay: session_send may die amidst them. */
static int die(struct session *s, struct vine_err *err)
{
    (void)vine_err_set(&s->err, VINE_EPROTO, "connection violated the protocol");
    s->state = DEAD;
    s->frame_waiting = false;
    explicit_bzero(&s->mine, sizeof(s->mine));
    explicit_bzero(&s->theirs, sizeof(s->theirs));
    explicit_bzero(&s->key_in, sizeof(s->key_in));
    explicit_bzero(&s->key_out, sizeof(s->key_out));
    free(s->credential);
    s->credential = NULL;
    return vine_err_set(err, s->err.code, "%s", s->err.text);
}

static int config_check(const struct session_config *c, struct vine_err *err)
{
    if (c->service != SESSION_CONTROL && c->service != SESSION_DATA)
        return vine_err_set(err, VINE_EINVAL, "no service %d", (int)c->service);
    if (c->self == NULL || !wire_name_valid(c->self))
        return vine_err_set(err, VINE_EINVAL,
                            "own name '%.80s' is not of the form [A-Za-z0-9._-]{1,63}",
                            c->self != NULL ? c->self : "");
    if (c->role == SESSION_CONNECT && (c->peer == NULL || !wire_name_valid(c->peer)))
        return vine_err_set(err, VINE_EINVAL,
                            "peer name '%.80s' is not of the form [A-Za-z0-9._-]{1,63}",
                            c->peer != NULL ? c->peer : "");
    return 0;
}

struct session *session_new(const struct session_config *config, struct vine_err *err)
{
    bool data = config->service == SESSION_DATA;
    struct session *s;

    if (config_check(config, err) < 0)
        return NULL;
    s = calloc(1, sizeof(*s));
    if (s == NULL) {
        (void)vine_err_set(err, VINE_ENOMEM, "out of memory for a connection");
        return NULL;
    }
    s->role = config->role;
    s->state = s->role == SESSION_CONNECT ? MAKE_HELLO : AWAIT_HELLO;
    s->service = config->service;
    strcpy(s->self, config->self);
    if (s->role == SESSION_CONNECT)
        strcpy(s->peer, config->peer);
    s->frame_max = data ? SESSION_DATA_FRAME_MAX : VINE_FRAME_MAX;
    s->bulk_max = data ? VINE_CHUNK_MAX : 0;
    if (config->frame_max > 0)
        s->frame_max = config->frame_max;
    if (config->bulk_max > 0)
        s->bulk_max = config->bulk_max;
    s->auth = config->auth != NULL ? config->auth : &auth_munge;
    s->auth_ctx = config->auth_ctx;
    return s;
}

void session_free(struct session *s)
{
    if (s == NULL)
        return;
    (void)die(s, NULL);
    frame_queue_free(&s->in);
    frame_queue_free(&s->out);
    explicit_bzero(s, sizeof(*s));
    free(s);
}

bool session_needs_work(const struct session *s)
{
    return s->state == MAKE_HELLO || s->state == CHECK_WELCOME ||
           s->state == CHECK_HELLO;
}

/* ---- the munge steps ---- */

/* Queue HELLO or WELCOME: preface and a fresh credential with s->mine. */
static int queue_offer(struct session *s, uint8_t kind)
{
    uint8_t offer[HANDSHAKE_OFFER_MAX],
        payload[SESSION_HANDSHAKE_MAX - FRAME_HEADER_LEN];
    struct writer w = {.next = payload, .left = sizeof(payload)};
    struct frame_header header = {.kind = kind};
    size_t len = handshake_encode(&s->mine, offer);
    char *credential = NULL;
    int rc;

    rc = s->auth->encode(s->auth_ctx, offer, len, geteuid(), &credential, &s->err);
    explicit_bzero(offer, sizeof(offer));
    if (rc < 0)
        return -1;
    put_bytes(&w, magic, sizeof(magic));
    put_u16(&w, SESSION_VERSION);
    put_bytes(&w, credential, strlen(credential));
    free(credential);
    if (w.bad)
        return vine_err_set(&s->err, VINE_ELIMIT, "own credential is over %zu bytes",
                            sizeof(payload) - PREFACE_LEN);
    header.len = (uint32_t)(sizeof(payload) - w.left);
    return frame_queue_put(&s->out, &header, payload, 0, NULL, &s->err);
}

/* Decode s->credential into s->theirs and check all but the nonce. On error *refusal
 * says what to tell the peer. */
static int check_credential(struct session *s, enum handshake_step step,
                            enum refusal *refusal)
{
    uint8_t offer[HANDSHAKE_OFFER_MAX];
    size_t len = 0;
    uid_t uid = (uid_t)-1;
    int rc;

    rc = s->auth->decode(s->auth_ctx, s->credential, offer, sizeof(offer), &len, &uid,
                         &s->err);
    *refusal =
        rc < 0 && s->err.code != VINE_EAUTH ? REFUSAL_INTERNAL : REFUSAL_CREDENTIAL;
    if (rc == 0)
        rc = handshake_decode(offer, len, &s->theirs, &s->err);
    explicit_bzero(offer, sizeof(offer));
    if (rc < 0)
        return -1;
    if (uid != 0 && uid != geteuid()) {
        *refusal = REFUSAL_UID;
        return vine_err_set(&s->err, VINE_EAUTH,
                            "peer runs as uid %u: only root and uid %u are accepted",
                            (unsigned)uid, (unsigned)geteuid());
    }
    if (s->theirs.step != step || s->theirs.version != SESSION_VERSION)
        return vine_err_set(
            &s->err, VINE_EAUTH,
            "credential is of another step or version of the handshake");
    *refusal = REFUSAL_NAME;
    if (s->theirs.service != s->service)
        return vine_err_set(&s->err, VINE_EAUTH,
                            "peer '%s' wants service %u, this is service %u: check the "
                            "ports in vine-env.conf",
                            s->theirs.self, s->theirs.service, (unsigned)s->service);
    if (strcmp(s->theirs.peer, s->self) != 0)
        return vine_err_set(&s->err, VINE_EAUTH,
                            "peer '%s' wants to talk to '%s', but this is '%s'",
                            s->theirs.self, s->theirs.peer, s->self);
    return 0;
}

static int make_hello(struct session *s)
{
    s->mine = (struct handshake_offer){.step = HANDSHAKE_HELLO,
                                       .version = SESSION_VERSION,
                                       .service = (uint8_t)s->service};
    strcpy(s->mine.self, s->self);
    strcpy(s->mine.peer, s->peer);
    if (handshake_fill(&s->mine, &s->err) < 0 || queue_offer(s, KIND_HELLO) < 0)
        return -1;
    s->state = AWAIT_WELCOME;
    return 0;
}

static void forget_handshake(struct session *s)
{
    explicit_bzero(&s->mine, sizeof(s->mine));
    explicit_bzero(&s->theirs, sizeof(s->theirs));
    free(s->credential);
    s->credential = NULL;
}

static int check_welcome(struct session *s)
{
    struct frame_header confirm = {.kind = KIND_CONFIRM};
    enum refusal unused;

    if (check_credential(s, HANDSHAKE_WELCOME, &unused) < 0)
        return -1;
    if (strcmp(s->theirs.self, s->peer) != 0)
        return vine_err_set(&s->err, VINE_EAUTH,
                            "expected '%s', but '%s' answers there", s->peer,
                            s->theirs.self);
    if (memcmp(s->theirs.echo, s->mine.nonce, sizeof(s->mine.nonce)) != 0)
        return vine_err_set(&s->err, VINE_EAUTH, "'%s' answered to an old handshake",
                            s->peer);
    handshake_keys(&s->mine, &s->theirs, &s->key_out, &s->key_in);
    forget_handshake(s);
    if (frame_queue_put(&s->out, &confirm, NULL, s->sequence_out, &s->key_out,
                        &s->err) < 0)
        return -1;
    s->sequence_out++;
    s->state = READY;
    return 0;
}

static void queue_refusal(struct session *s, enum refusal reason)
{
    uint8_t payload[PREFACE_LEN + 1];
    struct writer w = {.next = payload, .left = sizeof(payload)};
    struct frame_header header = {.kind = KIND_REFUSED, .len = sizeof(payload)};

    put_bytes(&w, magic, sizeof(magic));
    put_u16(&w, SESSION_VERSION);
    put_u8(&w, (uint8_t)reason);
    (void)frame_queue_put(&s->out, &header, payload, 0, NULL, NULL);
}

static int check_hello(struct session *s)
{
    enum refusal refusal;

    if (check_credential(s, HANDSHAKE_HELLO, &refusal) < 0) {
        queue_refusal(s, refusal);
        return -1;
    }
    s->mine = (struct handshake_offer){.step = HANDSHAKE_WELCOME,
                                       .version = SESSION_VERSION,
                                       .service = (uint8_t)s->service};
    strcpy(s->mine.self, s->self);
    strcpy(s->mine.peer, s->theirs.self);
    memcpy(s->mine.echo, s->theirs.nonce, sizeof(s->mine.echo));
    if (handshake_fill(&s->mine, &s->err) < 0 || queue_offer(s, KIND_WELCOME) < 0) {
        queue_refusal(s, REFUSAL_INTERNAL);
        return -1;
    }
    handshake_keys(&s->theirs, &s->mine, &s->key_in, &s->key_out);
    strcpy(s->peer, s->theirs.self);
    forget_handshake(s);
    s->state = AWAIT_CONFIRM;
    return 0;
}

int session_work(struct session *s, struct vine_err *err)
{
    int rc;

    switch (s->state) {
    case MAKE_HELLO:
        rc = make_hello(s);
        break;
    case CHECK_WELCOME:
        rc = check_welcome(s);
        break;
    case CHECK_HELLO:
        rc = check_hello(s);
        break;
    case DEAD:
        rc = -1;
        break;
    default:
        return 0;
    }
    return rc < 0 ? die(s, err) : 0;
}

/* ---- bytes in ---- */

/* What a header may say in this state, before anything is allocated for it. */
static int check_header(struct session *s)
{
    const struct frame_header *h = &s->header;
    uint32_t len_max = SESSION_HANDSHAKE_MAX - FRAME_HEADER_LEN, bulk_max = 0;
    bool kind_ok;

    switch (s->state) {
    case AWAIT_HELLO:
        kind_ok = h->kind == KIND_HELLO;
        break;
    case AWAIT_WELCOME:
        kind_ok = h->kind == KIND_WELCOME || h->kind == KIND_REFUSED;
        break;
    case AWAIT_CONFIRM:
        kind_ok = h->kind == KIND_CONFIRM;
        len_max = 0;
        break;
    default:
        kind_ok = h->kind >= 1 && h->kind <= SESSION_KIND_MAX;
        len_max = s->frame_max;
        bulk_max = s->bulk_max;
        break;
    }
    if (!kind_ok && s->state != READY)
        return vine_err_set(&s->err, VINE_EPROTO,
                            "unexpected frame of kind 0x%02x in the handshake: is this "
                            "a vine-env daemon?",
                            h->kind);
    if (!kind_ok)
        return vine_err_set(&s->err, VINE_EPROTO, "unknown frame kind 0x%02x", h->kind);
    if (h->len > len_max)
        return vine_err_set(&s->err, VINE_EPROTO, "frame of %u bytes, limit %u", h->len,
                            len_max);
    if (h->bulk_len > bulk_max)
        return vine_err_set(&s->err, VINE_EPROTO, "bulk of %u bytes, limit %u",
                            h->bulk_len, bulk_max);
    return 0;
}

static int version_error(struct session *s, unsigned theirs)
{
    return vine_err_set(&s->err, VINE_EPROTO,
                        "peer speaks protocol version %u, this daemon version %d: "
                        "install the same vine-env on all hosts",
                        theirs, SESSION_VERSION);
}

/* REFUSED is not authenticated: it can only end a connection that had not begun. */
static int take_refusal(struct session *s, struct reader *r, unsigned version)
{
    static const char *const reasons[] = {
        [REFUSAL_VERSION] = "it speaks another version of the protocol",
        [REFUSAL_CREDENTIAL] = "it cannot verify our credential: munge.key or clock "
                               "differs, or its log has more",
        [REFUSAL_UID] = "it does not accept daemons of this uid",
        [REFUSAL_NAME] = "it has another name or serves something else on this port: "
                         "check names and ports in vine-env.conf",
        [REFUSAL_INTERNAL] = "it had a problem of its own, its log says which",
    };
    uint8_t reason = get_u8(r);

    if (!reader_done(r) || reason == 0 || reason >= sizeof(reasons) / sizeof(*reasons))
        return vine_err_set(&s->err, VINE_EPROTO, "malformed refusal");
    if (reason == REFUSAL_VERSION && version != SESSION_VERSION)
        return version_error(s, version);
    return vine_err_set(&s->err, VINE_EAUTH, "'%s' refused the connection: %s", s->peer,
                        reasons[reason]);
}

/* A complete HELLO, WELCOME or REFUSED. */
static int take_handshake(struct session *s, const uint8_t *payload, size_t len)
{
    struct reader r = {.next = payload, .left = len};
    char start[sizeof(magic)];
    unsigned version;

    get_bytes(&r, start, sizeof(start), sizeof(start));
    version = get_u16(&r);
    if (r.bad || memcmp(start, magic, sizeof(magic)) != 0)
        return vine_err_set(&s->err, VINE_EPROTO, "peer is not a vine-env daemon");
    if (s->header.kind == KIND_REFUSED)
        return take_refusal(s, &r, version);
    if (version != SESSION_VERSION) {
        if (s->state == AWAIT_HELLO)
            queue_refusal(s, REFUSAL_VERSION);
        return version_error(s, version);
    }
    for (size_t i = 0; i < r.left; i++)
        if (r.next[i] < 0x20 || r.next[i] > 0x7e)
            return vine_err_set(&s->err, VINE_EPROTO, "credential is not text");
    s->credential = strndup((const char *)r.next, r.left);
    if (s->credential == NULL)
        return vine_err_set(&s->err, VINE_ENOMEM, "out of memory for a credential");
    s->state = s->state == AWAIT_HELLO ? CHECK_HELLO : CHECK_WELCOME;
    return 0;
}

/* One whole frame is in s->in. */
static int take_frame(struct session *s)
{
    uint8_t *frame = s->in.data + FRAME_HEADROOM;
    struct vine_digest expected, got;

    if (s->state == AWAIT_HELLO || s->state == AWAIT_WELCOME) {
        int rc = take_handshake(s, frame + FRAME_HEADER_LEN, s->header.len);

        s->frame_given = true;
        return rc;
    }
    frame_mac(frame, s->header.len, s->sequence_in, &s->key_in, &expected);
    memcpy(got.b, frame + FRAME_HEADER_LEN + s->header.len, sizeof(got.b));
    if (!vine_digest_equal(&expected, &got))
        return vine_err_set(&s->err, VINE_EAUTH, "frame %llu of '%s' is not authentic",
                            (unsigned long long)s->sequence_in, s->peer);
    s->sequence_in++;
    if (s->state == AWAIT_CONFIRM) {
        s->state = READY;
        s->frame_given = true;
    } else {
        s->frame_waiting = true;
    }
    return 0;
}

/* Bytes of the frame that must be there before the next decision. */
static size_t frame_goal(const struct session *s)
{
    bool mac = s->state == AWAIT_CONFIRM || s->state == READY;

    if (!s->header_known)
        return FRAME_HEADER_LEN;
    return FRAME_HEADER_LEN + (size_t)s->header.len + (mac ? FRAME_MAC_LEN : 0);
}

static void drop_given_frame(struct session *s)
{
    frame_queue_taken(&s->in, s->in.len);
    s->header_known = false;
    s->frame_given = false;
}

int session_feed(struct session *s, const void *buf, size_t len, size_t *consumed,
                 struct vine_err *err)
{
    const uint8_t *bytes = buf;

    *consumed = 0;
    if (s->state == DEAD)
        return die(s, err);
    if (len == 0 || s->frame_waiting || s->bulk_left > 0)
        return 0;
    if (session_needs_work(s)) {
        (void)vine_err_set(&s->err, VINE_EPROTO, "peer sent bytes out of turn");
        return die(s, err);
    }
    if (s->frame_given)
        drop_given_frame(s);
    for (;;) {
        size_t goal = frame_goal(s), n = goal - s->in.len;

        if (n > len - *consumed)
            n = len - *consumed;
        if (frame_queue_add(&s->in, bytes + *consumed, n, &s->err) < 0)
            return die(s, err);
        *consumed += n;
        if (s->in.len < goal)
            return 0;
        if (s->header_known)
            return take_frame(s) < 0 ? die(s, err) : 0;
        s->header = frame_header_get(frame_queue_bytes(&s->in));
        if (check_header(s) < 0)
            return die(s, err);
        s->header_known = true;
    }
}

bool session_next(struct session *s, struct session_frame *frame)
{
    if (!s->frame_waiting)
        return false;
    s->frame_waiting = false;
    s->frame_given = true;
    s->bulk_left = s->header.bulk_len;
    *frame = (struct session_frame){
        .kind = s->header.kind,
        .bulk_len = s->header.bulk_len,
        .payload = s->in.data + FRAME_HEADROOM + FRAME_HEADER_LEN,
        .len = s->header.len,
    };
    return true;
}

uint32_t session_bulk_left(const struct session *s)
{
    return s->bulk_left;
}

void session_bulk_take(struct session *s, uint32_t n)
{
    assert(n <= s->bulk_left);
    s->bulk_left -= n;
}

/* ---- bytes out ---- */

int session_send(struct session *s, uint8_t kind, const void *payload, size_t len,
                 uint32_t bulk_len, struct vine_err *err)
{
    struct frame_header header = {.kind = kind, .bulk_len = bulk_len};

    if (s->state == DEAD)
        return die(s, err);
    if (s->state != READY || s->bulk_due > 0 || kind < 1 || kind > SESSION_KIND_MAX)
        return vine_err_set(err, VINE_EINVAL, "cannot send frame 0x%02x: %s", kind,
                            s->state != READY ? "handshake is not done"
                            : s->bulk_due > 0 ? "bulk of the last frame is due"
                                              : "no such kind");
    if (len > s->frame_max || bulk_len > s->bulk_max)
        return vine_err_set(err, VINE_ELIMIT,
                            "cannot send frame 0x%02x of %zu and %u bytes, limits %u "
                            "and %u",
                            kind, len, bulk_len, s->frame_max, s->bulk_max);
    if (s->out.len + FRAME_HEADER_LEN + len + FRAME_MAC_LEN > SESSION_OUTPUT_MAX) {
        (void)vine_err_set(&s->err, VINE_ELIMIT, "'%s' does not read: %zu bytes wait",
                           s->peer, s->out.len);
        return die(s, err);
    }
    header.len = (uint32_t)len;
    if (frame_queue_put(&s->out, &header, payload, s->sequence_out, &s->key_out, err) <
        0)
        return -1;
    s->sequence_out++;
    s->bulk_due = bulk_len;
    return 0;
}

uint32_t session_bulk_due(const struct session *s)
{
    return s->bulk_due;
}

void session_bulk_sent(struct session *s, uint32_t n)
{
    assert(n <= s->bulk_due);
    s->bulk_due -= n;
}

const uint8_t *session_output(const struct session *s, size_t *len)
{
    *len = s->out.len;
    return frame_queue_bytes(&s->out);
}

void session_output_taken(struct session *s, size_t n)
{
    frame_queue_taken(&s->out, n);
}

bool session_ready(const struct session *s)
{
    return s->state == READY;
}

const char *session_peer_name(const struct session *s)
{
    return s->role == SESSION_CONNECT || s->state == READY ? s->peer : NULL;
}

const struct vine_err *session_error(const struct session *s)
{
    return &s->err;
}
