/* report.c - vine-env report: how a job's environments came to its nodes.
 *
 * The manager keeps the log; the node daemon asks it, page by page. What comes back is
 * one JSON document (--json) or the page made of it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/cli/cleanup.h"
#include "daemon/cli/cli.h"
#include "daemon/cli/report.h"

#define PAGES_MAX 4096 /* of some 200 kB each: more than a log may hold */

static int ask_page(struct cli *cli, const char *job, uint64_t offset, json_t *stories,
                    uint64_t *next, struct vine_err *err)
{
    json_t *answer = NULL;

    if (cli_ask(cli,
                json_pack("{s:s, s:s, s:I}", "op", "stories", "job", job, "offset",
                          (json_int_t)offset),
                NULL, NULL, CLI_ANSWER_MS, &answer, err) < 0)
        return -1;
    (void)json_array_extend(stories, json_object_get(answer, "stories"));
    *next = cli_number(answer, "next");
    json_decref(answer);
    return 0;
}

static int ask_all(struct cli *cli, const char *job, json_t *stories,
                   struct vine_err *err)
{
    uint64_t offset = 0, next;

    for (int i = 0; i < PAGES_MAX; i++) {
        if (ask_page(cli, job, offset, stories, &next, err) < 0)
            return -1;
        if (next <= offset)
            return 0;
        offset = next;
    }
    return vine_err_set(err, VINE_ELIMIT, "the transfer log of job %s does not end",
                        job);
}

static int write_text(int fd, const struct page *p)
{
    size_t done = 0;
    ssize_t n = 0;

    while (done < p->len && ((n = write(fd, p->text + done, p->len - done)) > 0 ||
                             (n < 0 && errno == EINTR)))
        done += n > 0 ? (size_t)n : 0;
    return done < p->len ? -1 : 0;
}

/* Into what is no file of its own to replace: a pipe, a terminal. */
static int write_into(int fd, const char *path, const struct page *p,
                      struct vine_err *err)
{
    int result = fd < 0 ? -1 : write_text(fd, p);

    if (result < 0)
        vine_err_sys(err, "cannot write '%s'", path);
    if (fd >= 0 && close(fd) < 0 && result == 0)
        result = vine_err_sys(err, "cannot write '%s'", path);
    return result;
}

/* Whole or not at all: what was there stays until the new page is. `mode` is that of
 * the old page, so that the new one is not open to more; 0: there is none. */
static int write_over(const char *path, mode_t mode, const struct page *p,
                      struct vine_err *err)
{
    char *temporary = NULL;
    int fd, result;

    if (asprintf(&temporary, "%s.tmp-%ld", path, (long)getpid()) < 0)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
              mode != 0 ? 0600 : 0644);
    if (fd >= 0)
        cleanup_file(temporary);
    if (fd >= 0 && mode != 0 && fchmod(fd, mode) < 0)
        vine_err_sys(err, "cannot set the mode of '%.300s'", temporary);
    result = write_into(fd, path, p, err);
    if (err->code != VINE_OK)
        result = -1;
    if (result == 0 && rename(temporary, path) < 0)
        result = vine_err_sys(err, "cannot write '%s'", path);
    if (result < 0 && fd >= 0)
        (void)unlink(temporary);
    cleanup_file(NULL);
    free(temporary);
    return result;
}

static int write_page(const char *path, const struct page *p, struct vine_err *err)
{
    struct stat st;
    char *target;
    int result;

    if (strcmp(path, "-") == 0)
        return write_into(dup(STDOUT_FILENO), path, p, err);
    if (stat(path, &st) < 0)
        return write_over(path, 0, p, err);
    if (!S_ISREG(st.st_mode))
        return write_into(open(path, O_WRONLY | O_CLOEXEC), path, p, err);
    target = realpath(path, NULL); /* what a link leads to is replaced, not the link */
    if (target == NULL)
        return vine_err_sys(err, "cannot write '%.300s'", path);
    result = write_over(target, st.st_mode & 0777, p, err);
    free(target);
    return result;
}

static int make_page(const char *job, json_t *stories, const char *tasks_path,
                     const char *output, struct vine_err *err)
{
    struct report report = {0};
    struct tasks tasks = {0};
    struct page page = {0};
    int result = -1;

    if ((tasks_path == NULL || tasks_read(tasks_path, &tasks, err) == 0) &&
        report_make(&report, job, stories, err) == 0) {
        report_page(&page, &report, tasks_path != NULL ? &tasks : NULL);
        result = page.failed ? vine_err_set(err, VINE_ENOMEM, "out of memory")
                             : write_page(output, &page, err);
    }
    free(page.text);
    report_clear(&report);
    tasks_clear(&tasks);
    return result;
}

static bool is_job(const char *text)
{
    return strspn(text, "0123456789") == strlen(text) && *text != '0' &&
           *text != '\0' && strlen(text) < 19;
}

static int run_report(struct cli *cli, int argc, char *argv[])
{
    const char *output = cli_value(cli, "output");
    struct vine_err err = {0};
    json_t *stories;
    int result = CLI_OK;

    if (!is_job(argv[0]))
        return cli_usage(cli, "'%s' is no job id", argv[0]);
    if ((output == NULL) == !cli->json)
        return cli_usage(cli, "either '--output' or '--json' says what is wanted");
    if (cleanup_begin(&err) < 0)
        return cli_fail(cli, &err);
    stories = json_array();
    if (ask_all(cli, argv[0], stories, &err) < 0)
        result = cli_fail(cli, &err);
    else if (cli->json)
        result = cli_print(json_pack("{s:s, s:O}", "job", argv[0], "stories", stories));
    else if (make_page(argv[0], stories, cli_value(cli, "tasks"), output, &err) < 0)
        result = cli_fail(cli, &err);
    json_decref(stories);
    return result;
}

static const struct cli_option report_options[] = {
    {"output", "FILE", 'o', "the page: one HTML file without script; - is stdout"},
    {"tasks", "FILE", 0, "times of tasks, lines of before|after,SECONDS, or JSON"},
    {0},
};

const struct cli_command cli_report = {
    .name = "report",
    .arguments = "JOBID -o FILE [--tasks FILE] | JOBID --json",
    .summary = "How a job's environments came to its nodes, as a page with figures",
    .run = run_report,
    .min_args = 1,
    .max_args = 1,
    .options = report_options,
    .notes = "Ordinary users see their own jobs. The manager must keep a log: "
             "transfer_log in\nvine-env.conf(5).\n",
};
