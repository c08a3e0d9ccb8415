#include "examples/fashion_mnist/network.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define W1 0
#define B1 ((size_t)FASHION_PIXELS * FASHION_HIDDEN)
#define W2 (B1 + FASHION_HIDDEN)
#define B2 (W2 + (size_t)FASHION_HIDDEN * FASHION_CLASSES)
#define ELEMENTS (B2 + FASHION_CLASSES)

/* One tile of a product stays in registers: 4 rows of 8 columns. */
#define TILE_ROWS 4u
#define TILE_COLUMNS 8u

/* Four floats that are added and multiplied as one: gcc and clang know such types on every
 * machine, and the bits are those of four single floats. */
#define LANES 4u
typedef float lanes __attribute__((vector_size(16)));

struct fashion_scratch {
    size_t rows_max;
    float *input;      /* rows x pixels */
    float *hidden;     /* rows x hidden, after ReLU */
    float *output;     /* rows x classes: logits, then their gradient */
    float *back;       /* rows x hidden: gradient of the hidden layer */
    float *transposed; /* classes x hidden: the second layer's weights */
};

/* out[row][column] = sum over k of a(row, k) * b[k][column], the terms added in order of k.
 * a(row, k) lies at a[row * row_stride + k * depth_stride], so that a transposed a is no copy. */
typedef struct product {
    const float *a;
    size_t row_stride, depth_stride;
    const float *b; /* depth x columns */
    size_t rows, columns, depth;
    float *out; /* rows x columns */
} product;

static void multiply_tile(const product *p, size_t row, size_t column)
{
    lanes sum[TILE_ROWS][TILE_COLUMNS / LANES] = {{{0}}};
    const float *a = p->a + row * p->row_stride;
    const float *b = p->b + column;
    for (size_t k = 0; k < p->depth; k++) {
        lanes terms[TILE_COLUMNS / LANES];
        memcpy(terms, b, sizeof terms);
        for (size_t r = 0; r < TILE_ROWS; r++) {
            const float x = a[r * p->row_stride];
            for (size_t c = 0; c < TILE_COLUMNS / LANES; c++) {
                sum[r][c] += x * terms[c];
            }
        }
        a += p->depth_stride;
        b += p->columns;
    }
    for (size_t r = 0; r < TILE_ROWS; r++) {
        memcpy(p->out + (row + r) * p->columns + column, sum[r], sizeof sum[r]);
    }
}

/* What is left at the edges, one element at a time; the same order of terms. */
static void multiply_edge(const product *p, size_t row, size_t row_end, size_t column)
{
    for (; row < row_end; row++) {
        for (size_t c = column; c < p->columns; c++) {
            float sum = 0;
            for (size_t k = 0; k < p->depth; k++) {
                sum += p->a[row * p->row_stride + k * p->depth_stride] * p->b[k * p->columns + c];
            }
            p->out[row * p->columns + c] = sum;
        }
    }
}

static void multiply(const product *p)
{
    const size_t rows = p->rows - p->rows % TILE_ROWS;
    const size_t columns = p->columns - p->columns % TILE_COLUMNS;
    for (size_t row = 0; row < rows; row += TILE_ROWS) {
        for (size_t column = 0; column < columns; column += TILE_COLUMNS) {
            multiply_tile(p, row, column);
        }
    }
    multiply_edge(p, 0, rows, columns);
    multiply_edge(p, rows, p->rows, 0);
}

static void add_bias(float *values, const float *bias, size_t rows, size_t columns)
{
    for (size_t row = 0; row < rows; row++) {
        for (size_t c = 0; c < columns; c++) {
            values[row * columns + c] += bias[c];
        }
    }
}

static void sum_rows(const float *values, size_t rows, size_t columns, float *out)
{
    memset(out, 0, columns * sizeof *out);
    for (size_t row = 0; row < rows; row++) {
        for (size_t c = 0; c < columns; c++) {
            out[c] += values[row * columns + c];
        }
    }
}

