#include "engine/row_rules_cpu.h"

#include "base/check.h"
#include "engine/measure_cpu.h"

/* A row, or what the item has of it: an item of its own, and the memories that it points to. */
typedef struct row_item {
    kvs_apply_item apply;
    kvs_measure_item measure;
    kvs_memory weight, target, master, accumulator;
} row_item;

static kvs_memory from(const kvs_memory *memory, size_t first, size_t elements,
                       size_t element_bytes)
{
    KVS_CHECK((first + elements) * element_bytes <= memory->bytes);
    return (kvs_memory){.data = (uint8_t *)memory->data + first * element_bytes,
                        .bytes = elements * element_bytes};
}

static void begin(row_item *one, const kvs_apply_item *item)
{
    one->apply = *item;
    one->apply.rows = (kvs_rows){0};
    one->apply.weight = &one->weight;
    one->apply.target = &one->target;
    one->apply.master = item->master == NULL ? NULL : &one->master;
    one->apply.accumulator = &one->accumulator;
    one->measure = (kvs_measure_item){.scalars = item->scalars,
                                      .measure = KVS_MEASURE_ROW,
                                      .accumulator = &one->accumulator,
                                      .dtype = item->dtype};
}

/* `elements` of the weight from `first` on, whose gradient is at `gradient`. */
static void move_to(row_item *one, const kvs_apply_item *item, size_t first, size_t gradient,
                    size_t elements)
{
    size_t element_bytes = kvs_dtype_bytes(item->dtype);
    one->weight = from(item->weight, first, elements, element_bytes);
    one->target = from(item->target, first, elements, element_bytes);
    one->accumulator = from(item->accumulator, gradient, elements, element_bytes);
    if (item->master != NULL) {
        one->master = from(item->master, first, elements, sizeof(float));
    }
    one->apply.elements = one->measure.elements = elements;
    one->apply.scalars.element = item->scalars.element + first;
}

/* The number of row `row` goes on; *out: as the step reads it. */
static void count_row(const kvs_apply_item *item, size_t row, double squares, uint64_t elements,
                      double *out)
{
    if (item->dtype == KVS_F64) {
        double *state = from(item->state[0], row, 1, sizeof(double)).data;
        *out = *state = kvs_row_state_f64(*state, squares, elements);
    } else {
        float *state = from(item->state[0], row, 1, sizeof(float)).data;
        *state = kvs_row_state_f32(*state, squares, elements);
        *out = (double)*state;
    }
}

static double measure_row(const kvs_cpu_kernels *kernels, row_item *one)
{
    double squares;
    one->measure.sums = &squares;
    kvs_measure_cpu(kernels, &one->measure);
    return squares;
}

static void apply_list(const kvs_cpu_kernels *kernels, const kvs_apply_item *item, row_item *one,
                       kvs_rows_cpu_function *apply)
{
    const kvs_rows *rows = &item->rows;
    KVS_CHECK(item->elements == (uint64_t)rows->count * rows->elements);
    for (uint32_t i = 0; i < rows->count; i++) {
        size_t row = rows->list[i];
        move_to(one, item, row * rows->elements, (size_t)i * rows->elements, rows->elements);
        count_row(item, row, measure_row(kernels, one), rows->elements, &one->apply.scalars.factor);
        apply(kernels, &one->apply);
    }
}

static void apply_slice(const kvs_cpu_kernels *kernels, const kvs_apply_item *item, row_item *one,
                        kvs_rows_cpu_function *apply)
{
    const kvs_row_edges *edges = &item->edges;
    uint64_t left = edges->row_elements - edges->begun; /* of the row */
    for (size_t first = 0, row = 0; first < item->elements; row++) {
        size_t rest = (size_t)item->elements - first;
        size_t elements = left < rest ? (size_t)left : rest;
        move_to(one, item, first, first, elements);
        double squares = elements == edges->row_elements ? measure_row(kernels, one)
                                                         : edges->squares[row > 0 ? 1 : 0];
        count_row(item, row, squares, edges->row_elements, &one->apply.scalars.factor);
        apply(kernels, &one->apply);
        first += elements;
        left = edges->row_elements;
    }
}

void kvs_row_rules_cpu_apply(const kvs_cpu_kernels *kernels, const kvs_apply_item *item,
                             kvs_rows_cpu_function *apply)
{
    row_item one;
    if (item->elements == 0 || item->accumulator == NULL) {
        return; /* no gradient: neither the numbers nor the weight change */
    }
    KVS_CHECK(item->last.memory == NULL && item->last.payload.bytes == 0);
    KVS_CHECK(item->state[0] != NULL);
    begin(&one, item);
    if (item->rows.elements > 0) {
        apply_list(kernels, item, &one, apply);
    } else {
        KVS_CHECK(item->edges.begun < item->edges.row_elements);
        apply_slice(kernels, item, &one, apply);
    }
}
