/* The arithmetic of `blocks.py` for the common kinds of modules, compiled: the same operations in the same order, and
 * so the same bits, in one pass over the numbers instead of sixty.
 *
 * Every operation on numbers is one IEEE 754 binary32 operation; the compiler is told not to fuse a product and a sum
 * (-ffp-contract=off), and vectors only do many of them at once.  Sums of inner products keep one order whatever the
 * width of the vectors.  `tests/registry/engine/test_kernel.py` holds it against NumPy, bit for bit.
 *
 * Formats, packing and quantisation: arithmetic.py and affine.py, which name the sources.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "float arithmetic is not done in binary32 here"
#endif
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "stored numbers are little endian"
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
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#define TILE 512
#define LANES 8
#define GROUPS (TILE / 32)

/* Call a function with a constant, so that its loops unroll. */
#define WITH(NAME, VALUE, call)    \
    {                              \
        enum { NAME = VALUE };     \
        call;                      \
    }
#define FOR_GROUP(group, call)                                   \
    do {                                                         \
        if ((group) == 32) WITH(GROUP, 32, call)                 \
        else if ((group) == 64) WITH(GROUP, 64, call)            \
        else WITH(GROUP, 128, call)                              \
    } while (0)
#define FOR_BITS(bits, call)                                     \
    do {                                                         \
        if ((bits) == 2) WITH(BITS, 2, call)                     \
        else if ((bits) == 3) WITH(BITS, 3, call)                \
        else if ((bits) == 5) WITH(BITS, 5, call)                \
        else WITH(BITS, 6, call)                                 \
    } while (0)

enum { F32 = 0, BF16 = 1, F16 = 2 };

typedef struct {
    int bits, group, form; /* bits: 0 for plain numbers */
} Kind;

typedef struct {
    const uint8_t *weight, *scales, *biases;
    uint8_t *out_weight, *out_scales, *out_biases;
    const float *left, *right;
    Py_ssize_t rows, columns, stride;
    int rank, update_form;
    Kind base, target;
} Job;

typedef struct {
    double intended, inner, error, weight;
} Sums;

INLINE uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

INLINE float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

/* ---- formats: round to nearest, ties to even ---- */

INLINE float to_bf16(float x) {
    uint32_t u = bits_of(x);
    uint32_t rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) & 0xFFFF0000u;
    return float_of((u & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC00000u : rounded);
}

INLINE float to_f16(float x) {
    uint32_t u = bits_of(x), sign = u & 0x80000000u, a = u ^ sign;
    uint32_t rounded = (a + 0xFFFu + ((a >> 13) & 1u)) & 0xFFFFE000u;
    /* The step of the sum is 2^-24, that of the smallest float16. */
    uint32_t small = bits_of((float_of(a) + 0.5f) - 0.5f);
    uint32_t found = a < 0x38800000u ? small : rounded >= 0x47800000u ? 0x7F800000u : rounded;
    return float_of(sign | (a > 0x7F800000u ? a : found));
}

INLINE void round_all(float *restrict x, int form, int n) {
    if (form == BF16)
        for (int i = 0; i < n; i++) x[i] = to_bf16(x[i]);
    else if (form == F16)
        for (int i = 0; i < n; i++) x[i] = to_f16(x[i]);
}

INLINE float round_one(float x, int form) {
    return form == BF16 ? to_bf16(x) : form == F16 ? to_f16(x) : x;
}

INLINE float from_f16(uint16_t half) {
    uint32_t magnitude = half & 0x7FFFu, top = magnitude >= 0x7C00u ? 0x7F800000u : 0u;
    float value = float_of(magnitude << 13) * 0x1p112f;
    return float_of(bits_of(value) | top | (uint32_t)(half & 0x8000u) << 16);
}

INLINE void load(const uint8_t *restrict stored, Py_ssize_t first, int form, float *restrict x, int n) {
    if (form == F32) {
        memcpy(x, stored + 4 * first, 4 * (size_t)n);
        return;
    }
    const uint8_t *from = stored + 2 * first;
    if (form == BF16) {
        for (int i = 0; i < n; i++) {
            uint16_t half;
            memcpy(&half, from + 2 * i, 2);
            x[i] = float_of((uint32_t)half << 16);
        }
    } else {
        for (int i = 0; i < n; i++) {
            uint16_t half;
            memcpy(&half, from + 2 * i, 2);
            x[i] = from_f16(half);
        }
    }
}

