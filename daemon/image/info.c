/* info.c - the info block at the end of an object.
 *
 * Two checks before anything is parsed: the end magic says there is a block, then its
 * length must fit its bounds and the object, and the start magic must be where the
 * length says. The JSON may come from anybody's packed file: it is parsed strictly,
 * each field bounded, unknown ones ignored so that later versions may add some. */
#include "daemon/image/info.h"

#include <jansson.h>
#include <string.h>

#include "daemon/image/bytes.h"
#include "vine/escape.h"

#define MAGIC_LEN 8
#define HEAD_LEN (MAGIC_LEN + 4)
#define FOOT_LEN (8 + MAGIC_LEN)

static const char start_magic[MAGIC_LEN + 1] = "VNINFO1\n";
static const char end_magic[MAGIC_LEN + 1] = "VNINFEND";
static const char *const activate_names[] = {"none", "venv", "conda"};

const char *image_activate_name(enum image_activate activate)
{
    if (activate > IMAGE_ACTIVATE_CONDA)
        return activate_names[0];
    return activate_names[activate];
}

int image_activate_parse(const char *name, enum image_activate *out)
{
    for (unsigned i = 0; i <= IMAGE_ACTIVATE_CONDA; i++)
        if (strcmp(name, activate_names[i]) == 0) {
            *out = (enum image_activate)i;
            return 0;
        }
    return -1;
}

static const char *const env_names[] = {"unknown", "none",       "venv",
                                        "conda",   "conda-pack", "pixi"};

const char *image_env_name(enum image_env env)
{
    return env_names[env > IMAGE_ENV_LAST ? IMAGE_ENV_UNKNOWN : env];
}

int image_env_parse(const char *name, enum image_env *out)
{
    for (unsigned i = 0; i <= IMAGE_ENV_LAST; i++)
        if (strcmp(name, env_names[i]) == 0) {
            *out = (enum image_env)i;
            return 0;
        }
    return -1;
}

enum image_env image_env_of(const struct image_marks *marks)
{
    if (marks->conda_meta && marks->pixi)
        return IMAGE_ENV_PIXI;
    if (marks->conda_meta)
        return marks->conda_unpack ? IMAGE_ENV_CONDA_PACK : IMAGE_ENV_CONDA;
    return marks->pyvenv ? IMAGE_ENV_VENV : IMAGE_ENV_NONE;
}

enum image_activate image_activate_of(const struct image_marks *marks)
{
    if (marks->conda_meta)
        return IMAGE_ACTIVATE_CONDA;
    return marks->pyvenv ? IMAGE_ACTIVATE_VENV : IMAGE_ACTIVATE_NONE;
}

