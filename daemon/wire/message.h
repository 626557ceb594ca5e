/* message.h - struct msg to bytes and back, for frames of the control service: JSON
 * text, or the compact form for the few types that are frequent.
 *
 * Both ways check everything msg.h promises to the core; what does not fit is refused
 * with type and field named. Fields a type does not name are ignored by the encoder and
 * zero after decoding. `text` and strings a type names are never NULL after decoding
 * (encoding takes NULL `text`, `peer` of failed and `switch_name` as ""). has_digest is
 * true after decoding whenever the message carried a digest. */
#ifndef VINE_WIRE_MESSAGE_H
#define VINE_WIRE_MESSAGE_H

#include <stddef.h>

#include "vine/err.h"
#include "vine/msg.h"

#define MESSAGE_KIND 1 /* session frame kind of a message */
#define MESSAGE_ASSIGNS_MAX 256

/* Caller frees; *len without the terminating zero. NULL with *err set, *len untouched:
 * VINE_EINVAL (a field breaks msg.h's promise) or VINE_ELIMIT (over VINE_FRAME_MAX). */
char *message_encode(const struct msg *m, size_t *len, struct vine_err *err);

/* The same as JSON, whatever the type: decoding takes either. */
char *message_encode_text(const struct msg *m, size_t *len, struct vine_err *err);

struct message;

/* NULL with *err set (VINE_EPROTO, VINE_ELIMIT, VINE_ENOMEM). `buf` may go afterwards.
 */
struct message *message_decode(const char *buf, size_t len, struct vine_err *err);
const struct msg *message_msg(const struct message *message); /* owned by `message` */
void message_free(struct message *message);

#endif
