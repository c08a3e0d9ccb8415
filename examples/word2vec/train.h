/* One process that trains: alone with a local store, or as one worker of several.
 *
 * The text is cut into a stretch for each worker, and each stretch into the same number of steps.
 * A step pulls the rows of the two embeddings that its batch uses, and pushes their gradients:
 * never a whole embedding. The store adds the rows of all workers and applies the rule to them.
 *
 * Errors: false, with a sentence on stderr that carries the store's words.
 */
#ifndef WORD2VEC_TRAIN_H
#define WORD2VEC_TRAIN_H

#include "examples/word2vec/vocabulary.h"

typedef struct w2v_run {
    const char *type;    /* "local", "dist_sync", "dist_async" */
    const char *address; /* of the server; NULL: local */
    const char *store;   /* NULL: "default" */
    int64_t rank;        /* wanted; -1: any */
    uint32_t epochs;
    uint32_t width; /* of a row */
    uint32_t window;
    uint32_t tokens; /* of a step */
    double learning_rate;
    uint64_t seed;
    bool quiet;
} w2v_run;

typedef struct w2v_report {
    uint32_t rank;
    float *embedding;  /* of the inputs, all rows: pulled at the end. The caller frees it */
    double first_loss; /* for an example, in the first epoch */
    double last_loss;  /* in the last one */
    uint64_t steps;    /* of this worker */
    uint64_t rows;     /* that it pulled, and pushed */
    double seconds;
} w2v_report;

bool w2v_train(const w2v_run *run, const w2v_vocabulary *vocabulary, w2v_report *report);

#endif
