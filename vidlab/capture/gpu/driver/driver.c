/* What CuPy asks of the CUDA runtime, and where it is in the program: a CPython extension.
 *
 * In driver.c, the trampolines:
 *
 *   trampolines() -> {name: (address, signature)}
 *       Our stand-ins for CuPy's C functions, by the names of its runtime module.
 *   original(name, address)     what a trampoline calls; must be set before it is used.
 *   handlers(allocating, allocated, freeing, freed)     or None each: who is told.
 *   swap(folders, {old: new}) -> number of words
 *       Replaces words in the writable data of the shared objects below `folders`.
 *   current_stream() -> int     CuPy's current stream in this thread (0: the default stream)
 *   current_stream_from(address)     the C function that knows it; 0: none, all are 0.
 *
 * In walker.c: walk(depth, skip=0) -> bytes, hide(prefix). In records.c: Recorder and Leases, what
 * is written of each event. In steps.c: the log of what was done on which stream. Each file says
 * more at its top.
 *
 * A trampoline runs in place of CuPy's own function, with the GIL held. It calls
 * `allocating(name, size, stream)` or `freeing(name, address, stream)`, whose result is a token;
 * the original; and, if the token is not None, `allocated(token, address, error, t0, t1)` or
 * `freed(token, error, t0, t1)`. `stream` is -1 where the function has none. What the original
 * returns or raises is what CuPy sees, and an exception that was being handled stays as it was.
 * Only `allocating` may refuse, by raising. This module is never unloaded, and a trampoline
 * without handlers only calls the original.
 */
#include "driver.h"
#include <link.h>
#include <string.h>

/* ---- Handlers that raise ------------------------------------------------------------------ */

static int raise_later(void *error) {
    PyErr_SetObject((PyObject *)Py_TYPE((PyObject *)error), error);
    Py_DECREF((PyObject *)error);
    return -1;
}

/* A handler raised where CuPy cannot be told. An interrupt that Python delivered inside our
 * handler is raised again in the main thread, as soon as it runs Python; an error is reported. */
static void report(PyObject *handler) {
    if (PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_WriteUnraisable(handler);
        return;
    }
    Error error = take_error();
    PyObject *value = error_value(&error);
    Py_XINCREF(value);
    if (value == NULL || Py_AddPendingCall(raise_later, value) != 0) {
        Py_XDECREF(value);
        give_error(error);
        PyErr_WriteUnraisable(handler);
        return;
    }
    drop_error(error);
}

/* ---- The functions ---------------------------------------------------------------------- */

#define OPTIONS(name) \
    ", struct __pyx_opt_args_13cupy_backends_4cuda_3api_7runtime_" #name " *__pyx_optional_args)"
#define SKIP "int __pyx_skip_dispatch"

