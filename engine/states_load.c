/* A file of states on its way in: judged when its header is there, then each part goes straight to
 * the buffer that it will be. */
#include "engine/state_tensors.h"
#include "engine/store.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of one part's state: f32 has twice the bytes of the f16 or bf16 that it belongs to. */
#define STATE_BYTES_MAX (2 * KVS_PART_BYTES_MAX)

struct kvs_states_load {
    kvs_store *store; /* a reference */
    kvs_capture *capture;
    bool replaces; /* the file brings its optimizer */
    uint8_t length[KVS_SAFETENSORS_LENGTH_BYTES];
    char *head;
    size_t head_bytes;
    kvs_safetensors file; /* its tensors' tags are those of state_tensors.h */
    bool judged;
    uint64_t bytes;  /* that have come */
    size_t tensor;   /* that is being filled */
    uint64_t filled; /* bytes of it that are in buffers */
    uint8_t *part;   /* one part, until it is whole; room for a number of a row more */
    size_t part_bytes;
    uint8_t last_number[sizeof(double)]; /* of the tensor's last row that is in a buffer */
    kvs_backend *backend;                /* of the stream */
    kvs_stream *stream;                  /* NULL until something is to be copied */
    kvs_states_misfit misfits[KVS_STATES_MISFITS_MAX];
    size_t misfit_count; /* all of them */
};

kvs_status kvs_states_load_open(kvs_store *store, kvs_states_load **out, kvs_problem *problem)
{
    kvs_states_load *load = calloc(1, sizeof *load);
    if (load != NULL) {
        load->part = malloc(STATE_BYTES_MAX + sizeof load->last_number);
    }
    if (load == NULL || load->part == NULL) {
        free(load);
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the states");
    }
    load->store = kvs_store_take(store);
    *out = load;
    return KVS_OK;
}

static void close_stream(kvs_states_load *load)
{
    if (load->stream != NULL) {
        load->backend->table->close_stream(load->backend, load->stream);
        load->stream = NULL;
    }
}

void kvs_states_load_close(kvs_states_load *load)
{
    if (load == NULL) {
        return;
    }
    kvs_store *store = load->store;
    kvs_capture_close(load->capture);
    /* What was refused, or what was replaced, does not stand in the budget any longer. */
    for (uint32_t i = 0; load->judged && i < store->shard_count; i++) {
        kvs_pool_trim(store->shards[i]->pool);
    }
    close_stream(load);
    for (size_t i = 0; i < load->misfit_count && i < KVS_STATES_MISFITS_MAX; i++) {
        free(load->misfits[i].tensor);
    }
    kvs_safetensors_deinit(&load->file);
    free(load->head);
    free(load->part);
    kvs_store_unref(store);
    free(load);
}

size_t kvs_states_load_misfits(const kvs_states_load *load, const kvs_states_misfit **out)
{
    *out = load->misfits;
    return load->misfit_count < KVS_STATES_MISFITS_MAX ? load->misfit_count
                                                       : KVS_STATES_MISFITS_MAX;
}

void kvs_states_load_describe(const kvs_states_load *load, kvs_states_load_info *out)
{
    *out = (kvs_states_load_info){
        .bytes = load->bytes, .tensors = load->file.count, .sets_optimizer = load->replaces};
    if (load->judged) {
        out->file_bytes = sizeof load->length + load->head_bytes + load->file.data_bytes;
    }
}

/* ------------------------------------------------------------------ judging the header */

