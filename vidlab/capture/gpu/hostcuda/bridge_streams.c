/* CuPy's functions for streams and events, each a call of the CUDA runtime's public name. */
#include "bridge.h"

#define RUNTIME(name) SERVED("runtime", name)
#define DRIVER(name) SERVED("driver", name)

extern cudaError_t cudaStreamCreate(cudaStream_t *);
extern cudaError_t cudaStreamCreateWithFlags(cudaStream_t *, unsigned int);
extern cudaError_t cudaStreamCreateWithPriority(cudaStream_t *, unsigned int, int);
extern cudaError_t cudaStreamGetFlags(cudaStream_t, unsigned int *);
extern cudaError_t cudaStreamGetPriority(cudaStream_t, int *);
extern cudaError_t cudaStreamDestroy(cudaStream_t);
extern cudaError_t cudaStreamSynchronize(cudaStream_t);
extern cudaError_t cudaStreamQuery(cudaStream_t);
extern cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned int);
extern cudaError_t cudaStreamIsCapturing(cudaStream_t, int *);
extern cudaError_t cudaStreamAddCallback(cudaStream_t,
                                         void (*)(cudaStream_t, cudaError_t, void *), void *,
                                         unsigned int);
extern cudaError_t cudaLaunchHostFunc(cudaStream_t, void (*)(void *), void *);
extern cudaError_t cudaEventCreate(cudaEvent_t *);
extern cudaError_t cudaEventCreateWithFlags(cudaEvent_t *, unsigned int);
extern cudaError_t cudaEventDestroy(cudaEvent_t);
extern cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t);
extern cudaError_t cudaEventQuery(cudaEvent_t);
extern cudaError_t cudaEventSynchronize(cudaEvent_t);
extern cudaError_t cudaEventElapsedTime(float *, cudaEvent_t, cudaEvent_t);
extern int cuStreamGetCtx(cudaStream_t, void **);

FUNCTION0(intptr_t, streamCreate)
{
    cudaStream_t stream;
    return failed(cudaStreamCreate(&stream)) ? 0 : (intptr_t)stream;
}

FUNCTION1(intptr_t, streamCreateWithFlags, unsigned int, flags)
{
    cudaStream_t stream;
    return failed(cudaStreamCreateWithFlags(&stream, flags)) ? 0 : (intptr_t)stream;
}

FUNCTION2(intptr_t, streamCreateWithPriority, unsigned int, flags, int, priority)
{
    cudaStream_t stream;
    return failed(cudaStreamCreateWithPriority(&stream, flags, priority)) ? 0 : (intptr_t)stream;
}

FUNCTION1(unsigned int, streamGetFlags, intptr_t, stream)
{
    unsigned int flags;
    return failed(cudaStreamGetFlags((cudaStream_t)stream, &flags)) ? 0 : flags;
}

FUNCTION1(int, streamGetPriority, intptr_t, stream)
{
    int priority;
    return failed(cudaStreamGetPriority((cudaStream_t)stream, &priority)) ? 0 : priority;
}

FUNCTION1(PyObject *, streamDestroy, intptr_t, stream)
{
    return done(cudaStreamDestroy((cudaStream_t)stream));
}

FUNCTION1(PyObject *, streamSynchronize, intptr_t, stream)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaStreamSynchronize((cudaStream_t)stream))
    return done(status);
}

/* Queries answer with the status: "not ready" is no error. */
FUNCTION1(PyObject *, streamQuery, intptr_t, stream)
{
    return PyLong_FromLong(cudaStreamQuery((cudaStream_t)stream));
}

static PyObject *wait_event(intptr_t stream, intptr_t event, unsigned int flags)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaStreamWaitEvent((cudaStream_t)stream, (cudaEvent_t)event, flags))
    return done(status);
}

static const char signature_streamWaitEvent[] =
    "PyObject *(intptr_t, intptr_t, " OPTIONAL(streamWaitEvent);
static PyObject *cupy_streamWaitEvent(intptr_t stream, intptr_t event, SKIP,
                                      struct optional_flags *optional)
{
    return wait_event(stream, event, FLAGS_OR(optional, 0));
}
PYTHON_HEAD(streamWaitEvent, 3, 2, "stream", "event", "flags")
    GET(0, intptr_t, stream)
    GET(1, intptr_t, event)
    unsigned int flags = 0;
    if (bound[2] && !to_unsigned(bound[2], &flags))
        return NULL;
    RETURN(wait_event(stream, event, flags))

FUNCTION1(int, streamIsCapturing, intptr_t, stream)
{
    int status;
    return failed(cudaStreamIsCapturing((cudaStream_t)stream, &status)) ? -1 : status;
}

/* Callbacks: data is a tuple (function, argument), ours to let go once it has run. */
static void finish_callback(PyObject *data, PyObject *result)
{
    if (!result)
        PyErr_WriteUnraisable(PyTuple_GET_ITEM(data, 0));
    Py_XDECREF(result);
    Py_DECREF(data);
}

static void call_with_status(cudaStream_t stream, cudaError_t status, void *data)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *result =
        PyObject_CallFunction(PyTuple_GET_ITEM((PyObject *)data, 0), "niO", (Py_ssize_t)stream,
                              status, PyTuple_GET_ITEM((PyObject *)data, 1));
    finish_callback(data, result);
    PyGILState_Release(state);
}

