#include "bench/gpu/cases.h"

#include "base/clock.h"
#include "base/limits.h"
#include "engine/codec.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

const kvs_gpu_case kvs_gpu_cases[] = {
    {.name = "copy", .verb = KVS_GPU_COPY, .dtype = KVS_F32},
    {.name = "zero", .verb = KVS_GPU_ZERO, .dtype = KVS_F32},
    {.name = "sum f32", .verb = KVS_GPU_SUM, .dtype = KVS_F32},
    {.name = "sum f32 of 8 terms", .verb = KVS_GPU_SUM, .dtype = KVS_F32, .terms = 8},
    {.name = "sum f64", .verb = KVS_GPU_SUM, .dtype = KVS_F64},
    {.name = "sum bf16", .verb = KVS_GPU_SUM, .dtype = KVS_BF16},
    {.name = "sum f32 of 2bit", .verb = KVS_GPU_SUM, .dtype = KVS_F32, .codec = KVS_CODEC_2BIT},
    {.name = "sum f32 of 1bit", .verb = KVS_GPU_SUM, .dtype = KVS_F32, .codec = KVS_CODEC_1BIT},
    {.name = "sum f32 of int8", .verb = KVS_GPU_SUM, .dtype = KVS_F32, .codec = KVS_CODEC_INT8},
    {.name = "sum f32 of bf16", .verb = KVS_GPU_SUM, .dtype = KVS_F32, .codec = KVS_CODEC_BF16},
    {.name = "value as bf16", .verb = KVS_GPU_ENCODE, .dtype = KVS_F32, .codec = KVS_CODEC_BF16},
    {.name = "value as int8", .verb = KVS_GPU_ENCODE, .dtype = KVS_F32, .codec = KVS_CODEC_INT8},
    {.name = "sgd f32", .verb = KVS_GPU_RULE, .dtype = KVS_F32, .rule = KVS_RULE_SGD},
    {.name = "sgd momentum f32",
     .verb = KVS_GPU_RULE,
     .dtype = KVS_F32,
     .rule = KVS_RULE_SGD_MOMENTUM},
    {.name = "adam f32", .verb = KVS_GPU_RULE, .dtype = KVS_F32, .rule = KVS_RULE_ADAM_19},
    {.name = "adam f32, last gradient with it",
     .verb = KVS_GPU_RULE_OF_TWO,
     .dtype = KVS_F32,
     .rule = KVS_RULE_ADAM_19},
    {.name = "adam f64", .verb = KVS_GPU_RULE, .dtype = KVS_F64, .rule = KVS_RULE_ADAM_19},
    {.name = "adam bf16", .verb = KVS_GPU_RULE, .dtype = KVS_BF16, .rule = KVS_RULE_ADAM_19},
    {.name = "push f32", .verb = KVS_GPU_PUSH, .dtype = KVS_F32},
    {.name = "push f32 of 2bit", .verb = KVS_GPU_PUSH, .dtype = KVS_F32, .codec = KVS_CODEC_2BIT},
    {.name = "pull f32", .verb = KVS_GPU_PULL, .dtype = KVS_F32},
};
const uint32_t kvs_gpu_cases_count = sizeof kvs_gpu_cases / sizeof kvs_gpu_cases[0];

/* What is one part: of a case only some of it. */
typedef struct part {
    kvs_memory weight;
    kvs_memory state[KVS_RULE_STATES_MAX];
    kvs_memory sum;
    kvs_memory gradient; /* a term of a sum, encoded or not */
    kvs_span span;       /* the same in pageable memory */
} part;

/* The share of one thread. */
typedef struct lane {
    const kvs_gpu_case *which;
    const kvs_gpu_plan *plan;
    pthread_t thread;
    kvs_stream *stream;
    uint32_t count;
    part *parts;
    kvs_copy_item *copies;
    kvs_accumulate_item *sums;
    kvs_encode_item *encodes;
    kvs_apply_item *updates;
    kvs_memory **memories;
    kvs_status status;
} lane;

static size_t term_bytes(const kvs_gpu_case *which)
{
    return which->codec == KVS_CODEC_NONE
               ? (size_t)KVS_PART_ELEMENTS * kvs_dtype_bytes(which->dtype)
               : (size_t)kvs_codec_bytes(which->codec, KVS_PART_ELEMENTS);
}

static uint32_t terms_of(const kvs_gpu_case *which)
{
    return which->terms == 0 ? 1 : which->terms;
}

/* Of halves the states are f32. */
static size_t state_bytes(const kvs_gpu_case *which)
{
    const size_t bytes = kvs_dtype_bytes(which->dtype);
    return bytes < sizeof(float) ? sizeof(float) : bytes;
}

