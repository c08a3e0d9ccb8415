#include "service/rest.h"

#include "base/clock.h"
#include "service/address.h"
#include "service/exchange.h"

#include <microhttpd.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

/* Threads cost little while they wait, but a flood of them is no use to an administrator. */
#define CONNECTIONS_MAX 256u
#define CONNECTION_BYTES (32 * KVS_KIB)
#define STACK_BYTES (1 * KVS_MIB)
#define IDLE_SECONDS 10u
/* Of a value's bytes, at a time. */
#define BLOCK_BYTES (256 * KVS_KIB)
#define SLOW_READER_NS (30 * KVS_SECOND)
/* Whoever reads or sends for longer than the slow reader's time must have kept up this pace. */
#define BYTES_PER_SECOND_MIN (64 * KVS_KIB)
/* The rest of a refused body that is no file is read, so that the reply arrives, up to this. */
#define DISCARD_BYTES_MAX (4 * KVS_MIB)
/* What a stop allows for replies on their way, those of stopped operations among them. */
#define LAST_REPLIES_NS (1 * KVS_SECOND)

struct kvs_rest {
    struct MHD_Daemon *daemon;
    _Atomic uint32_t under_way; /* requests whose reply has not left yet */
    kvs_rest_world world;
    uint64_t slow_reader_ns;
    char address[KVS_ADDRESS_BYTES];
    char *hosts;
};

/* ------------------------------------------------------------------ sending a value */

/* A value on its way out; the response owns it. */
typedef struct outflow {
    kvs_admin_value *value;
    uint64_t first;
    uint64_t started_ns;
    uint64_t slow_reader_ns;
} outflow;

static bool too_slow(uint64_t started_ns, uint64_t allowed_ns, uint64_t bytes)
{
    uint64_t took_ns = kvs_clock_now_ns() - started_ns;
    return took_ns > allowed_ns && bytes / BYTES_PER_SECOND_MIN < took_ns / KVS_SECOND;
}

static ssize_t read_value(void *context, uint64_t position, char *out, size_t room)
{
    const outflow *flow = context;
    if (too_slow(flow->started_ns, flow->slow_reader_ns, position)) {
        return MHD_CONTENT_READER_END_WITH_ERROR; /* it pins the bytes of a version */
    }
    kvs_span span = kvs_admin_value_span(flow->value, flow->first + position);
    size_t bytes = span.bytes < room ? span.bytes : room;
    memcpy(out, span.data, bytes);
    return (ssize_t)bytes;
}

static void free_outflow(void *context)
{
    outflow *flow = context;
    kvs_admin_value_close(flow->value);
    free(flow);
}

/* Moves the reply's value into a response. */
static struct MHD_Response *value_response(const kvs_rest *rest, kvs_http_reply *reply)
{
    outflow *flow = malloc(sizeof *flow);
    if (flow == NULL) {
        return NULL;
    }
    flow->value = reply->value;
    flow->first = reply->value_first;
    flow->started_ns = kvs_clock_now_ns();
    flow->slow_reader_ns = rest->slow_reader_ns;
    struct MHD_Response *response = MHD_create_response_from_callback(
        reply->value_bytes, BLOCK_BYTES, read_value, flow, free_outflow);
    if (response == NULL) {
        free(flow);
    } else {
        reply->value = NULL;
    }
    return response;
}

/* ------------------------------------------------------------------ replies */

static enum MHD_Result send_reply(const kvs_rest *rest, struct MHD_Connection *connection,
                                  kvs_exchange *exchange, bool last)
{
    kvs_http_reply *reply = &exchange->reply;
    struct MHD_Response *response;
    if (reply->value != NULL && reply->value_bytes > 0) {
        response = value_response(rest, reply);
    } else {
        response =
            MHD_create_response_from_buffer(reply->text_bytes, reply->text, MHD_RESPMEM_MUST_FREE);
        reply->text = response != NULL ? NULL : reply->text;
    }
    if (response == NULL) {
        return MHD_NO;
    }
    for (size_t i = 0; i < reply->header_count; i++) {
        (void)MHD_add_response_header(response, reply->headers[i].name, reply->headers[i].value);
    }
    (void)MHD_add_response_header(response, "Server", "kvstored");
    (void)MHD_add_response_header(response, "X-Request-Id", exchange->request_id);
    (void)MHD_add_response_header(response, "Cache-Control", "no-store");
    (void)MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    (void)MHD_add_response_header(response, "Content-Security-Policy",
                                  "default-src 'none'; frame-ancestors 'none'");
    if (last) {
        (void)MHD_add_response_header(response, "Connection", "close");
    }
    enum MHD_Result result = MHD_queue_response(connection, (unsigned)reply->status, response);
    MHD_destroy_response(response);
    return result;
}

