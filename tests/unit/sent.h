/* sent.h - what a core under test sent, kept so that a test can look at it. */
#ifndef VINE_TEST_SENT_H
#define VINE_TEST_SENT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "vine/msg.h"

#define SENT_MAX 4096
#define SENT_ASSIGNS 16
#define SENT_RANGES 16
#define SENT_ROWS 8

struct sent {
    uint32_t conn; /* of the manager's; 0 from a node */
    struct msg m;
    char path[64], text[480], peer[65];
    struct msg_assign assigns[SENT_ASSIGNS];
    char assign_peer[SENT_ASSIGNS][16];
    struct msg_range ranges[SENT_RANGES];
    struct msg_story rows[SENT_ROWS];
    char row_peer[SENT_ROWS][65];
};

struct sent_log {
    struct sent at[SENT_MAX];
    uint32_t count; /* all ever */
};

static inline void sent_add(struct sent_log *log, uint32_t conn, const struct msg *m)
{
    struct sent *s = &log->at[log->count++ % SENT_MAX];

    memset(s, 0, sizeof(*s));
    s->conn = conn;
    s->m = *m;
    if (m->path != NULL)
        (void)snprintf(s->path, sizeof(s->path), "%s", m->path);
    if (m->text != NULL)
        (void)snprintf(s->text, sizeof(s->text), "%s", m->text);
    if (m->peer != NULL)
        (void)snprintf(s->peer, sizeof(s->peer), "%s", m->peer);
    for (uint32_t i = 0; i < m->assign_count && i < SENT_ASSIGNS; i++) {
        s->assigns[i] = m->assigns[i];
        (void)snprintf(s->assign_peer[i], sizeof(s->assign_peer[i]), "%s",
                       m->assigns[i].peer);
        s->assigns[i].peer = s->assign_peer[i];
    }
    for (uint32_t i = 0; i < m->range_count && i < SENT_RANGES; i++)
        s->ranges[i] = m->ranges[i];
    for (uint32_t i = 0; i < m->row_count && i < SENT_ROWS; i++) {
        s->rows[i] = m->rows[i];
        (void)snprintf(s->row_peer[i], sizeof(s->row_peer[i]), "%s", m->rows[i].peer);
        s->rows[i].peer = s->row_peer[i];
    }
    s->m.rows = s->rows;
    s->m.assigns = s->assigns;
    s->m.ranges = s->ranges;
    s->m.path = s->path;
    s->m.text = s->text;
    s->m.peer = s->peer;
}

/* The last message of that type to that connection (0: any); NULL: none. */
static inline const struct sent *sent_last(const struct sent_log *log, uint32_t conn,
                                           enum msg_type type)
{
    uint32_t least = log->count > SENT_MAX ? log->count - SENT_MAX : 0;

    for (uint32_t i = log->count; i-- > least;) {
        const struct sent *s = &log->at[i % SENT_MAX];
        if (s->m.type == type && (conn == 0 || s->conn == conn))
            return s;
    }
    return NULL;
}

static inline uint32_t sent_count(const struct sent_log *log, uint32_t conn,
                                  enum msg_type type)
{
    uint32_t least = log->count > SENT_MAX ? log->count - SENT_MAX : 0, count = 0;

    for (uint32_t i = least; i < log->count; i++) {
        const struct sent *s = &log->at[i % SENT_MAX];
        count += s->m.type == type && (conn == 0 || s->conn == conn);
    }
    return count;
}

static inline void sent_clear(struct sent_log *log)
{
    log->count = 0;
}

static inline struct vine_digest digest_no(uint8_t number)
{
    struct vine_digest d = {{0}};

    d.b[0] = number;
    d.b[31] = (uint8_t)~number;
    return d;
}

#endif
