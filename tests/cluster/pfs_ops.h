/* pfs_ops.h - what the file system does with the kernel's requests. */
#ifndef PFS_OPS_H
#define PFS_OPS_H

#include "pfs_shared.h"

#include <fuse3/fuse_lowlevel.h>

/* To be set before the session starts: whom to pay and to tell. */
extern struct pfs_shared *pfs_ops_shared;

/* `init` is the session owner's to fill in. */
extern const struct fuse_lowlevel_ops pfs_ops;

#endif
