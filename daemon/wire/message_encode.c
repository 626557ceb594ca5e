/* message_encode.c - struct msg to JSON text, along the tables of message_fields.c.
 *
 * An allocation that fails anywhere gives NULL and is reported once, at the field; a
 * refusal has set its own error before, and the first error wins. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/wire/message.h"
#include "daemon/wire/message_fields.h"
#include "vine/client.h"

static int encode_value(const struct place *p, const struct field *f, const char *base,
                        json_t **out);

static json_t *encode_number(const struct place *p, const struct field *f, uint64_t v)
{
    return message_check_number(p, f, v) < 0 ? NULL : json_integer((json_int_t)v);
}

static json_t *encode_hex64(uint64_t v)
{
    char text[17];

    (void)snprintf(text, sizeof(text), "%" PRIx64, v);
    return json_string(text);
}

static json_t *encode_digest(const void *at)
{
    char hex[VINE_HEX_LEN + 1];

    vine_digest_hex(at, hex);
    return json_string(hex);
}

static json_t *encode_path(const struct place *p, const char *path)
{
    char *escaped;
    json_t *json;

    if (path == NULL) {
        (void)message_refuse(p, "is not set");
        return NULL;
    }
    if (message_check_path(p, path) < 0)
        return NULL;
    escaped = vine_path_escape(path);
    json = escaped != NULL ? json_string(escaped) : NULL;
    free(escaped);
    return json;
}

/* Text that is no UTF-8 (an error that names such a path): its bytes from 0x80 on are
 * shown as \xNN. */
static json_t *encode_broken_text(const char *text)
{
    size_t len = strlen(text), used = 0;
    char *shown = malloc(4 * len + 1);
    json_t *json;

    if (shown == NULL)
        return NULL;
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] >= 0x80)
            used += (size_t)sprintf(shown + used, "\\x%02x", (unsigned char)text[i]);
        else
            shown[used++] = text[i];
    }
    json = json_stringn(shown, used);
    free(shown);
    return json;
}

static json_t *encode_text(const struct place *p, const char *text)
{
    json_t *json;

    if (strlen(text) > VINE_FRAME_MAX) {
        (void)vine_err_set(p->err, VINE_ELIMIT, "message '%s': field '%s' is too long",
                           p->type, p->field);
        return NULL;
    }
    json = json_string(text);
    return json != NULL ? json : encode_broken_text(text);
}

static json_t *encode_string(const struct place *p, enum field_kind kind,
                             const char *text)
{
    if (text == NULL && kind != K_NAME_OR_EMPTY && kind != K_TEXT) {
        (void)message_refuse(p, "is not set");
        return NULL;
    }
    if (text == NULL)
        text = "";
    if (kind == K_TEXT)
        return encode_text(p, text);
    return message_check_string(p, kind, text) < 0 ? NULL : json_string(text);
}

static json_t *encode_fields(const struct place *p, const struct field_list *list,
                             const char *element)
{
    json_t *object = json_object();

    for (unsigned i = 0; object != NULL && i < list->field_count; i++) {
        const struct field *f = &list->fields[i];
        struct place inner = {p->type, f->name, p->code, p->err};
        json_t *value;

        if (encode_value(&inner, f, element, &value) < 0 ||
            json_object_set_new(object, f->name, value) < 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static json_t *encode_list(const struct place *p, const struct field *f,
                           const char *base)
{
    const struct field_list *list = f->list;
    uint32_t count = *(const uint32_t *)(const void *)(base + list->count_at);
    const char *element = *(const char *const *)(const void *)(base + f->at);
    struct field plain = {f->name, list->kind, 0, 0, 0, NULL};
    json_t *array;

    if (message_check_count(p, list, count) < 0)
        return NULL;
    if (count > 0 && element == NULL) {
        (void)message_refuse(p, "is not set");
        return NULL;
    }
    array = json_array();
    for (uint32_t i = 0; array != NULL && i < count;
         i++, element += list->element_size) {
        json_t *value = NULL;
        int rc = list->fields != NULL ? message_check_element(p, list, element)
                                      : encode_value(p, &plain, element, &value);

        if (rc == 0 && list->fields != NULL)
            value = encode_fields(p, list, element);
        if (value == NULL || json_array_append_new(array, value) < 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static int encode_value(const struct place *p, const struct field *f, const char *base,
                        json_t **out)
{
    const void *at = base + f->at;
    json_t *json = NULL;

    switch (f->kind) {
    case K_U16:
        json = encode_number(p, f, *(const uint16_t *)at);
        break;
    case K_U32:
        json = encode_number(p, f, *(const uint32_t *)at);
        break;
    case K_U64:
        json = encode_number(p, f, *(const uint64_t *)at);
        break;
    case K_HEX64:
        json = encode_hex64(*(const uint64_t *)at);
        break;
    case K_BOOL:
        json = json_boolean(*(const bool *)at);
        break;
    case K_DIGEST:
        json = encode_digest(at);
        break;
    case K_CODE:
        json = json_string(vine_code_name(*(const enum vine_code *)at));
        break;
    case K_PATH:
        json = encode_path(p, *(const char *const *)at);
        break;
    case K_LIST:
        json = encode_list(p, f, base);
        break;
    default:
        json = encode_string(p, f->kind, *(const char *const *)at);
        break;
    }
    if (json == NULL) /* unless it was refused above: the first error wins */
        return vine_err_set(p->err, VINE_ENOMEM, "message '%s': out of memory",
                            p->type);
    *out = json;
    return 0;
}

static json_t *encode_message(const struct msg *m, struct vine_err *err)
{
    const struct message_type *type = &message_types[m->type];
    json_t *object = json_pack("{s:s}", "type", type->name);

    if (object == NULL)
        (void)vine_err_set(err, VINE_ENOMEM, "message '%s': out of memory", type->name);
    for (unsigned i = 0; object != NULL && i < type->count; i++) {
        const struct field *f = type->rows[i].field;
        struct place p = {type->name, f->name, VINE_EINVAL, err};
        json_t *value;

        if (!message_row_applies(&type->rows[i], m))
            continue;
        if (encode_value(&p, f, (const char *)m, &value) < 0 ||
            json_object_set_new(object, f->name, value) < 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static int check_type(const struct msg *m, struct vine_err *err)
{
    if ((unsigned)m->type < MSG_TYPES)
        return 0;
    return vine_err_set(err, VINE_EINVAL, "message of unknown type %d", (int)m->type);
}

char *message_encode(const struct msg *m, size_t *len, struct vine_err *err)
{
    if (check_type(m, err) < 0)
        return NULL;
    return message_types[m->type].compact != 0 ? message_encode_compact(m, len, err)
                                               : message_encode_text(m, len, err);
}

char *message_encode_text(const struct msg *m, size_t *len, struct vine_err *err)
{
    json_t *object;
    char *text;
    size_t n;

    if (check_type(m, err) < 0)
        return NULL;
    object = encode_message(m, err);
    if (object == NULL)
        return NULL;
    text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (text == NULL) {
        (void)vine_err_set(err, VINE_ENOMEM, "message '%s': out of memory",
                           message_types[m->type].name);
        return NULL;
    }
    n = strlen(text);
    if (n > VINE_FRAME_MAX) {
        (void)vine_err_set(err, VINE_ELIMIT, "message '%s' has %zu bytes, limit %u",
                           message_types[m->type].name, n, VINE_FRAME_MAX);
        free(text);
        return NULL;
    }
    *len = n;
    return text;
}
