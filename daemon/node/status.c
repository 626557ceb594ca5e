/* status.c - the documents local clients get: what is staged, and how things stand.
 *
 * A user sees its own jobs and the objects they use; root sees everything. */
#include <stdlib.h>
#include <string.h>

#include "daemon/image/info.h"
#include "daemon/node/local.h"
#include "vine/client.h"

static json_t *text_value(const char *text)
{
    char *escaped = vine_path_escape(text);
    json_t *value = json_string(escaped != NULL ? escaped : "");

    free(escaped);
    return value;
}

static json_t *digest_value(const struct vine_digest *digest)
{
    char hex[VINE_HEX_LEN + 1];

    vine_digest_hex(digest, hex);
    return json_string(hex);
}

/* Faults of the source or the manager hit every node of a job alike; one of them tells.
 */
static const char *scope_of(enum vine_code code)
{
    switch (code) {
    case VINE_EINVAL:
    case VINE_ENOENT:
    case VINE_EACCES:
    case VINE_ECHANGED:
    case VINE_ECORRUPT:
    case VINE_EDOWN:
        return "cluster";
    default:
        return "node";
    }
}

/* Where a source appears: as asked, or its own path, or what the image remembers. An
 * archive that nobody packed tells where it was, too, but always had a place here. */
static void destination(const struct vine_source *source, const struct image_info *info,
                        const char *run_dir, char *out)
{
    char name[VINE_PATH_MAX];

    if (source->dst[0] != '\0')
        (void)snprintf(out, VINE_PATH_MAX, "%s", source->dst);
    else if (source->data || vine_source_kind_of(source->path) == VINE_SOURCE_DIR)
        (void)snprintf(out, VINE_PATH_MAX, "%s", source->path);
    else if (vine_source_kind_of(source->path) == VINE_SOURCE_IMAGE &&
             info->prefix[0] == '/')
        (void)snprintf(out, VINE_PATH_MAX, "%s", info->prefix);
    else {
        vine_source_name(source->path, name);
        (void)snprintf(out, VINE_PATH_MAX, "%s/env/%.255s", run_dir, name);
    }
}

static json_t *staged_source(struct client *c, const struct vine_source *source,
                             const struct node_result *result)
{
    struct vined *vined = c->vined;
    struct store_object *object = store_find(vined->store, &result->digest);
    struct image_info *info = calloc(1, sizeof(*info));
    char path[VINE_PATH_MAX];
    bool found = false, file = object != NULL && object->manifest.file;
    json_t *o =
        json_pack("{s:o, s:s, s:o, s:s, s:I}", "path", text_value(source->path), "code",
                  vine_code_name(result->code), "text",
                  client_text(result->text != NULL ? result->text : ""), "scope",
                  scope_of(result->code), "size", (json_int_t)result->size);

    if (info == NULL || o == NULL) {
        free(info);
        return o;
    }
    if (result->code == VINE_OK && object != NULL && !file)
        (void)image_info_read(object->image_fd, object->manifest.size, info, &found,
                              NULL);
    destination(source, info, vined->conf.run_dir, path);
    (void)json_object_set_new(o, "dst", text_value(path));
    if (result->code == VINE_OK) {
        mount_path(vined, &result->digest, result->mount_uid, path);
        (void)json_object_set_new(o, "mount", text_value(path));
        (void)json_object_set_new(o, "digest", digest_value(&result->digest));
        (void)json_object_set_new(o, "file", json_boolean(file));
        (void)json_object_set_new(o, "cached", json_boolean(result->cached));
        (void)json_object_set_new(o, "first", json_boolean(result->first));
        if (source->data)
            info->activate = IMAGE_ACTIVATE_NONE;
        (void)json_object_set_new(o, "activate",
                                  json_string(image_activate_name(info->activate)));
    }
    free(info);
    return o;
}

json_t *staged_document(struct client *c, const struct node_result *results,
                        uint32_t count)
{
    json_t *sources = json_array();

    for (uint32_t i = 0; i < count && i < c->spec->count; i++)
        (void)json_array_append_new(sources,
                                    staged_source(c, &c->spec->source[i], &results[i]));
    return json_pack("{s:s, s:o}", "event", "staged", "sources", sources);
}

