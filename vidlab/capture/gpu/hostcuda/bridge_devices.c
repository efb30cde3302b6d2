/* CuPy's functions for devices, each a call of the CUDA runtime's public name. */
#include "bridge.h"

#define RUNTIME(name) SERVED("runtime", name)
#define DRIVER(name) SERVED("driver", name)

extern cudaError_t cudaGetDeviceCount(int *);
extern cudaError_t cudaGetDevice(int *);
extern cudaError_t cudaSetDevice(int);
extern cudaError_t cudaDriverGetVersion(int *);
extern cudaError_t cudaDeviceGetAttribute(int *, int, int);
extern cudaError_t cudaDeviceGetPCIBusId(char *, int, int);
extern cudaError_t cudaDeviceGetByPCIBusId(int *, const char *);
extern cudaError_t cudaDeviceSynchronize(void);
extern cudaError_t cudaDeviceCanAccessPeer(int *, int, int);
extern cudaError_t cudaDeviceEnablePeerAccess(int, unsigned int);
extern cudaError_t cudaDeviceDisablePeerAccess(int);
extern cudaError_t cudaProfilerStart(void);
extern cudaError_t cudaProfilerStop(void);
extern int cuCtxGetCurrent(void **);
extern int cuCtxGetDevice(int *);

FUNCTION0(int, driverGetVersion)
{
    int version;
    return failed(cudaDriverGetVersion(&version)) ? -1 : version;
}

FUNCTION0(int, getDeviceCount)
{
    int count;
    return failed(cudaGetDeviceCount(&count)) ? -1 : count;
}

FUNCTION0(int, getDevice)
{
    int device;
    return failed(cudaGetDevice(&device)) ? -1 : device;
}

FUNCTION1(PyObject *, setDevice, int, device) { return done(cudaSetDevice(device)); }

FUNCTION0(PyObject *, deviceSynchronize)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaDeviceSynchronize())
    return done(status);
}

FUNCTION2(int, deviceGetAttribute, int, attrib, int, device)
{
    int value;
    return failed(cudaDeviceGetAttribute(&value, attrib, device)) ? -1 : value;
}

/* What we know of a device; CuPy's own dictionary has more keys. */
static bool add_properties(PyObject *properties, int device)
{
    static const struct { const char *name; int attribute; } known[] = {
        {"sharedMemPerBlock", 8}, {"warpSize", 10}, {"maxThreadsPerBlock", 1},
        {"major", 75}, {"minor", 76}, {"multiProcessorCount", 16}, {"integrated", 18},
        {"canMapHostMemory", 19}, {"concurrentKernels", 31}, {"ECCEnabled", 32},
        {"pciBusID", 33}, {"pciDeviceID", 34}, {"pciDomainID", 50}, {"asyncEngineCount", 40},
        {"unifiedAddressing", 41}, {"streamPrioritiesSupported", 78}, {"managedMemory", 83},
        {"pageableMemoryAccess", 88}, {"concurrentManagedAccess", 89},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int value;
        if (failed(cudaDeviceGetAttribute(&value, known[i].attribute, device)))
            return false;
        PyObject *boxed = PyLong_FromLong(value);
        int status = boxed ? PyDict_SetItemString(properties, known[i].name, boxed) : -1;
        Py_XDECREF(boxed);
        if (status != 0)
            return false;
    }
    return true;
}

FUNCTION1(PyObject *, getDeviceProperties, int, device)
{
    uint64_t used, total;
    if (failed(hostcuda_books(device, &used, &total)))
        return NULL;
    PyObject *properties = Py_BuildValue("{sysK}", "name", DEVICE_NAME, "totalGlobalMem",
                                         (unsigned long long)total);
    if (properties && !add_properties(properties, device))
        Py_CLEAR(properties);
    return properties;
}

FUNCTION1(PyObject *, deviceGetPCIBusId, int, device)
{
    char text[13];
    if (failed(cudaDeviceGetPCIBusId(text, sizeof text, device)))
        return NULL;
    return PyUnicode_FromString(text);
}

FUNCTION1(int, deviceGetByPCIBusId, PyObject *, pci_bus_id)
{
    int device;
    const char *text = PyUnicode_AsUTF8(pci_bus_id);
    return !text || failed(cudaDeviceGetByPCIBusId(&device, text)) ? -1 : device;
}

FUNCTION2(int, deviceCanAccessPeer, int, device, int, peerDevice)
{
    int can;
    return failed(cudaDeviceCanAccessPeer(&can, device, peerDevice)) ? -1 : can;
}

FUNCTION1(PyObject *, deviceEnablePeerAccess, int, peerDevice)
{
    return done(cudaDeviceEnablePeerAccess(peerDevice, 0));
}

FUNCTION1(PyObject *, deviceDisablePeerAccess, int, peerDevice)
{
    return done(cudaDeviceDisablePeerAccess(peerDevice));
}

FUNCTION1(PyObject *, _deviceEnsurePeerAccess, int, peerDevice)
{
    cudaError_t status = cudaDeviceEnablePeerAccess(peerDevice, 0);
    if (status == cudaErrorPeerAccessAlreadyEnabled)
        status = cudaSuccess;
    return done(status);
}

static const char signature__ensure_context[] = "PyObject *(void)";
static PyObject *cupy__ensure_context(void) { Py_RETURN_NONE; } /* a device here always has one */
PYTHON_HEAD(_ensure_context, 0, 0, NULL) RETURN(cupy__ensure_context())

FUNCTION0(PyObject *, profilerStart) { return done(cudaProfilerStart()); }
FUNCTION0(PyObject *, profilerStop) { return done(cudaProfilerStop()); }

FUNCTION1(PyObject *, check_status, int, status) { return done(status); }

FUNCTION0(intptr_t, ctxGetCurrent)
{
    void *context;
    return failed(cuCtxGetCurrent(&context)) ? 0 : (intptr_t)context;
}

FUNCTION0(int, ctxGetDevice)
{
    int device;
    return failed(cuCtxGetDevice(&device)) ? -1 : device;
}

const struct entry served_devices[] = {
    RUNTIME(driverGetVersion), RUNTIME(getDeviceCount), RUNTIME(getDevice), RUNTIME(setDevice),
    RUNTIME(deviceSynchronize), RUNTIME(deviceGetAttribute), RUNTIME(getDeviceProperties),
    RUNTIME(deviceGetPCIBusId), RUNTIME(deviceGetByPCIBusId), RUNTIME(deviceCanAccessPeer),
    RUNTIME(deviceEnablePeerAccess), RUNTIME(deviceDisablePeerAccess),
    RUNTIME(_deviceEnsurePeerAccess), RUNTIME(_ensure_context), RUNTIME(profilerStart),
    RUNTIME(profilerStop), RUNTIME(check_status), DRIVER(ctxGetCurrent), DRIVER(ctxGetDevice), END,
};
