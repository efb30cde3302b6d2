/* Memory: taking it, giving it back, copying and filling it. Every copy is complete on return. */
#define _GNU_SOURCE
#include "hostcuda.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HOST_TO_HOST, HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE, ANY_TO_ANY };
enum side { ON_HOST, ON_DEVICE, ANYWHERE };

static cudaError_t take(enum kind kind, void **address, size_t size)
{
    int device = current_device();
    uint64_t cost = kind == PINNED ? 0 : size; /* pinned memory is the host's own */
    *address = NULL;
    if (!is_device(device))
        return cudaErrorInvalidDevice;
    if (size == 0)
        return kind == MANAGED ? cudaErrorInvalidValue : cudaSuccess;
    cudaError_t error;
    lock();
    error = charge(device, cost);
    if (error == cudaSuccess) {
        struct block *block = add_block(kind, device, NULL, size);
        if (block)
            *address = (void *)block->address;
        else {
            devices[device].used -= cost;
            error = cudaErrorMemoryAllocation;
        }
    }
    unlock();
    return error;
}

EXPORT cudaError_t cudaMalloc(void **address, size_t size)
{
    return fail(take(DEVICE, address, size));
}

EXPORT cudaError_t cudaMallocManaged(void **address, size_t size, unsigned int flags)
{
    enum { ATTACH_GLOBAL = 1, ATTACH_HOST = 2 };
    *address = NULL;
    if (flags != ATTACH_GLOBAL && flags != ATTACH_HOST)
        return fail(cudaErrorInvalidValue);
    return fail(take(MANAGED, address, size));
}

EXPORT cudaError_t cudaHostAlloc(void **address, size_t size, unsigned int flags)
{
    enum { KNOWN_FLAGS = 7 }; /* portable, mapped, write-combined: all the same here */
    *address = NULL;
    if (flags & ~(unsigned int)KNOWN_FLAGS)
        return fail(cudaErrorInvalidValue);
    return fail(take(PINNED, address, size));
}

EXPORT cudaError_t cudaMallocHost(void **address, size_t size)
{
    return fail(take(PINNED, address, size));
}

EXPORT cudaError_t cudaFree(void *address)
{
    cudaError_t error = cudaErrorInvalidValue;
    if (!address)
        return cudaSuccess;
    lock();
    struct block *block = find_block(address, 1);
    if (block && block->address == (uintptr_t)address && block->kind <= MANAGED) {
        error = cudaSuccess;
        if (block->kind == ASYNC)
            return_to_pool(block);
        else {
            devices[block->device].used -= block->size;
            remove_block(block);
        }
    }
    unlock();
    return fail(error);
}

static cudaError_t remove_host_block(void *address, enum kind kind, cudaError_t otherwise)
{
    cudaError_t error = otherwise;
    lock();
    struct block *block = find_block(address, 1);
    if (block && block->address == (uintptr_t)address && block->kind == kind) {
        remove_block(block);
        error = cudaSuccess;
    }
    unlock();
    return fail(error);
}

EXPORT cudaError_t cudaFreeHost(void *address)
{
    return address ? remove_host_block(address, PINNED, cudaErrorInvalidValue) : cudaSuccess;
}

EXPORT cudaError_t cudaHostRegister(void *address, size_t size, unsigned int flags)
{
    (void)flags;
    cudaError_t error = cudaSuccess;
    if (!address || size == 0 || (uintptr_t)address + size < (uintptr_t)address)
        return fail(cudaErrorInvalidValue);
    lock();
    struct block *around = find_block(address, size);
    if (around)
        error = around->kind == REGISTERED || around->kind == PINNED
                    ? cudaErrorHostMemoryAlreadyRegistered
                    : cudaErrorInvalidValue;
    else if (!add_block(REGISTERED, current_device(), address, size))
        error = cudaErrorMemoryAllocation;
    unlock();
    return fail(error);
}

EXPORT cudaError_t cudaHostUnregister(void *address)
{
    return remove_host_block(address, REGISTERED, cudaErrorHostMemoryNotRegistered);
}

