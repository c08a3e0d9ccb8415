/* Rows of text in columns that line up.
 *
 * Threads: one. Memory: cells are copied; deinit frees. Without memory, print says so.
 */
#ifndef KVS_CLIENT_KVCTL_TABLE_H
#define KVS_CLIENT_KVCTL_TABLE_H

#include "base/json.h"

#include <stddef.h>

#define KVS_TABLE_COLUMNS_MAX 12u
#define KVS_TABLE_CELL_BYTES 64u /* of texts that are made on the way */

typedef struct kvs_table {
    size_t columns;
    char **cells; /* row after row; the first row is the head */
    size_t count, room;
    bool failed;
} kvs_table;

/* `head` has `columns` titles. A title that begins with '>' sets its column to the right. */
void kvs_table_init(kvs_table *table, const char *const *head, size_t columns);
void kvs_table_add(kvs_table *table, const char *cell);
void kvs_table_print(const kvs_table *table);
void kvs_table_deinit(kvs_table *table);

/* Texts for cells, in a buffer of KVS_TABLE_CELL_BYTES that is given back. */
const char *kvs_text_bytes(uint64_t bytes, char *out);           /* "397.5 KiB" */
const char *kvs_text_duration(uint64_t milliseconds, char *out); /* "2h14m" */

/* Fields of a reply: a text, or ""; a number, whether it travels as one or as a text. */
const char *kvs_field_text(const json_t *object, const char *name);
uint64_t kvs_field_number(const json_t *object, const char *name);

#endif