/* ------------------------------------------------------------------ requests */

static const char *find_header(void *context, const char *name)
{
    return MHD_lookup_connection_value(context, MHD_HEADER_KIND, name);
}

/* Headers that decide where a request ends. */
typedef struct framing {
    unsigned hosts, lengths, encodings;
} framing;

static enum MHD_Result count_header(void *context, enum MHD_ValueKind kind, const char *name,
                                    const char *value)
{
    framing *counts = context;
    (void)kind;
    counts->hosts += strcasecmp(name, "Host") == 0;
    if (strcasecmp(name, "Content-Length") == 0) {
        /* What is not a number counts as two: libmicrohttpd would take "-1" for no body. */
        bool number =
            value != NULL && value[0] != '\0' && strspn(value, "0123456789") == strlen(value);
        counts->lengths += number ? 1 : 2;
    }
    counts->encodings += strcasecmp(name, "Transfer-Encoding") == 0;
    return MHD_YES;
}

/* Can a proxy before us and we ourselves read the request's end differently? */
static bool ambiguous(const framing *counts)
{
    return counts->hosts > 1 || counts->lengths + counts->encodings > 1;
}

/* The first call for a request: the headers are there. */
static enum MHD_Result begin(const kvs_rest *rest, struct MHD_Connection *connection,
                             kvs_exchange *exchange, const char *method)
{
    framing counts = {0, 0, 0};
    (void)MHD_get_connection_values(connection, MHD_HEADER_KIND, count_header, &counts);
    bool unclear = ambiguous(&counts);
    if (unclear) {
        exchange->begun = true;
        (void)kvs_exchange_refuse(exchange, KVS_INVALID_FRAME,
                                  "Host, Content-Length and Transfer-Encoding contradict");
    } else {
        kvs_exchange_begin(exchange, method, find_header, connection);
    }
    /* A reply before the body has come ends the connection, and is lost to a client that goes on
     * sending: a file is read to its end first, unless it is absurd. Without a body the reply can
     * wait its turn. */
    bool absurd =
        exchange->announced_bytes > KVS_UPLOAD_BYTES_MAX && exchange->announced_bytes != UINT64_MAX;
    bool file = kvs_exchange_takes_file(exchange) && !exchange->waits_to_send && !absurd;
    bool reads = file || counts.lengths + counts.encodings == 0;
    exchange->started_ns = kvs_clock_now_ns();
    if (exchange->refused && (unclear || !reads)) {
        kvs_exchange_run(exchange);
        return send_reply(rest, connection, exchange, unclear);
    }
    return MHD_YES;
}

/* The last call: the body is there. */
static enum MHD_Result run(const kvs_rest *rest, struct MHD_Connection *connection,
                           kvs_exchange *exchange)
{
    /* libmicrohttpd counts the time of the operation as idle, unless told otherwise. */
    (void)MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
    kvs_exchange_run(exchange);
    (void)MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, IDLE_SECONDS);
    return send_reply(rest, connection, exchange, false);
}

static enum MHD_Result handle(void *context, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *data,
                              size_t *bytes, void **request)
{
    const kvs_rest *rest = context;
    kvs_exchange *exchange = *request;
    (void)url;
    (void)version;
    if (exchange == NULL) {
        return MHD_NO; /* there was no memory */
    }
    if (!exchange->begun) {
        return begin(rest, connection, exchange, method);
    }
    if (*bytes == 0) {
        return run(rest, connection, exchange);
    }
    exchange->received_bytes += *bytes;
    if (!exchange->refused) {
        kvs_exchange_body(exchange, data, *bytes);
    } else {
        exchange->discarded_bytes += *bytes;
    }
    *bytes = 0;
    bool over = !kvs_exchange_takes_file(exchange) && exchange->discarded_bytes > DISCARD_BYTES_MAX;
    bool stalled = too_slow(exchange->started_ns, rest->slow_reader_ns, exchange->received_bytes);
    return over || stalled ? MHD_NO : MHD_YES;
}

