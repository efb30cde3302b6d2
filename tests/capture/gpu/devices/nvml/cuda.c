/* A stand-in for libcuda.so.1: the same two devices as nvml.c, which CUDA counts the other way. */

#include <stdlib.h>
#include <string.h>

#define MIB (1ull << 20)

enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3 };

static int started;

int cuInit(unsigned flags)
{
    (void)flags;
    started = 1;
    return SUCCESS;
}

int cuDeviceGetCount(int *count)
{
    *count = 2;
    return started ? SUCCESS : NOT_INITIALIZED;
}

int cuDeviceGet(int *device, int number)
{
    *device = number;
    return !started ? NOT_INITIALIZED : number < 2 ? SUCCESS : INVALID_VALUE;
}

int cuDeviceGetUuid(unsigned char uuid[16], int device)
{
    memset(uuid, 0, 16);
    uuid[15] = device == 0 ? 0x0b : 0x0a;
    return SUCCESS;
}

/* This process holds the first device. */
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active)
{
    *flags = 0;
    *active = device == 0;
    return SUCCESS;
}

int cuDeviceGetDefaultMemPool(void **pool, int device)
{
    *pool = (void *)(size_t)(device + 1);
    return SUCCESS;
}

int cuMemPoolGetAttribute(void *pool, int attribute, void *value)
{
    if (pool != (void *)1 || attribute != 5)
        return INVALID_VALUE;
    *(unsigned long long *)value = 96 * MIB;
    return SUCCESS;
}
