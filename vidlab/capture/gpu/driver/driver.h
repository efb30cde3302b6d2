/* What the sources of the extension `_driver` share. */
#ifndef VIDLAB_DRIVER_H
#define VIDLAB_DRIVER_H
#define PY_SSIZE_T_CLEAN
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <Python.h>
#include <stdint.h>
#include <time.h>

/* The error indicator, taken and given back as it was. */
#if PY_VERSION_HEX >= 0x030C0000
typedef PyObject *Error;
static inline Error take_error(void) { return PyErr_GetRaisedException(); }
static inline void give_error(Error error) { PyErr_SetRaisedException(error); }
static inline PyObject *error_value(Error *error) { return *error; }
static inline void drop_error(Error error) { Py_XDECREF(error); }
#else
typedef struct { PyObject *type, *value, *traceback; } Error;
static inline Error take_error(void) {
    Error error;
    PyErr_Fetch(&error.type, &error.value, &error.traceback);
    return error;
}
static inline void give_error(Error error) {
    PyErr_Restore(error.type, error.value, error.traceback);
}
static inline PyObject *error_value(Error *error) {
    if (error->type != NULL)
        PyErr_NormalizeException(&error->type, &error->value, &error->traceback);
    if (error->traceback != NULL)
        PyException_SetTraceback(error->value, error->traceback);
    return error->value;
}
static inline void drop_error(Error error) {
    Py_XDECREF(error.type);
    Py_XDECREF(error.value);
    Py_XDECREF(error.traceback);
}
#endif

/* The recording's clock. */
static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* walker.c */
#define MOST_DEPTH 128
typedef struct { uint64_t code; int64_t last; } Place;
Py_ssize_t places_here(Place *places, long depth, long skip); /* depth: MOST_DEPTH at most */
PyObject *walk(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *hide(PyObject *module, PyObject *prefix);

/* records.c */
int add_records(PyObject *module);

/* steps.c */
enum { USE, FREE, RECORD, WAIT, EVENT_DONE, STREAM_DONE, ALL_DONE, EVENT_GONE, STREAM_GONE };
extern unsigned (*stream_flags_of)(intptr_t stream, int skip);
extern int64_t steps_written;
void log_step(int what, PyObject *name, intptr_t address, intptr_t bytes, intptr_t stream,
              int64_t upto);
void forget_stream(intptr_t stream);
PyObject *note(PyObject *module, PyObject *arguments);
PyObject *drain(PyObject *module, PyObject *unused);
PyObject *position(PyObject *module, PyObject *unused);
PyObject *several(PyObject *module, PyObject *stream);
PyObject *flags(PyObject *module, PyObject *stream);
PyObject *watch(PyObject *module, PyObject *on);

#endif
