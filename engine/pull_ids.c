/* The rows that a pull asks for: any order, perhaps twice; from here on ascending and each once. */
#include "engine/session.h"
#include "engine/store.h"

#include <inttypes.h>

/* What a pass of the sort looks at. */
#define DIGIT_BITS 11u
#define DIGITS (1u << DIGIT_BITS)

/* Stable, from the lowest digit up: as many passes as `rows` has digits, whatever the ids are.
 * Gives the array that holds the result. */
static uint64_t *sort_ids(uint64_t *ids, uint64_t *spare, uint64_t count, uint64_t rows)
{
    for (unsigned shift = 0; shift < 64 && (rows - 1) >> shift != 0; shift += DIGIT_BITS) {
        uint64_t starts[DIGITS + 1] = {0};
        for (uint64_t i = 0; i < count; i++) {
            starts[(ids[i] >> shift & (DIGITS - 1)) + 1]++;
        }
        for (uint32_t digit = 1; digit < DIGITS; digit++) {
            starts[digit] += starts[digit - 1];
        }
        for (uint64_t i = 0; i < count; i++) {
            spare[starts[ids[i] >> shift & (DIGITS - 1)]++] = ids[i];
        }
        uint64_t *sorted = spare;
        spare = ids;
        ids = sorted;
    }
    return ids;
}

static uint64_t drop_repeated(uint64_t *ids, uint64_t count)
{
    uint64_t kept = 1;
    for (uint64_t i = 1; i < count; i++) {
        if (ids[i] != ids[kept - 1]) {
            ids[kept++] = ids[i];
        }
    }
    return kept;
}

/* How many ids there are; UINT64_MAX: one is out of bounds, or cut. */
static uint64_t count_ids(const kvs_pull_key *in, uint64_t rows, bool *ascending)
{
    uint64_t count = 0;
    uint64_t previous = 0;
    *ascending = true;
    for (uint32_t at = 0; at < in->row_ids_bytes; count++) {
        uint64_t id = 0;
        if (!kvs_varint_next(in->row_ids, in->row_ids_bytes, &at, &id) || id >= rows) {
            return UINT64_MAX;
        }
        *ascending = *ascending && (count == 0 || id > previous);
        previous = id;
    }
    return count;
}

/* Of ids that were counted. */
static kvs_status read_ids(kvs_budget *budget, const kvs_pull_key *in, uint64_t rows,
                           bool ascending, uint64_t **out, uint64_t *count)
{
    void *memory = NULL;
    void *spare = NULL;
    KVS_TRY(kvs_budget_alloc(budget, *count * sizeof(uint64_t), &memory));
    if (!ascending) {
        kvs_status status = kvs_budget_alloc(budget, *count * sizeof(uint64_t), &spare);
        if (status != KVS_OK) {
            kvs_budget_free(memory);
            return status;
        }
    }
    uint64_t *ids = memory;
    uint32_t at = 0;
    for (uint64_t i = 0; i < *count; i++) {
        (void)kvs_varint_next(in->row_ids, in->row_ids_bytes, &at, &ids[i]);
    }
    if (!ascending) {
        ids = sort_ids(ids, spare, *count, rows);
        kvs_budget_free(ids == memory ? spare : memory);
        *count = drop_repeated(ids, *count);
    }
    *out = ids;
    return KVS_OK;
}

kvs_status kvs_pull_take_ids(kvs_session *session, kvs_op *op, const kvs_pull_key *in,
                             kvs_problem *problem)
{
    kvs_key *key = op->key;
    op->parts_wanted = key->part_count;
    if (in->row_ids_bytes == 0) {
        return KVS_OK;
    }
    if (key->storage != KVS_ROW_SPARSE) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "\"%s\" is dense: it is not pulled by rows", key->name);
    }
    uint64_t rows = key->elements / key->row_elements;
    uint64_t part_rows = key->part_elements / key->row_elements;
    bool ascending = true;
    uint64_t count = count_ids(in, rows, &ascending);
    if (count == UINT64_MAX) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "a row id is not below %" PRIu64 ", the rows of \"%s\"", rows,
                               key->name);
    }
    if (session->row_ids > 0 && session->row_ids + count > KVS_SESSION_ROW_IDS_MAX) {
        return kvs_problem_set(problem, KVS_TOO_MANY, "%" PRIu64 " row ids are waiting",
                               session->row_ids);
    }
    kvs_status status =
        read_ids(&session->store->engine->budget, in, rows, ascending, &op->row_ids, &count);
    if (status != KVS_OK) {
        return kvs_problem_set(problem, status, "for %" PRIu64 " row ids", count);
    }
    op->row_id_count = count;
    session->row_ids += count;
    op->of_rows = true;
    op->parts_wanted = 0;
    for (uint64_t i = 0; i < op->row_id_count; i++) {
        if (i == 0 || op->row_ids[i] / part_rows != op->row_ids[i - 1] / part_rows) {
            op->parts_wanted++;
        }
    }
    return KVS_OK;
}
