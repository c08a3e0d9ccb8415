/* The file of a capture: its header is written once, its data lies where it was captured. */
#include "base/half.h"
#include "engine/state_tensors.h"
#include "engine/store.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define NOTES_MAX 6u

struct kvs_states {
    kvs_capture *capture;
    uint64_t part_count;
    kvs_state_tensors tensors; /* as they lie in the file */
    uint8_t *steps;            /* of each part of the capture, as the file has them */
    float **masters; /* of each part whose master has not begun: its value, widened; else NULL */
    uint64_t masters_bytes; /* charged to the engine's budget */
    uint8_t *head;
    size_t head_bytes;
    uint64_t data_bytes;
};

/* What states that never were are made of. */
static const uint8_t zeros[64 * KVS_KIB];

static void note(kvs_safetensors_note *notes, size_t *count, const char *name, const char *text)
{
    notes[(*count)++] = (kvs_safetensors_note){.name = name,
                                               .name_bytes = (uint32_t)strlen(name),
                                               .text = text,
                                               .text_bytes = (uint32_t)strlen(text)};
}

/* A master begins as the value: so it is written before its first update, too. */
static kvs_status begin_masters(kvs_states *states, const kvs_key *key, uint64_t first)
{
    for (uint64_t i = 0; i < key->part_count; i++) {
        const kvs_captured_part *part = &states->capture->parts[first + i];
        uint64_t count = key->parts[i].elements;
        if (part->master != NULL) {
            continue;
        }
        uint64_t bytes = count * sizeof(float);
        if (!kvs_budget_charge(&states->capture->store->engine->budget, bytes)) {
            return KVS_OVER_BUDGET;
        }
        states->masters_bytes += bytes;
        float *to = malloc((size_t)bytes + 1);
        if (to == NULL) {
            return KVS_NO_MEMORY;
        }
        states->masters[first + i] = to;
        const uint16_t *from = part->value->memory.host;
        for (uint64_t e = 0; e < count; e++) {
            to[e] = key->dtype == KVS_F16 ? kvs_f16_to_f32(from[e]) : kvs_bf16_to_f32(from[e]);
        }
    }
    return KVS_OK;
}

static kvs_status make_masters(kvs_states *states)
{
    const kvs_capture *capture = states->capture;
    states->masters = calloc((size_t)capture->part_count + 1, sizeof(float *));
    if (states->masters == NULL) {
        return KVS_NO_MEMORY;
    }
    for (uint64_t k = 0; k < capture->key_count; k++) {
        const kvs_key *key = kvs_key_table_at(&capture->store->keys, k);
        if (kvs_capture_has_master(capture, key)) {
            KVS_TRY(begin_masters(states, key, capture->first[k]));
        }
    }
    return KVS_OK;
}

static kvs_status fill(kvs_states *states, bool dump_optimizer, kvs_problem *problem)
{
    const kvs_capture *capture = states->capture;
    kvs_safetensors_note notes[NOTES_MAX];
    size_t count = 0;
    note(notes, &count, "format", "pt");
    note(notes, &count, "kvstored.format", "1");
    note(notes, &count, "kvstored.kind", "optimizer");
    note(notes, &count, "kvstored.rule", kvs_optimizer_name(capture->optimizer));
    if (dump_optimizer) {
        note(notes, &count, "kvstored.optimizer", kvs_optimizer_json(capture->optimizer));
    }
    states->steps = malloc((size_t)capture->part_count * 8 + 1);
    if (states->steps == NULL || kvs_state_tensors_make(capture, &states->tensors) != KVS_OK) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the states' header");
    }
    kvs_status status = make_masters(states);
    if (status != KVS_OK) {
        return kvs_problem_set(problem, status,
                               "no room for masters that are still to begin as their values");
    }
    for (uint64_t i = 0; i < capture->part_count; i++) {
        for (unsigned b = 0; b < 8; b++) {
            states->steps[i * 8 + b] = (uint8_t)(capture->parts[i].updates >> (8 * b));
        }
    }
    return kvs_safetensors_print(states->tensors.list, states->tensors.count, notes, count,
                                 &states->head, &states->head_bytes, &states->data_bytes, problem);
}

/* All but the capture. */
static void let_go(kvs_states *states)
{
    kvs_state_tensors_deinit(&states->tensors);
    for (uint64_t i = 0; states->masters != NULL && i < states->part_count; i++) {
        free(states->masters[i]);
    }
    kvs_budget_give_back(&states->capture->store->engine->budget, states->masters_bytes);
    free(states->masters);
    free(states->steps);
    free(states->head);
    free(states);
}

kvs_status kvs_states_open(kvs_capture *capture, bool dump_optimizer, kvs_states **out,
                           kvs_problem *problem)
{
    kvs_states *states = calloc(1, sizeof *states);
    if (states == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the states' header");
    }
    states->capture = capture;
    states->part_count = capture->part_count;
    kvs_status status = fill(states, dump_optimizer, problem);
    if (status != KVS_OK) {
        let_go(states); /* the capture is the caller's still */
        return status;
    }
    *out = states;
    return KVS_OK;
}

void kvs_states_close(kvs_states *states)
{
    if (states != NULL) {
        kvs_capture *capture = states->capture;
        let_go(states);
        kvs_capture_close(capture);
    }
}

uint64_t kvs_states_bytes(const kvs_states *states)
{
    return states->head_bytes + states->data_bytes;
}

/* The tensor that holds byte `at` of the data. */
static const kvs_safetensor *tensor_at(const kvs_states *states, uint64_t at)
{
    size_t low = 0;
    size_t high = states->tensors.count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (states->tensors.list[middle].end <= at) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return &states->tensors.list[low];
}

kvs_span kvs_states_span(const kvs_states *states, uint64_t offset)
{
    if (offset < states->head_bytes) {
        return (kvs_span){states->head + offset, states->head_bytes - (size_t)offset};
    }
    const kvs_capture *capture = states->capture;
    const kvs_safetensor *tensor = tensor_at(states, offset - states->head_bytes);
    kvs_state_place place =
        kvs_state_tensors_place(capture, tensor, offset - states->head_bytes - tensor->begin);
    size_t bytes = (size_t)place.left;
    if ((tensor->tag & 255) == KVS_TENSOR_STEP) {
        return (kvs_span){states->steps + (place.part - capture->parts) * 8 + place.offset, bytes};
    }
    const kvs_buffer *buffer = *kvs_state_tensors_buffer(place.part, tensor);
    if (buffer == NULL && (tensor->tag & 255) == KVS_TENSOR_MASTER) {
        const float *master = states->masters[place.part - capture->parts];
        return (kvs_span){(const uint8_t *)master + place.offset, bytes};
    }
    if (buffer == NULL) {
        return (kvs_span){zeros, bytes < sizeof zeros ? bytes : sizeof zeros};
    }
    return (kvs_span){(const uint8_t *)buffer->memory.host + place.offset, bytes};
}

uint64_t kvs_states_hash(const kvs_states *states)
{
    uint64_t hash = 0;
    for (uint64_t at = 0; at < kvs_states_bytes(states);) {
        kvs_span span = kvs_states_span(states, at);
        hash = XXH64(span.data, span.bytes, hash);
        at += span.bytes;
    }
    return hash;
}
