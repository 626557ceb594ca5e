/* lazy_mount.c - see lazy_mount.h.
 *
 * The FUSE file system is made by fsopen and fsmount (Linux 5.2) and never attached: no
 * path leads to it, no task's namespace gets a copy of it, nothing is left to be
 * unmounted. The loop device's open file keeps it alive, and nothing else. */
#include "daemon/node/lazy_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of linux/mount.h, which older C libraries let nobody include beside theirs. */
enum { OPEN_CLOEXEC = 1, MOUNT_CLOEXEC = 1, SET_STRING = 1, CREATE = 6 };
enum { ATTR_RDONLY = 1, ATTR_NOSUID = 2, ATTR_NODEV = 4, ATTR_NOEXEC = 8 };

static int set_option(int fd, const char *name, const char *value)
{
    return (int)syscall(SYS_fsconfig, fd, SET_STRING, name, value, 0);
}

static int configure(int context, int fuse_fd)
{
    char number[16];

    (void)snprintf(number, sizeof(number), "%d", fuse_fd);
    if (set_option(context, "source", "vine-lazy") < 0 ||
        set_option(context, "fd", number) < 0 ||
        set_option(context, "rootmode", "100400") < 0 ||
        set_option(context, "user_id", "0") < 0 ||
        set_option(context, "group_id", "0") < 0)
        return -1;
    return (int)syscall(SYS_fsconfig, context, CREATE, NULL, NULL, 0);
}

int lazy_fuse_mount(int *fuse_fd, int *mount_fd, struct vine_err *err)
{
    int context, mount = -1;
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

    if (fd < 0)
        return vine_err_sys(err, "cannot open /dev/fuse (modprobe fuse?)");
    context = (int)syscall(SYS_fsopen, "fuse", OPEN_CLOEXEC);
    if (context >= 0 && configure(context, fd) == 0)
        mount = (int)syscall(SYS_fsmount, context, MOUNT_CLOEXEC,
                             ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC);
    if (mount < 0)
        vine_err_sys(err, "cannot make a FUSE file system");
    if (context >= 0)
        (void)close(context);
    if (mount < 0) {
        (void)close(fd);
        return -1;
    }
    *fuse_fd = fd;
    *mount_fd = mount;
    return 0;
}

int lazy_file_open(int mount_fd, struct vine_err *err)
{
    char path[32];
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", mount_fd);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return vine_err_sys(err, "cannot open the image that vine-lazy serves");
    return fd;
}

int lazy_change_file(int loop_fd, int image_fd, struct vine_err *err)
{
    if (ioctl(loop_fd, LOOP_CHANGE_FD, image_fd) < 0)
        return vine_err_sys(err, "cannot move the loop device to the whole image");
    (void)ioctl(loop_fd, LOOP_SET_DIRECT_IO, 0ul);
    return 0;
}
