/* What tracker.py does for each allocation and free, in one call and without Python code.
 *
 *   Recorder(format, depth, ok, tracker, ...)
 *       `format` is the record's, as of `struct`; ValueError if it is not the one here. `depth`
 *       is that of a stack, `ok` the number of the status "ok"; the others are what `Tracker`
 *       itself works with: see enum below. Its methods are `Tracker`'s of these names, which say
 *       what each argument is; all are given by position:
 *     take(level, kind, device, address, size, asked, stream, t0, t1, pooled=False) -> Block
 *     freed(block, level, kind, device, address, size, stream, t0, t1, status="ok", freed_by=None)
 *   Leases(recorder)
 *     lease(block, memory) -> Lease     The last reference to it is the end of the block: the
 *       block is retired, `memory` let go of, and the free written down. Without its `block`
 *       it only lets go. Of no interest to the garbage collector: see leases.py.
 *     stop()     From now on all leases only let go.
 *
 * The steps and their order are those of the Python, with one thing more: no bytecode runs here,
 * so that between two steps that call nothing of Python's no other thread, signal handler or
 * garbage collection comes in. A record's place is reserved through the attributes of the
 * thread's buffer, whatever class it has by now: in a forked child they do more.
 */
#include "driver.h"
#include <stddef.h>
#include <string.h>
#include <structmember.h>

#define FORMAT "<qqQqqQQQQQIIHHhBBBBB"

typedef struct __attribute__((packed)) {
    int64_t t_ns, duration_ns;
    uint64_t address;
    int64_t size, asked;
    uint64_t generation, span, frame, context, stream;
    uint32_t stack, labels;
    uint16_t task, status;
    int16_t device;
    uint8_t level, kind, freed_by, pooled, mark; /* the mark commits it: written last */
} Record;

enum { ALLOC_MARK = 1, FREE_MARK = 2, BY_REFCOUNT = 0, BY_GC = 1, NOT_FREED = 255, ANY = -1 };
#define UNKNOWN INT64_MIN

/* A `Block`, the tuple. */
enum { GENERATION, LEVEL, KIND, DEVICE, ADDRESS, SIZE, STACK, LABELS, FRAME, T_NS, POOLED, FIELDS };

/* What a recorder works with: the tracker; the type Block; the live blocks, a tuple of dicts by
 * level; what gives generations; the contexts by device; the threads' states; the device that
 * each label set names, -1 if any will do; what tells a thread's running event loop; what tells
 * span, frame and labels; the globals of the module `stages`; the labels' context variable; the
 * stacks' numbers by what `walk` returns; what learns a new one. */
enum { TRACKER, BLOCK, LIVE, NEXT, CONTEXTS, LOCAL, GPUS, LOOP, HERE, STAGES, CURRENT, NUMBERS,
       LEARN, OBJECTS };

/* Stacks seen lately, by a hash: the number, without a look into the dict. What is in here is in
 * the dict too, whose owner keeps the code objects. */
#define SEEN 512

typedef struct {
    PyObject_HEAD
    PyObject *of[OBJECTS];
    long depth;
    uint16_t ok;
    struct { PyObject *key, *number; } seen[SEEN];
} Recorder;

static PyObject *s_active, *s_state, *s_buffer, *s_position, *s_end, *s_roll, *s_view, *s_task,
    *s_collecting, *s_inherited, *s_current_stream, *s_failure, *s_check_device, *s_writer,
    *s_names, *s_number, *s_ok;

/* ---- What a record is made of ------------------------------------------------------------ */

static int integer(PyObject *from, int64_t *into) {
    *into = PyLong_AsLongLong(from);
    return *into == -1 && PyErr_Occurred() ? -1 : 0;
}

static int natural(PyObject *from, uint64_t *into) {
    *into = PyLong_AsUnsignedLongLong(from);
    return *into == (uint64_t)-1 && PyErr_Occurred() ? -1 : 0;
}

