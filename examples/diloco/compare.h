/* DiLoCo beside synchronous SGD: the same pictures, a server and worker processes for each.
 *
 * Errors: false, with a sentence on stderr.
 */
#ifndef DILOCO_COMPARE_H
#define DILOCO_COMPARE_H

#include "examples/diloco/worker.h"

typedef struct diloco_comparison {
    const char *server;   /* the program kvstored */
    diloco_run run;       /* inner.learning_rate and inner.momentum: of the own steps */
    double rate;          /* of the synchronous run */
    double momentum;      /* of the synchronous run */
    double accuracy_loss; /* DiLoCo may be so much worse; more is a failure */
} diloco_comparison;

/* The last line on stdout is JSON. */
bool diloco_compare(const diloco_comparison *comparison, const fashion_set *train,
                    const fashion_set *test);

#endif
