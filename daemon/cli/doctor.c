/* doctor.c - vine-env doctor: find the usual faults of an installation, say the mend.
 *
 * Each check adds one finding. A FAIL keeps jobs from being served here (they run from
 * the source); a warn costs speed or comfort. Nothing is changed. */
#include "daemon/cli/doctor.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PING_MS 3000
#define TCP_MS 2000

static const char *const level_names[] = {"ok", "warn", "FAIL"};

void doctor_add(struct doctor *d, enum doctor_level level, const char *what,
                const char *mend, const char *format, ...)
{
    char finding[1024];
    char *escaped;
    va_list ap;

    va_start(ap, format);
    (void)vsnprintf(finding, sizeof(finding), format, ap);
    va_end(ap);
    d->counts[level]++;
    if (!d->cli->json) {
        printf("%-4s  %s: %s%s%s\n", level_names[level], what, finding,
               mend != NULL ? " -- " : "", mend != NULL ? mend : "");
        (void)fflush(stdout); /* some checks take seconds */
    }
    escaped = vine_path_escape(finding);
    (void)json_array_append_new(
        d->findings, json_pack("{s:s,s:s,s:s,s:s}", "level", level_names[level], "what",
                               what, "finding", escaped != NULL ? escaped : "", "mend",
                               mend != NULL ? mend : ""));
    free(escaped);
}

static void check_config(struct doctor *d)
{
    const char *path = d->cli->config_path;

    if (d->cli->conf_err.code != VINE_OK)
        doctor_add(d, DOCTOR_FAIL, "configuration", "correct it; see man vine-env.conf",
                   "%s", d->cli->conf_err.text);
    else if (access(path, F_OK) < 0)
        doctor_add(d, DOCTOR_WARN, "configuration",
                   "install it: without 'managers' nodes do not share",
                   "no '%s': the "
                   "defaults hold",
                   path);
    else if (d->cli->conf.managers[0] == '\0')
        doctor_add(d, DOCTOR_WARN, "configuration",
                   "set managers = HOST in [cluster], the same on all nodes",
                   "'%s' names no manager: every node reads the source itself", path);
    else
        doctor_add(d, DOCTOR_OK, "configuration", NULL, "'%s' is right", path);
}

/* One connection attempt to each address of the host, within TCP_MS each. */
static int connect_to(const struct addrinfo *address)
{
    int error = 0;
    socklen_t len = sizeof(error);
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct pollfd p = {.fd = fd, .events = POLLOUT};

    if (fd < 0)
        return errno;
    if (connect(fd, address->ai_addr, address->ai_addrlen) < 0 && errno != EINPROGRESS)
        error = errno;
    else if (poll(&p, 1, TCP_MS) <= 0)
        error = ETIMEDOUT;
    else
        (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
    (void)close(fd);
    return error;
}

static void check_manager_tcp(struct doctor *d, const char *name)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    struct vine_err err = {0};
    char host[256], service[8];
    uint16_t port;
    int error = EHOSTUNREACH;

    if (vine_conf_host_port(name, VINE_MANAGER_PORT, host, &port, &err) < 0) {
        doctor_add(d, DOCTOR_FAIL, "manager", "correct 'managers'", "%s", err.text);
        return;
    }
    (void)snprintf(service, sizeof(service), "%u", port);
    if (getaddrinfo(host, service, &hints, &found) != 0) {
        doctor_add(d, DOCTOR_FAIL, "manager", "correct 'managers' or the host tables",
                   "the host name '%s' is not known here", host);
        return;
    }
    for (const struct addrinfo *a = found; a != NULL && error != 0; a = a->ai_next)
        error = connect_to(a);
    freeaddrinfo(found);
    if (error == 0)
        doctor_add(d, DOCTOR_OK, "manager", NULL, "%s:%u takes connections", host,
                   port);
    else
        doctor_add(d, DOCTOR_FAIL, "manager",
                   "start vine-managerd there; let the firewall pass its port",
                   "%s:%u: %s", host, port, strerror(error));
}

static void check_managers(struct doctor *d)
{
    char list[VINE_CONF_TEXT];
    char *rest = list, *name;

    (void)snprintf(list, sizeof(list), "%s", d->cli->conf.managers);
    while ((name = strsep(&rest, ", ")) != NULL)
        if (*name != '\0')
            check_manager_tcp(d, name);
}

static void check_manager_of_daemon(struct doctor *d)
{
    struct vine_err err = {0};
    json_t *status = NULL;
    const json_t *node;

    if (d->cli->conf.managers[0] == '\0' ||
        cli_ask(d->cli, json_pack("{s:s}", "op", "status"), NULL, NULL, PING_MS,
                &status, &err) < 0)
        return;
    node = json_object_get(status, "node");
    if (json_is_true(json_object_get(node, "manager_up")))
        doctor_add(d, DOCTOR_OK, "daemon's manager", NULL, "connected to %s",
                   cli_text(node, "manager"));
    else
        doctor_add(d, DOCTOR_FAIL, "daemon's manager",
                   "see the findings about munge and the manager, and vined's log",
                   "vined has no connection to any manager");
    json_decref(status);
}

static void check_daemon(struct doctor *d)
{
    struct vine_err err = {0};
    json_t *event = NULL;

    if (cli_ask(d->cli, json_pack("{s:s}", "op", "ping"), NULL, NULL, PING_MS, &event,
                &err) < 0) {
        doctor_add(d, DOCTOR_FAIL, "daemon",
                   "'systemctl start vined', then 'journalctl -u vined'", "%s",
                   err.text);
        return;
    }
    if (strcmp(cli_text(event, "version"), VINE_VERSION) != 0)
        doctor_add(d, DOCTOR_WARN, "daemon", "restart vined: it is of another release",
                   "vined is %s, this program " VINE_VERSION,
                   cli_text(event, "version"));
    else
        doctor_add(d, DOCTOR_OK, "daemon", NULL, "vined %s answers",
                   cli_text(event, "version"));
    json_decref(event);
    check_manager_of_daemon(d);
}

static int run_doctor(struct cli *cli, int argc, char *argv[])
{
    struct doctor d = {.cli = cli, .findings = json_array()};
    int result;

    check_config(&d);
    doctor_slurm(&d);
    doctor_system(&d);
    check_daemon(&d);
    check_managers(&d);
    result = d.counts[DOCTOR_FAIL] > 0 ? CLI_FAULTS : CLI_OK;
    if (cli->json) {
        if (cli_print(json_pack("{s:o,s:i,s:i}", "findings", d.findings, "faults",
                                (int)d.counts[DOCTOR_FAIL], "warnings",
                                (int)d.counts[DOCTOR_WARN])) != CLI_OK)
            return CLI_FAILED;
        return result;
    }
    json_decref(d.findings);
    printf("\n%u ok, %u warnings, %u faults\n", d.counts[DOCTOR_OK],
           d.counts[DOCTOR_WARN], d.counts[DOCTOR_FAIL]);
    return result;
}

const struct cli_command cli_doctor = {
    .name = "doctor",
    .arguments = "[--json]",
    .summary = "Look for faults of this node's installation and say the mend",
    .run = run_doctor,
    .notes = "Some checks need root. Exit status 3 if there is a FAIL.\n",
};
