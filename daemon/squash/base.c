/* base.c - see base.h.
 *
 * The image was built here or came from another node, checked: what is damaged in it
 * was damaged on this disk. Every offset and length is checked all the same; blocks of
 * files are not unpacked, only looked at where they begin. */
#include "daemon/squash/base.h"

#include <sqfs/block.h>
#include <sqfs/compressor.h>
#include <sqfs/dir_reader.h>
#include <sqfs/frag_table.h>
#include <sqfs/id_table.h>
#include <sqfs/inode.h>
#include <sqfs/super.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/squash/blocks.h"
#include "daemon/squash/disk.h"

#define NONE UINT32_MAX

static const uint8_t zstd_magic[4] = {0x28, 0xb5, 0x2f, 0xfd};

struct base {
    struct disk disk;
    sqfs_super_t super;
    sqfs_compressor_t *unpacker;
    struct nodes *nodes;
    struct fragment *tails;
    uint32_t *tails_len; /* unpacked; 0: not known */
    uint32_t tails_count;
    /* The block of tails that was unpacked last. */
    uint32_t unpacked;
    uint8_t *bytes, *packed; /* SQUASH_BLOCK each */
};

static int damaged(struct vine_err *err, const char *what)
{
    return vine_err_set(err, VINE_ECORRUPT, "the image before is damaged: %s", what);
}

static int check_kind(struct base *b, struct vine_err *err)
{
    sqfs_compressor_config_t config;

    if (sqfs_super_read(&b->super, &b->disk.file) != 0 ||
        b->super.bytes_used > b->disk.size)
        return damaged(err, "superblock");
    b->disk.size = b->super.bytes_used;
    if (b->super.compression_id != SQFS_COMP_ZSTD ||
        b->super.block_size != SQUASH_BLOCK ||
        (b->super.flags & SQFS_FLAG_COMPRESSOR_OPTIONS) == 0)
        return vine_err_set(err, VINE_EINVAL, "the image before is of another kind");
    b->unpacker = disk_compressor(true, err);
    if (b->unpacker == NULL)
        return -1;
    if (b->unpacker->read_options(b->unpacker, &b->disk.file) != 0)
        return damaged(err, "options");
    b->unpacker->get_configuration(b->unpacker, &config);
    if (config.level != SQUASH_LEVEL)
        return vine_err_set(err, VINE_EINVAL, "the image before is of another kind");
    return 0;
}

