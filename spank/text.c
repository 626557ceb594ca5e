/* text.c - progress lines and advice in words. */
#include "spank/text.h"

#include <stdio.h>
#include <string.h>

void text_bytes(char *out, size_t size, uint64_t bytes)
{
    static const char *const units[] = {"kB", "MB", "GB", "TB"};
    double value = (double)bytes / 1000.0;
    size_t unit = 0;

    while (value >= 999.5 && unit < 3) {
        value /= 1000.0;
        unit++;
    }
    if (bytes < 1000)
        (void)snprintf(out, size, "%u bytes", (unsigned)bytes);
    else if (unit >= 2 && value < 99.95)
        (void)snprintf(out, size, "%.1f %s", value, units[unit]);
    else
        (void)snprintf(out, size, "%.0f %s", value, units[unit]);
}

static const char *phase_words(const char *phase)
{
    static const char *const words[][2] = {
        {"waiting", "waiting for its turn"},
        {"resolving", "looking at the source"},
        {"queued", "waiting for another job's build of it"},
        {"proving", "comparing with what nodes have"},
        {"building", "building the image"},
        {"reading", "reading the source"},
        {"fetching", "fetching"},
        {"mounting", "mounting"},
    };

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcmp(phase, words[i][0]) == 0)
            return words[i][1];
    return "working";
}

/* Append to a line that is cut, never overrun. */
static void add(char *out, size_t size, const char *text)
{
    size_t used = strlen(out);

    (void)snprintf(out + used, size - used, "%s", text);
}

/* "210 of 480 MB": the unit once when both have the same. */
static void add_amount(char *out, size_t size, const struct text_progress *p)
{
    char done[32], total[32];
    const char *done_unit, *total_unit;

    text_bytes(done, sizeof(done), p->bytes_done);
    if (p->bytes_total == 0) {
        add(out, size, done);
        return;
    }
    text_bytes(total, sizeof(total), p->bytes_total);
    done_unit = strchr(done, ' ');
    total_unit = strchr(total, ' ');
    if (done_unit != NULL && total_unit != NULL && strcmp(done_unit, total_unit) == 0)
        done[done_unit - done] = '\0';
    add(out, size, done);
    add(out, size, " of ");
    add(out, size, total);
}

static void add_time_left(char *out, size_t size, const struct text_progress *p)
{
    char text[64];
    uint64_t left, seconds;

    if (p->bytes_per_s == 0 || p->bytes_done >= p->bytes_total)
        return;
    left = p->bytes_total - p->bytes_done;
    seconds = left / p->bytes_per_s + (left % p->bytes_per_s != 0);
    if (seconds < 120)
        (void)snprintf(text, sizeof(text), ", about %u s left", (unsigned)seconds);
    else if (seconds < 86400)
        (void)snprintf(text, sizeof(text), ", about %u min left",
                       (unsigned)((seconds + 59) / 60));
    else
        (void)snprintf(text, sizeof(text), ", more than a day left");
    add(out, size, text);
}

static unsigned percent_of(uint64_t part, uint64_t whole)
{
    return part >= whole ? 100 : (unsigned)((double)part * 100.0 / (double)whole);
}

/* ", 98 % from peers, 2 % from the source": together all that came. */
static void add_senders(char *out, size_t size, const struct text_progress *p)
{
    uint64_t come = p->bytes_peer + p->bytes_origin;
    unsigned peers = come > 0 ? percent_of(p->bytes_peer, come) : 0;
    char part[64];

    if (come > 0 && p->bytes_peer > 0) {
        (void)snprintf(part, sizeof(part), ", %u %% from peers", peers);
        add(out, size, part);
    }
    if (come > 0 && p->bytes_origin > 0) {
        (void)snprintf(part, sizeof(part), ", %u %% from the source", 100 - peers);
        add(out, size, part);
    }
    if (p->bytes_reused > 0 && p->bytes_total > 0) {
        (void)snprintf(part, sizeof(part), ", %u %% was here",
                       percent_of(p->bytes_reused, p->bytes_total));
        add(out, size, part);
    }
}

/* Its tasks begin last. */
static void add_slowest(char *out, size_t size, const struct text_progress *p)
{
    char part[160];

    if (p->nodes < 2 || p->slowest == NULL || *p->slowest == '\0')
        return;
    (void)snprintf(part, sizeof(part), "; slowest of %u nodes: %.64s, %u %%", p->nodes,
                   p->slowest, p->slowest_percent);
    add(out, size, part);
}

void text_progress_line(char *out, size_t size, const char *name,
                        const struct text_progress *p)
{
    char part[160];

    (void)snprintf(out, size, "vine-env: %.200s: %s", name, phase_words(p->phase));
    if (p->worker != NULL && *p->worker != '\0') {
        (void)snprintf(part, sizeof(part), " on %.64s", p->worker);
        add(out, size, part);
    }
    if (p->bytes_total > 0 || p->bytes_done > 0) {
        if (p->bytes_total > 0) {
            (void)snprintf(part, sizeof(part), " %u %%",
                           percent_of(p->bytes_done, p->bytes_total));
            add(out, size, part);
        }
        add(out, size, " (");
        add_amount(out, size, p);
        if (p->bytes_per_s > 0) {
            text_bytes(part, sizeof(part), p->bytes_per_s);
            add(out, size, ", ");
            add(out, size, part);
            add(out, size, "/s");
        }
        if (strcmp(p->phase, "fetching") == 0)
            add_senders(out, size, p);
        add(out, size, ")");
        add_time_left(out, size, p);
    }
    add_slowest(out, size, p);
    text_clean(out);
}

void text_clean(char *text)
{
    for (unsigned char *p = (unsigned char *)text; *p != '\0'; p++)
        if (*p < 0x20 || *p == 0x7f)
            *p = '?';
}

const char *text_mend(enum vine_code code)
{
    switch (code) {
    case VINE_EDOWN:
        return "; is vined running there? 'vine-env doctor' on that node tells more";
    case VINE_ENOENT:
        return "; check the path, on the compute nodes too";
    case VINE_EACCES:
        return "; the job's own user must be able to reach it";
    case VINE_ENOSPC:
        return "; free space there, raise cache_max, or 'vine-env evict'";
    case VINE_ETIMEDOUT:
        return "; stage it before the job with 'vine-env stage', or raise "
               "stage_timeout";
    case VINE_ECHANGED:
        return "; let nothing write to it while a job starts";
    default:
        return "";
    }
}
