/* pfs.c - a stand-in for a loaded parallel file system, as a FUSE pass-through.
 *
 *   pfs CONTROL mount BACKING MOUNTPOINT   one such process a node
 *   pfs CONTROL set NAME=VALUE...          see enum pfs_setting
 *   pfs CONTROL show [--json]              settings and counters
 *   pfs CONTROL zero                       the counters
 *   pfs CONTROL drop                       what all nodes have in their caches
 *
 * All processes that name the same control file are clients of one file system: they
 * share its costs and counters and keep each other's caches coherent (pfs_shared.c).
 * Like a Lustre client, one keeps entries, attributes, listings and pages until
 * somebody changes them; what it has, it does not pay for again. Unlike one, it
 * remembers no absent names. A change made in the backing directory itself goes unseen.
 *
 * The parts: pfs_shared.c costs, counters and changes; pfs_inodes.c what the kernel
 * knows; pfs_ops.c its requests, and root_squash. */
#define FUSE_USE_VERSION 312

#include "pfs_inodes.h"
#include "pfs_ops.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    THREADS_MAX = 32, /* requests a client has in flight at most */
    READ_AHEAD_BYTES = 1 << 20,
    DROP_TIMEOUT_MS = 5000,
};

static struct pfs_shared *shared;
static struct fuse_session *session;

static void handle_change(const struct pfs_change *change, void *arg)
{
    (void)arg;
    inodes_handle_change(session, change);
}

static void *follow(void *arg)
{
    pfs_change_follow(shared, handle_change, arg);
    return NULL;
}

static void start_session(void *arg, struct fuse_conn_info *connection)
{
    pthread_t thread;

    connection->max_readahead = READ_AHEAD_BYTES;
    connection->want &= ~(unsigned int)FUSE_CAP_HANDLE_KILLPRIV; /* we write as root */
    if (pthread_create(&thread, NULL, follow, NULL) != 0) {
        fprintf(stderr, "pfs: cannot start the thread that keeps caches coherent\n");
        exit(1);
    }
    pthread_detach(thread);
}

static int fail(const char *what)
{
    fprintf(stderr, "pfs: cannot %s: %s\n", what, strerror(errno));
    return 1;
}

static int serve(const char *mountpoint)
{
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    fuse_loop_cfg_set_max_threads(config, THREADS_MAX);
    fuse_loop_cfg_set_idle_threads(config, THREADS_MAX);
    if (fuse_session_mount(session, mountpoint) != 0)
        return 1;
    if (fuse_daemonize(0) != 0)
        return fail("go to the background");
    int result = fuse_session_loop_mt(session, config);
    fuse_session_unmount(session);
    fuse_loop_cfg_destroy(config);
    return result == 0 ? 0 : 1;
}

static int command_mount(int argc, char **argv)
{
    char *options[] = {"pfs", "-o", "allow_other,default_permissions,fsname=pfs", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, options);

    umask(0);
    if (inodes_open_root(argv[0]) < 0)
        return fail("open the backing directory");
    if (pfs_shared_join(shared) < 0)
        return fail("join the file system");
    struct fuse_lowlevel_ops operations = pfs_ops;
    operations.init = start_session;
    pfs_ops_shared = shared;
    session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
    if (session == NULL)
        return 1;
    return serve(argv[1]);
}

static int command_drop(int argc, char **argv)
{
    struct pfs_change change = {.everything = true};
    uint64_t at = pfs_change_post(shared, &change);
    if (pfs_change_wait(shared, at, DROP_TIMEOUT_MS))
        return 0;
    fprintf(stderr, "pfs: a client did not drop its cache in %d ms\n", DROP_TIMEOUT_MS);
    return 1;
}

/* The setting "name=value" names, PFS_SETTINGS if there is none; then *value is set. */
static int parse_setting(const char *text, int64_t *value)
{
    const char *equals = strchr(text, '=');
    size_t length = equals != NULL ? (size_t)(equals - text) : 0;
    char *end = NULL;

    for (int i = 0; length > 0 && i < PFS_SETTINGS; i++) {
        const char *name = pfs_setting_names[i];
        if (strlen(name) != length || strncmp(name, text, length) != 0)
            continue;
        *value = strtoll(equals + 1, &end, 10);
        return end != equals + 1 && *end == '\0' && *value >= 0 ? i : PFS_SETTINGS;
    }
    return PFS_SETTINGS;
}

static int command_set(int argc, char **argv)
{
    int64_t squash_before = pfs_setting(shared, PFS_ROOT_SQUASH), value;

    for (int i = 0; i < argc; i++) {
        if (parse_setting(argv[i], &value) == PFS_SETTINGS) {
            fprintf(
                stderr,
                "pfs: bad setting '%s': want lat_us, mds_ops, bw_mbs, client_mbs or "
                "root_squash, '=' and a whole number >= 0\n",
                argv[i]);
            return 2;
        }
    }
    for (int i = 0; i < argc; i++) {
        int setting = parse_setting(argv[i], &value);
        pfs_setting_set(shared, setting, value);
    }
    /* Cached attributes carry lifetimes that held for the old rule. */
    return squash_before != pfs_setting(shared, PFS_ROOT_SQUASH) ? command_drop(0, NULL)
                                                                 : 0;
}

static int command_show(int argc, char **argv)
{
    bool json = argc > 0 && strcmp(argv[0], "--json") == 0;
    const char *quote = json ? "\"" : "", *equals = json ? ": " : "=";
    const char *separator = "";

    printf("%s", json ? "{" : "");
    for (int i = 0; i < PFS_SETTINGS + PFS_COUNTERS; i++) {
        bool setting = i < PFS_SETTINGS;
        int counter = i - PFS_SETTINGS;
        printf("%s%s%s%s%s%ld", separator, quote,
               setting ? pfs_setting_names[i] : pfs_counter_names[counter], quote,
               equals,
               (long)(setting ? pfs_setting(shared, i) : pfs_counter(shared, counter)));
        separator = json ? ", " : " ";
    }
    puts(json ? "}" : "");
    return 0;
}

static int command_zero(int argc, char **argv)
{
    pfs_counters_zero(shared);
    return 0;
}

static const struct {
    const char *name;
    int min_args, max_args;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"mount", 2, 2, command_mount}, {"set", 1, 64, command_set},
    {"show", 0, 1, command_show},   {"zero", 0, 0, command_zero},
    {"drop", 0, 0, command_drop},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc >= 3 && i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(commands[i].name, argv[2]) != 0 || argc - 3 < commands[i].min_args ||
            argc - 3 > commands[i].max_args)
            continue;
        shared = pfs_shared_open(argv[1]);
        if (shared == NULL)
            return fail("open the control file");
        return commands[i].run(argc - 3, argv + 3);
    }
    fprintf(stderr, "usage: pfs CONTROL mount BACKING MOUNTPOINT | set NAME=VALUE... | "
                    "show [--json] | zero | drop\n");
    return 2;
}
