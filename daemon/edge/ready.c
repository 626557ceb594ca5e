/* ready.c - the service manager starts who needs us once we answer. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/edge/daemon.h"

#define ABSTRACT '@' /* as the service manager writes the zero byte */

static int tell(const char *path, const char *text)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t size = strlen(path), length = strlen(text);
    ssize_t sent;
    int fd;

    if ((path[0] != '/' && path[0] != ABSTRACT) || size >= sizeof(to.sun_path)) {
        errno = EINVAL;
        return -1;
    }
    memcpy(to.sun_path, path, size);
    if (path[0] == ABSTRACT)
        to.sun_path[0] = '\0';
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    sent = sendto(fd, text, length, MSG_NOSIGNAL, (struct sockaddr *)&to,
                  (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size));
    (void)close(fd);
    return sent == (ssize_t)length ? 0 : -1;
}

int daemon_ready(void)
{
    const char *path = getenv("NOTIFY_SOCKET");
    int told;

    if (path == NULL)
        return 0;
    told = tell(path, "READY=1");
    (void)unsetenv("NOTIFY_SOCKET"); /* not for children */
    return told;
}
