/* lazy_mount.h - the kernel's side of a lazy mount: a FUSE file system that nobody
 * sees, a loop device on its one file. */
#ifndef VINE_NODE_LAZY_MOUNT_H
#define VINE_NODE_LAZY_MOUNT_H

#include "vine/err.h"

/* A FUSE file system whose root is a file, attached nowhere. fuse_fd: for who serves
 * it. mount_fd: for lazy_file_open; closing both ends it. */
int lazy_fuse_mount(int *fuse_fd, int *mount_fd, struct vine_err *err);

/* (worker) Its file, read-only. Waits for who serves it. */
int lazy_file_open(int mount_fd, struct vine_err *err);

/* (worker) From now on the device reads the published image, and through the page cache
 * as others do. */
int lazy_change_file(int loop_fd, int image_fd, struct vine_err *err);

#endif
