#include "engine/backend_cpu.h"

#include "base/check.h"
#include "engine/codec.h"
#include "engine/heap_cpu.h"
#include "engine/kernels_cpu.h"
#include "engine/measure_cpu.h"
#include "engine/row_rules_cpu.h"
#include "engine/rows_cpu.h"

#include <stdlib.h>
#include <string.h>

/* One vector of AVX-512. */
#define ALIGNMENT ((size_t)64)

typedef struct cpu_backend {
    kvs_backend base;
    const kvs_cpu_kernels *kernels;
    const kvs_cpu_heap *heap; /* or NULL */
    char name[32];
} cpu_backend;

struct kvs_stream {
    const kvs_cpu_kernels *kernels;
};

/* ------------------------------------------------------------------ streams */

static kvs_status open_stream(kvs_backend *backend, kvs_stream **out)
{
    kvs_stream *stream = malloc(sizeof *stream);
    if (stream == NULL) {
        return KVS_NO_MEMORY;
    }
    stream->kernels = ((cpu_backend *)backend)->kernels;
    *out = stream;
    return KVS_OK;
}

static void close_stream(kvs_backend *backend, kvs_stream *stream)
{
    (void)backend;
    free(stream);
}

static kvs_status sync_stream(kvs_stream *stream)
{
    (void)stream;
    return KVS_OK;
}

/* ------------------------------------------------------------------ memory */

static kvs_status alloc_memory(kvs_backend *backend, size_t bytes, kvs_memory *out)
{
    return kvs_heap_cpu_alloc(((cpu_backend *)backend)->heap, bytes, out);
}

static void free_memory(kvs_backend *backend, kvs_memory *memory)
{
    kvs_heap_cpu_free(((cpu_backend *)backend)->heap, memory);
}

static kvs_status alloc_host(kvs_backend *backend, kvs_memory *memory)
{
    (void)backend;
    (void)memory; /* host and data are the same bytes */
    return KVS_OK;
}

static kvs_status zero_memory(kvs_stream *stream, kvs_memory *const *targets, size_t count)
{
    (void)stream;
    for (size_t i = 0; i < count; i++) {
        memset(targets[i]->data, 0, targets[i]->bytes);
    }
    return KVS_OK;
}

static kvs_status download_memory(kvs_stream *stream, kvs_memory *const *memories, size_t count)
{
    (void)stream;
    (void)memories; /* host and data are the same bytes */
    (void)count;
    return KVS_OK;
}

/* ------------------------------------------------------------------ copies and sums */

/* target := the first `bytes` of source, as they are. */
static void copy_source(void *target, const kvs_source *source, size_t bytes)
{
    if (source->memory != NULL) {
        KVS_CHECK(bytes <= source->memory->bytes);
        memmove(target, source->memory->data, bytes);
    } else {
        KVS_CHECK(bytes == source->payload.bytes);
        kvs_payload_gather(&source->payload, target);
    }
}

static kvs_status copy_batch(kvs_stream *stream, const kvs_copy_item *items, size_t count)
{
    (void)stream;
    for (size_t i = 0; i < count; i++) {
        const kvs_copy_item *item = &items[i];
        size_t bytes = item->source.memory != NULL ? item->bytes : item->source.payload.bytes;
        KVS_CHECK(bytes <= item->target->bytes);
        if (item->rows.elements > 0) {
            kvs_rows_cpu_gather(item);
        } else {
            copy_source(item->target->data, &item->source, bytes);
        }
    }
    return KVS_OK;
}

typedef struct sum {
    kvs_cpu_add_function *add;
    uint8_t *target;
    size_t element_bytes;
} sum;

static void add_run(void *context, size_t first_element, const uint8_t *data, size_t elements)
{
    const sum *to = context;
    to->add(to->target + first_element * to->element_bytes, data, elements);
}

