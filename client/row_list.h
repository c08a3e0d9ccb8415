/* The rows that a call gives or asks for, as they travel: ascending, each once, cut by the parts of
 * their value.
 *
 * Threads: plain data. Memory: a list owns what it points to.
 * Errors: KVS_INVALID_TENSOR for an id that is no row of the value, KVS_TOO_LARGE for a row that
 *   fits no part, KVS_TOO_MANY, KVS_NO_MEMORY; the list is empty then.
 */
#ifndef KVS_CLIENT_ROW_LIST_H
#define KVS_CLIENT_ROW_LIST_H

#include "base/frame.h"
#include "client/sum.h"

/* What the data of an array of a row_sparse call points to. */
typedef struct kvs_row_argument {
    kv_row_sparse *rows;
    const kv_array *wanted; /* ids, of a pull */
} kvs_row_argument;

typedef struct kvs_row_list {
    uint64_t *ids;
    uint64_t count;
    bool whole;            /* all rows in order, without ids */
    uint64_t rows;         /* of the value */
    uint64_t row_elements; /* the same */
    uint32_t *places; /* of each row given: its place here, with KVS_ROW_FIRST where it is new */
    uint64_t part_elements; /* of the value, as cut */
    uint64_t parts;
    uint64_t *starts;        /* parts + 1: the first row of each part, and the end */
    uint64_t *packed_starts; /* the same of the bytes of its ids */
    uint8_t *packed;         /* ids as varints */
} kvs_row_list;

/* Of all values of a group, whose arrays are kvs_row_arguments; of what `wanted` asks for a value
 * of that shape. */
kvs_status kvs_row_list_of_values(kvs_row_list *list, const kvs_group *group,
                                  kvs_problem *problem) KVS_MUST_CHECK;
kvs_status kvs_row_list_of_ids(kvs_row_list *list, const kvs_group *group, const kv_array *value,
                               const kv_array *wanted, kvs_problem *problem) KVS_MUST_CHECK;
void kvs_row_list_deinit(kvs_row_list *list);

/* Cuts it by parts of as many whole rows as fit in `part_elements`, and of one at least. */
kvs_status kvs_row_list_cut(kvs_row_list *list, uint64_t part_elements) KVS_MUST_CHECK;
/* Packs `count` ids from `first` on to packed: a list of one part. */
kvs_status kvs_row_list_pack(kvs_row_list *list, uint64_t first, uint64_t count) KVS_MUST_CHECK;

/* The sum of the group's values, row by row in the order of the call, to list->count rows. */
kvs_status kvs_row_list_sum(const kvs_row_list *list, kvs_sum *sum, const kvs_group *group,
                            void *target, kvs_problem *problem) KVS_MUST_CHECK;

/* Writes to an out of a pull what it will hold, once it is filled. KVS_INVALID_FIELD: no room. */
kvs_status kvs_row_list_describe(const kvs_row_list *list, const kvs_group *group,
                                 kv_row_sparse *out, kvs_problem *problem) KVS_MUST_CHECK;

/* What a header says of one part, all but key, shape and sequence. */
void kvs_row_list_fill_header(const kvs_row_list *list, uint64_t part, size_t element_bytes,
                              kvs_part_header *header);
/* Does the list have no row of it? */
bool kvs_row_list_is_empty(const kvs_row_list *list, uint64_t part);
/* Where its rows lie, in bytes. */
size_t kvs_row_list_offset(const kvs_row_list *list, uint64_t part, size_t element_bytes);

/* The place, among ids, of the rows that a part which has come brings. KVS_INVALID_TENSOR when its
 * value has more rows or less than the out, KVS_INTERNAL for rows that were not asked for. */
kvs_status kvs_row_list_find(const kvs_row_list *list, const kvs_part_header *header,
                             uint64_t *first, uint64_t *rows, kvs_problem *problem) KVS_MUST_CHECK;

#endif
