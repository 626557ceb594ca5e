/* metrics.c - a small web server for one page.
 *
 * libmicrohttpd runs without threads: its epoll descriptor is one handle of our loop.
 */
#include "daemon/edge/metrics.h"

#include <dlfcn.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "vine/conf.h"
#include "vine/log.h"

#define LIBRARY "libmicrohttpd.so.12"
#define CONNECTIONS 16u
#define CONNECTION_SECONDS 10u
#define CONNECTION_BYTES 8192u

/* What we call of it. */
static struct {
    void *handle;
    __typeof__(MHD_start_daemon) *start;
    __typeof__(MHD_stop_daemon) *stop;
    __typeof__(MHD_get_daemon_info) *info;
    __typeof__(MHD_run) *run;
    __typeof__(MHD_get_timeout) *timeout;
    __typeof__(MHD_create_response_from_buffer) *response;
    __typeof__(MHD_add_response_header) *header;
    __typeof__(MHD_queue_response) *queue;
    __typeof__(MHD_destroy_response) *destroy;
} mhd;

struct metrics {
    struct MHD_Daemon *daemon;
    uv_poll_t poll;
    uv_timer_t timer;
    int handles;
    metrics_write_fn write;
    void *ctx;
};

static int load(struct vine_err *err)
{
    const struct {
        void *to;
        const char *name;
    } wanted[] = {
        {&mhd.start, "MHD_start_daemon"},
        {&mhd.stop, "MHD_stop_daemon"},
        {&mhd.info, "MHD_get_daemon_info"},
        {&mhd.run, "MHD_run"},
        {&mhd.timeout, "MHD_get_timeout"},
        {&mhd.response, "MHD_create_response_from_buffer"},
        {&mhd.header, "MHD_add_response_header"},
        {&mhd.queue, "MHD_queue_response"},
        {&mhd.destroy, "MHD_destroy_response"},
    };

    if (mhd.handle != NULL)
        return 0;
    mhd.handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (mhd.handle == NULL)
        return vine_err_set(err, VINE_EDOWN,
                            "metrics need " LIBRARY " (Debian: libmicrohttpd12): %s",
                            dlerror());
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        void *found = dlsym(mhd.handle, wanted[i].name);

        if (found == NULL)
            return vine_err_set(err, VINE_EDOWN, "%s lacks %s", LIBRARY,
                                wanted[i].name);
        memcpy(wanted[i].to, &found, sizeof(found));
    }
    return 0;
}

/* --- the page ------------------------------------------------------------------------
 */

void metrics_family(FILE *out, const char *name, const char *type, const char *help)
{
    (void)fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void quoted(FILE *out, const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '\n')
            (void)fputs("\\n", out);
        else {
            if (*text == '"' || *text == '\\')
                (void)fputc('\\', out);
            (void)fputc(*text, out);
        }
    }
}

void metrics_value(FILE *out, const char *name, const char *label, const char *is,
                   uint64_t value)
{
    (void)fputs(name, out);
    if (label != NULL) {
        (void)fprintf(out, "{%s=\"", label);
        quoted(out, is);
        (void)fputs("\"}", out);
    }
    (void)fprintf(out, " %llu\n", (unsigned long long)value);
}

void metrics_one(FILE *out, const char *name, const char *type, const char *help,
                 uint64_t value)
{
    metrics_family(out, name, type, help);
    metrics_value(out, name, NULL, NULL, value);
}

static uint64_t resident_bytes(void)
{
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");

    if (file == NULL)
        return 0;
    if (fscanf(file, "%*u %llu", &pages) != 1)
        pages = 0;
    (void)fclose(file);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

void metrics_process(FILE *out)
{
    struct rusage used;

    (void)getrusage(RUSAGE_SELF, &used);
    metrics_family(out, "process_cpu_seconds_total", "counter",
                   "User and system time of this daemon.");
    (void)fprintf(
        out, "process_cpu_seconds_total %lld.%06ld\n",
        (long long)(used.ru_utime.tv_sec + used.ru_stime.tv_sec +
                    (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000000),
        (long)((used.ru_utime.tv_usec + used.ru_stime.tv_usec) % 1000000));
    metrics_one(out, "process_resident_memory_bytes", "gauge",
                "Resident memory of this daemon.", resident_bytes());
}

/* --- the server ----------------------------------------------------------------------
 */

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status,
                              const char *type, char *text, size_t size,
                              enum MHD_ResponseMemoryMode mode)
{
    struct MHD_Response *response = mhd.response(size, text, mode);
    enum MHD_Result result;

    if (response == NULL) {
        if (mode == MHD_RESPMEM_MUST_FREE)
            free(text);
        return MHD_NO;
    }
    (void)mhd.header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    result = mhd.queue(connection, status, response);
    mhd.destroy(response);
    return result;
}

static enum MHD_Result page(struct metrics *m, struct MHD_Connection *connection)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    if (out == NULL)
        return MHD_NO;
    m->write(m->ctx, out);
    if (fclose(out) != 0) {
        free(text);
        return MHD_NO;
    }
    return answer(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8",
                  text, size, MHD_RESPMEM_MUST_FREE);
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *connection,
                                  const char *url, const char *method,
                                  const char *version, const char *data, size_t *size,
                                  void **request)
{
    static char not_found[] = "Not found. The figures are at /metrics.\n";
    static char not_allowed[] = "Only GET and HEAD are answered.\n";

    (void)version, (void)data, (void)size, (void)request;
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 &&
        strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return answer(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain",
                      not_allowed, sizeof(not_allowed) - 1, MHD_RESPMEM_PERSISTENT);
    if (strcmp(url, "/metrics") != 0)
        return answer(connection, MHD_HTTP_NOT_FOUND, "text/plain", not_found,
                      sizeof(not_found) - 1, MHD_RESPMEM_PERSISTENT);
    return page(ctx, connection);
}

