#include "bench/ours.h"

#include "bench/limits.h"

#include <kvstore/kvstore.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TENSOR_KEY "tensor"

typedef struct worker {
    kv_store *kv;
    uint64_t elements, small_elements;
    uint32_t small_keys;
    float *gradient, *value;
    uint64_t bytes; /* of each of the two */
    bool shared;    /* the gradient */
    kv_key tensor_key;
    kv_array tensor_gradient, tensor_value;
    kv_key *keys; /* the small ones */
    kv_array *gradients;
} worker;

static void close_worker(void *context)
{
    worker *w = context;
    (void)kv_close(w->kv);
    if (w->shared) {
        kv_dealloc(w->gradient);
    } else {
        kvs_bench_tensor_free(w->gradient, w->bytes);
    }
    kvs_bench_tensor_free(w->value, w->bytes);
    free(w->keys);
    free(w->gradients);
    free(w);
}

static bool alloc_worker(worker *w, const kvs_bench_sizes *sizes)
{
    const uint64_t small_bytes = sizes->small_bytes * sizes->small_keys;
    w->bytes = sizes->tensor_bytes > small_bytes ? sizes->tensor_bytes : small_bytes;
    w->elements = sizes->tensor_bytes / sizeof(float);
    w->small_elements = sizes->small_bytes / sizeof(float);
    w->small_keys = sizes->small_keys;
    w->gradient = kvs_bench_tensor(w->bytes, 1);
    w->value = kvs_bench_tensor(w->bytes, 0);
    w->keys = calloc(w->small_keys, sizeof *w->keys);
    w->gradients = calloc(w->small_keys, sizeof *w->gradients);
    if (w->gradient == NULL || w->value == NULL || w->keys == NULL || w->gradients == NULL) {
        return false;
    }
    w->tensor_key = (kv_key){.name = TENSOR_KEY};
    w->tensor_gradient = (kv_array){w->gradient, KV_F32, 1, &w->elements};
    w->tensor_value = (kv_array){w->value, KV_F32, 1, &w->elements};
    return true;
}

/* Small keys get names too: "small" and a number. */
static bool make_keys(worker *w, char *error, uint32_t error_bytes)
{
    char(*names)[24] = calloc(w->small_keys, sizeof *names);
    if (names == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < w->small_keys; i++) {
        (void)snprintf(names[i], sizeof names[i], "small%u", i);
        w->keys[i] = (kv_key){.name = names[i]};
        w->gradients[i] =
            (kv_array){w->gradient + i * w->small_elements, KV_F32, 1, &w->small_elements};
    }
    kv_status status = kv_init(w->kv, &w->tensor_key, &w->tensor_value, 1);
    if (status == 0) {
        status = kv_init(w->kv, w->keys, w->gradients, w->small_keys);
    }
    if (status == 0) {
        status = kv_set_optimizer(w->kv, "{\"name\": \"sgd\", \"learning_rate\": 0.001}");
    }
    if (status != 0) {
        (void)snprintf(error, error_bytes, "%s: %s", kv_status_reason(status),
                       kv_last_error(w->kv));
    }
    return status == 0; /* the names stay as long as the process */
}

/* The gradient's memory becomes the server's too. It stays as long as the process. */
static bool share_gradient(worker *w, char *error, uint32_t error_bytes)
{
    void *shared = NULL;
    if (kv_alloc(w->kv, w->bytes, &shared) != 0) {
        (void)snprintf(error, error_bytes, "%s", kv_last_error(w->kv));
        return false;
    }
    memcpy(shared, w->gradient, w->bytes);
    kvs_bench_tensor_free(w->gradient, w->bytes);
    w->gradient = shared;
    w->tensor_gradient.data = shared;
    w->shared = true;
    return true;
}

static void *open_worker(const void *argument, char *error, uint32_t error_bytes)
{
    const kvs_bench_ours *ours = argument;
    worker *w = calloc(1, sizeof *w);
    if (w == NULL || !alloc_worker(w, &ours->sizes)) {
        (void)snprintf(error, error_bytes, "no memory for a worker");
        return NULL;
    }
    kv_options options;
    kv_options_init(&options);
    options.rank = ours->rank;
    if (kv_create("dist_sync", ours->address, &options, &w->kv, error, error_bytes) != 0 ||
        (ours->shared && !share_gradient(w, error, error_bytes)) ||
        !make_keys(w, error, error_bytes)) {
        return NULL;
    }
    return w;
}

