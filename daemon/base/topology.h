/* topology.h - the leaf switch of a node, as Slurm's topology.conf has it. */
#ifndef VINE_BASE_TOPOLOGY_H
#define VINE_BASE_TOPOLOGY_H

#include <stddef.h>

#include "vine/err.h"
#include "vine/limits.h"

/* Where slurm.conf is: $SLURM_CONF says, or the first usual place that has one; "" if
 * none has. */
void slurm_conf_dir(char *out, size_t size);

/* The switch whose line lists `node` among its Nodes, "" if none does. `text` is cut to
 * pieces; `path` is for messages. VINE_EINVAL or VINE_ELIMIT: not a topology.conf;
 * then `leaf` is untouched. */
int topology_parse(const char *path, char *text, const char *node,
                   char leaf[VINE_NAME_MAX], struct vine_err *err);

/* The same of the file `path`; "": topology.conf beside slurm.conf. No such file: 0 and
 * "". */
int topology_leaf(const char *path, const char *node, char leaf[VINE_NAME_MAX],
                  struct vine_err *err);

#endif
