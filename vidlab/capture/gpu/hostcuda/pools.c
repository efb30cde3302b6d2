/* The stream-ordered allocator: cudaMallocAsync and its memory pools.
 *
 * A pool is arithmetic over blocks: what is freed is unmapped at once, and stays reserved in the
 * books until the next synchronisation, as a device's would (or beyond it, below the release
 * threshold). Reserved bytes are exactly those that were in use: no granularity is modelled. */
#include "hostcuda.h"

#include <stdlib.h>

enum { /* cudaMemPoolAttr */
    REUSE_FIRST = 1,
    REUSE_LAST = 3,
    RELEASE_THRESHOLD = 4,
    RESERVED_CURRENT = 5,
    RESERVED_HIGH = 6,
    USED_CURRENT = 7,
    USED_HIGH = 8,
};

static struct pool *created_pools;

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

void start_pool(struct pool *pool, int device, bool is_default)
{
    *pool = (struct pool){.device = device, .is_default = is_default, .reuse = {1, 1, 1}};
}

bool is_pool(const struct pool *pool)
{
    for (int i = 0; i < device_count; i++)
        if (pool == &devices[i].default_pool)
            return true;
    for (const struct pool *other = created_pools; other; other = other->next)
        if (other == pool)
            return !pool->destroyed;
    return false;
}

static void trim(struct pool *pool, uint64_t keep)
{
    uint64_t kept = larger(pool->used, keep);
    if (pool->reserved <= kept)
        return;
    devices[pool->device].used -= pool->reserved - kept;
    pool->reserved = kept;
}

/* Gives back what the pools of a device keep unused: all of it, or what a synchronisation may. */
void trim_pools(int device, bool below_threshold)
{
    struct pool *pool = &devices[device].default_pool;
    trim(pool, below_threshold ? 0 : pool->threshold);
    for (pool = created_pools; pool; pool = pool->next)
        if (pool->device == device)
            trim(pool, below_threshold ? 0 : pool->threshold);
}

static void forget_pool(struct pool *pool)
{
    struct pool **link = &created_pools;
    while (*link != pool)
        link = &(*link)->next;
    *link = pool->next;
    trim(pool, 0);
    free(pool);
}

void return_to_pool(struct block *block)
{
    struct pool *pool = block->pool;
    pool->used -= block->size;
    remove_block(block);
    if (pool->destroyed && pool->used == 0)
        forget_pool(pool);
}

static cudaError_t take_from_pool(void **address, size_t size, struct pool *pool)
{
    uint64_t growth = 0;
    if (size > pool->reserved - pool->used) {
        growth = size - (pool->reserved - pool->used);
        /* charge() may trim this very pool: then all that is asked for is growth. */
        if (growth > devices[pool->device].total - devices[pool->device].used) {
            trim_pools(pool->device, true);
            growth = size;
        }
        if (charge(pool->device, growth) != cudaSuccess)
            return cudaErrorMemoryAllocation;
    }
    struct block *block = add_block(ASYNC, pool->device, NULL, size);
    if (!block) {
        devices[pool->device].used -= growth;
        return cudaErrorMemoryAllocation;
    }
    block->pool = pool;
    pool->reserved += growth;
    pool->used += size;
    pool->reserved_high = larger(pool->reserved_high, pool->reserved);
    pool->used_high = larger(pool->used_high, pool->used);
    *address = (void *)block->address;
    return cudaSuccess;
}

EXPORT cudaError_t cudaMallocFromPoolAsync(void **address, size_t size, cudaMemPool_t pool,
                                           cudaStream_t stream)
{
    cudaError_t error = cudaErrorInvalidValue;
    *address = NULL;
    lock();
    if (!is_stream(stream))
        error = cudaErrorInvalidResourceHandle;
    else if (is_pool(pool))
        error = size ? take_from_pool(address, size, pool) : cudaSuccess;
    unlock();
    return fail(error);
}

EXPORT cudaError_t cudaMallocAsync(void **address, size_t size, cudaStream_t stream)
{
    cudaError_t error = cudaErrorInvalidResourceHandle;
    *address = NULL;
    lock();
    if (is_stream(stream)) {
        struct pool *pool = devices[stream_device(stream)].current_pool;
        error = size ? take_from_pool(address, size, pool) : cudaSuccess;
    }
    unlock();
    return fail(error);
}

EXPORT cudaError_t cudaFreeAsync(void *address, cudaStream_t stream)
{
    cudaError_t error = cudaErrorInvalidValue;
    lock();
    struct block *block = find_block(address, 1);
    if (!is_stream(stream)) {
        error = cudaErrorInvalidResourceHandle;
    } else if (block && block->kind == ASYNC && block->address == (uintptr_t)address) {
        return_to_pool(block);
        error = cudaSuccess;
    }
    unlock();
    return fail(address ? error : cudaSuccess);
}

