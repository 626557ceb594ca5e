/* manifest.c - cutting a stream into chunks where its content says, and the canonical
 * form.
 *
 * Cutting: an image is compressed block by block, and a file that changes changes its
 * blocks and no other byte near them. So a chunk ends behind the four bytes that each
 * zstd frame begins with, once it has VINE_CHUNK_MIN bytes: mostly one block a chunk.
 *
 * Where no frame begins for long (blocks that do not compress, other compressors, data)
 * a gear hash, h = (h << 1) + gear[byte], looks at the last 64 bytes; a chunk ends
 * where chosen bits of h are all zero. The same bytes give the same cut wherever they
 * stand, so what is inserted in the middle changes the chunks around it only. This is
 * normalised to keep the lengths together: no cut below GEAR_MIN, a stricter mask up to
 * VINE_CHUNK_AVG, a looser one after it, and a forced cut at VINE_CHUNK_MAX.
 *
 * The table is part of the format: gear[i] is the i-th output of splitmix64 started at
 * GEAR_SEED. Changing it, the masks or the limits gives other digests for the same
 * bytes: no harm but the loss of what stores hold. test_manifest.c fixes a known
 * digest.
 *
 * The builder keeps one chunk's running SHA-256 and the gear state; memory grows by one
 * manifest_chunk a chunk and nothing else. */
#include "vine/manifest.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define GEAR_SEED 0x76696e652d656e76ull /* "vine-env" */
#define GEAR_WINDOW 64u                 /* bytes the hash remembers */
#define GEAR_MIN (64u << 10)            /* shorter chunks end at frames only */
#define FRAME 0x28b52ffdu               /* zstd's magic number, as its bytes stand */
#define FRAME_LEN 4u

/* The uppermost bits of h depend on most bytes of the window. 2^-18 is one cut in 256
 * KiB; stricter below the average and looser above it (FastCDC's normalisation, level
 * 2) gives a mean close to 256 KiB counting the skipped minimum. */
#define MASK_STRICT (((1ull << 19) - 1) << 45)
#define MASK_LOOSE (((1ull << 16) - 1) << 48)

#define MAGIC_IMAGE "VNM1"
#define MAGIC_FILE "VNF1"
#define MAGIC_LEN 4
#define HEADER_LEN 16
#define ENTRY_LEN (4 + VINE_DIGEST_LEN)

/* Computed by the compiler's own constant folding would need 256 literals; computed
 * once a builder instead: 256 steps are nothing beside one chunk's hash. */
struct gear {
    uint64_t table[256];
};

struct manifest_builder {
    struct gear gear;
    struct vine_sha *sha;
    uint64_t hash;
    uint32_t last;   /* four bytes of it, once VINE_CHUNK_MIN is near */
    uint32_t length; /* of the chunk that grows */
    uint64_t size;
    uint32_t count, room;
    struct manifest_chunk *chunk;
};

static uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static void gear_fill(struct gear *gear)
{
    uint64_t state = GEAR_SEED;

    for (int i = 0; i < 256; i++)
        gear->table[i] = splitmix64(&state);
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static uint32_t last_four(const uint8_t *end)
{
    return (uint32_t)end[-4] << 24 | (uint32_t)end[-3] << 16 | (uint32_t)end[-2] << 8 |
           end[-1];
}

/* Bytes [i, end) until a frame has begun; the index after the cut, or end. Once three
 * bytes are behind, only those like a frame's last are looked at. */
static size_t frame_scan(struct manifest_builder *b, const uint8_t *data, size_t i,
                         size_t end, bool *cut)
{
    size_t start = i;

    while (i < end && i - start < FRAME_LEN - 1 && !*cut) {
        b->last = b->last << 8 | data[i++];
        *cut = b->last == FRAME;
    }
    if (i == end || *cut)
        return i;
    while (i < end && !*cut) {
        const uint8_t *hit = memchr(data + i, FRAME & 0xff, end - i);
        i = hit == NULL ? end : (size_t)(hit - data) + 1;
        *cut = hit != NULL && last_four(hit + 1) == FRAME;
    }
    b->last = last_four(data + i);
    return i;
}

/* The same, or until `mask` matches. */
static size_t gear_scan(struct manifest_builder *b, const uint8_t *data, size_t i,
                        size_t end, uint64_t mask, bool *cut)
{
    const uint64_t *table = b->gear.table;
    uint64_t h = b->hash;
    uint32_t last = b->last;

    while (i < end && !*cut) {
        h = (h << 1) + table[data[i]];
        last = last << 8 | data[i++];
        *cut = (h & mask) == 0 || last == FRAME;
    }
    b->hash = h;
    b->last = last;
    return i;
}

/* How many of `len` bytes belong to the growing chunk; *cut when it ends there. The
 * result is the same however the stream was portioned: every phase is bounded by the
 * position in the chunk, and what the scans know is kept. */
static size_t chunk_take(struct manifest_builder *b, const uint8_t *data, size_t len,
                         bool *cut)
{
    static const struct phase {
        uint32_t end; /* position in the chunk */
        bool gear;
        uint64_t mask;
    } phases[] = {
        {GEAR_MIN - GEAR_WINDOW, false, 0},
        {GEAR_MIN, true, UINT64_MAX}, /* fills the window: all zero is 2^-64 */
        {VINE_CHUNK_AVG, true, MASK_STRICT},
        {VINE_CHUNK_MAX, true, MASK_LOOSE},
    };
    const uint32_t skipped = VINE_CHUNK_MIN - FRAME_LEN;
    size_t base = b->length, used = 0;

    *cut = false;
    if (base < skipped)
        used = min_size(len, skipped - base);
    for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]) && !*cut; i++) {
        const struct phase *p = &phases[i];
        size_t end;
        if (used == len || base + used >= p->end)
            continue;
        end = min_size(len, p->end - base);
        used = p->gear ? gear_scan(b, data, used, end, p->mask, cut)
                       : frame_scan(b, data, used, end, cut);
    }
    if (base + used == VINE_CHUNK_MAX)
        *cut = true;
    return used;
}

static int chunk_append(struct manifest_builder *b, struct vine_err *err)
{
    struct manifest_chunk *chunk = b->chunk;

    if (b->count == VINE_CHUNKS_MAX)
        return vine_err_set(err, VINE_ELIMIT, "object has more than %u chunks",
                            VINE_CHUNKS_MAX);
    if (b->count == b->room) {
        uint32_t room = b->room == 0 ? 256 : 2 * b->room;
        chunk = realloc(chunk, room * sizeof(*chunk));
        if (chunk == NULL)
            return vine_err_set(err, VINE_ENOMEM,
                                "no memory for a manifest of %u chunks", room);
        b->chunk = chunk;
        b->room = room;
    }
    chunk[b->count].offset = b->size;
    chunk[b->count].length = b->length;
    if (b->sha != NULL)
        vine_sha_end(b->sha, &chunk[b->count].digest);
    else
        memset(&chunk[b->count].digest, 0, sizeof(chunk[b->count].digest));
    b->count++;
    b->size += b->length;
    b->length = 0;
    b->hash = 0;
    b->last = 0;
    return 0;
}

struct manifest_builder *manifest_builder_new_cutter(void)
{
    struct manifest_builder *b = calloc(1, sizeof(*b));

    if (b != NULL)
        gear_fill(&b->gear);
    return b;
}

struct manifest_builder *manifest_builder_new(void)
{
    struct manifest_builder *b = manifest_builder_new_cutter();

    if (b == NULL)
        return NULL;
    b->sha = vine_sha_new();
    if (b->sha == NULL) {
        free(b);
        return NULL;
    }
    return b;
}

uint32_t manifest_builder_chunks(const struct manifest_builder *b,
                                 const struct manifest_chunk **chunks)
{
    *chunks = b->chunk;
    return b->count;
}

int manifest_builder_add(struct manifest_builder *b, const void *data, size_t len,
                         struct vine_err *err)
{
    const uint8_t *next = data;