static int read_fragments(struct base *b, struct vine_err *err)
{
    sqfs_frag_table_t *table = sqfs_frag_table_create(0);
    int result = table == NULL ? -1
                               : sqfs_frag_table_read(table, &b->disk.file, &b->super,
                                                      b->unpacker);

    if (result == 0) {
        b->tails_count = (uint32_t)sqfs_frag_table_get_size(table);
        b->tails = calloc((size_t)b->tails_count + 1, sizeof(*b->tails));
        b->tails_len = calloc((size_t)b->tails_count + 1, sizeof(*b->tails_len));
    }
    for (uint32_t i = 0; b->tails != NULL && result == 0 && i < b->tails_count; i++) {
        sqfs_fragment_t one;

        result = sqfs_frag_table_lookup(table, i, &one);
        b->tails[i] = (struct fragment){.start = one.start_offset, .word = one.size};
    }
    sqfs_destroy(table);
    if (result != 0)
        return damaged(err, "table of tails");
    if (b->tails == NULL || b->tails_len == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    return 0;
}

static int take_file(struct squash_file *f, const sqfs_inode_generic_t *inode,
                     struct vine_err *err)
{
    size_t count = sqfs_inode_get_file_block_count(inode);

    if (sqfs_inode_get_file_size(inode, &f->size) != 0 ||
        sqfs_inode_get_file_block_start(inode, &f->start) != 0 ||
        sqfs_inode_get_frag_location(inode, &f->tail_block, &f->tail_offset) != 0)
        return damaged(err, "inode");
    for (size_t i = 0; i < count; i++)
        if (file_add_block(f, inode->extra[i], err) < 0)
            return -1;
    return 0;
}

/* All of a directory as nodes of ours. */
static int take_below(struct base *b, struct node *dir, const sqfs_tree_node_t *from,
                      struct vine_err *err)
{
    for (const sqfs_tree_node_t *n = from->children; n != NULL; n = n->next) {
        const char *name = (const char *)n->name;
        struct node *node = nodes_add(b->nodes, dir, name, strlen(name), err);

        if (node == NULL)
            return -1;
        node->mode = n->inode->base.mode;
        if (S_ISREG(node->mode) && take_file(&node->file, n->inode, err) < 0)
            return -1;
        if (S_ISDIR(node->mode) && take_below(b, node, n, err) < 0)
            return -1;
    }
    return 0;
}

static int read_names(struct base *b, struct vine_err *err)
{
    sqfs_id_table_t *ids = sqfs_id_table_create(0);
    sqfs_dir_reader_t *reader =
        sqfs_dir_reader_create(&b->super, b->unpacker, &b->disk.file, 0);
    sqfs_tree_node_t *root = NULL;
    int result = -1;

    b->nodes = nodes_new();
    if (b->nodes == NULL || ids == NULL || reader == NULL)
        vine_err_set(err, VINE_ENOMEM, "out of memory");
    else if (sqfs_id_table_read(ids, &b->disk.file, &b->super, b->unpacker) != 0 ||
             sqfs_dir_reader_get_full_hierarchy(reader, ids, NULL, 0, &root) != 0)
        damaged(err, "directories");
    else
        result = take_below(b, nodes_root(b->nodes), root, err);
    if (root != NULL)
        sqfs_dir_tree_destroy(root);
    sqfs_destroy(reader);
    sqfs_destroy(ids);
    return result;
}

struct base *base_open(int fd, struct vine_err *err)
{
    struct base *b = calloc(1, sizeof(*b));
    struct stat st;

    if (b == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        return NULL;
    }
    b->unpacked = NONE;
    b->bytes = malloc(SQUASH_BLOCK);
    b->packed = malloc(SQUASH_BLOCK);
    if (b->bytes == NULL || b->packed == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
    } else if (fstat(fd, &st) < 0) {
        vine_err_sys(err, "cannot look at the image before");
    } else {
        disk_init(&b->disk, fd, (uint64_t)st.st_size);
        if (check_kind(b, err) == 0 && read_fragments(b, err) == 0 &&
            read_names(b, err) == 0)
            return b;
    }
    base_free(b);
    return NULL;
}

const struct squash_file *base_find(const struct base *b, const char *path,
                                    struct vine_err *err)
{
    const struct node *node = nodes_find(b->nodes, path);
    const struct squash_file *f;
    uint32_t tail;

    if (node == NULL || !S_ISREG(node->mode)) {
        vine_err_set(err, VINE_EINVAL, "'%s' is no file of the image before", path);
        return NULL;
    }
    f = &node->file;
    tail = f->size % SQUASH_BLOCK;
    /* Ours have a whole block, a tail, or zeros; f->count agrees with the size. */
    if (f->tail_block == NO_TAIL
            ? tail != 0 && (f->count == 0 || f->block[f->count - 1] != 0)
            : tail == 0 || f->tail_block >= b->tails_count) {
        damaged(err, path);
        return NULL;
    }
    return f;
}

int base_read(const struct base *b, uint64_t offset, uint32_t word, uint8_t *out,
              struct vine_err *err)
{
    uint32_t len = BLOCK_LEN(word);

    if (len == 0 || len > SQUASH_BLOCK ||
        disk_read(&b->disk, out, len, offset, err) < 0)
        return damaged(err, "place of a block");
    if ((word & BLOCK_PLAIN) == 0 &&
        (len < sizeof(zstd_magic) || memcmp(out, zstd_magic, sizeof(zstd_magic)) != 0))
        return damaged(err, "block");
    return 0;
}

int base_read_tails(const struct base *b, uint32_t block, uint8_t *out, uint32_t *word,
                    struct vine_err *err)
{
    *word = b->tails[block].word;
    return base_read(b, b->tails[block].start, *word, out, err);
}

static int unpack_tails(struct base *b, uint32_t block, struct vine_err *err)
{
    uint32_t word;
    int32_t len;

    if (b->unpacked == block)
        return 0;
    b->unpacked = NONE;
    if (base_read_tails(b, block, b->packed, &word, err) < 0)
        return -1;
    len = (int32_t)BLOCK_LEN(word);
    if ((word & BLOCK_PLAIN) != 0)
        memcpy(b->bytes, b->packed, (size_t)len);
    else
        len = b->unpacker->do_block(b->unpacker, b->packed, BLOCK_LEN(word), b->bytes,
                                    SQUASH_BLOCK);
    if (len <= 0)
        return damaged(err, "block of tails");
    b->tails_len[block] = (uint32_t)len;
    b->unpacked = block;
    return 0;
}

int base_tail(struct base *b, const struct squash_file *f, uint8_t *out,
              struct vine_err *err)
{
    uint32_t len = f->size % SQUASH_BLOCK;

    if (unpack_tails(b, f->tail_block, err) < 0)
        return -1;
    if (f->tail_offset > b->tails_len[f->tail_block] ||
        len > b->tails_len[f->tail_block] - f->tail_offset)
        return damaged(err, "place of a tail");
    memcpy(out, b->bytes + f->tail_offset, len);
    return 0;
}

bool base_tails_are(const struct base *b, uint32_t block, uint32_t len)
{
    return b->tails_len[block] == len;
}

void base_free(struct base *b)
{
    if (b == NULL)
        return;
    nodes_free(b->nodes);
    sqfs_destroy(b->unpacker);
    free(b->tails);
    free(b->tails_len);
    free(b->bytes);
    free(b->packed);
    free(b);
}
