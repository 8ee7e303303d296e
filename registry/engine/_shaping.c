/* The arithmetic of `shaping.py` and `fitting.py`, compiled: the same operations in the same order, and so the same bits.
 *
 * A block has its rows side by side in `shape`, where one column of codes follows from those before it, and one after the
 * other in `fit`, where nothing of a row depends on another.  What is a sum there is summed here in the same order; vectors only
 * do many sums at once.  `tests/registry/engine/test_shaped_kernel.py` holds both against NumPy.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "arithmetic is not done in the precision of its numbers here"
#endif
#ifdef __FAST_MATH__
#error "the order of operations must be kept"
#endif

/* Not with musl, which cannot choose between clones. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

typedef struct {
    Py_ssize_t columns, rows, count;
    const float *codes, *steps, *wanted, *directions, *gains;
    float top, *new;
} Shaping;

/* `Shaper._round`: (columns, rows) of codes, steps and wanted changes; (columns, count) of directions and gains. */
CLONES static void shape_all(const Shaping *job, float *restrict state, float *restrict shift) {
    Py_ssize_t rows = job->rows;
    for (Py_ssize_t column = 0; column < job->columns; column++) {
        const float *restrict code = job->codes + column * rows, *restrict step = job->steps + column * rows;
        const float *restrict want = job->wanted + column * rows;
        const float *gain = job->gains + column * job->count, *direction = job->directions + column * job->count;
        float *restrict new = job->new + column * rows;
        for (Py_ssize_t k = 0; k < job->count; k++) {
            float *restrict of = state + k * rows;
            float times = gain[k];
            if (k == 0)
                for (Py_ssize_t i = 0; i < rows; i++) shift[i] = times * of[i];
            else
                for (Py_ssize_t i = 0; i < rows; i++) shift[i] = shift[i] + times * of[i];
        }
        for (Py_ssize_t i = 0; i < rows; i++) {
            float place = want[i] - shift[i];
            place = place / step[i];
            place = place + code[i];
            place = floorf(place + 0.5f);
            place = place < 0.0f ? 0.0f : place; /* NaN stays, as in NumPy */
            place = place > job->top ? job->top : place;
            new[i] = place;
            shift[i] = (place - code[i]) * step[i] - want[i];
        }
        for (Py_ssize_t k = 0; k < job->count; k++) {
            float *restrict of = state + k * rows;
            float times = direction[k];
            for (Py_ssize_t i = 0; i < rows; i++) of[i] = of[i] + times * shift[i];
        }
    }
}

typedef struct {
    Py_ssize_t rows, groups, size, count;
    const double *directions, *rest;
    const float *codes, *wanted;
    double ridge, *by_scale, *by_bias;
} Fitting;

typedef struct {
    double *ones, *weights, *ones_squares; /* of all rows: (groups, count), (groups,), (groups,) */
    double *coded, *blocks;                /* of a row: (groups, count), (3, groups) */
    double *lacking, *along, *up, *down, *right, *matrix;
} Room;

static double inner(const double *restrict a, const double *restrict b, Py_ssize_t count) {
    double total = 0.0;
    for (Py_ssize_t k = 0; k < count; k++) total = total + a[k] * b[k];
    return total;
}

/* What does not depend on the codes: A's columns of ones, along the directions and squared. */
static void prepare(const Fitting *job, const Room *room) {
    Py_ssize_t count = job->count;
    memset(room->ones, 0, sizeof(double) * (size_t)(job->groups * count));
    for (Py_ssize_t group = 0; group < job->groups; group++) {
        double *ones = room->ones + group * count, weight = 0.0;
        for (Py_ssize_t place = 0; place < job->size; place++) {
            const double *direction = job->directions + (group * job->size + place) * count;
            weight = weight + job->rest[group * job->size + place];
            for (Py_ssize_t k = 0; k < count; k++) ones[k] = ones[k] + direction[k];
        }
        room->weights[group] = weight;
        room->ones_squares[group] = inner(ones, ones, count);
    }
}