static void misfit(kvs_states_load *load, const kvs_safetensor *tensor, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void misfit(kvs_states_load *load, const kvs_safetensor *tensor, const char *format, ...)
{
    if (load->misfit_count < KVS_STATES_MISFITS_MAX) {
        kvs_states_misfit *to = &load->misfits[load->misfit_count];
        va_list arguments;
        to->tensor = strndup(tensor->name, tensor->name_bytes);
        va_start(arguments, format);
        (void)vsnprintf(to->why, sizeof to->why, format, arguments);
        va_end(arguments);
    }
    load->misfit_count++;
}

/* How many there are, and as many of them as the problem has room for, the first in any case. */
static kvs_status tell_misfits(const kvs_states_load *load, kvs_problem *problem)
{
    enum { MORE_BYTES = 32 }; /* for how many are left out */
    char list[sizeof problem->detail];
    size_t room = sizeof list - sizeof "18446744073709551615 misfits: " - MORE_BYTES;
    size_t told = 0;
    for (size_t used = 0; told < load->misfit_count && told < KVS_STATES_MISFITS_MAX; told++) {
        const kvs_states_misfit *next = &load->misfits[told];
        int length = snprintf(list + used, room - used, "%s\"%.100s\" %.60s", told > 0 ? "; " : "",
                              next->tensor != NULL ? next->tensor : "", next->why);
        if (length < 0 || (size_t)length >= room - used) {
            list[used] = '\0';
            break;
        }
        used += (size_t)length;
    }
    char more[MORE_BYTES] = "";
    if (told < load->misfit_count) {
        (void)snprintf(more, sizeof more, "; %zu more", load->misfit_count - told);
    }
    return kvs_problem_set(problem, KVS_STATES_MISMATCH, "%zu misfit%s: %s%s", load->misfit_count,
                           load->misfit_count == 1 ? "" : "s", list, more);
}

static bool note_is(const kvs_safetensors_note *note, const char *text)
{
    return strlen(text) == note->text_bytes && memcmp(note->text, text, note->text_bytes) == 0;
}

/* The optimizer under which the states will be: the file's own, or the store's. A reference. */
static kvs_status choose_optimizer(kvs_states_load *load, kvs_optimizer **out, kvs_problem *problem)
{
    const kvs_safetensors_note *format = kvs_safetensors_find_note(&load->file, "kvstored.format");
    const kvs_safetensors_note *rule = kvs_safetensors_find_note(&load->file, "kvstored.rule");
    const kvs_safetensors_note *dump = kvs_safetensors_find_note(&load->file, "kvstored.optimizer");
    if (format != NULL && !note_is(format, "1")) {
        return kvs_problem_set(problem, KVS_UNIMPLEMENTED, "the file is of a later format than 1");
    }
    if (dump != NULL) {
        load->replaces = true;
        return kvs_optimizer_parse(dump->text, dump->text_bytes, out, problem);
    }
    kvs_optimizer *optimizer = kvs_store_optimizer(load->store);
    if (optimizer == NULL) {
        return kvs_problem_set(problem, KVS_OPTIMIZER_NOT_SET,
                               "the states need an optimizer, and the file brings none");
    }
    if (rule != NULL && !note_is(rule, kvs_optimizer_name(optimizer))) {
        kvs_status status = kvs_problem_set(problem, KVS_STATES_MISMATCH,
                                            "states of \"%.*s\"; the store's optimizer is \"%s\"",
                                            (int)(rule->text_bytes < 40 ? rule->text_bytes : 40),
                                            rule->text, kvs_optimizer_name(optimizer));
        kvs_optimizer_unref(optimizer);
        return status;
    }
    *out = optimizer;
    return KVS_OK;
}

static bool same_shape(const kvs_safetensor *a, const kvs_safetensor *b)
{
    return a->rank == b->rank &&
           (a->rank == 0 || memcmp(a->sizes, b->sizes, a->rank * sizeof *a->sizes) == 0);
}

/* The tensor as the store has it. */
static void judge_tensor(kvs_states_load *load, kvs_safetensor *tensor,
                         const kvs_safetensor *wanted)
{
    const kvs_key *key = kvs_state_tensors_key(load->capture, wanted);
    bool step = (wanted->tag & 255) == KVS_TENSOR_STEP;
    bool one_a_part = step && tensor->rank == 1 && tensor->sizes[0] == key->part_count;
    if (tensor->dtype != wanted->dtype) {
        misfit(load, tensor, "is %s, the store has %s", kvs_safetensors_dtype_name(tensor->dtype),
               kvs_safetensors_dtype_name(wanted->dtype));
    } else if (!one_a_part && !same_shape(tensor, wanted)) {
        misfit(load, tensor, "has another shape than the store's");
    }
    tensor->tag = wanted->tag;
}

/* Compares what the file has with what the store needs; each misfit is noted. */
static kvs_status judge_tensors(kvs_states_load *load, const kvs_state_tensors *wanted)
{
    bool *found = calloc(wanted->count + 1, sizeof *found);
    if (found == NULL) {
        return KVS_NO_MEMORY;
    }
    for (size_t i = 0; i < load->file.count; i++) {
        kvs_safetensor *tensor = &load->file.tensors[i];
        const kvs_safetensor *at = wanted->count == 0
                                       ? NULL
                                       : bsearch(tensor, wanted->list, wanted->count,
                                                 sizeof *wanted->list, kvs_safetensor_compare);
        if (at == NULL) {
            misfit(load, tensor, "is nothing that the store has");
        } else {
            found[at - wanted->list] = true;
            judge_tensor(load, tensor, at);
        }
    }
    for (size_t i = 0; i < wanted->count; i++) {
        if (!found[i]) {
            misfit(load, &wanted->list[i], "is missing");
        }
    }
    free(found);
    return KVS_OK;
}

/* Are there values in the file? Then all of them have to be. */
static bool has_values(const kvs_states_load *load)
{
    for (size_t i = 0; i < load->file.count; i++) {
        const kvs_safetensor *tensor = &load->file.tensors[i];
        if (kvs_key_table_find(&load->store->keys, tensor->name, tensor->name_bytes) != NULL) {
            return true;
        }
    }
    return false;
}

/* Said before its buffers are made. */
static kvs_status check_budget(const kvs_states_load *load, kvs_problem *problem)
{
    kvs_budget *budget = &load->store->engine->budget;
    uint64_t used = atomic_load_explicit(&budget->bytes, memory_order_relaxed);
    if (budget->bytes_max != 0 &&
        (used > budget->bytes_max || load->file.data_bytes > budget->bytes_max - used)) {
        return kvs_problem_set(problem, KVS_OVER_BUDGET,
                               "the states take %" PRIu64 " bytes until they replace the others",
                               load->file.data_bytes);
    }
    return KVS_OK;
}

static kvs_status judge(kvs_states_load *load, kvs_problem *problem)
{
    kvs_optimizer *optimizer = NULL;
    kvs_state_tensors wanted = {.count = 0};
    KVS_TRY(kvs_safetensors_parse(load->head, load->head_bytes, &load->file, problem));
    KVS_TRY(choose_optimizer(load, &optimizer, problem));
    kvs_status status = kvs_capture_make(load->store, optimizer, has_values(load), &load->capture);
    kvs_optimizer_unref(optimizer);
    if (status == KVS_OK) {
        status = kvs_state_tensors_make(load->capture, &wanted);
    }
    if (status == KVS_OK) {
        status = judge_tensors(load, &wanted);
    }
    kvs_state_tensors_deinit(&wanted);
    if (status != KVS_OK) {
        return kvs_problem_set(problem, status, "nothing was loaded");
    }
    load->judged = true;
    return load->misfit_count > 0 ? tell_misfits(load, problem) : check_budget(load, problem);
}

/* ------------------------------------------------------------------ the data */

/* Every copy has been waited for: the stream may go when the next part lies elsewhere. */
static kvs_status open_stream(kvs_states_load *load, kvs_backend *backend)
{
    if (load->backend != backend) {
        close_stream(load);
        load->backend = backend;
    }
    return load->stream != NULL ? KVS_OK : backend->table->open_stream(backend, &load->stream);
}

static kvs_status fill_buffer(kvs_states_load *load, kvs_buffer **buffer, kvs_shard *shard,
                              size_t bytes)
{
    const kvs_backend_table *table = shard->pool->backend->table;
    kvs_span span = {load->part, bytes};
    KVS_TRY(open_stream(load, shard->pool->backend));
    KVS_TRY(kvs_pool_make(shard->pool, bytes, buffer));
    kvs_copy_item item = {.target = &(*buffer)->memory,
                          .source.payload = {.spans = &span, .count = 1, .bytes = bytes},
                          .bytes = bytes};
    KVS_TRY(table->copy(load->stream, &item, 1));
    return table->sync(load->stream);
}

/* One step: of all parts, or of one. */
static kvs_status fill_step(kvs_states_load *load, const kvs_safetensor *tensor,
                            kvs_captured_part *part, kvs_problem *problem)
{
    const kvs_key *key = kvs_state_tensors_key(load->capture, tensor);
    uint64_t step = 0;
    for (unsigned b = 8; b-- > 0;) {
        step = step << 8 | load->part[b];
    }
    if (step > INT64_MAX / 4) { /* schedules add to it */
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "the step of \"%.200s\" is negative "
                               "or too large",
                               key->name);
    }
    uint64_t parts = tensor->rank == 0 ? key->part_count : 1;
    for (uint64_t i = 0; i < parts; i++) {
        part[i].updates = step;
    }
    return KVS_OK;
}

