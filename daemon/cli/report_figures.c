/* report_figures.c - inline SVG: no script, no network, words as tooltips. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "daemon/cli/report.h"

#define WIDTH 1200.0 /* of every figure: scaled to the page */
#define ROW 18.0
#define NAME_MAX_SHOWN 22
#define BAR_LEFT 170.0
#define BAR_RIGHT 1090.0
/* Of many nodes are shown: */
#define FASTEST 16u
#define DECILES 9u
#define SLOWEST 32u
#define INDENT_MAX 22.0

double report_step(double range, unsigned lines)
{
    double step = pow(10, floor(log10(range / lines)));

    if (range / step > lines)
        step *= range / step > 5 * lines ? 10 : range / step > 2 * lines ? 5 : 2;
    return step;
}

static double seconds_of(const struct report *r)
{
    return r->seconds > 0.001 ? r->seconds : 0.001;
}

static double at_x(const struct report *r, double seconds)
{
    return BAR_LEFT +
           fmin(fmax(seconds / seconds_of(r), 0), 1) * (BAR_RIGHT - BAR_LEFT);
}

static void draw_seconds(struct page *p, const struct report *r, double bottom)
{
    double step = report_step(seconds_of(r), 10);

    for (double s = 0; s <= seconds_of(r) * 1.0001; s += step) {
        page_put(p, "<path class='grid' d='M%.1f 4V%.1f'/>", at_x(r, s), bottom);
        page_put(p, "<text class='tick middle' x='%.1f' y='%.1f'>%g s</text>",
                 at_x(r, s), bottom + 15, s);
    }
}

/* ---- when each node had it --------------------------------------------------- */

static void draw_shares(struct page *p, const struct report *r,
                        const struct report_node *n, double y)
{
    double left = at_x(r, n->begun), width = at_x(r, n->ended) - left;

    if (width < 3) { /* it was here: a mark must be seen */
        left = fmin(left, BAR_RIGHT - 3);
        width = 3;
    }
    for (int k = 0; k < REPORT_KINDS; k++) {
        double share = n->bytes > 0 ? n->by_kind[k] / n->bytes * width : 0;
        if (share <= 0)
            continue;
        page_put(p, "<rect class='%s' x='%.1f' y='%.1f' width='%.1f' height='%.0f'/>",
                 report_kind_class[k], left, y + 3, share, ROW - 5);
        left += share;
    }
}

static void draw_node(struct page *p, const struct report *r,
                      const struct report_node *n, double y)
{
    page_put(p, "<g class='node'><title>");
    page_text(p, n->name);
    page_put(p, ": wanted at %.2f s, ", n->wanted);
    page_put(p, "from %.2f s to %.2f s", n->begun, n->ended);
    for (int k = 0; k < REPORT_KINDS; k++)
        if (n->by_kind[k] > 0)
            page_put(p, ", %s: %s", report_kind_name[k],
                     words_bytes(n->by_kind[k]).text);
    page_put(p, "</title><text class='end' x='%.0f' y='%.1f'>", BAR_LEFT - 8,
             y + ROW - 5);
    page_text_cut(p, n->name, NAME_MAX_SHOWN);
    page_put(p, "</text>");
    page_put(p, "<path class='wait' d='M%.1f %.1fH%.1f'/>", at_x(r, n->wanted),
             y + ROW / 2, at_x(r, n->begun));
    draw_shares(p, r, n, y);
    page_put(p, "<text class='%s' x='%.1f' y='%.1f'>%s%s</text></g>",
             n->failed > 0 ? "bad" : "tick", at_x(r, n->ended) + 6, y + ROW - 5,
             words_seconds(n->ended).text, n->failed > 0 ? ", given up" : "");
}

static double draw_heading(struct page *p, double y, const char *words)
{
    page_put(p, "<text class='strong' x='4' y='%.1f'>%s</text>", y + ROW - 4, words);
    return y + ROW + 2;
}

static double draw_nodes(struct page *p, const struct report *r, uint32_t first,
                         uint32_t count, double y)
{
    for (uint32_t i = first; i < first + count; i++, y += ROW)
        draw_node(p, r, &r->nodes[i], y);
    return y;
}

/* Beyond REPORT_ROWS_MAX nodes: who came first, who came last, and a few between. */
static double draw_some(struct page *p, const struct report *r, double y)
{
    const uint32_t fastest = FASTEST, slowest = SLOWEST, count = r->node_count;

    y = draw_heading(p, y, "The nodes that had it first");
    y = draw_nodes(p, r, 0, fastest, y);
    y = draw_heading(p, y + 6, "Every tenth part of the others, by time");
    for (uint32_t d = 1; d <= DECILES; d++) {
        uint32_t i =
            fastest + (uint32_t)((uint64_t)(count - fastest - slowest) * d / 10);
        draw_node(p, r, &r->nodes[i], y);
        y += ROW;
    }
    y = draw_heading(p, y + 6, "The nodes that had it last");
    return draw_nodes(p, r, count - slowest, slowest, y);
}

