/* limits.h - every bound of the product in one place, with its reason. */
#ifndef VINE_LIMITS_H
#define VINE_LIMITS_H

/* Options. 4,096 bytes each hold eight long paths; more is an attack or a mistake.
 * Sources are those of both options together. */
#define VINE_SPEC_MAX 4096
#define VINE_SOURCES_MAX 16

#define VINE_NAME_MAX 64   /* node names; Slurm's own limit for a node name is 64 */
#define VINE_PATH_MAX 4096 /* PATH_MAX, terminating zero included */
#define VINE_ADDR_MAX 64   /* text of an IPv4 or IPv6 address */

/* Chunks and manifests. Cut by content: mostly one block of an image, some 40 KiB;
 * where it has none that can be seen, VINE_CHUNK_AVG. */
#define VINE_CHUNK_MIN (16u << 10)
#define VINE_CHUNK_AVG (256u << 10)
#define VINE_CHUNK_MAX (1u << 20)
#define VINE_CHUNKS_MAX (1u << 22) /* some 160 GiB of image, 64 GiB at worst */
#define VINE_OBJECT_MAX (1ull << 40)

/* Pieces: runs of chunks, the planner's unit. Some hundreds an object. */
#define VINE_PIECES_TARGET 512
#define VINE_PIECES_MAX 4096

/* Wire. A control frame holds one JSON message; a manifest travels on data
 * connections in VINE_CHUNK_MAX parts. */
#define VINE_FRAME_MAX (4u << 20)
#define VINE_NODES_MAX 8192
/* An idle node speaks this much less often than one that works: every 30 s. That one
 * that lost its power is listed for some minutes longer harms nobody, since it is
 * asked when it is needed; 4,096 pings a second would. */
#define VINE_IDLE_FACTOR 30u
#define VINE_PARTS_MAX 64         /* announced of one build */
#define VINE_OBJECTS_MAX 1024     /* objects a node keeps */
#define VINE_KEYS_MAX 16          /* source keys remembered with an object */
#define VINE_INDEX_MAX (1u << 22) /* chunks found again: 160 GiB of objects, 64 MiB */
#define VINE_JOBS_MAX 1024        /* jobs with a lease on one node */
/* Names that tasks give to files: the manager keeps some 100 bytes for each. */
#define VINE_JOB_NAMES_MAX 16384u
#define VINE_UID_NAMES_MAX 32768u
#define VINE_NAMES_MAX 262144u
#define VINE_STORY_MAX 64    /* senders told apart in a transfer log's line */
#define VINE_CLIENTS_MAX 512 /* local connections at once; 64 steps and more fit */

#endif