static bool is_step(const kvs_safetensor *tensor)
{
    return (tensor->tag & 255) == KVS_TENSOR_STEP;
}

static kvs_state_place place_of_piece(const kvs_states_load *load)
{
    return kvs_state_tensors_place(load->capture, &load->file.tensors[load->tensor], load->filled);
}

/* Numbers of the rows that begin in a part: the part has that of a row begun before it as well, and
 * so have the parts after it that are all of its last row. */
static kvs_status fill_rows(kvs_states_load *load, const kvs_safetensor *tensor,
                            const kvs_state_place *place, size_t bytes)
{
    const kvs_key *key = kvs_state_tensors_key(load->capture, tensor);
    size_t number_bytes = kvs_dtype_bytes(tensor->dtype);
    kvs_captured_part *part = place->part;
    if (place->offset > 0) {
        memmove(load->part + number_bytes, load->part, bytes);
        memcpy(load->part, load->last_number, number_bytes);
        bytes += number_bytes;
    }
    KVS_TRY(fill_buffer(load, kvs_state_tensors_buffer(part, tensor),
                        key->parts[place->index].shard, bytes));
    memcpy(load->last_number, load->part + bytes - number_bytes, number_bytes);
    memcpy(load->part, load->last_number, number_bytes);
    for (uint64_t i = place->index + 1; i < key->part_count; i++) {
        kvs_row_range rows = kvs_key_rows_of(key, i);
        if (rows.begun == 0 || rows.count > 1) {
            break;
        }
        part++;
        KVS_TRY(fill_buffer(load, kvs_state_tensors_buffer(part, tensor), key->parts[i].shard,
                            number_bytes));
    }
    return KVS_OK;
}