/* Finite numbers only, which `form` can hold. */
INLINE uint16_t half_bits(float x, int form) {
    uint32_t u = bits_of(x);
    if (form == BF16) return (uint16_t)(u >> 16);
    uint32_t a = u & 0x7FFFFFFFu;
    uint32_t small = (uint32_t)(int32_t)(float_of(a < 0x38800000u ? a : 0u) * 0x1p24f);
    return (uint16_t)((u >> 16 & 0x8000u) | (a < 0x38800000u ? small : (a - 0x38000000u) >> 13));
}

INLINE void store(uint8_t *restrict stored, Py_ssize_t first, int form, const float *restrict x, int n) {
    if (form == F32) {
        memcpy(stored + 4 * first, x, 4 * (size_t)n);
        return;
    }
    uint8_t *to = stored + 2 * first;
    if (form == BF16) {
        for (int i = 0; i < n; i++) {
            uint16_t half = half_bits(x[i], BF16);
            memcpy(to + 2 * i, &half, 2);
        }
    } else {
        for (int i = 0; i < n; i++) {
            uint16_t half = half_bits(x[i], F16);
            memcpy(to + 2 * i, &half, 2);
        }
    }
}

/* ---- affine quantisation ---- */

/* Eight codes of `bits` bits fill as many bytes. */
INLINE void unpack_eights(const uint8_t *restrict packed, int bits, uint8_t *restrict bytes, int n) {
    uint64_t mask = (1u << bits) - 1;
    for (int i = 0; i < n; i += 8, packed += bits) {
        uint64_t eight = 0;
        memcpy(&eight, packed, (size_t)bits);
        for (int j = 0; j < 8; j++) bytes[i + j] = (uint8_t)(eight >> (j * bits) & mask);
    }
}

INLINE void pack_eights(const uint8_t *restrict bytes, int bits, uint8_t *restrict packed, int n) {
    for (int i = 0; i < n; i += 8, packed += bits) {
        uint64_t eight = 0;
        for (int j = 0; j < 8; j++) eight |= (uint64_t)bytes[i + j] << (j * bits);
        memcpy(packed, &eight, (size_t)bits);
    }
}

/* Two codes of 4 bits in a byte become two bytes of a 16-bit word, and back: vectors of bytes do not interleave. */
INLINE void unpack(const uint8_t *restrict packed, int bits, float *restrict codes, int n) {
    uint8_t bytes[TILE];
    if (bits == 4) {
        for (int i = 0; i < n / 2; i++) {
            uint16_t pair = (uint16_t)((packed[i] & 0x0Fu) | (packed[i] & 0xF0u) << 4);
            memcpy(bytes + 2 * i, &pair, 2);
        }
        for (int i = 0; i < n; i++) codes[i] = (float)bytes[i];
    } else if (bits == 8) {
        for (int i = 0; i < n; i++) codes[i] = (float)packed[i];
    } else {
        FOR_BITS(bits, unpack_eights(packed, BITS, bytes, n));
        for (int i = 0; i < n; i++) codes[i] = (float)bytes[i];
    }
}

INLINE void pack(const float *restrict codes, int bits, uint8_t *restrict packed, int n) {
    uint8_t bytes[TILE];
    for (int i = 0; i < n; i++) bytes[i] = (uint8_t)(int32_t)codes[i];
    if (bits == 4) {
        for (int i = 0; i < n / 2; i++) {
            uint16_t pair;
            memcpy(&pair, bytes + 2 * i, 2);
            packed[i] = (uint8_t)(pair | pair >> 4);
        }
    } else if (bits == 8) {
        memcpy(packed, bytes, (size_t)n);
    } else {
        FOR_BITS(bits, pack_eights(bytes, BITS, packed, n));
    }
}

/* Replace codes by round(round(code * scale) + bias), for all groups of a tile. */
INLINE void dequantize(float *restrict x, const float *scales, const float *biases, int form, int n, int group) {
    for (int first = 0, g = 0; first < n; first += group, g++) {
        float *restrict part = x + first;
        for (int i = 0; i < group; i++) part[i] = part[i] * scales[g];
        round_all(part, form, group);
        for (int i = 0; i < group; i++) part[i] = part[i] + biases[g];
        round_all(part, form, group);
    }
}

