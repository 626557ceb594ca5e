/* local.c - pack a source without a daemon, as the user who calls.
 *
 * One thread of ours writes the tar (with its readers), a child builds the image, this
 * thread waits. The image is built under its temporary name; the info block, the
 * manifest and an unsigned trailer follow; then it gets its name. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "daemon/image/bytes.h"
#include "daemon/image/image.h"
#include "daemon/image/source.h"
#include "vine/clock.h"
#include "vine/manifest.h"

#define TRIES 3
#define TELL_MS 250
#define STEP (1u << 20)

extern char **environ;

struct packing {
    const struct image_pack_options *options;
    struct image_source *source;
    struct image_follow *follow; /* of the build under way */
    char temporary[VINE_PATH_MAX];
    int fd; /* of temporary */
    struct image_totals totals;
    uint64_t source_bytes; /* to come; 0 = not known */
    int64_t told_ms;
    struct manifest manifest;
    uint64_t object_size;
};

static int tell(void *ctx, uint64_t bytes, uint64_t files)
{
    struct packing *p = ctx;
    int64_t now = vine_now_ms();

    if (p->options->progress == NULL || now - p->told_ms < TELL_MS)
        return 0;
    p->told_ms = now;
    return p->options->progress(p->options->ctx, bytes, p->source_bytes, files);
}

/* vine-squash reading tar_fd, its words going to words_fd. */
static int spawn_builder(const struct packing *p, int tar_fd, int words_fd, pid_t *pid,
                         struct vine_err *err)
{
    char program[VINE_PATH_MAX];
    const struct image_builder builder = {.program = program,
                                          .jobs = p->options->processors};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    struct image_argv argv;
    sigset_t pipe_signal, none;
    int result;

