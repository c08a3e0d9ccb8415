#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const kvs_status_row rows[] = {
#define KVS_STATUS_ROW(name, grpc, http, title, advice) {#name, title, advice, grpc, http},
    KVS_STATUS_TABLE(KVS_STATUS_ROW)
#undef KVS_STATUS_ROW
};

const kvs_status_row *kvs_status_find(kvs_status status)
{
    if ((unsigned)status >= KVS_STATUS_COUNT) {
        status = KVS_INTERNAL;
    }
    return &rows[status];
}

kvs_status kvs_status_parse(const char *reason)
{
    for (int i = 0; i < KVS_STATUS_COUNT; i++) {
        if (strcmp(rows[i].reason, reason) == 0) {
            return (kvs_status)i;
        }
    }
    return KVS_INTERNAL;
}

kvs_status kvs_problem_set(kvs_problem *problem, kvs_status status, const char *format, ...)
{
    if (problem != NULL) {
        va_list arguments;
        problem->status = status;
        va_start(arguments, format);
        (void)vsnprintf(problem->detail, sizeof problem->detail, format, arguments);
        va_end(arguments);
    }
    return status;
}
