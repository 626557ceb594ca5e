/* message_decode.c - what came to struct msg, along the tables of message_fields.c.
 *
 * Input is what an authenticated peer sent, and is trusted for nothing else: type
 * first, then every field of it in table order, then nothing more. Strings are borrowed
 * from the parsed document, which lives as long as the message; paths and arrays are
 * blocks of their own, chained for message_free. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/wire/message.h"
#include "daemon/wire/message_fields.h"
#include "vine/client.h"

struct block {
    struct block *next;
    max_align_t data[];
};

void *message_alloc(struct message *message, const struct place *p, size_t size)
{
    struct block *block = calloc(1, sizeof(*block) + size);

    if (block == NULL) {
        (void)vine_err_set(p->err, VINE_ENOMEM, "message '%s': out of memory", p->type);
        return NULL;
    }
    block->next = message->blocks;
    message->blocks = block;
    return block->data;
}

static int decode_value(struct message *message, const struct place *p,
                        const struct field *f, const json_t *json, char *base);

static int decode_integer(const struct place *p, const struct field *f,
                          const json_t *json, uint64_t *out)
{
    if (!json_is_integer(json))
        return message_refuse(p, "is not an integer");
    if (json_integer_value(json) < 0)
        return message_refuse(p, "is negative");
    if (message_check_number(p, f, (uint64_t)json_integer_value(json)) < 0)
        return -1;
    *out = (uint64_t)json_integer_value(json);
    return 0;
}

static int decode_number(const struct place *p, const struct field *f,
                         const json_t *json, void *at)
{
    uint64_t v = 0;

    if (decode_integer(p, f, json, &v) < 0)
        return -1;
    if (f->kind == K_U16)
        *(uint16_t *)at = (uint16_t)v;
    else if (f->kind == K_U32)
        *(uint32_t *)at = (uint32_t)v;
    else
        *(uint64_t *)at = v;
    return 0;
}

static int decode_hex64(const struct place *p, const char *text, uint64_t *out)
{
    size_t len = strlen(text);

    if (len < 1 || len > 16 || strspn(text, "0123456789abcdef") != len ||
        (text[0] == '0' && len > 1))
        return message_refuse(p, "is not a number of 1 to 16 lower-case hex digits");
    *out = strtoull(text, NULL, 16);
    return 0;
}

static int decode_code(const struct place *p, const char *text, enum vine_code *out)
{
    enum vine_code code = vine_code_parse(text);

    if (strcmp(vine_code_name(code), text) != 0)
        return message_refuse(p, "is not a known code");
    *out = code;
    return 0;
}

static int decode_digest(const struct place *p, const char *text, void *out)
{
    if (vine_digest_parse(text, out) < 0)
        return message_refuse(p, "is not a digest of 64 lower-case hex digits");
    return 0;
}

/* One path has one escape: what would not be written so is refused. */
static int decode_path(struct message *message, const struct place *p, const char *text,
                       const char **out)
{
    size_t len = strlen(text);
    char *path, *again;
    bool canonical;

    if (len > 3 * VINE_PATH_MAX)
        return message_refuse(p, "is too long for a path");
    path = message_alloc(message, p, len + 1);
    if (path == NULL)
        return -1;
    memcpy(path, text, len + 1);
    if (vine_path_unescape(path) < 0)
        return message_refuse(p, "has a bad percent escape");
    again = vine_path_escape(path);
    if (again == NULL)
        return vine_err_set(p->err, VINE_ENOMEM, "message '%s': out of memory",
                            p->type);
    canonical = strcmp(again, text) == 0;
    free(again);
    if (!canonical)
        return message_refuse(p, "is not escaped in the one right way");
    if (message_check_path(p, path) < 0)
        return -1;
    *out = path;
    return 0;
}

static int decode_string(struct message *message, const struct place *p,
                         const struct field *f, const json_t *json, void *at)
{
    const char *text = json_string_value(json);

    if (text == NULL)
        return message_refuse(p, "is not a string");
    switch (f->kind) {
    case K_HEX64:
        return decode_hex64(p, text, at);
    case K_CODE:
        return decode_code(p, text, at);
    case K_DIGEST:
        return decode_digest(p, text, at);
    case K_PATH:
        return decode_path(message, p, text, at);
    default:
        if (message_check_string(p, f->kind, text) < 0)
            return -1;
        *(const char **)at = text;
        return 0;
    }
}

static int decode_member(struct message *message, const struct place *p,
                         const struct field *f, const json_t *object, char *base)
{
    const json_t *value = json_object_get(object, f->name);

    if (value == NULL)
        return message_refuse(p, "is missing");
    return decode_value(message, p, f, value, base);
}

static int decode_element(struct message *message, const struct place *p,
                          const struct field_list *list, const json_t *json,
                          char *element)
{
    const char *name;
    json_t *value;

    if (!json_is_object(json))
        return message_refuse(p, "has an entry that is not an object");
    for (unsigned i = 0; i < list->field_count; i++) {
        struct place inner = {p->type, list->fields[i].name, p->code, p->err};

        if (decode_member(message, &inner, &list->fields[i], json, element) < 0)
            return -1;
    }
    if (json_object_size(json) == list->field_count)
        return message_check_element(p, list, element);
    json_object_foreach((json_t *)json, name, value)
    {
        struct place extra = {p->type, name, p->code, p->err};
        bool known = false;

        for (unsigned i = 0; i < list->field_count; i++)
            known |= strcmp(name, list->fields[i].name) == 0;
        if (!known)
            return message_refuse(&extra, "is unknown");
    }
    return message_refuse(p, "has an entry with a field too many");
}

