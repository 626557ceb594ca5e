/* become.c - drop privileges, and prove it.
 *
 * The order matters: no new privileges and not dumpable first; groups before the ids
 * that allow setting them; then everything again that the kernel resets when ids change
 * (dumpable, the parent death signal). */
#include "daemon/source/become.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int set_groups(uid_t uid, gid_t gid, struct vine_err *err)
{
    const struct passwd *user;

    errno = 0;
    user = getpwuid(uid);
    if (user != NULL && initgroups(user->pw_name, gid) == 0)
        return 0;
    if (user == NULL && setgroups(1, &gid) == 0)
        return 0; /* nobody knows this uid: it has the one group it came with */
    return vine_err_sys(err, "cannot set the groups of uid %u", (unsigned)uid);
}

static int check_unprivileged(uid_t uid, struct vine_err *err)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct caps[2] = {{0}, {0}};
    uid_t real, effective, saved;

    if (getresuid(&real, &effective, &saved) < 0 || real != uid || effective != uid ||
        saved != uid || setresuid((uid_t)-1, 0, (uid_t)-1) == 0)
        return vine_err_set(err, VINE_ESYS, "cannot give root up for uid %u",
                            (unsigned)uid);
    if (syscall(SYS_capget, &header, caps) < 0 || caps[0].permitted != 0 ||
        caps[1].permitted != 0)
        return vine_err_set(err, VINE_ESYS, "cannot give capabilities up for uid %u",
                            (unsigned)uid);
    return 0;
}

static int protect(pid_t parent, struct vine_err *err)
{
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        return vine_err_sys(err, "cannot protect this process");
    if (getppid() != parent)
        return vine_err_set(err, VINE_ECANCELED, "the daemon has gone");
    return 0;
}

int source_become(uid_t uid, gid_t gid, pid_t parent, struct vine_err *err)
{
    if (protect(parent, err) < 0)
        return -1;
    if (geteuid() != 0) {
        if (uid == geteuid() && uid == getuid())
            return 0;
        return vine_err_set(err, VINE_EINVAL, "only root may become another user");
    }
    if (set_groups(uid, gid, err) < 0)
        return -1;
    if (setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
        return vine_err_sys(err, "cannot become uid %u", (unsigned)uid);
    if (uid != 0 && check_unprivileged(uid, err) < 0)
        return -1;
    return protect(parent, err);
}
