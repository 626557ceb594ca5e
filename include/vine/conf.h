/* conf.h - /etc/vine-env/vine-env.conf: one file for all programs, the same on all
 * nodes.
 *
 * INI: [section] lines, `key = value`, comments from '#' or ';' at a line's start. An
 * unknown section or key, a value out of its range or a key given twice is an error
 * that names file, line, key and the allowed form. No stdio streams: the plugin uses
 * it. */
#ifndef VINE_CONF_H
#define VINE_CONF_H

#include <stdbool.h>
#include <stdint.h>

#include "vine/err.h"

#define VINE_CONF_PATH VINE_SYSCONFDIR "/vine-env/vine-env.conf"
#define VINE_CONF_TEXT 512
#define VINE_MANAGER_PORT 7110
#define VINE_NODE_PORT 7111
#define VINE_NODE_METRICS_PORT 7112
#define VINE_MANAGER_METRICS_PORT 7113

/* Every setting, with its default. man vine-env.conf describes each. */
struct vine_conf {
    /* [cluster] */
    char managers[VINE_CONF_TEXT];  /* "host[:port],..." in order of preference; "" */
    char image_key[VINE_CONF_TEXT]; /* key file for signed packed images */
    /* [manager] */
    char manager_listen[VINE_CONF_TEXT];  /* "addr:port"; default "0.0.0.0:7110" */
    char manager_metrics[VINE_CONF_TEXT]; /* "off" or "addr:port"; off */
    char transfer_log[VINE_CONF_TEXT];    /* directory; "": no log; "" */
    uint64_t window;                      /* pieces outstanding at a receiver; 6 */
    uint64_t uploads;                     /* pieces reserved at a sender; 6 */
    uint64_t tree_nodes;                  /* so many receivers get trees; 128 */
    /* [node] */
    char node_listen[VINE_CONF_TEXT];  /* "addr:port"; default "0.0.0.0:7111" */
    char node_metrics[VINE_CONF_TEXT]; /* "off" or "addr:port"; off */
    char node_name[VINE_CONF_TEXT];    /* default: host name up to the first dot */
    char switch_name[VINE_CONF_TEXT];  /* leaf switch; "auto": as topology says */
    char topology[VINE_CONF_TEXT];     /* default: topology.conf beside slurm.conf */
    char cache_dir[VINE_CONF_TEXT];    /* default /var/cache/vine-env */
    char cache_max[VINE_CONF_TEXT];    /* "3G" or "80%" of the file system; 80% */
    char run_dir[VINE_CONF_TEXT];      /* sockets and mounts; default /run/vine */
    char helper_user[VINE_CONF_TEXT];  /* writes images; default nobody */
    bool trust_user_images;            /* kernel mounts of unsigned user images; no */
    uint64_t stall_ms;         /* a transfer without progress is given up; 5000 */
    uint64_t manager_wait_ms;  /* before "no manager answers"; 3000 */
    uint64_t source_threads;   /* metadata and read threads at an origin; 16 */
    uint64_t remote_timeout_s; /* a server without a byte is given up; 30 */
    char remote_ca_file[VINE_CONF_TEXT]; /* authorities of https; "": the system's */
    char source_caching[VINE_CONF_TEXT]; /* auto, coherent or strict; auto */
    uint64_t build_threads;         /* compressors of an image build; 0 = all cores */
    bool build_ahead;               /* parts leave while an image is built; yes */
    uint64_t nice;                  /* of the daemon and its children; 0 */
    uint64_t lazy_timeout_s;        /* a read without any arrival gets EIO; 30 */
    char log_level[VINE_CONF_TEXT]; /* error warning info debug; info */
    /* [plugin] */
    bool start_lazy;            /* start = full|lazy; full */
    bool fallback_origin;       /* fallback = origin|fail; origin */
    uint64_t stage_timeout_s;   /* the wait of a step; 600 */
    uint64_t progress_s;        /* between progress lines; 3 */
    uint64_t prolog_timeout_ms; /* the prolog's whole budget; 1000 */
};

void vine_conf_default(struct vine_conf *conf);

/* Read `path` over the defaults. A file that does not exist: the defaults, return 0.
 * On error *conf holds the defaults. */
int vine_conf_load(const char *path, struct vine_conf *conf, struct vine_err *err);

/* "host:port", "[v6]:port", "host" (then default_port). Caller's buffers. */
int vine_conf_host_port(const char *text, uint16_t default_port, char host[256],
                        uint16_t *port, struct vine_err *err);

/* "10G", "512M", "4096" (K M G T are powers of 1024) or "80%" of `total` bytes. */
int vine_conf_size(const char *text, uint64_t total, uint64_t *bytes,
                   struct vine_err *err);

#endif
