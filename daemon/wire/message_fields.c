/* message_fields.c - which fields each message has, and what they may be.
 *
 * A message is one object: {"type": "...", fields...}. Which fields a type has stands
 * in `message_types`; how a field looks, where it lives in the struct and what it may
 * be stands in the rows above it. Encoders and decoders walk the same rows, so what one
 * writes the other takes, and all refuse what msg.h forbids. The first number of a type
 * is that of its compact form (message_compact.c); the rest of this is JSON's.
 *
 * Numbers are JSON integers, all below 2^63. job and ticket use all 64 bits and are 1
 * to 16 lower-case hex digits in a string. Paths may hold any byte but zero and are
 * percent-escaped (client.h); only the canonical escape is taken. */
#include "daemon/wire/message_fields.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <string.h>

#include "daemon/wire/message.h"
#include "daemon/wire/name.h"
#include "vine/spec.h"

#define N(table) (sizeof(table) / sizeof(*(table)))

/* ---- elements of lists ---- */

static const struct field range_fields[] = {
    {"first", K_U32, offsetof(struct msg_range, first), 0, VINE_PIECES_MAX - 1, NULL},
    {"count", K_U32, offsetof(struct msg_range, count), 1, VINE_PIECES_MAX, NULL},
};

static const struct field assign_fields[] = {
    {"first", K_U32, offsetof(struct msg_assign, range.first), 0, VINE_PIECES_MAX - 1,
     NULL},
    {"count", K_U32, offsetof(struct msg_assign, range.count), 1, VINE_PIECES_MAX,
     NULL},
    {"peer", K_NAME, offsetof(struct msg_assign, peer), 0, 0, NULL},
    {"addr", K_ADDR, offsetof(struct msg_assign, addr), 0, 0, NULL},
    {"port", K_U16, offsetof(struct msg_assign, port), 1, UINT16_MAX, NULL},
    {"feed", K_BOOL, offsetof(struct msg_assign, feed), 0, 0, NULL},
};

static const struct field_list key_list = {
    .count_at = offsetof(struct msg_object, key_count),
    .element_size = sizeof(struct vine_digest),
    .max = VINE_KEYS_MAX,
    .kind = K_DIGEST,
};

static const struct field object_fields[] = {
    {"digest", K_DIGEST, offsetof(struct msg_object, digest), 0, 0, NULL},
    {"size", K_U64, offsetof(struct msg_object, size), 0, VINE_OBJECT_MAX, NULL},
    {"pieces", K_U32, offsetof(struct msg_object, pieces), 1, VINE_PIECES_MAX, NULL},
    {"complete", K_BOOL, offsetof(struct msg_object, complete), 0, 0, NULL},
    {"trusted", K_BOOL, offsetof(struct msg_object, trusted), 0, 0, NULL},
    {"keys", K_LIST, offsetof(struct msg_object, keys), 0, 0, &key_list},
};

/* UINT32_MAX is "any uid" in the core and no uid at all in the kernel. */
#define ID_MAX (UINT32_MAX - 1)

static const struct field binding_fields[] = {
    {"job", K_HEX64, offsetof(struct msg_binding, job), 0, UINT64_MAX, NULL},
    {"uid", K_U32, offsetof(struct msg_binding, uid), 0, ID_MAX, NULL},
    {"path", K_PATH, offsetof(struct msg_binding, path), 0, 0, NULL},
    {"digest", K_DIGEST, offsetof(struct msg_binding, digest), 0, 0, NULL},
};

static const char *check_range(const void *element)
{
    const struct msg_range *r = element;

    if (r->count > VINE_PIECES_MAX - r->first)
        return "has a range past the last possible piece";
    return NULL;
}
/* check_range serves assignments too. */
_Static_assert(offsetof(struct msg_assign, range) == 0, "the range comes first");

#define OBJECT_LIST(counter, type, limit, table, checker)                              \
    {                                                                                  \
        .count_at = offsetof(struct msg, counter), .element_size = sizeof(type),       \
        .max = (limit), .fields = (table), .field_count = N(table), .check = (checker) \
    }

static const struct field_list range_list = OBJECT_LIST(
    range_count, struct msg_range, VINE_PIECES_MAX, range_fields, check_range);