/* `_solved`: Gauss, in place; the solution is in `right`. */
static inline void solve(double *restrict matrix, double *restrict right, Py_ssize_t count) {
    for (Py_ssize_t place = 0; place < count; place++) {
        const double *restrict from = matrix + place * count;
        for (Py_ssize_t row = place + 1; row < count; row++) {
            double *restrict of = matrix + row * count;
            double factor = of[place] / from[place];
            for (Py_ssize_t k = place; k < count; k++) of[k] = of[k] - factor * from[k];
            right[row] = right[row] - factor * right[place];
        }
    }
    for (Py_ssize_t place = count - 1; place >= 0; place--) {
        right[place] = right[place] / matrix[place * count + place];
        for (Py_ssize_t row = 0; row < place; row++) right[row] = right[row] - matrix[row * count + place] * right[place];
    }
}

CLONES static void fit_row(const Fitting *job, const Room *room, Py_ssize_t row) {
    Py_ssize_t count = job->count, groups = job->groups, size = job->size;
    double *restrict by_scale = job->by_scale + row * groups, *restrict by_bias = job->by_bias + row * groups;
    double *first = room->blocks, *second = first + groups, *third = second + groups;
    double *restrict lacking = room->lacking, *restrict along = room->along, *restrict right = room->right;
    double *restrict up = room->up, *restrict down = room->down;
    memset(along, 0, sizeof(double) * (size_t)count);
    for (Py_ssize_t group = 0; group < groups; group++) {
        const float *code = job->codes + (row * groups + group) * size;
        const float *lack = job->wanted + (row * groups + group) * size;
        double *restrict coded = room->coded + group * count;
        double square = 0.0, cross = 0.0, scale = 0.0, bias = 0.0;
        memset(coded, 0, sizeof(double) * (size_t)count);
        memset(lacking, 0, sizeof(double) * (size_t)count);
        for (Py_ssize_t place = 0; place < size; place++) {
            const double *restrict direction = job->directions + (group * size + place) * count;
            double rest = job->rest[group * size + place], number = (double)code[place], left = (double)lack[place];
            double weighted = rest * number;
            square = square + weighted * number;
            cross = cross + weighted;
            scale = scale + weighted * left;
            bias = bias + rest * left;
            for (Py_ssize_t k = 0; k < count; k++) {
                coded[k] = coded[k] + direction[k] * number;
                lacking[k] = lacking[k] + direction[k] * left;
            }
        }
        for (Py_ssize_t k = 0; k < count; k++) along[k] = along[k] + lacking[k];
        double weight = room->weights[group];
        double one = square + job->ridge * (square + inner(coded, coded, count)) + 1e-300;
        double other = weight + job->ridge * (weight + room->ones_squares[group]) + 1e-300;
        double determinant = one * other - cross * cross;
        first[group] = other / determinant;
        second[group] = -cross / determinant;
        third[group] = one / determinant;
        by_scale[group] = scale;
        by_bias[group] = bias;
    }
    double *restrict matrix = room->matrix;
    memset(matrix, 0, sizeof(double) * (size_t)(count * count));
    memset(right, 0, sizeof(double) * (size_t)count);
    for (Py_ssize_t k = 0; k < count; k++) matrix[k * count + k] = 1.0;
    for (Py_ssize_t group = 0; group < groups; group++) {
        const double *restrict coded = room->coded + group * count, *restrict ones = room->ones + group * count;
        double scale = by_scale[group] + inner(coded, along, count), bias = by_bias[group] + inner(ones, along, count);
        by_scale[group] = scale;
        by_bias[group] = bias;
        for (Py_ssize_t k = 0; k < count; k++) {
            up[k] = first[group] * coded[k] + second[group] * ones[k];
            down[k] = second[group] * coded[k] + third[group] * ones[k];
        }
        for (Py_ssize_t k = 0; k < count; k++) {
            double *restrict of = matrix + k * count, by_code = coded[k], by_one = ones[k];
            for (Py_ssize_t other = 0; other < count; other++)
                of[other] = (of[other] + by_code * up[other]) + by_one * down[other];
        }
        for (Py_ssize_t k = 0; k < count; k++) right[k] = right[k] + (up[k] * scale + down[k] * bias);
    }
    solve(matrix, right, count);
    for (Py_ssize_t group = 0; group < groups; group++) {
        double scale = by_scale[group] - inner(room->coded + group * count, right, count);
        double bias = by_bias[group] - inner(room->ones + group * count, right, count);
        by_scale[group] = first[group] * scale + second[group] * bias;
        by_bias[group] = second[group] * scale + third[group] * bias;
    }
}

