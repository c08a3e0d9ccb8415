/* diloco: many local steps between two exchanges, beside a gradient pushed at every step.
 *
 * Starts a kvstored and the workers by itself, twice, and compares accuracy and bytes.
 */
#include "examples/diloco/compare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: diloco [--server PROGRAM] [--workers 4] [--local-steps 50]\n"
    "\n"
    "Trains on Fashion-MNIST by synchronous SGD and by DiLoCo, on the same pictures. The last "
    "line\n"
    "on stdout is JSON.\n"
    "\n"
    "  --epochs 12  --batch 256  --samples 60000  --seed 1\n"
    "  --learning-rate 0.1  --momentum 0.9              of synchronous SGD\n"
    "  --inner-learning-rate 0.05  --inner-momentum 0.9 of a worker's own steps\n"
    "  --outer diloco  --outer-learning-rate 0.7  --outer-momentum 0.9\n"
    "                         what the server does with the mean of start - end\n"
    "  --accuracy-loss NUMBER more than so much below synchronous SGD is a failure (0.01)\n"
    "  --data FOLDER          of dataset-fashion-mnist (" FASHION_FOLDER ")\n"
    "\n"
    "Exit codes: 0 done, 1 failed, 2 wrong use.\n";

/* An option with a number: where it goes, and what it may be. */
typedef struct number {
    const char *name;
    double high;
    double *real;    /* from 0 */
    uint32_t *whole; /* or, from 1 */
    uint64_t *large; /* or, from 0 */
} number;

static bool read_number(const number *row, const char *text)
{
    char *end = NULL;
    const double value = strtod(text, &end);
    const double low = row->whole != NULL ? 1 : 0;
    const bool whole = row->real == NULL;
    if (end == text || *end != '\0' || !(value >= low && value <= row->high) ||
        (whole && value != (double)(uint64_t)value)) {
        (void)fprintf(stderr, "diloco: --%s must be a %snumber from %g to %g.\n", row->name,
                      whole ? "whole " : "", low, row->high);
        return false;
    }
    if (row->real != NULL) {
        *row->real = value;
    } else if (row->whole != NULL) {
        *row->whole = (uint32_t)value;
    } else {
        *row->large = (uint64_t)value;
    }
    return true;
}

/* What one option says; false for one that is not there. */
static bool read_option(diloco_comparison *to, const char **data, const char *name,
                        const char *text)
{
    const number numbers[] = {
        {"workers", 64, .whole = &to->run.inner.shares},
        {"local-steps", 1e6, .whole = &to->run.local_steps},
        {"epochs", 10000, .whole = &to->run.inner.epochs},
        {"batch", 60000, .whole = &to->run.inner.batch},
        {"samples", 60000, .whole = &to->run.inner.samples},
        {"seed", 1e9, .large = &to->run.inner.seed},
        {"learning-rate", 1000, .real = &to->rate},
        {"momentum", 1, .real = &to->momentum},
        {"inner-learning-rate", 1000, .real = &to->run.inner.learning_rate},
        {"inner-momentum", 1, .real = &to->run.inner.momentum},
        {"outer-learning-rate", 1000, .real = &to->run.outer_rate},
        {"outer-momentum", 1, .real = &to->run.outer_momentum},
        {"accuracy-loss", 1, .real = &to->accuracy_loss},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (strcmp(name, numbers[i].name) == 0) {
            return read_number(&numbers[i], text);
        }
    }
    if (strcmp(name, "server") == 0) {
        to->server = text;
    } else if (strcmp(name, "data") == 0) {
        *data = text;
    } else if (strcmp(name, "outer") == 0) {
        to->run.outer_name = text;
    } else {
        (void)fprintf(stderr, "diloco: there is no option --%s. See --help.\n", name);
        return false;
    }
    return true;
}

static bool read_line(int count, char **words, diloco_comparison *to, const char **data)
{
    for (int i = 1; i < count; i += 2) {
        if (strncmp(words[i], "--", 2) != 0 || i + 1 == count) {
            (void)fprintf(stderr, "diloco: %s: an option and its value are wanted. See --help.\n",
                          words[i]);
            return false;
        }
        if (!read_option(to, data, words[i] + 2, words[i + 1])) {
            return false;
        }
    }
    const fashion_run *inner = &to->run.inner;
    if (strspn(to->run.outer_name, "abcdefghijklmnopqrstuvwxyz_") != strlen(to->run.outer_name) ||
        strlen(to->run.outer_name) > 32) {
        (void)fprintf(stderr, "diloco: --outer must be the name of a rule.\n");
        return false;
    }
    if (inner->batch % inner->shares != 0 ||
        (inner->samples != 0 && inner->samples < inner->batch)) {
        (void)fprintf(stderr, "diloco: --batch must be a multiple of --workers, and at most "
                              "--samples.\n");
        return false;
    }
    return true;
}

int main(int count, char **words)
{
    diloco_comparison comparison = {
        .server = "build/bin/kvstored",
        .rate = 0.1,
        .momentum = 0.9,
        .accuracy_loss = 0.01,
        .run = {
            .local_steps = 50, .outer_name = "diloco", .outer_rate = 0.7, .outer_momentum = 0.9}};
    const char *data = FASHION_FOLDER;
    fashion_run_init(&comparison.run.inner);
    comparison.run.inner.learning_rate = 0.05;
    comparison.run.inner.momentum = 0.9;
    if (count == 2 && strcmp(words[1], "--help") == 0) {
        (void)fputs(usage, stdout);
        return 0;
    }
    if (!read_line(count, words, &comparison, &data)) {
        return 2;
    }
    fashion_set train = {0};
    fashion_set test = {0};
    const bool good = fashion_set_load(data, "train", &train) &&
                      fashion_set_load(data, "t10k", &test) &&
                      diloco_compare(&comparison, &train, &test);
    fashion_set_deinit(&train);
    fashion_set_deinit(&test);
    return good ? 0 : 1;
}
