/* table.h - aligned columns and figures with units, for people. */
#ifndef VINE_CLI_TABLE_H
#define VINE_CLI_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define TABLE_COLUMNS_MAX 12
#define FIGURE_MAX 32

struct table;

/* `headings` ends with NULL; one that begins with '>' makes its column right-aligned.
 */
struct table *table_new(const char *const headings[]);
/* As many texts as columns; copied. After a failed allocation the table prints nothing
 * and table_print says so. */
void table_add(struct table *table, const char *const cells[]);
/* Rows in the order they came. 0, or -1 if memory or the stream failed. Frees. */
int table_print(struct table *table, FILE *stream);

struct figure {
    char text[FIGURE_MAX];
};
struct figure figure_bytes(uint64_t bytes);     /* "480.0 MB", decimal */
struct figure figure_seconds(uint64_t seconds); /* "12 s", "5 min", "3 h", "8 d" */
struct figure figure_number(uint64_t number);
struct figure figure_count(uint64_t number); /* "16,700" */

#endif
