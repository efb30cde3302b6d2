/* The books: devices, the blocks of memory that live on them, and the lock around both. */
#define _GNU_SOURCE
#include "hostcuda.h"

#include <pthread.h>
#include <search.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Blocks at least as large as this are mappings of their own, so that a free gives them back to
 * the system at once. Smaller ones come from the heap: the system bounds a process's mappings. */
#define MAPPED_FROM ((size_t)64 << 10)
#define ALIGNMENT 512 /* what cudaMalloc keeps to, and CuPy's pool cuts its chunks by */

struct device devices[MAX_DEVICES];
int device_count = 0;
int driver_version = 0;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static void *blocks; /* a tree (tsearch) by address; blocks never overlap */
static __thread int thread_device;
static __thread cudaError_t thread_error;
static __thread struct block *thread_doomed; /* to be unmapped once the lock is let go */

static void forget_block(struct block *block);

void lock(void) { pthread_mutex_lock(&mutex); }

void unlock(void)
{
    struct block *doomed = thread_doomed;
    thread_doomed = NULL;
    pthread_mutex_unlock(&mutex);
    /* Giving pages back takes milliseconds for a large block: not under the lock. */
    while (doomed) {
        struct block *next = doomed->next_doomed;
        forget_block(doomed);
        doomed = next;
    }
}

/* A forked child gets the books whole, and its own copy of the memory. */
__attribute__((constructor)) static void prepare_for_forks(void)
{
    pthread_atfork(lock, unlock, unlock);
}

cudaError_t fail(cudaError_t error)
{
    if (error != cudaSuccess)
        thread_error = error;
    return error;
}

int current_device(void) { return thread_device; }
bool is_device(int device) { return device >= 0 && device < device_count; }

EXPORT cudaError_t cudaGetLastError(void)
{
    cudaError_t error = thread_error;
    thread_error = cudaSuccess;
    return error;
}

EXPORT cudaError_t cudaPeekAtLastError(void) { return thread_error; }

EXPORT cudaError_t cudaGetDevice(int *device)
{
    *device = thread_device;
    return cudaSuccess;
}

EXPORT cudaError_t cudaSetDevice(int device)
{
    if (!is_device(device))
        return fail(cudaErrorInvalidDevice);
    thread_device = device;
    return cudaSuccess;
}

/* Two blocks are "equal" if they overlap: a lookup then finds the block around an address. */
static int compare_blocks(const void *a, const void *b)
{
    const struct block *left = a, *right = b;
    if (left->address + left->size <= right->address)
        return -1;
    return left->address >= right->address + right->size;
}

struct block *find_block(const void *address, size_t size)
{
    struct block key = {.address = (uintptr_t)address, .size = size ? size : 1};
    if (key.address + key.size < key.address)
        key.size = UINTPTR_MAX - key.address;
    struct block **found = tfind(&key, &blocks, compare_blocks);
    return found ? *found : NULL;
}

/* Takes `size` bytes of a device, if it has them. What its pools keep unused goes first. */
cudaError_t charge(int device, uint64_t size)
{
    struct device *books = &devices[device];
    if (size > books->total - books->used)
        trim_pools(device, true);
    if (size > books->total - books->used)
        return cudaErrorMemoryAllocation;
    books->used += size;
    return cudaSuccess;
}

static void *take_memory(size_t size)
{
    void *memory = NULL;
    if (size < MAPPED_FROM)
        return posix_memalign(&memory, ALIGNMENT, size) == 0 ? memory : NULL;
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static void return_memory(struct block *block)
{
    if (block->kind == REGISTERED)
        return; /* the program's own */
    if (block->size < MAPPED_FROM)
        free((void *)block->address);
    else
        munmap((void *)block->address, block->size);
}

/* Enters a block; without an address, with memory of its own. NULL if there is none. */
struct block *add_block(enum kind kind, int device, void *address, size_t size)
{
    struct block *block = calloc(1, sizeof *block);
    void *memory = address ? address : take_memory(size);
    if (!block || !memory) {
        free(block);
        return NULL;
    }
    *block = (struct block){
        .address = (uintptr_t)memory, .size = size, .kind = kind, .device = device};
    struct block *stale;
    /* The system gave us this memory, so a registration of it is of memory that is gone. */
    while (!address && (stale = find_block(memory, size)) != NULL)
        remove_block(stale);
    if (!tsearch(block, &blocks, compare_blocks)) {
        return_memory(block);
        free(block);
        return NULL;
    }
    return block;
}

static void forget_block(struct block *block)
{
    return_memory(block);
    free(block);
}

static void doom(struct block *block)
{
    block->next_doomed = thread_doomed;
    thread_doomed = block;
}

void remove_block(struct block *block)
{
    tdelete(block, &blocks, compare_blocks);
    block->freed = true;
    if (block->users == 0)
        doom(block);
}

void drop_user(struct block *block)
{
    block->users--;
    if (block->freed && block->users == 0)
        doom(block);
}

/* Ours, for Python: called once, before anything else. */
EXPORT cudaError_t hostcuda_setup(int count, uint64_t total_bytes, int version)
{
    if (count < 1 || count > MAX_DEVICES || total_bytes == 0 || device_count != 0)
        return cudaErrorInvalidValue;
    for (int i = 0; i < count; i++) {
        devices[i].total = total_bytes;
        start_pool(&devices[i].default_pool, i, true);
        devices[i].current_pool = &devices[i].default_pool;
    }
    driver_version = version;
    device_count = count;
    return cudaSuccess;
}

EXPORT cudaError_t hostcuda_books(int device, uint64_t *used, uint64_t *total)
{
    if (!is_device(device))
        return cudaErrorInvalidDevice;
    lock();
    *used = devices[device].used;
    *total = devices[device].total;
    unlock();
    return cudaSuccess;
}

/* The size of the live block that starts at `address`, or -1. */
EXPORT int64_t hostcuda_block_size(const void *address)
{
    lock();
    struct block *block = find_block(address, 1);
    bool known = block && block->address == (uintptr_t)address && block->kind != REGISTERED;
    int64_t size = known ? (int64_t)block->size : -1;
    unlock();
    return size;
}