static void decode_item(const kvs_accumulate_item *item)
{
    kvs_payload payload = item->source.payload;
    kvs_span held;
    if (item->source.memory != NULL) {
        KVS_CHECK(payload.bytes <= item->source.memory->bytes);
        held = (kvs_span){item->source.memory->data, payload.bytes};
        payload = (kvs_payload){.spans = &held, .count = 1, .bytes = held.bytes};
    }
    kvs_codec_decode(item->codec, item->threshold, &payload, item->target->data, item->elements,
                     item->first);
}

static void accumulate_item(const kvs_cpu_kernels *kernels, const kvs_accumulate_item *item)
{
    size_t element_bytes = kvs_dtype_bytes(item->dtype);
    size_t bytes = (size_t)item->elements * element_bytes;
    if (item->rows.elements > 0) {
        kvs_rows_cpu_add(kernels, item);
        return;
    }
    KVS_CHECK(bytes <= item->target->bytes);
    if (item->codec != KVS_CODEC_NONE) {
        decode_item(item);
    } else if (item->first) {
        copy_source(item->target->data, &item->source, bytes);
    } else if (item->source.memory != NULL) {
        KVS_CHECK(bytes <= item->source.memory->bytes);
        kernels->add[item->dtype](item->target->data, item->source.memory->data,
                                  (size_t)item->elements);
    } else {
        KVS_CHECK(bytes == item->source.payload.bytes);
        sum to = {kernels->add[item->dtype], item->target->data, element_bytes};
        kvs_payload_runs(&item->source.payload, element_bytes, add_run, &to);
    }
}

