#include "service/door.h"

#include "service/pb_call.h"
#include "service/proto_bytes.h"

#include <string.h>

#define REQUEST_BYTES_MAX 1024u

/* Numbers of grpc.health.v1.HealthCheckResponse. */
typedef enum serving_status { SERVING = 1, NOT_SERVING = 2, SERVICE_UNKNOWN = 3 } serving_status;

static const char *const services[] = {"", "kvstored.v1.KVStore", "kvstored.v1.Admin"};

static serving_status state_of(kvs_call *call, kvs_span service)
{
    kvs_door *door = kvs_call_context(call);
    for (size_t i = 0; i < sizeof(services) / sizeof(services[0]); i++) {
        if (service.bytes == strlen(services[i]) &&
            (service.bytes == 0 || memcmp(service.data, services[i], service.bytes) == 0)) {
            return atomic_load_explicit(&door->draining, memory_order_acquire) ? NOT_SERVING
                                                                               : SERVING;
        }
    }
    return SERVICE_UNKNOWN;
}

static void send_state(kvs_call *call, serving_status serving)
{
    uint8_t bytes[2] = {1 << 3, (uint8_t)serving}; /* field 1, varint */
    kvs_call_send(call, bytes, sizeof(bytes));
}

/* Gathers a short request; false after finishing the call. */
static bool gather(kvs_call *call, const kvs_message *message, uint8_t *out, kvs_span *service)
{
    kvs_problem problem;
    if (message->bytes > REQUEST_BYTES_MAX) {
        (void)kvs_problem_set(&problem, KVS_TOO_LARGE, "a health request may have %u bytes",
                              REQUEST_BYTES_MAX);
        kvs_call_finish(call, &problem);
        return false;
    }
    kvs_payload payload = {
        .spans = message->spans, .count = message->span_count, .bytes = message->bytes};
    kvs_payload_gather(&payload, out);
    (void)kvs_proto_find((kvs_span){.data = out, .bytes = message->bytes}, 1, service);
    return true;
}

static void check_received(kvs_call *call, kvs_message *message, uint64_t now_ns)
{
    (void)now_ns;
    uint8_t bytes[REQUEST_BYTES_MAX];
    kvs_span service;
    if (!gather(call, message, bytes, &service)) {
        return;
    }
    serving_status serving = state_of(call, service);
    if (serving == SERVICE_UNKNOWN) {
        kvs_problem problem;
        (void)kvs_problem_set(&problem, KVS_ROUTE_NOT_FOUND, "no such service");
        kvs_call_finish(call, &problem);
        return;
    }
    send_state(call, serving);
    kvs_call_finish(call, NULL);
}

/* ------------------------------------------------------------------ Watch */

typedef struct watch_state {
    kvs_subscriber subscriber; /* first */
    uint8_t request[REQUEST_BYTES_MAX];
    kvs_span service;
    serving_status told; /* ticking thread only, once subscribed */
} watch_state;

static void watch_look(kvs_subscriber *subscriber, uint64_t now_ns)
{
    (void)now_ns;
    watch_state *state = (watch_state *)(void *)subscriber;
    serving_status serving = state_of(subscriber->call, state->service);
    if (serving != state->told) {
        state->told = serving;
        send_state(subscriber->call, serving);
    }
}

static void watch_received(kvs_call *call, kvs_message *message, uint64_t now_ns)
{
    (void)now_ns;
    watch_state *state = kvs_call_state(call);
    if (!gather(call, message, state->request, &state->service)) {
        return;
    }
    state->subscriber.call = call;
    state->subscriber.look = watch_look;
    state->told = state_of(call, state->service);
    send_state(call, state->told);
    kvs_door_subscribe(kvs_call_context(call), &state->subscriber);
}

static void watch_closed(kvs_call *call, uint64_t now_ns)
{
    (void)now_ns;
    watch_state *state = kvs_call_state(call);
    kvs_door_unsubscribe(kvs_call_context(call), &state->subscriber);
}

static const kvs_method check_method = {
    .path = "/grpc.health.v1.Health/Check", .slots = 1, .received = check_received};

static const kvs_method watch_method = {.path = "/grpc.health.v1.Health/Watch",
                                        .slots = 1,
                                        .lasting = true,
                                        .state_bytes = sizeof(watch_state),
                                        .received = watch_received,
                                        .closed = watch_closed};

const kvs_method *const kvs_health_methods[] = {&check_method, &watch_method, NULL};