double kvs_gpu_case_bytes(const kvs_gpu_case *which)
{
    const double element = (double)kvs_dtype_bytes(which->dtype);
    const double term = (double)term_bytes(which) / (double)KVS_PART_ELEMENTS;
    const double rule = 3 * element + 2 * (double)state_bytes(which) * kvs_rule_states(which->rule);
    switch (which->verb) {
    case KVS_GPU_COPY:
        return 2 * element;
    case KVS_GPU_ZERO:
        return element;
    case KVS_GPU_SUM:
        return terms_of(which) * term + 2 * element;
    case KVS_GPU_ENCODE:
        return element + term;
    case KVS_GPU_RULE:
        return rule;
    case KVS_GPU_RULE_OF_TWO:
        return rule + element;
    case KVS_GPU_PUSH:
        return term;
    case KVS_GPU_PULL:
        break;
    }
    return element;
}

/* ------------------------------------------------------------------ a lane */

static kvs_status fill(lane *self, kvs_memory *memory, const kvs_span *span)
{
    const kvs_copy_item item = {
        .target = memory,
        .source = {.payload = {.spans = span, .count = 1, .bytes = span->bytes}},
        .bytes = span->bytes,
    };
    const kvs_backend_table *table = self->plan->backend->table;
    KVS_TRY(table->alloc(self->plan->backend, span->bytes, memory));
    KVS_TRY(table->copy(self->stream, &item, 1));
    return table->sync(self->stream);
}

static kvs_source source_of(const lane *self, const part *one)
{
    const kvs_payload payload = {.spans = &one->span, .count = 1, .bytes = one->span.bytes};
    return self->which->verb == KVS_GPU_PUSH
               ? (kvs_source){.payload = payload}
               : (kvs_source){.memory = &one->gradient,
                              .payload = {.bytes = self->which->codec == KVS_CODEC_NONE
                                                       ? 0
                                                       : one->span.bytes}};
}

static void make_items(lane *self, uint32_t i)
{
    const kvs_gpu_case *which = self->which;
    part *one = &self->parts[i];
    self->memories[i] = &one->weight;
    self->copies[i] = (kvs_copy_item){
        .target = &one->weight, .source = {.memory = &one->gradient}, .bytes = one->weight.bytes};
    for (uint32_t j = 0; j < terms_of(which); j++) { /* other parts' terms are other memory */
        self->sums[i * terms_of(which) + j] =
            (kvs_accumulate_item){.target = &one->weight,
                                  .source = source_of(self, &self->parts[(i + j) % self->count]),
                                  .elements = KVS_PART_ELEMENTS,
                                  .dtype = which->dtype,
                                  .codec = which->codec,
                                  .threshold = 0.5F};
    }
    self->encodes[i] = (kvs_encode_item){.target = &one->gradient,
                                         .source = &one->weight,
                                         .codec = which->codec,
                                         .runs = 1,
                                         .elements = KVS_PART_ELEMENTS};
    self->updates[i] = (kvs_apply_item){
        .scalars = {.rule = which->rule,
                    .rescale = 1,
                    .clip = INFINITY,
                    .bound = INFINITY,
                    .lr = 1e-3,
                    .momentum = 0.9,
                    .momentum_rest = 0.1,
                    .beta1 = 0.9,
                    .beta1_rest = 0.1,
                    .beta2 = 0.999,
                    .beta2_rest = 1e-3,
                    .correction2 = 1,
                    .epsilon = 1e-8,
                    .keep = 1},
        .weight = &one->weight,
        .target = &one->weight,
        .state = {&one->state[0], &one->state[1], &one->state[2]},
        .accumulator = &one->sum,
        .elements = KVS_PART_ELEMENTS,
        .dtype = which->dtype,
    };
    if (which->verb == KVS_GPU_RULE_OF_TWO) {
        self->updates[i].last.memory = &one->gradient;
    }
}

/* Every byte of the values is 0x3c: small numbers in each dtype, none of them subnormal. */
static kvs_status open_part(lane *self, part *one)
{
    const kvs_gpu_case *which = self->which;
    const size_t value = (size_t)KVS_PART_ELEMENTS * kvs_dtype_bytes(which->dtype);
    const size_t state = (size_t)KVS_PART_ELEMENTS * state_bytes(which);
    uint8_t *bytes = malloc(value > state ? value : state);
    if (bytes == NULL) {
        return KVS_NO_MEMORY;
    }
    one->span = (kvs_span){.data = bytes, .bytes = term_bytes(which)};
    memset(bytes, 0x3c, value > state ? value : state);
    const kvs_span values = {.data = bytes, .bytes = value};
    const kvs_span states = {.data = bytes, .bytes = state};
    KVS_TRY(fill(self, &one->weight, &values));
    KVS_TRY(fill(self, &one->gradient, &one->span));
    if (which->verb == KVS_GPU_RULE || which->verb == KVS_GPU_RULE_OF_TWO) {
        KVS_TRY(fill(self, &one->sum, &values));
        for (unsigned i = 0; i < kvs_rule_states(which->rule); i++) {
            KVS_TRY(fill(self, &one->state[i], &states));
        }
    }
    return KVS_OK;
}

