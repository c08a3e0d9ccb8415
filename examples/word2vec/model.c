#include "examples/word2vec/model.h"

#include <math.h>
#include <string.h>

static float dot(const float *a, const float *b, uint32_t width)
{
    float sum = 0;
    for (uint32_t i = 0; i < width; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

static void add_scaled(float *to, float scale, const float *from, uint32_t width)
{
    for (uint32_t i = 0; i < width; i++) {
        to[i] += scale * from[i];
    }
}

double w2v_gradient(const w2v_batch *batch, uint32_t width, const float *inputs,
                    const float *outputs, float *input_gradient, float *output_gradient)
{
    double loss = 0;
    memset(input_gradient, 0, (size_t)batch->input_count * width * sizeof(float));
    memset(output_gradient, 0, (size_t)batch->output_count * width * sizeof(float));
    for (uint32_t e = 0; e < batch->count; e++) {
        const w2v_example *example = &batch->examples[e];
        const size_t in = (size_t)example->input * width;
        for (uint32_t k = 0; k <= W2V_NEGATIVES; k++) {
            const size_t out = (size_t)example->outputs[k] * width;
            const float score = dot(inputs + in, outputs + out, width);
            const float signed_score = k == 0 ? score : -score;
            loss += log1p(exp(-(double)signed_score));
            /* d loss / d score = sigmoid(score) - label */
            const float slope = 1.0f / (1.0f + expf(-score)) - (k == 0 ? 1.0f : 0.0f);
            add_scaled(input_gradient + in, slope, outputs + out, width);
            add_scaled(output_gradient + out, slope, inputs + in, width);
        }
    }
    return loss;
}

double w2v_cosine(const float *a, const float *b, uint32_t width)
{
    double ab = 0, aa = 0, bb = 0;
    for (uint32_t i = 0; i < width; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return aa == 0 || bb == 0 ? 0 : ab / sqrt(aa * bb);
}