static kvs_status accumulate_batch(kvs_stream *stream, const kvs_accumulate_item *items,
                                   size_t count)
{
    for (size_t i = 0; i < count; i++) {
        KVS_CHECK((unsigned)items[i].dtype < KVS_DTYPE_COUNT);
        bool encoded = items[i].codec != KVS_CODEC_NONE;
        if ((encoded && (!kvs_codec_known(items[i].codec) || items[i].dtype != KVS_F32)) ||
            stream->kernels->add[items[i].dtype] == NULL) {
            return KVS_UNIMPLEMENTED;
        }
    }
    for (size_t i = 0; i < count; i++) {
        accumulate_item(stream->kernels, &items[i]);
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ rules */

typedef struct update {
    kvs_cpu_apply_function *apply;
    kvs_cpu_run whole; /* of the item; last is filled in run by run */
    size_t element_bytes;
} update;

static const void *advance(const void *at, size_t bytes)
{
    return at == NULL ? NULL : (const uint8_t *)at + bytes;
}

static void apply_run(void *context, size_t first_element, const uint8_t *data, size_t elements)
{
    const update *to = context;
    size_t skip = first_element * to->element_bytes;
    kvs_cpu_run run = to->whole;
    run.weight = advance(run.weight, skip);
    run.target = (uint8_t *)run.target + skip;
    for (size_t i = 0; i < KVS_RULE_STATES_MAX; i++) {
        run.state[i] = run.state[i] == NULL ? NULL : (uint8_t *)run.state[i] + skip;
    }
    run.accumulator = advance(run.accumulator, skip);
    run.last = data;
    run.elements = elements;
    run.element += first_element;
    to->apply(&run);
}

static void check_room(const kvs_memory *memory, size_t bytes)
{
    KVS_CHECK(memory != NULL);
    KVS_CHECK(bytes <= memory->bytes);
}

/* The item as one run, without the last term. */
static kvs_cpu_run whole_run(const kvs_apply_item *item, size_t bytes)
{
    kvs_cpu_run run = {
        .scalars = &item->scalars,
        .weight = item->weight->data,
        .target = item->target->data,
        .elements = (size_t)item->elements,
        .element = item->scalars.element,
    };
    check_room(item->weight, bytes);
    check_room(item->target, bytes);
    for (unsigned i = 0; i < kvs_rule_states(item->scalars.rule); i++) {
        check_room(item->state[i], bytes);
        run.state[i] = item->state[i]->data;
    }
    if (item->accumulator != NULL) {
        check_room(item->accumulator, bytes);
        run.accumulator = item->accumulator->data;
    }
    return run;
}

static void apply_item(const kvs_cpu_kernels *kernels, const kvs_apply_item *item)
{
    size_t element_bytes = kvs_dtype_bytes(item->dtype);
    size_t bytes = (size_t)item->elements * element_bytes;
    int rule = item->scalars.rule;
    update to = {
        .apply = item->dtype == KVS_F32 ? kernels->apply_f32[rule] : kernels->apply_f64[rule],
        .whole = whole_run(item, bytes),
        .element_bytes = element_bytes,
    };
    if (item->last.memory != NULL) {
        check_room(item->last.memory, bytes);
        to.whole.last = item->last.memory->data;
        to.apply(&to.whole);
    } else if (item->last.payload.bytes > 0) {
        KVS_CHECK(bytes == item->last.payload.bytes);
        kvs_payload_runs(&item->last.payload, element_bytes, apply_run, &to);
    } else if (item->elements > 0) {
        KVS_CHECK(item->accumulator != NULL);
        to.apply(&to.whole);
    }
}

/* Elements of a piece: its f32 stay in the nearest cache. */
#define PIECE_ELEMENTS ((size_t)2048)

/* g of `elements` elements from `first` on, as f32. */
static void gather_half(const kvs_cpu_kernels *kernels, const kvs_apply_item *item, size_t first,
                        size_t elements, float *out)
{
    uint16_t terms[PIECE_ELEMENTS];
    uint16_t last[PIECE_ELEMENTS];
    bool has_last = item->last.memory != NULL || item->last.payload.bytes > 0;
    size_t bytes = elements * sizeof terms[0];
    if (item->last.memory != NULL) {
        memcpy(last, (const uint16_t *)item->last.memory->data + first, bytes);
    } else if (has_last) {
        kvs_payload piece = kvs_payload_slice(&item->last.payload, first * sizeof terms[0], bytes);
        kvs_payload_gather(&piece, last);
    }
    if (item->accumulator != NULL) {
        memcpy(terms, (const uint16_t *)item->accumulator->data + first, bytes);
        if (has_last) {
            kernels->add[item->dtype](terms, last, elements);
        }
    } else {
        KVS_CHECK(has_last);
        memcpy(terms, last, bytes);
    }
    kernels->widen[item->dtype](out, terms, elements);
}

static kvs_memory offset_memory(const kvs_memory *memory, size_t bytes)
{
    KVS_CHECK(bytes <= memory->bytes);
    return (kvs_memory){.data = (uint8_t *)memory->data + bytes, .bytes = memory->bytes - bytes};
}

/* A piece of an item of f16 or bf16, as an item of f32. */
static void apply_half(const kvs_cpu_kernels *kernels, const kvs_apply_item *item, size_t first,
                       size_t elements)
{
    _Alignas(ALIGNMENT) float weight[PIECE_ELEMENTS];
    _Alignas(ALIGNMENT) float gradient[PIECE_ELEMENTS];
    kvs_memory weights = {.data = weight, .bytes = sizeof weight};
    kvs_memory gradients = {.data = gradient, .bytes = sizeof gradient};
    kvs_memory states[KVS_RULE_STATES_MAX];
    kvs_apply_item wide = {.scalars = item->scalars,
                           .weight = &weights,
                           .target = &weights,
                           .accumulator = &gradients,
                           .elements = elements,
                           .dtype = KVS_F32};
    wide.scalars.element += first;
    gather_half(kernels, item, first, elements, gradient);
    if (item->master != NULL) {
        weights = offset_memory(item->master, first * sizeof weight[0]);
    } else {
        kernels->widen[item->dtype](weight, (const uint16_t *)item->weight->data + first, elements);
    }
    for (unsigned i = 0; i < kvs_rule_states(item->scalars.rule); i++) {
        KVS_CHECK(item->state[i] != NULL);
        states[i] = offset_memory(item->state[i], first * sizeof(float));
        wide.state[i] = &states[i];
    }
    apply_item(kernels, &wide);
    kernels->narrow[item->dtype]((uint16_t *)item->target->data + first, weights.data, elements);
}

static void apply_halves(const kvs_cpu_kernels *kernels, const kvs_apply_item *item)
{
    size_t bytes = (size_t)item->elements * kvs_dtype_bytes(item->dtype);
    check_room(item->weight, bytes);
    check_room(item->target, bytes);
    if (item->accumulator != NULL) {
        check_room(item->accumulator, bytes);
    }
    if (item->last.memory != NULL) {
        check_room(item->last.memory, bytes);
    } else if (item->last.payload.bytes > 0) {
        KVS_CHECK(bytes == item->last.payload.bytes);
    }
    size_t elements = (size_t)item->elements;
    for (size_t first = 0; first < elements; first += PIECE_ELEMENTS) {
        size_t left = elements - first;
        apply_half(kernels, item, first, left < PIECE_ELEMENTS ? left : PIECE_ELEMENTS);
    }
}

static void apply_dense(const kvs_cpu_kernels *kernels, const kvs_apply_item *item)
{
    if (kernels->widen[item->dtype] != NULL) {
        apply_halves(kernels, item);
    } else {
        apply_item(kernels, item);
    }
}

static kvs_status apply_batch(kvs_stream *stream, const kvs_apply_item *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        KVS_CHECK((unsigned)items[i].scalars.rule < KVS_RULE_COUNT);
        if (!kvs_dtype_floating(items[i].dtype)) {
            return KVS_UNIMPLEMENTED;
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (kvs_rule_row_states(items[i].scalars.rule) > 0) {
            kvs_row_rules_cpu_apply(stream->kernels, &items[i], apply_dense);
        } else if (items[i].rows.elements > 0) {
            kvs_rows_cpu_apply(stream->kernels, &items[i], apply_dense);
        } else {
            apply_dense(stream->kernels, &items[i]);
        }
    }
    return KVS_OK;
}

static kvs_status measure_batch(kvs_stream *stream, const kvs_measure_item *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        KVS_CHECK((unsigned)items[i].measure < KVS_MEASURE_COUNT);
        if (!kvs_dtype_floating(items[i].dtype)) {
            return KVS_UNIMPLEMENTED;
        }
    }
    for (size_t i = 0; i < count; i++) {
        kvs_measure_cpu(stream->kernels, &items[i]);
    }
    return KVS_OK;
}

static kvs_status scan_batch(kvs_stream *stream, const kvs_scan_item *items, size_t count)
{
    (void)stream;
    for (size_t i = 0; i < count; i++) {
        const kvs_scan_item *item = &items[i];
        check_room(item->a, item->bytes);
        check_room(item->b, item->bytes);
        for (size_t at = 0; at < item->bytes; at += KVS_SCAN_BLOCK_BYTES) {
            size_t left = item->bytes - at;
            item->changed[at / KVS_SCAN_BLOCK_BYTES] =
                memcmp((const uint8_t *)item->a->data + at, (const uint8_t *)item->b->data + at,
                       left < KVS_SCAN_BLOCK_BYTES ? left : KVS_SCAN_BLOCK_BYTES) != 0;
        }
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ open and close */

static bool runs_always(void)
{
    return true;
}

#if defined(__x86_64__)
static bool runs_avx2(void)
{
    return __builtin_cpu_supports("avx2") != 0;
}

static bool runs_avx512(void)
{
    return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
           __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
}
#endif

/* From narrow to wide. */
static const struct {
    const kvs_cpu_kernels *kernels;
    bool (*runs)(void);
} widths[] = {
    {&kvs_cpu_kernels_baseline, runs_always},
#if defined(__x86_64__)
    {&kvs_cpu_kernels_avx2, runs_avx2},
    {&kvs_cpu_kernels_avx512, runs_avx512},
#endif
};

/* NULL, with the problem filled, for a width that is not to be had. */
static const kvs_cpu_kernels *choose(const char *width, kvs_problem *problem)
{
    if (width == NULL || width[0] == '\0') {
        width = getenv("KVSTORED_CPU");
    }
    bool any = width == NULL || width[0] == '\0';
    const kvs_cpu_kernels *chosen = NULL;
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        bool named = !any && strcmp(widths[i].kernels->name, width) == 0;
        if (named && !widths[i].runs()) {
            (void)kvs_problem_set(problem, KVS_INVALID_FIELD, "this machine does not run %s",
                                  width);
            return NULL;
        }
        if (named || (any && widths[i].runs())) {
            chosen = widths[i].kernels;
        }
    }
    if (chosen == NULL) {
        (void)kvs_problem_set(problem, KVS_INVALID_FIELD,
                              "the CPU width must be baseline, avx2 or avx512, not \"%.32s\"",
                              width);
    }
    return chosen;
}

static kvs_backend *place(kvs_backend *backend, uint32_t shard)
{
    (void)shard;
    return backend;
}

static void close_backend(kvs_backend *backend)
{
    free(backend);
}

static kvs_status encode_batch(kvs_stream *stream, const kvs_encode_item *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!kvs_codec_of_values(items[i].codec)) {
            return KVS_UNIMPLEMENTED;
        }
    }
    for (size_t i = 0; i < count; i++) {
        const kvs_encode_item *item = &items[i];
        uint64_t elements = item->runs * item->elements;
        check_room(item->source, (size_t)elements * sizeof(float));
        check_room(item->target,
                   (size_t)kvs_codec_value_bytes(item->codec, item->runs, item->elements));
        if (item->codec == KVS_CODEC_INT8) {
            kvs_codec_write_value(item->codec, item->source->data, item->runs, item->elements,
                                  item->target->data);
        } else {
            kvs_dtype dtype = item->codec == KVS_CODEC_BF16 ? KVS_BF16 : KVS_F16;
            stream->kernels->narrow[dtype](item->target->data, item->source->data,
                                           (size_t)elements);
        }
    }
    return KVS_OK;
}

