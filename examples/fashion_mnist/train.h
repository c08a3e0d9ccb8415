/* One process that trains: alone with a local store, or as one worker of several.
 *
 * Every batch is cut into shares. A worker computes the gradient of the share of its rank; a
 * process alone computes all of them, one after another, and pushes them as the values of so many
 * devices. The store adds them in the same order either way, so the weights end equal to the bit.
 *
 * Errors: false, with a sentence on stderr that carries the store's words.
 */
#ifndef FASHION_TRAIN_H
#define FASHION_TRAIN_H

#include "examples/fashion_mnist/dataset.h"
#include "examples/fashion_mnist/report.h"

typedef struct fashion_run {
    const char *name;    /* shown with the progress; NULL: silent */
    const char *type;    /* "dist_sync", "dist_async", "local" */
    const char *address; /* of the server; NULL: local */
    const char *store;   /* NULL: "default" */
    int64_t rank;        /* wanted; -1: any */
    uint32_t shares;     /* of a batch: workers, or devices of a local store */
    uint32_t epochs;
    uint32_t batch;
    uint32_t samples;     /* pictures used; 0: all */
    double learning_rate; /* init leaves both negative: not chosen */
    double momentum;
    const char
        *compression; /* "2bit" ...; NULL: gradients are sent as they are; dist stores only */
    double threshold; /* of 2bit and 1bit */
    uint64_t seed;
} fashion_run;

void fashion_run_init(fashion_run *run);

/* Steps of one epoch: what does not fill a batch is left out. */
uint32_t fashion_run_steps(const fashion_run *run, const fashion_set *train);

bool fashion_train(const fashion_run *run, const fashion_set *train, const fashion_set *test,
                   fashion_report *report);

#endif
