#include "tests/contract/backend_contract.h"

#include "base/half.h"
#include "engine/backend_cpu.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CASES_DEFAULT 300u
/* Of one payload cut into short ones. */
#define SPANS_MAX 8192u
#define SEED_DEFAULT UINT64_C(20240229)

/* The suite asks for more memory than there is: the sanitizers' allocators shall say no, not stop
 * the process. */
/* NOLINTBEGIN(readability-identifier-naming): the sanitizers chose the names. */
const char *__asan_default_options(void);
const char *__tsan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}
const char *__tsan_default_options(void)
{
    return "allocator_may_return_null=1";
}
/* NOLINTEND(readability-identifier-naming) */

static const kvs_contract_row *running;
static kvs_contract contract_state;

kvs_contract *kvs_contract_of(void **state)
{
    (void)state;
    return &contract_state;
}

/* ------------------------------------------------------------------ numbers */

/* splitmix64: small, seeded, good enough to choose cases. */
static uint64_t next_random(kvs_contract *contract)
{
    uint64_t z = contract->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t kvs_contract_random(kvs_contract *contract, uint64_t bound)
{
    return next_random(contract) % bound;
}

static void put_float(kvs_dtype dtype, void *out, size_t index, double value)
{
    switch (dtype) {
    case KVS_F32:
        ((float *)out)[index] = (float)value;
        break;
    case KVS_F16:
        ((uint16_t *)out)[index] = kvs_f32_to_f16((float)value);
        break;
    case KVS_BF16:
        ((uint16_t *)out)[index] = kvs_f32_to_bf16((float)value);
        break;
    default:
        ((double *)out)[index] = value;
        break;
    }
}

double kvs_contract_number(kvs_dtype dtype, const void *data, size_t index)
{
    switch (dtype) {
    case KVS_F32:
        return (double)((const float *)data)[index];
    case KVS_F16:
        return (double)kvs_f16_to_f32(((const uint16_t *)data)[index]);
    case KVS_BF16:
        return (double)kvs_bf16_to_f32(((const uint16_t *)data)[index]);
    default:
        return ((const double *)data)[index];
    }
}

void kvs_contract_fill(kvs_contract *contract, kvs_dtype dtype, void *out, size_t elements)
{
    if (!kvs_dtype_floating(dtype)) {
        uint8_t *bytes = out;
        for (size_t i = 0; i < elements * kvs_dtype_bytes(dtype); i++) {
            bytes[i] = (uint8_t)next_random(contract);
        }
        return;
    }
    for (size_t i = 0; i < elements; i++) {
        double unit = (double)(next_random(contract) >> 11) / (double)(UINT64_C(1) << 53);
        put_float(dtype, out, i, unit * 4 - 2);
    }
}

void kvs_contract_fill_odd(kvs_contract *contract, kvs_dtype dtype, void *out, size_t elements)
{
    static const double odd[] = {0.0,   -0.0,    1e-45, -1e-45, 1e-40,   -3e-39,   3e38,      -3e38,
                                 1e-30, 1e30,    1.0,   6e-8,   -1.5e-7, 6.1e-5,   -6.2e-5,   65504,
                                 65519, -65520., 3e4,   -3e4,   2049,    INFINITY, -INFINITY, NAN};
    kvs_contract_fill(contract, dtype, out, elements);
    for (size_t i = 0; i < elements && kvs_dtype_floating(dtype); i++) {
        if (kvs_contract_random(contract, 3) == 0) {
            put_float(dtype, out, i,
                      odd[kvs_contract_random(contract, sizeof odd / sizeof odd[0])]);
        }
    }
}

void kvs_contract_same(kvs_dtype dtype, const void *a, const void *b, size_t elements)
{
    size_t bytes = kvs_dtype_bytes(dtype);
    for (size_t i = 0; i < elements; i++) {
        const uint8_t *one = (const uint8_t *)a + i * bytes;
        const uint8_t *other = (const uint8_t *)b + i * bytes;
        bool both_nan = kvs_dtype_floating(dtype) && isnan(kvs_contract_number(dtype, a, i)) &&
                        isnan(kvs_contract_number(dtype, b, i));
        if (memcmp(one, other, bytes) != 0 && !both_nan) {
            fail_msg("%s element %zu of %zu has other bits", kvs_dtype_name(dtype), i, elements);
        }
    }
}

/* ------------------------------------------------------------------ memory of a side */

kvs_memory kvs_contract_memory(kvs_contract_side *side, const void *from, size_t bytes)
{
    kvs_memory memory = {0};
    kvs_memory *target = &memory;
    const kvs_backend_table *table = side->backend->table;
    assert_int_equal(table->alloc(side->backend, bytes, &memory), KVS_OK);
    if (from == NULL) {
        assert_int_equal(table->zero(side->stream, &target, 1), KVS_OK);
    } else if (bytes > 0) {
        kvs_span span = {.data = from, .bytes = bytes};
        kvs_copy_item item = {
            .target = target,
            .source = {.payload = {.spans = &span, .count = 1, .bytes = bytes}},
            .bytes = bytes,
        };
        assert_int_equal(table->copy(side->stream, &item, 1), KVS_OK);
    }
    /* `from` is borrowed until the sync, `memory` moves to the caller after it. */
    assert_int_equal(table->sync(side->stream), KVS_OK);
    return memory;
}

void kvs_contract_read(kvs_contract_side *side, kvs_memory *memory, void *out)
{
    const kvs_backend_table *table = side->backend->table;
    assert_int_equal(table->download(side->stream, &memory, 1), KVS_OK);
    assert_int_equal(table->sync(side->stream), KVS_OK);
    if (memory->bytes > 0) {
        memcpy(out, memory->host, memory->bytes);
    }
}

void kvs_contract_free(kvs_contract_side *side, kvs_memory *memory)
{
    assert_int_equal(side->backend->table->sync(side->stream), KVS_OK);
    side->backend->table->free(side->backend, memory);
}

/* ------------------------------------------------------------------ payloads in pieces */

static size_t piece_bytes(kvs_contract *contract, kvs_contract_cut cut, size_t left)
{
    switch (cut) {
    case KVS_CUT_WHOLE:
        return left;
    case KVS_CUT_BYTES:
        return 1;
    case KVS_CUT_SHORT:
        return (size_t)kvs_contract_random(contract, 10);
    default:
        return (size_t)kvs_contract_random(contract, left + 1);
    }
}

kvs_contract_pieces kvs_contract_cut_bytes(kvs_contract *contract, const void *from, size_t bytes,
                                           kvs_contract_cut cut)
{
    const uint8_t *data = from;
    size_t skip = (size_t)kvs_contract_random(contract, 5);
    size_t room = 16;
    kvs_contract_pieces pieces = {
        .spans = calloc(room, sizeof *pieces.spans),
        .blocks = calloc(room, sizeof *pieces.blocks),
        .payload = {.skip = skip, .bytes = bytes},
    };
    size_t left = bytes + skip;
    while (left > 0) {
        uint32_t i = pieces.payload.count++;
        if (i == room) {
            room *= 2;
            pieces.spans = realloc(pieces.spans, room * sizeof *pieces.spans);
            pieces.blocks = realloc(pieces.blocks, room * sizeof *pieces.blocks);
        }
        size_t here = piece_bytes(contract, cut, left);
        /* What is skipped lies in the first span; what is left of a long one comes whole. */
        here = i == 0 && here < skip ? skip : here;
        here = here > left || i >= SPANS_MAX ? left : here;
        size_t offset = (size_t)kvs_contract_random(contract, 9);
        uint8_t *block = malloc(offset + here + (offset + here == 0 ? 1 : 0));
        assert_non_null(block);
        size_t dead = i == 0 ? skip : 0;
        memset(block, 0xa5, offset + dead);
        if (here > dead) {
            memcpy(block + offset + dead, data, here - dead);
        }
        data += here - dead;
        left -= here;
        pieces.blocks[i] = block;
        pieces.spans[i] = (kvs_span){.data = block + offset, .bytes = here};
    }
    pieces.payload.spans = pieces.spans;
    return pieces;
}

void kvs_contract_pieces_free(kvs_contract_pieces *pieces)
{
    for (uint32_t i = 0; i < pieces->payload.count; i++) {
        free(pieces->blocks[i]);
    }
    free(pieces->blocks);
    free(pieces->spans);
}

/* ------------------------------------------------------------------ the run */

static int open_side(kvs_contract_side *side)
{
    return side->backend->table->open_stream(side->backend, &side->stream) == KVS_OK ? 0 : -1;
}

static void close_side(kvs_contract_side *side)
{
    side->backend->table->close_stream(side->backend, side->stream);
    side->backend->table->close(side->backend);
}

static int open_contract(void **state)
{
    kvs_problem problem = {0};
    (void)state;
    if (running->open(&contract_state.side[0].backend, &problem) != KVS_OK ||
        kvs_backend_cpu_open("baseline", &contract_state.side[1].backend, &problem) != KVS_OK) {
        print_error("%s does not open: %s\n", running->name, problem.detail);
        return -1;
    }
    const char *seed = getenv("KVS_SEED");
    contract_state.dtypes = running->dtypes;
    contract_state.cases = running->cases == 0 ? CASES_DEFAULT : running->cases;
    contract_state.random = seed == NULL ? SEED_DEFAULT : strtoull(seed, NULL, 10);
    print_message("backend \"%s\" against \"%s\", KVS_SEED=%" PRIu64 "\n",
                  contract_state.side[0].backend->name, contract_state.side[1].backend->name,
                  contract_state.random);
    return open_side(&contract_state.side[0]) != 0 ? -1 : open_side(&contract_state.side[1]);
}

static int close_contract(void **state)
{
    (void)state;
    close_side(&contract_state.side[0]);
    close_side(&contract_state.side[1]);
    return 0;
}

int kvs_contract_main(const kvs_contract_row *row)
{
    struct CMUnitTest all[64];
    size_t count = 0;
    kvs_contract_tests parts[] = {
        kvs_contract_memory_tests(),  kvs_contract_sum_tests(),   kvs_contract_rule_tests(),
        kvs_contract_half_tests(),    kvs_contract_codec_tests(), kvs_contract_rows_tests(),
        kvs_contract_measure_tests(), kvs_contract_scan_tests(),  kvs_contract_row_rule_tests(),
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        for (size_t j = 0; j < parts[i].count; j++) {
            all[count++] = parts[i].tests[j];
        }
    }
    running = row;
    return _cmocka_run_group_tests(row->name, all, count, open_contract, close_contract);
}
