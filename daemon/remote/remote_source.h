/* remote_source.h - a file on a server as a source: what it is, then its bytes.
 *
 * Calls block, as those of daemon/image/source.h, which has the meaning of the facts.
 * The key is the user's alone: who asks must be let in by the server himself. */
#ifndef VINE_REMOTE_REMOTE_SOURCE_H
#define VINE_REMOTE_REMOTE_SOURCE_H

#include "daemon/image/source.h"
#include "daemon/remote/remote.h"

struct remote_source;

int remote_source_open(const char *url, const struct image_source_options *options,
                       const struct remote_options *remote, struct remote_source **out,
                       struct vine_err *err);
const struct image_source_facts *remote_source_facts(const struct remote_source *s);
/* Images: what the key left out. */
int remote_source_look(struct remote_source *s, struct vine_err *err);
/* Images and files of data: all of the object to fd. */
int remote_source_copy(struct remote_source *s, int fd, uint64_t offset,
                       uint64_t length, const struct image_progress *progress,
                       struct vine_err *err);
/* Archives: a tar of all to fd. */
int remote_source_build(struct remote_source *s, int fd,
                        const struct image_progress *progress,
                        struct image_totals *totals, struct vine_err *err);
void remote_source_close(struct remote_source *s);

#endif
