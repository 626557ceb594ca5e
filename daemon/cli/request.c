/* request.c - one question to the node daemon, and reading documents. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/cli/cli.h"
#include "vine/clock.h"

#define SLICE_MS 1000

/* timeout_ms is for silence: every event starts it anew. 0: no limit. */
static int next_event(struct vine_client *c, int timeout_ms, json_t **event,
                      struct vine_err *err)
{
    int64_t deadline = vine_now_ms() + timeout_ms;

    for (;;) {
        struct vine_err now = {0};
        int result = vine_client_next(c, SLICE_MS, event, &now);

        if (result == 0)
            return 0;
        if (now.code != VINE_ETIMEDOUT ||
            (timeout_ms > 0 && vine_now_ms() >= deadline)) {
            *err = now;
            return -1;
        }
    }
}

static int wait_final(struct vine_client *c, cli_progress progress, void *arg,
                      int timeout_ms, json_t **out, struct vine_err *err)
{
    json_t *event = NULL;

    while (next_event(c, timeout_ms, &event, err) == 0) {
        if (strcmp(cli_text(event, "event"), "progress") != 0) {
            if (vine_client_check(event, err) == 0) {
                *out = event;
                return 0;
            }
            json_decref(event);
            return -1;
        }
        if (progress != NULL && progress(arg, event) < 0)
            vine_err_set(err, VINE_ECANCELED, "interrupted");
        json_decref(event);
        if (err->code != VINE_OK)
            return -1;
    }
    return -1;
}

static void advise(struct vine_err *err)
{
    size_t used = strlen(err->text);

    (void)snprintf(err->text + used, sizeof(err->text) - used,
                   "; 'vine-env doctor' finds the reason");
}

int cli_ask(const struct cli *cli, json_t *request, cli_progress progress, void *arg,
            int timeout_ms, json_t **out, struct vine_err *err)
{
    struct vine_client *c = NULL;
    int result = -1;

    if (request == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (vine_client_open(cli->socket_path, CLI_CONNECT_MS, &c, err) < 0)
        advise(err);
    else if (vine_client_send(c, request, CLI_CONNECT_MS, err) == 0)
        result = wait_final(c, progress, arg, timeout_ms, out, err);
    vine_client_close(c);
    json_decref(request);
    return result;
}

const char *cli_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text != NULL ? text : "";
}

uint64_t cli_number(const json_t *object, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(object, key));

    return n > 0 ? (uint64_t)n : 0;
}

char *cli_shown_path(const char *escaped)
{
    char *text = strdup(escaped);

    if (text == NULL || vine_path_unescape(text) < 0)
        return text;
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++) {
        if (*p < 0x20 || *p == 0x7f) { /* would play with the terminal */
            free(text);
            return strdup(escaped);
        }
    }
    return text;
}
