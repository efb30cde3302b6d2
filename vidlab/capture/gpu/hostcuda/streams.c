/* Streams and events. Work is complete when a call returns, so a stream is always idle, and an
 * event is reached as it is recorded. */
#define _GNU_SOURCE
#include "hostcuda.h"

#include <search.h>
#include <stdlib.h>
#include <time.h>

enum { LOWEST_PRIORITY = 0, HIGHEST_PRIORITY = -5 };

struct stream {
    int device;
    unsigned int flags;
    int priority;
};

struct event {
    int device;
    unsigned int flags;
    bool recorded;
    int64_t time_ns;
};

static void *streams, *events; /* trees (tsearch) of the live ones, by address */

static int compare_addresses(const void *a, const void *b)
{
    return ((uintptr_t)a > (uintptr_t)b) - ((uintptr_t)a < (uintptr_t)b);
}

/* 0, 1 and 2 stand for a thread's default streams and are no addresses. */
static bool is_default_stream(cudaStream_t stream) { return (uintptr_t)stream <= 2; }

bool is_stream(cudaStream_t stream)
{
    return is_default_stream(stream) || tfind(stream, &streams, compare_addresses);
}

int stream_device(cudaStream_t stream)
{
    return is_default_stream(stream) ? current_device() : stream->device;
}

static bool is_event(cudaEvent_t event)
{
    return event && tfind(event, &events, compare_addresses);
}

EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int flags,
                                                int priority)
{
    enum { NON_BLOCKING = 1 };
    if (flags > NON_BLOCKING)
        return fail(cudaErrorInvalidValue);
    struct stream *created = malloc(sizeof *created);
    if (!created)
        return fail(cudaErrorMemoryAllocation);
    if (priority > LOWEST_PRIORITY)
        priority = LOWEST_PRIORITY;
    if (priority < HIGHEST_PRIORITY)
        priority = HIGHEST_PRIORITY;
    *created = (struct stream){current_device(), flags, priority};
    lock();
    void *entered = tsearch(created, &streams, compare_addresses);
    unlock();
    if (!entered) {
        free(created);
        return fail(cudaErrorMemoryAllocation);
    }
    *stream = created;
    return cudaSuccess;
}

EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags)
{
    return cudaStreamCreateWithPriority(stream, flags, LOWEST_PRIORITY);
}

EXPORT cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithPriority(stream, 0, LOWEST_PRIORITY);
}

EXPORT cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    lock();
    bool valid = !is_default_stream(stream) && is_stream(stream);
    if (valid) {
        tdelete(stream, &streams, compare_addresses);
        free(stream);
    }
    unlock();
    return fail(valid ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

EXPORT cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned int *flags)
{
    lock();
    bool valid = is_stream(stream);
    *flags = valid && !is_default_stream(stream) ? stream->flags : 0;
    unlock();
    return fail(valid ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

EXPORT cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority)
{
    lock();
    bool valid = is_stream(stream);
    *priority = valid && !is_default_stream(stream) ? stream->priority : LOWEST_PRIORITY;
    unlock();
    return fail(valid ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = LOWEST_PRIORITY;
    *greatest = HIGHEST_PRIORITY;
    return cudaSuccess;
}

EXPORT cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    lock();
    bool valid = is_stream(stream);
    unlock();
    return fail(valid ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

/* A synchronisation is where pools give back what is above their threshold. */
EXPORT cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    lock();
    bool valid = is_stream(stream);
    if (valid)
        trim_pools(stream_device(stream), false);
    unlock();
    return fail(valid ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

EXPORT cudaError_t cudaDeviceSynchronize(void)
{
    lock();
    trim_pools(current_device(), false);
    unlock();
    return cudaSuccess;
}

EXPORT cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
    lock();
    bool valid = is_stream(stream) && is_event(event);
    unlock();
    if (!valid)
        return fail(cudaErrorInvalidResourceHandle);
    return fail(flags == 0 ? cudaSuccess : cudaErrorInvalidValue);
}

/* Callbacks run here and now, in the caller's thread: all that came before them is done. */
EXPORT cudaError_t cudaStreamAddCallback(cudaStream_t stream,
                                         void (*callback)(cudaStream_t, cudaError_t, void *),
                                         void *data, unsigned int flags)
{
    lock();
    bool valid = is_stream(stream);
    unlock();
    if (!valid)
        return fail(cudaErrorInvalidResourceHandle);
    if (!callback || flags != 0)
        return fail(cudaErrorInvalidValue);
    callback(stream, cudaSuccess, data);
    return cudaSuccess;
}

EXPORT cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*function)(void *), void *data)
{
    lock();
    bool valid = is_stream(stream);
    unlock();
    if (!valid)
        return fail(cudaErrorInvalidResourceHandle);
    if (!function)
        return fail(cudaErrorInvalidValue);
    function(data);
    return cudaSuccess;
}

EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t stream, int *status)
{
    *status = 0;
    return cudaStreamQuery(stream);
}

EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
    enum { BLOCKING_SYNC = 1, DISABLE_TIMING = 2 };
    if (flags & ~(unsigned int)(BLOCKING_SYNC | DISABLE_TIMING))
        return fail(cudaErrorNotSupported); /* events shared with other processes */
    struct event *created = malloc(sizeof *created);
    if (!created)
        return fail(cudaErrorMemoryAllocation);
    *created = (struct event){.device = current_device(), .flags = flags};
    lock();
    void *entered = tsearch(created, &events, compare_addresses);
    unlock();
    if (!entered) {
        free(created);
        return fail(cudaErrorMemoryAllocation);
    }
    *event = created;
    return cudaSuccess;
}

EXPORT cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }

EXPORT cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    lock();
    bool valid = is_event(event);
    if (valid) {
        tdelete(event, &events, compare_addresses);
        free(event);
    }
    unlock();
    return fail(valid ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

EXPORT cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    lock();
    bool valid = is_stream(stream) && is_event(event) && event->device == stream_device(stream);
    if (valid) {
        event->recorded = true;
        event->time_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    unlock();
    return fail(valid ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

EXPORT cudaError_t cudaEventQuery(cudaEvent_t event)
{
    lock();
    bool valid = is_event(event);
    unlock();
    return fail(valid ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

EXPORT cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    lock();
    bool valid = is_event(event);
    if (valid)
        trim_pools(event->device, false);
    unlock();
    return fail(valid ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

EXPORT cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    enum { DISABLE_TIMING = 2 };
    lock();
    bool valid = is_event(start) && is_event(end) && start->recorded && end->recorded &&
                 !((start->flags | end->flags) & DISABLE_TIMING) && start->device == end->device;
    *milliseconds = valid ? (float)((double)(end->time_ns - start->time_ns) / 1e6) : 0;
    unlock();
    return fail(valid ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

/* A device has one context, and the address of its books names it. */
EXPORT int cuCtxGetCurrent(void **context)
{
    *context = &devices[current_device()];
    return cudaSuccess;
}

EXPORT int cuCtxGetDevice(int *device)
{
    *device = current_device();
    return cudaSuccess;
}

EXPORT int cuStreamGetCtx(cudaStream_t stream, void **context)
{
    lock();
    bool valid = is_stream(stream);
    *context = valid ? &devices[stream_device(stream)] : NULL;
    unlock();
    return valid ? cudaSuccess : cudaErrorInvalidResourceHandle;
}
