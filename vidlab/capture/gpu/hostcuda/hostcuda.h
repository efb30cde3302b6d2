/* The parts of hostcuda among themselves: the books, their lock, and what is in them. */
#ifndef HOSTCUDA_H
#define HOSTCUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_DEVICES 16
#define DEVICE_NAME "host memory (no GPU)"

/* The CUDA runtime's public types and numbers, as its documentation gives them. */
typedef int cudaError_t;
typedef struct stream *cudaStream_t;
typedef struct event *cudaEvent_t;
typedef struct pool *cudaMemPool_t;

enum {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidPitchValue = 12,
    cudaErrorInvalidMemcpyDirection = 21,
    cudaErrorInvalidDevice = 101,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorPeerAccessAlreadyEnabled = 704,
    cudaErrorPeerAccessNotEnabled = 705,
    cudaErrorHostMemoryAlreadyRegistered = 712,
    cudaErrorHostMemoryNotRegistered = 713,
    cudaErrorNotSupported = 801,
};

struct cudaPointerAttributes {
    int type;
    int device;
    void *devicePointer;
    void *hostPointer;
};

struct cudaMemPoolProps {
    int allocType;
    int handleTypes;
    struct { int type; int id; } location;
};

/* What a block is. The order is ours. */
enum kind { DEVICE, ASYNC, MANAGED, PINNED, REGISTERED };

struct block {
    uintptr_t address;
    size_t size;
    enum kind kind;
    int device;
    struct pool *pool; /* of an ASYNC block */
    unsigned users;    /* copies under way: the memory outlives them, even if it is freed */
    bool freed;        /* out of the books; the last user unmaps it */
    struct block *next_doomed;
};

struct pool {
    int device;
    bool is_default;
    bool destroyed; /* by the program; goes with its last block */
    int reuse[3];
    uint64_t threshold;
    uint64_t reserved, reserved_high;
    uint64_t used, used_high;
    struct pool *next;
};

struct device {
    uint64_t used; /* live blocks, and what its pools keep in reserve */
    uint64_t total;
    struct pool default_pool;
    struct pool *current_pool;
    bool peer[MAX_DEVICES];
};

extern struct device devices[MAX_DEVICES];
extern int device_count;
extern int driver_version;

/* For Python, beside the public names. */
cudaError_t hostcuda_setup(int count, uint64_t total_bytes, int version);
cudaError_t hostcuda_books(int device, uint64_t *used, uint64_t *total);
int64_t hostcuda_block_size(const void *address);

/* books.c. One lock for everything: held for a few hundred nanoseconds, and never while a
 * callback runs, while memory is copied, or while anybody waits for Python. */
void lock(void);
void unlock(void);
cudaError_t fail(cudaError_t error); /* remembers it for cudaGetLastError */
int current_device(void);
bool is_device(int device);

/* All of these want the lock held. */
struct block *find_block(const void *address, size_t size);
cudaError_t charge(int device, uint64_t size);
struct block *add_block(enum kind kind, int device, void *address, size_t size);
void remove_block(struct block *block); /* out of the books; unmapped with its last user */
void drop_user(struct block *block);

/* streams.c; these want the lock held too. */
bool is_stream(cudaStream_t stream);
int stream_device(cudaStream_t stream);

/* pools.c; these want the lock held too. */
bool is_pool(const struct pool *pool);
void start_pool(struct pool *pool, int device, bool is_default);
void return_to_pool(struct block *block);
void trim_pools(int device, bool below_threshold);

#endif
