/* known_hosts.c - the user's and the system's known_hosts, believed to the letter.
 *
 * A host is known by its exact name, hashed or not, "[host]:port" where the port is not
 * 22; patterns and certificate authorities count for nothing, which only refuses more.
 * A key that is marked @revoked for any host is refused for all. */
#include "daemon/remote/known_hosts.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vine/limits.h"
#include "vine/url.h"

#define SYSTEM_FILE "/etc/ssh/ssh_known_hosts"
#define SSH_PORT 22
#define LINES_MAX 100000u
#define LINE_BYTES 4096u
#define LINE_SHOWN 260u /* a longer line, of RSA, does not fit into a message */
#define METHODS_BYTES 160u

static const struct {
    int type, mask;
    const char *method;
} kinds[] = {
    {LIBSSH2_HOSTKEY_TYPE_ED25519, LIBSSH2_KNOWNHOST_KEY_ED25519, "ssh-ed25519"},
    {LIBSSH2_HOSTKEY_TYPE_ECDSA_256, LIBSSH2_KNOWNHOST_KEY_ECDSA_256,
     "ecdsa-sha2-nistp256"},
    {LIBSSH2_HOSTKEY_TYPE_ECDSA_384, LIBSSH2_KNOWNHOST_KEY_ECDSA_384,
     "ecdsa-sha2-nistp384"},
    {LIBSSH2_HOSTKEY_TYPE_ECDSA_521, LIBSSH2_KNOWNHOST_KEY_ECDSA_521,
     "ecdsa-sha2-nistp521"},
    {LIBSSH2_HOSTKEY_TYPE_RSA, LIBSSH2_KNOWNHOST_KEY_SSHRSA, "ssh-rsa"},
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

struct host_name {
    char text[VINE_URL_HOST + 16];
};

struct files {
    char user[VINE_PATH_MAX];
    LIBSSH2_KNOWNHOSTS *hosts;
};

static struct host_name name_of(const char *host, uint16_t port)
{
    struct host_name name;

    if (port == SSH_PORT)
        (void)snprintf(name.text, sizeof(name.text), "%s", host);
    else
        (void)snprintf(name.text, sizeof(name.text), "[%s]:%u", host, port);
    return name;
}

/* Each line to `take`. */
static void each_line(const char *path, void (*take)(void *ctx, const char *line),
                      void *ctx)
{
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t size = 0;
    ssize_t len;

    if (file == NULL)
        return; /* none: nobody is known by it */
    for (unsigned n = 0; n < LINES_MAX && (len = getline(&line, &size, file)) > 0; n++)
        if ((size_t)len < LINE_BYTES && strlen(line) == (size_t)len)
            take(ctx, line);
    free(line);
    (void)fclose(file);
}

static void take_host(void *ctx, const char *line)
{
    if (line[0] != '@' && line[0] != '#') /* one that cannot be read knows nobody */
        (void)libssh2_knownhost_readline(ctx, line, strlen(line),
                                         LIBSSH2_KNOWNHOST_FILE_OPENSSH);
}

static int files_load(struct files *files, LIBSSH2_SESSION *session, const char *home,
                      struct vine_err *err)
{
    (void)snprintf(files->user, sizeof(files->user), "%s/.ssh/known_hosts", home);
    files->hosts = libssh2_knownhost_init(session);
    if (files->hosts == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    each_line(files->user, take_host, files->hosts);
    each_line(SYSTEM_FILE, take_host, files->hosts);
    return 0;
}

static int ask(const struct files *files, const struct host_name *name, const char *key,
               size_t len, int mask)
{
    return libssh2_knownhost_checkp(
        files->hosts, name->text, -1, key, len,
        LIBSSH2_KNOWNHOST_TYPE_PLAIN | LIBSSH2_KNOWNHOST_KEYENC_RAW | mask, NULL);
}

/* Has it a key of this kind (mask 0: of any), whatever its bytes? */
static bool is_known(const struct files *files, const struct host_name *name, int mask)
{
    return ask(files, name, "none", 4, mask) == LIBSSH2_KNOWNHOST_CHECK_MISMATCH;
}

int known_hosts_prefer(LIBSSH2_SESSION *session, const char *home, const char *host,
                       uint16_t port, struct vine_err *err)
{
    const struct host_name name = name_of(host, port);
    char methods[METHODS_BYTES] = "";
    struct files files;

    if (files_load(&files, session, home, err) < 0)
        return -1;
    for (int known = 1; known >= 0; known--)
        for (size_t i = 0; i < KINDS; i++)
            if (is_known(&files, &name, kinds[i].mask) == (known == 1)) {
                size_t used = strlen(methods);
                (void)snprintf(methods + used, sizeof(methods) - used, "%s%s",
                               used > 0 ? "," : "", kinds[i].method);
            }
    libssh2_knownhost_free(files.hosts);
    if (libssh2_session_method_pref(session, LIBSSH2_METHOD_HOSTKEY, methods) != 0)
        return vine_err_set(err, VINE_ESYS, "libssh2 lacks the kinds of host keys");
    return 0;
}

struct revoked {
    const char *key; /* base64 */
    bool found;
};

static void take_revoked(void *ctx, const char *line)
{
    struct revoked *revoked = ctx;

    if (strncmp(line, "@revoked", 8) == 0 && strstr(line, revoked->key) != NULL)
        revoked->found = true;
}

/* "host kind base64" of the server's key, as known_hosts would have it. */
static int line_of(const struct files *files, const struct host_name *name,
                   const char *key, size_t len, int mask, char line[LINE_BYTES],
                   struct vine_err *err)
{
    struct libssh2_knownhost *added = NULL;
    size_t used = 0;

    if (libssh2_knownhost_addc(files->hosts, name->text, NULL, key, len, NULL, 0,
                               LIBSSH2_KNOWNHOST_TYPE_PLAIN |
                                   LIBSSH2_KNOWNHOST_KEYENC_RAW | mask,
                               &added) != 0 ||
        libssh2_knownhost_writeline(files->hosts, added, line, LINE_BYTES, &used,
                                    LIBSSH2_KNOWNHOST_FILE_OPENSSH) != 0)
        return vine_err_set(err, VINE_EAUTH, "the host key of '%s' cannot be used",
                            name->text);
    line[strcspn(line, "\n")] = '\0';
    return 0;
}

static int refuse_unknown(const char *host, uint16_t port, const char *line,
                          struct vine_err *err)
{
    if (strlen(line) <= LINE_SHOWN)
        return vine_err_set(err, VINE_EAUTH,
                            "the host key of '%.100s' is not known: if it is the right "
                            "one, add to ~/.ssh/known_hosts: %s",
                            host, line);
    return vine_err_set(err, VINE_EAUTH,
                        "the host key of '%.100s' is not known: check it and add to "
                        "~/.ssh/known_hosts what ssh-keyscan -p %u %.100s prints",
                        host, port, host);
}

static int judge(const struct files *files, const struct host_name *name,
                 const char *host, uint16_t port, const char *key, size_t len, int mask,
                 struct vine_err *err)
{
    int result = ask(files, name, key, len, mask);
    bool other = is_known(files, name, 0);
    struct revoked revoked = {0};
    char line[LINE_BYTES];

    if (line_of(files, name, key, len, mask, line, err) < 0)
        return -1;
    revoked.key = strrchr(line, ' ') != NULL ? strrchr(line, ' ') + 1 : line;
    each_line(files->user, take_revoked, &revoked);
    each_line(SYSTEM_FILE, take_revoked, &revoked);
    if (revoked.found)
        return vine_err_set(err, VINE_EAUTH, "the host key of '%.100s' is revoked",
                            host);
    if (result == LIBSSH2_KNOWNHOST_CHECK_MATCH)
        return 0;
    if (!other)
        return refuse_unknown(host, port, line, err);
    return vine_err_set(
        err, VINE_EAUTH,
        "the host key of '%.100s' is not the one in known_hosts: it was "
        "changed, or somebody stands between; ask who runs the host "
        "before you renew its line",
        host);
}

int known_hosts_check(LIBSSH2_SESSION *session, const char *home, const char *host,
                      uint16_t port, struct vine_err *err)
{
    const struct host_name name = name_of(host, port);
    size_t len = 0;
    int type = 0, mask = 0, result;
    const char *key = libssh2_session_hostkey(session, &len, &type);
    struct files files;

    for (size_t i = 0; i < KINDS; i++)
        if (kinds[i].type == type)
            mask = kinds[i].mask;
    if (key == NULL || mask == 0)
        return vine_err_set(err, VINE_EAUTH, "'%.100s' has no host key that we know",
                            host);
    if (files_load(&files, session, home, err) < 0)
        return -1;
    result = judge(&files, &name, host, port, key, len, mask, err);
    libssh2_knownhost_free(files.hosts);
    return result;
}
