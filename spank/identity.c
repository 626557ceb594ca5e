/* identity.c - per-thread changes of identity, each checked (see identity.h). */
#include "spank/identity.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KEEP ((uid_t)-1)

int identity_raise(uid_t *was, struct vine_err *err)
{
    *was = geteuid();
    if (*was == 0)
        return 0;
    if (syscall(SYS_setresuid, KEEP, (uid_t)0, KEEP) < 0)
        return vine_err_sys(err, "cannot become root to ask the daemon");
    return 0;
}

int identity_lower(uid_t was, struct vine_err *err)
{
    if (was == geteuid())
        return 0;
    if (syscall(SYS_setresuid, KEEP, was, KEEP) < 0)
        return vine_err_sys(err, "cannot become uid %u again", (unsigned)was);
    if (geteuid() != was)
        return vine_err_set(err, VINE_ESYS, "cannot become uid %u again",
                            (unsigned)was);
    return 0;
}

/* setfsuid() tells no error; asked with -1 it changes nothing and tells the value. */
static int set_fs_ids(uid_t uid, gid_t gid, struct vine_err *err)
{
    (void)setfsgid(gid);
    (void)setfsuid(uid);
    if ((uid_t)setfsuid(KEEP) != uid || (gid_t)setfsgid(KEEP) != gid)
        return vine_err_set(err, VINE_ESYS, "cannot access files as uid %u, gid %u",
                            (unsigned)uid, (unsigned)gid);
    return 0;
}

static int set_groups(int count, const gid_t *groups, struct vine_err *err)
{
    if (syscall(SYS_setgroups, (size_t)count, groups) < 0)
        return vine_err_sys(err, "cannot set %d supplementary groups", count);
    return 0;
}

static int save(struct identity_saved *saved, struct vine_err *err)
{
    int count = getgroups(0, NULL);

    if (count < 0)
        return vine_err_sys(err, "cannot read the supplementary groups");
    saved->groups = calloc((size_t)count + 1, sizeof(gid_t));
    if (saved->groups == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    saved->group_count = getgroups(count, saved->groups);
    saved->fsuid = (uid_t)setfsuid(KEEP);
    saved->fsgid = (gid_t)setfsgid(KEEP);
    return 0;
}

int identity_fs_become(const struct identity_user *user, struct identity_saved *saved,
                       struct vine_err *err)
{
    if (user->group_count < 0 || user->group_count > IDENTITY_GROUPS_MAX)
        return vine_err_set(err, VINE_ELIMIT, "%d supplementary groups",
                            user->group_count);
    if (save(saved, err) < 0)
        return -1;
    if (set_groups(user->group_count, user->groups, err) < 0 ||
        set_fs_ids(user->uid, user->gid, err) < 0) {
        (void)identity_fs_restore(saved, NULL);
        return -1;
    }
    return 0;
}

int identity_fs_restore(struct identity_saved *saved, struct vine_err *err)
{
    int result = set_fs_ids(saved->fsuid, saved->fsgid, err);

    if (set_groups(saved->group_count, saved->groups, err) < 0)
        result = -1;
    free(saved->groups);
    saved->groups = NULL;
    return result;
}
