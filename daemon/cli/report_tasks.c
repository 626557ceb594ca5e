/* report_tasks.c - how long tasks took, without vine-env and with it.
 *
 * The times come from a file: Slurm knows of steps, not of the tasks that a workflow
 * runs in them. `python3 -m vine_env.report` makes one of Parsl's monitoring database.
 */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/text_file.h"
#include "daemon/cli/report.h"

#define FILE_BYTES_MAX (64u << 20)
#define SECONDS_MAX 1e9 /* 31 years */
#define RANGE_MIN 1e-6  /* shorter ones are all the same */
#define WHERE_MAX 400
#define BINS 40
#define WIDTH 1080.0
#define PANEL 120.0
#define LEFT 60.0

static const char *const group_names[2] = {"before", "after"};
static const char *const group_class[2] = {"here", "peers"};

/* `where` is the file's line or list, as the user is told. */
static int add(struct tasks *t, int group, double seconds, const char *where,
               struct vine_err *err)
{
    size_t count = t->count[group];
    double *list = t->seconds[group];

    if (!isfinite(seconds) || seconds < 0 || seconds > SECONDS_MAX)
        return vine_err_set(err, VINE_EINVAL, "%s: a task cannot take %g seconds",
                            where, seconds);
    if (count == 0 || (count >= 64 && (count & (count - 1)) == 0)) {
        list = realloc(list, (count < 64 ? 64 : 2 * count) * sizeof(*list));
        if (list == NULL)
            return vine_err_set(err, VINE_ENOMEM, "out of memory");
        t->seconds[group] = list;
    }
    list[t->count[group]++] = seconds;
    return 0;
}

static int group_of(const char *word, size_t len)
{
    for (int g = 0; g < 2; g++)
        if (strlen(group_names[g]) == len && strncmp(group_names[g], word, len) == 0)
            return g;
    return -1;
}

static int add_line(struct tasks *t, const char *where, char *line,
                    struct vine_err *err)
{
    char *comma = strchr(line, ','), *end;
    int group = comma == NULL ? -1 : group_of(line, (size_t)(comma - line));
    double seconds;

    if (group >= 0) {
        seconds = strtod(comma + 1, &end);
        end += strspn(end, " \t\r");
        if (end != comma + 1 && *end == '\0')
            return add(t, group, seconds, where, err);
    }
    return vine_err_set(err, VINE_EINVAL,
                        "%s: the form is before,SECONDS or after,SECONDS", where);
}

static int read_lines(struct tasks *t, const char *path, char *text,
                      struct vine_err *err)
{
    char where[WHERE_MAX], *line;
    unsigned number = 0;

    while ((line = strsep(&text, "\n")) != NULL) {
        number++;
        if (*line == '\0' || *line == '\r' || *line == '#')
            continue;
        (void)snprintf(where, sizeof(where), "'%.300s', line %u", path, number);
        if (add_line(t, where, line, err) < 0)
            return -1;
    }
    return 0;
}

static int read_group(struct tasks *t, const char *path, const char *name,
                      const json_t *list, struct vine_err *err)
{
    int group = group_of(name, strlen(name));
    char where[WHERE_MAX];
    const json_t *value;
    size_t i;

    if (group < 0)
        return vine_err_set(err, VINE_EINVAL,
                            "'%s': '%.64s' is neither 'before' nor 'after'", path,
                            name);
    if (!json_is_array(list))
        return vine_err_set(err, VINE_EINVAL, "'%s': '%s' is a list of seconds", path,
                            name);
    (void)snprintf(where, sizeof(where), "'%.300s': '%s'", path, name);
    json_array_foreach(list, i, value)
    {
        if (!json_is_number(value))
            return vine_err_set(err, VINE_EINVAL,
                                "'%s': '%s' is a list of seconds, number %zu is none",
                                path, name, i + 1);
        if (add(t, group, json_number_value(value), where, err) < 0)
            return -1;
    }
    return 0;
}

static int read_json(struct tasks *t, const char *path, const char *text,
                     struct vine_err *err)
{
    json_error_t why;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &why), *list;
    const char *name;
    int result = 0;

    if (root == NULL)
        return vine_err_set(err, VINE_EINVAL, "'%s', line %d: %s", path, why.line,
                            why.text);
    json_object_foreach(root, name, list)
    {
        result = read_group(t, path, name, list, err);
        if (result < 0)
            break;
    }
    json_decref(root);
    return result;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

