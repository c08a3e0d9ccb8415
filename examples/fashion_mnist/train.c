#include "examples/fashion_mnist/train.h"

#include "examples/fashion_mnist/network.h"
#include "examples/fashion_mnist/progress.h"

#include <kvstore/kvstore.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEST_ROWS 256u
#define DECAY_EPOCHS 4u
#define DECAY_FACTOR 0.4

/* What one process holds while it trains. */
typedef struct trainer {
    const fashion_run *run;
    const fashion_set *train;
    fashion_report *report;
    kv_store *kv;
    fashion_scratch *scratch;
    uint32_t *order;                 /* of the pictures, in this epoch */
    float *gradients;                /* first_share to end_share, one after another */
    uint32_t first_share, end_share; /* those that this process computes */
    kv_key keys[FASHION_TENSORS];
    kv_array *values; /* of key 0 for every share, then of key 1 ... */
    size_t value_counts[FASHION_TENSORS];
    kv_array weights[FASHION_TENSORS];
} trainer;

void fashion_run_init(fashion_run *run)
{
    *run = (fashion_run){.type = "dist_sync",
                         .rank = -1,
                         .shares = 4,
                         .epochs = 12,
                         .batch = 256,
                         .learning_rate = -1,
                         .momentum = -1,
                         .threshold = -1,
                         .seed = 1};
}

static uint32_t pictures(const fashion_run *run, const fashion_set *set)
{
    return run->samples != 0 && run->samples < set->count ? run->samples : set->count;
}

uint32_t fashion_run_steps(const fashion_run *run, const fashion_set *train)
{
    return pictures(run, train) / run->batch;
}

static bool failed(const trainer *t, const char *what, kv_status status)
{
    (void)fprintf(stderr, "fashion_mnist: rank %u, step %u: %s: %s: %s\n", t->report->rank,
                  t->report->steps_done + 1, what, kv_status_reason(status), kv_last_error(t->kv));
    return false;
}

static kv_array view(float *start, const fashion_tensor *tensor)
{
    return (kv_array){.data = start + tensor->offset,
                      .dtype = KV_F32,
                      .rank = tensor->rank,
                      .shape = tensor->shape};
}

static bool prepare(trainer *t)
{
    const uint32_t shares = t->end_share - t->first_share;
    const size_t elements = fashion_network_elements();
    const size_t share_rows = t->run->batch / t->run->shares;
    t->scratch = fashion_scratch_open(share_rows > TEST_ROWS ? share_rows : TEST_ROWS);
    t->order = malloc(pictures(t->run, t->train) * sizeof *t->order);
    t->gradients = calloc(shares * elements, sizeof *t->gradients);
    t->values = calloc((size_t)shares * FASHION_TENSORS, sizeof *t->values);
    if (t->scratch == NULL || t->order == NULL || t->gradients == NULL || t->values == NULL) {
        (void)fprintf(stderr, "fashion_mnist: no memory. Use a smaller --batch.\n");
        return false;
    }
    for (size_t i = 0; i < FASHION_TENSORS; i++) {
        const fashion_tensor *tensor = fashion_network_tensor(i);
        t->keys[i] = (kv_key){.name = tensor->name};
        t->weights[i] = view(t->report->weights, tensor);
        t->value_counts[i] = shares;
        for (uint32_t share = 0; share < shares; share++) {
            t->values[i * shares + share] = view(t->gradients + share * elements, tensor);
        }
    }
    return true;
}

/* The rule that the store applies. Every rank sends the same one; the first to arrive sets it. A
 * schedule counts updates: one a step, but one a push in an asynchronous store. */
static kv_status send_optimizer(const trainer *t)
{
    char json[512];
    const uint32_t updates = strstr(t->run->type, "async") != NULL ? t->run->shares : 1;
    (void)snprintf(json, sizeof json,
                   "{\"name\": \"sgd\", \"learning_rate\": %.9g, \"momentum\": %.9g, "
                   "\"rescale_grad\": %.9g, \"lr_scheduler\": {\"name\": \"factor\", "
                   "\"step\": %u, \"factor\": %.9g}}",
                   t->run->learning_rate, t->run->momentum, 1.0 / t->run->batch,
                   fashion_run_steps(t->run, t->train) * updates * DECAY_EPOCHS, DECAY_FACTOR);
    return kv_set_optimizer(t->kv, json);
}

/* Every worker has a residual of its own, so every worker asks for it, before its first push. */
static kv_status send_compression(const trainer *t)
{
    char json[160];
    if (t->run->compression == NULL) {
        return 0;
    }
    (void)snprintf(json, sizeof json, "{\"type\": \"%.60s\", \"threshold\": %.9g}",
                   t->run->compression, t->run->threshold);
    return kv_set_gradient_compression(t->kv, json);
}