EXPORT cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    struct device *device = &devices[current_device()];
    lock();
    *free = device->total - device->used;
    *total = device->total;
    unlock();
    return cudaSuccess;
}

EXPORT cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *answer,
                                            const void *address)
{
    enum { UNREGISTERED, HOST, ON_A_DEVICE, BOTH, NO_DEVICE = -2 };
    static const int types[] = {[DEVICE] = ON_A_DEVICE, [ASYNC] = ON_A_DEVICE, [MANAGED] = BOTH,
                                [PINNED] = HOST, [REGISTERED] = HOST};
    *answer = (struct cudaPointerAttributes){
        .type = UNREGISTERED, .device = NO_DEVICE, .hostPointer = (void *)address};
    lock();
    const struct block *block = find_block(address, 1);
    if (block) {
        answer->type = types[block->kind];
        answer->device = block->device;
        answer->devicePointer = (void *)address;
        if (answer->type == ON_A_DEVICE)
            answer->hostPointer = NULL;
    }
    unlock();
    return cudaSuccess;
}

EXPORT cudaError_t cudaHostGetDevicePointer(void **on_device, void *on_host, unsigned int flags)
{
    lock();
    const struct block *block = find_block(on_host, 1);
    bool mapped = flags == 0 && block && (block->kind == PINNED || block->kind == REGISTERED);
    unlock();
    *on_device = mapped ? on_host : NULL;
    return fail(mapped ? cudaSuccess : cudaErrorInvalidValue);
}

/* Whether memory that is not in the books is there at all: a freed block's is not, and a copy of it
 * is to be an error rather than the end of the process. MS_ASYNC does nothing but look. */
static bool is_mapped(const void *address, size_t size)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = (uintptr_t)address & ~(page - 1);
    return msync((void *)start, (uintptr_t)address + size - start, MS_ASYNC) == 0;
}

/* Sees that a range may be read or written and keeps its block mapped meanwhile. A device would
 * fault on the rest: memory that was freed, that runs past its block, or is not the device's. */
static cudaError_t hold(const void *address, size_t size, enum side side, struct block **held)
{
    *held = NULL;
    if (size > UINTPTR_MAX - (uintptr_t)address)
        return cudaErrorInvalidValue;
    struct block *block = find_block(address, size);
    if (!block)
        return side != ON_DEVICE && is_mapped(address, size) ? cudaSuccess : cudaErrorInvalidValue;
    if (block->kind == REGISTERED && side != ON_DEVICE)
        return cudaSuccess; /* the program's own memory, registered in part perhaps */
    bool inside = (uintptr_t)address >= block->address &&
                  (uintptr_t)address + size <= block->address + block->size;
    if (!inside || (side == ON_HOST && block->kind <= ASYNC))
        return cudaErrorInvalidValue;
    block->users++;
    *held = block;
    return cudaSuccess;
}

static void let_go(struct block *one, struct block *other)
{
    lock();
    if (one)
        drop_user(one);
    if (other)
        drop_user(other);
    unlock();
}

/* Bytes from the first row's start to the last row's end; 0 for a size that doesn't exist. */
static size_t extent(size_t pitch, size_t width, size_t height)
{
    size_t bytes;
    if (__builtin_mul_overflow(pitch, height - 1, &bytes) ||
        __builtin_add_overflow(bytes, width, &bytes))
        return 0;
    return bytes;
}

