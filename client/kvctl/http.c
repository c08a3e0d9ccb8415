#include "client/kvctl/http.h"

#include <curl/curl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* One call on its way. */
typedef struct exchange {
    const kvs_http_request *request;
    CURL *curl;
    kvs_http_reply reply;
    size_t body_room;
    bool too_large;
    char grpc_status[16]; /* a trailer of gRPC */
} exchange;

kvs_exit kvs_http_open(void)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        return kvs_ctl_fail(KVS_EXIT_LOCAL, "Install libcurl again.", "libcurl does not start");
    }
    return KVS_EXIT_DONE;
}

void kvs_http_close(void)
{
    curl_global_cleanup();
}

void kvs_http_reply_deinit(kvs_http_reply *reply)
{
    free(reply->body);
    *reply = (kvs_http_reply){0};
}

static bool keep_body(exchange *x, const char *data, size_t bytes)
{
    if (bytes > KVS_HTTP_BODY_BYTES_MAX - x->reply.body_bytes) {
        x->too_large = true;
        return false;
    }
    const size_t needed = x->reply.body_bytes + bytes + 1;
    if (needed > x->body_room) {
        const size_t room = needed > 2 * x->body_room ? needed : 2 * x->body_room;
        char *grown = realloc(x->reply.body, room);
        if (grown == NULL) {
            x->too_large = true;
            return false;
        }
        x->reply.body = grown;
        x->body_room = room;
    }
    memcpy(x->reply.body + x->reply.body_bytes, data, bytes);
    x->reply.body_bytes += bytes;
    x->reply.body[x->reply.body_bytes] = '\0';
    return true;
}

static size_t on_body(char *data, size_t size, size_t count, void *context)
{
    exchange *x = context;
    const size_t bytes = size * count;
    long status = 0;
    (void)curl_easy_getinfo(x->curl, CURLINFO_RESPONSE_CODE, &status);
    if (x->request->sink != NULL && status >= 200 && status < 300) {
        return fwrite(data, 1, bytes, x->request->sink);
    }
    return keep_body(x, data, bytes) ? bytes : 0;
}

/* "name: value\r\n" into `out` when it is that name. */
static void read_header(const char *line, size_t bytes, const char *name, char *out,
                        size_t out_bytes)
{
    const size_t name_bytes = strlen(name);
    if (bytes <= name_bytes || strncasecmp(line, name, name_bytes) != 0 ||
        line[name_bytes] != ':') {
        return;
    }
    size_t start = name_bytes + 1;
    size_t end = bytes;
    while (start < end && line[start] == ' ') {
        start++;
    }
    while (end > start && (line[end - 1] == '\r' || line[end - 1] == '\n')) {
        end--;
    }
    if (end - start < out_bytes) {
        memcpy(out, line + start, end - start);
        out[end - start] = '\0';
    }
}

static size_t on_header(char *data, size_t size, size_t count, void *context)
{
    exchange *x = context;
    read_header(data, size * count, "etag", x->reply.etag, sizeof x->reply.etag);
    read_header(data, size * count, "grpc-status", x->grpc_status, sizeof x->grpc_status);
    return size * count;
}

static size_t on_read(char *out, size_t size, size_t count, void *context)
{
    return fread(out, size, count, context);
}

/* A source is read once: a second attempt starts it again where it can. */
static int on_seek(void *context, curl_off_t offset, int origin)
{
    return fseeko(context, offset, origin) == 0 ? CURL_SEEKFUNC_OK : CURL_SEEKFUNC_CANTSEEK;
}

static struct curl_slist *add_header(struct curl_slist *list, const char *name, const char *value)
{
    if (value == NULL) {
        return list;
    }
    char line[512];
    (void)snprintf(line, sizeof line, "%s: %s", name, value);
    struct curl_slist *longer = curl_slist_append(list, line);
    return longer == NULL ? list : longer;
}

static void set_body(CURL *curl, const kvs_http_request *request)
{
    if (request->source != NULL) {
        (void)curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
        (void)curl_easy_setopt(curl, CURLOPT_READFUNCTION, on_read);
        (void)curl_easy_setopt(curl, CURLOPT_READDATA, request->source);
        (void)curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, on_seek);
        (void)curl_easy_setopt(curl, CURLOPT_SEEKDATA, request->source);
        (void)curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)request->source_bytes);
    } else if (request->body != NULL) {
        (void)curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request->body);
        (void)curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_bytes);
    }
    if (strcmp(request->method, "HEAD") == 0) {
        (void)curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    } else {
        (void)curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request->method);
    }
}

static void set_common(CURL *curl, const kvs_ctl *ctl, exchange *x, char *error)
{
    (void)curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error);
    (void)curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    (void)curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, ctl->timeout_seconds);
    /* A value may take longer than the timeout as long as it moves. */
    (void)curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    (void)curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, ctl->timeout_seconds);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEDATA, x);
    (void)curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(curl, CURLOPT_HEADERDATA, x);
}

/* The text of a field of a problem document, or "". */
static const char *problem_text(const json_t *problem, const char *name)
{
    const json_t *value = json_object_get(problem, name);
    return json_is_string(value) ? json_string_value(value) : "";
}

