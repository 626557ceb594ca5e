/* meta.c - see meta.h. libsquashfs knows the formats; this file knows the order.
 *
 * A directory names its entries by where their inodes are, so an inode is written
 * after everything below it. First those that have several names, since any directory
 * may name them; then, in every directory, what its directories have, and its own. */
#include "daemon/squash/meta.h"

#include <sqfs/compressor.h>
#include <sqfs/dir_writer.h>
#include <sqfs/frag_table.h>
#include <sqfs/id_table.h>
#include <sqfs/inode.h>
#include <sqfs/meta_writer.h>
#include <sqfs/super.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PADDED_TO 4096u
#define NO_XATTR 0xffffffffu

struct meta {
    struct disk *disk;
    sqfs_compressor_t *compressor;
    sqfs_meta_writer_t *inodes, *listings;
    sqfs_dir_writer_t *dirs;
    sqfs_id_table_t *ids;
    sqfs_frag_table_t *fragments;
    sqfs_super_t super;
    struct node **order; /* of inodes, as they are written */
    uint32_t count;
};

int meta_begin(struct disk *disk, struct vine_err *err)
{
    sqfs_compressor_t *compressor = disk_compressor(false, err);
    static const sqfs_super_t empty;
    int result;

    if (compressor == NULL)
        return -1;
    result = disk_write(disk, &empty, sizeof(empty), 0, err);
    if (result == 0 && compressor->write_options(compressor, &disk->file) < 0)
        result = vine_err_sys(err, "cannot write the image");
    sqfs_destroy(compressor);
    return result;
}

static int write_inode(struct meta *m, struct node *node, sqfs_inode_generic_t *inode,
                       struct vine_err *err)
{
    uint64_t block;
    uint32_t offset;
    int result;

    inode->base.mode = (sqfs_u16)node->mode;
    inode->base.mod_time = node->mtime;
    inode->base.inode_number = node->number;
    result = sqfs_id_table_id_to_index(m->ids, node->uid, &inode->base.uid_idx);
    if (result == 0)
        result = sqfs_id_table_id_to_index(m->ids, node->gid, &inode->base.gid_idx);
    sqfs_meta_writer_get_position(m->inodes, &block, &offset);
    node->ref = block << 16 | offset;
    if (result == 0)
        result = sqfs_meta_writer_write_inode(m->inodes, inode);
    return result == 0 ? 0 : disk_fail(err, result, "cannot write an inode");
}

/* An inode with room for `len` bytes behind it. */
static sqfs_inode_generic_t *new_inode(size_t len, struct vine_err *err)
{
    sqfs_inode_generic_t *inode = calloc(1, sizeof(*inode) + len);

    if (inode == NULL)
        vine_err_set(err, VINE_ENOMEM, "out of memory");
    else
        inode->payload_bytes_available = inode->payload_bytes_used = (uint32_t)len;
    return inode;
}

static int write_file(struct meta *m, struct node *node, struct vine_err *err)
{
    const struct squash_file *f = &node->file;
    size_t len = f->count * sizeof(*f->block);
    sqfs_inode_generic_t *inode = new_inode(len, err);
    int result;

    if (inode == NULL)
        return -1;
    inode->base.type = SQFS_INODE_EXT_FILE;
    inode->data.file_ext = (sqfs_inode_file_ext_t){.blocks_start = f->start,
                                                   .file_size = f->size,
                                                   .sparse = f->sparse,
                                                   .nlink = node->links,
                                                   .fragment_idx = f->tail_block,
                                                   .fragment_offset = f->tail_offset,
                                                   .xattr_idx = NO_XATTR};
    if (f->tail_block == NO_TAIL)
        inode->data.file_ext.fragment_offset = NO_TAIL;
    if (len > 0)
        memcpy(inode->extra, f->block, len);
    if (node->links == 1)
        (void)sqfs_inode_make_basic(inode); /* where it can be one */
    result = write_inode(m, node, inode, err);
    free(inode);
    return result;
}

static int write_symlink(struct meta *m, struct node *node, struct vine_err *err)
{
    size_t len = strlen(node->target);
    sqfs_inode_generic_t *inode = new_inode(len + 1, err);
    int result;

    if (inode == NULL)
        return -1;
    inode->base.type = SQFS_INODE_SLINK;
    inode->data.slink =
        (sqfs_inode_slink_t){.nlink = node->links, .target_size = (uint32_t)len};
    memcpy(inode->extra, node->target, len);
    result = write_inode(m, node, inode, err);
    free(inode);
    return result;
}

static int write_listing(struct meta *m, const struct node *dir, struct vine_err *err)
{
    int result = sqfs_dir_writer_begin(m->dirs, 0);

    for (const struct node *n = dir->child; n != NULL && result == 0; n = n->next) {
        const struct node *to = n->link != NULL ? n->link : n;

        result = sqfs_dir_writer_add_entry(m->dirs, n->name, to->number, to->ref,
                                           (sqfs_u16)to->mode);
    }
    if (result == 0)
        result = sqfs_dir_writer_end(m->dirs);
    return result == 0 ? 0 : disk_fail(err, result, "cannot write a directory");
}

