/* The log of what was done on which CUDA stream, kept until vidlab asks for it.
 *
 *   watch(on)      whether steps are kept; forgets those there are.
 *   note(what, name, address, bytes, stream, upto)     keeps one that no trampoline saw.
 *   several(stream) -> bool     whether more than one stream was ever used, `stream` counted.
 *   flags(stream) -> int        1 for a stream that does not wait for the default stream.
 *   position() -> int           how many steps there were: the log's clock.
 *   drain() -> (first, lost, [(what, name, address, bytes, stream, flags, upto), ...])
 *       The steps since the last drain, of which the first has position `first`; `lost` says
 *       how many before it were overwritten.
 *
 * A step costs some nanoseconds: it goes into a ring, and is looked at only once a block is
 * handed out on one of several streams. All functions need the GIL.
 */
#include "driver.h"

unsigned (*stream_flags_of)(intptr_t stream, int skip);
int64_t steps_written;

typedef struct {
    int what, flags;
    int64_t upto; /* the position that a wait for completion vouches for */
    PyObject *name;
    intptr_t address, bytes, stream; /* the address may be an event's */
} Step;

#define STEPS 2048
#define RECENT 256 /* how many are looked at, of those before a second stream was used */
static Step steps[STEPS]; /* a ring: what is not drained in time is overwritten, oldest first */
static int64_t drained;
static int watching, many_streams;
static intptr_t first_stream = -1;

#define KNOWN_STREAMS 256
static struct { intptr_t stream; int flags; } known[KNOWN_STREAMS];

/* Asked once for each stream, while it is in use: a handle that is no longer one may crash. */
static int stream_flags(intptr_t stream) {
    if (stream >= 0 && stream <= 2)
        return 0;
    unsigned at = ((uintptr_t)stream >> 4) * 2654435761u % KNOWN_STREAMS;
    if (known[at].stream != stream) {
        int value = 0;
        if (stream_flags_of != NULL) {
            Error error = take_error();
            value = (int)(stream_flags_of(stream, 0) & 1);
            if (PyErr_Occurred())
                PyErr_Clear(), value = 0;
            give_error(error);
        }
        known[at].stream = stream, known[at].flags = value;
    }
    return known[at].flags;
}

void forget_stream(intptr_t stream) {
    for (unsigned at = 0; at < KNOWN_STREAMS; at++)
        if (known[at].stream == stream)
            known[at].stream = 0;
}

static void count_stream(intptr_t stream) {
    if (first_stream < 0)
        first_stream = stream;
    if (stream == first_stream || many_streams)
        return;
    many_streams = 1;
    if (drained < steps_written - RECENT)
        drained = steps_written - RECENT;
}

void log_step(int what, PyObject *name, intptr_t address, intptr_t bytes, intptr_t stream,
              int64_t upto) {
    if (!watching)
        return;
    if (stream == 1)
        stream = 0; /* two handles of the legacy default stream */
    int value = what == STREAM_GONE || stream < 0 ? 0 : stream_flags(stream);
    if (what == USE || what == RECORD || what == WAIT || what == FREE)
        count_stream(stream);
    steps[steps_written++ % STEPS] = (Step){what, value, upto, name, address, bytes, stream};
}

PyObject *note(PyObject *module, PyObject *arguments) {
    (void)module;
    int what;
    PyObject *name; /* kept for good: callers give a function's name */
    Py_ssize_t address, bytes, stream;
    long long upto;
    if (!PyArg_ParseTuple(arguments, "iUnnnL", &what, &name, &address, &bytes, &stream, &upto))
        return NULL;
    Py_INCREF(name);
    PyUnicode_InternInPlace(&name);
    if (what == STREAM_GONE)
        forget_stream(stream);
    log_step(what, name, address, bytes, stream, upto);
    Py_RETURN_NONE;
}

PyObject *drain(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    int64_t last = steps_written, oldest = last > STEPS ? last - STEPS : 0;
    int64_t lost = oldest > drained ? oldest - drained : 0, first = drained + lost;
    Py_ssize_t count = (Py_ssize_t)(last - first);
    drained = last;
    /* Building the list may run the garbage collector, and so trampolines: the steps are copied
     * out of the ring first. */
    Step *copy = PyMem_Malloc((count ? count : 1) * sizeof(Step));
    if (copy == NULL)
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++)
        copy[i] = steps[(first + i) % STEPS];
    PyObject *list = PyList_New(count);
    for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
        Step *s = &copy[i];
        PyObject *row = Py_BuildValue("iOnnniL", s->what, s->name, s->address, s->bytes, s->stream,
                                      s->flags, (long long)s->upto);
        if (row == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, row);
    }
    PyMem_Free(copy);
    return list == NULL ? NULL : Py_BuildValue("LLN", (long long)first, (long long)lost, list);
}

PyObject *position(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromLongLong(steps_written);
}

PyObject *several(PyObject *module, PyObject *stream) {
    (void)module;
    Py_ssize_t number = PyLong_AsSsize_t(stream);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    count_stream(number == 1 ? 0 : number);
    return PyBool_FromLong(many_streams);
}

PyObject *flags(PyObject *module, PyObject *stream) {
    (void)module;
    Py_ssize_t number = PyLong_AsSsize_t(stream);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    return PyLong_FromLong(stream_flags(number));
}

PyObject *watch(PyObject *module, PyObject *on) {
    (void)module;
    watching = PyObject_IsTrue(on) == 1;
    drained = steps_written;
    many_streams = 0, first_stream = -1;
    for (unsigned at = 0; at < KNOWN_STREAMS; at++)
        known[at].stream = 0;
    Py_RETURN_NONE;
}