int tasks_read(const char *path, struct tasks *tasks, struct vine_err *err)
{
    char *text = NULL;
    int result;

    *tasks = (struct tasks){0};
    if (text_file_read(path, FILE_BYTES_MAX, &text, err) < 0)
        return -1;
    if (text == NULL)
        return vine_err_set(err, VINE_ENOENT, "cannot open '%s': no such file", path);
    result = text[strspn(text, " \t\r\n")] == '{' ? read_json(tasks, path, text, err)
                                                  : read_lines(tasks, path, text, err);
    free(text);
    if (result == 0 && tasks->count[0] + tasks->count[1] == 0)
        result = vine_err_set(err, VINE_EINVAL, "'%s' has no tasks", path);
    if (result < 0)
        tasks_clear(tasks);
    for (int g = 0; g < 2; g++)
        if (tasks->count[g] > 1)
            qsort(tasks->seconds[g], tasks->count[g], sizeof(double), by_value);
    return result;
}

void tasks_clear(struct tasks *tasks)
{
    free(tasks->seconds[0]);
    free(tasks->seconds[1]);
    *tasks = (struct tasks){0};
}

/* ---- the figure -------------------------------------------------------------- */

static double quantile(const struct tasks *t, int group, double part)
{
    size_t count = t->count[group];

    return count == 0 ? 0 : t->seconds[group][(size_t)(part * (double)(count - 1))];
}

/* All of nearly all: one that hung for hours would leave the others no room. */
static double range_of(const struct tasks *t)
{
    double range = 0;

    for (int g = 0; g < 2; g++)
        range = fmax(range, fmin(quantile(t, g, 1), 4 * quantile(t, g, 0.95)));
    return range > RANGE_MIN ? range : 1;
}

static void draw_bars(struct page *p, const struct tasks *t, int group, double range,
                      double bottom)
{
    size_t bins[BINS] = {0}, most = 1;

    for (size_t i = 0; i < t->count[group]; i++) {
        double bin = t->seconds[group][i] / range * BINS;
        bins[bin < BINS ? (size_t)bin : BINS - 1]++;
    }
    for (int b = 0; b < BINS; b++)
        most = bins[b] > most ? bins[b] : most;
    for (int b = 0; b < BINS; b++) {
        double height = (double)bins[b] / (double)most * (PANEL - 34);
        if (bins[b] == 0)
            continue;
        page_put(p,
                 "<rect class='%s' x='%.1f' y='%.1f' width='%.1f' height='%.1f'>"
                 "<title>%zu tasks, %s to ",
                 group_class[group], LEFT + b * WIDTH / BINS + 1, bottom - height,
                 WIDTH / BINS - 2, height, bins[b],
                 words_seconds(b * range / BINS).text);
        page_put(p, "%s%s</title></rect>", words_seconds((b + 1) * range / BINS).text,
                 b == BINS - 1 ? " or more" : "");
    }
}

static void draw_panel(struct page *p, const struct tasks *t, int group, double range,
                       double top)
{
    double bottom = top + PANEL;
    double middle = LEFT + fmin(quantile(t, group, 0.5) / range, 1) * WIDTH;

    page_put(p, "<text x='%.0f' y='%.0f'><tspan class='strong'>%s</tspan> ", LEFT,
             top + 16, group == 0 ? "without vine-env" : "with vine-env");
    if (t->count[group] == 0) {
        page_put(p, "no tasks in the file</text>");
    } else {
        page_put(p, "%zu tasks, half of them within %s, ", t->count[group],
                 words_seconds(quantile(t, group, 0.5)).text);
        page_put(p, "95 %% within %s, the longest %s</text>",
                 words_seconds(quantile(t, group, 0.95)).text,
                 words_seconds(quantile(t, group, 1)).text);
        draw_bars(p, t, group, range, bottom);
        page_put(p, "<path class='mark' d='M%.1f %.1fV%.1f'/>", middle, top + 24,
                 bottom);
    }
    page_put(p, "<path class='axis' d='M%.0f %.1fH%.0f'/>", LEFT, bottom, LEFT + WIDTH);
}

void report_tasks(struct page *p, const struct tasks *t)
{
    double range = range_of(t), step = report_step(range, 10);

    page_put(p,
             "<svg id='tasks' viewBox='0 0 1200 %.0f' role='img' "
             "aria-label='How long tasks took'>",
             2 * PANEL + 60);
    for (int g = 0; g < 2; g++)
        draw_panel(p, t, g, range, g * (PANEL + 14));
    for (double at = 0; at <= range * 1.0001; at += step)
        page_put(p, "<text class='tick middle' x='%.1f' y='%.0f'>%g s</text>",
                 LEFT + at / range * WIDTH, 2 * PANEL + 34, at);
    page_put(p, "</svg>");
}
