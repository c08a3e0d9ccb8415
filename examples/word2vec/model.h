/* Skip-gram with negative sampling (Mikolov et al. 2013, equation 4): for each example
 *   loss = -log sigmoid(u_near . v) - sum over negatives of log sigmoid(-u . v)
 * with v the input row and u output rows.
 *
 * Threads: any; pure. Memory: the caller's. Errors: none.
 */
#ifndef WORD2VEC_MODEL_H
#define WORD2VEC_MODEL_H

#include "examples/word2vec/batch.h"

/* inputs and outputs: the batch's rows, one after another, `width` floats each. Fills the two
 * gradients (summed over the batch, of the same shapes) and returns the summed loss. */
double w2v_gradient(const w2v_batch *batch, uint32_t width, const float *inputs,
                    const float *outputs, float *input_gradient, float *output_gradient);

/* The cosine of two rows. */
double w2v_cosine(const float *a, const float *b, uint32_t width);

#endif
