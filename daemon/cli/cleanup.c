/* cleanup.c - see cleanup.h. What is named is copied: the thread may come at any time.
 */
#include "daemon/cli/cleanup.h"

#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vine/limits.h"

#define OPEN_MAX_DIRS 16

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char file[VINE_PATH_MAX], tree[VINE_PATH_MAX]; /* "": none */
static pid_t child;

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *place)
{
    return remove(path);
}

static void remove_tree(void)
{
    if (tree[0] != '\0')
        (void)nftw(tree, remove_one, OPEN_MAX_DIRS, FTW_DEPTH | FTW_PHYS);
    tree[0] = '\0';
}

static void set(char *what, const char *path)
{
    pthread_mutex_lock(&lock);
    (void)snprintf(what, VINE_PATH_MAX, "%s", path != NULL ? path : "");
    pthread_mutex_unlock(&lock);
}

void cleanup_file(const char *path)
{
    set(file, path);
}

void cleanup_tree(const char *path)
{
    set(tree, path);
}

void cleanup_child(pid_t pid)
{
    pthread_mutex_lock(&lock);
    child = pid;
    pthread_mutex_unlock(&lock);
}

void cleanup_remove_tree(void)
{
    pthread_mutex_lock(&lock);
    remove_tree();
    pthread_mutex_unlock(&lock);
}

static void *wait_for_signal(void *arg)
{
    const sigset_t *signals = arg;
    int number;

    if (sigwait(signals, &number) != 0)
        return NULL;
    pthread_mutex_lock(&lock); /* for good: nothing new may come */
    if (child > 0) {
        (void)kill(-child, SIGKILL); /* the leader of its group */
        (void)waitpid(child, NULL, 0);
    }
    remove_tree();
    if (file[0] != '\0')
        (void)unlink(file);
    if (isatty(STDERR_FILENO) == 1)
        (void)!write(STDERR_FILENO, "\r\033[K", 4);
    (void)signal(number, SIG_DFL);
    (void)pthread_sigmask(SIG_UNBLOCK, signals, NULL);
    (void)raise(number);
    (void)kill(getpid(), number);
    _exit(128 + number);
}

int cleanup_begin(struct vine_err *err)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    static sigset_t signals;
    pthread_t thread;

    (void)sigemptyset(&signals);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        struct sigaction now;

        /* A blocked signal is not ignored any more: nohup's must stay. */
        if (sigaction(numbers[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN)
            (void)sigaddset(&signals, numbers[i]);
    }
    (void)pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (pthread_create(&thread, NULL, wait_for_signal, &signals) != 0)
        return vine_err_set(err, VINE_ESYS, "cannot start a thread");
    (void)pthread_detach(thread);
    return 0;
}