/* X(name, result, the C parameters, the capsule's name) */
#define FUNCTIONS(X) \
    X(malloc, intptr_t, (size_t, int), "intptr_t (size_t, " SKIP ")") \
    X(mallocManaged, intptr_t, (size_t, int, void *), \
      "intptr_t (size_t, " SKIP OPTIONS(mallocManaged)) \
    X(mallocAsync, intptr_t, (size_t, intptr_t, int), "intptr_t (size_t, intptr_t, " SKIP ")") \
    X(mallocFromPoolAsync, intptr_t, (size_t, intptr_t, intptr_t, int), \
      "intptr_t (size_t, intptr_t, intptr_t, " SKIP ")") \
    X(hostAlloc, intptr_t, (size_t, unsigned, int), "intptr_t (size_t, unsigned int, " SKIP ")") \
    X(free, PyObject *, (intptr_t, int), "PyObject *(intptr_t, " SKIP ")") \
    X(freeHost, PyObject *, (intptr_t, int), "PyObject *(intptr_t, " SKIP ")") \
    X(freeAsync, PyObject *, (intptr_t, intptr_t, int), \
      "PyObject *(intptr_t, intptr_t, " SKIP ")") \
    X(memcpy, PyObject *, (intptr_t, intptr_t, size_t, int, int), \
      "PyObject *(intptr_t, intptr_t, size_t, int, " SKIP ")") \
    X(memcpyAsync, PyObject *, (intptr_t, intptr_t, size_t, int, intptr_t, int), \
      "PyObject *(intptr_t, intptr_t, size_t, int, intptr_t, " SKIP ")") \
    X(memcpyPeerAsync, PyObject *, (intptr_t, int, intptr_t, int, size_t, intptr_t, int), \
      "PyObject *(intptr_t, int, intptr_t, int, size_t, intptr_t, " SKIP ")") \
    X(memcpy2DAsync, PyObject *, \
      (intptr_t, size_t, intptr_t, size_t, size_t, size_t, int, intptr_t, int), \
      "PyObject *(intptr_t, size_t, intptr_t, size_t, size_t, size_t, cudaMemcpyKind, intptr_t, " \
      SKIP ")") \
    X(memset, PyObject *, (intptr_t, int, size_t, int), \
      "PyObject *(intptr_t, int, size_t, " SKIP ")") \
    X(memsetAsync, PyObject *, (intptr_t, int, size_t, intptr_t, int), \
      "PyObject *(intptr_t, int, size_t, intptr_t, " SKIP ")") \
    X(eventRecord, PyObject *, (intptr_t, intptr_t, int), \
      "PyObject *(intptr_t, intptr_t, " SKIP ")") \
    X(eventSynchronize, PyObject *, (intptr_t, int), "PyObject *(intptr_t, " SKIP ")") \
    X(eventQuery, PyObject *, (intptr_t, int), "PyObject *(intptr_t, " SKIP ")") \
    X(eventDestroy, PyObject *, (intptr_t, int), "PyObject *(intptr_t, " SKIP ")") \
    X(streamWaitEvent, PyObject *, (intptr_t, intptr_t, int, void *), \
      "PyObject *(intptr_t, intptr_t, " SKIP OPTIONS(streamWaitEvent)) \
    X(streamSynchronize, PyObject *, (intptr_t, int), "PyObject *(intptr_t, " SKIP ")") \
    X(streamQuery, PyObject *, (intptr_t, int), "PyObject *(intptr_t, " SKIP ")") \
    X(streamDestroy, PyObject *, (intptr_t, int), "PyObject *(intptr_t, " SKIP ")") \
    X(deviceSynchronize, PyObject *, (int), "PyObject *(" SKIP ")") \
    X(streamGetFlags, unsigned, (intptr_t, int), "unsigned int (intptr_t, " SKIP ")")

#define NUMBER(name, result, parameters, signature) N_##name,
enum { FUNCTIONS(NUMBER) FUNCTION_COUNT };

#define ORIGINAL(name, result, parameters, signature) static result(*o_##name) parameters;
FUNCTIONS(ORIGINAL)

static PyObject *names[FUNCTION_COUNT]; /* each function's name, as handlers get it */

/* ---- The trampolines -------------------------------------------------------------------- */

static PyObject *allocating, *allocated, *freeing, *freed;

typedef struct { PyObject *handler, *token; int64_t t0; } Call;

static PyObject *call(PyObject *handler, PyObject **arguments, int count) {
    PyObject *result = NULL;
    int complete = 1;
    for (int i = 0; i < count; i++)
        complete &= arguments[i] != NULL;
    if (complete)
        result = PyObject_Vectorcall(handler, arguments, count, NULL);
    for (int i = 0; i < count; i++)
        Py_XDECREF(arguments[i]);
    return result;
}

/* Tell `before`. On return the caller's error indicator is as it was, unless -1: refused. */
static int begin(Call *c, PyObject *before, PyObject *after, int name, uintptr_t value,
                 intptr_t stream, int may_refuse) {
    c->handler = c->token = NULL;
    if (before == NULL || after == NULL)
        return 0;
    Error error = take_error();
    before = Py_NewRef(before);
    c->handler = Py_NewRef(after); /* ours for this call, whatever is uninstalled meanwhile */
    PyObject *arguments[] = {Py_NewRef(names[name]), PyLong_FromSize_t(value),
                             PyLong_FromSsize_t(stream)};
    c->token = call(before, arguments, 3);
    if (c->token == NULL && !may_refuse)
        report(before);
    Py_DECREF(before);
    if (c->token == NULL || c->token == Py_None) {
        Py_CLEAR(c->handler);
        if (c->token == NULL && may_refuse) {
            drop_error(error);
            return -1;
        }
        Py_CLEAR(c->token);
    }
    give_error(error);
    c->t0 = c->handler ? now_ns() : 0;
    return 0;
}