INLINE int all_finite(const float *x, int n) {
    int bad = 0;
    for (int i = 0; i < n; i++) bad |= !(fabsf(x[i]) <= FLT_MAX);
    return !bad;
}

/* Replace finite numbers by their codes; scales and biases are those of the format. */
INLINE void quantize(float *restrict x, float *scales, float *biases, int bits, int form, int n, int group) {
    float top = (float)((1 << bits) - 1);
    for (int first = 0, g = 0; first < n; first += group, g++) {
        float *restrict part = x + first;
        float high[16], low[16];
        for (int j = 0; j < 16; j++) high[j] = low[j] = part[j];
        for (int i = 16; i < group; i += 16)
            for (int j = 0; j < 16; j++) {
                high[j] = part[i + j] > high[j] ? part[i + j] : high[j];
                low[j] = part[i + j] < low[j] ? part[i + j] : low[j];
            }
        for (int half = 8; half; half /= 2)
            for (int j = 0; j < half; j++) {
                high[j] = high[j + half] > high[j] ? high[j + half] : high[j];
                low[j] = low[j + half] < low[j] ? low[j + half] : low[j];
            }
        int flip = fabsf(low[0]) > fabsf(high[0]);
        float scale = (high[0] - low[0]) / top;
        scale = scale > 1e-7f ? scale : 1e-7f;
        scale = flip ? scale : -scale;
        float edge = flip ? low[0] : high[0];
        float steps = rintf(edge / scale);
        if (steps != 0) scale = edge / steps;
        float bias = steps != 0 ? edge : 0.0f;
        for (int i = 0; i < group; i++) {
            float place = rintf((part[i] - bias) / scale);
            place = place > 0.0f ? place : 0.0f;
            part[i] = place < top ? place : top;
        }
        if (scale == 0)
            for (int i = 0; i < group; i++) part[i] = 0.0f;
        scales[g] = round_one(scale, form);
        biases[g] = bias;
    }
}

/* ---- inner products ---- */

/* Halve a group until LANES numbers are left, and add those to the totals. */
INLINE void add_group(float *restrict p, int n, double *restrict totals) {
    for (int half = n / 2; half >= LANES; half /= 2)
        for (int i = 0; i < half; i++) p[i] = p[i] + p[i + half];
    for (int i = 0; i < LANES; i++) totals[i] += (double)p[i];
}

INLINE void measure_groups(const float *base, const float *delta, const float *real, int n, int group, double (*totals)[LANES]) {
    float p[4][128];
    for (int first = 0; first < n; first += group) {
        const float *b = base + first, *d = delta + first, *r = real + first;
        for (int i = 0; i < group; i++) {
            float wrong = r[i] - d[i];
            p[0][i] = d[i] * d[i];
            p[1][i] = r[i] * d[i];
            p[2][i] = wrong * wrong;
            p[3][i] = b[i] * b[i];
        }
        for (int k = 0; k < 4; k++) add_group(p[k], group, totals[k]);
    }
}

INLINE void measure_rows(const float *restrict base, const float *restrict delta, const float *restrict real, int n, float (*restrict columns)[TILE]) {
    for (int i = 0; i < n; i++) {
        float wrong = real[i] - delta[i];
        columns[0][i] += delta[i] * delta[i];
        columns[1][i] += real[i] * delta[i];
        columns[2][i] += wrong * wrong;
        columns[3][i] += base[i] * base[i];
    }
}

/* ---- one row of one tile ---- */

INLINE void read_row(const Job *job, Py_ssize_t row, Py_ssize_t column, float *restrict base, int n) {
    const Kind *kind = &job->base;
    Py_ssize_t at = row * job->columns + column;
    if (!kind->bits) {
        load(job->weight, at, kind->form, base, n);
        return;
    }
    float scales[GROUPS], biases[GROUPS];
    load(job->scales, at / kind->group, kind->form, scales, n / kind->group);
    load(job->biases, at / kind->group, kind->form, biases, n / kind->group);
    unpack(job->weight + at / 8 * kind->bits, kind->bits, base, n);
    FOR_GROUP(kind->group, dequantize(base, scales, biases, kind->form, n, GROUP));
}