    image_program_find(IMAGE_BUILDER, program);
    image_builder_argv(&builder, &argv);
    (void)sigemptyset(&pipe_signal);
    (void)sigaddset(&pipe_signal, SIGPIPE);
    if (posix_spawn_file_actions_init(&actions) != 0)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (posix_spawnattr_init(&attributes) != 0) {
        (void)posix_spawn_file_actions_destroy(&actions);
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    (void)posix_spawn_file_actions_adddup2(&actions, tar_fd, IMAGE_BUILDER_TAR_FD);
    (void)posix_spawn_file_actions_adddup2(&actions, words_fd, 1);
    (void)posix_spawn_file_actions_adddup2(&actions, words_fd, 2);
    (void)posix_spawn_file_actions_adddup2(&actions, p->fd, IMAGE_BUILDER_IMAGE_FD);
    (void)sigemptyset(&none);
    (void)posix_spawnattr_setsigdefault(&attributes, &pipe_signal);
    (void)posix_spawnattr_setsigmask(&attributes, &none);
    (void)posix_spawnattr_setflags(&attributes,
                                   POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    result = posix_spawn(pid, argv.argv[0], &actions, &attributes, argv.argv, environ);
    (void)posix_spawnattr_destroy(&attributes);
    (void)posix_spawn_file_actions_destroy(&actions);
    if (result == 0)
        return 0;
    errno = result;
    return vine_err_sys(err, "cannot start '%s'", argv.argv[0]);
}

/* What the builder said last, without line ends, into `out`. */
static void last_words(int words_fd, char *out, size_t cap)
{
    struct stat st = {0};
    ssize_t n;

    (void)fstat(words_fd, &st);
    n = pread_whole(words_fd, out, cap - 1,
                    (uint64_t)st.st_size > cap - 1 ? (uint64_t)st.st_size - (cap - 1)
                                                   : 0);
    out[n > 0 ? n : 0] = '\0';
    while (n > 0 && out[n - 1] == '\n')
        out[--n] = '\0';
    for (ssize_t i = 0; i < n; i++)
        if (out[i] == '\n')
            out[i] = ' ';
}

static int wait_builder(pid_t pid, int words_fd, struct vine_err *err)
{
    char words[200];
    int status;

    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return vine_err_sys(err, "cannot wait for the image builder");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    last_words(words_fd, words, sizeof(words));
    return vine_err_set(err, VINE_ESYS, "the image builder failed with status %d: %s",
                        WIFEXITED(status) ? WEXITSTATUS(status)
                                          : 128 + WTERMSIG(status),
                        words[0] != '\0' ? words : "it did not say why");
}

static int build(struct packing *p, struct vine_err *err)
{
    const struct image_progress progress = {tell, p};
    struct vine_err tar_err = {0}, builder_err = {0};
    auto_fd int words = memfd_create("vine-words", MFD_CLOEXEC);
    int ends[2];
    pid_t pid;

    if (words < 0 || pipe2(ends, O_CLOEXEC) < 0)
        return vine_err_sys(err, "cannot start the image builder");
    (void)fcntl(ends[1], F_SETPIPE_SZ, STEP);
    if (spawn_builder(p, ends[0], words, &pid, err) < 0) {
        close(ends[0]);
        close(ends[1]);
        return -1;
    }
    close(ends[0]);
    image_follow_free(p->follow); /* of the try before */
    p->follow = image_follow_start(p->fd);
    (void)image_source_build(p->source, ends[1], NULL, &progress, &p->totals, &tar_err);
    close(ends[1]);
    (void)wait_builder(pid, words, &builder_err);
    /* A broken pipe is only how the builder's failure looks from here. */
    if (builder_err.code != VINE_OK &&
        (tar_err.code == VINE_OK || tar_err.code == VINE_ESYS))
        return vine_err_set(err, builder_err.code, "%s", builder_err.text);
    if (tar_err.code != VINE_OK)
        return vine_err_set(err, tar_err.code, "%s", tar_err.text);
    return 0;
}

static int resolve_and_build(struct packing *p, struct vine_err *err)
{
    struct image_source_options options = {.path = p->options->source,
                                           .threads = p->options->threads};
    const struct image_source_facts *facts;

    if (p->options->shape != NULL)
        options.shape = *p->options->shape;
    image_source_free(p->source);
    p->source = NULL;
    if (image_source_open(&options, &p->source, err) < 0)
        return -1;
    facts = image_source_facts(p->source);
    p->source_bytes = facts->kind == IMAGE_SOURCE_DIR ? facts->bytes : 0;
    return build(p, err);
}

static int build_unchanged(struct packing *p, struct vine_err *err)
{
    for (int i = 1;; i++) {
        struct vine_err now = {0};

        if (resolve_and_build(p, &now) == 0)
            return 0;
        if (now.code != VINE_ECHANGED || i == TRIES)
            return vine_err_set(err, now.code, "%s", now.text);
    }
}

static int add_info(struct packing *p, struct vine_err *err)
{
    const struct image_source_facts *facts = image_source_facts(p->source);
    const struct image_shape *shape = p->options->shape;
    auto_free struct image_info *info = calloc(1, sizeof(*info));

    if (info == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (shape != NULL && shape->prefix != NULL)
        (void)snprintf(info->prefix, sizeof(info->prefix), "%s", shape->prefix);
    else if (facts->kind == IMAGE_SOURCE_DIR)
        memcpy(info->prefix, facts->canonical, sizeof(info->prefix));
    else
        memcpy(info->prefix, p->totals.prefix, sizeof(info->prefix));
    (void)snprintf(info->tool, sizeof(info->tool), "%s", image_builder_tool());
    (void)snprintf(info->created_by, sizeof(info->created_by),
                   "vine-env " VINE_VERSION);
    info->activate = p->totals.activate;
    info->env = p->totals.env;
    info->files = p->totals.files;
    info->entries = p->totals.entries;
    info->bytes = p->totals.bytes;
    return image_info_write(p->fd, info, &p->object_size, err);
}

static int hash_object(struct packing *p, struct vine_err *err)
{
    const struct image_hash_options options = {.threads = p->options->processors,
                                               .follow = p->follow};

    return image_hash_file(p->fd, p->object_size, &options, &p->manifest, err);
}

static int add_trailer(struct packing *p, struct vine_err *err)
{
    size_t len;
    auto_free uint8_t *trailer = image_trailer_encode(&p->manifest, NULL, &len);

    if (trailer == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (lseek(p->fd, (off_t)p->object_size, SEEK_SET) < 0 ||
        write_whole(p->fd, trailer, len) < 0 || fsync(p->fd) < 0)
        return vine_err_sys(err, "cannot write '%s'", p->temporary);
    return 0;
}

static int give_name(const struct packing *p, struct vine_err *err)
{
    const char *output = p->options->output;
    int result = p->options->force ? rename(p->temporary, output)
                                   : renameat2(AT_FDCWD, p->temporary, AT_FDCWD, output,
                                               RENAME_NOREPLACE);

    if (result < 0 && !p->options->force && (errno == EINVAL || errno == ENOSYS))
        result = link(p->temporary, output); /* the caller removes the other name */
    if (result == 0)
        return 0;
    if (errno == EEXIST)
        return vine_err_set(err, VINE_EINVAL, "'%s' exists: say --force to replace it",
                            output);
    return vine_err_sys(err, "cannot rename '%s' to '%s'", p->temporary, output);
}

static int pack(struct packing *p, struct vine_err *err)
{
    struct stat st;

    if (build_unchanged(p, err) < 0 || add_info(p, err) < 0 ||
        hash_object(p, err) < 0 || add_trailer(p, err) < 0)
        return -1;
    if (fstat(p->fd, &st) < 0 || fchmod(p->fd, st.st_mode & 0444) < 0)
        return vine_err_sys(err, "cannot finish '%s'", p->temporary);
    return give_name(p, err);
}

static int create_temporary(struct packing *p, struct vine_err *err)
{
    const char *output = p->options->output;
    auto_free char *here = output[0] == '/' ? NULL : getcwd(NULL, 0);
    int n = snprintf(p->temporary, sizeof(p->temporary), "%s%s%s.tmp-%ld",
                     here != NULL ? here : "", here != NULL ? "/" : "", output,
                     (long)getpid());
    struct stat st;

    if (n < 0 || (size_t)n >= sizeof(p->temporary) || p->temporary[0] != '/')
        return vine_err_set(err, VINE_EINVAL, "'%s' cannot be the output", output);
    if (!p->options->force && lstat(output, &st) == 0)
        return vine_err_set(err, VINE_EINVAL, "'%s' exists: say --force to replace it",
                            output);
    if (p->options->begin != NULL)
        p->options->begin(p->options->ctx, p->temporary);
    p->fd = open(p->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (p->fd < 0)
        return vine_err_sys(err, "cannot create '%s'", p->temporary);
    return 0;
}

int image_pack_local(const struct image_pack_options *options,
                     struct image_pack_result *result, struct vine_err *err)
{
    struct packing *p = calloc(1, sizeof(*p));
    struct stat st = {0};
    int outcome;

    if (p == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    p->options = options;
    p->fd = -1;
    outcome = create_temporary(p, err);
    if (outcome == 0)
        outcome = pack(p, err);
    if (outcome == 0)
        outcome = fstat(p->fd, &st);
    if (outcome == 0) {
        result->digest = p->manifest.digest;
        result->object_size = p->object_size;
        result->file_size = (uint64_t)st.st_size;
        result->entries = p->totals.entries;
        result->bytes = p->totals.bytes;
        result->activate = p->totals.activate;
        result->env = p->totals.env;
        result->files = p->totals.files;
    }
    if (p->fd >= 0) {
        (void)unlink(p->temporary); /* gone already when all went well */
        close(p->fd);
    }
    manifest_free(&p->manifest);
    image_follow_free(p->follow);
    image_source_free(p->source);
    free(p);
    return outcome;
}
