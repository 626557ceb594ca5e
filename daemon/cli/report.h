/* report.h - a job's transfer log as `vine-env report` shows it.
 *
 *   report.c          the command: asks, writes
 *   report_model.c    the log's lines by node; who fed whom as a tree
 *   report_page.c     the page: words and tables
 *   report_figures.c  timeline, tree, bytes against time
 *   report_tasks.c    how long tasks took */
#ifndef VINE_CLI_REPORT_H
#define VINE_CLI_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/cli/page.h"
#include "vine/err.h"

#define REPORT_ROWS_MAX 64 /* nodes shown one by one */

/* What a reader tells apart. */
enum report_kind {
    REPORT_SHARED, /* read from the source, to be streamed or built */
    REPORT_PEERS,
    REPORT_REUSED, /* older objects of the node's store */
    REPORT_HERE,   /* the object itself was there */
    REPORT_KINDS
};

struct report_row { /* of one sender; seconds since the job's first wish */
    enum report_kind kind;
    const char *peer; /* "" if it is none, or not known */
    double bytes, first, last;
};

struct report_node {
    const char *name;
    double wanted, begun, ended;
    double bytes, by_kind[REPORT_KINDS], given;
    struct report_row *rows; /* of all its objects */
    uint32_t row_count;
    uint32_t objects, failed;
    /* The tree: who gave it most, so that all hang on a root. */
    uint32_t parent, first_child, next_sibling; /* REPORT_NONE */
    uint32_t below;                             /* nodes under it */
    double from_parent;
    bool outside; /* no node of the job: it had the object before */
};

#define REPORT_NONE UINT32_MAX

struct report_source {
    const char *path, *digest;
    double size;
    uint32_t nodes, failed;
    const char *code; /* of the first that failed */
};

struct report {
    const char *job;
    double started_ms; /* since 1970 */
    double seconds;    /* until the last is complete */
    double bytes, by_kind[REPORT_KINDS];
    struct report_node *nodes; /* by the time they were complete; then outside ones */
    uint32_t node_count;       /* of the job */
    uint32_t all_count;        /* with those outside, and two roots at the end */
    struct report_source *sources;
    uint32_t source_count;
    json_t *stories; /* what the texts are borrowed from */
};

/* The last two of `nodes`: what the trees hang on. */
#define report_root_shared(r) ((r)->all_count - 2)
#define report_root_store(r) ((r)->all_count - 1)

/* `stories` is borrowed as long as the report lives. */
int report_make(struct report *r, const char *job, json_t *stories,
                struct vine_err *err);
void report_clear(struct report *r);

struct tasks {
    double *seconds[2]; /* without, with: sorted */
    size_t count[2];
};
/* {"before": [seconds, ...], "after": [...]} or lines of "before|after,seconds". */
int tasks_read(const char *path, struct tasks *tasks, struct vine_err *err);
void tasks_clear(struct tasks *tasks);

/* The whole page; tasks may be NULL. */
void report_page(struct page *p, const struct report *r, const struct tasks *tasks);

void report_timeline(struct page *p, const struct report *r);
void report_tree(struct page *p, const struct report *r);
void report_bytes(struct page *p, const struct report *r);
void report_tasks(struct page *p, const struct tasks *tasks);

/* Colour class of a kind, and its words. */
extern const char *const report_kind_class[REPORT_KINDS];
extern const char *const report_kind_name[REPORT_KINDS];

/* An axis: a step of 1, 2 or 5 times a power of ten, so that about `lines` fit. */
double report_step(double range, unsigned lines);

struct words {
    char text[32];
};
struct words words_bytes(double bytes);     /* "48.0 MB" */
struct words words_seconds(double seconds); /* "1.25 s", "3 min 20 s" */

#endif