/* Fills scratch->hidden and scratch->output (logits). */
static void forward(const float *weights, fashion_scratch *scratch, size_t rows)
{
    multiply(&(product){.a = scratch->input,
                        .row_stride = FASHION_PIXELS,
                        .depth_stride = 1,
                        .b = weights + W1,
                        .rows = rows,
                        .columns = FASHION_HIDDEN,
                        .depth = FASHION_PIXELS,
                        .out = scratch->hidden});
    add_bias(scratch->hidden, weights + B1, rows, FASHION_HIDDEN);
    for (size_t i = 0; i < rows * FASHION_HIDDEN; i++) {
        scratch->hidden[i] = scratch->hidden[i] > 0 ? scratch->hidden[i] : 0;
    }
    multiply(&(product){.a = scratch->hidden,
                        .row_stride = FASHION_HIDDEN,
                        .depth_stride = 1,
                        .b = weights + W2,
                        .rows = rows,
                        .columns = FASHION_CLASSES,
                        .depth = FASHION_HIDDEN,
                        .out = scratch->output});
    add_bias(scratch->output, weights + B2, rows, FASHION_CLASSES);
}

/* Logits become softmax(logits) - onehot(label), which is the gradient; gives the loss. */
static double softmax_loss(float *logits, uint8_t label)
{
    float top = logits[0];
    for (size_t c = 1; c < FASHION_CLASSES; c++) {
        top = logits[c] > top ? logits[c] : top;
    }
    const double right = (double)(logits[label] - top);
    float sum = 0;
    for (size_t c = 0; c < FASHION_CLASSES; c++) {
        logits[c] = expf(logits[c] - top);
        sum += logits[c];
    }
    for (size_t c = 0; c < FASHION_CLASSES; c++) {
        logits[c] /= sum;
    }
    logits[label] -= 1.0f;
    return log((double)sum) - right;
}

static void load_row(const fashion_set *set, uint32_t row, float *out)
{
    const uint8_t *pixels = set->pixels + (size_t)row * FASHION_PIXELS;
    for (size_t i = 0; i < FASHION_PIXELS; i++) {
        out[i] = (float)pixels[i] * (1.0f / 255.0f);
    }
}

static void backward(const float *weights, fashion_scratch *scratch, size_t rows, float *gradient)
{
    multiply(&(product){.a = scratch->hidden,
                        .row_stride = 1,
                        .depth_stride = FASHION_HIDDEN,
                        .b = scratch->output,
                        .rows = FASHION_HIDDEN,
                        .columns = FASHION_CLASSES,
                        .depth = rows,
                        .out = gradient + W2});
    sum_rows(scratch->output, rows, FASHION_CLASSES, gradient + B2);
    for (size_t h = 0; h < FASHION_HIDDEN; h++) {
        for (size_t c = 0; c < FASHION_CLASSES; c++) {
            scratch->transposed[c * FASHION_HIDDEN + h] = weights[W2 + h * FASHION_CLASSES + c];
        }
    }
    multiply(&(product){.a = scratch->output,
                        .row_stride = FASHION_CLASSES,
                        .depth_stride = 1,
                        .b = scratch->transposed,
                        .rows = rows,
                        .columns = FASHION_HIDDEN,
                        .depth = FASHION_CLASSES,
                        .out = scratch->back});
    for (size_t i = 0; i < rows * FASHION_HIDDEN; i++) {
        scratch->back[i] = scratch->hidden[i] > 0 ? scratch->back[i] : 0;
    }
    multiply(&(product){.a = scratch->input,
                        .row_stride = 1,
                        .depth_stride = FASHION_PIXELS,
                        .b = scratch->back,
                        .rows = FASHION_PIXELS,
                        .columns = FASHION_HIDDEN,
                        .depth = rows,
                        .out = gradient + W1});
    sum_rows(scratch->back, rows, FASHION_HIDDEN, gradient + B1);
}

/* splitmix64 (Steele, Lea and Flood, 2014): small, and the same everywhere. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static void fill_uniform(float *out, size_t count, size_t inputs, uint64_t *state)
{
    const float bound = sqrtf(6.0f / (float)inputs);
    for (size_t i = 0; i < count; i++) {
        const float unit = (float)(next_random(state) >> 40) * 0x1p-24f; /* 24 bits are exact */
        out[i] = (2.0f * unit - 1.0f) * bound;
    }
}

