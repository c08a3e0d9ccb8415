#include "service/status_details.h"

#include "base/check.h"
#include "service/proto_bytes.h"

#include <stdio.h>
#include <string.h>

static const char info_type[] = "type.googleapis.com/google.rpc.ErrorInfo";
static const char domain[] = "kvstored";

size_t kvs_status_text(const kvs_problem *problem, char out[KVS_STATUS_TEXT_BYTES])
{
    const kvs_status_row *row = kvs_status_find(problem->status);
    const char *what = problem->detail[0] != '\0' ? problem->detail : row->title;
    size_t length = strlen(what);
    const char *stop = length > 0 && what[length - 1] == '.' ? "" : ".";
    int written = snprintf(out, KVS_STATUS_TEXT_BYTES, "%s%s%s%s", what, stop,
                           row->advice[0] != '\0' ? " " : "", row->advice);
    KVS_CHECK(written >= 0 && (size_t)written < KVS_STATUS_TEXT_BYTES);
    return (size_t)written;
}

size_t kvs_status_details(const kvs_problem *problem, const char *text,
                          uint8_t out[KVS_STATUS_DETAILS_BYTES])
{
    const kvs_status_row *row = kvs_status_find(problem->status);
    size_t reason = strlen(row->reason);
    size_t info = kvs_proto_size(1, reason) + kvs_proto_size(2, sizeof(domain) - 1);
    size_t any = kvs_proto_size(1, sizeof(info_type) - 1) + kvs_proto_size(2, info);
    kvs_proto_writer writer = {.bytes = out, .size = KVS_STATUS_DETAILS_BYTES};
    kvs_proto_write_number(&writer, 1, (uint64_t)row->grpc_code);
    kvs_proto_write_bytes(&writer, 2, text, strlen(text));
    kvs_proto_write_open(&writer, 3, any);
    kvs_proto_write_bytes(&writer, 1, info_type, sizeof(info_type) - 1);
    kvs_proto_write_open(&writer, 2, info);
    kvs_proto_write_bytes(&writer, 1, row->reason, reason);
    kvs_proto_write_bytes(&writer, 2, domain, sizeof(domain) - 1);
    KVS_CHECK(writer.used <= writer.size);
    return writer.used;
}
