/* data.c - bodies of the data service to bytes and back.
 *
 * One check serves both ways, so nothing leaves that the other side would refuse. The
 * kind is accepted before a byte of the body is read. */
#include "daemon/wire/data.h"

#include "daemon/wire/bytes.h"

static const char *const names[] = {
    [DATA_GET - DATA_GET] = "get",
    [DATA_GET_MANIFEST - DATA_GET] = "get_manifest",
    [DATA_CHUNK - DATA_GET] = "chunk",
    [DATA_MANIFEST - DATA_GET] = "manifest",
    [DATA_REFUSED - DATA_GET] = "refused",
    [DATA_ASK - DATA_GET] = "ask",
    [DATA_HERE - DATA_GET] = "here",
};

static bool kind_known(unsigned kind)
{
    return kind >= DATA_GET && kind < DATA_KINDS_END;
}

const char *data_kind_name(unsigned kind)
{
    return kind_known(kind) ? names[kind - DATA_GET] : "unknown";
}

static bool run_valid(uint32_t first, uint32_t count)
{
    return count >= 1 && first < VINE_CHUNKS_MAX && count <= VINE_CHUNKS_MAX - first;
}

static bool fields_valid(const struct data_frame *f)
{
    bool bulk_fits = f->bulk_len >= 1 && f->bulk_len <= VINE_CHUNK_MAX;

    switch (f->kind) {
    case DATA_GET:
    case DATA_ASK:
        return f->bulk_len == 0 && run_valid(f->first_chunk, f->count);
    case DATA_GET_MANIFEST:
        return f->bulk_len == 0;
    case DATA_CHUNK:
        return bulk_fits && run_valid(f->chunk, f->count);
    case DATA_HERE:
        return f->bulk_len == 0 && run_valid(f->chunk, f->count);
    case DATA_MANIFEST:
        return bulk_fits && f->total >= DATA_MANIFEST_MIN &&
               f->total <= DATA_MANIFEST_MAX && f->offset < f->total &&
               f->bulk_len <= f->total - f->offset;
    case DATA_REFUSED:
        return f->bulk_len == 0 && f->code > VINE_OK && f->code < VINE_CODES;
    default:
        return false;
    }
}

int data_encode(const struct data_frame *f, uint8_t out[DATA_BODY_MAX], size_t *len,
                struct vine_err *err)
{
    struct writer w = {.next = out, .left = DATA_BODY_MAX};

    if (!fields_valid(f))
        return vine_err_set(err, VINE_EINVAL,
                            "cannot send '%s': a field is out of range",
                            data_kind_name(f->kind));
    put_u32(&w, f->tag);
    switch (f->kind) {
    case DATA_GET:
    case DATA_ASK:
        put_bytes(&w, f->digest.b, sizeof(f->digest.b));
        put_u32(&w, f->first_chunk);
        put_u32(&w, f->count);
        break;
    case DATA_GET_MANIFEST:
        put_bytes(&w, f->digest.b, sizeof(f->digest.b));
        break;
    case DATA_CHUNK:
    case DATA_HERE:
        put_u32(&w, f->chunk);
        put_u32(&w, f->count);
        break;
    case DATA_MANIFEST:
        put_u32(&w, f->total);
        put_u32(&w, f->offset);
        break;
    default: /* DATA_REFUSED */
        put_u32(&w, f->code);
        break;
    }
    *len = DATA_BODY_MAX - w.left;
    return 0;
}

int data_decode(uint8_t kind, const uint8_t *buf, size_t len, uint32_t bulk_len,
                struct data_frame *f, struct vine_err *err)
{
    struct reader r = {.next = buf, .left = len};
    struct data_frame d = {.bulk_len = bulk_len};
    uint32_t code;

    if (!kind_known(kind))
        return vine_err_set(err, VINE_EPROTO, "unknown data frame 0x%02x", kind);
    d.kind = (enum data_kind)kind;
    d.tag = get_u32(&r);
    switch (d.kind) {
    case DATA_GET:
    case DATA_ASK:
        get_bytes(&r, d.digest.b, sizeof(d.digest.b), sizeof(d.digest.b));
        d.first_chunk = get_u32(&r);
        d.count = get_u32(&r);
        break;
    case DATA_GET_MANIFEST:
        get_bytes(&r, d.digest.b, sizeof(d.digest.b), sizeof(d.digest.b));
        break;
    case DATA_CHUNK:
    case DATA_HERE:
        d.chunk = get_u32(&r);
        d.count = get_u32(&r);
        break;
    case DATA_MANIFEST:
        d.total = get_u32(&r);
        d.offset = get_u32(&r);
        break;
    default: /* DATA_REFUSED */
        code = get_u32(&r);
        d.code = code < VINE_CODES ? (enum vine_code)code : VINE_OK;
        break;
    }
    if (!reader_done(&r))
        return vine_err_set(err, VINE_EPROTO, "data frame '%s': bad length %zu",
                            data_kind_name(kind), len);
    if (!fields_valid(&d))
        return vine_err_set(err, VINE_EPROTO,
                            "data frame '%s': a field is out of range",
                            data_kind_name(kind));
    *f = d;
    return 0;
}
