/* One worker of DiLoCo (Douillard et al., 2023): many steps of its own, then one exchange.
 *
 * A worker takes `local_steps` steps of SGD with momentum on its shares of the batches. Then it
 * pushes how far it came, start - end, as a gradient; the server takes the mean over the workers
 * and applies the outer rule to the weights that all start from next. The momentum of the own steps
 * stays with the worker.
 *
 * Errors: false, with a sentence on stderr that carries the store's words.
 */
#ifndef DILOCO_WORKER_H
#define DILOCO_WORKER_H

#include "examples/fashion_mnist/train.h"

typedef struct diloco_run {
    fashion_run inner;      /* rate and momentum are those of the own steps */
    uint32_t local_steps;   /* between two exchanges; at least 1 */
    const char *outer_name; /* a rule of the server with momentum */
    double outer_rate;
    double outer_momentum;
} diloco_run;

bool diloco_train(const diloco_run *run, const fashion_set *train, const fashion_set *test,
                  fashion_report *report);

#endif
