/* The whole show: a server, worker processes, and one process alone that must end with the same
 * weights.
 *
 * Errors: false, with a sentence on stderr.
 */
#ifndef FASHION_DEMO_H
#define FASHION_DEMO_H

#include "examples/fashion_mnist/train.h"

typedef struct fashion_demo {
    const char *server;  /* the program kvstored */
    const char *output;  /* an existing folder for loss.csv and loss.svg */
    double accuracy_min; /* less is a failure */
} fashion_demo;

/* run->type is dist_sync or dist_async; run->shares is the number of workers. The last line on
 * stdout is JSON. */
bool fashion_demo_run(const fashion_demo *demo, const fashion_run *run, const fashion_set *train,
                      const fashion_set *test);

#endif