/* A detail ends with the advice of its row, which is printed on a line of its own. */
static int detail_bytes(const char *detail, const char *advice)
{
    const size_t bytes = strlen(detail);
    const size_t tail = strlen(advice);
    if (tail > 0 && bytes > tail + 1 && strcmp(detail + bytes - tail, advice) == 0) {
        return (int)(bytes - tail - 1);
    }
    return INT_MAX;
}

static kvs_exit print_problem(const exchange *x)
{
    json_t *problem = NULL;
    if (x->reply.body != NULL &&
        kvs_json_parse(x->reply.body, x->reply.body_bytes, 1u << 20, &problem, NULL) != KVS_OK) {
        problem = NULL;
    }
    const char *reason = problem_text(problem, "reason");
    if (*reason == '\0') {
        json_decref(problem);
        return kvs_ctl_fail(KVS_EXIT_REFUSED, "Is it a kvstored at --endpoint?",
                            "the server answered with HTTP status %ld", x->reply.status);
    }
    const kvs_status_row *row = kvs_status_find(kvs_status_parse(reason));
    const char *detail = problem_text(problem, "detail");
    const kvs_exit code =
        kvs_ctl_fail(KVS_EXIT_REFUSED, row->advice, "%s: %.*s", reason,
                     detail_bytes(detail, row->advice), *detail != '\0' ? detail : row->title);
    size_t index = 0;
    const json_t *misfit = NULL;
    json_array_foreach (json_object_get(problem, "errors"), index, misfit) {
        if (strcmp(reason, "STATES_MISMATCH") == 0) { /* of others the detail has them all */
            (void)fprintf(stderr, "  %s %s\n", problem_text(misfit, "pointer"),
                          problem_text(misfit, "detail"));
        }
    }
    json_decref(problem);
    return code;
}

static kvs_exit judge(const kvs_ctl *ctl, const exchange *x, CURLcode result, const char *error)
{
    if (x->too_large) {
        return kvs_ctl_fail(KVS_EXIT_LOCAL, "Write the value to a file.",
                            "the reply does not fit in memory");
    }
    if (result == CURLE_WRITE_ERROR) {
        return kvs_ctl_fail(KVS_EXIT_LOCAL, "Is the disk full?", "writing the value failed");
    }
    /* A refusal may come before a body was sent whole; then the refusal counts. */
    if (result != CURLE_OK && x->reply.status < 400) {
        return kvs_ctl_fail(KVS_EXIT_UNREACHABLE,
                            "Is kvstored running there? Name its HTTP address by --endpoint.",
                            "no answer from %s: %s", ctl->endpoint,
                            *error != '\0' ? error : curl_easy_strerror(result));
    }
    if (x->reply.status < 200 || x->reply.status >= 300) {
        return x->request->quiet ? KVS_EXIT_REFUSED : print_problem(x);
    }
    return KVS_EXIT_DONE;
}

kvs_exit kvs_http_call(const kvs_ctl *ctl, const kvs_http_request *request, kvs_http_reply *out)
{
    exchange x = {.request = request, .curl = curl_easy_init()};
    char url[KVS_HTTP_PATH_BYTES + 512];
    char error[CURL_ERROR_SIZE] = "";
    if (x.curl == NULL) {
        return kvs_ctl_fail(KVS_EXIT_LOCAL, "Free some memory.", "no memory");
    }
    const int length = snprintf(url, sizeof url, "http://%s%s", ctl->endpoint, request->path);
    if (length < 0 || (size_t)length >= sizeof url) {
        curl_easy_cleanup(x.curl);
        return kvs_ctl_fail(KVS_EXIT_USAGE, "Keys have at most 256 bytes.", "the name is too long");
    }
    struct curl_slist *headers =
        add_header(NULL, "Accept", request->accept != NULL ? request->accept : "application/json");
    headers = add_header(headers, "Content-Type", request->content_type);
    headers = add_header(headers, "If-Match", request->if_match);
    set_common(x.curl, ctl, &x, error);
    set_body(x.curl, request);
    (void)curl_easy_setopt(x.curl, CURLOPT_URL, url);
    (void)curl_easy_setopt(x.curl, CURLOPT_HTTPHEADER, headers);
    const CURLcode result = curl_easy_perform(x.curl);
    (void)curl_easy_getinfo(x.curl, CURLINFO_RESPONSE_CODE, &x.reply.status);
    const kvs_exit code = judge(ctl, &x, result, error);
    curl_slist_free_all(headers);
    curl_easy_cleanup(x.curl);
    *out = x.reply;
    return code;
}

kvs_exit kvs_http_get_json(const kvs_ctl *ctl, const char *path, json_t **out)
{
    kvs_http_reply reply = {0};
    kvs_problem problem = {0};
    const kvs_http_request request = {.method = "GET", .path = path};
    kvs_exit code = kvs_http_call(ctl, &request, &reply);
    if (code == KVS_EXIT_DONE &&
        kvs_json_parse(reply.body != NULL ? reply.body : "", reply.body_bytes,
                       KVS_HTTP_BODY_BYTES_MAX, out, &problem) != KVS_OK) {
        code = kvs_ctl_fail(KVS_EXIT_REFUSED, "Is it a kvstored at --endpoint?",
                            "the answer to GET %s is no JSON: %s", path, problem.detail);
    }
    kvs_http_reply_deinit(&reply);
    return code;
}

