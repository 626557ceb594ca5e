/* peek.h - what an archive is, without reading it. */
#ifndef VINE_IMAGE_PEEK_H
#define VINE_IMAGE_PEEK_H

#include <stdbool.h>

/* Is the file at `path` an archive of pixi-pack: packages, of which an environment is
 * still to be made? A tar of the names that pixi-pack gives and no other, or a script
 * with such a one behind it. The first name that does not fit ends the look. False for
 * what cannot be opened: whoever reads it will say why. */
bool peek_is_pixi_pack(const char *path);

#endif
