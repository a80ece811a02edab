/* The physics steps of a control step under joint position targets, as `substeps.advance` takes them one by one in
 * Python: the same calls to the engine in the same order, the same arithmetic in the same order, so the same bits.
 * Where no C compiler was at hand when the package was installed, that Python does it alone. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>

/* The two numbers of each joint's state, as lists; NULL with an error set. */
static int split(PyObject *states, Py_ssize_t n, PyObject **position, PyObject **velocity)
{
    PyObject *sequence = PySequence_Fast(states, "joint states are not a sequence");
    if (!sequence)
        return -1;
    *position = PyList_New(n);
    *velocity = PyList_New(n);
    if (!*position || !*velocity)
        goto fail;
    if (PySequence_Fast_GET_SIZE(sequence) != n) {
        PyErr_SetString(PyExc_ValueError, "as many joint states as joints are wanted");
        goto fail;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *state = PySequence_Fast_GET_ITEM(sequence, i);
        if (!PyTuple_Check(state) || PyTuple_GET_SIZE(state) < 2) {
            PyErr_SetString(PyExc_TypeError, "a joint's state is not a tuple of position and velocity");
            goto fail;
        }
        PyObject *q = PyTuple_GET_ITEM(state, 0), *v = PyTuple_GET_ITEM(state, 1);
        Py_INCREF(q);
        Py_INCREF(v);
        PyList_SET_ITEM(*position, i, q);
        PyList_SET_ITEM(*velocity, i, v);
    }
    Py_DECREF(sequence);
    return 0;
fail:
    Py_CLEAR(*position);
    Py_CLEAR(*velocity);
    Py_DECREF(sequence);
    return -1;
}

/* n numbers of a sequence; -1 with an error set. */
static int numbers(PyObject *given, Py_ssize_t n, double *out)
{
    PyObject *sequence = PySequence_Fast(given, "numbers are not a sequence");
    if (!sequence)
        return -1;
    if (PySequence_Fast_GET_SIZE(sequence) != n) {
        PyErr_Format(PyExc_ValueError, "%zd numbers are wanted, got %zd", n, PySequence_Fast_GET_SIZE(sequence));
        Py_DECREF(sequence);
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        out[i] = PyFloat_AsDouble(PySequence_Fast_GET_ITEM(sequence, i));
    Py_DECREF(sequence);
    return PyErr_Occurred() ? -1 : 0;
}

/* A list of n floats. */
static PyObject *floats(const double *given, Py_ssize_t n)
{
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list && i < n; i++) {
        PyObject *number = PyFloat_FromDouble(given[i]);
        if (!number)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, number);
    }
    return list;
}

/* The base [13]: the numbers of both calls' pairs of vectors. */
static PyObject *base_state(PyObject *pose, PyObject *velocity)
{
    PyObject *base = PyList_New(0), *calls[2] = {pose, velocity};
    for (int i = 0; base && i < 2; i++) {
        PyObject *pair = PyObject_CallNoArgs(calls[i]);
        for (Py_ssize_t j = 0; base && j < 2; j++) {
            PyObject *vector = pair ? PySequence_GetItem(pair, j) : NULL;
            PyObject *end = vector ? PySequence_InPlaceConcat(base, vector) : NULL;
            if (!end)
                Py_CLEAR(base);
            Py_XDECREF(end);
            Py_XDECREF(vector);
        }
        Py_XDECREF(pair);
    }
    return base;
}

/* What is left of a value when it loses up to a width. */
static double beyond(double value, double width)
{
    const double raised = -width > value ? -width : value;
    return value - (width < raised ? width : raised);
}

