/* Saves an engine's states to memory and loads them from there, as a server would.
 *
 * Threads: one. Memory: a file owns its bytes.
 */
#ifndef KVS_TESTS_SUPPORT_STATES_FILE_H
#define KVS_TESTS_SUPPORT_STATES_FILE_H

#include "tests/support/engine_fixture.h"

typedef struct states_file {
    uint8_t *bytes;
    size_t count;
} states_file;

/* Fails the test unless it ends at once; what was refused leaves *out alone. */
kvs_status states_file_save(fixture *f, bool values, bool dump, states_file *out);
/* In pieces of `piece` bytes. */
kvs_status states_file_load(fixture *f, const states_file *from, size_t piece,
                            kvs_problem *problem);
void states_file_deinit(states_file *file);

#endif