/* A client that has closed its side of the connection. */
static bool has_hung_up(void *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct pollfd socket = {.fd = info != NULL ? info->connect_fd : -1, .events = POLLRDHUP};
    return poll(&socket, 1, 0) > 0;
}

/* The target as it came, before libmicrohttpd decodes it: a key may hold an encoded slash. */
static void *open_exchange(void *context, const char *target, struct MHD_Connection *connection)
{
    kvs_rest *rest = context;
    kvs_exchange *exchange = kvs_exchange_open(&rest->world, target);
    if (exchange != NULL) {
        exchange->caller = (kvs_caller){.gone = has_hung_up, .context = connection};
        (void)atomic_fetch_add_explicit(&rest->under_way, 1, memory_order_relaxed);
    }
    return exchange;
}

static void close_exchange(void *context, struct MHD_Connection *connection, void **request,
                           enum MHD_RequestTerminationCode code)
{
    kvs_rest *rest = context;
    (void)connection;
    (void)code;
    if (*request != NULL) {
        kvs_exchange_close(*request);
        *request = NULL;
        (void)atomic_fetch_sub_explicit(&rest->under_way, 1, memory_order_relaxed);
    }
}

/* ------------------------------------------------------------------ open, close */

static struct MHD_Daemon *start(kvs_rest *rest, const kvs_rest_options *options, int listener)
{
    unsigned most = options->connections_max;
    most = most == 0 || most > CONNECTIONS_MAX ? CONNECTIONS_MAX : most;
    return MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL |
            MHD_USE_ITC,
        0, NULL, NULL, handle, rest, MHD_OPTION_LISTEN_SOCKET, listener,
        MHD_OPTION_URI_LOG_CALLBACK, open_exchange, rest, MHD_OPTION_NOTIFY_COMPLETED,
        close_exchange, rest, MHD_OPTION_CONNECTION_LIMIT, most, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
        (unsigned)options->connections_per_ip_max, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_BYTES, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS,
        MHD_OPTION_THREAD_STACK_SIZE, (size_t)STACK_BYTES, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
}

kvs_status kvs_rest_open(const kvs_rest_options *options, kvs_rest **out, kvs_problem *problem)
{
    kvs_address address;
    int listener = -1;
    kvs_rest *rest = calloc(1, sizeof *rest);
    if (rest == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the REST door");
    }
    rest->hosts = strdup(options->hosts != NULL ? options->hosts : "");
    rest->slow_reader_ns = options->slow_reader_ns != 0 ? options->slow_reader_ns : SLOW_READER_NS;
    kvs_status status = rest->hosts != NULL ? kvs_address_parse(options->address, &address, problem)
                                            : kvs_problem_set(problem, KVS_NO_MEMORY,
                                                              "no memory for the REST door");
    if (status == KVS_OK) {
        status = kvs_address_listen(&address, &listener, rest->address, problem);
    }
    if (status == KVS_OK) {
        rest->world = (kvs_rest_world){
            .engine = options->engine,
            .admin = options->admin,
            .grpc = options->grpc,
            .http_address = rest->address,
            .hosts = rest->hosts,
        };
        rest->daemon = start(rest, options, listener);
        if (rest->daemon == NULL) {
            (void)close(listener);
            status = kvs_problem_set(problem, KVS_IO_ERROR, "the HTTP server does not start");
        }
    }
    if (status != KVS_OK) {
        free(rest->hosts);
        free(rest);
        return status;
    }
    *out = rest;
    return KVS_OK;
}

const char *kvs_rest_address(const kvs_rest *rest)
{
    return rest->address;
}

/* Accepts no more and lets the replies that are due leave. */
static void finish_replies(kvs_rest *rest)
{
    const struct timespec pause = {.tv_sec = 0, .tv_nsec = 5000000};
    uint64_t end_ns = kvs_clock_now_ns() + LAST_REPLIES_NS;
    MHD_socket listener = MHD_quiesce_daemon(rest->daemon);
    if (listener != MHD_INVALID_SOCKET) {
        (void)close(listener);
    }
    while (atomic_load_explicit(&rest->under_way, memory_order_relaxed) > 0 &&
           kvs_clock_now_ns() < end_ns) {
        (void)nanosleep(&pause, NULL);
    }
}

void kvs_rest_close(kvs_rest *rest)
{
    if (rest != NULL) {
        finish_replies(rest);
        MHD_stop_daemon(rest->daemon);
        free(rest->hosts);
        free(rest);
    }
}
