#include "examples/diloco/worker.h"

#include "examples/fashion_mnist/network.h"
#include "examples/fashion_mnist/progress.h"

#include <kvstore/kvstore.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEST_ROWS 256u
/* The rate of the own steps falls as that of the synchronous run does. */
#define DECAY_EPOCHS 4u
#define DECAY_FACTOR 0.4

/* What one worker holds. The weights that it works on are the report's. */
typedef struct worker {
    const diloco_run *run;
    const fashion_set *train;
    fashion_report *report;
    kv_store *kv;
    fashion_scratch *scratch;
    uint32_t *order; /* of the pictures, in this epoch */
    float *start;    /* the weights that all workers started from */
    float *gradient;
    float *momentum;
    float *outer; /* start - end */
    kv_key keys[FASHION_TENSORS];
    kv_array starts[FASHION_TENSORS];
    kv_array outers[FASHION_TENSORS];
} worker;

static bool failed(const worker *w, const char *what, kv_status status)
{
    (void)fprintf(stderr, "diloco: rank %u, step %u: %s: %s: %s\n", w->report->rank,
                  w->report->steps_done + 1, what, kv_status_reason(status), kv_last_error(w->kv));
    return false;
}

static uint32_t pictures(const diloco_run *run, const fashion_set *set)
{
    const uint32_t wanted = run->inner.samples;
    return wanted != 0 && wanted < set->count ? wanted : set->count;
}

static bool prepare(worker *w)
{
    const size_t elements = fashion_network_elements();
    const size_t rows = w->run->inner.batch / w->run->inner.shares;
    w->scratch = fashion_scratch_open(rows > TEST_ROWS ? rows : TEST_ROWS);
    w->order = malloc(pictures(w->run, w->train) * sizeof *w->order);
    w->start = malloc(elements * sizeof *w->start);
    w->gradient = malloc(elements * sizeof *w->gradient);
    w->momentum = calloc(elements, sizeof *w->momentum);
    w->outer = malloc(elements * sizeof *w->outer);
    if (w->scratch == NULL || w->order == NULL || w->start == NULL || w->gradient == NULL ||
        w->momentum == NULL || w->outer == NULL) {
        (void)fprintf(stderr, "diloco: no memory. Use a smaller --batch.\n");
        return false;
    }
    for (size_t i = 0; i < FASHION_TENSORS; i++) {
        const fashion_tensor *tensor = fashion_network_tensor(i);
        w->keys[i] = (kv_key){.name = tensor->name};
        w->starts[i] = (kv_array){w->start + tensor->offset, KV_F32, tensor->rank, tensor->shape};
        w->outers[i] = (kv_array){w->outer + tensor->offset, KV_F32, tensor->rank, tensor->shape};
    }
    return true;
}

/* The store holds the first weights and the outer rule when this returns. */
static bool join_store(worker *w)
{
    char json[256];
    (void)snprintf(json, sizeof json,
                   "{\"name\": \"%s\", \"learning_rate\": %.9g, \"momentum\": %.9g, "
                   "\"rescale_grad\": %.9g}",
                   w->run->outer_name, w->run->outer_rate, w->run->outer_momentum,
                   1.0 / w->run->inner.shares);
    fashion_network_start(w->start, w->run->inner.seed);
    kv_status status = kv_init(w->kv, w->keys, w->starts, FASHION_TENSORS);
    if (status != 0) {
        return failed(w, "init", status);
    }
    status = kv_set_optimizer(w->kv, json);
    if (status != 0) {
        return failed(w, "set_optimizer", status);
    }
    memcpy(w->report->weights, w->start, fashion_network_elements() * sizeof(float));
    return true;
}

