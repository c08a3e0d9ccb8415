#include "client/dist_state.h"
#include "client/row_list.h"

#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

/* Ids of one pull: some hundred KiB of a request. More take several. */
#define IDS_AT_ONCE ((uint64_t)65536)

void kvs_item_free_rows(kvs_item *item)
{
    if (item->rows != NULL) {
        kvs_row_list_deinit(item->rows);
        free(item->rows);
        item->rows = NULL;
    }
}

size_t kvs_dist_count_row_items(const kvs_transfer *transfer)
{
    size_t items = 0;
    for (size_t i = 0; i < transfer->groups->count; i++) {
        const kvs_group *group = &transfer->groups->list[i];
        items += group->value_count > 0 ? 1 : 0;
        for (size_t j = 0; j < group->out_count; j++) {
            const kvs_row_argument *argument = group->outs[j]->data;
            items += (size_t)(kvs_array_elements(argument->wanted) / IDS_AT_ONCE) + 1;
        }
    }
    return items;
}

/* ------------------------------------------------------------------ pushing */

static uint64_t part_elements_of(kvs_dist *dist)
{
    kvs_dist_lock(dist);
    uint64_t elements = dist->limits.part_elements;
    kvs_dist_unlock(dist);
    return elements;
}

/* Collects and cuts the rows of a group, and adds them up in a block of their own. */
static kvs_status take_values(kvs_item *item, const kvs_group *group, uint64_t part_elements,
                              kvs_problem *problem)
{
    kvs_dist *dist = item->request->dist;
    kvs_row_list *list = item->rows;
    KVS_TRY(kvs_row_list_of_values(list, group, problem));
    size_t bytes = (size_t)(list->count * list->row_elements) * item->element_bytes;
    item->block = kvs_block_make(&dist->pool, bytes);
    if (item->block == NULL || kvs_row_list_cut(list, part_elements) != KVS_OK) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the rows");
    }
    item->data = item->block->data;
    item->part_elements = list->part_elements;
    KVS_TRY(kvs_row_list_sum(list, &dist->sum, group, item->block->data, problem));
    free(list->places);
    list->places = NULL;
    return KVS_OK;
}

/* The next item of the request, with an empty list; NULL: no memory. */
static kvs_item *next_item(kvs_request *request, const kvs_group *group, kvs_flow flow)
{
    kvs_item *item = &request->items[request->item_count];
    const kv_array *array = group->value_count > 0 ? group->values[0] : group->outs[0];
    kvs_item_fill(item, request, group, array, flow);
    item->rows = calloc(1, sizeof *item->rows);
    request->item_count += item->rows != NULL ? 1 : 0;
    return item->rows != NULL ? item : NULL;
}

static void drop_last(kvs_request *request)
{
    kvs_item *item = &request->items[--request->item_count];
    kvs_item_free_rows(item);
    kvs_block_unref(item->block);
    item->block = NULL;
}

static kvs_status fill_push(kvs_request *request, const kvs_groups *groups, kvs_problem *problem)
{
    kvs_dist *dist = request->dist;
    uint64_t part_elements = part_elements_of(dist);
    bool passes_over = kvs_kind_of(dist->base.type) == KVS_ASYNC;
    for (size_t i = 0; i < groups->count; i++) {
        kvs_item *item = next_item(request, &groups->list[i], KVS_FLOW_PUSH);
        if (item == NULL) {
            return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the request");
        }
        KVS_TRY(take_values(item, &groups->list[i], part_elements, problem));
        if (passes_over && item->rows->count == 0) {
            drop_last(request);
        }
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ pulling */

/* One item for the ids from `first` on. */
static kvs_status add_pull(kvs_request *request, const kvs_group *group, const kv_row_sparse *out,
                           kvs_row_list *all, uint64_t first)
{
    uint64_t left = all->count - first;
    uint64_t count = left < IDS_AT_ONCE ? left : IDS_AT_ONCE;
    void **outs = request->outs + request->item_count;
    kvs_item *item = next_item(request, group, KVS_FLOW_PULL);
    if (item == NULL) {
        return KVS_NO_MEMORY;
    }
    kvs_row_list *list = item->rows;
    *list = (kvs_row_list){.count = count, .rows = all->rows, .row_elements = all->row_elements};
    list->ids = malloc(count * sizeof *list->ids);
    if (list->ids == NULL) {
        return KVS_NO_MEMORY;
    }
    memcpy(list->ids, all->ids + first, count * sizeof *list->ids);
    item->elements = count * list->row_elements;
    outs[0] = (uint8_t *)out->data + (size_t)(first * list->row_elements) * item->element_bytes;
    item->outs = outs;
    item->out_count = 1;
    return kvs_row_list_pack(list, 0, count);
}

static kvs_status fill_out(kvs_request *request, const kvs_group *group, const kv_array *array,
                           kvs_problem *problem)
{
    const kvs_row_argument *argument = array->data;
    kvs_row_list list;
    KVS_TRY(kvs_row_list_of_ids(&list, group, array, argument->wanted, problem));
    kvs_status status = kvs_row_list_describe(&list, group, argument->rows, problem);
    for (uint64_t first = 0; status == KVS_OK && first < list.count; first += IDS_AT_ONCE) {
        status = add_pull(request, group, argument->rows, &list, first);
        if (status != KVS_OK) {
            (void)kvs_problem_set(problem, status, "no memory for the request");
        }
    }
    kvs_row_list_deinit(&list);
    return status;
}

kvs_status kvs_dist_fill_rows(kvs_request *request, const kvs_transfer *transfer,
                              kvs_problem *problem)
{
    const kvs_groups *groups = transfer->groups;
    request->item_count = 0;
    kvs_status status = transfer->push ? fill_push(request, groups, problem) : KVS_OK;
    for (size_t i = 0; !transfer->push && i < groups->count; i++) {
        for (size_t j = 0; status == KVS_OK && j < groups->list[i].out_count; j++) {
            status = fill_out(request, &groups->list[i], groups->list[i].outs[j], problem);
        }
    }
    request->open_items = request->item_count;
    request->live_items = request->item_count;
    return status;
}

/* ------------------------------------------------------------------ what comes back */

bool kvs_item_fits(const kvs_item *item, const kvs_part_header *header, const kvs_arrival *arrival)
{
    uint64_t elements = arrival->runs * arrival->run_elements;
    if (header->codec == KVS_CODEC_NONE) {
        return header->payload_bytes == elements * item->element_bytes;
    }
    return header->codec == item->pull_codec && item->dtype == KVS_F32 &&
           header->payload_bytes ==
               kvs_codec_value_bytes(header->codec, arrival->runs, arrival->run_elements);
}

kvs_status kvs_item_check_rows(const kvs_item *item, const kvs_part_header *header,
                               kvs_arrival *out, kvs_problem *problem)
{
    uint64_t first = 0;
    uint64_t rows = 0;
    KVS_TRY(kvs_row_list_find(item->rows, header, &first, &rows, problem));
    *out = (kvs_arrival){.element_offset = first * item->rows->row_elements,
                         .runs = rows,
                         .run_elements = item->rows->row_elements,
                         .codec = header->codec};
    if (header->storage != KVS_ROW_SPARSE || header->dtype != item->dtype ||
        !kvs_item_fits(item, header, out)) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "key %s has rows of another dtype or length than its out",
                               item->key->name);
    }
    return KVS_OK;
}
