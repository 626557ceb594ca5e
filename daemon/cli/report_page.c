/* report_page.c - the words around the figures. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "daemon/cli/cli.h"
#include "daemon/cli/report.h"

#define SOURCES_SHOWN 32u

static const char style[] =
    "body{font:15px/1.5 system-ui,'DejaVu Sans',sans-serif;color:#1d2733;background:"
    "#f4f6f8;margin:0}"
    "main{max-width:1200px;margin:0 auto;padding:28px 24px 60px}"
    ".last{margin-top:12px}h1{font-size:26px;margin:0}h2{font-size:18px;margin:0 0 2px}"
    "p{margin:2px 0 10px;color:#52606d}"
    "section{background:#fff;border:1px solid #dde3e9;border-radius:8px;padding:18px "
    "20px;margin-top:18px}"
    ".cards{display:grid;grid-template-columns:repeat(4,1fr);gap:14px;margin-top:18px}"
    ".card{background:#fff;border:1px solid #dde3e9;border-radius:8px;padding:12px "
    "16px}"
    ".card b{display:block;font-size:22px}.card span{color:#52606d;font-size:13px}"
    "svg{display:block;width:100%;height:auto;font:12px system-ui,'DejaVu Sans',"
    "sans-serif}"
    "text{fill:#1d2733}text.tick{fill:#6b7885}text.bad{fill:#b00020}"
    ".middle{text-anchor:middle}.end{text-anchor:end}.strong{font-weight:600}"
    ".grid{stroke:#e3e8ed;stroke-width:1;fill:none}.axis{stroke:#9aa5b1;fill:none}"
    ".wait{stroke:#b8c2cc;stroke-width:2;stroke-dasharray:2 3;fill:none}"
    ".link{stroke:#b8c2cc;fill:none}.dot{fill:#52606d}"
    ".mark{stroke:#1d2733;stroke-width:2;fill:none}"
    ".shared{fill:#e07b39;background:#e07b39}.peers{fill:#2f74b5;background:#2f74b5}"
    ".reused{fill:#4b9b6e;background:#4b9b6e}.here{fill:#a9b4bf;background:#a9b4bf}"
    ".area{opacity:.9}.key{display:inline-block;margin-right:18px;color:#52606d;"
    "font-size:13px}"
    ".key i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:"
    "6px}"
    "table{border-collapse:collapse;width:100%;font-size:14px}"
    "th{text-align:left;color:#6b7885;font-weight:500}"
    "td,th{padding:4px 14px 4px 0;border-bottom:1px solid #eef1f4}"
    "td.path{word-break:break-all;unicode-bidi:isolate}td.n,th.n{text-align:right}"
    ".bad{color:#b00020}code{background:#eef1f4;padding:1px 5px;border-radius:4px}"
    "pre{background:#eef1f4;padding:10px 14px;border-radius:6px;overflow:auto}";

struct words words_bytes(double bytes)
{
    static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB", "PB"};
    struct words w;
    int unit = 0;

    for (; bytes >= 999.5 && unit < 5; unit++)
        bytes /= 1000;
    (void)snprintf(w.text, sizeof(w.text),
                   unit == 0 || bytes >= 99.95 ? "%.0f %s" : "%.1f %s", bytes,
                   units[unit]);
    return w;
}

struct words words_seconds(double seconds)
{
    struct words w;

    if (seconds < 59.95)
        (void)snprintf(w.text, sizeof(w.text), seconds < 9.995 ? "%.2f s" : "%.1f s",
                       seconds);
    else if (seconds < 5999.5)
        (void)snprintf(w.text, sizeof(w.text), "%d min %d s", (int)(seconds + 0.5) / 60,
                       (int)(seconds + 0.5) % 60);
    else
        (void)snprintf(w.text, sizeof(w.text), "%.1f h", seconds / 3600);
    return w;
}

static void put_card(struct page *p, const char *figure, const char *words)
{
    page_put(p, "<div class='card'><b>%s</b><span>%s</span></div>", figure, words);
}

static void put_cards(struct page *p, const struct report *r)
{
    const struct report_node *last = &r->nodes[r->node_count - 1];
    double shared = r->by_kind[REPORT_SHARED], once = 0;
    char text[64], words[128];
    uint32_t failed = 0;

    for (uint32_t i = 0; i < r->source_count; i++)
        once += r->sources[i].size;
    page_put(p, "<div class='cards'>");
    (void)snprintf(text, sizeof(text), "%u", r->node_count);
    put_card(p, text, r->node_count == 1 ? "node" : "nodes");
    for (uint32_t i = 0; i < r->node_count; i++)
        failed += r->nodes[i].failed > 0;
    if (failed == 0)
        (void)snprintf(words, sizeof(words), "until the last node had it (%s each)",
                       words_bytes(once).text);
    else
        (void)snprintf(words, sizeof(words),
                       "until the last node had it or gave up: %u gave up", failed);
    put_card(p, words_seconds(r->seconds).text, words);
    (void)snprintf(words, sizeof(words),
                   "from the shared file system: %.2f times the size",
                   once > 0 ? shared / once : 0);
    put_card(p, words_bytes(shared).text, words);
    (void)snprintf(text, sizeof(text), "%.1f %%",
                   r->bytes > 0 ? 100 * (r->bytes - shared) / r->bytes : 0);
    (void)snprintf(words, sizeof(words), "of %s came from other nodes or was there",
                   words_bytes(r->bytes).text);
    put_card(p, text, words);
    page_put(p, "</div><p class='last'>Last: <code>");
    page_text_cut(p, last->name, 64);
    page_put(p, "</code>, %s after the job first asked%s.</p>",
             words_seconds(last->ended).text, last->failed > 0 ? ": it gave up" : "");
}

static void put_sources(struct page *p, const struct report *r)
{
    page_put(p, "<section id='sources'><h2>What the job asked for</h2><table><tr>"
                "<th>path</th><th class='n'>size on the nodes</th><th class='n'>nodes"
                "</th><th>object</th></tr>");
    for (uint32_t i = 0; i < r->source_count && i < SOURCES_SHOWN; i++) {
        const struct report_source *s = &r->sources[i];
        char *path = cli_shown_path(s->path);
        page_put(p, "<tr><td class='path'>");
        page_text(p, path != NULL ? path : "?");
        page_put(p, "</td><td class='n'>%s</td><td class='n'>%u",
                 words_bytes(s->size).text, s->nodes);
        if (s->failed > 0) {
            page_put(p, ", <span class='bad'>%u gave up (", s->failed);
            page_text(p, s->code);
            page_put(p, ")</span>");
        }
        page_put(p, "</td><td><code>");
        page_text_cut(p, s->digest, 13);
        page_put(p, "</code></td></tr>");
        free(path);
    }
    page_put(p, "</table>");
    if (r->source_count > SOURCES_SHOWN)
        page_put(p, "<p>and %u more</p>", r->source_count - SOURCES_SHOWN);
    page_put(p, "</section>");
}

static void put_keys(struct page *p, const struct report *r)
{
    page_put(p, "<div>");
    for (int k = 0; k < REPORT_KINDS; k++)
        if (r->by_kind[k] > 0)
            page_put(p, "<span class='key'><i class='%s'></i>%s, %s</span>",
                     report_kind_class[k], report_kind_name[k],
                     words_bytes(r->by_kind[k]).text);
    page_put(p, "</div>");
}

static void put_no_tasks(struct page *p, const struct report *r)
{
    page_put(p, "<p id='no-tasks'>No times of tasks were given. With a file of them, "
                "lines of <code>before,SECONDS</code> and <code>after,SECONDS</code>, "
                "this page shows both distributions:</p><pre>vine-env report ");
    page_text(p, r->job);
    page_put(p, " --tasks FILE -o report.html</pre><p>For workflows of Parsl with "
                "monitoring switched on:</p><pre>python3 -m vine_env.report "
                "--parsl-monitoring runinfo/monitoring.db --job ");
    page_text(p, r->job);
    page_put(p, " -o report.html</pre>");
}

static void put_section(struct page *p, const char *title, const char *words)
{
    page_put(p, "<section><h2>%s</h2><p>%s</p>", title, words);
}

static void put_head(struct page *p, const struct report *r)
{
    time_t started = (time_t)(r->started_ms / 1000);
    struct tm tm;
    char when[64] = "";

    if (gmtime_r(&started, &tm) != NULL)
        (void)strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
    page_put(p, "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
                "<meta http-equiv='Content-Security-Policy' content=\"default-src "
                "'none'; style-src 'unsafe-inline'\">"
                "<meta name='viewport' content='width=device-width'><title>Job ");
    page_text(p, r->job);
    page_put(p, "</title><style>");
    page_raw(p, &(const struct page){.text = (char *)style, .len = sizeof(style) - 1});
    page_put(p, "</style></head><body><main><h1>How job ");
    page_text(p, r->job);
    page_put(p,
             " got its environments</h1><p>Began %s UTC. Made by vine-env " VINE_VERSION
             ".</p>",
             when);
}

void report_page(struct page *p, const struct report *r, const struct tasks *tasks)
{
    put_head(p, r);
    put_cards(p, r);
    put_sources(p, r);
    put_section(p, "When each node had it",
                "A bar goes from the first byte to the last; its colours are the "
                "shares of where the bytes came from, not their order. Dots: waiting.");
    put_keys(p, r);
    report_timeline(p, r);
    page_put(p, "</section>");
    put_section(p, "Who fed whom",
                "Each node hangs on the sender that gave it most; most have others "
                "beside it. Blue: what a node gave to others.");
    report_tree(p, r);
    page_put(p, "</section>");
    put_section(p, "Bytes by source against time", "All nodes together.");
    put_keys(p, r);
    report_bytes(p, r);
    page_put(p, "</section>");
    put_section(p, "How long tasks took",
                "Each bar counts the tasks of about that length; the line is the "
                "median.");
    if (tasks != NULL)
        report_tasks(p, tasks);
    else
        put_no_tasks(p, r);
    page_put(p, "</section></main></body></html>\n");
}
