/* progress.c - the line is rewritten in place; a pipe or a file never sees it. */
#include "daemon/cli/progress.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/cli/cli.h"
#include "daemon/cli/table.h"
#include "vine/clock.h"

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    interrupted = 1;
}

bool progress_interrupted(void)
{
    return interrupted != 0;
}

void progress_begin(struct progress *p, const char *name, bool quiet)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};

    *p = (struct progress){.name = name,
                           .shown = !quiet && isatty(STDERR_FILENO) == 1,
                           .started_ms = vine_now_ms()};
    p->last_ms = p->started_ms;
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
}

static void update_rate(struct progress *p, const char *phase, uint64_t done)
{
    int64_t now = vine_now_ms();
    uint64_t current;

    if (strcmp(phase, p->phase) != 0 || done < p->last_bytes) {
        (void)snprintf(p->phase, sizeof(p->phase), "%s", phase);
        p->rate = 0;
    } else if (now > p->last_ms) {
        current = (done - p->last_bytes) * 1000 / (uint64_t)(now - p->last_ms);
        p->rate = p->rate == 0 ? current : (3 * p->rate + current) / 4;
    }
    p->last_ms = now;
    p->last_bytes = done;
}

#define BAR_CELLS 20u

static void draw_bar(double part)
{
    unsigned full = (unsigned)(part * BAR_CELLS);

    full = full < BAR_CELLS ? full : BAR_CELLS;
    fprintf(stderr, " [");
    for (unsigned i = 0; i < BAR_CELLS; i++)
        (void)fputc(i < full ? '#' : '.', stderr);
    (void)fputc(']', stderr);
}

void progress_show(struct progress *p, const char *phase, uint64_t done, uint64_t total)
{
    update_rate(p, phase, done);
    if (!p->shown)
        return;
    p->drawn = true;
    fprintf(stderr, "\r\033[K%s: %s", p->name, phase);
    if (total > 0)
        draw_bar((double)done / (double)total);
    if (total > 0)
        fprintf(stderr, " %3u %%  %s of %s",
                (unsigned)((double)done * 100 / (double)total), figure_bytes(done).text,
                figure_bytes(total).text);
    else if (done > 0)
        fprintf(stderr, "  %s", figure_bytes(done).text);
    if (p->rate > 0)
        fprintf(stderr, "  %s/s", figure_bytes(p->rate).text);
    if (p->rate > 0 && total > done)
        fprintf(stderr, "  %s left", figure_seconds((total - done) / p->rate + 1).text);
    (void)fflush(stderr);
}

void progress_end(struct progress *p)
{
    if (p->drawn)
        fprintf(stderr, "\r\033[K");
    p->drawn = false;
}

int progress_event(void *arg, const json_t *event)
{
    const char *phase = cli_text(event, "phase");

    progress_show(arg, *phase != '\0' ? phase : "building",
                  cli_number(event, "bytes_done"), cli_number(event, "bytes_total"));
    return progress_interrupted() ? -1 : 0;
}
