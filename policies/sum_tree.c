/* A sum tree's work on a CPU, as `prioritized.SumTree` does it by operations of torch: for a batch these take longer
 * than a small network's gradient step. The same arithmetic in the same order, but for pow().
 *
 * A tree is a tuple of levels, float64 [nodes, BRANCHES], from the slots' to the one with a single node. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>

enum { BITS = 4, BRANCHES = 1 << BITS, MOST_LEVELS = 10 };

typedef struct {
    Py_buffer views[MOST_LEVELS];
    double *levels[MOST_LEVELS];
    int count;
    Py_ssize_t slots; /* on the lowest level */
} Tree;

static void release(Tree *tree)
{
    while (tree->count > 0)
        PyBuffer_Release(&tree->views[--tree->count]);
}

/* -1 with an error set. */
static int open_tree(PyObject *levels, Tree *tree)
{
    tree->count = 0;
    if (!PyTuple_Check(levels) || PyTuple_GET_SIZE(levels) < 1 || PyTuple_GET_SIZE(levels) > MOST_LEVELS) {
        PyErr_SetString(PyExc_ValueError, "a tree is a tuple of levels");
        return -1;
    }
    Py_ssize_t nodes = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(levels); i++) {
        Py_buffer *view = &tree->views[i];
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(levels, i), view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0) {
            release(tree);
            return -1;
        }
        tree->levels[i] = view->buf;
        tree->count++;
        Py_ssize_t size = view->len / (Py_ssize_t)sizeof(double);
        int fits = view->itemsize == sizeof(double) && size % BRANCHES == 0 && size > 0;
        if (!fits || (i > 0 && size < nodes)) {
            PyErr_SetString(PyExc_ValueError, "a level is float64, with a number for each node below");
            release(tree);
            return -1;
        }
        nodes = size / BRANCHES;
        if (i == 0)
            tree->slots = size;
    }
    if (nodes != 1) {
        PyErr_SetString(PyExc_ValueError, "the highest level is one node");
        release(tree);
        return -1;
    }
    return 0;
}

static double sum(const double *node)
{
    double total = 0.0;
    for (int i = 0; i < BRANCHES; i++)
        total += node[i];
    return total;
}

/* What lies above slots whose numbers are new, once a node where the slots are in order. */
static void renew(Tree *tree, const int64_t *slots, Py_ssize_t n)
{
    for (int i = 1; i < tree->count; i++) {
        int64_t done = -1;
        for (Py_ssize_t k = 0; k < n; k++) {
            int64_t node = slots[k] >> (i * BITS);
            if (node != done)
                tree->levels[i][node] = sum(tree->levels[i - 1] + node * BRANCHES);
            done = node;
        }
    }
}

static int check_slots(const Tree *tree, const int64_t *slots, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++)
        if (slots[i] < 0 || slots[i] >= tree->slots) {
            PyErr_Format(PyExc_IndexError, "slot %lld of %zd", (long long)slots[i], tree->slots);
            return -1;
        }
    return 0;
}

/* set(levels, slots, values) */
static PyObject *set(PyObject *self, PyObject *args)
{
    PyObject *levels;
    Py_buffer slots, values;
    if (!PyArg_ParseTuple(args, "Oy*y*", &levels, &slots, &values))
        return NULL;
    Tree tree;
    int good = open_tree(levels, &tree) == 0;
    if (good) {
        const int64_t *at = slots.buf;
        const double *value = values.buf;
        Py_ssize_t n = slots.len / 8;
        if (values.len != slots.len) {
            PyErr_SetString(PyExc_ValueError, "as many values as slots");
            good = 0;
        } else if (check_slots(&tree, at, n) < 0)
            good = 0;
        else {
            for (Py_ssize_t i = 0; i < n; i++)
                tree.levels[0][at[i]] = value[i];
            renew(&tree, at, n);
        }
        release(&tree);
    }
    PyBuffer_Release(&slots);
    PyBuffer_Release(&values);
    if (!good)
        return NULL;
    Py_RETURN_NONE;
}

