/* pool.c - free buffers in lists by the power of two they hold; last in, first out, so
 * that what is used again is still in the processor's cache. */
#include "daemon/image/pool.h"

#include <pthread.h>
#include <stdalign.h>
#include <stdlib.h>

#define LEAST_SHIFT 14u /* smaller ones share a list: the heap gives these cheaply */
#define CLASSES 40u

struct buffer {
    alignas(max_align_t) struct buffer *next; /* while nobody uses it */
    unsigned class;
};

struct pool {
    pthread_mutex_t lock;
    struct buffer *free[CLASSES];
    size_t kept, keep;
};

static size_t class_bytes(unsigned class)
{
    return (size_t)1 << (class + LEAST_SHIFT);
}

static unsigned class_of(size_t size)
{
    unsigned class = 0;

    while (class < CLASSES && class_bytes(class) < size)
        class ++;
    return class;
}

struct pool *pool_new(size_t keep_bytes)
{
    struct pool *pool = calloc(1, sizeof(*pool));

    if (pool == NULL)
        return NULL;
    pool->keep = keep_bytes;
    pthread_mutex_init(&pool->lock, NULL);
    return pool;
}

void *pool_get(struct pool *pool, size_t size)
{
    unsigned class = class_of(size);
    struct buffer *b;

    if (class == CLASSES)
        return NULL;
    pthread_mutex_lock(&pool->lock);
    b = pool->free[class];
    if (b != NULL) {
        pool->free[class] = b->next;
        pool->kept -= class_bytes(class);
    }
    pthread_mutex_unlock(&pool->lock);
    if (b == NULL)
        b = malloc(sizeof(*b) + class_bytes(class));
    if (b == NULL)
        return NULL;
    b->class = class;
    return b + 1;
}

void pool_put(struct pool *pool, void *buffer)
{
    struct buffer *b = buffer;
    size_t bytes;

    if (b == NULL)
        return;
    b--;
    bytes = class_bytes(b->class);
    pthread_mutex_lock(&pool->lock);
    if (pool->kept + bytes <= pool->keep) {
        b->next = pool->free[b->class];
        pool->free[b->class] = b;
        pool->kept += bytes;
        b = NULL;
    }
    pthread_mutex_unlock(&pool->lock);
    free(b);
}

void pool_free(struct pool *pool)
{
    if (pool == NULL)
        return;
    for (unsigned i = 0; i < CLASSES; i++)
        while (pool->free[i] != NULL) {
            struct buffer *b = pool->free[i];
            pool->free[i] = b->next;
            free(b);
        }
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}
