/* message_compact.c - the messages that come by the hundred thousand, in few bytes.
 *
 * A manager of thousands of nodes does little but read HAVE and write FETCH, and JSON
 * would be most of that work. So these types travel as one byte, their number in
 * `message_types`, and then their fields in the order of the same table: numbers
 * big-endian in their own width, truths as a byte, digests as they are, strings with
 * their terminating zero, lists as u32 count and elements. The number is never '{', so
 * the first byte says which form it is. */
#include <stdlib.h>
#include <string.h>

#include "daemon/wire/bytes.h"
#include "daemon/wire/message.h"
#include "daemon/wire/message_fields.h"

/* ---- out ---- */

static size_t list_room(const struct field_list *list, const char *base);

/* What the field takes at most. */
static size_t field_room(const struct field *f, const char *base)
{
    switch (f->kind) {
    case K_DIGEST:
        return VINE_DIGEST_LEN;
    case K_NAME:
    case K_ADDR:
        return VINE_NAME_MAX > VINE_ADDR_MAX ? VINE_NAME_MAX + 1 : VINE_ADDR_MAX + 1;
    case K_LIST:
        return list_room(f->list, base);
    default:
        return sizeof(uint32_t);
    }
}

static size_t list_room(const struct field_list *list, const char *base)
{
    size_t element = 0;

    for (unsigned i = 0; i < list->field_count; i++)
        element += field_room(&list->fields[i], NULL);
    return sizeof(uint32_t) +
           element * *(const uint32_t *)(const void *)(base + list->count_at);
}

static int put_field(const struct place *p, const struct field *f, const char *base,
                     struct writer *w);

static int put_string(const struct place *p, const struct field *f, const char *text,
                      struct writer *w)
{
    if (text == NULL)
        return message_refuse(p, "is not set");
    if (message_check_string(p, f->kind, text) < 0)
        return -1;
    put_bytes(w, text, strlen(text) + 1);
    return 0;
}

static int put_list(const struct place *p, const struct field *f, const char *base,
                    struct writer *w)
{
    const struct field_list *list = f->list;
    uint32_t count = *(const uint32_t *)(const void *)(base + list->count_at);
    const char *element = *(const char *const *)(const void *)(base + f->at);

    if (message_check_count(p, list, count) < 0)
        return -1;
    if (count > 0 && element == NULL)
        return message_refuse(p, "is not set");
    put_u32(w, count);
    for (uint32_t i = 0; i < count; i++, element += list->element_size) {
        if (message_check_element(p, list, element) < 0)
            return -1;
        for (unsigned k = 0; k < list->field_count; k++) {
            const struct field *inner = &list->fields[k];
            struct place place = {p->type, inner->name, p->code, p->err};
            if (put_field(&place, inner, element, w) < 0)
                return -1;
        }
    }
    return 0;
}

static int put_field(const struct place *p, const struct field *f, const char *base,
                     struct writer *w)
{
    const void *at = base + f->at;

    switch (f->kind) {
    case K_U16:
        put_u16(w, *(const uint16_t *)at);
        return message_check_number(p, f, *(const uint16_t *)at);
    case K_U32:
        put_u32(w, *(const uint32_t *)at);
        return message_check_number(p, f, *(const uint32_t *)at);
    case K_BOOL:
        put_u8(w, *(const bool *)at);
        return 0;
    case K_DIGEST:
        put_bytes(w, at, VINE_DIGEST_LEN);
        return 0;
    case K_LIST:
        return put_list(p, f, base, w);
    default:
        return put_string(p, f, *(const char *const *)at, w);
    }
}

char *message_encode_compact(const struct msg *m, size_t *len, struct vine_err *err)
{
    const struct message_type *type = &message_types[m->type];
    size_t room = 1;
    struct writer w;
    uint8_t *bytes;

    for (unsigned i = 0; i < type->count; i++)
        room += field_room(type->rows[i].field, (const char *)m);
    bytes = malloc(room);
    if (bytes == NULL) {
        (void)vine_err_set(err, VINE_ENOMEM, "message '%s': out of memory", type->name);
        return NULL;
    }
    w = (struct writer){.next = bytes, .left = room};
    put_u8(&w, type->compact);
    for (unsigned i = 0; i < type->count; i++) {
        const struct field *f = type->rows[i].field;
        struct place p = {type->name, f->name, VINE_EINVAL, err};
        if (put_field(&p, f, (const char *)m, &w) < 0) {
            free(bytes);
            return NULL;
        }
    }
    if (w.bad) { /* names are checked to be shorter than their room */
        (void)vine_err_set(err, VINE_EINVAL, "message '%s' is too long", type->name);
        free(bytes);
        return NULL;
    }
    *len = room - w.left;
    return (char *)bytes;
}