/* draw(levels, u, held, slots, likelihood): slots of one transition of each part of the sum, and N P of each. */
static PyObject *draw(PyObject *self, PyObject *args)
{
    PyObject *levels;
    Py_buffer u, slots, likelihood;
    double held;
    if (!PyArg_ParseTuple(args, "Oy*dw*w*", &levels, &u, &held, &slots, &likelihood))
        return NULL;
    Tree tree;
    int good = open_tree(levels, &tree) == 0;
    Py_ssize_t n = u.len / 8;
    if (good && (slots.len != n * 8 || likelihood.len != n * 4)) {
        PyErr_SetString(PyExc_ValueError, "as much room as numbers");
        release(&tree);
        good = 0;
    }
    if (good) {
        double total = sum(tree.levels[tree.count - 1]), part = total / (double)n;
        for (Py_ssize_t i = 0; i < n; i++) {
            double within = ((double)i + ((const double *)u.buf)[i]) * part, value = total; /* of the node, too */
            int64_t node = 0;
            for (int level = tree.count - 1; level >= 0; level--) {
                const double *branch = tree.levels[level] + node * BRANCHES;
                double until = 0.0, before = 0.0;
                int j = 0;
                if (within >= value)
                    within = nextafter(value, 0.0);
                for (; j < BRANCHES; j++) {
                    before = until;
                    until += branch[j];
                    if (until > within)
                        break;
                }
                if (j == BRANCHES) /* all are 0 */
                    j = BRANCHES - 1;
                within -= before;
                node = node * BRANCHES + j;
                value = branch[j];
            }
            ((int64_t *)slots.buf)[i] = node;
            ((float *)likelihood.buf)[i] = (float)(value * (held / total));
        }
        release(&tree);
    }
    PyBuffer_Release(&u);
    PyBuffer_Release(&slots);
    PyBuffer_Release(&likelihood);
    if (!good)
        return NULL;
    Py_RETURN_NONE;
}

/* judge(levels, slots, errors, epsilon, exponent, highest): new priorities; the highest so far. */
static PyObject *judge(PyObject *self, PyObject *args)
{
    PyObject *levels;
    Py_buffer slots, errors;
    double epsilon, exponent, highest;
    if (!PyArg_ParseTuple(args, "Oy*y*ddd", &levels, &slots, &errors, &epsilon, &exponent, &highest))
        return NULL;
    Tree tree;
    int good = open_tree(levels, &tree) == 0;
    if (good) {
        Py_ssize_t n = slots.len / 8;
        if (errors.len != n * 4) {
            PyErr_SetString(PyExc_ValueError, "as many errors as slots");
            good = 0;
        } else if (check_slots(&tree, slots.buf, n) < 0)
            good = 0;
        else {
            const int64_t *at = slots.buf;
            int all = 1;
            for (Py_ssize_t i = 0; i < n; i++) {
                double priority = pow(fabs((double)((const float *)errors.buf)[i]) + epsilon, exponent);
                tree.levels[0][at[i]] = priority;
                if (!isfinite(priority))
                    all = 0;
                else if (priority > highest)
                    highest = priority;
            }
            for (Py_ssize_t i = 0; i < n && !all; i++)
                if (!isfinite(tree.levels[0][at[i]]))
                    tree.levels[0][at[i]] = highest;
            renew(&tree, at, n);
        }
        release(&tree);
    }
    PyBuffer_Release(&slots);
    PyBuffer_Release(&errors);
    return good ? PyFloat_FromDouble(highest) : NULL;
}

static PyMethodDef methods[] = {
    {"set", set, METH_VARARGS, "set(levels, slots, values)"},
    {"draw", draw, METH_VARARGS, "draw(levels, u, held, slots, likelihood)"},
    {"judge", judge, METH_VARARGS, "judge(levels, slots, errors, epsilon, exponent, highest) -> highest"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "sum_tree", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_sum_tree(void)
{
    return PyModule_Create(&module);
}