struct listing {
    struct client *client;
    json_t *objects, *jobs;
    uint64_t now_ms;
    struct vine_digest *own; /* digests of the client's own jobs */
    uint32_t own_count;
};

static void list_job(void *arg, const struct node_job_info *job)
{
    struct listing *l = arg;
    char text[24];

    if (l->client->uid != 0 && job->uid != l->client->uid)
        return;
    if (job->bound && l->own_count < VINE_OBJECTS_MAX)
        l->own[l->own_count++] = job->digest;
    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)job->job);
    (void)json_array_append_new(
        l->jobs,
        json_pack("{s:s, s:I, s:o, s:o}", "job", text, "uid", (json_int_t)job->uid,
                  "path", text_value(job->path), "digest",
                  job->bound ? digest_value(&job->digest) : json_null()));
}

static void list_object(void *arg, const struct node_object_info *o)
{
    struct listing *l = arg;
    const struct store_object *stored = store_find(l->client->vined->store, &o->digest);
    bool shown = l->client->uid == 0;
    uint64_t age_ms = l->now_ms > o->last_used_ms ? l->now_ms - o->last_used_ms : 0;

    for (uint32_t i = 0; i < l->own_count && !shown; i++)
        shown = vine_digest_equal(&l->own[i], &o->digest);
    if (!shown)
        return;
    (void)json_array_append_new(
        l->objects,
        json_pack("{s:o, s:I, s:I, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
                  "digest", digest_value(&o->digest), "size", (json_int_t)o->size,
                  "bytes_done", (json_int_t)o->bytes_done, "state", o->state, "trusted",
                  o->trusted, "leases", (json_int_t)o->leases, "mounts",
                  (json_int_t)o->mounts, "bytes_peer", (json_int_t)o->bytes_peer,
                  "bytes_origin", (json_int_t)o->bytes_origin, "bytes_reused",
                  (json_int_t)o->bytes_reused, "same_files",
                  (json_int_t)(stored != NULL ? stored->same_files : 0), "same_bytes",
                  (json_int_t)(stored != NULL ? stored->same_bytes : 0), "age_s",
                  (json_int_t)(age_ms / 1000)));
}

static json_t *node_document(struct vined *vined)
{
    const char *manager = manager_name(vined);
    struct node_totals t;

    node_totals(vined->core, &t);
    return json_pack(
        "{s:s, s:s, s:s, s:I, s:o, s:b, s:{s:s, s:I, s:I}, s:I, s:I, s:I, s:I, s:I, "
        "s:I}",
        "name", vined->name, "switch", vined->switch_name, "version", VINE_VERSION,
        "uptime_s", (json_int_t)((vined_now(vined) - vined->start_ms) / 1000),
        "manager", manager != NULL ? json_string(manager) : json_null(), "manager_up",
        t.manager_up, "store", "path", vined->conf.cache_dir, "used",
        (json_int_t)t.store_used, "max", (json_int_t)t.store_max, "bytes_peer",
        (json_int_t)t.bytes_peer, "bytes_origin", (json_int_t)t.bytes_origin,
        "bytes_built", (json_int_t)t.bytes_built, "bytes_reused",
        (json_int_t)t.bytes_reused, "same_files", (json_int_t)vined->same_files,
        "same_bytes", (json_int_t)vined->same_bytes);
}

json_t *status_document(struct client *c)
{
    struct listing l = {.client = c, .now_ms = vined_now(c->vined)};

    l.own = calloc(VINE_OBJECTS_MAX, sizeof(*l.own));
    if (l.own == NULL)
        return NULL;
    l.objects = json_array();
    l.jobs = json_array();
    node_each_job(c->vined->core, list_job, &l);
    node_each_object(c->vined->core, list_object, &l);
    free(l.own);
    return json_pack("{s:s, s:o, s:o, s:o}", "event", "status", "node",
                     node_document(c->vined), "objects", l.objects, "jobs", l.jobs);
}