static char *info_to_json(const struct image_info *info)
{
    auto_free char *prefix = vine_path_escape(info->prefix);
    json_auto_t *root = NULL;

    if (prefix == NULL)
        return NULL;
    root = json_pack("{s:s, s:s, s:s, s:I, s:I, s:s}", "prefix", prefix, "tool",
                     info->tool, "activate", image_activate_name(info->activate),
                     "entries", (json_int_t)info->entries, "bytes",
                     (json_int_t)info->bytes, "created_by", info->created_by);
    if (root != NULL && info->env != IMAGE_ENV_UNKNOWN &&
        (json_object_set_new(root, "env", json_string(image_env_name(info->env))) < 0 ||
         json_object_set_new(root, "files", json_integer((json_int_t)info->files)) < 0))
        return NULL;
    if (root != NULL && info->listing_bytes > 0 &&
        (json_object_set_new(root, "listing_offset",
                             json_integer((json_int_t)info->listing_offset)) < 0 ||
         json_object_set_new(root, "listing_bytes",
                             json_integer((json_int_t)info->listing_bytes)) < 0))
        return NULL;
    return root ? json_dumps(root, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
}

size_t image_info_encode(const struct image_info *info, uint8_t out[IMAGE_INFO_MAX],
                         struct vine_err *err)
{
    auto_free char *json = info_to_json(info);
    size_t json_len, len;

    if (json == NULL) {
        vine_err_set(err, VINE_ENOMEM, "cannot write image information: out of memory");
        return 0;
    }
    json_len = strlen(json);
    len = (HEAD_LEN + json_len + FOOT_LEN + IMAGE_INFO_BLOCK - 1) / IMAGE_INFO_BLOCK *
          IMAGE_INFO_BLOCK;
    if (len > IMAGE_INFO_MAX) {
        vine_err_set(err, VINE_ELIMIT, "image information has %zu bytes, limit %u", len,
                     IMAGE_INFO_MAX);
        return 0;
    }
    memset(out, 0, len);
    memcpy(out, start_magic, MAGIC_LEN);
    put_be(out + MAGIC_LEN, json_len, 4);
    memcpy(out + HEAD_LEN, json, json_len);
    put_be(out + len - FOOT_LEN, len, 8);
    memcpy(out + len - MAGIC_LEN, end_magic, MAGIC_LEN);
    return len;
}

int image_info_write(int fd, const struct image_info *info, uint64_t *size_out,
                     struct vine_err *err)
{
    auto_free uint8_t *block = malloc(IMAGE_INFO_MAX);
    off_t end = lseek(fd, 0, SEEK_END);
    uint64_t start;
    size_t len;

    if (block == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (end < 0)
        return vine_err_sys(err, "cannot find the end of the image");
    len = image_info_encode(info, block, err);
    if (len == 0)
        return -1;
    start =
        ((uint64_t)end + IMAGE_INFO_BLOCK - 1) / IMAGE_INFO_BLOCK * IMAGE_INFO_BLOCK;
    if (ftruncate(fd, (off_t)start) < 0 || lseek(fd, (off_t)start, SEEK_SET) < 0 ||
        write_whole(fd, block, len) < 0)
        return vine_err_sys(err, "cannot write image information");
    *size_out = start + len;
    return 0;
}

/* A string field of at most cap - 1 bytes. */
static int get_text(const json_t *root, const char *name, char *out, size_t cap,
                    struct vine_err *err)
{
    const json_t *value = json_object_get(root, name);

    if (!json_is_string(value) || json_string_length(value) >= cap ||
        strlen(json_string_value(value)) != json_string_length(value))
        return vine_err_set(err, VINE_ECORRUPT,
                            "image information is damaged: bad field '%s'", name);
    memcpy(out, json_string_value(value), json_string_length(value) + 1);
    return 0;
}

static int get_count(const json_t *root, const char *name, uint64_t *out,
                     struct vine_err *err)
{
    const json_t *value = json_object_get(root, name);

    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return vine_err_set(err, VINE_ECORRUPT,
                            "image information is damaged: bad field '%s'", name);
    *out = (uint64_t)json_integer_value(value);
    return 0;
}

static bool is_printable(const char *text)
{
    for (; *text != '\0'; text++)
        if (*text < 0x20 || *text > 0x7e)
            return false;
    return true;
}

static int get_prefix(const json_t *root, char out[VINE_PATH_MAX], struct vine_err *err)
{
    auto_free char *path = malloc(3 * VINE_PATH_MAX);

    if (path == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (get_text(root, "prefix", path, 3 * VINE_PATH_MAX, err) < 0)
        return -1;
    if (vine_path_unescape(path) < 0 || strlen(path) >= VINE_PATH_MAX ||
        (path[0] != '/' && path[0] != '\0'))
        return vine_err_set(err, VINE_ECORRUPT,
                            "image information is damaged: bad field 'prefix'");
    memcpy(out, path, strlen(path) + 1);
    return 0;
}

/* Newer than the others: images without them are good. A kind of environment that only
 * a later version knows is an unknown one. */
static int get_env(const json_t *root, struct image_info *info, struct vine_err *err)
{
    char env[32];

    if (get_text(root, "env", env, sizeof(env), err) < 0 ||
        get_count(root, "files", &info->files, err) < 0)
        return -1;
    if (image_env_parse(env, &info->env) < 0)
        info->env = IMAGE_ENV_UNKNOWN;
    return 0;
}

static int info_from_json(const char *text, size_t len, struct image_info *info,
                          struct vine_err *err)
{
    json_error_t jerr;
    json_auto_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &jerr);
    char activate[16];

    if (!json_is_object(root))
        return vine_err_set(err, VINE_ECORRUPT,
                            "image information is damaged: no JSON");
    if (get_prefix(root, info->prefix, err) < 0 ||
        get_text(root, "tool", info->tool, sizeof(info->tool), err) < 0 ||
        get_text(root, "created_by", info->created_by, sizeof(info->created_by), err) <
            0 ||
        get_text(root, "activate", activate, sizeof(activate), err) < 0 ||
        get_count(root, "entries", &info->entries, err) < 0 ||
        get_count(root, "bytes", &info->bytes, err) < 0)
        return -1;
    if (json_object_get(root, "env") != NULL && get_env(root, info, err) < 0)
        return -1;
    if (json_object_get(root, "listing_bytes") != NULL &&
        (get_count(root, "listing_offset", &info->listing_offset, err) < 0 ||
         get_count(root, "listing_bytes", &info->listing_bytes, err) < 0))
        return -1;
    if (image_activate_parse(activate, &info->activate) < 0 ||
        !is_printable(info->tool) || !is_printable(info->created_by))
        return vine_err_set(err, VINE_ECORRUPT,
                            "image information is damaged: bad text");
    return 0;
}

/* The block's length from the last FOOT_LEN bytes of an object of `size` bytes; 0:
 * none.
 */
static int block_length(const uint8_t foot[FOOT_LEN], uint64_t size, size_t *len,
                        struct vine_err *err)
{
    uint64_t n = get_be(foot, 8);

    *len = 0;
    if (memcmp(foot + 8, end_magic, MAGIC_LEN) != 0)
        return 0;
    if (n == 0 || n > IMAGE_INFO_MAX || n % IMAGE_INFO_BLOCK != 0 || n > size)
        return vine_err_set(err, VINE_ECORRUPT,
                            "image information is damaged: bad length");
    *len = (size_t)n;
    return 0;
}

static int block_decode(const uint8_t *block, size_t len, struct image_info *info,
                        struct vine_err *err)
{
    uint64_t json_len = get_be(block + MAGIC_LEN, 4);
    auto_free struct image_info *read = calloc(1, sizeof(*read));

    if (read == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (memcmp(block, start_magic, MAGIC_LEN) != 0 ||
        json_len > len - HEAD_LEN - FOOT_LEN ||
        !bytes_are_zero(block + HEAD_LEN + json_len,
                        len - HEAD_LEN - FOOT_LEN - json_len))
        return vine_err_set(err, VINE_ECORRUPT,
                            "image information is damaged: bad frame");
    if (info_from_json((const char *)block + HEAD_LEN, json_len, read, err) < 0)
        return -1;
    *info = *read;
    return 0;
}

int image_info_decode(const uint8_t *tail, size_t len, struct image_info *info,
                      bool *found, struct vine_err *err)
{
    size_t block = 0;

    if (len >= FOOT_LEN && block_length(tail + len - FOOT_LEN, len, &block, err) < 0)
        return -1;
    if (block > 0 && block_decode(tail + len - block, block, info, err) < 0)
        return -1;
    if (block == 0)
        memset(info, 0, sizeof(*info));
    *found = block > 0;
    return 0;
}

int image_info_read(int fd, uint64_t size, struct image_info *info, bool *found,
                    struct vine_err *err)
{
    uint8_t foot[FOOT_LEN];
    auto_free uint8_t *block = NULL;
    size_t len = 0;

    if (size >= FOOT_LEN) {
        if (pread_whole(fd, foot, FOOT_LEN, size - FOOT_LEN) != FOOT_LEN)
            return vine_err_set(err, VINE_ECORRUPT, "cannot read the end of the image");
        if (block_length(foot, size, &len, err) < 0)
            return -1;
    }
    if (len == 0) {
        memset(info, 0, sizeof(*info));
        *found = false;
        return 0;
    }
    block = malloc(len);
    if (block == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (pread_whole(fd, block, len, size - len) != (ssize_t)len)
        return vine_err_set(err, VINE_ECORRUPT, "cannot read the image information");
    return image_info_decode(block, len, info, found, err);
}
