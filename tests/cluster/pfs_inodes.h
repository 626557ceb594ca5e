/* pfs_inodes.h - the inodes a kernel knows of, and how it is made to forget. */
#ifndef PFS_INODES_H
#define PFS_INODES_H

#include "pfs_shared.h"

#include <fuse3/fuse_lowlevel.h>
#include <sys/stat.h>
#include <unistd.h>

static inline void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
#define auto_fd __attribute__((cleanup(close_fd))) int

/* The backing directory becomes the inode FUSE_ROOT_ID. 0 or -1 with errno. */
int inodes_open_root(const char *backing);

/* Fill number, generation and attributes of what this name stands for, and count one
 * look-up of it. 0 or -1 with errno. */
int inode_look_up(uint64_t parent, const char *name, struct fuse_entry_param *entry);

/* Our number for what the name stands for, 0 if there is none. Counts nothing. */
uint64_t inode_number_at(uint64_t parent, const char *name);

/* The kernel gives back so many look-ups; without any the inode is forgotten. */
void inode_forget(uint64_t number, uint64_t lookups);

/* A new descriptor, -1 with errno. The flags are those of open(2). */
int inode_open(uint64_t number, int flags);

int inode_stat(uint64_t number, struct stat *st);

/* Make the kernel of this session forget what the change concerns. For the following
 * thread only: it may wait for requests under way. */
void inodes_handle_change(struct fuse_session *session,
                          const struct pfs_change *change);

#endif
