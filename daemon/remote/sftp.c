/* sftp.c - files of sftp servers, with the keys that the user has in ~/.ssh.
 *
 * No agent and no question: a job has nobody who could answer. The server must be known
 * (known_hosts.c). Key files that others can read are not used, as ssh does it, and
 * neither are those with a passphrase. */
#include <errno.h>
#include <fcntl.h>
#include <libssh2.h>
#include <libssh2_sftp.h>
#include <netdb.h>
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/remote/known_hosts.h"
#include "daemon/remote/remote.h"

#define STEP (1u << 20) /* libssh2 asks ahead for some of these */

static const char *const key_names[] = {"id_ed25519", "id_ecdsa", "id_rsa"};

struct sftp {
    struct vine_url url;
    char home[VINE_PATH_MAX], user[VINE_URL_USER];
    int socket;
    LIBSSH2_SESSION *session;
    LIBSSH2_SFTP *sftp;
    LIBSSH2_SFTP_HANDLE *file;
    char *step;
};

static void sftp_close(void *connection)
{
    struct sftp *s = connection;

    /* What is closed below cannot wait for a server then. */
    if (s->socket >= 0)
        (void)shutdown(s->socket, SHUT_RDWR);
    if (s->file != NULL)
        (void)libssh2_sftp_close(s->file);
    if (s->sftp != NULL)
        (void)libssh2_sftp_shutdown(s->sftp);
    if (s->session != NULL)
        (void)libssh2_session_free(s->session);
    if (s->socket >= 0)
        (void)close(s->socket);
    free(s->step);
    free(s);
}

/* What libssh2 says of the last failure, as one of the network. */
static int broken(const struct sftp *s, const char *what, struct vine_err *err)
{
    char *why = NULL;

    (void)libssh2_session_last_error(s->session, &why, NULL, 0);
    return vine_err_set(err, VINE_EDOWN, "cannot %s '%.100s': %.120s", what,
                        s->url.host, why != NULL ? why : "no reason given");
}

static bool connect_within(int fd, const struct addrinfo *to, unsigned timeout_s)
{
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    socklen_t len = sizeof(int);
    int error = 0, ready;

    if (connect(fd, to->ai_addr, to->ai_addrlen) == 0)
        return true;
    if (errno != EINPROGRESS)
        return false;
    do
        ready = poll(&wait, 1, (int)timeout_s * 1000);
    while (ready < 0 && errno == EINTR);
    if (ready == 0)
        error = ETIMEDOUT;
    else if (ready < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        error = errno;
    errno = error;
    return error == 0;
}

static int connect_to(struct sftp *s, unsigned timeout_s, struct vine_err *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    char port[8];
    int status;

    (void)snprintf(port, sizeof(port), "%u", s->url.port);
    status = getaddrinfo(s->url.host, port, &hints, &list);
    if (status != 0)
        return vine_err_set(err, VINE_EDOWN, "cannot find the host '%.100s': %s",
                            s->url.host, gai_strerror(status));
    for (const struct addrinfo *to = list; to != NULL && s->socket < 0;
         to = to->ai_next) {
        int fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd >= 0 && connect_within(fd, to, timeout_s)) {
            s->socket = fd;
        } else {
            int error = errno;
            if (fd >= 0)
                (void)close(fd);
            errno = error;
        }
    }
    status = errno;
    freeaddrinfo(list);
    if (s->socket < 0)
        return vine_err_set(err, VINE_EDOWN, "cannot reach '%.100s' port %u: %s",
                            s->url.host, s->url.port, strerror(status));
    return 0;
}

static bool key_usable(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 077) == 0 &&
           (st.st_uid == geteuid() || st.st_uid == 0);
}

static bool is_network(int status)
{
    return status == LIBSSH2_ERROR_TIMEOUT || status == LIBSSH2_ERROR_SOCKET_SEND ||
           status == LIBSSH2_ERROR_SOCKET_RECV ||
           status == LIBSSH2_ERROR_SOCKET_TIMEOUT ||
           status == LIBSSH2_ERROR_SOCKET_DISCONNECT;
}