INLINE void multiply_out(const Job *job, Py_ssize_t row, Py_ssize_t column, float *restrict delta, int n) {
    for (int i = 0; i < n; i++) delta[i] = 0.0f;
    for (int k = 0; k < job->rank; k++) {
        float left = job->left[k * job->stride + row];
        const float *restrict right = job->right + k * job->columns + column;
        for (int i = 0; i < n; i++) delta[i] = delta[i] + left * right[i];
    }
}

/* Store the numbers, and leave in their place what the stored ones mean. */
INLINE int write_row(const Job *job, Py_ssize_t row, Py_ssize_t column, float *restrict x, int n) {
    const Kind *kind = &job->target;
    Py_ssize_t at = row * job->columns + column;
    if (!all_finite(x, n)) return 0;
    if (!kind->bits) {
        store(job->out_weight, at, kind->form, x, n);
        return 1;
    }
    float scales[GROUPS], biases[GROUPS];
    int groups = n / kind->group;
    FOR_GROUP(kind->group, quantize(x, scales, biases, kind->bits, kind->form, n, GROUP));
    if (!all_finite(scales, groups)) return 0;
    pack(x, kind->bits, job->out_weight + at / 8 * kind->bits, n);
    store(job->out_scales, at / kind->group, kind->form, scales, groups);
    store(job->out_biases, at / kind->group, kind->form, biases, groups);
    FOR_GROUP(kind->group, dequantize(x, scales, biases, kind->form, n, GROUP));
    return 1;
}

CLONES static int fuse_tile(const Job *job, Py_ssize_t column, int n, Sums *sums) {
    float base[TILE], delta[TILE], new[TILE], columns[4][TILE];
    double totals[4][LANES];
    int group = job->target.bits ? job->target.group : job->base.bits ? job->base.group : 0;
    memset(columns, 0, sizeof columns);
    memset(totals, 0, sizeof totals);
    for (Py_ssize_t row = 0; row < job->rows; row++) {
        read_row(job, row, column, base, n);
        if (job->rank) {
            multiply_out(job, row, column, delta, n);
            memcpy(new, delta, sizeof(float) * (size_t)n);
            round_all(new, job->update_form, n);
            if (job->update_form != job->base.form) round_all(new, job->base.form, n);
            for (int i = 0; i < n; i++) new[i] = base[i] + new[i];
            round_all(new, job->base.form, n);
        } else {
            memcpy(new, base, sizeof(float) * (size_t)n);
        }
        if (job->target.form != job->base.form) round_all(new, job->target.form, n);
        if (!write_row(job, row, column, new, n)) return 0;
        if (!job->rank) continue;
        for (int i = 0; i < n; i++) new[i] = new[i] - base[i];
        if (group)
            FOR_GROUP(group, measure_groups(base, delta, new, n, GROUP, totals));
        else
            measure_rows(base, delta, new, n, columns);
    }
    double *into[4] = {&sums->intended, &sums->inner, &sums->error, &sums->weight};
    for (int k = 0; k < 4; k++) {
        double total = 0;
        for (int i = 0; i < LANES; i++) total += totals[k][i];
        if (!group)
            for (int i = 0; i < n; i++) total += (double)columns[k][i];
        *into[k] += total;
    }
    return 1;
}

static int fuse_all(const Job *job, Sums *sums) {
    for (Py_ssize_t column = 0; column < job->columns; column += TILE) {
        Py_ssize_t n = job->columns - column < TILE ? job->columns - column : TILE;
        if (!fuse_tile(job, column, (int)n, sums)) return 0;
    }
    return 1;
}

/* ---- what Python calls ---- */

static int fits_kind(const Kind *kind, Py_ssize_t columns) {
    if (kind->form < F32 || kind->form > F16) return 0;
    if (!kind->bits) return 1;
    int bits = kind->bits == 2 || kind->bits == 3 || kind->bits == 4 || kind->bits == 5 || kind->bits == 6 || kind->bits == 8;
    int group = kind->group == 32 || kind->group == 64 || kind->group == 128;
    return bits && group && columns % kind->group == 0;
}

