/* The extension module: our functions as capsules and as Python callables, for install.py to put
 * in place of CuPy's. */
#include "bridge.h"

PyObject *runtime_error, *not_served, *pointer_attributes;

bool failed(cudaError_t status)
{
    if (status == cudaSuccess)
        return false;
    cudaGetLastError(); /* an error that is raised is no longer the thread's last one */
    PyObject *error = PyObject_CallFunction(runtime_error, "i", status);
    if (error) {
        PyErr_SetObject(runtime_error, error);
        Py_DECREF(error);
    }
    return true;
}

PyObject *done(cudaError_t status)
{
    if (failed(status))
        return NULL;
    Py_RETURN_NONE;
}

PyObject *refuse(const char *name)
{
    PyObject *error = PyObject_CallFunction(not_served, "s", name);
    if (error) {
        PyErr_SetObject(not_served, error);
        Py_DECREF(error);
    }
    return NULL;
}

static Py_ssize_t position_of(PyObject *keyword, const char *const *names, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++)
        if (PyUnicode_CompareWithASCIIString(keyword, names[i]) == 0)
            return i;
    return -1;
}

bool bind_arguments(const char *function, const char *const *names, PyObject *const *given,
                    Py_ssize_t positional, PyObject *keywords, PyObject **bound,
                    Py_ssize_t count, Py_ssize_t required)
{
    Py_ssize_t named = keywords ? PyTuple_GET_SIZE(keywords) : 0;
    if (positional > count) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, not %zd", function, count,
                     positional);
        return false;
    }
    for (Py_ssize_t i = 0; i < positional; i++)
        bound[i] = given[i];
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *keyword = PyTuple_GET_ITEM(keywords, i);
        Py_ssize_t position = position_of(keyword, names, count);
        if (position < 0 || bound[position]) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected argument %R", function, keyword);
            return false;
        }
        bound[position] = given[positional + i];
    }
    for (Py_ssize_t i = 0; i < required; i++)
        if (!bound[i]) {
            PyErr_Format(PyExc_TypeError, "%s() misses its argument '%s'", function, names[i]);
            return false;
        }
    return true;
}

bool to_int(PyObject *from, int *to)
{
    int overflow;
    long value = PyLong_AsLongAndOverflow(from, &overflow);
    if (value == -1 && PyErr_Occurred())
        return false;
    if (overflow || value > INT_MAX || value < INT_MIN) {
        PyErr_SetString(PyExc_OverflowError, "value too large to convert to int");
        return false;
    }
    *to = (int)value;
    return true;
}

bool to_size(PyObject *from, size_t *to)
{
    PyObject *index = PyNumber_Index(from);
    if (!index)
        return false;
    *to = PyLong_AsSize_t(index);
    Py_DECREF(index);
    return *to != (size_t)-1 || !PyErr_Occurred();
}

bool to_unsigned(PyObject *from, unsigned int *to)
{
    size_t value;
    if (!to_size(from, &value))
        return false;
    if (value > UINT_MAX) {
        PyErr_SetString(PyExc_OverflowError, "value too large to convert to unsigned int");
        return false;
    }
    *to = (unsigned int)value;
    return true;
}

bool to_pointer(PyObject *from, intptr_t *to)
{
    *to = PyNumber_AsSsize_t(from, PyExc_OverflowError);
    return *to != -1 || !PyErr_Occurred();
}

bool to_object(PyObject *from, PyObject **to)
{
    *to = from;
    return true;
}

/* A value that also stands for an error is one only if an exception is set. */
PyObject *from_int(int value)
{
    return PyErr_Occurred() ? NULL : PyLong_FromLong(value);
}

PyObject *from_unsigned(unsigned int value)
{
    return PyErr_Occurred() ? NULL : PyLong_FromUnsignedLong(value);
}

PyObject *from_pointer(intptr_t value)
{
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(value);
}

PyObject *from_float(float value)
{
    return PyErr_Occurred() ? NULL : PyFloat_FromDouble((double)value);
}

PyObject *from_object(PyObject *value) { return value; }

static PyObject *bind(PyObject *self NO_FAULT, PyObject *args)
{
    enum { OBJECT_WITH_FOUR_INTS = sizeof(PyObject) + 4 * sizeof(int) };
    PyObject *error, *refusal, *attributes, *properties;
    if (!PyArg_ParseTuple(args, "OOOO", &error, &refusal, &attributes, &properties))
        return NULL;
    if (((PyTypeObject *)properties)->tp_basicsize != OBJECT_WITH_FOUR_INTS) {
        PyErr_SetString(PyExc_TypeError, "MemPoolProps is not four integers");
        return NULL;
    }
    Py_XSETREF(runtime_error, Py_NewRef(error));
    Py_XSETREF(not_served, Py_NewRef(refusal));
    Py_XSETREF(pointer_attributes, Py_NewRef(attributes));
    Py_RETURN_NONE;
}

