/* CuPy's functions for memory, each a call of the CUDA runtime's public name. */
#include "bridge.h"

#define RUNTIME(name) SERVED("runtime", name)

extern cudaError_t cudaMalloc(void **, size_t);
extern cudaError_t cudaMallocManaged(void **, size_t, unsigned int);
extern cudaError_t cudaMallocAsync(void **, size_t, cudaStream_t);
extern cudaError_t cudaMallocFromPoolAsync(void **, size_t, cudaMemPool_t, cudaStream_t);
extern cudaError_t cudaHostAlloc(void **, size_t, unsigned int);
extern cudaError_t cudaHostRegister(void *, size_t, unsigned int);
extern cudaError_t cudaHostUnregister(void *);
extern cudaError_t cudaFree(void *);
extern cudaError_t cudaFreeHost(void *);
extern cudaError_t cudaFreeAsync(void *, cudaStream_t);
extern cudaError_t cudaMemGetInfo(size_t *, size_t *);
extern cudaError_t cudaMemcpy(void *, const void *, size_t, int);
extern cudaError_t cudaMemcpyAsync(void *, const void *, size_t, int, cudaStream_t);
extern cudaError_t cudaMemcpyPeer(void *, int, const void *, int, size_t);
extern cudaError_t cudaMemcpyPeerAsync(void *, int, const void *, int, size_t, cudaStream_t);
extern cudaError_t cudaMemcpy2D(void *, size_t, const void *, size_t, size_t, size_t, int);
extern cudaError_t cudaMemcpy2DAsync(void *, size_t, const void *, size_t, size_t, size_t, int,
                                     cudaStream_t);
extern cudaError_t cudaMemset(void *, int, size_t);
extern cudaError_t cudaMemsetAsync(void *, int, size_t, cudaStream_t);
extern cudaError_t cudaMemPrefetchAsync(const void *, size_t, int, cudaStream_t);
extern cudaError_t cudaMemAdvise(const void *, size_t, int, int);
extern cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *, const void *);
extern cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *, int);
extern cudaError_t cudaDeviceGetMemPool(cudaMemPool_t *, int);
extern cudaError_t cudaDeviceSetMemPool(int, cudaMemPool_t);
extern cudaError_t cudaMemPoolCreate(cudaMemPool_t *, const struct cudaMemPoolProps *);
extern cudaError_t cudaMemPoolDestroy(cudaMemPool_t);
extern cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t);
extern cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, int, void *);
extern cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, int, void *);

/* The address, or 0 with CUDARuntimeError set. */
static intptr_t address_or_error(cudaError_t status, void *address)
{
    return failed(status) ? 0 : (intptr_t)address;
}

FUNCTION1(intptr_t, malloc, size_t, size)
{
    void *address;
    cudaError_t status;
    WITHOUT_GIL(status, cudaMalloc(&address, size))
    return address_or_error(status, address);
}

static intptr_t managed(size_t size, unsigned int flags)
{
    void *address;
    cudaError_t status;
    WITHOUT_GIL(status, cudaMallocManaged(&address, size, flags))
    return address_or_error(status, address);
}

enum { ATTACH_GLOBAL = 1 };
static const char signature_mallocManaged[] = "intptr_t (size_t, " OPTIONAL(mallocManaged);
static intptr_t cupy_mallocManaged(size_t size, SKIP, struct optional_flags *optional)
{
    return managed(size, FLAGS_OR(optional, ATTACH_GLOBAL));
}
PYTHON_HEAD(mallocManaged, 2, 1, "size", "flags")
    GET(0, size_t, size)
    unsigned int flags = ATTACH_GLOBAL;
    if (bound[1] && !to_unsigned(bound[1], &flags))
        return NULL;
    RETURN(managed(size, flags))

FUNCTION2(intptr_t, mallocAsync, size_t, size, intptr_t, stream)
{
    void *address;
    cudaError_t status;
    WITHOUT_GIL(status, cudaMallocAsync(&address, size, (cudaStream_t)stream))
    return address_or_error(status, address);
}

FUNCTION3(intptr_t, mallocFromPoolAsync, size_t, size, intptr_t, pool, intptr_t, stream)
{
    void *address;
    cudaError_t status;
    WITHOUT_GIL(status, cudaMallocFromPoolAsync(&address, size, (cudaMemPool_t)pool,
                                                (cudaStream_t)stream))
    return address_or_error(status, address);
}

FUNCTION2(intptr_t, hostAlloc, size_t, size, unsigned int, flags)
{
    void *address;
    cudaError_t status;
    WITHOUT_GIL(status, cudaHostAlloc(&address, size, flags))
    return address_or_error(status, address);
}

FUNCTION3(PyObject *, hostRegister, intptr_t, ptr, size_t, size, unsigned int, flags)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaHostRegister((void *)ptr, size, flags))
    return done(status);
}