static int within(PyObject *from, long low, long high, long *into) {
    *into = PyLong_AsLong(from);
    if (*into == -1 && PyErr_Occurred())
        return -1;
    if (*into < low || *into > high) {
        PyErr_SetString(PyExc_OverflowError, "a record has no room for this number");
        return -1;
    }
    return 0;
}

/* Where in the program this is: span, frame and labels (a new reference). */
static int place(Recorder *r, Record *record, PyObject **labels) {
    *labels = NULL;
    PyObject *active = PyDict_GetItemWithError(r->of[STAGES], s_active);
    if (active == Py_None) { /* what `stages.here` does then */
        if (PyContextVar_Get(r->of[CURRENT], NULL, labels) < 0)
            return -1;
        record->span = record->frame = 0;
    } else {
        if (active == NULL && PyErr_Occurred())
            return -1;
        PyObject *here = PyObject_CallNoArgs(r->of[HERE]);
        if (here == NULL)
            return -1;
        uint64_t span, frame;
        PyObject *of_here;
        if (!PyArg_ParseTuple(here, "KKO", &span, &frame, &of_here)) {
            Py_DECREF(here);
            return -1;
        }
        record->span = span, record->frame = frame;
        *labels = Py_NewRef(of_here);
        Py_DECREF(here);
    }
    long number;
    if (*labels == NULL || within(*labels, 0, UINT32_MAX, &number) < 0) {
        Py_CLEAR(*labels);
        return -1;
    }
    record->labels = (uint32_t)number;
    return 0;
}

/* The number of the program's stack here: a new reference. */
static PyObject *stack_here(Recorder *r, Record *record) {
    Place places[MOST_DEPTH];
    PyObject *number = NULL;
    if (r->depth == 0) {
        number = PyLong_FromLong(0);
    } else {
        Py_ssize_t found = places_here(places, r->depth, 0);
        Py_ssize_t bytes = found * (Py_ssize_t)sizeof(Place);
        uint64_t hash = (uint64_t)found;
        for (Py_ssize_t i = 0; i < found; i++)
            hash = (hash ^ places[i].code ^ (uint64_t)places[i].last << 40) * 0x9E3779B97F4A7C15u;
        unsigned at = (unsigned)(hash >> 32) % SEEN;
        PyObject *key = r->seen[at].key;
        if (key != NULL && PyBytes_GET_SIZE(key) == bytes &&
            memcmp(PyBytes_AS_STRING(key), places, (size_t)bytes) == 0) {
            number = Py_NewRef(r->seen[at].number);
        } else {
            key = PyBytes_FromStringAndSize((char *)places, bytes);
            if (key == NULL)
                return NULL;
            number = PyDict_GetItemWithError(r->of[NUMBERS], key);
            if (number != NULL) {
                Py_INCREF(number);
                Py_XSETREF(r->seen[at].key, Py_NewRef(key));
                Py_XSETREF(r->seen[at].number, Py_NewRef(number));
            } else if (!PyErr_Occurred()) {
                number = PyObject_CallOneArg(r->of[LEARN], key);
            }
            Py_DECREF(key);
        }
    }
    long value;
    if (number == NULL || within(number, 0, UINT32_MAX, &value) < 0) {
        Py_XDECREF(number);
        return NULL;
    }
    record->stack = (uint32_t)value;
    return number;
}

static int task_and_context(Recorder *r, Record *record, PyObject *device) {
    PyObject *loop = PyObject_CallNoArgs(r->of[LOOP]);
    if (loop == NULL)
        return -1;
    long number = 0;
    if (loop != Py_None) {
        PyObject *task = PyObject_CallMethodNoArgs(r->of[TRACKER], s_task);
        int failed = task == NULL || within(task, 0, UINT16_MAX, &number) < 0;
        Py_XDECREF(task);
        if (failed) {
            Py_DECREF(loop);
            return -1;
        }
    }
    Py_DECREF(loop);
    record->task = (uint16_t)number;
    PyObject *context = PyObject_GetItem(r->of[CONTEXTS], device); /* which may ask CUDA */
    uint64_t handle = 0;
    if (context == NULL || natural(context, &handle) < 0) {
        Py_XDECREF(context);
        return -1;
    }
    record->context = handle;
    Py_DECREF(context);
    return 0;
}