static int log_in(struct sftp *s, struct vine_err *err)
{
    char path[VINE_PATH_MAX + 32], tried[64] = "";
    const char *ways =
        libssh2_userauth_list(s->session, s->user, (unsigned)strlen(s->user));

    if (ways == NULL && libssh2_userauth_authenticated(s->session))
        return 0;
    if (ways == NULL)
        return broken(s, "log in to", err);
    for (size_t i = 0; i < sizeof(key_names) / sizeof(key_names[0]); i++) {
        size_t used = strlen(tried);
        int status;
        (void)snprintf(path, sizeof(path), "%s/.ssh/%s", s->home, key_names[i]);
        if (!key_usable(path))
            continue;
        (void)snprintf(tried + used, sizeof(tried) - used, "%s%s", used > 0 ? ", " : "",
                       key_names[i]);
        status = libssh2_userauth_publickey_fromfile_ex(
            s->session, s->user, (unsigned)strlen(s->user), NULL, path, "");
        if (status == 0)
            return 0;
        if (is_network(status))
            return broken(s, "log in to", err);
    }
    if (tried[0] == '\0')
        return vine_err_set(
            err, VINE_EACCES,
            "cannot log in to '%.100s' as '%s': ~/.ssh has no id_ed25519, "
            "id_ecdsa or id_rsa that is yours and that nobody else can "
            "read",
            s->url.host, s->user);
    return vine_err_set(
        err, VINE_EACCES,
        "cannot log in to '%.100s' as '%s': the server does not take, or "
        "a passphrase protects, the keys in ~/.ssh (%s)",
        s->url.host, s->user, tried);
}

/* Errors of the file, not of the way to it. */
static int file_failed(const struct sftp *s, const char *what, struct vine_err *err)
{
    unsigned long why = s->sftp != NULL ? libssh2_sftp_last_error(s->sftp) : 0;

    if (libssh2_session_last_errno(s->session) != LIBSSH2_ERROR_SFTP_PROTOCOL)
        return broken(s, "read from", err);
    if (why == LIBSSH2_FX_NO_SUCH_FILE || why == LIBSSH2_FX_NO_SUCH_PATH)
        return vine_err_set(err, VINE_ENOENT, "'%.200s' on '%.100s' does not exist",
                            s->url.path, s->url.host);
    if (why == LIBSSH2_FX_PERMISSION_DENIED)
        return vine_err_set(err, VINE_EACCES,
                            "'%s' may not read '%.200s' on '%.100s': permission denied",
                            s->user, s->url.path, s->url.host);
    if (why == LIBSSH2_FX_CONNECTION_LOST || why == LIBSSH2_FX_NO_CONNECTION)
        return broken(s, "read from", err);
    return vine_err_set(err, VINE_EINVAL,
                        "cannot %s '%.200s' on '%.100s': its server says error %lu",
                        what, s->url.path, s->url.host, why);
}

static int sftp_look(void *connection, struct remote_facts *facts, struct vine_err *err)
{
    struct sftp *s = connection;
    LIBSSH2_SFTP_ATTRIBUTES a = {0};

    if (libssh2_sftp_stat_ex(s->sftp, s->url.path, (unsigned)strlen(s->url.path),
                             LIBSSH2_SFTP_STAT, &a) != 0)
        return file_failed(s, "look at", err);
    if ((a.flags & LIBSSH2_SFTP_ATTR_SIZE) == 0 ||
        (a.flags & LIBSSH2_SFTP_ATTR_ACMODTIME) == 0)
        return vine_err_set(err, VINE_EINVAL,
                            "'%.100s' says neither size nor time of '%.200s'",
                            s->url.host, s->url.path);
    if ((a.flags & LIBSSH2_SFTP_ATTR_PERMISSIONS) != 0 &&
        !LIBSSH2_SFTP_S_ISREG(a.permissions))
        return vine_err_set(err, VINE_EINVAL,
                            "'%.200s' on '%.100s' is no file: pack it there",
                            s->url.path, s->url.host);
    *facts = (struct remote_facts){.size = a.filesize, .mtime = (int64_t)a.mtime};
    (void)snprintf(facts->stamp, sizeof(facts->stamp), "mtime=%lu", a.mtime);
    return 0;
}

