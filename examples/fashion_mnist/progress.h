/* Shows how far a run is, on stderr: one line that is drawn again on a terminal, else one plain
 * line an epoch.
 *
 * Threads: one.
 */
#ifndef FASHION_PROGRESS_H
#define FASHION_PROGRESS_H

#include "examples/fashion_mnist/report.h"

typedef struct fashion_progress {
    const char *name; /* of the run; NULL: shows nothing */
    bool terminal;
    double started; /* seconds of the monotonic clock, as drawn */
    double drawn;
} fashion_progress;

void fashion_progress_start(fashion_progress *progress, const char *name);

/* After every step; `report` has what is done so far. */
void fashion_progress_step(fashion_progress *progress, const fashion_report *report);

/* After the accuracy of an epoch has been measured. */
void fashion_progress_epoch(fashion_progress *progress, const fashion_report *report);
void fashion_progress_end(fashion_progress *progress);

/* Seconds of the monotonic clock. */
double fashion_clock(void);

#endif