void report_timeline(struct page *p, const struct report *r)
{
    bool all = r->node_count <= REPORT_ROWS_MAX;
    double height =
        all ? r->node_count * ROW + 8 : (FASTEST + DECILES + SLOWEST + 4) * ROW + 8;

    page_put(p,
             "<svg id='timeline' viewBox='0 0 %.0f %.0f' role='img' "
             "aria-label='When each node had it'>",
             WIDTH, height + 22);
    draw_seconds(p, r, height);
    if (all)
        (void)draw_nodes(p, r, 0, r->node_count, 6);
    else
        (void)draw_some(p, r, 6);
    page_put(p, "</svg>");
}

/* ---- who fed whom ------------------------------------------------------------ */

struct forest {
    const struct report *r;
    struct page *p;
    double y, indent, widest; /* widest: bytes that one node gave */
    double trunk[REPORT_ROWS_MAX * 4];
    uint32_t left; /* nodes that still have room */
};

static void draw_tree_node(struct forest *f, const struct report_node *n,
                           unsigned depth)
{
    struct page *p = f->p;
    double x = 10 + depth * f->indent;
    double given = f->widest > 0 ? n->given / f->widest * 150 : 0;

    page_put(p, "<g class='node'><title>");
    page_text(p, n->name);
    page_put(p, ": %s in all, gave %s on</title>", words_bytes(n->bytes).text,
             words_bytes(n->given).text);
    page_put(p, "<circle class='dot' cx='%.1f' cy='%.1f' r='4'/>", x, f->y + ROW / 2);
    page_put(p, "<text%s x='%.1f' y='%.1f'>", depth == 0 ? " class='strong'" : "",
             x + 9, f->y + ROW - 5);
    page_text_cut(p, n->name, 40);
    page_put(p, "</text>");
    if (depth > 0 && n->from_parent > 0)
        page_put(
            p,
            "<text class='tick end' x='830' y='%.1f'>%s, %.0f %% of its bytes</text>",
            f->y + ROW - 5, words_bytes(n->from_parent).text,
            n->bytes > 0 ? 100 * n->from_parent / n->bytes : 0);
    if (n->given > 0) {
        page_put(p, "<rect class='peers' x='850' y='%.1f' width='%.1f' height='%.0f'/>",
                 f->y + 3, fmax(given, 1), ROW - 6);
        page_put(p, "<text class='tick' x='%.1f' y='%.1f'>gave %s</text>",
                 856 + fmax(given, 1), f->y + ROW - 5, words_bytes(n->given).text);
    }
    page_put(p, "</g>");
    f->y += ROW;
}

static void draw_elbow(struct forest *f, unsigned depth)
{
    double x = 10 + (depth - 1) * f->indent;

    page_put(f->p, "<path class='link' d='M%.1f %.1fV%.1fH%.1f'/>", x,
             f->trunk[depth - 1], f->y + ROW / 2, x + f->indent - 4);
    f->trunk[depth - 1] = f->y + ROW / 2;
}

/* Those with most below them, and of these who gave most: not drawn yet. */
static uint32_t next_child(const struct report *r, uint32_t parent, const bool *drawn)
{
    uint32_t best = REPORT_NONE;

    for (uint32_t c = r->nodes[parent].first_child; c != REPORT_NONE;
         c = r->nodes[c].next_sibling)
        if (!drawn[c] &&
            (best == REPORT_NONE || r->nodes[c].below > r->nodes[best].below ||
             (r->nodes[c].below == r->nodes[best].below &&
              r->nodes[c].given > r->nodes[best].given)))
            best = c;
    return best;
}

/* Room is shared out by what hangs below; one is always left for "so many more". */
static void draw_below(struct forest *f, uint32_t parent, unsigned depth, bool *drawn)
{
    const struct report *r = f->r;
    uint32_t child, more = r->nodes[parent].below;
    uint32_t room = f->left;

    f->trunk[depth - 1] = f->y - ROW / 2 + 4;
    while (room > 0 && depth < REPORT_ROWS_MAX &&
           (child = next_child(r, parent, drawn)) != REPORT_NONE) {
        uint32_t below = r->nodes[child].below;
        uint32_t own = (uint32_t)((uint64_t)room * (below + 1) / (more > 0 ? more : 1));
        drawn[child] = true;
        draw_elbow(f, depth);
        draw_tree_node(f, &r->nodes[child], depth);
        room--;
        if (below > 0) {
            f->left = own > 1 ? own - 1 : 0;
            f->left = f->left < room ? f->left : room;
            room -= f->left;
            draw_below(f, child, depth + 1, drawn);
            room += f->left;
        }
        more -= below + 1;
    }
    f->left = room;
    if (more == 0)
        return;
    draw_elbow(f, depth);
    page_put(f->p, "<text class='tick' x='%.1f' y='%.1f'>and %u more</text>",
             14 + depth * f->indent, f->y + ROW - 5, more);
    f->y += ROW;
}

