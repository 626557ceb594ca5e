/* message_fields.h - the tables that say which fields each message has; private to
 * message_fields.c, message_encode.c and message_decode.c. */
#ifndef VINE_WIRE_MESSAGE_FIELDS_H
#define VINE_WIRE_MESSAGE_FIELDS_H

#include <stddef.h>

#include "vine/msg.h"

enum field_kind {
    K_U16,
    K_U32,
    K_U64,
    K_HEX64,
    K_BOOL,
    K_DIGEST,
    K_CODE,
    K_PATH,
    K_NAME,
    K_NAME_OR_EMPTY,
    K_ADDR,
    K_TEXT,
    K_LIST
};

struct field_list;

struct field {
    const char *name;
    enum field_kind kind;
    size_t at;                     /* offset in its struct; of the pointer for K_LIST */
    uint64_t min, max;             /* numbers */
    const struct field_list *list; /* K_LIST: what its elements are */
};

/* An array: u32 count and pointer in struct msg or in an element. */
struct field_list {
    size_t count_at;
    size_t element_size;
    uint32_t max;
    const struct field *fields; /* elements are objects of these; NULL: plain values */
    unsigned field_count;
    enum field_kind kind; /* of plain values */
    /* Rules over several fields of an element, or NULL; the reason or NULL for fine. */
    const char *(*check)(const void *element);
};

#define MESSAGE_FIELDS_MAX 11

struct message_row {
    const struct field *field;
    enum { ALWAYS, IF_OK, IF_DIGEST } when; /* of the message's code and has_digest */
};

struct message_type {
    const char *name;
    uint8_t compact; /* its number in the compact form; 0: JSON. All rows ALWAYS */
    unsigned count;
    struct message_row rows[MESSAGE_FIELDS_MAX];
};

/* A decoded message: what it points to lives as long. */
struct message {
    struct msg msg;
    struct json_t *root; /* NULL: it was compact */
    struct block *blocks;
};

extern const struct message_type message_types[MSG_TYPES];

/* Is this row there, as far as the message is known? A row comes after those it hangs
 * on. */
bool message_row_applies(const struct message_row *row, const struct msg *m);

/* Where in a message we are, for error texts; `code` is what errors here are. */
struct place {
    const char *type, *field;
    enum vine_code code;
    struct vine_err *err;
};

/* Zeroed memory that lives as long as the message; NULL with *p->err set. */
void *message_alloc(struct message *message, const struct place *p, size_t size);

/* message_compact.c; len > 0. */
char *message_encode_compact(const struct msg *m, size_t *len, struct vine_err *err);
int message_decode_compact(struct message *message, const char *buf, size_t len,
                           struct vine_err *err);

/* All return -1 with *p->err set, or 0. */
int message_refuse(const struct place *p, const char *why);
int message_check_number(const struct place *p, const struct field *f, uint64_t v);
int message_check_string(const struct place *p, enum field_kind kind, const char *text);
int message_check_path(const struct place *p, const char *path);
int message_check_count(const struct place *p, const struct field_list *list,
                        size_t count);
int message_check_element(const struct place *p, const struct field_list *list,
                          const void *element);

#endif