const fashion_tensor *fashion_network_tensor(size_t index)
{
    static const fashion_tensor tensors[FASHION_TENSORS] = {
        {"fc1_weight", 2, {FASHION_PIXELS, FASHION_HIDDEN}, W1, B1 - W1},
        {"fc1_bias", 1, {FASHION_HIDDEN}, B1, W2 - B1},
        {"fc2_weight", 2, {FASHION_HIDDEN, FASHION_CLASSES}, W2, B2 - W2},
        {"fc2_bias", 1, {FASHION_CLASSES}, B2, ELEMENTS - B2},
    };
    return &tensors[index];
}

size_t fashion_network_elements(void)
{
    return ELEMENTS;
}

void fashion_network_start(float *weights, uint64_t seed)
{
    uint64_t state = seed;
    memset(weights, 0, ELEMENTS * sizeof *weights);
    fill_uniform(weights + W1, B1 - W1, FASHION_PIXELS, &state);
    fill_uniform(weights + W2, B2 - W2, FASHION_HIDDEN, &state);
}

fashion_scratch *fashion_scratch_open(size_t rows_max)
{
    fashion_scratch *scratch = calloc(1, sizeof *scratch);
    if (scratch == NULL) {
        return NULL;
    }
    scratch->rows_max = rows_max;
    scratch->input = calloc(rows_max * FASHION_PIXELS, sizeof(float));
    scratch->hidden = calloc(rows_max * FASHION_HIDDEN, sizeof(float));
    scratch->output = calloc(rows_max * FASHION_CLASSES, sizeof(float));
    scratch->back = calloc(rows_max * FASHION_HIDDEN, sizeof(float));
    scratch->transposed = calloc((size_t)FASHION_CLASSES * FASHION_HIDDEN, sizeof(float));
    if (scratch->input == NULL || scratch->hidden == NULL || scratch->output == NULL ||
        scratch->back == NULL || scratch->transposed == NULL) {
        fashion_scratch_close(scratch);
        return NULL;
    }
    return scratch;
}

void fashion_scratch_close(fashion_scratch *scratch)
{
    if (scratch != NULL) {
        free(scratch->input);
        free(scratch->hidden);
        free(scratch->output);
        free(scratch->back);
        free(scratch->transposed);
        free(scratch);
    }
}

double fashion_network_gradient(const float *weights, const fashion_set *set, const uint32_t *rows,
                                size_t count, fashion_scratch *scratch, float *gradient)
{
    for (size_t i = 0; i < count; i++) {
        load_row(set, rows[i], scratch->input + i * FASHION_PIXELS);
    }
    forward(weights, scratch, count);
    double loss = 0;
    for (size_t i = 0; i < count; i++) {
        loss += softmax_loss(scratch->output + i * FASHION_CLASSES, set->labels[rows[i]]);
    }
    backward(weights, scratch, count, gradient);
    return loss;
}

double fashion_network_accuracy(const float *weights, const fashion_set *set,
                                fashion_scratch *scratch)
{
    uint32_t right = 0;
    for (uint32_t first = 0; first < set->count;) {
        const uint32_t left = set->count - first;
        const uint32_t rows = left < scratch->rows_max ? left : (uint32_t)scratch->rows_max;
        for (uint32_t i = 0; i < rows; i++) {
            load_row(set, first + i, scratch->input + (size_t)i * FASHION_PIXELS);
        }
        forward(weights, scratch, rows);
        for (uint32_t i = 0; i < rows; i++) {
            const float *logits = scratch->output + (size_t)i * FASHION_CLASSES;
            uint32_t best = 0;
            for (uint32_t c = 1; c < FASHION_CLASSES; c++) {
                best = logits[c] > logits[best] ? c : best;
            }
            right += best == set->labels[first + i];
        }
        first += rows;
    }
    return (double)right / (double)set->count;
}

void fashion_shuffle(uint32_t *order, uint32_t count, uint64_t seed)
{
    uint64_t state = seed;
    for (uint32_t i = 0; i < count; i++) {
        order[i] = i;
    }
    for (uint32_t i = count; i > 1; i--) {
        const uint32_t other = (uint32_t)(next_random(&state) % i);
        const uint32_t kept = order[i - 1];
        order[i - 1] = order[other];
        order[other] = kept;
    }
}
