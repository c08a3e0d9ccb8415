/* A network of 784 pixels, 128 hidden units (ReLU) and 10 classes (softmax, cross entropy).
 *
 * All weights lie in one array of fashion_network_elements() floats, tensor after tensor; a
 * gradient has the same layout. The sums run in a fixed order in f32, so equal pictures and
 * weights give equal bits, in whatever process.
 *
 * Threads: any; the scratch belongs to one caller at a time.
 * Memory: the caller's; scratch is opened for the most rows of one call.
 */
#ifndef FASHION_NETWORK_H
#define FASHION_NETWORK_H

#include "examples/fashion_mnist/dataset.h"

#include <stddef.h>

#define FASHION_HIDDEN 128u
#define FASHION_TENSORS 4u

/* One key of the store. */
typedef struct fashion_tensor {
    const char *name;
    uint32_t rank;
    uint64_t shape[2];
    size_t offset; /* in the array of all weights */
    size_t elements;
} fashion_tensor;

/* index < FASHION_TENSORS */
const fashion_tensor *fashion_network_tensor(size_t index);
size_t fashion_network_elements(void);

/* Uniform in +-sqrt(6 / inputs) (He et al., 2015); biases 0. The same for the same seed. */
void fashion_network_start(float *weights, uint64_t seed);

typedef struct fashion_scratch fashion_scratch;
fashion_scratch *fashion_scratch_open(size_t rows_max); /* NULL: no memory */
void fashion_scratch_close(fashion_scratch *scratch);   /* accepts NULL */

/* The gradient of the loss summed over the pictures `rows` of `set` (divide by the batch later,
 * by rescale_grad); gives that sum. */
double fashion_network_gradient(const float *weights, const fashion_set *set, const uint32_t *rows,
                                size_t count, fashion_scratch *scratch, float *gradient);

/* The part of `set` that is classified right, 0 to 1. */
double fashion_network_accuracy(const float *weights, const fashion_set *set,
                                fashion_scratch *scratch);

/* Numbers 0 to count - 1 in an order that depends on nothing but the seed. */
void fashion_shuffle(uint32_t *order, uint32_t count, uint64_t seed);

#endif
