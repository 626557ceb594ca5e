/* pieces.c - see pieces.h. */
#include "daemon/lazy/pieces.h"

#include <sys/stat.h>
#include <unistd.h>

int pieces_load(struct pieces *pieces, int fd)
{
    struct stat st;
    size_t len;

    if (fstat(fd, &st) < 0 || st.st_size <= 0 || st.st_size % 8 != 0 ||
        st.st_size / 8 >= VINE_PIECES_MAX)
        return -1;
    len = (size_t)st.st_size;
    pieces->count = (uint32_t)(len / 8);
    pieces->end[0] = 0;
    if (pread(fd, pieces->end + 1, len, 0) != (ssize_t)len)
        return -1;
    for (uint32_t p = 1; p <= pieces->count; p++)
        if (pieces->end[p] <= pieces->end[p - 1] || pieces->end[p] > VINE_OBJECT_MAX)
            return -1;
    pieces->size = pieces->end[pieces->count];
    return 0;
}

static uint32_t piece_at(const struct pieces *pieces, uint64_t offset)
{
    uint32_t low = 1, high = pieces->count;

    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (pieces->end[middle] > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

void pieces_span(const struct pieces *pieces, uint64_t offset, size_t len,
                 uint32_t *first, uint32_t *last)
{
    *first = piece_at(pieces, offset);
    *last = piece_at(pieces, offset + len - 1);
}

uint32_t pieces_missing(const struct pieces *pieces, uint32_t first, uint32_t last)
{
    for (uint32_t p = first; p <= last; p++)
        if (!pieces->have[p])
            return p;
    return 0;
}

void pieces_add(struct pieces *pieces, uint32_t first, uint32_t count)
{
    if (first == 0 || first > pieces->count || count > pieces->count - first + 1)
        return;
    for (uint32_t p = first; p < first + count; p++)
        pieces->have[p] = true;
}
