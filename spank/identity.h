/* identity.h - be root for a moment, or walk a path as the job's user.
 *
 * slurmstepd has threads, and glibc's setresuid() and setgroups() change all of them,
 * so these use the raw system calls, which change the calling thread only. Every change
 * is checked, and every restore too: after a failed restore the caller must give up. */
#ifndef VINE_SPANK_IDENTITY_H
#define VINE_SPANK_IDENTITY_H

#include <stdbool.h>
#include <sys/types.h>

#include "vine/err.h"

#define IDENTITY_GROUPS_MAX 65536 /* NGROUPS_MAX of Linux */

/* Effective uid root, when the real or saved uid allows it. *was: for _lower. */
int identity_raise(uid_t *was, struct vine_err *err);
int identity_lower(uid_t was, struct vine_err *err);

struct identity_user {
    uid_t uid;
    gid_t gid;
    const gid_t *groups; /* supplementary; borrowed */
    int group_count;
};

struct identity_saved {
    uid_t fsuid;
    gid_t fsgid;
    gid_t *groups;
    int group_count;
};

/* File system access as `user` (fsuid, fsgid, groups). CAP_SYS_ADMIN stays, so mount(2)
 * still works; CAP_DAC_OVERRIDE and its like go with the fsuid. Restore frees. */
int identity_fs_become(const struct identity_user *user, struct identity_saved *saved,
                       struct vine_err *err);
int identity_fs_restore(struct identity_saved *saved, struct vine_err *err);

#endif