static const struct field_list assign_list = OBJECT_LIST(
    assign_count, struct msg_assign, MESSAGE_ASSIGNS_MAX, assign_fields, check_range);
static const struct field_list object_list =
    OBJECT_LIST(object_count, struct msg_object, VINE_OBJECTS_MAX, object_fields, NULL);
static const struct field_list binding_list =
    OBJECT_LIST(binding_count, struct msg_binding, (VINE_JOBS_MAX * VINE_SOURCES_MAX),
                binding_fields, NULL);
static const struct field story_fields[] = {
    {"from", K_U32, offsetof(struct msg_story, from), 0, MSG_FROM_KINDS - 1, NULL},
    {"peer", K_NAME_OR_EMPTY, offsetof(struct msg_story, peer), 0, 0, NULL},
    {"bytes", K_U64, offsetof(struct msg_story, bytes), 0, VINE_OBJECT_MAX, NULL},
    {"first_ms", K_U32, offsetof(struct msg_story, first_ms), 0, UINT32_MAX, NULL},
    {"last_ms", K_U32, offsetof(struct msg_story, last_ms), 0, UINT32_MAX, NULL},
};

static const struct field_list story_list =
    OBJECT_LIST(row_count, struct msg_story, VINE_STORY_MAX, story_fields, NULL);
static const struct field_list name_list = {
    .count_at = offsetof(struct msg, name_count),
    .element_size = sizeof(const char *),
    .max = VINE_NODES_MAX,
    .kind = K_NAME,
};

/* ---- fields of messages ---- */

#define AT(member) offsetof(struct msg, member)
#define ROW(id, ...) static const struct field id = {__VA_ARGS__}

ROW(f_ticket, "ticket", K_HEX64, AT(ticket), 0, UINT64_MAX, NULL);
ROW(f_job, "job", K_HEX64, AT(job), 0, UINT64_MAX, NULL);
ROW(f_uid, "uid", K_U32, AT(uid), 0, ID_MAX, NULL);
ROW(f_gid, "gid", K_U32, AT(gid), 0, ID_MAX, NULL);
ROW(f_path, "path", K_PATH, AT(path), 0, 0, NULL);
ROW(f_code, "code", K_CODE, AT(code), 0, 0, NULL);
ROW(f_text, "text", K_TEXT, AT(text), 0, 0, NULL);
ROW(f_has_digest, "has_digest", K_BOOL, AT(has_digest), 0, 0, NULL);
ROW(f_digest, "digest", K_DIGEST, AT(digest), 0, 0, NULL);
ROW(f_key, "key", K_DIGEST, AT(key), 0, 0, NULL);
ROW(f_size, "size", K_U64, AT(size), 0, VINE_OBJECT_MAX, NULL);
ROW(f_offset, "offset", K_U64, AT(offset), 0, VINE_OBJECT_MAX, NULL);
ROW(f_estimate, "estimate", K_U64, AT(estimate), 0, INT64_MAX, NULL);
ROW(f_pieces, "pieces", K_U32, AT(pieces), 1, VINE_PIECES_MAX, NULL);
ROW(f_copies, "copies", K_U32, AT(copies), 0, VINE_NODES_MAX, NULL);
ROW(f_parts, "parts", K_BOOL, AT(parts), 0, 0, NULL);
ROW(f_claim, "claim", K_U32, AT(claim), 0, MSG_CLAIMS - 1, NULL);
ROW(f_trusted, "trusted", K_BOOL, AT(trusted), 0, 0, NULL);
ROW(f_hold, "hold", K_BOOL, AT(hold), 0, 0, NULL);
ROW(f_brief, "brief", K_BOOL, AT(brief), 0, 0, NULL);
ROW(f_reusing, "reusing", K_BOOL, AT(reusing), 0, 0, NULL);
/* Empty peer: the node failed at its own source, no peer had a part in it. */
ROW(f_peer, "peer", K_NAME_OR_EMPTY, AT(peer), 0, 0, NULL);
ROW(f_switch_name, "switch_name", K_NAME_OR_EMPTY, AT(switch_name), 0, 0, NULL);
ROW(f_port, "port", K_U16, AT(port), 1, UINT16_MAX, NULL);
ROW(f_heartbeat, "heartbeat_ms", K_U32, AT(heartbeat_ms), 1, UINT32_MAX, NULL);
ROW(f_wanted, "wanted_ms", K_U32, AT(wanted_ms), 0, UINT32_MAX, NULL);
ROW(f_begun, "begun_ms", K_U32, AT(begun_ms), 0, UINT32_MAX, NULL);
ROW(f_ended, "ended_ms", K_U32, AT(ended_ms), 0, UINT32_MAX, NULL);
ROW(f_rows, "rows", K_LIST, AT(rows), 0, 0, &story_list);
ROW(f_ranges, "ranges", K_LIST, AT(ranges), 0, 0, &range_list);
ROW(f_assigns, "assigns", K_LIST, AT(assigns), 0, 0, &assign_list);
ROW(f_objects, "objects", K_LIST, AT(objects), 0, 0, &object_list);
ROW(f_bindings, "bindings", K_LIST, AT(bindings), 0, 0, &binding_list);
ROW(f_names, "names", K_LIST, AT(names), 0, 0, &name_list);