static void on_timer(uv_timer_t *timer);

static void serve(struct metrics *m)
{
    MHD_UNSIGNED_LONG_LONG wait_ms;

    (void)mhd.run(m->daemon);
    if (mhd.timeout(m->daemon, &wait_ms) == MHD_YES)
        (void)uv_timer_start(&m->timer, on_timer, wait_ms > 0 ? wait_ms : 1, 0);
    else
        (void)uv_timer_stop(&m->timer);
}

static void on_timer(uv_timer_t *timer)
{
    serve(timer->data);
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    (void)status, (void)events;
    serve(poll->data);
}

/* Told by the library: what a client did wrong. Nobody here can mend that. */
static void __attribute__((format(printf, 2, 0)))
on_complaint(void *ctx, const char *format, va_list ap)
{
    char text[256];

    (void)ctx;
    (void)vsnprintf(text, sizeof(text), format, ap);
    text[strcspn(text, "\n")] = '\0';
    vine_log(VINE_LOG_DEBUG, "event=metrics-complaint reason=%s", vine_q(text));
}

static int address_of(const char *where, uint16_t default_port,
                      struct sockaddr_storage *address, struct vine_err *err)
{
    char host[256];
    uint16_t port;

    if (vine_conf_host_port(where, default_port, host, &port, err) < 0)
        return -1;
    memset(address, 0, sizeof(*address));
    if (uv_ip4_addr(host, port, (struct sockaddr_in *)(void *)address) == 0 ||
        uv_ip6_addr(host, port, (struct sockaddr_in6 *)(void *)address) == 0)
        return 0;
    return vine_err_set(err, VINE_EINVAL,
                        "metrics = '%s': not an address; say off, or one of this "
                        "host's addresses, as in 0.0.0.0:%u",
                        where, (unsigned)default_port);
}

static int listen_on(struct metrics *m, const char *where,
                     const struct sockaddr_storage *address, struct vine_err *err)
{
    unsigned flags = MHD_USE_EPOLL | MHD_USE_ERROR_LOG;

    if (address->ss_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    m->daemon = mhd.start(
        flags, 0, NULL, NULL, on_request, m, MHD_OPTION_EXTERNAL_LOGGER, on_complaint,
        NULL, MHD_OPTION_SOCK_ADDR, address, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS,
        MHD_OPTION_CONNECTION_TIMEOUT, CONNECTION_SECONDS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES,
        MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_END);
    if (m->daemon == NULL)
        return vine_err_set(err, VINE_EDOWN,
                            "cannot listen on %s for metrics; is the port taken, the "
                            "address this host's?",
                            where);
    return 0;
}

int metrics_start(uv_loop_t *loop, const char *where, uint16_t default_port,
                  metrics_write_fn write, void *ctx, struct metrics **out,
                  struct vine_err *err)
{
    struct sockaddr_storage address;
    const union MHD_DaemonInfo *info;
    struct metrics *m;

    *out = NULL;
    if (strcmp(where, "off") == 0)
        return 0;
    if (address_of(where, default_port, &address, err) < 0 || load(err) < 0)
        return -1;
    m = calloc(1, sizeof(*m));
    if (m == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    m->write = write;
    m->ctx = ctx;
    if (listen_on(m, where, &address, err) < 0) {
        free(m);
        return -1;
    }
    info = mhd.info(m->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    (void)uv_timer_init(loop, &m->timer);
    m->timer.data = m;
    m->handles = 1;
    if (info == NULL || uv_poll_init(loop, &m->poll, info->epoll_fd) != 0) {
        metrics_stop(m);
        return vine_err_set(err, VINE_EDOWN, "no descriptor to wait on for metrics");
    }
    m->poll.data = m;
    m->handles = 2;
    (void)uv_poll_start(&m->poll, UV_READABLE, on_ready);
    *out = m;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct metrics *m = handle->data;

    if (--m->handles > 0)
        return;
    mhd.stop(m->daemon);
    free(m);
}

void metrics_stop(struct metrics *m)
{
    if (m == NULL)
        return;
    if (m->handles == 2)
        uv_close((uv_handle_t *)&m->poll, on_closed);
    uv_close((uv_handle_t *)&m->timer, on_closed);
}
