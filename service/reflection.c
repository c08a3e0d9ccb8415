#include "service/door.h"

#include "api/descriptors.h"
#include "service/pb_call.h"
#include "service/proto_bytes.h"

#include <stdlib.h>
#include <string.h>

/* Server reflection, v1 and v1alpha: the same messages under two names. The answers are the bytes
 * of the FileDescriptorSet that was embedded at build time, found by walking it. */

#define REQUEST_BYTES_MAX 4096u
#define NOT_FOUND 5u /* of gRPC */

/* Fields of ServerReflectionRequest and ServerReflectionResponse. */
enum { ASK_FILE = 3, ASK_SYMBOL = 4, ASK_EXTENSION = 5, ASK_EXTENSION_NUMBERS = 6, ASK_LIST = 7 };
enum { TELL_HOST = 1, TELL_REQUEST = 2, TELL_FILES = 4, TELL_SERVICES = 6, TELL_ERROR = 7 };

/* Fields of FileDescriptorProto. */
enum { FILE_NAME = 1, FILE_PACKAGE = 2, FILE_DEPENDENCY = 3 };
enum { FILE_MESSAGE = 4, FILE_ENUM = 5, FILE_SERVICE = 6 };

#define FILES_MAX 64u

static bool equal(kvs_span a, kvs_span b)
{
    return a.bytes == b.bytes && (a.bytes == 0 || memcmp(a.data, b.data, a.bytes) == 0);
}

static bool next_file(kvs_span *rest, kvs_span *file)
{
    kvs_proto_field field;
    if (!kvs_proto_next(rest, &field)) {
        return false;
    }
    *file = field.bytes;
    return true;
}

static kvs_span all_files(void)
{
    return (kvs_span){.data = kvs_descriptors, .bytes = kvs_descriptors_bytes};
}

/* Does the file define "package.Service", "package.Service.Method", "package.Message" or an inner
 * name of one of these? */
static bool defines(kvs_span file, kvs_span symbol)
{
    kvs_span package;
    if (kvs_proto_find(file, FILE_PACKAGE, &package)) {
        if (symbol.bytes <= package.bytes || symbol.data[package.bytes] != '.' ||
            memcmp(symbol.data, package.data, package.bytes) != 0) {
            return false;
        }
        symbol.data += package.bytes + 1;
        symbol.bytes -= package.bytes + 1;
    }
    kvs_proto_field field;
    while (kvs_proto_next(&file, &field)) {
        kvs_span name;
        if ((field.number == FILE_MESSAGE || field.number == FILE_ENUM ||
             field.number == FILE_SERVICE) &&
            kvs_proto_find(field.bytes, 1, &name) && symbol.bytes >= name.bytes &&
            memcmp(symbol.data, name.data, name.bytes) == 0 &&
            (symbol.bytes == name.bytes || symbol.data[name.bytes] == '.')) {
            return true;
        }
    }
    return false;
}

static bool find_file(uint32_t ask, kvs_span what, kvs_span *out)
{
    kvs_span rest = all_files();
    kvs_span file;
    while (next_file(&rest, &file)) {
        kvs_span name;
        bool found = ask == ASK_FILE ? kvs_proto_find(file, FILE_NAME, &name) && equal(name, what)
                                     : defines(file, what);
        if (found) {
            *out = file;
            return true;
        }
    }
    return false;
}

static void write_services(kvs_proto_writer *writer)
{
    kvs_span rest = all_files();
    kvs_span file;
    while (next_file(&rest, &file)) {
        kvs_span package;
        (void)kvs_proto_find(file, FILE_PACKAGE, &package);
        kvs_proto_field field;
        while (kvs_proto_next(&file, &field)) {
            kvs_span name;
            if (field.number != FILE_SERVICE || !kvs_proto_find(field.bytes, 1, &name)) {
                continue;
            }
            char full[512];
            int length = snprintf(full, sizeof(full), "%.*s%s%.*s", (int)package.bytes,
                                  (const char *)package.data, package.bytes > 0 ? "." : "",
                                  (int)name.bytes, (const char *)name.data);
            if (length > 0 && (size_t)length < sizeof(full)) {
                kvs_proto_write_open(writer, 1, kvs_proto_size(1, (size_t)length));
                kvs_proto_write_bytes(writer, 1, full, (size_t)length);
            }
        }
    }
}

static size_t services_size(void)
{
    kvs_proto_writer count = {.bytes = NULL};
    write_services(&count);
    return count.used;
}

