/* What the bridge's parts share: how one of CuPy's functions is declared.
 *
 * CuPy's modules call each other through C function pointers that they take from a table of
 * capsules (`__pyx_capi__`); a capsule's name is the function's C signature. FUNCTION2(...) and
 * its like define one such function, write its signature down as text from the same words, and
 * make the Python callable of the same name and parameters beside it. */
#ifndef BRIDGE_H
#define BRIDGE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

#include "hostcuda.h"

typedef int cudaMemcpyKind; /* as a capsule's name spells it */

typedef PyObject *(*python_function)(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);

/* A function of CuPy's, and ours in its place. */
struct entry {
    const char *module;    /* "runtime", "driver", "nvrtc" or "cub" */
    const char *name;
    const char *signature; /* whole; of a refused function what it returns */
    void *function;
    python_function python; /* NULL: refused */
};

extern const struct entry served_memory[], served_streams[], served_devices[], refused[];

extern PyObject *runtime_error; /* CUDARuntimeError */
extern PyObject *not_served;    /* NotServedError */
extern PyObject *pointer_attributes;

extern cudaError_t cudaGetLastError(void);

PyObject *done(cudaError_t status);  /* None, or NULL with CUDARuntimeError set */
bool failed(cudaError_t status);
PyObject *refuse(const char *name);

/* Binds a call's arguments to parameters, as Python does. */
bool bind_arguments(const char *function, const char *const *names, PyObject *const *given,
                    Py_ssize_t positional, PyObject *keywords, PyObject **bound,
                    Py_ssize_t count, Py_ssize_t required);
bool to_int(PyObject *from, int *to);
bool to_unsigned(PyObject *from, unsigned int *to);
bool to_pointer(PyObject *from, intptr_t *to);
bool to_size(PyObject *from, size_t *to);
bool to_object(PyObject *from, PyObject **to);
PyObject *from_int(int value);
PyObject *from_unsigned(unsigned int value);
PyObject *from_pointer(intptr_t value);
PyObject *from_float(float value);
PyObject *from_object(PyObject *value);

#define CONVERT(object, target)                                                                \
    _Generic((target), int *: to_int, unsigned int *: to_unsigned, intptr_t *: to_pointer,     \
             size_t *: to_size, PyObject **: to_object)(object, target)
#define BOX(value)                                                                             \
    _Generic((value), int: from_int, unsigned int: from_unsigned, intptr_t: from_pointer,      \
             float: from_float, PyObject *: from_object)(value)

#define LAST "int __pyx_skip_dispatch)"
#define SKIP int skip __attribute__((unused))
#define NO_FAULT __attribute__((unused))

/* The status of a call of the CUDA runtime, made without the GIL. */
#define WITHOUT_GIL(status, call)                                                              \
    Py_BEGIN_ALLOW_THREADS status = (call);                                                    \
    Py_END_ALLOW_THREADS