static int write_dir(struct meta *m, struct node *dir, struct vine_err *err)
{
    uint32_t parent = dir->parent != dir ? dir->parent->number : 0;
    sqfs_inode_generic_t *inode;
    int result;

    if (write_listing(m, dir, err) < 0)
        return -1;
    inode = sqfs_dir_writer_create_inode(m->dirs, 0, NO_XATTR, parent);
    if (inode == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    result = write_inode(m, dir, inode, err);
    sqfs_free(inode);
    return result;
}

static void number(struct meta *m, struct node *node)
{
    m->order[m->count++] = node;
    node->number = m->count;
}

static void number_linked(struct meta *m, struct node *dir)
{
    for (struct node *n = dir->child; n != NULL; n = n->next) {
        if (S_ISDIR(n->mode))
            number_linked(m, n);
        else if (n->link == NULL && n->links > 1)
            number(m, n);
    }
}

/* What is in a directory; itself it is numbered with what is beside it. */
static void number_below(struct meta *m, struct node *dir)
{
    for (struct node *n = dir->child; n != NULL; n = n->next)
        if (S_ISDIR(n->mode))
            number_below(m, n);
    for (struct node *n = dir->child; n != NULL; n = n->next)
        if (n->link == NULL && n->number == 0)
            number(m, n);
}

static int write_inodes(struct meta *m, struct vine_err *err)
{
    int result = 0;

    m->super.inode_table_start = m->disk->size;
    for (uint32_t i = 0; i < m->count && result == 0; i++) {
        struct node *n = m->order[i];

        if (S_ISDIR(n->mode))
            result = write_dir(m, n, err);
        else if (S_ISLNK(n->mode))
            result = write_symlink(m, n, err);
        else
            result = write_file(m, n, err);
    }
    if (result < 0)
        return -1;
    result = sqfs_meta_writer_flush(m->inodes);
    if (result == 0)
        result = sqfs_meta_writer_flush(m->listings);
    m->super.directory_table_start = m->disk->size;
    if (result == 0)
        result = sqfs_meta_write_write_to_file(m->listings);
    return result == 0 ? 0 : disk_fail(err, result, "cannot write the directories");
}

static int write_tables(struct meta *m, const struct fragment *fragments,
                        uint32_t count, struct vine_err *err)
{
    int result = 0;

    for (uint32_t i = 0; i < count && result == 0; i++)
        result = sqfs_frag_table_append(m->fragments, fragments[i].start,
                                        fragments[i].word, NULL);
    if (result == 0)
        result = sqfs_frag_table_write(m->fragments, &m->disk->file, &m->super,
                                       m->compressor);
    if (result == 0)
        result = sqfs_id_table_write(m->ids, &m->disk->file, &m->super, m->compressor);
    return result == 0 ? 0 : disk_fail(err, result, "cannot write the tables");
}

/* Last, so that what is not whole is no image. */
static int write_super(struct meta *m, const struct node *root, struct vine_err *err)
{
    static const uint8_t zeros[PADDED_TO];
    uint64_t used = m->disk->size;
    int result;

    m->super.inode_count = m->count;
    m->super.root_inode_ref = root->ref;
    m->super.bytes_used = used;
    if (used % PADDED_TO != 0 &&
        disk_write(m->disk, zeros, PADDED_TO - used % PADDED_TO, used, err) < 0)
        return -1;
    result = sqfs_super_write(&m->super, &m->disk->file);
    return result == 0 ? 0 : disk_fail(err, result, "cannot write the superblock");
}

static int prepare(struct meta *m, size_t nodes, struct vine_err *err)
{
    if (sqfs_super_init(&m->super, SQUASH_BLOCK, 0, SQFS_COMP_ZSTD) != 0)
        return vine_err_set(err, VINE_ESYS, "cannot prepare the superblock");
    m->super.flags |= SQFS_FLAG_COMPRESSOR_OPTIONS | SQFS_FLAG_NO_XATTRS;
    m->compressor = disk_compressor(false, err);
    if (m->compressor == NULL)
        return -1;
    m->inodes = sqfs_meta_writer_create(&m->disk->file, m->compressor, 0);
    m->listings = sqfs_meta_writer_create(&m->disk->file, m->compressor,
                                          SQFS_META_WRITER_KEEP_IN_MEMORY);
    m->dirs = m->listings != NULL ? sqfs_dir_writer_create(m->listings, 0) : NULL;
    m->ids = sqfs_id_table_create(0);
    m->fragments = sqfs_frag_table_create(0);
    m->order = calloc(nodes, sizeof(struct node *));
    if (m->inodes == NULL || m->dirs == NULL || m->ids == NULL ||
        m->fragments == NULL || m->order == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    return 0;
}

int meta_write(struct disk *disk, struct nodes *nodes, const struct fragment *fragments,
               uint32_t fragment_count, struct vine_err *err)
{
    struct node *root = nodes_root(nodes);
    struct meta m = {.disk = disk};
    int result = prepare(&m, nodes_count(nodes), err);

    if (result == 0) {
        number_linked(&m, root);
        number_below(&m, root);
        number(&m, root);
        result = write_inodes(&m, err);
    }
    if (result == 0)
        result = write_tables(&m, fragments, fragment_count, err);
    if (result == 0)
        result = write_super(&m, root, err);
    free(m.order);
    sqfs_destroy(m.fragments);
    sqfs_destroy(m.ids);
    sqfs_destroy(m.dirs);
    sqfs_destroy(m.listings);
    sqfs_destroy(m.inodes);
    sqfs_destroy(m.compressor);
    return result;
}
