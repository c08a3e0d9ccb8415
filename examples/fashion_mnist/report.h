/* What a run leaves behind: its loss at every step, its accuracy at every epoch, its weights.
 *
 * Lies in memory that forked processes share, so that the one who started workers reads what they
 * wrote after they have ended.
 *
 * Threads: one writer; others read once it has ended.
 * Memory: open maps, close unmaps.
 */
#ifndef FASHION_REPORT_H
#define FASHION_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fashion_report {
    size_t bytes; /* of the mapping */
    bool done;    /* the run came to its end */
    uint32_t rank;
    uint32_t steps, epochs; /* room */
    uint32_t steps_done, epochs_done;
    double seconds;  /* of training */
    float *loss;     /* steps: mean over the pictures of the step that this process saw */
    float *accuracy; /* epochs: on the test set */
    float *weights;
} fashion_report;

fashion_report *fashion_report_open(uint32_t steps, uint32_t epochs); /* NULL: no memory */
void fashion_report_close(fashion_report *report);                    /* accepts NULL */

/* The last accuracy, or 0 when there is none. */
double fashion_report_accuracy(const fashion_report *report);

/* FNV-1a, 64 bits, of the weights: two runs with equal numbers have equal weights. */
uint64_t fashion_report_hash(const fashion_report *report);

/* One run under its name, for the two writers below. */
typedef struct fashion_series {
    const char *name;
    const fashion_report *report;
} fashion_series;

/* Rows of run,step,epoch,loss,accuracy. False with a sentence on stderr. */
bool fashion_report_csv(const char *path, const fashion_series *series, size_t count);

#endif