static void close_lane(lane *self)
{
    kvs_backend *backend = self->plan->backend;
    if (self->stream != NULL) {
        backend->table->close_stream(backend, self->stream);
    }
    for (uint32_t i = 0; self->parts != NULL && i < self->count; i++) {
        part *one = &self->parts[i];
        backend->table->free(backend, &one->weight);
        backend->table->free(backend, &one->sum);
        backend->table->free(backend, &one->gradient);
        for (unsigned j = 0; j < KVS_RULE_STATES_MAX; j++) {
            backend->table->free(backend, &one->state[j]);
        }
        free((void *)(uintptr_t)one->span.data);
    }
    free(self->parts);
    free(self->copies);
    free(self->sums);
    free(self->encodes);
    free(self->updates);
    free(self->memories);
}

static kvs_status open_lane(lane *self)
{
    kvs_backend *backend = self->plan->backend;
    self->parts = calloc(self->count, sizeof *self->parts);
    self->copies = calloc(self->count, sizeof *self->copies);
    self->sums = calloc((size_t)self->count * terms_of(self->which), sizeof *self->sums);
    self->encodes = calloc(self->count, sizeof *self->encodes);
    self->updates = calloc(self->count, sizeof *self->updates);
    self->memories = calloc(self->count, sizeof *self->memories);
    if (self->parts == NULL || self->copies == NULL || self->sums == NULL ||
        self->encodes == NULL || self->updates == NULL || self->memories == NULL) {
        return KVS_NO_MEMORY;
    }
    KVS_TRY(backend->table->open_stream(backend, &self->stream));
    for (uint32_t i = 0; i < self->count; i++) {
        KVS_TRY(open_part(self, &self->parts[i]));
    }
    for (uint32_t i = 0; i < self->count; i++) {
        make_items(self, i);
    }
    return KVS_OK;
}

static kvs_status call(const lane *self)
{
    const kvs_backend_table *table = self->plan->backend->table;
    switch (self->which->verb) {
    case KVS_GPU_COPY:
        return table->copy(self->stream, self->copies, self->count);
    case KVS_GPU_ZERO:
        return table->zero(self->stream, self->memories, self->count);
    case KVS_GPU_SUM:
    case KVS_GPU_PUSH:
        return table->accumulate(self->stream, self->sums,
                                 (size_t)self->count * terms_of(self->which));
    case KVS_GPU_ENCODE:
        return table->encode(self->stream, self->encodes, self->count);
    case KVS_GPU_RULE:
    case KVS_GPU_RULE_OF_TWO:
        return table->apply(self->stream, self->updates, self->count);
    case KVS_GPU_PULL:
        break;
    }
    return table->download(self->stream, self->memories, self->count);
}

static void *work(void *context)
{
    lane *self = context;
    for (uint32_t i = 0; i < self->plan->repeats && self->status == KVS_OK; i++) {
        self->status = call(self);
    }
    if (self->status == KVS_OK) {
        self->status = self->plan->backend->table->sync(self->stream);
    }
    return NULL;
}

/* ------------------------------------------------------------------ a case */

/* One measurement: all lanes at once. */
static kvs_status run_lanes(lane *lanes, uint32_t count, double *seconds)
{
    kvs_status status = KVS_OK;
    const uint64_t start = kvs_clock_now_ns();
    uint32_t started = 1;
    while (started < count &&
           pthread_create(&lanes[started].thread, NULL, work, &lanes[started]) == 0) {
        started++;
    }
    (void)work(&lanes[0]);
    for (uint32_t i = 1; i < started; i++) {
        (void)pthread_join(lanes[i].thread, NULL);
    }
    *seconds = (double)(kvs_clock_now_ns() - start) / 1e9;
    for (uint32_t i = 0; i < count; i++) {
        status = lanes[i].status != KVS_OK ? lanes[i].status : status;
    }
    return started == count ? status : KVS_NO_MEMORY;
}

static kvs_status measure(lane *lanes, uint32_t count, const kvs_gpu_plan *plan, kvs_gpu_times *out)
{
    double seconds = 0;
    for (uint32_t i = 0; i < count; i++) {
        KVS_TRY(open_lane(&lanes[i]));
    }
    KVS_TRY(run_lanes(lanes, count, &seconds)); /* warms up */
    for (out->count = 0; out->count < plan->rounds && out->count < KVS_GPU_ROUNDS_MAX;
         out->count++) {
        KVS_TRY(run_lanes(lanes, count, &seconds));
        out->seconds[out->count] = seconds / plan->repeats;
    }
    return KVS_OK;
}

kvs_status kvs_gpu_case_run(const kvs_gpu_case *which, const kvs_gpu_plan *plan, kvs_gpu_times *out)
{
    const uint32_t count = plan->threads < plan->parts ? plan->threads : plan->parts;
    lane *lanes = calloc(count, sizeof *lanes);
    if (lanes == NULL) {
        return KVS_NO_MEMORY;
    }
    for (uint32_t i = 0; i < count; i++) {
        lanes[i] = (lane){.which = which,
                          .plan = plan,
                          .count = plan->parts / count + (i < plan->parts % count ? 1 : 0)};
    }
    const kvs_status status = measure(lanes, count, plan, out);
    for (uint32_t i = 0; i < count; i++) {
        close_lane(&lanes[i]);
    }
    free(lanes);
    return status;
}