static kv_status start_tensor(worker *w, kvs_bench_verb verb)
{
    switch (verb) {
    case KVS_BENCH_PUSH:
        return kv_push(w->kv, &w->tensor_key, &w->tensor_gradient, NULL, 1, 0, KV_BORROW, NULL);
    case KVS_BENCH_PUSH_COPIED:
        return kv_push(w->kv, &w->tensor_key, &w->tensor_value, NULL, 1, 0, 0, NULL);
    case KVS_BENCH_PULL:
        return kv_pull(w->kv, &w->tensor_key, &w->tensor_value, NULL, 1, 0, NULL);
    default:
        return kv_pushpull(w->kv, &w->tensor_key, &w->tensor_gradient, NULL, &w->tensor_value, NULL,
                           1, 0, KV_BORROW, NULL);
    }
}

static kv_status push_small(worker *w, uint32_t first, uint32_t count)
{
    return kv_push(w->kv, w->keys + first, w->gradients + first, NULL, count, 0, KV_BORROW, NULL);
}

static int compare_numbers(const void *a, const void *b)
{
    const double left = *(const double *)a;
    const double right = *(const double *)b;
    return (left > right) - (left < right);
}

static kv_status run_alone(worker *w, uint32_t operations, kvs_bench_answer *answer)
{
    double *latencies = calloc(operations, sizeof *latencies);
    kv_status status = latencies == NULL ? -1 : 0;
    for (uint32_t i = 0; status == 0 && i < operations; i++) {
        const double start = kvs_bench_clock();
        status = push_small(w, i % w->small_keys, 1);
        if (status == 0) {
            status = kv_wait(w->kv, KV_FOREVER);
        }
        latencies[i] = kvs_bench_clock() - start;
    }
    if (status == 0) {
        qsort(latencies, operations, sizeof *latencies, compare_numbers);
        answer->median_us = latencies[operations / 2] * 1e6;
    }
    free(latencies);
    return status;
}

/* All pushes or pulls of the order, and the wait for them. */
static kv_status run_verb(worker *w, const kvs_bench_order *order, kvs_bench_answer *answer)
{
    const kvs_bench_sizes *sizes = &order->sizes;
    kv_status status = 0;
    switch (order->verb) {
    case KVS_BENCH_SMALL_ALONE:
        return run_alone(w, sizes->alone_operations, answer);
    case KVS_BENCH_SMALL_LIST:
        for (uint32_t i = 0; status == 0 && i < sizes->small_repeats; i++) {
            status = push_small(w, 0, w->small_keys);
        }
        break;
    case KVS_BENCH_SMALL_QUEUED:
        for (uint32_t i = 0; status == 0 && i < sizes->small_repeats * w->small_keys; i++) {
            status = push_small(w, i % w->small_keys, 1);
        }
        break;
    default:
        for (uint32_t i = 0; status == 0 && i < sizes->repeats; i++) {
            status = start_tensor(w, order->verb);
        }
    }
    return status == 0 ? kv_wait(w->kv, KV_FOREVER) : status;
}

static void run_worker(void *context, const kvs_bench_order *order, kvs_bench_answer *answer)
{
    worker *w = context;
    const kvs_bench_sizes *sizes = &order->sizes;
    answer->start = kvs_bench_clock();
    const kv_status status = run_verb(w, order, answer);
    answer->end = kvs_bench_clock();
    answer->good = status == 0;
    if (status != 0) {
        (void)snprintf(answer->error, sizeof answer->error, "%s: %s", kv_status_reason(status),
                       kv_last_error(w->kv));
    }
    if (order->verb < KVS_BENCH_SMALL_LIST) {
        answer->operations = sizes->repeats;
        answer->bytes = sizes->tensor_bytes * sizes->repeats;
        return;
    }
    answer->operations = order->verb == KVS_BENCH_SMALL_ALONE
                             ? sizes->alone_operations
                             : (uint64_t)sizes->small_repeats * sizes->small_keys;
    answer->bytes = answer->operations * sizes->small_bytes;
}

const kvs_bench_role *kvs_bench_ours_worker(void)
{
    static const kvs_bench_role role = {open_worker, run_worker, close_worker};
    return &role;
}