/* Tell what came of it; `address` is NULL for a free. The error indicator stays as it is. */
static void end(Call *c, intptr_t *address, int failed) {
    if (c->handler == NULL)
        return;
    int64_t t1 = now_ns();
    Error error = take_error();
    PyObject *value = failed ? error_value(&error) : NULL;
    PyObject *arguments[5];
    int count = 0;
    arguments[count++] = c->token;
    if (address != NULL)
        arguments[count++] = PyLong_FromSsize_t(*address);
    arguments[count++] = Py_NewRef(value ? value : Py_None);
    arguments[count++] = PyLong_FromLongLong(c->t0);
    arguments[count++] = PyLong_FromLongLong(t1);
    PyObject *result = call(c->handler, arguments, count);
    if (result == NULL)
        report(c->handler);
    Py_XDECREF(result);
    Py_DECREF(c->handler);
    give_error(error);
}

#define ALLOCATE(name, parameters, arguments, size, stream) \
    static intptr_t t_##name parameters { \
        Call c; \
        if (begin(&c, allocating, allocated, N_##name, size, stream, 1) < 0) \
            return 0; \
        intptr_t address = o_##name arguments; \
        end(&c, &address, address == 0 && PyErr_Occurred() != NULL); \
        return address; \
    }
ALLOCATE(malloc, (size_t n, int skip), (n, skip), n, -1)
ALLOCATE(mallocManaged, (size_t n, int skip, void *flags), (n, skip, flags), n, -1)
ALLOCATE(mallocAsync, (size_t n, intptr_t s, int skip), (n, s, skip), n, s)
ALLOCATE(mallocFromPoolAsync, (size_t n, intptr_t p, intptr_t s, int skip), (n, p, s, skip), n, s)
ALLOCATE(hostAlloc, (size_t n, unsigned flags, int skip), (n, flags, skip), n, -1)

/* A cudaFree waits for the device's work; a cudaFreeAsync is ordered in its stream. */
#define RELEASE(name, parameters, arguments, address, stream, step) \
    static PyObject *t_##name parameters { \
        Call c; \
        begin(&c, freeing, freed, N_##name, (uintptr_t)address, stream, 0); \
        int64_t start = steps_written; \
        PyObject *result = o_##name arguments; \
        if (result != NULL) \
            log_step(step, names[N_##name], address, 0, stream, start); \
        end(&c, NULL, result == NULL); \
        return result; \
    }
RELEASE(free, (intptr_t p, int skip), (p, skip), p, -1, ALL_DONE)
RELEASE(freeHost, (intptr_t p, int skip), (p, skip), p, -1, ALL_DONE)
RELEASE(freeAsync, (intptr_t p, intptr_t s, int skip), (p, s, skip), p, s, FREE)

/* Work is logged before it is submitted; what orders it, after the runtime said that it did. */
#define WORK(name, parameters, arguments, log) \
    static PyObject *t_##name parameters { \
        log; \
        return o_##name arguments; \
    }
#define USED(name, address, bytes, stream) log_step(USE, names[N_##name], address, bytes, stream, steps_written)
WORK(memcpyAsync, (intptr_t d, intptr_t s, size_t n, int kind, intptr_t stream, int skip),
     (d, s, n, kind, stream, skip),
     USED(memcpyAsync, d, n, stream); USED(memcpyAsync, s, n, stream))
WORK(memcpyPeerAsync,
     (intptr_t d, int to, intptr_t s, int from, size_t n, intptr_t stream, int skip),
     (d, to, s, from, n, stream, skip),
     USED(memcpyPeerAsync, d, n, stream); USED(memcpyPeerAsync, s, n, stream))
WORK(memcpy2DAsync,
     (intptr_t d, size_t dp, intptr_t s, size_t sp, size_t w, size_t h, int kind, intptr_t stream,
      int skip),
     (d, dp, s, sp, w, h, kind, stream, skip),
     USED(memcpy2DAsync, d, dp *h, stream); USED(memcpy2DAsync, s, sp *h, stream))
WORK(memset, (intptr_t p, int value, size_t n, int skip), (p, value, n, skip),
     USED(memset, p, n, 0))
WORK(memsetAsync, (intptr_t p, int value, size_t n, intptr_t stream, int skip),
     (p, value, n, stream, skip), USED(memsetAsync, p, n, stream))

#define ORDER(name, parameters, arguments, what, address, stream) \
    static PyObject *t_##name parameters { \
        int64_t start = steps_written; \
        PyObject *result = o_##name arguments; \
        if (result != NULL) \
            log_step(what, names[N_##name], address, 0, stream, start); \
        return result; \
    }
ORDER(memcpy, (intptr_t d, intptr_t s, size_t n, int kind, int skip), (d, s, n, kind, skip),
      STREAM_DONE, 0, 0)
ORDER(eventRecord, (intptr_t e, intptr_t s, int skip), (e, s, skip), RECORD, e, s)
ORDER(eventSynchronize, (intptr_t e, int skip), (e, skip), EVENT_DONE, e, -1)
ORDER(eventDestroy, (intptr_t e, int skip), (e, skip), EVENT_GONE, e, -1)
ORDER(streamWaitEvent, (intptr_t s, intptr_t e, int skip, void *flags), (s, e, skip, flags), WAIT,
      e, s)
ORDER(streamSynchronize, (intptr_t s, int skip), (s, skip), STREAM_DONE, 0, s)
ORDER(deviceSynchronize, (int skip), (skip), ALL_DONE, 0, -1)

static PyObject *t_streamDestroy(intptr_t s, int skip) {
    forget_stream(s);
    log_step(STREAM_GONE, names[N_streamDestroy], 0, 0, s, steps_written);
    return o_streamDestroy(s, skip);
}

/* A query returns 0 where all is done. */
#define QUERY(name, parameters, arguments, what, address, stream) \
    static PyObject *t_##name parameters { \
        int64_t start = steps_written; \
        PyObject *result = o_##name arguments; \
        if (result != NULL && PyLong_Check(result) && PyObject_Not(result) == 1) \
            log_step(what, names[N_##name], address, 0, stream, start); \
        return result; \
    }
QUERY(eventQuery, (intptr_t e, int skip), (e, skip), EVENT_DONE, e, -1)
QUERY(streamQuery, (intptr_t s, int skip), (s, skip), STREAM_DONE, 0, s)

static unsigned t_streamGetFlags(intptr_t s, int skip) { return o_streamGetFlags(s, skip); }

#define ROW(name, result, parameters, signature) \
    {#name, signature, (void *)t_##name, (void **)&o_##name},
static const struct { const char *name, *signature; void *trampoline, **original; } functions[] = {
    FUNCTIONS(ROW)};

static int function_named(PyObject *name) {
    for (int i = 0; i < FUNCTION_COUNT; i++)
        if (PyUnicode_Check(name) && PyUnicode_Compare(name, names[i]) == 0)
            return i;
    PyErr_Format(PyExc_KeyError, "%R", name);
    return -1;
}

static PyObject *trampolines(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    PyObject *table = PyDict_New();
    for (int i = 0; table != NULL && i < FUNCTION_COUNT; i++) {
        PyObject *row = Py_BuildValue("Ns", PyLong_FromVoidPtr(functions[i].trampoline),
                                      functions[i].signature);
        if (row == NULL || PyDict_SetItem(table, names[i], row) < 0)
            Py_CLEAR(table);
        Py_XDECREF(row);
    }
    return table;
}

static PyObject *original(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *name, *number;
    if (!PyArg_ParseTuple(arguments, "OO", &name, &number))
        return NULL;
    int i = function_named(name);
    void *address = i < 0 ? NULL : PyLong_AsVoidPtr(number);
    if (PyErr_Occurred())
        return NULL;
    *functions[i].original = address;
    if (i == N_streamGetFlags)
        stream_flags_of = o_streamGetFlags;
    Py_RETURN_NONE;
}

static PyObject *handlers(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *given[4], **kept[] = {&allocating, &allocated, &freeing, &freed};
    if (!PyArg_ParseTuple(arguments, "OOOO", &given[0], &given[1], &given[2], &given[3]))
        return NULL;
    for (int i = 0; i < 4; i++)
        Py_XSETREF(*kept[i], given[i] == Py_None ? NULL : Py_NewRef(given[i]));
    Py_RETURN_NONE;
}

static intptr_t (*get_current_stream)(void);

static PyObject *current_stream(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    intptr_t stream = get_current_stream != NULL ? get_current_stream() : 0;
    if (stream == 0 && PyErr_Occurred())
        return NULL;
    return PyLong_FromSsize_t(stream);
}

static PyObject *current_stream_from(PyObject *module, PyObject *number) {
    (void)module;
    void *address = PyLong_AsVoidPtr(number);
    if (PyErr_Occurred())
        return NULL;
    get_current_stream = (intptr_t(*)(void))address;
    Py_RETURN_NONE;
}

/* ---- Import slots: words of a module's data that hold a function's address ---------------- */

typedef struct { uintptr_t start, end; } Range;
typedef struct { PyObject *folders; Range *ranges; size_t count, room; int failed; } Found;

static void add_range(Found *found, uintptr_t start, uintptr_t end) {
    start = (start + sizeof(void *) - 1) & ~(uintptr_t)(sizeof(void *) - 1);
    end &= ~(uintptr_t)(sizeof(void *) - 1);
    if (start >= end || found->failed)
        return;
    if (found->count == found->room) {
        size_t room = found->room ? 2 * found->room : 64;
        Range *more = realloc(found->ranges, room * sizeof(Range));
        if (more == NULL) {
            found->failed = 1;
            return;
        }
        found->ranges = more, found->room = room;
    }
    found->ranges[found->count++] = (Range){start, end};
}

/* The writable data of one shared object, without what the loader has made read-only. Its
 * program headers say where that is, so nothing else is ever looked at. Runs without the GIL:
 * another thread may be loading a library that waits for it. */
static int add_object(struct dl_phdr_info *info, size_t size, void *context) {
    (void)size;
    Found *found = context;
    int ours = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(found->folders); i++) {
        const char *folder = PyBytes_AS_STRING(PyTuple_GET_ITEM(found->folders, i));
        ours |= info->dlpi_name != NULL && !strncmp(info->dlpi_name, folder, strlen(folder));
    }
    uintptr_t read_only = 0, read_only_end = 0;
    for (int i = 0; ours && i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_GNU_RELRO) {
            read_only = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            read_only_end = read_only + info->dlpi_phdr[i].p_memsz;
        }
    for (int i = 0; ours && i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_W))
            continue;
        uintptr_t start = info->dlpi_addr + part->p_vaddr, end = start + part->p_memsz;
        if (read_only_end <= start || read_only >= end) {
            add_range(found, start, end);
        } else {
            add_range(found, start, read_only);
            add_range(found, read_only_end, end);
        }
    }
    return 0;
}

#define PAIRS 64

static PyObject *swap(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *folders, *mapping, *key, *value;
    if (!PyArg_ParseTuple(arguments, "O!O!", &PyTuple_Type, &folders, &PyDict_Type, &mapping))
        return NULL;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(folders); i++)
        if (!PyBytes_Check(PyTuple_GET_ITEM(folders, i))) {
            PyErr_SetString(PyExc_TypeError, "folders must be bytes");
            return NULL;
        }
    uintptr_t from[PAIRS], to[PAIRS], low = UINTPTR_MAX, high = 0;
    Py_ssize_t cursor = 0;
    int pairs = 0;
    while (PyDict_Next(mapping, &cursor, &key, &value) && pairs < PAIRS) {
        from[pairs] = (uintptr_t)PyLong_AsVoidPtr(key);
        to[pairs] = (uintptr_t)PyLong_AsVoidPtr(value);
        if (PyErr_Occurred())
            return NULL;
        low = from[pairs] < low ? from[pairs] : low;
        high = from[pairs] > high ? from[pairs] : high;
        pairs++;
    }
    Found found = {.folders = folders};
    Py_BEGIN_ALLOW_THREADS
    dl_iterate_phdr(add_object, &found);
    Py_END_ALLOW_THREADS
    long count = 0;
    for (size_t r = 0; r < found.count && !found.failed; r++)
        for (uintptr_t *word = (uintptr_t *)found.ranges[r].start;
             word < (uintptr_t *)found.ranges[r].end; word++)
            if (*word >= low && *word <= high)
                for (int i = 0; i < pairs; i++)
                    if (*word == from[i]) {
                        *(volatile uintptr_t *)word = to[i];
                        count++;
                        break;
                    }
    free(found.ranges);
    return found.failed ? PyErr_NoMemory() : PyLong_FromLong(count);
}

static PyMethodDef methods[] = {
    {"trampolines", trampolines, METH_NOARGS, NULL},
    {"original", original, METH_VARARGS, NULL},
    {"handlers", handlers, METH_VARARGS, NULL},
    {"swap", swap, METH_VARARGS, NULL},
    {"current_stream", current_stream, METH_NOARGS, NULL},
    {"current_stream_from", current_stream_from, METH_O, NULL},
    {"walk", (PyCFunction)(void (*)(void))walk, METH_FASTCALL, NULL},
    {"hide", hide, METH_O, NULL},
    {"note", note, METH_VARARGS, NULL},
    {"drain", drain, METH_NOARGS, NULL},
    {"position", position, METH_NOARGS, NULL},
    {"several", several, METH_O, NULL},
    {"flags", flags, METH_O, NULL},
    {"watch", watch, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_driver", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__driver(void) {
    for (int i = 0; i < FUNCTION_COUNT; i++)
        if (names[i] == NULL && (names[i] = PyUnicode_InternFromString(functions[i].name)) == NULL)
            return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && add_records(module) < 0)
        Py_CLEAR(module);
    return module;
}