/* The file and, after it, all that it imports: whoever asks gets it in one answer. */
static size_t collect(kvs_span file, kvs_span *files)
{
    size_t count = 0;
    files[count++] = file;
    for (size_t at = 0; at < count; at++) {
        kvs_span rest = files[at];
        kvs_proto_field field;
        while (kvs_proto_next(&rest, &field)) {
            kvs_span import;
            if (field.number != FILE_DEPENDENCY || !find_file(ASK_FILE, field.bytes, &import)) {
                continue;
            }
            bool known = false;
            for (size_t i = 0; i < count; i++) {
                known = known || files[i].data == import.data;
            }
            if (!known && count < FILES_MAX) {
                files[count++] = import;
            }
        }
    }
    return count;
}

static void write_error(kvs_proto_writer *writer)
{
    static const char text[] = "not found";
    kvs_proto_writer size = {.bytes = NULL};
    kvs_proto_write_number(&size, 1, NOT_FOUND);
    kvs_proto_write_bytes(&size, 2, text, sizeof(text) - 1);
    kvs_proto_write_open(writer, TELL_ERROR, size.used);
    kvs_proto_write_number(writer, 1, NOT_FOUND);
    kvs_proto_write_bytes(writer, 2, text, sizeof(text) - 1);
}

static void write_answer(kvs_proto_writer *writer, kvs_span request)
{
    kvs_span host;
    if (kvs_proto_find(request, 1, &host)) {
        kvs_proto_write_bytes(writer, TELL_HOST, host.data, host.bytes);
    }
    kvs_proto_write_bytes(writer, TELL_REQUEST, request.data, request.bytes);
    kvs_span what;
    kvs_span file;
    uint32_t ask = kvs_proto_find(request, ASK_FILE, &what) ? ASK_FILE : ASK_SYMBOL;
    if (kvs_proto_find(request, ASK_LIST, &what)) {
        kvs_proto_write_open(writer, TELL_SERVICES, services_size());
        write_services(writer);
    } else if (kvs_proto_find(request, ask, &what) && find_file(ask, what, &file)) {
        kvs_span files[FILES_MAX];
        size_t count = collect(file, files);
        size_t bytes = 0;
        for (size_t i = 0; i < count; i++) {
            bytes += kvs_proto_size(1, files[i].bytes);
        }
        kvs_proto_write_open(writer, TELL_FILES, bytes);
        for (size_t i = 0; i < count; i++) {
            kvs_proto_write_bytes(writer, 1, files[i].data, files[i].bytes);
        }
    } else {
        write_error(writer);
    }
}

static kvs_status answer(kvs_call *call, const kvs_message *message, kvs_problem *problem)
{
    uint8_t bytes[REQUEST_BYTES_MAX];
    if (message->bytes > sizeof(bytes)) {
        return kvs_problem_set(problem, KVS_TOO_LARGE, "a reflection request may have %u bytes",
                               REQUEST_BYTES_MAX);
    }
    kvs_payload payload = {
        .spans = message->spans, .count = message->span_count, .bytes = message->bytes};
    kvs_payload_gather(&payload, bytes);
    kvs_span request = {.data = bytes, .bytes = message->bytes};
    kvs_proto_writer size = {.bytes = NULL};
    write_answer(&size, request);
    kvs_proto_writer writer = {.bytes = malloc(size.used), .size = size.used};
    if (writer.bytes == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for an answer");
    }
    write_answer(&writer, request);
    kvs_call_send(call, writer.bytes, writer.used);
    free(writer.bytes);
    return KVS_OK;
}

/* One question at a time: the slot is given back once the answer has left. */
typedef struct reflection_state {
    kvs_message *asked;
} reflection_state;

static void reflection_received(kvs_call *call, kvs_message *message, uint64_t now_ns)
{
    (void)now_ns;
    reflection_state *state = kvs_call_state(call);
    state->asked = message;
    kvs_problem problem;
    if (answer(call, message, &problem) != KVS_OK) {
        kvs_call_finish(call, &problem);
    }
}

static void reflection_sent(kvs_call *call, uint64_t cookie, uint64_t now_ns)
{
    (void)cookie;
    (void)now_ns;
    reflection_state *state = kvs_call_state(call);
    if (state->asked != NULL) {
        kvs_message *message = state->asked;
        state->asked = NULL;
        kvs_message_release(call, message);
    }
}

#define REFLECTION_METHOD(version)                                                                 \
    {                                                                                              \
        .path = "/grpc.reflection." version ".ServerReflection/ServerReflectionInfo", .slots = 1,  \
        .streaming = true, .lasting = true, .state_bytes = sizeof(reflection_state),               \
        .received = reflection_received, .sent = reflection_sent,                                  \
    }

static const kvs_method v1_method = REFLECTION_METHOD("v1");
static const kvs_method v1alpha_method = REFLECTION_METHOD("v1alpha");

const kvs_method *const kvs_reflection_methods[] = {&v1_method, &v1alpha_method, NULL};
