#include "engine/rows_cpu.h"

#include "base/check.h"

#include <string.h>

#define CACHE_LINE ((size_t)64)
/* How far ahead a row is asked for: by then the memory has brought it. */
#define PREFETCH_ROWS 8u

static void prefetch_row(const uint8_t *row, size_t bytes)
{
    for (size_t at = 0; at < bytes && at < 4 * CACHE_LINE; at += CACHE_LINE) {
        __builtin_prefetch(row + at);
    }
}

void kvs_rows_cpu_gather(const kvs_copy_item *item)
{
    const kvs_rows *rows = &item->rows;
    const kvs_memory *source = item->source.memory;
    size_t bytes = item->bytes / (rows->count == 0 ? 1 : rows->count);
    const uint8_t *from = source->data;
    uint8_t *to = item->target->data;
    KVS_CHECK(item->bytes <= item->target->bytes);
    for (uint32_t i = 0; i < rows->count; i++) {
        if (i + PREFETCH_ROWS < rows->count) {
            prefetch_row(from + rows->list[i + PREFETCH_ROWS] * bytes, bytes);
        }
        KVS_CHECK((rows->list[i] + (size_t)1) * bytes <= source->bytes);
        memcpy(to + i * bytes, from + rows->list[i] * bytes, bytes);
    }
}

/* ------------------------------------------------------------------ sums */

typedef struct sum {
    const kvs_accumulate_item *item;
    kvs_cpu_add_function *add;
    size_t element_bytes;
} sum;

/* A run may begin and end in the middle of a row. */
static void add_run(void *context, size_t first_element, const uint8_t *data, size_t elements)
{
    const sum *to = context;
    const kvs_rows *rows = &to->item->rows;
    uint8_t *target = to->item->target->data;
    size_t row = first_element / rows->elements;
    size_t within = first_element % rows->elements;
    while (elements > 0) {
        size_t count = rows->elements - within < elements ? rows->elements - within : elements;
        size_t at = (size_t)(rows->list[row] & ~KVS_ROW_FIRST) * rows->elements + within;
        KVS_CHECK((at + count) * to->element_bytes <= to->item->target->bytes);
        if ((rows->list[row] & KVS_ROW_FIRST) != 0) {
            memcpy(target + at * to->element_bytes, data, count * to->element_bytes);
        } else {
            to->add(target + at * to->element_bytes, data, count);
        }
        data += count * to->element_bytes;
        elements -= count;
        within = 0;
        row++;
    }
}

void kvs_rows_cpu_add(const kvs_cpu_kernels *kernels, const kvs_accumulate_item *item)
{
    size_t element_bytes = kvs_dtype_bytes(item->dtype);
    size_t bytes = (size_t)item->elements * element_bytes;
    sum to = {item, kernels->add[item->dtype], element_bytes};
    KVS_CHECK(item->elements == (uint64_t)item->rows.count * item->rows.elements);
    if (item->source.memory != NULL) {
        KVS_CHECK(bytes <= item->source.memory->bytes);
        add_run(&to, 0, item->source.memory->data, (size_t)item->elements);
    } else {
        KVS_CHECK(bytes == item->source.payload.bytes);
        kvs_payload_runs(&item->source.payload, element_bytes, add_run, &to);
    }
}

/* ------------------------------------------------------------------ rules */

/* The gradient of rows that have none: read, never written. */
static const double nothing[512];

static kvs_memory part_of(const kvs_memory *memory, size_t offset, size_t bytes)
{
    KVS_CHECK(offset + bytes <= memory->bytes);
    return (kvs_memory){.data = (uint8_t *)memory->data + offset, .bytes = bytes};
}

/* A piece of an item, and the memories that it points to. */
typedef struct piece {
    kvs_apply_item item;
    size_t element_bytes; /* of weight and gradient */
    size_t state_bytes;   /* of one element of a state or master */
    kvs_memory weight, master, accumulator;
    kvs_memory state[KVS_RULE_STATES_MAX];
} piece;

/* `elements` of the weight from `first` on, with the gradient at `gradient` of the accumulator. */
static void move_to(piece *p, const kvs_apply_item *from, size_t first, size_t elements,
                    size_t gradient)
{
    size_t bytes = elements * p->element_bytes;
    p->weight = part_of(from->target, first * p->element_bytes, bytes);
    p->item.elements = elements;
    p->item.scalars.element = from->scalars.element + first;
    if (from->accumulator != NULL) {
        p->accumulator = part_of(from->accumulator, gradient * p->element_bytes, bytes);
    }
    for (unsigned i = 0; i < kvs_rule_states(from->scalars.rule); i++) {
        KVS_CHECK(from->state[i] != NULL);
        p->state[i] = part_of(from->state[i], first * p->state_bytes, elements * p->state_bytes);
    }
    if (from->master != NULL) {
        p->master = part_of(from->master, first * p->state_bytes, elements * p->state_bytes);
    }
}

static void begin(piece *p, const kvs_apply_item *item)
{
    p->item = *item;
    p->item.rows = (kvs_rows){0};
    p->element_bytes = kvs_dtype_bytes(item->dtype);
    p->state_bytes = item->dtype == KVS_F64 ? sizeof(double) : sizeof(float);
    p->item.weight = &p->weight;
    p->item.target = &p->weight;
    p->item.accumulator = &p->accumulator;
    p->item.master = item->master == NULL ? NULL : &p->master;
    for (unsigned i = 0; i < kvs_rule_states(item->scalars.rule); i++) {
        p->item.state[i] = &p->state[i];
    }
    p->accumulator = (kvs_memory){.data = (void *)nothing, .bytes = sizeof nothing};
}

void kvs_rows_cpu_apply(const kvs_cpu_kernels *kernels, const kvs_apply_item *item,
                        kvs_rows_cpu_function *apply)
{
    const kvs_rows *rows = &item->rows;
    piece p;
    KVS_CHECK(item->elements == (uint64_t)rows->count * rows->elements);
    KVS_CHECK(item->weight->data == item->target->data);
    begin(&p, item);
    size_t most = item->accumulator != NULL ? SIZE_MAX : sizeof nothing / p.element_bytes;
    const uint8_t *weight = item->weight->data;
    for (uint32_t i = 0, next; i < rows->count; i = next) {
        next = i + 1;
        while (next < rows->count && rows->list[next] == rows->list[next - 1] + 1) {
            next++;
        }
        if (i + PREFETCH_ROWS < rows->count) {
            size_t row_bytes = rows->elements * p.element_bytes;
            prefetch_row(weight + rows->list[i + PREFETCH_ROWS] * row_bytes, row_bytes);
        }
        size_t first = (size_t)rows->list[i] * rows->elements;
        size_t elements = (size_t)(next - i) * rows->elements;
        for (size_t at = 0; at < elements;) {
            size_t count = elements - at < most ? elements - at : most;
            move_to(&p, item, first + at, count, (size_t)i * rows->elements + at);
            apply(kernels, &p.item);
            at += count;
        }
    }
}