    if (len > VINE_OBJECT_MAX - b->size - b->length)
        return vine_err_set(err, VINE_ELIMIT, "object is larger than %llu bytes",
                            VINE_OBJECT_MAX);
    while (len > 0) {
        bool cut;
        size_t used = chunk_take(b, next, len, &cut);
        if (b->sha != NULL)
            vine_sha_add(b->sha, next, used);
        b->length += (uint32_t)used;
        next += used;
        len -= used;
        if (cut && chunk_append(b, err) < 0)
            return -1;
    }
    return 0;
}

static uint64_t piece_least(const struct manifest *m)
{
    uint64_t share = m->size / VINE_PIECES_TARGET;

    return share > VINE_CHUNK_AVG ? share : VINE_CHUNK_AVG;
}

/* The chunk after the piece that starts at chunk `first`. */
static uint32_t piece_end(const struct manifest *m, uint32_t first, uint64_t least)
{
    uint64_t bytes = 0;

    while (first < m->count && bytes < least)
        bytes += m->chunk[first++].length;
    return first;
}

/* The table of pieces, from chunk[] and size. */
static int pieces_index(struct manifest *m, struct vine_err *err)
{
    uint64_t least = piece_least(m);
    uint32_t pieces = 1;

    for (uint32_t first = 0; first < m->count; pieces++)
        first = piece_end(m, first, least);
    m->piece_first = calloc(pieces, sizeof(*m->piece_first));
    if (m->piece_first == NULL)
        return vine_err_set(err, VINE_ENOMEM, "no memory for a manifest of %u pieces",
                            pieces);
    m->pieces = pieces;
    for (uint32_t p = 1; p < pieces; p++)
        m->piece_first[p] = piece_end(m, m->piece_first[p - 1], least);
    return 0;
}

int manifest_seal(struct manifest *m, struct vine_err *err)
{
    size_t len = manifest_encoded_size(m->count);
    uint8_t *buf = malloc(len);

    if (buf == NULL)
        return vine_err_set(err, VINE_ENOMEM, "no memory for a manifest of %u chunks",
                            m->count);
    manifest_encode(m, buf);
    vine_digest_of(buf, len, &m->digest);
    free(buf);
    return 0;
}

int manifest_finish(struct manifest *m, struct vine_err *err)
{
    if (pieces_index(m, err) < 0)
        return -1;
    return manifest_seal(m, err);
}

int manifest_builder_end(struct manifest_builder *b, struct manifest *out,
                         struct vine_err *err)
{
    struct manifest m;

    if (b->length > 0 && chunk_append(b, err) < 0)
        return -1;
    m = (struct manifest){.size = b->size, .count = b->count, .chunk = b->chunk};
    if (pieces_index(&m, err) < 0)
        return -1;
    if (b->sha != NULL && manifest_seal(&m, err) < 0) {
        free(m.piece_first);
        return -1;
    }
    b->chunk = NULL; /* *out owns it now; the builder starts anew */
    b->count = b->room = 0;
    b->size = 0;
    *out = m;
    return 0;
}

void manifest_builder_free(struct manifest_builder *b)
{
    if (b == NULL)
        return;
    if (b->sha != NULL)
        vine_sha_free(b->sha);
    free(b->chunk);
    free(b);
}

static uint64_t get_be(const uint8_t *p, int bytes)
{
    uint64_t v = 0;

    for (int i = 0; i < bytes; i++)
        v = v << 8 | p[i];
    return v;
}

static void put_be(uint8_t *p, uint64_t v, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--, v >>= 8)
        p[i] = (uint8_t)v;
}

size_t manifest_encoded_size(uint32_t count)
{
    return HEADER_LEN + (size_t)count * ENTRY_LEN;
}

void manifest_encode(const struct manifest *m, uint8_t *out)
{
    memcpy(out, m->file ? MAGIC_FILE : MAGIC_IMAGE, MAGIC_LEN);
    put_be(out + 4, m->size, 8);
    put_be(out + 12, m->count, 4);
    out += HEADER_LEN;
    for (uint32_t i = 0; i < m->count; i++, out += ENTRY_LEN) {
        put_be(out, m->chunk[i].length, 4);
        memcpy(out + 4, m->chunk[i].digest.b, VINE_DIGEST_LEN);
    }
}

