/* Draws runs as one SVG picture: the loss by step on the left, the accuracy by epoch on the right.
 *
 * Errors: false, with a sentence on stderr.
 */
#ifndef FASHION_CHART_H
#define FASHION_CHART_H

#include "examples/fashion_mnist/report.h"

bool fashion_chart_write(const char *path, const char *title, const fashion_series *series,
                         size_t count);

#endif
