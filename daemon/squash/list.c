/* list.c - see list.h.
 *
 * The image may be anybody's. libsquashfs checks what it reads; what is bounded here is
 * what we keep of it: a path's length, how deep directories lie, the files whose
 * content is wanted. */
#include "daemon/squash/list.h"

#include <sqfs/compressor.h>
#include <sqfs/data_reader.h>
#include <sqfs/dir_reader.h>
#include <sqfs/id_table.h>
#include <sqfs/inode.h>
#include <sqfs/super.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/squash/disk.h"
#include "vine/limits.h"

#define DEPTH_MAX 512
#define CONTENT_MAX (16u << 20) /* of one file in conda-meta */
#define NUMBERS_MAX (64u << 20) /* inodes of one image */
#define META "conda-meta/"

struct list {
    FILE *out;
    struct disk disk;
    sqfs_super_t super;
    sqfs_compressor_t *unpacker;
    sqfs_data_reader_t *data;
    uint8_t *seen; /* a bit an inode number */
    char path[VINE_PATH_MAX];
};

static int damaged(struct vine_err *err, const char *what)
{
    return vine_err_set(err, VINE_ECORRUPT, "the image is damaged: %s", what);
}

static int open_image(struct list *l, int fd, struct vine_err *err)
{
    sqfs_compressor_config_t config;
    struct stat st;
    int result;

    if (fstat(fd, &st) < 0)
        return vine_err_sys(err, "cannot look at the image");
    disk_init(&l->disk, fd, (uint64_t)st.st_size);
    result = sqfs_super_read(&l->super, &l->disk.file);
    if (result != 0)
        return disk_fail(err, result, "cannot read its superblock");
    if (l->super.bytes_used > l->disk.size || l->super.inode_count > NUMBERS_MAX)
        return damaged(err, "superblock");
    result =
        sqfs_compressor_config_init(&config, l->super.compression_id,
                                    l->super.block_size, SQFS_COMP_FLAG_UNCOMPRESS);
    if (result == 0)
        result = sqfs_compressor_create(&config, &l->unpacker);
    if (result != 0)
        return disk_fail(err, result, "cannot read how it is compressed");
    l->seen = calloc(l->super.inode_count / 8 + 1, 1);
    l->data =
        sqfs_data_reader_create(&l->disk.file, l->super.block_size, l->unpacker, 0);
    if (l->data == NULL || l->seen == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    result = sqfs_data_reader_load_fragment_table(l->data, &l->super);
    return result == 0 ? 0 : disk_fail(err, result, "cannot read its table of tails");
}

/* A further name of a file that was listed? */
static bool is_again(struct list *l, const sqfs_inode_generic_t *inode)
{
    uint32_t number = inode->base.inode_number;
    uint8_t bit = (uint8_t)(1u << number % 8);

    if (number > l->super.inode_count)
        return false;
    if ((l->seen[number / 8] & bit) != 0)
        return true;
    l->seen[number / 8] |= bit;
    return false;
}

static bool is_wanted(const char *path)
{
    size_t len = strlen(path);

    return strncmp(path, META, strlen(META)) == 0 &&
           strchr(path + strlen(META), '/') == NULL && len > 5 &&
           strcmp(path + len - 5, ".json") == 0;
}

static int put_content(struct list *l, const sqfs_inode_generic_t *inode, uint64_t size,
                       struct vine_err *err)
{
    char *bytes = malloc((size_t)size + 1);
    uint64_t done = 0;

    if (bytes == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    while (done < size) {
        sqfs_s32 n = sqfs_data_reader_read(l->data, inode, done, bytes + done,
                                           (sqfs_u32)(size - done));
        if (n <= 0)
            break;
        done += (uint64_t)n;
    }
    if (done == size) {
        (void)fprintf(l->out, "c %llu %s%c", (unsigned long long)size, l->path, 0);
        (void)fwrite(bytes, 1, (size_t)size, l->out);
    }
    free(bytes);
    return done == size ? 0 : damaged(err, l->path);
}

static int put_file(struct list *l, const sqfs_inode_generic_t *inode,
                    struct vine_err *err)
{
    sqfs_u64 size;

    if (sqfs_inode_get_file_size(inode, &size) != 0)
        return damaged(err, l->path);
    if (is_again(l, inode))
        return 0;
    (void)fprintf(l->out, "f %llu %s%c", (unsigned long long)size, l->path, 0);
    return is_wanted(l->path) && size <= CONTENT_MAX ? put_content(l, inode, size, err)
                                                     : 0;
}

/* Everything below a directory whose path, with a '/' behind, has `len` bytes. */
static int put_below(struct list *l, const sqfs_tree_node_t *dir, size_t len,
                     unsigned depth, struct vine_err *err)
{
    if (depth > DEPTH_MAX)
        return vine_err_set(err, VINE_ELIMIT, "more than %d directories deep",
                            DEPTH_MAX);
    for (const sqfs_tree_node_t *n = dir->children; n != NULL; n = n->next) {
        size_t name = strlen((const char *)n->name);
        int result = 0;

        if (name + 2 > sizeof(l->path) - len)
            return vine_err_set(err, VINE_ELIMIT, "a path of over %d bytes",
                                VINE_PATH_MAX - 1);
        memcpy(l->path + len, n->name, name + 1);
        if (S_ISREG(n->inode->base.mode)) {
            result = put_file(l, n->inode, err);
        } else if (S_ISDIR(n->inode->base.mode)) {
            memcpy(l->path + len + name, "/", 2);
            result = put_below(l, n, len + name + 1, depth + 1, err);
        }
        if (result < 0)
            return -1;
    }
    return 0;
}

static int put_all(struct list *l, struct vine_err *err)
{
    sqfs_id_table_t *ids = sqfs_id_table_create(0);
    sqfs_dir_reader_t *reader =
        sqfs_dir_reader_create(&l->super, l->unpacker, &l->disk.file, 0);
    sqfs_tree_node_t *root = NULL;
    int result = -1;

    if (ids == NULL || reader == NULL)
        vine_err_set(err, VINE_ENOMEM, "out of memory");
    else if (sqfs_id_table_read(ids, &l->disk.file, &l->super, l->unpacker) != 0 ||
             sqfs_dir_reader_get_full_hierarchy(reader, ids, NULL, 0, &root) != 0)
        damaged(err, "directories");
    else
        result = put_below(l, root, 0, 0, err);
    if (root != NULL)
        sqfs_dir_tree_destroy(root);
    sqfs_destroy(reader);
    sqfs_destroy(ids);
    return result;
}

int list_image(int fd, FILE *out, struct vine_err *err)
{
    struct list *l = calloc(1, sizeof(*l));
    int result = -1;

    if (l == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    l->out = out;
    if (open_image(l, fd, err) == 0 && put_all(l, err) == 0) {
        (void)fprintf(out, "e%c", 0);
        result = fflush(out) == 0 && !ferror(out)
                     ? 0
                     : vine_err_sys(err, "cannot write the list");
    }
    sqfs_destroy(l->data);
    sqfs_destroy(l->unpacker);
    free(l->seen);
    free(l);
    return result;
}