static int find_user(struct sftp *s, struct vine_err *err)
{
    const struct passwd *me = getpwuid(geteuid());

    if (me == NULL || me->pw_dir == NULL || strlen(me->pw_dir) >= sizeof(s->home) ||
        strlen(me->pw_name) >= sizeof(s->user))
        return vine_err_set(err, VINE_EINVAL,
                            "uid %u has no home with keys on this node",
                            (unsigned)geteuid());
    (void)snprintf(s->home, sizeof(s->home), "%s", me->pw_dir);
    (void)snprintf(s->user, sizeof(s->user), "%s",
                   s->url.user[0] != '\0' ? s->url.user : me->pw_name);
    return 0;
}

static int start_session(struct sftp *s, unsigned timeout_s, struct vine_err *err)
{
    s->session = libssh2_session_init();
    if (s->session == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    libssh2_session_set_blocking(s->session, 1);
    libssh2_session_set_timeout(s->session, (long)timeout_s * 1000);
    if (known_hosts_prefer(s->session, s->home, s->url.host, s->url.port, err) < 0)
        return -1;
    if (libssh2_session_handshake(s->session, s->socket) != 0)
        return broken(s, "speak SSH with", err);
    return known_hosts_check(s->session, s->home, s->url.host, s->url.port, err);
}

/* Looked at first: an open of a directory fails without a reason. */
static int open_file(struct sftp *s, struct remote_facts *facts, struct vine_err *err)
{
    s->sftp = libssh2_sftp_init(s->session);
    if (s->sftp == NULL)
        return broken(s, "use sftp of", err);
    if (sftp_look(s, facts, err) < 0)
        return -1;
    s->file = libssh2_sftp_open_ex(s->sftp, s->url.path, (unsigned)strlen(s->url.path),
                                   LIBSSH2_FXF_READ, 0, LIBSSH2_SFTP_OPENFILE);
    return s->file != NULL ? 0 : file_failed(s, "open", err);
}

static int sftp_open(const struct vine_url *url, const struct remote_options *options,
                     void **connection, struct remote_facts *facts,
                     struct vine_err *err)
{
    struct sftp *s = calloc(1, sizeof(*s));

    if (s == NULL || libssh2_init(0) != 0) {
        free(s);
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    s->url = *url;
    s->socket = -1;
    s->step = malloc(STEP);
    if (s->step == NULL)
        vine_err_set(err, VINE_ENOMEM, "out of memory");
    else if (find_user(s, err) == 0 && connect_to(s, options->timeout_s, err) == 0 &&
             start_session(s, options->timeout_s, err) == 0 && log_in(s, err) == 0 &&
             open_file(s, facts, err) == 0) {
        *connection = s;
        return 0;
    }
    sftp_close(s);
    return -1;
}

static int sftp_read(void *connection, uint64_t from, uint64_t to,
                     const struct remote_sink *sink, struct vine_err *err)
{
    struct sftp *s = connection;

    libssh2_sftp_seek64(s->file, from);
    while (from < to) {
        size_t want = to - from < STEP ? (size_t)(to - from) : STEP;
        ssize_t n = libssh2_sftp_read(s->file, s->step, want);
        if (n < 0)
            return file_failed(s, "read", err);
        if (n == 0)
            return vine_err_set(err, VINE_ECHANGED,
                                "'%.200s' on '%.100s' became shorter while it was read",
                                s->url.path, s->url.host);
        if (sink->take(sink->ctx, s->step, (size_t)n, err) < 0)
            return -1;
        from += (uint64_t)n;
    }
    return 0;
}

const struct remote_door sftp_door = {
    .open = sftp_open, .look = sftp_look, .read = sftp_read, .close = sftp_close};
