#include "engine/measure_cpu.h"

#include "base/check.h"

/* Of a piece of f16 or bf16 that has been widened: half a block, whole rounds of lanes. */
#define PIECE_ELEMENTS ((size_t)2048)

static const void *at(const kvs_memory *memory, size_t first, size_t element_bytes)
{
    return memory == NULL ? NULL : (const uint8_t *)memory->data + first * element_bytes;
}

static void check_room(const kvs_memory *memory, uint64_t elements, size_t element_bytes)
{
    if (memory != NULL) {
        KVS_CHECK(elements * element_bytes <= memory->bytes);
    }
}

static kvs_cpu_run run_of(const kvs_measure_item *item, size_t first, size_t elements)
{
    size_t bytes = item->dtype == KVS_F64 ? sizeof(double) : sizeof(float);
    kvs_cpu_run run = {.scalars = &item->scalars, .elements = elements};
    for (unsigned i = 0; i < kvs_measure_form_of(item->measure).states; i++) {
        check_room(item->state[i], item->first + item->elements, bytes);
        /* The cast: a run may write to its states; a measure does not. */
        run.state[i] = (void *)at(item->state[i], first, bytes);
    }
    return run;
}

static void add_whole(const kvs_cpu_kernels *kernels, const kvs_measure_item *item, size_t first,
                      size_t elements, kvs_cpu_lanes *lanes)
{
    bool wide = item->dtype == KVS_F64;
    kvs_cpu_run run = run_of(item, first, elements);
    run.weight = at(item->weight, first, kvs_dtype_bytes(item->dtype));
    run.accumulator = at(item->accumulator, first, kvs_dtype_bytes(item->dtype));
    (wide ? kernels->measure_f64 : kernels->measure_f32)[item->measure](&run, lanes);
}

/* The same of f16 and bf16, as f32. */
static void add_halves(const kvs_cpu_kernels *kernels, const kvs_measure_item *item, size_t first,
                       size_t elements, kvs_cpu_lanes *lanes)
{
    float weight[PIECE_ELEMENTS];
    float gradient[PIECE_ELEMENTS];
    kvs_cpu_run run = run_of(item, first, elements);
    kernels->widen[item->dtype](gradient, at(item->accumulator, first, sizeof(uint16_t)), elements);
    run.accumulator = gradient;
    if (item->master != NULL) {
        run.weight = at(item->master, first, sizeof(float));
    } else if (item->weight != NULL) {
        kernels->widen[item->dtype](weight, at(item->weight, first, sizeof(uint16_t)), elements);
        run.weight = weight;
    }
    kernels->measure_f32[item->measure](&run, lanes);
}

void kvs_measure_cpu(const kvs_cpu_kernels *kernels, const kvs_measure_item *item)
{
    bool halves = kernels->widen[item->dtype] != NULL;
    size_t step = halves ? PIECE_ELEMENTS : KVS_MEASURE_BLOCK;
    unsigned sums = kvs_measure_form_of(item->measure).sums;
    kvs_cpu_lanes lanes = {0};
    uint64_t end = item->first + item->elements;
    check_room(item->weight, end, kvs_dtype_bytes(item->dtype));
    check_room(item->accumulator, end, kvs_dtype_bytes(item->dtype));
    check_room(item->master, end, sizeof(float));
    for (unsigned k = 0; k < sums; k++) {
        item->sums[k] = 0;
    }
    for (size_t first = 0; first < item->elements; first += step) {
        size_t left = (size_t)item->elements - first;
        size_t count = left < step ? left : step;
        (halves ? add_halves : add_whole)(kernels, item, item->first + first, count, &lanes);
        bool ends = (first + step) % KVS_MEASURE_BLOCK == 0 || count == left;
        for (unsigned k = 0; ends && k < sums; k++) {
            item->sums[k] += kvs_measure_block(lanes.of[k]);
        }
        if (ends) {
            lanes = (kvs_cpu_lanes){0};
        }
    }
}