/* A capsule with the function of one and the name of another, which CuPy's module keeps. */
static PyObject *renamed(PyObject *self NO_FAULT, PyObject *args)
{
    PyObject *ours, *theirs;
    if (!PyArg_ParseTuple(args, "OO", &ours, &theirs))
        return NULL;
    void *function = PyCapsule_GetPointer(ours, PyCapsule_GetName(ours));
    return function ? PyCapsule_New(function, PyCapsule_GetName(theirs), NULL) : NULL;
}

static PyObject *signature(PyObject *self NO_FAULT, PyObject *capsule)
{
    const char *name = PyCapsule_GetName(capsule);
    return name ? PyUnicode_FromString(name) : NULL;
}

/* The Python callable of a function; its definition has to live as long as it. */
static PyObject *callable(const struct entry *entry)
{
    PyMethodDef *definition = PyMem_Malloc(sizeof *definition);
    if (!definition)
        return PyErr_NoMemory();
    *definition = (PyMethodDef){entry->name, (PyCFunction)(void (*)(void))entry->python,
                                METH_FASTCALL | METH_KEYWORDS, NULL};
    return PyCFunction_New(definition, NULL);
}

static int add_entries(PyObject *list, const struct entry *entry)
{
    for (; entry->name; entry++) {
        PyObject *capsule = PyCapsule_New(entry->function, entry->signature, NULL);
        PyObject *python = entry->python ? callable(entry) : Py_NewRef(Py_None);
        PyObject *row = capsule && python
                            ? Py_BuildValue("(ssNN)", entry->module, entry->name, capsule, python)
                            : NULL;
        int status = row ? PyList_Append(list, row) : -1;
        Py_XDECREF(row);
        if (status != 0)
            return -1;
    }
    return 0;
}

static PyObject *refused_call(PyObject *self, PyObject *args NO_FAULT, PyObject *keywords NO_FAULT)
{
    return refuse(Py_TYPE(self)->tp_name);
}

static PyObject *refused_new(PyTypeObject *type, PyObject *args NO_FAULT,
                             PyObject *keywords NO_FAULT)
{
    return refuse(type->tp_name);
}

/* Makes calling a type's instances an error, or making any. The first is for CuPy's reductions, that is: CuPy 13 drops what is
 * raised while one is launched, and would return whatever the result's memory held before. */
static PyObject *refuse_calls(PyObject *self NO_FAULT, PyObject *args)
{
    PyTypeObject *type;
    if (!PyArg_ParseTuple(args, "O!", &PyType_Type, &type))
        return NULL;
    type->tp_call = refused_call;
    PyType_Modified(type);
    Py_RETURN_NONE;
}

static PyObject *refuse_instances(PyObject *self NO_FAULT, PyObject *args)
{
    PyTypeObject *type;
    if (!PyArg_ParseTuple(args, "O!", &PyType_Type, &type))
        return NULL;
    type->tp_new = refused_new;
    PyType_Modified(type);
    Py_RETURN_NONE;
}

/* Rows (module, name, capsule, Python callable or None where it is refused). */
static PyObject *functions(PyObject *self NO_FAULT, PyObject *args NO_FAULT)
{
    PyObject *list = PyList_New(0);
    if (list && (add_entries(list, served_memory) || add_entries(list, served_streams) ||
                 add_entries(list, served_devices) || add_entries(list, refused)))
        Py_CLEAR(list);
    return list;
}

static PyMethodDef methods[] = {
    {"bind", bind, METH_VARARGS, "Take the classes that our functions raise and return."},
    {"functions", functions, METH_NOARGS, "Rows (module, name, capsule, callable or None)."},
    {"refuse_calls", refuse_calls, METH_VARARGS, "Make calling a type's instances an error."},
    {"refuse_instances", refuse_instances, METH_VARARGS, "Make calling a type an error."},
    {"renamed", renamed, METH_VARARGS, "A capsule: this one's function, that one's name."},
    {"signature", signature, METH_O, "A capsule's name: the C signature of its function."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "bridge", .m_size = -1,
                                        .m_methods = methods};

PyMODINIT_FUNC PyInit_bridge(void) { return PyModule_Create(&definition); }
