/* lazy_trouble.c - what a job is told afterwards of reads that failed under it. */
#include <stdio.h>

#include "daemon/node/lazy_int.h"

#define FAILURES_MAX                                                                   \
    (sizeof(((struct lazies *)0)->failures) / sizeof(struct lazy_failure))

void lazy_note_failure(struct lazy *l, const char *text)
{
    struct lazies *all = l->vined->lazies;
    struct lazy_failure *f = &all->failures[all->failure_count++ % FAILURES_MAX];

    f->digest = l->digest;
    (void)snprintf(f->text, sizeof(f->text), "%s", text);
}

struct trouble_search {
    struct vined *vined;
    uint64_t job;
    char *text;
    size_t size;
};

static void look_for_trouble(void *arg, const struct node_job_info *info)
{
    struct trouble_search *search = arg;
    const struct lazies *all = search->vined->lazies;

    if (info->job != search->job || !info->bound || search->text[0] != '\0')
        return;
    for (unsigned i = 0; i < FAILURES_MAX && i < all->failure_count; i++)
        if (vine_digest_equal(&all->failures[i].digest, &info->digest))
            (void)snprintf(search->text, search->size, "'%.1000s': %s", info->path,
                           all->failures[i].text);
}

void lazy_trouble(struct vined *vined, uint64_t job, char *text, size_t size)
{
    struct trouble_search search = {vined, job, text, size};

    text[0] = '\0';
    node_each_job(vined->core, look_for_trouble, &search);
}
