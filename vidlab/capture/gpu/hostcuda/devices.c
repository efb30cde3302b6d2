/* Devices: how many there are, what they can do, and which may reach which. */
#include "hostcuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

EXPORT cudaError_t cudaGetDeviceCount(int *count)
{
    *count = device_count;
    return cudaSuccess;
}

EXPORT cudaError_t cudaDriverGetVersion(int *version)
{
    *version = driver_version;
    return cudaSuccess;
}

EXPORT cudaError_t cudaDeviceGetAttribute(int *value, int attribute, int device)
{
    /* cudaDeviceAttr and its answer. What is not here is not known, and an error. */
    static const struct { int attribute, value; } answers[] = {
        {1, 1024},        /* MaxThreadsPerBlock */
        {2, 1024},        /* MaxBlockDimX */
        {3, 1024},        /* MaxBlockDimY */
        {4, 64},          /* MaxBlockDimZ */
        {5, 2147483647},  /* MaxGridDimX */
        {6, 65535},       /* MaxGridDimY */
        {7, 65535},       /* MaxGridDimZ */
        {8, 49152},       /* MaxSharedMemoryPerBlock */
        {10, 32},         /* WarpSize */
        {15, 0},          /* GpuOverlap: copies are complete at once */
        {16, 1},          /* MultiProcessorCount */
        {18, 1},          /* Integrated: the memory is the host's */
        {19, 1},          /* CanMapHostMemory */
        {31, 0},          /* ConcurrentKernels */
        {32, 0},          /* EccEnabled */
        {34, 0},          /* PciDeviceId */
        {40, 0},          /* AsyncEngineCount */
        {41, 1},          /* UnifiedAddressing */
        {50, 0xffff},     /* PciDomainId: none that a machine has */
        {75, 8},          /* ComputeCapabilityMajor: one that CuPy 13 and 14 both know */
        {76, 0},          /* ComputeCapabilityMinor */
        {78, 1},          /* StreamPrioritiesSupported */
        {83, 1},          /* ManagedMemory */
        {88, 0},          /* PageableMemoryAccess: a copy needs a block */
        {89, 1},          /* ConcurrentManagedAccess */
        {99, 1},          /* HostRegisterSupported */
        {115, 1},         /* MemoryPoolsSupported */
        {119, 0},         /* MemoryPoolSupportedHandleTypes: none */
    };
    enum { PCI_BUS_ID = 33 };
    if (!is_device(device))
        return fail(cudaErrorInvalidDevice);
    if (attribute == PCI_BUS_ID) {
        *value = device;
        return cudaSuccess;
    }
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        if (answers[i].attribute == attribute) {
            *value = answers[i].value;
            return cudaSuccess;
        }
    return fail(cudaErrorInvalidValue);
}

EXPORT cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device)
{
    if (!is_device(device))
        return fail(cudaErrorInvalidDevice);
    int written = snprintf(text, (size_t)size, "FFFF:%02X:00.0", (unsigned int)device);
    return fail(written < size ? cudaSuccess : cudaErrorInvalidValue);
}

EXPORT cudaError_t cudaDeviceGetByPCIBusId(int *device, const char *text)
{
    char own[16];
    for (int i = 0; i < device_count; i++)
        if (cudaDeviceGetPCIBusId(own, sizeof own, i) == cudaSuccess && !strcmp(own, text)) {
            *device = i;
            return cudaSuccess;
        }
    return fail(cudaErrorInvalidValue);
}

EXPORT cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer)
{
    if (!is_device(device) || !is_device(peer))
        return fail(cudaErrorInvalidDevice);
    *can = device != peer;
    return cudaSuccess;
}

static cudaError_t set_peer_access(int peer, bool access, cudaError_t already)
{
    int device = current_device();
    if (!is_device(peer) || peer == device)
        return fail(cudaErrorInvalidDevice);
    lock();
    bool changes = devices[device].peer[peer] != access;
    devices[device].peer[peer] = access;
    unlock();
    return fail(changes ? cudaSuccess : already);
}

EXPORT cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned int flags)
{
    if (flags != 0)
        return fail(cudaErrorInvalidValue);
    return set_peer_access(peer, true, cudaErrorPeerAccessAlreadyEnabled);
}

EXPORT cudaError_t cudaDeviceDisablePeerAccess(int peer)
{
    return set_peer_access(peer, false, cudaErrorPeerAccessNotEnabled);
}

EXPORT cudaError_t cudaProfilerStart(void) { return cudaSuccess; }
EXPORT cudaError_t cudaProfilerStop(void) { return cudaSuccess; }