EXPORT cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device)
{
    if (!is_device(device))
        return fail(cudaErrorInvalidDevice);
    *pool = &devices[device].default_pool;
    return cudaSuccess;
}

EXPORT cudaError_t cudaDeviceGetMemPool(cudaMemPool_t *pool, int device)
{
    if (!is_device(device))
        return fail(cudaErrorInvalidDevice);
    lock();
    *pool = devices[device].current_pool;
    unlock();
    return cudaSuccess;
}

EXPORT cudaError_t cudaDeviceSetMemPool(int device, cudaMemPool_t pool)
{
    if (!is_device(device))
        return fail(cudaErrorInvalidDevice);
    lock();
    bool valid = is_pool(pool) && pool->device == device;
    if (valid)
        devices[device].current_pool = pool;
    unlock();
    return fail(valid ? cudaSuccess : cudaErrorInvalidValue);
}

EXPORT cudaError_t cudaMemPoolCreate(cudaMemPool_t *pool, const struct cudaMemPoolProps *props)
{
    enum { PINNED_TYPE = 1, ON_DEVICE = 1 };
    if (props->allocType != PINNED_TYPE || props->location.type != ON_DEVICE)
        return fail(cudaErrorInvalidValue);
    if (props->handleTypes != 0)
        return fail(cudaErrorNotSupported); /* pools shared with other processes */
    if (!is_device(props->location.id))
        return fail(cudaErrorInvalidDevice);
    struct pool *created = malloc(sizeof *created);
    if (!created)
        return fail(cudaErrorMemoryAllocation);
    start_pool(created, props->location.id, false);
    lock();
    created->next = created_pools;
    created_pools = created;
    unlock();
    *pool = created;
    return cudaSuccess;
}

EXPORT cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool)
{
    lock();
    bool valid = is_pool(pool) && !pool->is_default;
    if (valid) {
        struct device *device = &devices[pool->device];
        if (device->current_pool == pool)
            device->current_pool = &device->default_pool;
        pool->destroyed = true;
        if (pool->used == 0)
            forget_pool(pool);
    }
    unlock();
    return fail(valid ? cudaSuccess : cudaErrorInvalidValue);
}

EXPORT cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t keep)
{
    lock();
    bool valid = is_pool(pool);
    if (valid)
        trim(pool, keep);
    unlock();
    return fail(valid ? cudaSuccess : cudaErrorInvalidValue);
}

/* The 64-bit value of an attribute; NULL for one that there isn't. */
static uint64_t *attribute_of(struct pool *pool, int attribute)
{
    switch (attribute) {
    case RELEASE_THRESHOLD: return &pool->threshold;
    case RESERVED_CURRENT: return &pool->reserved;
    case RESERVED_HIGH: return &pool->reserved_high;
    case USED_CURRENT: return &pool->used;
    case USED_HIGH: return &pool->used_high;
    default: return NULL;
    }
}

EXPORT cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, int attribute, void *value)
{
    cudaError_t error = cudaErrorInvalidValue;
    lock();
    if (is_pool(pool)) {
        uint64_t *held = attribute_of(pool, attribute);
        if (held) {
            *(uint64_t *)value = *held;
            error = cudaSuccess;
        } else if (attribute >= REUSE_FIRST && attribute <= REUSE_LAST) {
            *(int *)value = pool->reuse[attribute - REUSE_FIRST];
            error = cudaSuccess;
        }
    }
    unlock();
    return fail(error);
}

static cudaError_t set_attribute(struct pool *pool, int attribute, const void *value)
{
    if (attribute >= REUSE_FIRST && attribute <= REUSE_LAST) {
        pool->reuse[attribute - REUSE_FIRST] = *(const int *)value != 0;
        return cudaSuccess;
    }
    uint64_t asked = *(const uint64_t *)value;
    if (attribute == RELEASE_THRESHOLD)
        pool->threshold = asked;
    else if (attribute == RESERVED_HIGH && asked == 0)
        pool->reserved_high = pool->reserved; /* a high-water mark can only be reset */
    else if (attribute == USED_HIGH && asked == 0)
        pool->used_high = pool->used;
    else
        return cudaErrorInvalidValue;
    return cudaSuccess;
}

EXPORT cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, int attribute, void *value)
{
    lock();
    cudaError_t error =
        is_pool(pool) ? set_attribute(pool, attribute, value) : cudaErrorInvalidValue;
    unlock();
    return fail(error);
}