static int status_of(Recorder *r, Record *record, PyObject *status) {
    record->status = r->ok;
    if (status == NULL || status == s_ok ||
        (PyUnicode_Check(status) && PyUnicode_Compare(status, s_ok) == 0))
        return 0;
    long value;
    PyObject *writer = PyObject_GetAttr(r->of[TRACKER], s_writer), *names = NULL, *number = NULL;
    if (writer != NULL)
        names = PyObject_GetAttr(writer, s_names);
    if (names != NULL)
        number = PyObject_CallMethodOneArg(names, s_number, status);
    int failed = number == NULL || within(number, 0, UINT16_MAX, &value) < 0;
    if (!failed)
        record->status = (uint16_t)value;
    Py_XDECREF(writer), Py_XDECREF(names), Py_XDECREF(number);
    return failed ? -1 : 0;
}

static int freed_by(Recorder *r, Record *record, PyObject *by) {
    long value = BY_REFCOUNT;
    if (by != NULL && by != Py_None) {
        if (within(by, 0, UINT8_MAX, &value) < 0)
            return -1;
    } else {
        PyObject *collecting = PyObject_GetAttr(r->of[TRACKER], s_collecting);
        if (collecting == NULL)
            return -1;
        uint64_t thread = 0;
        int failed = natural(collecting, &thread) < 0;
        Py_DECREF(collecting);
        if (failed)
            return -1;
        if (thread != 0 && thread == (uint64_t)PyThread_get_thread_ident())
            value = BY_GC;
    }
    record->freed_by = (uint8_t)value;
    return 0;
}

/* What the program says of the memory. */
static int memory_of(Record *record, PyObject *level, PyObject *kind, PyObject *device,
                     PyObject *address, PyObject *size, PyObject *stream) {
    long l, k, d;
    uint64_t a, s;
    int64_t z;
    if (within(level, 0, 2, &l) < 0 || within(kind, 0, UINT8_MAX, &k) < 0 ||
        within(device, INT16_MIN, INT16_MAX, &d) < 0 || natural(address, &a) < 0 ||
        integer(size, &z) < 0 || natural(stream, &s) < 0)
        return -1;
    record->level = (uint8_t)l, record->kind = (uint8_t)k, record->device = (int16_t)d;
    record->address = a, record->size = z, record->stream = s;
    return 0;
}

/* ---- Writing it ---------------------------------------------------------------------------- */

/* Reserve a record's place and fill it, in the order that `RecordBuffer` asks for. */
static int write_down(PyObject *buffer, Record *record, uint8_t mark) {
    PyObject *position = PyObject_GetAttr(buffer, s_position);
    PyObject *end = position != NULL ? PyObject_GetAttr(buffer, s_end) : NULL;
    Py_ssize_t at = -1, last = -1;
    if (end != NULL) {
        at = PyLong_AsSsize_t(position);
        last = PyLong_AsSsize_t(end);
    }
    Py_XDECREF(position), Py_XDECREF(end);
    if (PyErr_Occurred())
        return -1;
    if (at == last) {
        position = PyObject_CallMethodNoArgs(buffer, s_roll);
        if (position == NULL)
            return -1;
        at = PyLong_AsSsize_t(position);
        Py_DECREF(position);
        if (at == -1 && PyErr_Occurred())
            return -1;
    }
    position = PyLong_FromSsize_t(at + (Py_ssize_t)sizeof(Record));
    if (position == NULL)
        return -1;
    int failed = PyObject_SetAttr(buffer, s_position, position) < 0;
    Py_DECREF(position);
    PyObject *view = failed ? NULL : PyObject_GetAttr(buffer, s_view);
    if (view == NULL)
        return -1;
    Py_buffer memory;
    failed = PyObject_GetBuffer(view, &memory, PyBUF_WRITABLE);
    Py_DECREF(view);
    if (failed)
        return -1;
    if (at < 0 || at + (Py_ssize_t)sizeof(Record) > memory.len) {
        PyErr_SetString(PyExc_IndexError, "a record does not fit into its buffer");
        failed = -1;
    } else {
        Record *into = (Record *)((char *)memory.buf + at);
        memcpy(into, record, offsetof(Record, mark));
        __atomic_store_n(&into->mark, mark, __ATOMIC_RELEASE);
    }
    PyBuffer_Release(&memory);
    return failed;
}

