/* text_file.c - no stdio streams: the plugin reads its configuration with this. */
#include "daemon/base/text_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char *read_whole(int fd, const char *path, size_t max, struct vine_err *err)
{
    char *text = malloc(max + 1);
    size_t len = 0;
    ssize_t n = 1;

    if (text == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory reading '%s'", path);
        return NULL;
    }
    while (len <= max && n > 0) {
        n = read(fd, text + len, max + 1 - len);
        if (n < 0 && errno == EINTR)
            n = 1;
        else if (n > 0)
            len += (size_t)n;
    }
    if (n < 0)
        vine_err_sys(err, "cannot read '%s'", path);
    else if (len > max)
        vine_err_set(err, VINE_EINVAL, "'%s' is over %zu bytes: no configuration file",
                     path, max);
    else if (memchr(text, '\0', len) != NULL)
        vine_err_set(err, VINE_EINVAL, "'%s' holds a zero byte: no text file", path);
    else {
        text[len] = '\0';
        return text;
    }
    free(text);
    return NULL;
}

int text_file_read(const char *path, size_t max, char **out, struct vine_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *text;

    if (fd < 0 && errno == ENOENT) {
        *out = NULL;
        return 0;
    }
    if (fd < 0)
        return vine_err_sys(err, "cannot open '%s'", path);
    text = read_whole(fd, path, max, err);
    (void)close(fd);
    if (text == NULL)
        return -1;
    *out = text;
    return 0;
}