kvs_exit kvs_http_get_pages(const kvs_ctl *ctl, const char *path, const char *name, json_t **out)
{
    char page_path[KVS_HTTP_PATH_BYTES];
    json_t *all = json_array();
    (void)snprintf(page_path, sizeof page_path, "%s", path);
    for (bool more = true; more;) {
        json_t *page = NULL;
        const kvs_exit code = kvs_http_get_json(ctl, page_path, &page);
        if (code != KVS_EXIT_DONE) {
            json_decref(all);
            return code;
        }
        json_t *items = json_object_get(page, name);
        (void)(json_is_array(items) ? json_array_extend(all, items) : 0);
        const json_t *token = json_object_get(page, "next_page_token");
        more = json_is_string(token) && json_string_length(token) > 0;
        if (more) {
            char *encoded = curl_easy_escape(NULL, json_string_value(token), 0);
            const int length = snprintf(page_path, sizeof page_path, "%s&page_token=%s", path,
                                        encoded != NULL ? encoded : "");
            more = encoded != NULL && length > 0 && (size_t)length < sizeof page_path;
            curl_free(encoded);
        }
        json_decref(page);
    }
    *out = all;
    return KVS_EXIT_DONE;
}

kvs_exit kvs_http_path(const kvs_ctl *ctl, char out[KVS_HTTP_PATH_BYTES], const char *rest,
                       const char *name)
{
    char *store = curl_easy_escape(NULL, ctl->store, 0);
    char *encoded = curl_easy_escape(NULL, name != NULL ? name : "", 0);
    const char *hole = strstr(rest, "{}");
    const int before = hole == NULL ? (int)strlen(rest) : (int)(hole - rest);
    int length = -1;
    if (store != NULL && encoded != NULL) {
        length = snprintf(out, KVS_HTTP_PATH_BYTES, "/v1/stores/%s%.*s%s%s", store, before, rest,
                          hole == NULL ? "" : encoded, hole == NULL ? "" : hole + 2);
    }
    curl_free(store);
    curl_free(encoded);
    if (length < 0 || (size_t)length >= KVS_HTTP_PATH_BYTES) {
        return kvs_ctl_fail(KVS_EXIT_USAGE, "Keys have at most 256 bytes.", "the name is too long");
    }
    return KVS_EXIT_DONE;
}

/* A gRPC message is a byte 0 (not compressed), four of length and the message. */
bool kvs_http_grpc_serving(const kvs_ctl *ctl, char *out, size_t out_bytes)
{
    static const char question[5] = {0}; /* HealthCheckRequest of the whole server: empty */
    static const char serving[7] = {0, 0, 0, 0, 2, 8, 1};
    const bool is_unix = strncmp(ctl->grpc_endpoint, "unix:", 5) == 0;
    const kvs_http_request request = {.method = "POST", .body = question, .body_bytes = 5};
    exchange x = {.request = &request, .curl = curl_easy_init()};
    char url[1024];
    char error[CURL_ERROR_SIZE] = "";
    if (x.curl == NULL) {
        (void)snprintf(out, out_bytes, "no memory");
        return false;
    }
    (void)snprintf(url, sizeof url, "http://%s/grpc.health.v1.Health/Check",
                   is_unix ? "localhost" : ctl->grpc_endpoint);
    struct curl_slist *headers = add_header(NULL, "Content-Type", "application/grpc");
    headers = add_header(headers, "TE", "trailers");
    set_common(x.curl, ctl, &x, error);
    set_body(x.curl, &request);
    (void)curl_easy_setopt(x.curl, CURLOPT_TIMEOUT, ctl->timeout_seconds);
    (void)curl_easy_setopt(x.curl, CURLOPT_URL, url);
    (void)curl_easy_setopt(x.curl, CURLOPT_HTTPHEADER, headers);
    (void)curl_easy_setopt(x.curl, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE);
    if (is_unix) {
        (void)curl_easy_setopt(x.curl, CURLOPT_UNIX_SOCKET_PATH, ctl->grpc_endpoint + 5);
    }
    const CURLcode result = curl_easy_perform(x.curl);
    const bool good = result == CURLE_OK && x.reply.body_bytes == sizeof serving &&
                      memcmp(x.reply.body, serving, sizeof serving) == 0;
    if (result != CURLE_OK) {
        (void)snprintf(out, out_bytes, "%s", *error != '\0' ? error : curl_easy_strerror(result));
    } else {
        (void)snprintf(out, out_bytes, good ? "SERVING" : "NOT_SERVING (grpc-status %s)",
                       x.grpc_status);
    }
    curl_slist_free_all(headers);
    curl_easy_cleanup(x.curl);
    kvs_http_reply_deinit(&x.reply);
    return good;
}
