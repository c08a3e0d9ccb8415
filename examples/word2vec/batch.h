/* Batches of skip-gram examples: a word, one near it, and some that are not; and the rows of the
 * two embeddings that a batch touches.
 *
 * Frequent words are skipped at random (Mikolov et al. 2013, section 2.3: kept with probability
 * sqrt(t / f), t = 1e-3 here for so short a text); what is not near is drawn by frequency to the
 * power of 3/4 (section 2.2). The same seed draws the same batches.
 *
 * Threads: one. Memory: arrays belong to the batcher and hold until its next batch. Errors: NULL:
 * no memory.
 */
#ifndef WORD2VEC_BATCH_H
#define WORD2VEC_BATCH_H

#include "examples/word2vec/vocabulary.h"

#define W2V_NEGATIVES 5u

/* Each with its place among the rows of the batch. */
typedef struct w2v_example {
    uint32_t input;                      /* in input_rows */
    uint32_t outputs[1 + W2V_NEGATIVES]; /* in output_rows: the near one first */
} w2v_example;

typedef struct w2v_batch {
    const w2v_example *examples;
    uint32_t count;
    const int64_t *input_rows, *output_rows; /* ascending, without repeats */
    uint32_t input_count, output_count;
} w2v_batch;

typedef struct w2v_batcher w2v_batcher;

/* For batches of up to `tokens` tokens of the text. window: up to W2V_WINDOW_MAX. */
#define W2V_WINDOW_MAX 32u
w2v_batcher *w2v_batcher_open(const w2v_vocabulary *vocabulary, uint32_t window, uint32_t tokens,
                              uint64_t seed);
void w2v_batcher_close(w2v_batcher *batcher);

/* The examples of the tokens first to end; neighbours across `first` do not count. There may be
 * none. */
void w2v_batcher_take(w2v_batcher *batcher, uint64_t first, uint64_t end, w2v_batch *out);

#endif