FUNCTION1(PyObject *, hostUnregister, intptr_t, ptr)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaHostUnregister((void *)ptr))
    return done(status);
}

FUNCTION1(PyObject *, free, intptr_t, ptr)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaFree((void *)ptr))
    return done(status);
}

FUNCTION1(PyObject *, freeHost, intptr_t, ptr)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaFreeHost((void *)ptr))
    return done(status);
}

FUNCTION2(PyObject *, freeAsync, intptr_t, ptr, intptr_t, stream)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaFreeAsync((void *)ptr, (cudaStream_t)stream))
    return done(status);
}

FUNCTION0(PyObject *, memGetInfo)
{
    size_t free, total;
    if (failed(cudaMemGetInfo(&free, &total)))
        return NULL;
    return Py_BuildValue("(nn)", (Py_ssize_t)free, (Py_ssize_t)total);
}

FUNCTION4(PyObject *, memcpy, intptr_t, dst, intptr_t, src, size_t, size, int, kind)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaMemcpy((void *)dst, (void *)src, size, kind))
    return done(status);
}

FUNCTION5(PyObject *, memcpyAsync, intptr_t, dst, intptr_t, src, size_t, size, int, kind,
          intptr_t, stream)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaMemcpyAsync((void *)dst, (void *)src, size, kind,
                                        (cudaStream_t)stream))
    return done(status);
}

FUNCTION5(PyObject *, memcpyPeer, intptr_t, dst, int, dstDevice, intptr_t, src, int, srcDevice,
          size_t, size)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaMemcpyPeer((void *)dst, dstDevice, (void *)src, srcDevice, size))
    return done(status);
}

FUNCTION6(PyObject *, memcpyPeerAsync, intptr_t, dst, int, dstDevice, intptr_t, src, int,
          srcDevice, size_t, size, intptr_t, stream)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaMemcpyPeerAsync((void *)dst, dstDevice, (void *)src, srcDevice, size,
                                            (cudaStream_t)stream))
    return done(status);
}

FUNCTION7(PyObject *, memcpy2D, intptr_t, dst, size_t, dpitch, intptr_t, src, size_t, spitch,
          size_t, width, size_t, height, cudaMemcpyKind, kind)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaMemcpy2D((void *)dst, dpitch, (void *)src, spitch, width, height,
                                     kind))
    return done(status);
}

FUNCTION8(PyObject *, memcpy2DAsync, intptr_t, dst, size_t, dpitch, intptr_t, src, size_t, spitch,
          size_t, width, size_t, height, cudaMemcpyKind, kind, intptr_t, stream)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaMemcpy2DAsync((void *)dst, dpitch, (void *)src, spitch, width, height,
                                          kind, (cudaStream_t)stream))
    return done(status);
}

FUNCTION3(PyObject *, memset, intptr_t, ptr, int, value, size_t, size)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaMemset((void *)ptr, value, size))
    return done(status);
}

FUNCTION4(PyObject *, memsetAsync, intptr_t, ptr, int, value, size_t, size, intptr_t, stream)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaMemsetAsync((void *)ptr, value, size, (cudaStream_t)stream))
    return done(status);
}

FUNCTION4(PyObject *, memPrefetchAsync, intptr_t, devPtr, size_t, count, int, dstDevice, intptr_t,
          stream)
{
    return done(cudaMemPrefetchAsync((void *)devPtr, count, dstDevice, (cudaStream_t)stream));
}

FUNCTION4(PyObject *, memAdvise, intptr_t, devPtr, size_t, count, int, advice, int, device)
{
    return done(cudaMemAdvise((void *)devPtr, count, advice, device));
}

/* What CuPy returns is an object of its own class, whose C name is in the signature. */
static PyObject *cupy_pointerGetAttributes(intptr_t ptr, SKIP)
{
    struct cudaPointerAttributes found;
    if (failed(cudaPointerGetAttributes(&found, (void *)ptr)))
        return NULL;
    return PyObject_CallFunction(pointer_attributes, "inni", found.device,
                                 (Py_ssize_t)found.devicePointer, (Py_ssize_t)found.hostPointer,
                                 found.type);
}
static const char signature_pointerGetAttributes[] =
    "struct __pyx_obj_13cupy_backends_4cuda_3api_7runtime_PointerAttributes *(intptr_t, " LAST;
PYTHON_HEAD(pointerGetAttributes, 1, 1, "ptr")
    GET(0, intptr_t, ptr)
    RETURN(cupy_pointerGetAttributes(ptr, 0))

FUNCTION1(int, pointerGetMemoryType, intptr_t, ptr)
{
    struct cudaPointerAttributes found;
    return failed(cudaPointerGetAttributes(&found, (void *)ptr)) ? -1 : found.type;
}

