/* Optimizers from their JSON, for tests: one that must be taken, one that must be refused. */
#ifndef KVS_TESTS_SUPPORT_OPTIMIZER_JSON_H
#define KVS_TESTS_SUPPORT_OPTIMIZER_JSON_H

#include "engine/optimizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* The caller unrefs it. */
static inline kvs_optimizer *parse(const char *json)
{
    kvs_optimizer *optimizer = NULL;
    kvs_problem problem = {0};
    if (kvs_optimizer_parse(json, strlen(json), &optimizer, &problem) != KVS_OK) {
        fail_msg("%s: %s", json, problem.detail);
    }
    return optimizer;
}

static inline void refused(const char *json, kvs_status status, const char *detail)
{
    kvs_optimizer *optimizer = NULL;
    kvs_problem problem = {0};
    kvs_status got = kvs_optimizer_parse(json, strlen(json), &optimizer, &problem);
    assert_null(optimizer);
    assert_string_equal(kvs_status_find(got)->reason, kvs_status_find(status)->reason);
    assert_int_equal(problem.status, status);
    assert_string_equal(problem.detail, detail);
}

#endif