static const kvs_backend_table table = {
    .open_stream = open_stream,
    .close_stream = close_stream,
    .alloc = alloc_memory,
    .free = free_memory,
    .zero = zero_memory,
    .copy = copy_batch,
    .accumulate = accumulate_batch,
    .apply = apply_batch,
    .measure = measure_batch,
    .scan = scan_batch,
    .encode = encode_batch,
    .alloc_host = alloc_host,
    .download = download_memory,
    .sync = sync_stream,
    .place = place,
    .close = close_backend,
};

kvs_status kvs_backend_cpu_open(const char *width, kvs_backend **out, kvs_problem *problem)
{
    return kvs_backend_cpu_open_on(NULL, width, out, problem);
}

kvs_status kvs_backend_cpu_open_on(const kvs_cpu_heap *heap, const char *width, kvs_backend **out,
                                   kvs_problem *problem)
{
    const kvs_cpu_kernels *kernels = choose(width, problem);
    if (kernels == NULL) {
        return KVS_INVALID_FIELD;
    }
    cpu_backend *backend = calloc(1, sizeof *backend);
    if (backend == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the CPU backend");
    }
    backend->kernels = kernels;
    backend->heap = heap;
    (void)strcpy(backend->name, "cpu ");
    (void)strncat(backend->name, kernels->name, sizeof backend->name - sizeof "cpu ");
    backend->base.table = &table;
    backend->base.name = backend->name;
    backend->base.rows = true;
    backend->base.dtypes = 1u << KVS_F32 | 1u << KVS_F64 | 1u << KVS_F16 | 1u << KVS_BF16 |
                           1u << KVS_U8 | 1u << KVS_I8 | 1u << KVS_I32 | 1u << KVS_I64;
    *out = &backend->base;
    return KVS_OK;
}