static int write_here(Recorder *r, Record *record, uint8_t mark) {
    PyObject *state = PyObject_GetAttr(r->of[LOCAL], s_state);
    PyObject *buffer = state != NULL ? PyObject_GetAttr(state, s_buffer) : NULL;
    int failed = buffer == NULL ? -1 : write_down(buffer, record, mark);
    Py_XDECREF(state), Py_XDECREF(buffer);
    return failed;
}

static int is_block(PyObject *block) {
    if (PyTuple_Check(block) && PyTuple_GET_SIZE(block) == FIELDS)
        return 1;
    PyErr_SetString(PyExc_TypeError, "not a Block");
    return 0;
}

/* The live blocks of a level: a borrowed reference. */
static PyObject *level_of(Recorder *r, PyObject *level) {
    long number;
    if (within(level, 0, PyTuple_GET_SIZE(r->of[LIVE]) - 1, &number) < 0)
        return NULL;
    return PyTuple_GET_ITEM(r->of[LIVE], number);
}

static int check_device(Recorder *r, PyObject *labels, PyObject *device, PyObject *stack,
                        PyObject *size) {
    PyObject *expected = PyDict_GetItemWithError(r->of[GPUS], labels);
    if (expected == NULL && PyErr_Occurred())
        return -1;
    if (expected != NULL) {
        long named = PyLong_AsLong(expected), actual = PyLong_AsLong(device);
        if (PyErr_Occurred())
            return -1;
        if (named == ANY || named == actual)
            return 0;
    }
    PyObject *arguments[] = {r->of[TRACKER], labels, device, stack, size};
    PyObject *result = PyObject_VectorcallMethod(s_check_device, arguments, 5, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static PyObject *take(PyObject *self, PyObject *const *a, Py_ssize_t count) {
    Recorder *r = (Recorder *)self;
    if (count < 9 || count > 10) {
        PyErr_SetString(PyExc_TypeError, "take() takes 9 or 10 arguments");
        return NULL;
    }
    PyObject *level = a[0], *device = a[2], *address = a[3], *size = a[4];
    PyObject *pooled = count > 9 ? a[9] : Py_False;
    Record record = {.freed_by = NOT_FREED, .status = r->ok};
    int64_t t0, t1, asked;
    int keeps = PyObject_IsTrue(pooled);
    if (memory_of(&record, level, a[1], device, address, size, a[6]) < 0 ||
        integer(a[5], &asked) < 0 || integer(a[7], &t0) < 0 || integer(a[8], &t1) < 0 || keeps < 0)
        return NULL;
    record.asked = asked, record.t_ns = t0, record.duration_ns = t1 - t0;
    record.pooled = (uint8_t)keeps;
    PyObject *labels, *stack = NULL, *generation = NULL, *frame = NULL, *block = NULL;
    PyObject *live = level_of(r, level);
    if (live == NULL || place(r, &record, &labels) < 0)
        return NULL;
    uint64_t number;
    if ((stack = stack_here(r, &record)) == NULL ||
        (generation = PyObject_CallNoArgs(r->of[NEXT])) == NULL ||
        natural(generation, &number) < 0 ||
        (frame = PyLong_FromUnsignedLongLong(record.frame)) == NULL)
        goto failed;
    record.generation = number;
    PyTypeObject *type = (PyTypeObject *)r->of[BLOCK];
    block = type->tp_alloc(type, FIELDS); /* as tuple's own `__new__` does */
    if (block == NULL)
        goto failed;
    PyObject *fields[FIELDS] = {generation, level,  a[1],  device, address, size,
                                stack,      labels, frame, a[8],   pooled};
    for (int i = 0; i < FIELDS; i++)
        PyTuple_SET_ITEM(block, i, Py_NewRef(fields[i]));
    if (PyDict_SetItem(live, address, block) < 0 || task_and_context(r, &record, device) < 0 ||
        write_here(r, &record, ALLOC_MARK) < 0 || check_device(r, labels, device, stack, size) < 0)
        goto failed;
    Py_DECREF(labels), Py_DECREF(stack), Py_DECREF(generation), Py_DECREF(frame);
    return block;
failed:
    Py_DECREF(labels);
    Py_XDECREF(stack), Py_XDECREF(generation), Py_XDECREF(frame), Py_XDECREF(block);
    return NULL;
}

/* `what` is level, kind, device, address and size, unless the block tells them. */
static int write_freed(Recorder *r, PyObject *block, PyObject *const *what, PyObject *stream,
                       int64_t t0, int64_t t1, PyObject *status, PyObject *by) {
    Record record = {.t_ns = t0, .duration_ns = t1 - t0, .asked = UNKNOWN};
    if (block != Py_None) {
        uint64_t number;
        if (!is_block(block))
            return -1;
        what = &PyTuple_GET_ITEM(block, LEVEL);
        int pooled = PyObject_IsTrue(PyTuple_GET_ITEM(block, POOLED));
        if (pooled < 0 || natural(PyTuple_GET_ITEM(block, GENERATION), &number) < 0)
            return -1;
        record.generation = number, record.pooled = (uint8_t)pooled;
    }
    PyObject *labels;
    if (memory_of(&record, what[0], what[1], what[2], what[3], what[4], stream) < 0 ||
        place(r, &record, &labels) < 0)
        return -1;
    Py_DECREF(labels);
    PyObject *stack = stack_here(r, &record);
    if (stack == NULL)
        return -1;
    Py_DECREF(stack);
    if (freed_by(r, &record, by) < 0 || task_and_context(r, &record, what[2]) < 0 ||
        status_of(r, &record, status) < 0)
        return -1;
    return write_here(r, &record, FREE_MARK);
}

static PyObject *freed(PyObject *self, PyObject *const *a, Py_ssize_t count) {
    int64_t t0, t1;
    if (count < 9 || count > 11) {
        PyErr_SetString(PyExc_TypeError, "freed() takes 9 to 11 arguments");
        return NULL;
    }
    if (integer(a[7], &t0) < 0 || integer(a[8], &t1) < 0 ||
        write_freed((Recorder *)self, a[0], a + 1, a[6], t0, t1, count > 9 ? a[9] : NULL,
                    count > 10 ? a[10] : NULL) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- The recorder as an object ------------------------------------------------------------ */

static int recorder_traverse(PyObject *self, visitproc visit, void *arg) {
    for (int i = 0; i < OBJECTS; i++)
        Py_VISIT(((Recorder *)self)->of[i]);
    return 0;
}

/* There is no tp_clear: what a recorder works with is there as long as it is. Each cycle that it
 * is in goes through the tracker's attributes, which the collector clears. */
static void recorder_dealloc(PyObject *self) {
    Recorder *r = (Recorder *)self;
    PyObject_GC_UnTrack(self);
    for (int i = 0; i < OBJECTS; i++)
        Py_CLEAR(r->of[i]);
    for (int i = 0; i < SEEN; i++) {
        Py_CLEAR(r->seen[i].key);
        Py_CLEAR(r->seen[i].number);
    }
    PyObject_GC_Del(self);
}

static PyObject *recorder_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    const char *format;
    long depth, ok;
    PyObject *o[OBJECTS];
    if (keywords != NULL && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "Recorder() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "sllOO!O!OOOO!OOO!OO!O", &format, &depth, &ok, &o[TRACKER],
                          &PyType_Type, &o[BLOCK], &PyTuple_Type, &o[LIVE], &o[NEXT],
                          &o[CONTEXTS], &o[LOCAL], &PyDict_Type, &o[GPUS], &o[LOOP], &o[HERE],
                          &PyDict_Type, &o[STAGES], &o[CURRENT], &PyDict_Type, &o[NUMBERS],
                          &o[LEARN]))
        return NULL;
    const uint16_t one = 1;
    if (strcmp(format, FORMAT) != 0 || *(const char *)&one != 1 || depth < 0 || ok < 0 ||
        ok > UINT16_MAX || !PyContextVar_CheckExact(o[CURRENT]) ||
        !PyType_IsSubtype((PyTypeObject *)o[BLOCK], &PyTuple_Type)) {
        PyErr_SetString(PyExc_ValueError, "such records cannot be written here");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(o[LIVE]); i++)
        if (!PyDict_Check(PyTuple_GET_ITEM(o[LIVE], i))) {
            PyErr_SetString(PyExc_TypeError, "live blocks must be in dicts");
            return NULL;
        }
    Recorder *r = (Recorder *)type->tp_alloc(type, 0);
    if (r == NULL)
        return NULL;
    r->depth = depth > MOST_DEPTH ? MOST_DEPTH : depth;
    r->ok = (uint16_t)ok;
    for (int i = 0; i < OBJECTS; i++)
        r->of[i] = Py_NewRef(o[i]);
    return (PyObject *)r;
}

static PyMethodDef recorder_methods[] = {
    {"take", (PyCFunction)(void (*)(void))take, METH_FASTCALL, NULL},
    {"freed", (PyCFunction)(void (*)(void))freed, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject RecorderType = {
    .ob_base = PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vidlab.capture.gpu._driver.Recorder",
    .tp_basicsize = sizeof(Recorder),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = recorder_new,
    .tp_dealloc = recorder_dealloc,
    .tp_traverse = recorder_traverse,
    .tp_methods = recorder_methods,
};

/* ---- Leases --------------------------------------------------------------------------------- */

typedef struct { PyObject_HEAD Recorder *recorder; } Leases; /* NULL: stopped */
typedef struct { PyObject_HEAD Leases *leases; PyObject *block, *memory; } Lease;

static PyTypeObject LeaseType;

/* Take this very block out of the live set: whether its end is to be written. See
 * `Tracker.retire_block`. */
static int retire(Recorder *r, PyObject *block) {
    if (!is_block(block))
        return -1;
    PyObject *live = level_of(r, PyTuple_GET_ITEM(block, LEVEL));
    PyObject *address = PyTuple_GET_ITEM(block, ADDRESS);
    PyObject *found = live != NULL ? PyDict_GetItemWithError(live, address) : NULL;
    if (found == NULL && PyErr_Occurred())
        return -1;
    if (found == block && PyDict_DelItem(live, address) < 0)
        return -1;
    PyObject *inherited = PyObject_GetAttr(r->of[TRACKER], s_inherited);
    if (inherited == NULL)
        return -1;
    int own = PyObject_RichCompareBool(PyTuple_GET_ITEM(block, GENERATION), inherited, Py_GT);
    Py_DECREF(inherited);
    return own;
}

/* Tell the tracker of the exception that is set, as if from within its `except`. */
static void report(Recorder *r) {
    Error error = take_error();
    PyObject *value = Py_XNewRef(error_value(&error));
    drop_error(error);
    PyObject *handled = PyErr_GetHandledException();
    PyErr_SetHandledException(value);
    PyObject *result = PyObject_CallMethodNoArgs(r->of[TRACKER], s_failure);
    PyErr_SetHandledException(handled);
    Py_XDECREF(handled);
    Py_XDECREF(value);
    if (result == NULL)
        PyErr_WriteUnraisable(r->of[TRACKER]);
    Py_XDECREF(result);
}

static int end_of(Recorder *r, PyObject *block, PyObject **memory) {
    int known = retire(r, block);
    int64_t t0 = now_ns();
    if (known >= 0)
        Py_CLEAR(*memory);
    int64_t t1 = now_ns();
    if (known <= 0)
        return known;
    PyObject *current = PyObject_GetAttr(r->of[TRACKER], s_current_stream);
    PyObject *stream = current != NULL ? PyObject_CallNoArgs(current) : NULL;
    Py_XDECREF(current);
    int failed = stream == NULL ? -1 : write_freed(r, block, NULL, stream, t0, t1, NULL, NULL);
    Py_XDECREF(stream);
    return failed;
}

static void lease_dealloc(PyObject *self) {
    Lease *lease = (Lease *)self;
    PyObject *block = lease->block, *memory = lease->memory;
    Leases *leases = lease->leases;
    PyObject_Free(self);
    Error error = take_error();
    if (block != NULL && block != Py_None && leases->recorder != NULL) {
        Recorder *r = (Recorder *)Py_NewRef((PyObject *)leases->recorder);
        if (end_of(r, block, &memory) < 0) {
            Error ours = take_error();
            Py_CLEAR(memory);
            give_error(ours);
            report(r);
        }
        Py_DECREF(r);
    }
    Py_XDECREF(memory);
    Py_XDECREF(block);
    Py_DECREF(leases);
    give_error(error);
}

static PyMemberDef lease_members[] = {
    {"block", T_OBJECT, offsetof(Lease, block), 0, NULL},
    {"memory", T_OBJECT, offsetof(Lease, memory), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject LeaseType = {
    .ob_base = PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vidlab.capture.gpu._driver.Lease",
    .tp_basicsize = sizeof(Lease),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = lease_dealloc,
    .tp_members = lease_members,
};

static PyObject *lease(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "lease(block, memory)");
        return NULL;
    }
    Lease *made = PyObject_New(Lease, &LeaseType);
    if (made == NULL)
        return NULL;
    made->leases = (Leases *)Py_NewRef(self);
    made->block = Py_NewRef(arguments[0]);
    made->memory = Py_NewRef(arguments[1]);
    return (PyObject *)made;
}

static PyObject *stop(PyObject *self, PyObject *unused) {
    (void)unused;
    Py_CLEAR(((Leases *)self)->recorder);
    Py_RETURN_NONE;
}

static int leases_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(((Leases *)self)->recorder);
    return 0;
}

static int leases_clear(PyObject *self) {
    Py_CLEAR(((Leases *)self)->recorder);
    return 0;
}

static void leases_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    leases_clear(self);
    PyObject_GC_Del(self);
}

static PyObject *leases_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    (void)keywords;
    PyObject *recorder;
    if (!PyArg_ParseTuple(arguments, "O!", &RecorderType, &recorder))
        return NULL;
    Leases *made = (Leases *)type->tp_alloc(type, 0);
    if (made != NULL)
        made->recorder = (Recorder *)Py_NewRef(recorder);
    return (PyObject *)made;
}

static PyMethodDef leases_methods[] = {
    {"lease", (PyCFunction)(void (*)(void))lease, METH_FASTCALL, NULL},
    {"stop", stop, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject LeasesType = {
    .ob_base = PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vidlab.capture.gpu._driver.Leases",
    .tp_basicsize = sizeof(Leases),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = leases_new,
    .tp_dealloc = leases_dealloc,
    .tp_traverse = leases_traverse,
    .tp_clear = leases_clear,
    .tp_methods = leases_methods,
};

int add_records(PyObject *module) {
    static const struct { PyObject **name; const char *text; } names[] = {
        {&s_active, "active"}, {&s_state, "state"}, {&s_buffer, "buffer"},
        {&s_position, "position"}, {&s_end, "end"}, {&s_roll, "roll"}, {&s_view, "view"},
        {&s_task, "_task"}, {&s_collecting, "_collecting"},
        {&s_inherited, "inherited"}, {&s_current_stream, "current_stream"}, {&s_failure, "failure"},
        {&s_check_device, "_check_device"}, {&s_writer, "writer"}, {&s_names, "names"},
        {&s_number, "number"}, {&s_ok, "ok"}};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (*names[i].name == NULL &&
            (*names[i].name = PyUnicode_InternFromString(names[i].text)) == NULL)
            return -1;
    if (PyModule_AddType(module, &RecorderType) < 0 || PyModule_AddType(module, &LeaseType) < 0)
        return -1;
    return PyModule_AddType(module, &LeasesType);
}
