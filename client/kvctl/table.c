#include "client/kvctl/table.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void kvs_table_init(kvs_table *table, const char *const *head, size_t columns)
{
    *table = (kvs_table){.columns = columns};
    for (size_t i = 0; i < columns; i++) {
        kvs_table_add(table, head[i]);
    }
}

void kvs_table_add(kvs_table *table, const char *cell)
{
    if (table->count == table->room) {
        const size_t room = table->room == 0 ? 64 : 2 * table->room;
        char **grown = realloc(table->cells, room * sizeof *grown);
        if (grown == NULL) {
            table->failed = true;
            return;
        }
        table->cells = grown;
        table->room = room;
    }
    char *copy = strdup(cell);
    if (copy == NULL) {
        table->failed = true;
        return;
    }
    table->cells[table->count++] = copy;
}

/* Characters, not bytes, of UTF-8. */
static size_t width_of(const char *text)
{
    size_t width = 0;
    for (; *text != '\0'; text++) {
        width += ((unsigned char)*text & 0xc0) != 0x80;
    }
    return width;
}

/* A title's mark is no part of it. */
static const char *text_of(const kvs_table *table, size_t index)
{
    const char *cell = table->cells[index];
    return cell + (index < table->columns && *cell == '>' ? 1 : 0);
}

static void print_cell(const char *text, size_t width, bool right, bool last)
{
    const int pad = (int)(width - width_of(text));
    if (right) {
        (void)printf("%*s%s", pad, "", text);
    } else {
        (void)printf("%s%*s", text, last ? 0 : pad, "");
    }
    (void)fputs(last ? "\n" : "  ", stdout);
}

void kvs_table_print(const kvs_table *table)
{
    size_t widths[KVS_TABLE_COLUMNS_MAX] = {0};
    if (table->failed) {
        (void)fprintf(stderr, "kvctl: no memory for the table\n");
        return;
    }
    for (size_t i = 0; i < table->count; i++) {
        const size_t width = width_of(text_of(table, i));
        size_t *widest = &widths[i % table->columns];
        *widest = width > *widest ? width : *widest;
    }
    for (size_t i = 0; i < table->count; i++) {
        const size_t column = i % table->columns;
        print_cell(text_of(table, i), widths[column], table->cells[column][0] == '>',
                   column + 1 == table->columns);
    }
}

void kvs_table_deinit(kvs_table *table)
{
    for (size_t i = 0; i < table->count; i++) {
        free(table->cells[i]);
    }
    free(table->cells);
    *table = (kvs_table){0};
}

const char *kvs_text_bytes(uint64_t bytes, char *out)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double amount = (double)bytes;
    size_t unit = 0;
    while (amount >= 1024 && unit + 1 < sizeof units / sizeof units[0]) {
        amount /= 1024;
        unit++;
    }
    (void)snprintf(out, KVS_TABLE_CELL_BYTES, unit == 0 ? "%.0f %s" : "%.1f %s", amount,
                   units[unit]);
    return out;
}

const char *kvs_text_duration(uint64_t milliseconds, char *out)
{
    const uint64_t seconds = milliseconds / 1000;
    if (milliseconds < 10000) {
        (void)snprintf(out, KVS_TABLE_CELL_BYTES, "%.1fs", (double)milliseconds / 1000);
    } else if (seconds < 60) {
        (void)snprintf(out, KVS_TABLE_CELL_BYTES, "%" PRIu64 "s", seconds);
    } else if (seconds < 3600) {
        (void)snprintf(out, KVS_TABLE_CELL_BYTES, "%" PRIu64 "m%02" PRIu64 "s", seconds / 60,
                       seconds % 60);
    } else {
        (void)snprintf(out, KVS_TABLE_CELL_BYTES, "%" PRIu64 "h%02" PRIu64 "m", seconds / 3600,
                       seconds / 60 % 60);
    }
    return out;
}

const char *kvs_field_text(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    return json_is_string(value) ? json_string_value(value) : "";
}

uint64_t kvs_field_number(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    if (json_is_string(value)) {
        return strtoull(json_string_value(value), NULL, 10);
    }
    const json_int_t number = json_is_integer(value) ? json_integer_value(value) : 0;
    return number < 0 ? 0 : (uint64_t)number;
}