static PyObject *run(PyObject *module, PyObject *args)
{
    PyObject *read, *write, *step, *pose, *turn, *weigh, *kp_, *kd_, *bias_, *limit_, *play_, *dead_, *state, *targets;
    PyObject *kept, *nothing;
    double strength, bound;
    int weighs;
    if (!PyArg_ParseTuple(args, "(OOOOOO)(OOOOOOd)O!O!O!Odp", &read, &write, &step, &pose, &turn, &weigh, &kp_, &kd_,
                          &bias_, &limit_, &play_, &dead_, &strength, &PyTuple_Type, &state, &PyList_Type, &targets, &PyList_Type, &kept,
                          &nothing, &bound, &weighs))
        return NULL;
    const Py_ssize_t steps = PyList_GET_SIZE(targets), n = PySequence_Size(kp_);
    if (n < 0)
        return NULL;
    if (steps == 0 || PyList_GET_SIZE(kept) != steps || PyTuple_GET_SIZE(state) < 2) {
        PyErr_SetString(PyExc_ValueError, "a target and a pair of what to keep are wanted for each physics step");
        return NULL;
    }
    const int floating = pose != Py_None;
    PyObject *seen = PyList_New(0), *torque = NULL, *options = PyDict_New(), *no_arguments = PyTuple_New(0);
    double *memory = PyMem_Calloc(12 * (size_t)n + 1, sizeof(double));
    Py_INCREF(state);
    if (!memory && !PyErr_Occurred())
        PyErr_NoMemory();
    if (!seen || !options || !no_arguments || !memory)
        goto fail;
    double *kp = memory, *kd = kp + n, *bias = kd + n, *limit = bias + n, *feed = limit + n, *q = feed + n, *qd = q + n,
           *g = qd + n, *out = g + n, *goal = out + n, *play = goal + n, *dead = play + n;
    if (numbers(kp_, n, kp) || numbers(kd_, n, kd) || numbers(bias_, n, bias) || numbers(limit_, n, limit)
        || numbers(play_, n, play) || numbers(dead_, n, dead))
        goto fail;
    double least = INFINITY;
    int lost = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        least = limit[i] < least ? limit[i] : least;
        lost |= play[i] > 0.0 || dead[i] > 0.0;
    }
    if (numbers(PyTuple_GET_ITEM(state, 0), n, q) || numbers(PyTuple_GET_ITEM(state, 1), n, qd))
        goto fail;
    PyObject *before = NULL;
    for (Py_ssize_t k = 0; k < steps; k++) {
        PyObject *target = PyList_GET_ITEM(targets, k), *keeps = PyList_GET_ITEM(kept, k);
        if (!PyTuple_Check(keeps) || PyTuple_GET_SIZE(keeps) != 2) {
            PyErr_SetString(PyExc_TypeError, "what to keep is not a pair");
            goto fail;
        }
        const int keep = PyObject_IsTrue(PyTuple_GET_ITEM(keeps, 0)), keep_base = PyObject_IsTrue(PyTuple_GET_ITEM(keeps, 1));
        if (keep < 0 || keep_base < 0)
            goto fail;
        if (target != before) {
            if (numbers(target, n, goal))
                goto fail;
            for (Py_ssize_t i = 0; i < n; i++) {
                goal[i] -= bias[i];
                feed[i] = kp[i] * goal[i];
            }
            before = target;
        }
        if (weighs) {
            PyObject *holding = PyObject_CallOneArg(weigh, PyTuple_GET_ITEM(state, 0));
            const int bad = !holding || numbers(holding, n, g);
            Py_XDECREF(holding);
            if (bad)
                goto fail;
        }
        int above = 0;
        for (Py_ssize_t i = 0; i < n; i++) {
            const double force = lost ? kp[i] * beyond(goal[i] - q[i], play[i]) - kd[i] * qd[i]
                                      : feed[i] - kp[i] * q[i] - kd[i] * qd[i];
            out[i] = weighs ? force + strength * g[i] : force;
            if (lost)
                out[i] = beyond(out[i], dead[i]);
            above |= fabs(out[i]) > least;
        }
        for (Py_ssize_t i = 0; above && i < n; i++) {
            const double raised = -limit[i] > out[i] ? -limit[i] : out[i];
            out[i] = limit[i] < raised ? limit[i] : raised;
        }
        Py_XSETREF(torque, floats(out, n));
        if (!torque || PyDict_SetItemString(options, "forces", torque))
            goto fail;
        PyObject *written = PyObject_Call(write, no_arguments, options);
        Py_XDECREF(written);
        PyObject *stepped = written ? PyObject_CallNoArgs(step) : NULL;
        Py_XDECREF(stepped);
        PyObject *states = stepped ? PyObject_CallNoArgs(read) : NULL;
        PyObject *position = NULL, *velocity = NULL, *base = NULL;
        const int bad = !states || split(states, n, &position, &velocity);
        Py_XDECREF(states);
        if (bad)
            goto fail;
        if (floating && !(base = keep_base ? base_state(pose, turn) : PyList_New(0))) {
            Py_DECREF(position);
            Py_DECREF(velocity);
            goto fail;
        }
        Py_SETREF(state, base ? PyTuple_Pack(3, position, velocity, base) : PyTuple_Pack(2, position, velocity));
        const int strange = numbers(position, n, q) || numbers(velocity, n, qd);
        Py_DECREF(position);
        Py_DECREF(velocity);
        Py_XDECREF(base);
        if (!state || strange)
            goto fail;
        int fast = 0;
        for (Py_ssize_t i = 0; i < n; i++)
            fast |= fabs(qd[i]) > bound;
        if (fast)
            break;
        if (PyList_Append(seen, keep ? state : nothing))
            goto fail;
    }
    PyMem_Free(memory);
    Py_DECREF(options);
    Py_DECREF(no_arguments);
    return Py_BuildValue("(NNN)", seen, state, torque);
fail:
    PyMem_Free(memory);
    Py_XDECREF(seen);
    Py_XDECREF(torque);
    Py_XDECREF(options);
    Py_XDECREF(no_arguments);
    Py_XDECREF(state);
    return NULL;
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS,
     "run(calls, gains, state, targets, kept, nothing, bound, compensates_gravity)\n--\n\n"
     "calls: world.EngineCalls; gains: actuators.Gains; the rest and the result as of substeps.advance."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "pd_loop", "Physics steps under position targets.", 0, methods,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_pd_loop(void)
{
    return PyModule_Create(&module);
}