/* ---- what Python calls ---- */

static int holds(const Py_buffer *buffer, Py_ssize_t numbers, size_t each) {
    return numbers > 0 && buffer->len == numbers * (Py_ssize_t)each;
}

static PyObject *ended(Py_buffer *buffers, int count, int sound, int room) {
    for (int i = 0; i < count; i++) PyBuffer_Release(&buffers[i]);
    if (!sound) {
        PyErr_SetString(PyExc_ValueError, "the buffers do not fit the sizes");
        return NULL;
    }
    if (!room) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyObject *shape(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer in[5], out;
    Shaping job;
    if (!PyArg_ParseTuple(args, "y*y*y*y*y*w*(nnn)f", &in[0], &in[1], &in[2], &in[3], &in[4], &out, &job.columns, &job.rows,
                          &job.count, &job.top))
        return NULL;
    int sound = job.columns > 0 && job.rows > 0 && job.count > 0 && job.columns < 1 << 28 && job.rows < 1 << 28 &&
                job.count < 1 << 28 && holds(&out, job.columns * job.rows, sizeof(float));
    for (int i = 0; i < 3; i++) sound = sound && holds(&in[i], job.columns * job.rows, sizeof(float));
    for (int i = 3; i < 5; i++) sound = sound && holds(&in[i], job.columns * job.count, sizeof(float));
    float *room = sound ? calloc((size_t)((job.count + 1) * job.rows), sizeof(float)) : NULL;
    if (room) {
        job.codes = in[0].buf, job.steps = in[1].buf, job.wanted = in[2].buf;
        job.directions = in[3].buf, job.gains = in[4].buf, job.new = out.buf;
        Py_BEGIN_ALLOW_THREADS
        shape_all(&job, room, room + job.count * job.rows);
        Py_END_ALLOW_THREADS
    }
    Py_buffer all[6] = {in[0], in[1], in[2], in[3], in[4], out};
    int enough = room != NULL;
    free(room);
    return ended(all, 6, sound, enough);
}

PyObject *fit(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer in[4], out[2];
    Fitting job;
    if (!PyArg_ParseTuple(args, "y*y*y*y*w*w*(nnnn)d", &in[0], &in[1], &in[2], &in[3], &out[0], &out[1], &job.rows, &job.groups,
                          &job.size, &job.count, &job.ridge))
        return NULL;
    Py_ssize_t groups = job.groups, count = job.count;
    int sound = job.rows > 0 && groups > 0 && job.size > 0 && count > 0 && job.rows < 1 << 28 && groups < 1 << 24 &&
                job.size < 1 << 10 && count < 1 << 20 && holds(&in[0], groups * job.size * count, sizeof(double)) &&
                holds(&in[1], groups * job.size, sizeof(double));
    for (int i = 2; i < 4; i++) sound = sound && holds(&in[i], job.rows * groups * job.size, sizeof(float));
    for (int i = 0; i < 2; i++) sound = sound && holds(&out[i], job.rows * groups, sizeof(double));
    size_t numbers = sound ? (size_t)(2 * groups * count + 5 * groups + 5 * count + count * count) : 0;
    double *room = sound ? malloc(numbers * sizeof(double)) : NULL;
    if (room) {
        double *at = room;
        Room parts;
        parts.ones = at, at += groups * count;
        parts.coded = at, at += groups * count;
        parts.weights = at, at += groups;
        parts.ones_squares = at, at += groups;
        parts.blocks = at, at += 3 * groups;
        parts.lacking = at, at += count;
        parts.along = at, at += count;
        parts.up = at, at += count;
        parts.down = at, at += count;
        parts.right = at, at += count;
        parts.matrix = at;
        job.directions = in[0].buf, job.rest = in[1].buf, job.codes = in[2].buf, job.wanted = in[3].buf;
        job.by_scale = out[0].buf, job.by_bias = out[1].buf;
        Py_BEGIN_ALLOW_THREADS
        prepare(&job, &parts);
        for (Py_ssize_t row = 0; row < job.rows; row++) fit_row(&job, &parts, row);
        Py_END_ALLOW_THREADS
    }
    Py_buffer all[6] = {in[0], in[1], in[2], in[3], out[0], out[1]};
    int enough = room != NULL;
    free(room);
    return ended(all, 6, sound, enough);
}