/* ---- types ---- */

/* clang-format off */
#define R(row) {&f_##row, ALWAYS}
#define OK(row) {&f_##row, IF_OK}
#define DG(row) {&f_##row, IF_DIGEST}

const struct message_type message_types[MSG_TYPES] = {
    /* node -> manager */
    [MSG_REGISTER] = {"register", 0, 4, {R(port), R(switch_name), R(objects), R(bindings)}},
    [MSG_WANT] = {"want", 0, 4, {R(job), R(uid), R(gid), R(path)}},
    [MSG_RELEASE] = {"release", 0, 3, {R(job), R(code), R(text)}},
    [MSG_RESOLVED] = {"resolved", 0, 10, {R(ticket), R(code), R(text), OK(key), OK(estimate),
                      OK(has_digest), DG(digest), DG(size), DG(pieces), DG(trusted)}},
    [MSG_PROVED] = {"proved", 0, 3, {R(ticket), R(code), R(text)}},
    [MSG_BUILT] = {"built", 0, 8, {R(ticket), R(code), R(text), OK(key), OK(digest), OK(size),
                   OK(pieces), OK(trusted)}},
    [MSG_BUILDING] = {"building", 0, 3, {R(ticket), R(offset), R(size)}},
    [MSG_PART_MADE] = {"part_made", 0, 5, {R(ticket), R(digest), R(size), R(pieces), R(offset)}},
    [MSG_HAVE] = {"have", 1, 3, {R(digest), R(ranges), R(reusing)}},
    [MSG_FAILED] = {"failed", 0, 4, {R(digest), R(ranges), R(peer), R(code)}},
    [MSG_EVICTED] = {"evicted", 0, 1, {R(digest)}},
    [MSG_STAGE] = {"stage", 0, 6, {R(ticket), R(job), R(uid), R(gid), R(path), R(names)}},
    [MSG_PING] = {"ping", 4, 0, {{NULL, ALWAYS}}},
    [MSG_PONG] = {"pong", 5, 0, {{NULL, ALWAYS}}},
    [MSG_ASK_STATUS] = {"ask_status", 0, 4, {R(ticket), R(job), R(uid), R(brief)}},
    [MSG_NAME] = {"name", 0, 7, {R(ticket), R(job), R(uid), R(gid), R(path), R(copies), R(names)}},
    /* either direction */
    [MSG_URGENT] = {"urgent", 0, 2, {R(digest), R(ranges)}},
    [MSG_AWAITED] = {"awaited", 0, 2, {R(digest), R(ranges)}},
    [MSG_TOUCHED] = {"touched", 0, 2, {R(digest), R(ranges)}},
    [MSG_HOLD] = {"hold", 0, 2, {R(digest), R(hold)}},
    /* node -> manager */
    [MSG_STORY] = {"story", 0, 10, {R(job), R(uid), R(path), R(digest), R(size), R(code),
                   R(wanted), R(begun), R(ended), R(rows)}},
    [MSG_ASK_STORIES] = {"ask_stories", 0, 4, {R(ticket), R(job), R(uid), R(offset)}},
    /* manager -> node */
    [MSG_REGISTERED] = {"registered", 0, 1, {R(heartbeat)}},
    [MSG_RESOLVE] = {"resolve", 0, 5, {R(ticket), R(job), R(uid), R(gid), R(path)}},
    [MSG_BUILD] = {"build", 0, 2, {R(ticket), R(parts)}},
    [MSG_PROVE] = {"prove", 0, 1, {R(ticket)}},
    [MSG_CLOSE] = {"close", 0, 1, {R(ticket)}},
    [MSG_BINDING] = {"binding", 0, 11, {R(job), R(uid), R(path), R(code), R(text), OK(digest),
                     OK(size), OK(pieces), OK(trusted), OK(key), OK(claim)}},
    [MSG_PART] = {"part", 0, 8, {R(ticket), R(job), R(uid), R(path), R(digest), R(size), R(pieces),
                  R(offset)}},
    [MSG_FETCH] = {"fetch", 2, 3, {R(digest), R(heartbeat), R(assigns)}},
    [MSG_REVOKE] = {"revoke", 3, 2, {R(digest), R(ranges)}},
    [MSG_WANTED] = {"wanted", 0, 4, {R(job), R(uid), R(gid), R(path)}},
    [MSG_STAGED] = {"staged", 0, 3, {R(ticket), R(code), R(text)}},
    [MSG_STATUS] = {"status", 0, 2, {R(ticket), R(text)}},
    [MSG_NAMED] = {"named", 0, 4, {R(ticket), R(code), R(text), OK(path)}},
    [MSG_STORIES] = {"stories", 0, 3, {R(ticket), R(code), R(text)}},
    [MSG_REPLACED] = {"replaced", 0, 3, {R(job), R(uid), R(path)}},
    [MSG_LEAVE] = {"leave", 0, 3, {R(job), R(uid), R(path)}},
};
/* clang-format on */