/* Every copy is a copy of rows; a plain one has a single row. */
static cudaError_t copy(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                        size_t width, size_t height, int kind, cudaStream_t stream)
{
    static const enum side from_sides[] = {ON_HOST, ON_HOST, ON_DEVICE, ON_DEVICE, ANYWHERE};
    static const enum side to_sides[] = {ON_HOST, ON_DEVICE, ON_HOST, ON_DEVICE, ANYWHERE};
    if (kind < HOST_TO_HOST || kind > ANY_TO_ANY)
        return cudaErrorInvalidMemcpyDirection;
    if (width == 0 || height == 0)
        return cudaSuccess;
    if (height > 1 && (width > to_pitch || width > from_pitch))
        return cudaErrorInvalidPitchValue;
    size_t to_size = extent(to_pitch, width, height);
    size_t from_size = extent(from_pitch, width, height);
    if (!to || !from || to_size == 0 || from_size == 0)
        return cudaErrorInvalidValue;

    struct block *to_block = NULL, *from_block = NULL;
    cudaError_t error = cudaErrorInvalidResourceHandle;
    lock();
    if (is_stream(stream))
        error = hold(to, to_size, to_sides[kind], &to_block);
    if (error == cudaSuccess)
        error = hold(from, from_size, from_sides[kind], &from_block);
    unlock();
    if (error == cudaSuccess)
        for (size_t row = 0; row < height; row++)
            memmove((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
    let_go(to_block, from_block);
    return error;
}

EXPORT cudaError_t cudaMemcpy(void *to, const void *from, size_t size, int kind)
{
    return fail(copy(to, 0, from, 0, size, 1, kind, NULL));
}

EXPORT cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, int kind,
                                   cudaStream_t stream)
{
    return fail(copy(to, 0, from, 0, size, 1, kind, stream));
}

EXPORT cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                                size_t width, size_t height, int kind)
{
    return fail(copy(to, to_pitch, from, from_pitch, width, height, kind, NULL));
}

EXPORT cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from,
                                     size_t from_pitch, size_t width, size_t height, int kind,
                                     cudaStream_t stream)
{
    return fail(copy(to, to_pitch, from, from_pitch, width, height, kind, stream));
}

EXPORT cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device,
                                       size_t size, cudaStream_t stream)
{
    if (!is_device(to_device) || !is_device(from_device))
        return fail(cudaErrorInvalidDevice);
    return fail(copy(to, 0, from, 0, size, 1, DEVICE_TO_DEVICE, stream));
}

EXPORT cudaError_t cudaMemcpyPeer(void *to, int to_device, const void *from, int from_device,
                                  size_t size)
{
    if (!is_device(to_device) || !is_device(from_device))
        return fail(cudaErrorInvalidDevice);
    return fail(copy(to, 0, from, 0, size, 1, DEVICE_TO_DEVICE, NULL));
}

static cudaError_t fill(void *address, int value, size_t size, cudaStream_t stream)
{
    struct block *block = NULL;
    cudaError_t error = cudaErrorInvalidResourceHandle;
    if (size == 0)
        return cudaSuccess;
    lock();
    if (is_stream(stream))
        error = hold(address, size, ON_DEVICE, &block);
    unlock();
    if (error == cudaSuccess)
        memset(address, value, size);
    let_go(block, NULL);
    return error;
}

EXPORT cudaError_t cudaMemset(void *address, int value, size_t size)
{
    return fail(fill(address, value, size, NULL));
}

EXPORT cudaError_t cudaMemsetAsync(void *address, int value, size_t size, cudaStream_t stream)
{
    return fail(fill(address, value, size, stream));
}

/* A hint about managed memory: checked, and then there is nothing to do. */
static cudaError_t advise(const void *address, size_t size, int device)
{
    enum { THE_HOST = -1 };
    if (device != THE_HOST && !is_device(device))
        return cudaErrorInvalidDevice;
    lock();
    const struct block *block = find_block(address, 1);
    bool valid = block && block->kind == MANAGED &&
                 size <= block->address + block->size - (uintptr_t)address;
    unlock();
    return valid ? cudaSuccess : cudaErrorInvalidValue;
}

EXPORT cudaError_t cudaMemPrefetchAsync(const void *address, size_t size, int device,
                                        cudaStream_t stream)
{
    lock();
    bool valid = is_stream(stream);
    unlock();
    return fail(valid ? advise(address, size, device) : cudaErrorInvalidResourceHandle);
}

EXPORT cudaError_t cudaMemAdvise(const void *address, size_t size, int advice, int device)
{
    enum { FIRST_ADVICE = 1, LAST_ADVICE = 6 };
    if (advice < FIRST_ADVICE || advice > LAST_ADVICE)
        return fail(cudaErrorInvalidValue);
    return fail(advise(address, size, device));
}