/* The piece is whole: it goes to its buffer. */
static kvs_status store_piece(kvs_states_load *load, kvs_problem *problem)
{
    const kvs_safetensor *tensor = &load->file.tensors[load->tensor];
    const kvs_key *key = kvs_state_tensors_key(load->capture, tensor);
    kvs_state_place place = place_of_piece(load);
    size_t bytes = load->part_bytes;
    load->filled += bytes;
    load->part_bytes = 0;
    if (is_step(tensor)) {
        return fill_step(load, tensor, place.part, problem);
    }
    bool rows =
        (tensor->tag & 255) >= KVS_TENSOR_STATE && kvs_optimizer_by_row(load->capture->optimizer);
    kvs_status status = rows ? fill_rows(load, tensor, &place, bytes)
                             : fill_buffer(load, kvs_state_tensors_buffer(place.part, tensor),
                                           key->parts[place.index].shard, bytes);
    return status == KVS_OK ? KVS_OK : kvs_problem_set(problem, status, "nothing was loaded");
}

static kvs_status take_data(kvs_states_load *load, const uint8_t *data, size_t bytes,
                            kvs_problem *problem)
{
    for (;;) {
        while (load->tensor < load->file.count &&
               load->filled ==
                   load->file.tensors[load->tensor].end - load->file.tensors[load->tensor].begin) {
            load->tensor++;
            load->filled = 0;
        }
        if (bytes == 0) {
            return KVS_OK;
        }
        if (load->tensor == load->file.count) {
            return kvs_problem_set(problem, KVS_INVALID_FRAME,
                                   "bytes follow the last tensor of the file");
        }
        size_t piece = (size_t)place_of_piece(load).left;
        size_t take = piece - load->part_bytes < bytes ? piece - load->part_bytes : bytes;
        memcpy(load->part + load->part_bytes, data, take);
        load->part_bytes += take;
        data += take;
        bytes -= take;
        if (load->part_bytes == piece) {
            KVS_TRY(store_piece(load, problem));
        }
    }
}

/* ------------------------------------------------------------------ coming in, taking effect */

/* Bytes of the length and of the header; *used of them. */
static kvs_status take_head(kvs_states_load *load, const uint8_t *data, size_t bytes, size_t *used,
                            kvs_problem *problem)
{
    uint64_t at = load->bytes;
    if (at < sizeof load->length) {
        size_t take = sizeof load->length - (size_t)at;
        take = take < bytes ? take : bytes;
        memcpy(load->length + at, data, take);
        *used = take;
        if (at + take < sizeof load->length) {
            return KVS_OK;
        }
        KVS_TRY(kvs_safetensors_length(load->length, &load->head_bytes, problem));
        load->head = malloc(load->head_bytes);
        return load->head != NULL
                   ? KVS_OK
                   : kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the states' header");
    }
    at -= sizeof load->length;
    size_t take = load->head_bytes - (size_t)at;
    take = take < bytes ? take : bytes;
    memcpy(load->head + at, data, take);
    *used = take;
    return at + take == load->head_bytes ? judge(load, problem) : KVS_OK;
}

kvs_status kvs_states_load_append(kvs_states_load *load, const void *data, size_t bytes,
                                  kvs_problem *problem)
{
    const uint8_t *at = data;
    while (bytes > 0 && !load->judged) {
        size_t used = 0;
        KVS_TRY(take_head(load, at, bytes, &used, problem));
        load->bytes += used;
        at += used;
        bytes -= used;
    }
    if (load->judged) {
        KVS_TRY(take_data(load, at, bytes, problem));
        load->bytes += bytes;
    }
    return KVS_OK;
}

void kvs_states_load_commit(kvs_states_load *load, kvs_waiter *waiter, uint64_t now_ns)
{
    if (!load->judged || load->tensor < load->file.count) {
        kvs_waiter_finish(waiter, now_ns, KVS_INVALID_FRAME,
                          "the file ends after %" PRIu64 " bytes, in the middle", load->bytes);
        return;
    }
    kvs_capture *capture = load->capture;
    load->capture = NULL;
    kvs_store_restore(capture, load->replaces, waiter, now_ns);
}