const char *msg_type_name(enum msg_type type)
{
    return (unsigned)type < MSG_TYPES ? message_types[type].name : "unknown";
}

bool message_row_applies(const struct message_row *row, const struct msg *m)
{
    if (row->when == IF_OK)
        return m->code == VINE_OK;
    if (row->when == IF_DIGEST)
        return m->code == VINE_OK && m->has_digest;
    return true;
}

int message_refuse(const struct place *p, const char *why)
{
    return vine_err_set(p->err, p->code, "message '%s': field '%s' %s", p->type,
                        p->field, why);
}

int message_check_number(const struct place *p, const struct field *f, uint64_t v)
{
    if (v >= f->min && v <= f->max)
        return 0;
    return vine_err_set(p->err, p->code,
                        "message '%s': field '%s' is %" PRIu64 ", allowed are %" PRIu64
                        " to %" PRIu64,
                        p->type, p->field, v, f->min, f->max);
}

int message_check_string(const struct place *p, enum field_kind kind, const char *text)
{
    uint8_t addr[16];

    if (kind == K_NAME_OR_EMPTY && text[0] == '\0')
        return 0;
    if ((kind == K_NAME || kind == K_NAME_OR_EMPTY) && !wire_name_valid(text))
        return message_refuse(p, "is not a name of the form [A-Za-z0-9._-]{1,63}");
    if (kind == K_ADDR && inet_pton(AF_INET, text, addr) != 1 &&
        inet_pton(AF_INET6, text, addr) != 1)
        return message_refuse(p, "is not a numeric IP address");
    return 0;
}

int message_check_path(const struct place *p, const char *path)
{
    bool data;

    if (vine_source_id_path(path, &data) == NULL)
        return message_refuse(p, "is neither an absolute path nor a URL");
    if (strlen(path) >= VINE_PATH_MAX)
        return message_refuse(p, "is too long for a path");
    return 0;
}

int message_check_count(const struct place *p, const struct field_list *list,
                        size_t count)
{
    if (count <= list->max)
        return 0;
    return vine_err_set(p->err, p->code,
                        "message '%s': field '%s' has %zu entries, limit %u", p->type,
                        p->field, count, list->max);
}

int message_check_element(const struct place *p, const struct field_list *list,
                          const void *element)
{
    const char *why = list->check != NULL ? list->check(element) : NULL;

    return why != NULL ? message_refuse(p, why) : 0;
}