/* Fill chunk[] from the entries; every length in its bounds, their sum equal to size.
 */
static int entries_decode(const uint8_t *entry, struct manifest *m,
                          struct vine_err *err)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < m->count; i++, entry += ENTRY_LEN) {
        uint32_t length = (uint32_t)get_be(entry, 4);
        uint32_t least = i + 1 < m->count ? VINE_CHUNK_MIN : 1;
        if (length < least || length > VINE_CHUNK_MAX)
            return vine_err_set(err, VINE_EPROTO,
                                "manifest: chunk %u has bad length %u", i, length);
        m->chunk[i].offset = sum;
        m->chunk[i].length = length;
        memcpy(m->chunk[i].digest.b, entry + 4, VINE_DIGEST_LEN);
        sum += length;
    }
    if (sum != m->size)
        return vine_err_set(err, VINE_EPROTO,
                            "manifest: chunks make %llu bytes, header says %llu",
                            (unsigned long long)sum, (unsigned long long)m->size);
    return 0;
}

int manifest_decode(const uint8_t *buf, size_t len, struct manifest *m,
                    struct vine_err *err)
{
    struct manifest made = {0};

    made.file = len >= HEADER_LEN && memcmp(buf, MAGIC_FILE, MAGIC_LEN) == 0;
    if (len < HEADER_LEN || (!made.file && memcmp(buf, MAGIC_IMAGE, MAGIC_LEN) != 0))
        return vine_err_set(err, VINE_EPROTO, "manifest: bad magic or length %zu", len);
    made.size = get_be(buf + 4, 8);
    made.count = (uint32_t)get_be(buf + 12, 4);
    if (made.size > VINE_OBJECT_MAX || made.count > VINE_CHUNKS_MAX)
        return vine_err_set(err, VINE_ELIMIT, "manifest: %llu bytes in %u chunks",
                            (unsigned long long)made.size, made.count);
    if (len != manifest_encoded_size(made.count))
        return vine_err_set(err, VINE_EPROTO, "manifest: %zu bytes for %u chunks", len,
                            made.count);
    made.chunk = calloc((size_t)made.count + 1, sizeof(*made.chunk));
    if (made.chunk == NULL)
        return vine_err_set(err, VINE_ENOMEM, "no memory for a manifest of %u chunks",
                            made.count);
    if (entries_decode(buf + HEADER_LEN, &made, err) < 0 ||
        pieces_index(&made, err) < 0) {
        manifest_free(&made);
        return -1;
    }
    vine_digest_of(buf, len, &made.digest);
    *m = made;
    return 0;
}

void manifest_free(struct manifest *m)
{
    free(m->chunk);
    free(m->piece_first);
    *m = (struct manifest){0};
}

uint32_t manifest_pieces(const struct manifest *m)
{
    return m->pieces;
}

void manifest_piece(const struct manifest *m, uint32_t piece, uint32_t *first,
                    uint32_t *count)
{
    *first = m->piece_first[piece - 1];
    *count = m->piece_first[piece] - *first;
}

uint32_t manifest_piece_of(const struct manifest *m, uint32_t chunk)
{
    uint32_t low = 1, high = m->pieces - 1; /* it is one of low..high */

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (chunk < m->piece_first[middle])
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

uint32_t manifest_run(const struct manifest *m, uint32_t chunk, uint32_t end,
                      uint32_t *length)
{
    uint32_t first, count, next = chunk + 1;

    manifest_piece(m, manifest_piece_of(m, chunk), &first, &count);
    end = end < first + count ? end : first + count;
    *length = m->chunk[chunk].length;
    for (; next < end && *length + m->chunk[next].length <= VINE_CHUNK_AVG; next++)
        *length += m->chunk[next].length;
    return next - chunk;
}