static unsigned depth_of(const struct report *r)
{
    unsigned deepest = 1;

    for (uint32_t i = 0; i < r->all_count; i++) {
        unsigned depth = 0;
        for (uint32_t up = r->nodes[i].parent; up != REPORT_NONE;
             up = r->nodes[up].parent)
            depth++;
        deepest = depth > deepest ? depth : deepest;
    }
    return deepest;
}

void report_tree(struct page *p, const struct report *r)
{
    struct page inner = {0};
    struct forest f = {.r = r, .p = &inner, .y = 4, .left = REPORT_ROWS_MAX};
    bool *drawn = calloc(r->all_count, sizeof(*drawn));

    f.indent = fmin(INDENT_MAX, 560.0 / depth_of(r));
    for (uint32_t i = 0; i < r->all_count - 2; i++)
        f.widest = fmax(f.widest, r->nodes[i].given);
    for (uint32_t root = report_root_shared(r); drawn != NULL && root < r->all_count;
         root++) {
        if (r->nodes[root].below == 0)
            continue;
        draw_tree_node(&f, &r->nodes[root], 0);
        draw_below(&f, root, 1, drawn);
        f.y += 8;
    }
    page_put(p,
             "<svg id='tree' viewBox='0 0 %.0f %.0f' role='img' "
             "aria-label='Who fed whom'>",
             WIDTH, f.y + 4);
    p->failed |= drawn == NULL;
    page_raw(p, &inner);
    page_put(p, "</svg>");
    free(inner.text);
    free(drawn);
}

/* ---- bytes against time ------------------------------------------------------ */

#define SLICES 160
#define TOP 10.0
#define BOTTOM 300.0

/* A sender's bytes are taken to have come evenly between its first and its last. */
static void sum_bytes(const struct report *r, double sums[REPORT_KINDS][SLICES + 1])
{
    for (uint32_t i = 0; i < r->node_count; i++)
        for (uint32_t j = 0; j < r->nodes[i].row_count; j++) {
            const struct report_row *row = &r->nodes[i].rows[j];
            double length = fmax(row->last - row->first, 0.000001);
            for (int s = 0; s <= SLICES; s++) {
                double now = seconds_of(r) * s / SLICES;
                double part = fmin(fmax((now - row->first) / length, 0), 1);
                sums[row->kind][s] += s == SLICES ? row->bytes : part * row->bytes;
            }
        }
}

static double at_y(const struct report *r, double bytes)
{
    return BOTTOM - bytes / (r->bytes > 0 ? r->bytes : 1) * (BOTTOM - TOP);
}

static void draw_area(struct page *p, const struct report *r, int kind,
                      double sums[REPORT_KINDS][SLICES + 1], double base[SLICES + 1])
{
    page_put(p, "<path class='%s area' d='M", report_kind_class[kind]);
    for (int s = 0; s <= SLICES; s++)
        page_put(p, "%.1f %.1f ", at_x(r, seconds_of(r) * s / SLICES),
                 at_y(r, base[s] + sums[kind][s]));
    for (int s = SLICES; s >= 0; s--) {
        page_put(p, "%.1f %.1f ", at_x(r, seconds_of(r) * s / SLICES),
                 at_y(r, base[s]));
        base[s] += sums[kind][s];
    }
    page_put(p, "Z'><title>%s: %s</title></path>", report_kind_name[kind],
             words_bytes(r->by_kind[kind]).text);
}

void report_bytes(struct page *p, const struct report *r)
{
    double sums[REPORT_KINDS][SLICES + 1] = {{0}}, base[SLICES + 1] = {0};
    double step = report_step(r->bytes > 0 ? r->bytes : 1, 6);

    sum_bytes(r, sums);
    page_put(p,
             "<svg id='bytes' viewBox='0 0 %.0f %.0f' role='img' "
             "aria-label='Bytes by source against time'>",
             WIDTH, BOTTOM + 22);
    draw_seconds(p, r, BOTTOM);
    for (int k = 0; k < REPORT_KINDS; k++)
        if (r->by_kind[k] > 0)
            draw_area(p, r, k, sums, base);
    for (double b = step; b <= r->bytes; b += step) {
        page_put(p, "<path class='grid' d='M%.0f %.1fH%.0f'/>", BAR_LEFT, at_y(r, b),
                 BAR_RIGHT);
        page_put(p, "<text class='tick end' x='%.0f' y='%.1f'>%s</text>", BAR_LEFT - 8,
                 at_y(r, b) + 4, words_bytes(b).text);
    }
    page_put(p, "</svg>");
}
