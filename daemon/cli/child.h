/* child.h - a program that works for a command, as its user. */
#ifndef VINE_CLI_CHILD_H
#define VINE_CLI_CHILD_H

#include <sys/types.h>

#define CHILD_WORDS 160

/* Start argv[0], by PATH if it has no '/', in a group of its own so that what it starts
 * ends with it; signals as they were before cleanup.h. in_fd -1: /dev/null. Returns 0
 * or an errno. */
int child_start(char *const argv[], int in_fd, int out_fd, int words_fd, pid_t *pid);

/* The last line of what it wrote to words_fd (a file), where programs say what was
 * wrong. */
void child_last_line(int words_fd, char out[CHILD_WORDS]);

#endif
