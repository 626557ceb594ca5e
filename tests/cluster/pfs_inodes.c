/* pfs_inodes.c - the table of inodes that this node's kernel knows of.
 *
 * An inode is known by its number in the backing directory (the mount's root by
 * FUSE_ROOT_ID), so the number is the same on every node and hard links are one inode.
 * It is opened by file handle, as an NFS server does: that needs no descriptor for each
 * of the 100,000 inodes a kernel may know. If another node deletes a file and its
 * number is used again, the handle differs, and so does the generation we tell the
 * kernel. */
#define FUSE_USE_VERSION 312

#include "pfs_inodes.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 65536, HANDLE_BYTES_MAX = 64 };

/* A struct file_handle with room for its bytes. */
union handle {
    struct file_handle header;
    char room[sizeof(struct file_handle) + HANDLE_BYTES_MAX];
};

struct inode {
    struct inode *next;
    uint64_t number;
    uint64_t lookups; /* what the kernel holds; 0 frees us */
    union handle handle;
    uint64_t parent; /* one name it is known by, for drop_everything() */
    char *name;
};

static int root_fd = -1;
static uint64_t root_number;

static struct {
    pthread_mutex_t lock;
    struct inode *bucket[BUCKETS];
    size_t count;
} table = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct inode **table_find(uint64_t number)
{
    struct inode **at = &table.bucket[number % BUCKETS];
    while (*at != NULL && (*at)->number != number)
        at = &(*at)->next;
    return at;
}

static uint64_t number_of(const struct stat *st)
{
    return st->st_ino == root_number ? FUSE_ROOT_ID : st->st_ino;
}

static int handle_get(int fd, union handle *handle)
{
    int mount_id;
    *handle = (union handle){.header.handle_bytes = HANDLE_BYTES_MAX};
    return name_to_handle_at(fd, "", &handle->header, &mount_id, AT_EMPTY_PATH);
}

/* Any number that tells two handles apart (FNV-1a). */
static uint64_t handle_generation(const union handle *handle)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (unsigned int i = 0; i < handle->header.handle_bytes; i++)
        hash = (hash ^ handle->header.f_handle[i]) * 0x100000001b3;
    return hash;
}

static void inode_rename(struct inode *inode, uint64_t parent, const char *name)
{
    if (inode->parent == parent && inode->name != NULL && !strcmp(inode->name, name))
        return;
    char *copy = strdup(name);
    if (copy == NULL)
        return; /* the old name only makes drop_everything() less thorough */
    free(inode->name);
    inode->name = copy;
    inode->parent = parent;
}

/* Count one more look-up. The handle may be a new one: see above. */
static int remember(uint64_t number, const union handle *handle, uint64_t parent,
                    const char *name)
{
    int result = 0;

    pthread_mutex_lock(&table.lock);
    struct inode **at = table_find(number);
    if (*at == NULL && (*at = calloc(1, sizeof(**at))) != NULL)
        table.count++;
    if (*at != NULL) {
        (*at)->number = number;
        (*at)->handle = *handle;
        (*at)->lookups++;
        inode_rename(*at, parent, name);
    } else {
        result = -1;
        errno = ENOMEM;
    }
    pthread_mutex_unlock(&table.lock);
    return result;
}

static bool is_known(uint64_t number)
{
    pthread_mutex_lock(&table.lock);
    bool known = *table_find(number) != NULL;
    pthread_mutex_unlock(&table.lock);
    return known;
}

int inodes_open_root(const char *backing)
{
    struct stat st;
    union handle handle;

    root_fd = open(backing, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0 || fstat(root_fd, &st) < 0 || handle_get(root_fd, &handle) < 0)
        return -1;
    root_number = st.st_ino;
    return remember(FUSE_ROOT_ID, &handle, 0, "");
}

int inode_look_up(uint64_t parent, const char *name, struct fuse_entry_param *entry)
{
    union handle handle;
    auto_fd dir = inode_open(parent, O_PATH);
    if (dir < 0)
        return -1;
    auto_fd fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &entry->attr) < 0 || handle_get(fd, &handle) < 0)
        return -1;
    entry->ino = number_of(&entry->attr);
    entry->generation = handle_generation(&handle);
    return remember(entry->ino, &handle, parent, name);
}

uint64_t inode_number_at(uint64_t parent, const char *name)
{
    struct stat st;
    auto_fd dir = inode_open(parent, O_PATH);
    if (dir < 0 || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    return number_of(&st);
}

void inode_forget(uint64_t number, uint64_t lookups)
{
    struct inode *gone = NULL;

    pthread_mutex_lock(&table.lock);
    struct inode **at = table_find(number);
    if (*at != NULL && number != FUSE_ROOT_ID) {
        (*at)->lookups -= lookups < (*at)->lookups ? lookups : (*at)->lookups;
        if ((*at)->lookups == 0) {
            gone = *at;
            *at = gone->next;
            table.count--;
        }
    }
    pthread_mutex_unlock(&table.lock);
    if (gone != NULL) {
        free(gone->name);
        free(gone);
    }
}

int inode_open(uint64_t number, int flags)
{
    union handle handle;

    pthread_mutex_lock(&table.lock);
    const struct inode *inode = *table_find(number);
    if (inode != NULL)
        handle = inode->handle;
    pthread_mutex_unlock(&table.lock);
    if (inode == NULL) {
        errno = ESTALE;
        return -1;
    }
    return open_by_handle_at(root_fd, &handle.header, flags | O_CLOEXEC);
}

int inode_stat(uint64_t number, struct stat *st)
{
    auto_fd fd = inode_open(number, O_PATH);
    return fd < 0 ? -1 : fstat(fd, st);
}

static void drop_inode(struct fuse_session *session, uint64_t number)
{
    if (is_known(number))
        fuse_lowlevel_notify_inval_inode(session, number, 0, 0);
}

/* Make the kernel ask again for this name. Not "invalidate": that would unmount what is
 * mounted there, even if the name turns out to be what it was. */
static void drop_entry(struct fuse_session *session, uint64_t parent, const char *name)
{
    if (*name != '\0' && is_known(parent))
        fuse_lowlevel_notify_expire_entry(session, parent, name, strlen(name),
                                          FUSE_LL_EXPIRE_ONLY);
}

/* Notifications may wait for requests that need the table: so never under its lock. */
static void drop_everything(struct fuse_session *session)
{
    struct pfs_change *known = NULL;
    size_t count = 0;

    pthread_mutex_lock(&table.lock);
    known = calloc(table.count, sizeof(*known));
    for (size_t i = 0; known != NULL && i < BUCKETS; i++) {
        for (struct inode *in = table.bucket[i]; in != NULL; in = in->next) {
            struct pfs_change *one = &known[count++];
            one->parent = in->parent;
            one->child = in->number;
            snprintf(one->name, sizeof(one->name), "%s", in->name ? in->name : "");
        }
    }
    pthread_mutex_unlock(&table.lock);
    for (size_t i = 0; i < count; i++) {
        drop_entry(session, known[i].parent, known[i].name);
        drop_inode(session, known[i].child);
    }
    free(known);
}

void inodes_handle_change(struct fuse_session *session, const struct pfs_change *change)
{
    if (change->everything) {
        drop_everything(session);
        return;
    }
    drop_entry(session, change->parent, change->name);
    drop_inode(session, change->parent);
    drop_inode(session, change->child);
}
