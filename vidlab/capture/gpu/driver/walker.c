/* Where the calling thread is, as bytes: a call stack without a name, a line or a frame.
 *
 *   walk(depth, skip=0) -> bytes
 *       The calling thread's Python frames, innermost first, at most `depth` of them (128): for
 *       each the pair (id of its code object: u64, f_lasti: i64), in native byte order. Equal
 *       bytes mean the same call stack for as long as the code objects live, so whoever interns
 *       them keeps a reference to each code object. Frames of hidden files are left out wherever
 *       they are, then `skip` more. No frame is kept.
 *   hide(prefix)
 *       Hides the frames of every file whose name starts with `prefix`.
 *
 * The same in Python, called where `walk` is:
 *
 *   pairs, frame = [], sys._getframe()
 *   while frame is not None and len(pairs) < 2 * depth:
 *       if not frame.f_code.co_filename.startswith(prefix):
 *           pairs += id(frame.f_code), frame.f_lasti
 *       frame = frame.f_back
 *   key = struct.pack(f"@{'Qq' * (len(pairs) // 2)}", *pairs)
 */
/* CPython 3.11's own frames are walked as they are: asking for frame objects would make them,
 * which takes ten times as long. Other versions go through the public API. */
#include <patchlevel.h>
#if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030C0000 && defined(__has_include)
#if __has_include(<internal/pycore_frame.h>)
#define OWN_FRAMES
#define Py_BUILD_CORE
#endif
#endif
#include "driver.h"
#include <frameobject.h>
#include <string.h>
#ifdef OWN_FRAMES
#include <internal/pycore_frame.h>
#endif

#define PREFIXES 8

static char *prefixes[PREFIXES];
static int prefix_count;

/* Whether a file is hidden, by the string object that its code objects share. Holding the
 * string makes its address mean it. A place of the table that another string takes is asked
 * again, no more. */
#define FILES 1024
static struct { PyObject *name; int hidden; } files[FILES];

static int look(PyObject *name) {
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(name, &length);
    if (text == NULL) {
        PyErr_Clear();
        return 0;
    }
    for (int i = 0; i < prefix_count; i++)
        if (strncmp(text, prefixes[i], strlen(prefixes[i])) == 0)
            return 1;
    return 0;
}

static inline int hidden(PyObject *name) {
    unsigned at = ((uintptr_t)name >> 4) % FILES;
    if (files[at].name == name)
        return files[at].hidden;
    int result = look(name);
    PyObject *before = files[at].name;
    files[at].name = Py_NewRef(name), files[at].hidden = result;
    Py_XDECREF(before);
    return result;
}

PyObject *hide(PyObject *module, PyObject *prefix) {
    (void)module;
    const char *text = PyUnicode_AsUTF8(prefix);
    if (text == NULL)
        return NULL;
    for (int i = 0; i < prefix_count; i++)
        if (strcmp(prefixes[i], text) == 0)
            Py_RETURN_NONE;
    if (prefix_count == PREFIXES) {
        PyErr_SetString(PyExc_ValueError, "too many hidden folders");
        return NULL;
    }
    char *copy = strdup(text);
    if (copy == NULL)
        return PyErr_NoMemory();
    prefixes[prefix_count++] = copy;
    for (int at = 0; at < FILES; at++)
        Py_CLEAR(files[at].name);
    Py_RETURN_NONE;
}

Py_ssize_t places_here(Place *places, long depth, long skip) {
    Py_ssize_t found = 0;
#ifdef OWN_FRAMES
    _PyInterpreterFrame *frame = PyThreadState_Get()->cframe->current_frame;
    for (; frame != NULL && found < depth; frame = frame->previous) {
        PyCodeObject *code = frame->f_code;
        if (!_PyFrame_IsIncomplete(frame) && !hidden(code->co_filename) && skip-- <= 0)
            places[found++] = (Place){
                (uint64_t)(uintptr_t)code,
                _PyInterpreterFrame_LASTI(frame) * (int64_t)sizeof(_Py_CODEUNIT)};
    }
#else
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    while (frame != NULL && found < depth) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        if (!hidden(code->co_filename) && skip-- <= 0)
            places[found++] = (Place){(uint64_t)(uintptr_t)code, PyFrame_GetLasti(frame)};
        Py_DECREF(code); /* the frame holds it still */
        PyFrameObject *caller = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = caller;
    }
    Py_XDECREF(frame);
#endif
    return found;
}

PyObject *walk(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    if (count < 1 || count > 2) {
        PyErr_SetString(PyExc_TypeError, "walk(depth, skip=0)");
        return NULL;
    }
    long depth = PyLong_AsLong(arguments[0]), skip = count > 1 ? PyLong_AsLong(arguments[1]) : 0;
    if (PyErr_Occurred())
        return NULL;
    Place places[MOST_DEPTH];
    Py_ssize_t found = places_here(places, depth > MOST_DEPTH ? MOST_DEPTH : depth, skip);
    return PyBytes_FromStringAndSize((char *)places, found * (Py_ssize_t)sizeof(Place));
}