#define PYTHON_HEAD(name, count, required, ...)                                                \
    static PyObject *python_##name(PyObject *self NO_FAULT, PyObject *const *given,            \
                                   Py_ssize_t positional, PyObject *keywords)                  \
    {                                                                                          \
        static const char *const names[] = {__VA_ARGS__};                                      \
        PyObject *bound[count ? count : 1] = {NULL};                                           \
        if (!bind_arguments(#name, names, given, positional, keywords, bound, count, required)) \
            return NULL;

#define GET(i, T, a)                                                                           \
    T a;                                                                                       \
    if (!CONVERT(bound[i], &a))                                                                \
        return NULL;

#define RETURN(...)                                                                            \
        return BOX(__VA_ARGS__);                                                               \
    }

#define FUNCTION0(R, name)                                                                     \
    static R cupy_##name(SKIP);                                                                \
    static const char signature_##name[] = #R " (" LAST;                                       \
    PYTHON_HEAD(name, 0, 0, NULL) RETURN(cupy_##name(0))                                       \
    static R cupy_##name(SKIP)

#define FUNCTION1(R, name, T, a)                                                               \
    static R cupy_##name(T a, SKIP);                                                           \
    static const char signature_##name[] = #R " (" #T ", " LAST;                               \
    PYTHON_HEAD(name, 1, 1, #a) GET(0, T, a) RETURN(cupy_##name(a, 0))                         \
    static R cupy_##name(T a, SKIP)

#define FUNCTION2(R, name, T, a, U, b)                                                         \
    static R cupy_##name(T a, U b, SKIP);                                                      \
    static const char signature_##name[] = #R " (" #T ", " #U ", " LAST;                       \
    PYTHON_HEAD(name, 2, 2, #a, #b) GET(0, T, a) GET(1, U, b) RETURN(cupy_##name(a, b, 0))     \
    static R cupy_##name(T a, U b, SKIP)

#define FUNCTION3(R, name, T, a, U, b, V, c)                                                   \
    static R cupy_##name(T a, U b, V c, SKIP);                                                 \
    static const char signature_##name[] = #R " (" #T ", " #U ", " #V ", " LAST;               \
    PYTHON_HEAD(name, 3, 3, #a, #b, #c) GET(0, T, a) GET(1, U, b) GET(2, V, c)                 \
    RETURN(cupy_##name(a, b, c, 0))                                                            \
    static R cupy_##name(T a, U b, V c, SKIP)

#define FUNCTION4(R, name, T, a, U, b, V, c, W, d)                                             \
    static R cupy_##name(T a, U b, V c, W d, SKIP);                                            \
    static const char signature_##name[] = #R " (" #T ", " #U ", " #V ", " #W ", " LAST;       \
    PYTHON_HEAD(name, 4, 4, #a, #b, #c, #d)                                                    \
    GET(0, T, a) GET(1, U, b) GET(2, V, c) GET(3, W, d)                                        \
    RETURN(cupy_##name(a, b, c, d, 0))                                                         \
    static R cupy_##name(T a, U b, V c, W d, SKIP)

#define FUNCTION5(R, name, T, a, U, b, V, c, W, d, X, e)                                       \
    static R cupy_##name(T a, U b, V c, W d, X e, SKIP);                                       \
    static const char signature_##name[] =                                                     \
        #R " (" #T ", " #U ", " #V ", " #W ", " #X ", " LAST;                                  \
    PYTHON_HEAD(name, 5, 5, #a, #b, #c, #d, #e)                                                \
    GET(0, T, a) GET(1, U, b) GET(2, V, c) GET(3, W, d) GET(4, X, e)                           \
    RETURN(cupy_##name(a, b, c, d, e, 0))                                                      \
    static R cupy_##name(T a, U b, V c, W d, X e, SKIP)

#define FUNCTION6(R, name, T, a, U, b, V, c, W, d, X, e, Y, f)                                 \
    static R cupy_##name(T a, U b, V c, W d, X e, Y f, SKIP);                                  \
    static const char signature_##name[] =                                                     \
        #R " (" #T ", " #U ", " #V ", " #W ", " #X ", " #Y ", " LAST;                          \
    PYTHON_HEAD(name, 6, 6, #a, #b, #c, #d, #e, #f)                                            \
    GET(0, T, a) GET(1, U, b) GET(2, V, c) GET(3, W, d) GET(4, X, e) GET(5, Y, f)              \
    RETURN(cupy_##name(a, b, c, d, e, f, 0))                                                   \
    static R cupy_##name(T a, U b, V c, W d, X e, Y f, SKIP)

#define FUNCTION7(R, name, T, a, U, b, V, c, W, d, X, e, Y, f, Z, g)                           \
    static R cupy_##name(T a, U b, V c, W d, X e, Y f, Z g, SKIP);                             \
    static const char signature_##name[] =                                                     \
        #R " (" #T ", " #U ", " #V ", " #W ", " #X ", " #Y ", " #Z ", " LAST;                  \
    PYTHON_HEAD(name, 7, 7, #a, #b, #c, #d, #e, #f, #g)                                        \
    GET(0, T, a) GET(1, U, b) GET(2, V, c) GET(3, W, d) GET(4, X, e) GET(5, Y, f) GET(6, Z, g) \
    RETURN(cupy_##name(a, b, c, d, e, f, g, 0))                                                \
    static R cupy_##name(T a, U b, V c, W d, X e, Y f, Z g, SKIP)

#define FUNCTION8(R, name, T, a, U, b, V, c, W, d, X, e, Y, f, Z, g, S, h)                     \
    static R cupy_##name(T a, U b, V c, W d, X e, Y f, Z g, S h, SKIP);                        \
    static const char signature_##name[] =                                                     \
        #R " (" #T ", " #U ", " #V ", " #W ", " #X ", " #Y ", " #Z ", " #S ", " LAST;          \
    PYTHON_HEAD(name, 8, 8, #a, #b, #c, #d, #e, #f, #g, #h)                                    \
    GET(0, T, a) GET(1, U, b) GET(2, V, c) GET(3, W, d) GET(4, X, e) GET(5, Y, f) GET(6, Z, g) \
    GET(7, S, h) RETURN(cupy_##name(a, b, c, d, e, f, g, h, 0))                                \
    static R cupy_##name(T a, U b, V c, W d, X e, Y f, Z g, S h, SKIP)

/* A last parameter with a default comes in a structure; a null pointer stands for the default. */
struct optional_flags {
    int count;
    unsigned int flags;
};
#define FLAGS_OR(optional, otherwise)                                                          \
    ((optional) && (optional)->count > 0 ? (optional)->flags : (otherwise))
#define OPTIONAL(name)                                                                         \
    LAST_WITHOUT_PARENTHESIS ", struct __pyx_opt_args_13cupy_backends_4cuda_3api_7runtime_"    \
    #name " *__pyx_optional_args)"
#define LAST_WITHOUT_PARENTHESIS "int __pyx_skip_dispatch"

#define SERVED(module, name)                                                                   \
    {module, #name, signature_##name, (void *)cupy_##name, python_##name}
#define END {NULL, NULL, NULL, NULL, NULL}

#endif
