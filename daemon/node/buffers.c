/* buffers.c - memory for chunks on their way into the store.
 *
 * A fresh buffer costs a page fault and a cleared page every 4 KiB, which for bulk is
 * as much as the copy itself; so a few are kept, and the last one put, which the
 * processor still has in its cache, is the next one taken. They come by mmap, so that
 * what is freed when nothing moves any more goes back to the system. Loop thread only.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "daemon/node/vined.h"

#define KEPT_MAX 32u

struct buffers {
    void *kept[KEPT_MAX];
    unsigned count;
};

int buffers_start(struct vined *vined, struct vine_err *err)
{
    vined->buffers = calloc(1, sizeof(*vined->buffers));
    if (vined->buffers == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    return 0;
}

void *buffer_get(struct vined *vined)
{
    struct buffers *b = vined->buffers;
    void *buffer;

    if (b->count > 0)
        return b->kept[--b->count];
    buffer = mmap(NULL, VINE_CHUNK_MAX, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return buffer == MAP_FAILED ? NULL : buffer;
}

void buffer_put(struct vined *vined, void *buffer)
{
    struct buffers *b = vined->buffers;

    if (buffer == NULL)
        return;
    if (b->count < KEPT_MAX)
        b->kept[b->count++] = buffer;
    else
        (void)munmap(buffer, VINE_CHUNK_MAX);
}

void buffers_trim(struct vined *vined)
{
    struct buffers *b = vined->buffers;

    while (b->count > 0)
        (void)munmap(b->kept[--b->count], VINE_CHUNK_MAX);
}

void buffers_stop(struct vined *vined)
{
    buffers_trim(vined);
    free(vined->buffers);
}
