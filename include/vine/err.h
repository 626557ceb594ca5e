/* err.h - one error, described once, where it happened.
 *
 * Functions that can fail take a `struct vine_err *` and return 0 or -1. The first
 * error wins: a caller that sees -1 passes it on and adds nothing. A zeroed struct is
 * "no error". Passing NULL is allowed and drops the text. */
#ifndef VINE_ERR_H
#define VINE_ERR_H

#include <stdbool.h>

enum vine_code {
    VINE_OK = 0,
    VINE_EINVAL,    /* the user's or admin's input is malformed */
    VINE_ENOENT,    /* a source or object does not exist */
    VINE_EACCES,    /* the user may not read it */
    VINE_ENOSPC,    /* the store or its file system is full */
    VINE_ETIMEDOUT, /* a deadline passed; the work may go on, a retry is cheap */
    VINE_EDOWN,     /* no daemon or no manager answers */
    VINE_EPROTO,    /* a peer sent something malformed */
    VINE_EAUTH,     /* a peer is not who it must be */
    VINE_ELIMIT,    /* a bound of limits.h would be passed */
    VINE_ECORRUPT,  /* bytes do not match their digest */
    VINE_ECHANGED,  /* a source kept changing while it was read */
    VINE_ECANCELED, /* the job is gone */
    VINE_ENOMEM,
    VINE_ESYS,  /* a system call failed; text has errno's words */
    VINE_ELOST, /* a job's file: the nodes that had it are gone */
    VINE_CODES
};

struct vine_err {
    enum vine_code code;
    int sys_errno; /* errno of a VINE_ESYS-like failure, else 0 */
    char text[480];
};

/* Record an error unless one is recorded already. Always returns -1. */
int vine_err_set(struct vine_err *err, enum vine_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same from errno: ": <errno text>" is added; ENOENT, EACCES/EPERM, ENOSPC/EDQUOT,
 * ENOMEM and ETIMEDOUT choose the matching code, all others VINE_ESYS. Returns -1. */
int vine_err_sys(struct vine_err *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Stable lower-case word for logs, JSON and metrics ("enospc"); and back
 * (unknown words give VINE_EPROTO). */
const char *vine_code_name(enum vine_code code);
enum vine_code vine_code_parse(const char *name);

#endif