static void call(void *data)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *result = PyObject_CallOneArg(PyTuple_GET_ITEM((PyObject *)data, 0),
                                           PyTuple_GET_ITEM((PyObject *)data, 1));
    finish_callback(data, result);
    PyGILState_Release(state);
}

static PyObject *add_callback(intptr_t stream, PyObject *callback, intptr_t arg,
                              unsigned int flags)
{
    PyObject *data = Py_BuildValue("(On)", callback, (Py_ssize_t)arg);
    if (!data)
        return NULL;
    cudaError_t status;
    WITHOUT_GIL(status, cudaStreamAddCallback((cudaStream_t)stream, call_with_status, data, flags))
    if (status != cudaSuccess)
        Py_DECREF(data);
    return done(status);
}

static const char signature_streamAddCallback[] =
    "PyObject *(intptr_t, PyObject *, intptr_t, " OPTIONAL(streamAddCallback);
static PyObject *cupy_streamAddCallback(intptr_t stream, PyObject *callback, intptr_t arg, SKIP,
                                        struct optional_flags *optional)
{
    return add_callback(stream, callback, arg, FLAGS_OR(optional, 0));
}
PYTHON_HEAD(streamAddCallback, 4, 3, "stream", "callback", "arg", "flags")
    GET(0, intptr_t, stream)
    GET(1, PyObject *, callback)
    GET(2, intptr_t, arg)
    unsigned int flags = 0;
    if (bound[3] && !to_unsigned(bound[3], &flags))
        return NULL;
    RETURN(add_callback(stream, callback, arg, flags))

static PyObject *launch(intptr_t stream, PyObject *data)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaLaunchHostFunc((cudaStream_t)stream, call, data))
    if (status != cudaSuccess)
        Py_DECREF(data);
    return done(status);
}

FUNCTION3(PyObject *, launchHostFunc, intptr_t, stream, PyObject *, callback, intptr_t, arg)
{
    PyObject *data = Py_BuildValue("(On)", callback, (Py_ssize_t)arg);
    return data ? launch(stream, data) : NULL;
}

/* The caller keeps the tuple (function, argument) alive, for as long as a graph may run it. */
FUNCTION2(PyObject *, _launchHostFuncUnmanaged, intptr_t, stream, PyObject *, func_arg)
{
    if (!PyTuple_Check(func_arg) || PyTuple_GET_SIZE(func_arg) != 2) {
        PyErr_SetString(PyExc_TypeError, "func_arg must be a tuple (function, argument)");
        return NULL;
    }
    Py_INCREF(func_arg);
    return launch(stream, func_arg);
}

FUNCTION0(intptr_t, eventCreate)
{
    cudaEvent_t event;
    return failed(cudaEventCreate(&event)) ? 0 : (intptr_t)event;
}

FUNCTION1(intptr_t, eventCreateWithFlags, unsigned int, flags)
{
    cudaEvent_t event;
    return failed(cudaEventCreateWithFlags(&event, flags)) ? 0 : (intptr_t)event;
}

FUNCTION1(PyObject *, eventDestroy, intptr_t, event)
{
    return done(cudaEventDestroy((cudaEvent_t)event));
}

FUNCTION2(PyObject *, eventRecord, intptr_t, event, intptr_t, stream)
{
    return done(cudaEventRecord((cudaEvent_t)event, (cudaStream_t)stream));
}

FUNCTION1(PyObject *, eventQuery, intptr_t, event)
{
    return PyLong_FromLong(cudaEventQuery((cudaEvent_t)event));
}

FUNCTION1(PyObject *, eventSynchronize, intptr_t, event)
{
    cudaError_t status;
    WITHOUT_GIL(status, cudaEventSynchronize((cudaEvent_t)event))
    return done(status);
}

FUNCTION2(float, eventElapsedTime, intptr_t, start, intptr_t, end)
{
    float milliseconds;
    cudaError_t status =
        cudaEventElapsedTime(&milliseconds, (cudaEvent_t)start, (cudaEvent_t)end);
    return failed(status) ? 0 : milliseconds;
}

FUNCTION1(intptr_t, streamGetCtx, intptr_t, stream)
{
    void *context;
    return failed(cuStreamGetCtx((cudaStream_t)stream, &context)) ? 0 : (intptr_t)context;
}

const struct entry served_streams[] = {
    RUNTIME(streamCreate), RUNTIME(streamCreateWithFlags), RUNTIME(streamCreateWithPriority),
    RUNTIME(streamGetFlags), RUNTIME(streamGetPriority), RUNTIME(streamDestroy),
    RUNTIME(streamSynchronize), RUNTIME(streamQuery), RUNTIME(streamWaitEvent),
    RUNTIME(streamIsCapturing), RUNTIME(streamAddCallback), RUNTIME(launchHostFunc),
    RUNTIME(_launchHostFuncUnmanaged),
    RUNTIME(eventCreate), RUNTIME(eventCreateWithFlags), RUNTIME(eventDestroy),
    RUNTIME(eventRecord), RUNTIME(eventQuery), RUNTIME(eventSynchronize),
    RUNTIME(eventElapsedTime), DRIVER(streamGetCtx), END,
};