/* ---- in ---- */

static int get_field(struct message *message, const struct place *p,
                     const struct field *f, struct reader *r, char *base);

static int get_number(const struct place *p, const struct field *f, uint32_t v,
                      void *at)
{
    if (message_check_number(p, f, v) < 0)
        return -1;
    if (f->kind == K_U16)
        *(uint16_t *)at = (uint16_t)v;
    else
        *(uint32_t *)at = v;
    return 0;
}

static int get_bool(const struct place *p, uint8_t v, bool *at)
{
    if (v > 1)
        return message_refuse(p, "is not true or false");
    *at = v == 1;
    return 0;
}

/* Borrowed from the message's own copy of the payload. */
static int get_string(const struct place *p, const struct field *f, struct reader *r,
                      const char **at)
{
    const char *text = (const char *)r->next;
    const uint8_t *end = r->left > 0 ? memchr(r->next, 0, r->left) : NULL;

    if (end == NULL)
        return message_refuse(p, "has no end");
    if (message_check_string(p, f->kind, text) < 0)
        return -1;
    r->left -= (size_t)(end + 1 - r->next);
    r->next = end + 1;
    *at = text;
    return 0;
}

static int get_list(struct message *message, const struct place *p,
                    const struct field *f, struct reader *r, char *base)
{
    const struct field_list *list = f->list;
    uint32_t count = get_u32(r);
    char *element;

    /* No element is shorter than a byte: nothing is taken for what cannot be there. */
    if (r->bad || count > r->left)
        return message_refuse(p, "is cut off");
    if (message_check_count(p, list, count) < 0)
        return -1;
    element = message_alloc(message, p, count * list->element_size);
    if (element == NULL)
        return -1;
    *(uint32_t *)(void *)(base + list->count_at) = count;
    *(void **)(void *)(base + f->at) = element;
    for (uint32_t i = 0; i < count; i++, element += list->element_size) {
        for (unsigned k = 0; k < list->field_count; k++) {
            const struct field *inner = &list->fields[k];
            struct place place = {p->type, inner->name, p->code, p->err};
            if (get_field(message, &place, inner, r, element) < 0)
                return -1;
        }
        if (message_check_element(p, list, element) < 0)
            return -1;
    }
    return 0;
}

static int get_field(struct message *message, const struct place *p,
                     const struct field *f, struct reader *r, char *base)
{
    void *at = base + f->at;

    if (f->kind == K_LIST)
        return get_list(message, p, f, r, base);
    if (f->kind == K_DIGEST)
        get_bytes(r, at, VINE_DIGEST_LEN, VINE_DIGEST_LEN);
    else if (f->kind == K_U16 || f->kind == K_U32)
        return r->left < (f->kind == K_U16 ? 2u : 4u)
                   ? message_refuse(p, "is cut off")
                   : get_number(p, f, f->kind == K_U16 ? get_u16(r) : get_u32(r), at);
    else if (f->kind == K_BOOL && r->left > 0)
        return get_bool(p, get_u8(r), at);
    else if (f->kind == K_NAME || f->kind == K_ADDR)
        return get_string(p, f, r, at);
    else
        r->bad = true;
    return r->bad ? message_refuse(p, "is cut off") : 0;
}

static const struct message_type *type_of_number(uint8_t number)
{
    for (unsigned i = 0; i < MSG_TYPES; i++)
        if (number > 0 && message_types[i].compact == number)
            return &message_types[i];
    return NULL;
}

int message_decode_compact(struct message *message, const char *buf, size_t len,
                           struct vine_err *err)
{
    const struct message_type *type = type_of_number((uint8_t)buf[0]);
    struct place whole = {"", "", VINE_EPROTO, err};
    struct msg *m = &message->msg;
    struct reader r = {.left = len - 1};
    char *copy;

    if (type == NULL)
        return vine_err_set(err, VINE_EPROTO, "message of unknown type %u",
                            (uint8_t)buf[0]);
    whole.type = type->name;
    copy = message_alloc(message, &whole, len);
    if (copy == NULL)
        return -1;
    memcpy(copy, buf, len);
    r.next = (const uint8_t *)copy + 1;
    m->type = (enum msg_type)(type - message_types);
    for (unsigned i = 0; i < type->count; i++) {
        const struct field *f = type->rows[i].field;
        struct place p = {type->name, f->name, VINE_EPROTO, err};
        if (get_field(message, &p, f, &r, (char *)m) < 0)
            return -1;
        m->has_digest |= f->at == offsetof(struct msg, digest);
    }
    if (!reader_done(&r))
        return vine_err_set(err, VINE_EPROTO, "message '%s': %zu bytes too many",
                            type->name, r.left);
    return 0;
}