FUNCTION1(intptr_t, deviceGetDefaultMemPool, int, device)
{
    cudaMemPool_t pool;
    return failed(cudaDeviceGetDefaultMemPool(&pool, device)) ? 0 : (intptr_t)pool;
}

FUNCTION1(intptr_t, deviceGetMemPool, int, device)
{
    cudaMemPool_t pool;
    return failed(cudaDeviceGetMemPool(&pool, device)) ? 0 : (intptr_t)pool;
}

FUNCTION2(PyObject *, deviceSetMemPool, int, device, intptr_t, pool)
{
    return done(cudaDeviceSetMemPool(device, (cudaMemPool_t)pool));
}

/* CuPy's MemPoolProps, whose fields Python can't read; bind() checks the object's size. */
struct pool_properties {
    PyObject_HEAD
    int allocType, handleType, locationType, devId;
};
static intptr_t cupy_memPoolCreate(struct pool_properties *given, SKIP)
{
    cudaMemPool_t pool;
    struct cudaMemPoolProps properties = {
        .allocType = given->allocType,
        .handleTypes = given->handleType,
        .location = {.type = given->locationType, .id = given->devId}};
    return failed(cudaMemPoolCreate(&pool, &properties)) ? 0 : (intptr_t)pool;
}
static const char signature_memPoolCreate[] =
    "intptr_t (struct __pyx_obj_13cupy_backends_4cuda_3api_7runtime_MemPoolProps *, " LAST;
PYTHON_HEAD(memPoolCreate, 1, 1, "props")
    if (strcmp(Py_TYPE(bound[0])->tp_name, "cupy_backends.cuda.api.runtime.MemPoolProps") != 0) {
        PyErr_SetString(PyExc_TypeError, "memPoolCreate() wants a MemPoolProps");
        return NULL;
    }
    RETURN(cupy_memPoolCreate((struct pool_properties *)bound[0], 0))

FUNCTION1(PyObject *, memPoolDestroy, intptr_t, pool)
{
    return done(cudaMemPoolDestroy((cudaMemPool_t)pool));
}

FUNCTION2(PyObject *, memPoolTrimTo, intptr_t, pool, size_t, size)
{
    return done(cudaMemPoolTrimTo((cudaMemPool_t)pool, size));
}

enum { LAST_INT_ATTRIBUTE = 3 }; /* the pool attributes up to this one are ints, the rest 64 bits */

FUNCTION2(PyObject *, memPoolGetAttribute, intptr_t, pool, int, attr)
{
    int small = 0;
    uint64_t large = 0;
    bool is_small = attr <= LAST_INT_ATTRIBUTE;
    void *value = is_small ? (void *)&small : (void *)&large;
    if (failed(cudaMemPoolGetAttribute((cudaMemPool_t)pool, attr, value)))
        return NULL;
    return is_small ? PyLong_FromLong(small) : PyLong_FromUnsignedLongLong(large);
}

FUNCTION3(PyObject *, memPoolSetAttribute, intptr_t, pool, int, attr, PyObject *, value)
{
    int small = 0;
    size_t large = 0;
    bool is_small = attr <= LAST_INT_ATTRIBUTE;
    if (!(is_small ? to_int(value, &small) : to_size(value, &large)))
        return NULL;
    void *given = is_small ? (void *)&small : (void *)&large;
    return done(cudaMemPoolSetAttribute((cudaMemPool_t)pool, attr, given));
}

const struct entry served_memory[] = {
    RUNTIME(malloc), RUNTIME(mallocManaged), RUNTIME(mallocAsync), RUNTIME(mallocFromPoolAsync),
    RUNTIME(hostAlloc), RUNTIME(hostRegister), RUNTIME(hostUnregister),
    RUNTIME(free), RUNTIME(freeHost), RUNTIME(freeAsync), RUNTIME(memGetInfo),
    RUNTIME(memcpy), RUNTIME(memcpyAsync), RUNTIME(memcpyPeer), RUNTIME(memcpyPeerAsync),
    RUNTIME(memcpy2D), RUNTIME(memcpy2DAsync), RUNTIME(memset), RUNTIME(memsetAsync),
    RUNTIME(memPrefetchAsync), RUNTIME(memAdvise),
    RUNTIME(pointerGetAttributes), RUNTIME(pointerGetMemoryType),
    RUNTIME(deviceGetDefaultMemPool), RUNTIME(deviceGetMemPool), RUNTIME(deviceSetMemPool),
    RUNTIME(memPoolCreate), RUNTIME(memPoolDestroy), RUNTIME(memPoolTrimTo),
    RUNTIME(memPoolGetAttribute), RUNTIME(memPoolSetAttribute), END,
};
