#include "tests/support/states_file.h"

#include "engine/states.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

kvs_status states_file_save(fixture *f, bool values, bool dump, states_file *out)
{
    fixture_wait wait;
    kvs_problem problem;
    kvs_capture *capture = NULL;
    kvs_states *states = NULL;
    fixture_wait_begin(&wait, 0);
    kvs_store_capture(f->store, values, &capture, &wait.waiter, f->now_ns);
    fixture_run_all(f);
    assert_int_equal(wait.calls, 1);
    if (wait.problem.status != KVS_OK) {
        assert_null(capture);
        return wait.problem.status;
    }
    kvs_status status = kvs_states_open(capture, dump, &states, &problem);
    if (status != KVS_OK) {
        kvs_capture_close(capture);
        return status;
    }
    out->count = (size_t)kvs_states_bytes(states);
    out->bytes = malloc(out->count);
    assert_non_null(out->bytes);
    for (size_t at = 0; at < out->count;) {
        kvs_span span = kvs_states_span(states, at);
        assert_true(span.bytes > 0 && span.bytes <= out->count - at);
        memcpy(out->bytes + at, span.data, span.bytes);
        at += span.bytes;
    }
    kvs_states_close(states);
    return KVS_OK;
}

kvs_status states_file_load(fixture *f, const states_file *from, size_t piece, kvs_problem *problem)
{
    kvs_states_load *loading = NULL;
    kvs_status status = kvs_states_load_open(f->store, &loading, problem);
    for (size_t at = 0; status == KVS_OK && at < from->count; at += piece) {
        size_t bytes = from->count - at < piece ? from->count - at : piece;
        status = kvs_states_load_append(loading, from->bytes + at, bytes, problem);
    }
    if (status == KVS_OK) {
        fixture_wait wait;
        fixture_wait_begin(&wait, 0);
        kvs_states_load_commit(loading, &wait.waiter, f->now_ns);
        fixture_run_all(f);
        assert_int_equal(wait.calls, 1);
        status = wait.problem.status;
        *problem = wait.problem;
    }
    kvs_states_load_close(loading);
    return status;
}

void states_file_deinit(states_file *file)
{
    free(file->bytes);
    *file = (states_file){NULL, 0};
}