/* The store holds the first weights and the optimizer when this returns. */
static bool join_store(trainer *t)
{
    fashion_network_start(t->report->weights, t->run->seed);
    kv_status status = kv_init(t->kv, t->keys, t->weights, FASHION_TENSORS);
    if (status != 0) {
        return failed(t, "init", status);
    }
    status = send_compression(t);
    if (status != 0) {
        return failed(t, "set_gradient_compression", status);
    }
    status = send_optimizer(t);
    if (status != 0) {
        return failed(t, "set_optimizer", status);
    }
    status = kv_pull(t->kv, t->keys, t->weights, NULL, FASHION_TENSORS, 0, NULL);
    if (status == 0) {
        status = kv_wait(t->kv, KV_FOREVER);
    }
    return status == 0 || failed(t, "pull", status);
}

/* One batch: gradients of this process's shares up, new weights down. */
static bool train_step(trainer *t, uint32_t step)
{
    const uint32_t rows = t->run->batch / t->run->shares;
    const uint32_t shares = t->end_share - t->first_share;
    double loss = 0;
    for (uint32_t share = t->first_share; share < t->end_share; share++) {
        const uint32_t *order = t->order + (size_t)step * t->run->batch + (size_t)share * rows;
        float *gradient = t->gradients + (share - t->first_share) * fashion_network_elements();
        loss += fashion_network_gradient(t->report->weights, t->train, order, rows, t->scratch,
                                         gradient);
    }
    kv_status status = kv_pushpull(t->kv, t->keys, t->values, t->value_counts, t->weights, NULL,
                                   FASHION_TENSORS, 0, KV_BORROW, NULL);
    if (status == 0) {
        status = kv_wait(t->kv, KV_FOREVER);
    }
    if (status != 0) {
        return failed(t, "pushpull", status);
    }
    t->report->loss[t->report->steps_done++] = (float)(loss / (double)(shares * rows));
    return true;
}

/* All pushes of all workers are in the weights when this returns (synchronous rounds need no more
 * than their own end). */
static bool settle(trainer *t)
{
    if (strstr(t->run->type, "async") == NULL) {
        return true;
    }
    kv_status status = kv_barrier(t->kv, 0);
    if (status != 0) {
        return failed(t, "barrier", status);
    }
    status = kv_pull(t->kv, t->keys, t->weights, NULL, FASHION_TENSORS, 0, NULL);
    if (status == 0) {
        status = kv_wait(t->kv, KV_FOREVER);
    }
    return status == 0 || failed(t, "pull", status);
}

static bool train_epochs(trainer *t, const fashion_set *test)
{
    fashion_report *report = t->report;
    const uint32_t steps = fashion_run_steps(t->run, t->train);
    fashion_set few = *test;
    few.count = pictures(t->run, test);
    fashion_progress progress;
    fashion_progress_start(&progress, t->run->name);
    const double start = fashion_clock();
    bool good = true;
    for (uint32_t epoch = 0; good && epoch < t->run->epochs; epoch++) {
        fashion_shuffle(t->order, pictures(t->run, t->train), t->run->seed * 1000003u + epoch);
        for (uint32_t step = 0; good && step < steps; step++) {
            good = train_step(t, step);
            fashion_progress_step(&progress, report);
        }
        good = good && (epoch + 1 < t->run->epochs || settle(t));
        report->seconds = fashion_clock() - start;
        /* The rank that shows its progress measures; the others measure at the end only. */
        if (good && (t->run->name != NULL || epoch + 1 == t->run->epochs)) {
            report->accuracy[epoch] =
                (float)fashion_network_accuracy(report->weights, &few, t->scratch);
            report->epochs_done = epoch + 1;
            fashion_progress_epoch(&progress, report);
        }
    }
    fashion_progress_end(&progress);
    return good;
}

bool fashion_train(const fashion_run *run, const fashion_set *train, const fashion_set *test,
                   fashion_report *report)
{
    const bool distributed = strstr(run->type, "dist") != NULL;
    trainer t = {.run = run, .train = train, .report = report};
    kv_options options;
    kv_options_init(&options);
    options.store = run->store;
    options.rank = run->rank;
    char error[256] = "";
    const kv_status status =
        kv_create(run->type, run->address, &options, &t.kv, error, sizeof error);
    if (status != 0) {
        (void)fprintf(stderr, "fashion_mnist: no %s store at %s: %s: %s\n", run->type,
                      run->address != NULL ? run->address : "this process",
                      kv_status_reason(status), error);
        return false;
    }
    report->rank = kv_rank(t.kv);
    t.first_share = distributed ? report->rank : 0;
    t.end_share = distributed ? report->rank + 1 : run->shares;
    bool good = true;
    if (distributed && kv_num_workers(t.kv) != run->shares) {
        (void)fprintf(stderr,
                      "fashion_mnist: the store has %u workers, not %u. Start with --workers %u, "
                      "or the server with --num-workers %u.\n",
                      kv_num_workers(t.kv), run->shares, kv_num_workers(t.kv), run->shares);
        good = false;
    }
    good = good && prepare(&t) && join_store(&t) && train_epochs(&t, test);
    report->done = good;
    const kv_status closed = kv_close(t.kv);
    if (good && closed != 0) {
        (void)fprintf(stderr, "fashion_mnist: close: %s\n", kv_status_reason(closed));
    }
    fashion_scratch_close(t.scratch);
    free(t.order);
    free(t.gradients);
    free(t.values);
    return good;
}
