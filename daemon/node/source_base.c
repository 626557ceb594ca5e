/* source_base.c - what a build takes from the image before, and leaves for the next.
 *
 * The base is an object this store has, made by a daemon of the same directory for the
 * same user, or when everybody could read it: so a build shows nobody what he could not
 * read. vine-source gets its listing and tells which files are the same; the image
 * builder copies these out of the base. Its bytes are checked against its manifest
 * before what was built of them counts. Where users' images are trusted nothing is
 * taken: what says that a daemon made it could be a user's word then. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/node/source.h"
#include "vine/log.h"

static struct listing_head head_of(const struct source *s)
{
    struct listing_head head = {.everybody = s->everybody, .uid = s->uid};

    vine_digest_of(s->canonical, strlen(s->canonical), &head.path);
    return head;
}

static bool fits(const struct store_object *object, const struct listing_head *head)
{
    const struct listing_head *has = &object->listing;

    return object->complete && object->trusted && has->length > 0 && has->same_tool &&
           (has->everybody || has->uid == head->uid) &&
           vine_digest_equal(&has->path, &head->path);
}

void base_begin(struct source *s, struct source_base *base)
{
    const struct listing_head head = head_of(s);

    *base = (struct source_base){.listing_fd = -1};
    if (!s->incremental || s->kind != SOURCE_DIR)
        return;
    base->listing_fd = memfd_create("vine-listing", MFD_CLOEXEC);
    if (s->no_base || s->vined->conf.trust_user_images)
        return;
    for (struct store_object *o = store_first(s->vined->store); o != NULL; o = o->next)
        if (fits(o, &head) &&
            (base->object == NULL || o->used_ms > base->object->used_ms))
            base->object = o;
    if (base->object != NULL)
        store_get(base->object);
}

void base_end(struct source_base *base)
{
    if (base->object != NULL)
        store_put(base->object);
    if (base->listing_fd >= 0)
        (void)close(base->listing_fd);
    *base = (struct source_base){.listing_fd = -1};
}

int base_send_build(struct source *s, const struct source_base *base,
                    struct vine_err *err)
{
    const struct listing_head *listing =
        base->object != NULL ? &base->object->listing : NULL;
    int fds[2] = {base->listing_fd, base->object != NULL ? base->object->image_fd : -1};
    json_t *command = json_pack("{s:s}", "cmd", "build");

    if (base->listing_fd < 0)
        return child_send(s, command, err);
    if (listing != NULL &&
        (json_object_set_new(command, "base_offset",
                             json_integer((json_int_t)listing->offset)) < 0 ||
         json_object_set_new(command, "base_length",
                             json_integer((json_int_t)listing->length)) < 0)) {
        json_decref(command);
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    return child_send_fds(s, command, fds, listing != NULL ? 2 : 1, err);
}

void base_take_done(struct source_base *base, const json_t *line)
{
    json_int_t listing = json_integer_value(json_object_get(line, "listing_bytes"));
    json_int_t files = json_integer_value(json_object_get(line, "same_files"));
    json_int_t bytes = json_integer_value(json_object_get(line, "same_bytes"));

    if (listing > 0 && listing <= LISTING_BODY_MAX)
        base->listing_bytes = (uint64_t)listing;
    if (base->object == NULL || files <= 0 || bytes <= 0)
        return;
    base->same_files = (uint64_t)files;
    base->same_bytes = (uint64_t)bytes;
}

bool base_is_whole(const struct source_base *base)
{
    const struct store_object *object = base->object;
    char *buf = malloc(VINE_CHUNK_MAX);
    bool whole = buf != NULL;

    for (uint32_t i = 0; whole && i < object->manifest.count; i++) {
        const struct manifest_chunk *chunk = &object->manifest.chunk[i];
        struct vine_digest digest;

        whole = store_read_chunk(object, i, buf, NULL) == 0;
        if (!whole)
            break;
        vine_digest_of(buf, chunk->length, &digest);
        whole = vine_digest_equal(&digest, &chunk->digest);
    }
    free(buf);
    return whole;
}

int base_append_listing(const struct source *s, const struct source_base *base, int fd,
                        struct image_info *info, struct vine_err *err)
{
    const struct listing_head head = head_of(s);
    struct stat st;

    if (base->listing_bytes == 0)
        return 0;
    if (fstat(base->listing_fd, &st) < 0 || (uint64_t)st.st_size != base->listing_bytes)
        return vine_err_set(err, VINE_EPROTO,
                            "vine-source left a listing of another size");
    return listing_append(fd, &head, base->listing_fd, base->listing_bytes, info, err);
}

void base_is_damaged(struct source *s, struct source_base *base)
{
    char hex[VINE_HEX_LEN + 1];

    vine_digest_hex(&base->object->manifest.digest, hex);
    vine_log(VINE_LOG_WARNING,
             "event=base-damaged ticket=%llx base=%.16s path=%s: building without it",
             (unsigned long long)s->ticket, hex, vine_q(s->shown));
    base->object->listing.length = 0;
    (void)store_forget_chunks(s->vined->store, base->object);
}