static int decode_list(struct message *message, const struct place *p,
                       const struct field *f, const json_t *json, char *base)
{
    const struct field_list *list = f->list;
    struct field plain = {f->name, list->kind, 0, 0, 0, NULL};
    size_t count = json_array_size(json);
    char *elements;

    if (!json_is_array(json))
        return message_refuse(p, "is not an array");
    if (message_check_count(p, list, count) < 0)
        return -1;
    elements = message_alloc(message, p, count * list->element_size);
    if (elements == NULL)
        return -1;
    for (size_t i = 0; i < count; i++) {
        char *element = elements + i * list->element_size;
        const json_t *value = json_array_get(json, i);
        int rc = list->fields != NULL
                     ? decode_element(message, p, list, value, element)
                     : decode_value(message, p, &plain, value, element);

        if (rc < 0)
            return -1;
    }
    *(uint32_t *)(void *)(base + list->count_at) = (uint32_t)count;
    *(void **)(void *)(base + f->at) = elements;
    return 0;
}

static int decode_value(struct message *message, const struct place *p,
                        const struct field *f, const json_t *json, char *base)
{
    void *at = base + f->at;

    switch (f->kind) {
    case K_U16:
    case K_U32:
    case K_U64:
        return decode_number(p, f, json, at);
    case K_BOOL:
        if (!json_is_boolean(json))
            return message_refuse(p, "is not true or false");
        *(bool *)at = json_is_true(json);
        return 0;
    case K_LIST:
        return decode_list(message, p, f, json, base);
    default:
        return decode_string(message, p, f, json, at);
    }
}

static bool row_is_here(const struct message_type *type, const struct msg *m,
                        const char *name)
{
    for (unsigned i = 0; i < type->count; i++)
        if (strcmp(type->rows[i].field->name, name) == 0)
            return message_row_applies(&type->rows[i], m);
    return strcmp(name, "type") == 0;
}

/* m->type is set. */
static int decode_rows(struct message *message, struct vine_err *err)
{
    struct msg *m = &message->msg;
    const struct message_type *type = &message_types[m->type];
    const char *name;
    json_t *value;
    bool digest = false;

    for (unsigned i = 0; i < type->count; i++) {
        const struct field *f = type->rows[i].field;
        struct place p = {type->name, f->name, VINE_EPROTO, err};

        if (!message_row_applies(&type->rows[i], m))
            continue;
        if (decode_member(message, &p, f, message->root, (char *)m) < 0)
            return -1;
        digest |= f->at == offsetof(struct msg, digest);
    }
    m->has_digest = digest;
    json_object_foreach(message->root, name, value)
    {
        struct place p = {type->name, name, VINE_EPROTO, err};

        if (!row_is_here(type, m, name))
            return message_refuse(&p, "does not belong there");
    }
    return 0;
}

static int decode_root(struct message *message, struct vine_err *err)
{
    const json_t *type = json_object_get(message->root, "type");

    if (!json_is_object(message->root))
        return vine_err_set(err, VINE_EPROTO, "message is not a JSON object");
    if (!json_is_string(type))
        return vine_err_set(err, VINE_EPROTO, "message has no field 'type'");
    for (unsigned i = 0; i < MSG_TYPES; i++)
        if (strcmp(json_string_value(type), message_types[i].name) == 0) {
            message->msg.type = (enum msg_type)i;
            return decode_rows(message, err);
        }
    return vine_err_set(err, VINE_EPROTO, "message of unknown type '%.40s'",
                        json_string_value(type));
}

struct message *message_decode(const char *buf, size_t len, struct vine_err *err)
{
    struct message *message;
    json_error_t jerr;

    if (len > VINE_FRAME_MAX) {
        (void)vine_err_set(err, VINE_ELIMIT, "message of %zu bytes, limit %u", len,
                           VINE_FRAME_MAX);
        return NULL;
    }
    message = calloc(1, sizeof(*message));
    if (message == NULL) {
        (void)vine_err_set(err, VINE_ENOMEM, "out of memory for a message");
        return NULL;
    }
    if (len > 0 && buf[0] != '{') {
        if (message_decode_compact(message, buf, len, err) == 0)
            return message;
        message_free(message);
        return NULL;
    }
    message->root = json_loadb(buf, len, JSON_REJECT_DUPLICATES, &jerr);
    if (message->root == NULL) {
        (void)vine_err_set(err, VINE_EPROTO, "cannot parse message at byte %d: %s",
                           jerr.position, jerr.text);
        message_free(message);
        return NULL;
    }
    if (decode_root(message, err) < 0) {
        message_free(message);
        return NULL;
    }
    return message;
}

const struct msg *message_msg(const struct message *message)
{
    return &message->msg;
}

void message_free(struct message *message)
{
    struct block *next;

    if (message == NULL)
        return;
    for (struct block *b = message->blocks; b != NULL; b = next) {
        next = b->next;
        free(b);
    }
    json_decref(message->root);
    free(message);
}
