/* unpack.h - an archive file as a tar stream, without unpacking it on disk. */
#ifndef VINE_IMAGE_UNPACK_H
#define VINE_IMAGE_UNPACK_H

#include "daemon/image/source.h"
#include "daemon/image/tar_out.h"

struct unpack_options {
    const char *name;            /* of the archive, for messages */
    const struct globs *exclude; /* NULL: nothing */
    uint64_t max_bytes;          /* of all files together */
    /* Owner of every entry, and time of directories the archive does not list: those of
     * the archive file, as if its owner had unpacked it. */
    uint32_t uid, gid;
    int64_t mtime;
    /* Where it is to appear: what conda-pack's script would write into files is written
     * here. NULL: they come as they are. */
    const char *prefix;
    bool streamed; /* fd is a pipe: no zip; whoever feeds it knows a tar's end */
};

/* Read tar (plain, gzip, bzip2, xz, zstd) or zip from fd, seekable at its start unless
 * `streamed`. Names are made plain ("./" and "//" dropped); refused are absolute ones,
 * "..", names below something that is no directory, a file twice, links to what has not
 * come yet. Devices, fifos and sockets are skipped. Damage: VINE_ECORRUPT naming
 * archive and entry. */
int unpack_to_tar(int fd, const struct unpack_options *options, struct tar_out *tar,
                  const struct image_progress *progress, struct image_totals *totals,
                  struct vine_err *err);

#endif
