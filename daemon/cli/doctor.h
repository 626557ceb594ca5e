/* doctor.h - checks of an installation, each with its finding and its mend. */
#ifndef VINE_CLI_DOCTOR_H
#define VINE_CLI_DOCTOR_H

#include "daemon/cli/cli.h"

enum doctor_level { DOCTOR_OK, DOCTOR_WARN, DOCTOR_FAIL };

struct doctor {
    struct cli *cli;
    json_t *findings;
    unsigned counts[DOCTOR_FAIL + 1];
};

/* Record a finding; `mend` may be NULL (for ok). */
void doctor_add(struct doctor *d, enum doctor_level level, const char *what,
                const char *mend, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* doctor_slurm.c: plugin file, plugstack.conf, versions, PrologFlags. */
void doctor_slurm(struct doctor *d);
/* doctor_system.c: munge, loop devices, squashfs, cache, key, tools, clock. */
void doctor_system(struct doctor *d);

/* doctor_run.c: run a program found in PATH and take the first `size` - 1 bytes of its
 * stdout. Returns its exit status, or -1: not found, killed, or not done in time. */
int doctor_run(char *const argv[], int timeout_ms, char *out, size_t size);
/* Is there such a program in PATH or the sbin directories? */
bool doctor_has_program(const char *name);

/* plugstack.c: find `plugin` (a file name) in a plugstack.conf and what it includes. */
struct plugstack_entry {
    char file[512]; /* where the line stands; "" = not found */
    char path[512]; /* as written there */
    bool required;
};
int plugstack_find(const char *conf_path, const char *plugin,
                   struct plugstack_entry *out, struct vine_err *err);

/* elf.c: the value of an unsigned int variable that a shared object exports. */
int elf_read_variable(const char *path, const char *symbol, uint32_t *value,
                      struct vine_err *err);

#endif
