/* doctor_system.c - munge, loop devices, squashfs, the cache directory, tools, clock.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "daemon/cli/doctor.h"
#include "daemon/cli/table.h"
#include "daemon/image/builder.h"
#include "daemon/wire/auth.h"

#define SPACE_MIN                                                                      \
    (2ull << 30) /* below this even one common environment is too much                 \
                  */

/* ---- munge ------------------------------------------------------------------- */

static void check_munge(struct doctor *d)
{
    static const char word[] = "vine-env doctor";
    static const char mend[] = "start munged ('systemctl start munge') with the same "
                               "munge.key on all nodes";
    char back[sizeof(word)];
    struct vine_err err = {0};
    char *cred = NULL;
    size_t len = 0;
    uid_t uid = (uid_t)-1;

    if (auth_munge.encode(NULL, word, sizeof(word), getuid(), &cred, &err) < 0 ||
        auth_munge.decode(NULL, cred, back, sizeof(back), &len, &uid, &err) < 0)
        doctor_add(d, DOCTOR_FAIL, "munge", mend, "%s", err.text);
    else if (uid != getuid() || len != sizeof(word) || memcmp(back, word, len) != 0)
        doctor_add(d, DOCTOR_FAIL, "munge",
                   "munged and this program must run in one user namespace",
                   "munged takes uid %u for uid %u", (unsigned)getuid(), (unsigned)uid);
    else
        doctor_add(d, DOCTOR_OK, "munge", NULL,
                   "a credential was made and read, as uid %u", (unsigned)uid);
    free(cred);
}

/* ---- images ------------------------------------------------------------------ */

static void check_loop(struct doctor *d)
{
    static const char mend[] =
        "load the module ('modprobe loop'); in a container, give it "
        "/dev/loop-control and /dev/loop*";
    int fd, number;

    if (access("/dev/loop-control", F_OK) < 0) {
        doctor_add(d, DOCTOR_FAIL, "loop devices", mend, "no /dev/loop-control");
        return;
    }
    if (geteuid() != 0) {
        doctor_add(d, DOCTOR_OK, "loop devices", NULL,
                   "/dev/loop-control is there (as root, a free device is looked for)");
        return;
    }
    fd = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    number = fd >= 0 ? ioctl(fd, LOOP_CTL_GET_FREE) : -1;
    if (number < 0)
        doctor_add(d, DOCTOR_FAIL, "loop devices", mend, "no free loop device: %s",
                   strerror(errno));
    else
        doctor_add(d, DOCTOR_OK, "loop devices", NULL, "/dev/loop%d is free", number);
    if (fd >= 0)
        (void)close(fd);
}

static bool file_has_word(const char *path, const char *word)
{
    FILE *file = fopen(path, "re");
    char text[128];
    bool found = false;

    while (file != NULL && !found && fscanf(file, "%127s", text) == 1)
        found = strcmp(text, word) == 0;
    if (file != NULL)
        (void)fclose(file);
    return found;
}

static void check_squashfs(struct doctor *d)
{
    static char *const probe[] = {(char *)"modprobe", (char *)"-n", (char *)"squashfs",
                                  NULL};
    char out[256];

    if (file_has_word("/proc/filesystems", "squashfs"))
        doctor_add(d, DOCTOR_OK, "squashfs", NULL, "the kernel has it");
    else if (doctor_run(probe, 5000, out, sizeof(out)) == 0)
        doctor_add(d, DOCTOR_WARN, "squashfs",
                   "'modprobe squashfs', and name it in /etc/modules-load.d",
                   "not loaded; the module is there");
    else
        doctor_add(d, DOCTOR_FAIL, "squashfs", "install a kernel with squashfs",
                   "the kernel does not have it");
}

static void check_tools(struct doctor *d)
{
    if (access(VINE_LIBEXECDIR "/" IMAGE_BUILDER, X_OK) == 0)
        doctor_add(d, DOCTOR_OK, "image builder", NULL, IMAGE_BUILDER " is installed");
    else
        doctor_add(d, DOCTOR_FAIL, "image builder", "install vine-env anew",
                   "no " VINE_LIBEXECDIR "/" IMAGE_BUILDER
                   ": this node cannot make images");
    if (doctor_has_program("squashfuse"))
        doctor_add(d, DOCTOR_OK, "squashfuse", NULL, "is installed");
    else
        doctor_add(d, DOCTOR_WARN, "squashfuse", "install squashfuse",
                   "not in PATH: unsigned images cannot be mounted");
}

/* ---- the cache --------------------------------------------------------------- */

static const struct file_system {
    unsigned long magic;
    const char *name;
    bool memory; /* not remote, but not a disk either */
} unfit[] = {
    {0x6969, "NFS", false},        {0x65735546, "FUSE", false},
    {0x0bd00bd0, "Lustre", false}, {0x47504653, "GPFS", false},
    {0xff534d42, "CIFS", false},   {0xfe534d42, "SMB2", false},
    {0x517b, "SMB", false},        {0x00c36400, "Ceph", false},
    {0x01021997, "9p", false},     {0x19830326, "BeeGFS", false},
    {0x5346414f, "AFS", false},    {0x6b414653, "AFS", false},
    {0xaad7aaea, "PanFS", false},  {0x20030528, "OrangeFS", false},
    {0x01021994, "tmpfs", true},   {0x858458f6, "ramfs", true},
};