static int fits(const Kind *kind, Py_ssize_t numbers, const Py_buffer *weight, const Py_buffer *scales, const Py_buffer *biases) {
    Py_ssize_t size = kind->form == F32 ? 4 : 2;
    if (!kind->bits) return weight->len == numbers * size;
    Py_ssize_t each = numbers / kind->group * size;
    return weight->len == numbers / 8 * kind->bits && scales->len == each && biases->len == each;
}

PyDoc_STRVAR(fuse_doc,
"fuse(weight, scales, biases, out_weight, out_scales, out_biases, left, right, sizes, base, target)\n"
"\n"
"Write `weight + update` for a block of rows; return the sums, or None where a number is not finite.\n"
"\n"
"sizes: rows, columns, first, stride, rank, update_form; base and target: bits, group_size, form.\n"
"Buffers that a kind does without are None.\n");

static PyObject *fuse(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer in[3], out[3], left, right;
    Py_ssize_t first;
    Job job;
    Sums sums = {0, 0, 0, 0};
    int done = 0;
    if (!PyArg_ParseTuple(args, "y*z*z*w*z*z*z*z*(nnnnii)(iii)(iii)", &in[0], &in[1], &in[2], &out[0], &out[1], &out[2],
                          &left, &right, &job.rows, &job.columns, &first, &job.stride, &job.rank, &job.update_form,
                          &job.base.bits, &job.base.group, &job.base.form, &job.target.bits, &job.target.group,
                          &job.target.form))
        return NULL;
    Py_ssize_t numbers = job.rows * job.columns;
    int sound = job.rows > 0 && job.columns > 0 && job.rank >= 0 && fits_kind(&job.base, job.columns) &&
                fits_kind(&job.target, job.columns) && fits(&job.base, numbers, &in[0], &in[1], &in[2]) &&
                fits(&job.target, numbers, &out[0], &out[1], &out[2]) && job.update_form >= F32 && job.update_form <= F16;
    for (int i = 1; i < 3; i++) sound = sound && !(out[i].buf && out[i].readonly);
    if (job.rank)
        sound = sound && first >= 0 && first + job.rows <= job.stride && left.len == 4 * job.rank * job.stride &&
                right.len == 4 * job.rank * job.columns;
    if (sound) {
        job.weight = in[0].buf, job.scales = in[1].buf, job.biases = in[2].buf;
        job.out_weight = out[0].buf, job.out_scales = out[1].buf, job.out_biases = out[2].buf;
        job.left = job.rank ? (const float *)left.buf + first : NULL;
        job.right = right.buf;
        Py_BEGIN_ALLOW_THREADS
        done = fuse_all(&job, &sums);
        Py_END_ALLOW_THREADS
    }
    Py_buffer *all[8] = {&in[0], &in[1], &in[2], &out[0], &out[1], &out[2], &left, &right};
    for (int i = 0; i < 8; i++) PyBuffer_Release(all[i]);
    if (!sound) {
        PyErr_SetString(PyExc_ValueError, "the buffers do not fit the sizes");
        return NULL;
    }
    if (!done || !isfinite(sums.intended + sums.inner + sums.error + sums.weight)) Py_RETURN_NONE;
    return Py_BuildValue("(dddd)", sums.intended, sums.inner, sums.error, sums.weight);
}

/* In _shaping.c. */
PyObject *shape(PyObject *module, PyObject *args);
PyObject *fit(PyObject *module, PyObject *args);

PyDoc_STRVAR(shape_doc,
"shape(codes, steps, wanted, directions, gains, out, sizes, top)\n"
"\n"
"Write the new codes of a block, column after column; sizes: columns, rows, directions.\n");

PyDoc_STRVAR(fit_doc,
"fit(directions, rest, codes, wanted, by_scale, by_bias, sizes, ridge)\n"
"\n"
"Write by how much scales and biases change; sizes: rows, groups, numbers of a group, directions.\n");

static PyMethodDef methods[] = {
    {"fuse", fuse, METH_VARARGS, fuse_doc},
    {"shape", shape, METH_VARARGS, shape_doc},
    {"fit", fit, METH_VARARGS, fit_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_kernel", "The compiled arithmetic of fuses (see kernel.py).", 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModule_Create(&definition); }