/* One own step: the gradient of this worker's share of a batch, and SGD with momentum. */
static void step_alone(worker *w, uint32_t step, double rate)
{
    const fashion_run *inner = &w->run->inner;
    const uint32_t rows = inner->batch / inner->shares;
    const uint32_t *order = w->order + (size_t)step * inner->batch + (size_t)w->report->rank * rows;
    const double loss = fashion_network_gradient(w->report->weights, w->train, order, rows,
                                                 w->scratch, w->gradient);
    const float scale = (float)(rate / rows);
    const float kept = (float)inner->momentum;
    for (size_t i = 0; i < fashion_network_elements(); i++) {
        w->momentum[i] = kept * w->momentum[i] - scale * w->gradient[i];
        w->report->weights[i] += w->momentum[i];
    }
    w->report->loss[w->report->steps_done++] = (float)(loss / rows);
}

/* The outer gradient up, the weights that all start from next down. */
static bool exchange(worker *w)
{
    const size_t elements = fashion_network_elements();
    for (size_t i = 0; i < elements; i++) {
        w->outer[i] = w->start[i] - w->report->weights[i];
    }
    kv_status status = kv_pushpull(w->kv, w->keys, w->outers, NULL, w->starts, NULL,
                                   FASHION_TENSORS, 0, KV_BORROW, NULL);
    if (status == 0) {
        status = kv_wait(w->kv, KV_FOREVER);
    }
    if (status != 0) {
        return failed(w, "pushpull", status);
    }
    memcpy(w->report->weights, w->start, elements * sizeof(float));
    return true;
}

static bool train_epochs(worker *w, const fashion_set *test)
{
    const fashion_run *inner = &w->run->inner;
    fashion_report *report = w->report;
    const uint32_t steps = fashion_run_steps(inner, w->train);
    fashion_set few = *test;
    few.count = pictures(w->run, test);
    fashion_progress progress;
    fashion_progress_start(&progress, inner->name);
    const double begun = fashion_clock();
    double rate = inner->learning_rate;
    bool good = true;
    for (uint32_t epoch = 0; good && epoch < inner->epochs; epoch++) {
        const bool last = epoch + 1 == inner->epochs;
        rate *= epoch > 0 && epoch % DECAY_EPOCHS == 0 ? DECAY_FACTOR : 1;
        fashion_shuffle(w->order, pictures(w->run, w->train), inner->seed * 1000003u + epoch);
        for (uint32_t step = 0; good && step < steps; step++) {
            step_alone(w, step, rate);
            if (report->steps_done % w->run->local_steps == 0 || (last && step + 1 == steps)) {
                good = exchange(w);
            }
            fashion_progress_step(&progress, report);
        }
        report->seconds = fashion_clock() - begun;
        /* Within an epoch the weights are the worker's own; at the end they are everybody's. */
        if (good && (inner->name != NULL || last)) {
            report->accuracy[epoch] =
                (float)fashion_network_accuracy(report->weights, &few, w->scratch);
            report->epochs_done = epoch + 1;
            fashion_progress_epoch(&progress, report);
        }
    }
    fashion_progress_end(&progress);
    return good;
}

bool diloco_train(const diloco_run *run, const fashion_set *train, const fashion_set *test,
                  fashion_report *report)
{
    worker w = {.run = run, .train = train, .report = report};
    kv_options options;
    kv_options_init(&options);
    options.store = run->inner.store;
    options.rank = run->inner.rank;
    char error[256] = "";
    const kv_status status =
        kv_create(run->inner.type, run->inner.address, &options, &w.kv, error, sizeof error);
    if (status != 0) {
        (void)fprintf(stderr, "diloco: no store at %s: %s: %s\n", run->inner.address,
                      kv_status_reason(status), error);
        return false;
    }
    report->rank = kv_rank(w.kv);
    const bool good = prepare(&w) && join_store(&w) && train_epochs(&w, test);
    report->done = good;
    const kv_status closed = kv_close(w.kv);
    if (good && closed != 0) {
        (void)fprintf(stderr, "diloco: close: %s\n", kv_status_reason(closed));
    }
    fashion_scratch_close(w.scratch);
    free(w.order);
    free(w.start);
    free(w.gradient);
    free(w.momentum);
    free(w.outer);
    return good;
}