static void check_cache_kind(struct doctor *d, const char *path)
{
    struct statfs fs;

    if (statfs(path, &fs) < 0) {
        doctor_add(d, DOCTOR_FAIL, "cache file system", "see the disk's state",
                   "'%s': %s", path, strerror(errno));
        return;
    }
    for (size_t i = 0; i < sizeof(unfit) / sizeof(unfit[0]); i++) {
        if ((unsigned long)(fs.f_type & 0xffffffff) != unfit[i].magic)
            continue;
        if (unfit[i].memory)
            doctor_add(d, DOCTOR_WARN, "cache file system",
                       "set cache_dir to a directory on a local disk, if there is one",
                       "'%s' is on %s: images take the jobs' memory", path,
                       unfit[i].name);
        else
            doctor_add(d, DOCTOR_FAIL, "cache file system",
                       "set cache_dir to a directory on a local disk",
                       "'%s' is on %s, not on this node's own disk", path,
                       unfit[i].name);
        return;
    }
    doctor_add(d, DOCTOR_OK, "cache file system", NULL, "'%s' is local", path);
}

static void check_cache_space(struct doctor *d, const char *path)
{
    struct vine_err err = {0};
    struct statvfs fs;
    uint64_t total, free_bytes, limit;

    if (statvfs(path, &fs) < 0)
        return;
    total = (uint64_t)fs.f_blocks * fs.f_frsize;
    free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (vine_conf_size(d->cli->conf.cache_max, total, &limit, &err) < 0)
        doctor_add(d, DOCTOR_FAIL, "cache space", "correct cache_max", "%s", err.text);
    else if (free_bytes < SPACE_MIN || limit < SPACE_MIN)
        doctor_add(
            d, DOCTOR_WARN, "cache space",
            "free space, raise cache_max, or move cache_dir",
            "%s free in '%s', cache_max is %s: too little for large environments",
            figure_bytes(free_bytes).text, path, figure_bytes(limit).text);
    else
        doctor_add(d, DOCTOR_OK, "cache space", NULL, "%s free, cache_max is %s",
                   figure_bytes(free_bytes).text, figure_bytes(limit).text);
}

static void check_cache(struct doctor *d)
{
    const char *path = d->cli->conf.cache_dir;
    struct stat st;

    if (stat(path, &st) < 0) {
        doctor_add(d, DOCTOR_WARN, "cache directory",
                   "start vined, which makes it; else 'install -d -m 700'", "'%s': %s",
                   path, strerror(errno));
        return;
    }
    if (!S_ISDIR(st.st_mode))
        doctor_add(d, DOCTOR_FAIL, "cache directory", "remove that file",
                   "'%s' is no "
                   "directory",
                   path);
    else if (st.st_uid != 0)
        doctor_add(d, DOCTOR_FAIL, "cache directory", "chown root it",
                   "'%s' belongs to uid %u, not root", path, (unsigned)st.st_uid);
    else if ((st.st_mode & 077) != 0)
        doctor_add(d, DOCTOR_FAIL, "cache directory", "chmod 700 it",
                   "'%s' has mode %03o: users could read each other's environments",
                   path, (unsigned)st.st_mode & 0777);
    else
        doctor_add(d, DOCTOR_OK, "cache directory", NULL, "'%s' is root's alone", path);
    check_cache_kind(d, path);
    check_cache_space(d, path);
}

/* ---- key and clock ----------------------------------------------------------- */

static void check_key(struct doctor *d)
{
    const char *path = d->cli->conf.image_key;
    struct stat st;

    if (*path == '\0' || (stat(path, &st) < 0 && errno == ENOENT))
        doctor_add(
            d, DOCTOR_WARN, "image key",
            "put the same 32 random bytes there on all nodes, mode 600, and packed "
            "images are mounted by the kernel",
            "no key at '%s': packed images go through squashfuse", path);
    else if (access(path, F_OK) < 0)
        doctor_add(d, DOCTOR_WARN, "image key", "see who may enter its directory",
                   "'%s': %s", path, strerror(errno));
    else if (st.st_uid != 0 || (st.st_mode & 077) != 0)
        doctor_add(d, DOCTOR_FAIL, "image key",
                   "chown root and chmod 600 it, and make a "
                   "new one: this one may be known",
                   "'%s' belongs to uid %u and has mode %03o", path,
                   (unsigned)st.st_uid, (unsigned)st.st_mode & 0777);
    else
        doctor_add(d, DOCTOR_OK, "image key", NULL, "'%s' is root's alone", path);
}

static void check_clock(struct doctor *d)
{
    struct timex t = {.modes = 0};
    int state = adjtimex(&t);

    if (state < 0)
        doctor_add(d, DOCTOR_WARN, "clock", "see 'timedatectl'", "cannot be asked: %s",
                   strerror(errno));
    else if (state == TIME_ERROR || (t.status & STA_UNSYNC) != 0)
        doctor_add(d, DOCTOR_WARN, "clock", "run chrony or ntpd",
                   "not synchronised: munge refuses nodes more than 5 minutes apart");
    else
        doctor_add(d, DOCTOR_OK, "clock", NULL, "synchronised");
}

void doctor_system(struct doctor *d)
{
    check_munge(d);
    check_loop(d);
    check_squashfs(d);
    check_tools(d);
    check_cache(d);
    check_key(d);
    check_clock(d);
}
