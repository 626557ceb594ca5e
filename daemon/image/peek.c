/* peek.c - see peek.h. The file is anybody's: formats and filters as in unpack.c. */
#include "daemon/image/peek.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/image/bytes.h"
#include "vine/err.h"

#define READ_BYTES (64u << 10)
#define HEADER_BYTES (64u << 10) /* of a script, before its archive */

struct peek {
    bool channel, pixi_pack;
};

static bool ends_with(const char *name, const char *ending)
{
    size_t len = strlen(name), end = strlen(ending);

    return len > end && strcmp(name + len - end, ending) == 0;
}

/* Does the name fit? */
static bool take_name(struct peek *p, const char *name)
{
    if (strncmp(name, "./", 2) == 0)
        name += 2;
    if (strcmp(name, "pixi-pack.json") == 0)
        p->pixi_pack = true;
    else if (strncmp(name, "channel/", 8) == 0)
        p->channel |= ends_with(name, ".conda") || ends_with(name, ".tar.bz2");
    else if (strcmp(name, "channel") != 0 && strcmp(name, "environment.yml") != 0 &&
             strcmp(name, "pypi") != 0 && strncmp(name, "pypi/", 5) != 0 && *name != 0)
        return false;
    return true;
}

static bool look_at_names(int fd)
{
    struct archive *a = archive_read_new();
    struct archive_entry *e;
    struct peek p = {false, false};
    int result = ARCHIVE_FATAL;

    if (a != NULL && archive_read_support_format_tar(a) == ARCHIVE_OK &&
        archive_read_support_filter_gzip(a) == ARCHIVE_OK &&
        archive_read_support_filter_bzip2(a) == ARCHIVE_OK &&
        archive_read_support_filter_xz(a) == ARCHIVE_OK &&
        archive_read_open_fd(a, fd, READ_BYTES) == ARCHIVE_OK)
        while (!(p.channel && p.pixi_pack) &&
               ((result = archive_read_next_header(a, &e)) == ARCHIVE_OK ||
                result == ARCHIVE_WARN)) {
            const char *name = archive_entry_pathname(e);

            if (name == NULL || !take_name(&p, name)) {
                p.channel = false;
                break;
            }
        }
    archive_read_free(a);
    /* A damaged one lacks its end, where pixi-pack.json is. */
    return p.channel && (p.pixi_pack || result == ARCHIVE_FATAL);
}

static bool is_script(int fd, bool *has_archive)
{
    static const char mark[] = "\n@@END_HEADER@@";
    auto_free char *head = malloc(HEADER_BYTES);
    ssize_t n = head != NULL ? pread_whole(fd, head, HEADER_BYTES, 0) : -1;

    if (n < 2 || memcmp(head, "#!", 2) != 0)
        return false;
    *has_archive = memmem(head, (size_t)n, mark, sizeof(mark) - 1) != NULL;
    return true;
}

bool peek_is_pixi_pack(const char *path)
{
    auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct stat st;
    bool has_archive = false;

    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return false;
    return is_script(fd, &has_archive) ? has_archive : look_at_names(fd);
}
