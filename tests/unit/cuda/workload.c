#include "tests/unit/cuda/workload.h"

#include "engine/rules.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The same training, by hand. */
typedef struct model {
    float *weight;
    float *momentum;
    float *sum;
    float *gradient; /* what the backend is given, too */
    float *value;    /* as it was when the download was asked for */
} model;

typedef struct device_side {
    const kvs_backend_table *table;
    kvs_stream *stream;
    kvs_memory weight;
    kvs_memory momentum;
    kvs_memory sum;
} device_side;

static const kvs_rule_scalars scalars = {
    .rule = KVS_RULE_SGD_MOMENTUM,
    .rescale = 0.25,
    .clip = INFINITY,
    .wd = 0.01,
    .lr = 0.1,
    .momentum = 0.9,
};

/* Never the same twice, so that an old value is seen to be old. */
static void fill(float *out, size_t elements, unsigned turn)
{
    for (size_t i = 0; i < elements; i++) {
        out[i] = (float)((i * 37 + turn * 101) % 997) / 512.0F - 0.5F;
    }
}

static void model_sum(model *by_hand, size_t elements, bool first)
{
    for (size_t i = 0; i < elements; i++) {
        by_hand->sum[i] = first ? by_hand->gradient[i] : by_hand->sum[i] + by_hand->gradient[i];
    }
}

static void model_apply(model *by_hand, size_t elements)
{
    const kvs_numbers_f32 numbers = kvs_round_f32(&scalars);
    for (size_t i = 0; i < elements; i++) {
        by_hand->weight[i] = kvs_step_sgd_momentum_f32(&numbers, by_hand->weight[i],
                                                       by_hand->sum[i] + by_hand->gradient[i],
                                                       &by_hand->momentum[i], i);
    }
}

static kvs_payload whole(const kvs_span *span)
{
    return (kvs_payload){.spans = span, .count = 1, .bytes = span->bytes};
}

static kvs_status add(device_side *side, const kvs_span *span, size_t elements, bool first)
{
    const kvs_accumulate_item item = {
        .target = &side->sum,
        .source = {.payload = whole(span)},
        .elements = elements,
        .dtype = KVS_F32,
        .first = first,
    };
    return side->table->accumulate(side->stream, &item, 1);
}

static kvs_status apply(device_side *side, const kvs_span *span, size_t elements)
{
    const kvs_apply_item item = {
        .scalars = scalars,
        .weight = &side->weight,
        .target = &side->weight,
        .state = {&side->momentum},
        .accumulator = &side->sum,
        .last = {.payload = whole(span)},
        .elements = elements,
        .dtype = KVS_F32,
    };
    return side->table->apply(side->stream, &item, 1);
}

/* Sums, an update, a download, and at once the next update. */
static kvs_status run_round(const kvs_workload *workload, device_side *side, model *by_hand,
                            unsigned turn, bool *same)
{
    const size_t elements = workload->elements;
    kvs_span span = {.data = (const uint8_t *)by_hand->gradient, .bytes = elements * 4};
    kvs_memory *weight = &side->weight;
    fill(by_hand->gradient, elements, turn);
    for (unsigned i = 0; i < workload->batches; i++) {
        KVS_TRY(add(side, &span, elements, i == 0));
        model_sum(by_hand, elements, i == 0);
    }
    KVS_TRY(apply(side, &span, elements));
    model_apply(by_hand, elements);
    KVS_TRY(side->table->download(side->stream, &weight, 1));
    memcpy(by_hand->value, by_hand->weight, elements * 4);
    KVS_TRY(apply(side, &span, elements));
    model_apply(by_hand, elements);
    KVS_TRY(side->table->sync(side->stream));
    *same = *same && memcmp(side->weight.host, by_hand->value, elements * 4) == 0;
    /* The payload was borrowed until the sync: nothing may read it any more. */
    memset(by_hand->gradient, 0xff, elements * 4);
    return KVS_OK;
}

static kvs_status run_rounds(const kvs_workload *workload, kvs_backend *backend, device_side *side,
                             model *by_hand, bool *same)
{
    const size_t bytes = workload->elements * 4;
    kvs_memory *zeroed[] = {&side->momentum, &side->weight};
    KVS_TRY(side->table->open_stream(backend, &side->stream));
    KVS_TRY(side->table->alloc(backend, bytes, &side->weight));
    KVS_TRY(side->table->alloc(backend, bytes, &side->momentum));
    KVS_TRY(side->table->alloc(backend, bytes, &side->sum));
    KVS_TRY(side->table->zero(side->stream, zeroed, 2));
    *same = true;
    for (unsigned turn = 0; turn < workload->rounds; turn++) {
        KVS_TRY(run_round(workload, side, by_hand, turn, same));
    }
    return KVS_OK;
}

kvs_status kvs_workload_run(const kvs_workload *workload, kvs_backend *backend, bool *same)
{
    device_side side = {.table = backend->table};
    model by_hand = {
        .weight = calloc(workload->elements, 4),
        .momentum = calloc(workload->elements, 4),
        .sum = calloc(workload->elements, 4),
        .gradient = calloc(workload->elements, 4),
        .value = calloc(workload->elements, 4),
    };
    kvs_status status = run_rounds(workload, backend, &side, &by_hand, same);
    if (side.stream != NULL) {
        side.table->close_stream(backend, side.stream);
    }
    side.table->free(backend, &side.weight);
    side.table->free(backend, &side.momentum);
    side.table->free(backend, &side.sum);
    free(by_hand.weight);
    free(by_hand.momentum);
    free(by_hand.sum);
    free(by_hand.gradient);
    free(by_hand.value);
    return status;
}
