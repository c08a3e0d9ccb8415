/* kvctl get, put: one value, as text, npy, safetensors or raw bytes. */
#include "client/kvctl/http.h"
#include "client/kvctl/numbers.h"
#include "client/kvctl/table.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What a key is, from GET .../keys/{key}. */
typedef struct key_info {
    kvs_dtype dtype;
    kvs_shape shape;
} key_info;

static bool ends_in(const char *text, const char *ending)
{
    const size_t text_bytes = strlen(text);
    const size_t ending_bytes = strlen(ending);
    return text_bytes >= ending_bytes && strcmp(text + text_bytes - ending_bytes, ending) == 0;
}

static kvs_exit read_key(const kvs_ctl *ctl, const char *key, key_info *out)
{
    char path[KVS_HTTP_PATH_BYTES];
    json_t *reply = NULL;
    size_t index = 0;
    const json_t *size = NULL;
    kvs_exit code = kvs_http_path(ctl, path, "/keys/{}", key);
    if (code == KVS_EXIT_DONE) {
        code = kvs_http_get_json(ctl, path, &reply);
    }
    if (code != KVS_EXIT_DONE) {
        return code;
    }
    *out = (key_info){.dtype = kvs_dtype_parse(kvs_field_text(reply, "dtype"))};
    json_array_foreach (json_object_get(reply, "shape"), index, size) {
        if (out->shape.rank < KVS_DIMENSIONS_MAX) {
            out->shape.size[out->shape.rank++] = json_is_string(size)
                                                     ? strtoull(json_string_value(size), NULL, 10)
                                                     : (uint64_t)json_integer_value(size);
        }
    }
    json_decref(reply);
    return KVS_EXIT_DONE;
}

static kvs_exit fetch(const kvs_ctl *ctl, const char *key, const char *format, FILE *sink,
                      kvs_http_reply *reply)
{
    char rest[64];
    char path[KVS_HTTP_PATH_BYTES];
    (void)snprintf(rest, sizeof rest, "/keys/{}/value?format=%s", format);
    const kvs_exit code = kvs_http_path(ctl, path, rest, key);
    const kvs_http_request request = {.method = "GET", .path = path, .accept = "*/*", .sink = sink};
    return code == KVS_EXIT_DONE ? kvs_http_call(ctl, &request, reply) : code;
}

/* The bytes of a format to `file`, or to stdout when it is NULL. A failure leaves no file behind.
 */
static kvs_exit get_bytes(const kvs_ctl *ctl, const char *key, const char *format, const char *file)
{
    kvs_http_reply reply = {0};
    FILE *sink = file == NULL ? stdout : fopen(file, "wb");
    if (sink == NULL) {
        return kvs_ctl_fail(KVS_EXIT_LOCAL, "Name a file that can be written.",
                            "cannot write %s: %s", file, strerror(errno));
    }
    if (file == NULL && isatty(STDOUT_FILENO) == 1) {
        return kvs_ctl_fail(KVS_EXIT_USAGE, "Name a file, or redirect stdout.",
                            "bytes are not written to a terminal");
    }
    kvs_exit code = fetch(ctl, key, format, sink, &reply);
    if (file != NULL && fclose(sink) != 0 && code == KVS_EXIT_DONE) {
        code = kvs_ctl_fail(KVS_EXIT_LOCAL, "Is the disk full?", "writing %s failed", file);
    }
    if (file != NULL && code != KVS_EXIT_DONE) {
        (void)unlink(file);
    } else if (file != NULL) {
        (void)fprintf(stderr, "%s: version %s, in %s\n", key, reply.etag, file);
    }
    kvs_http_reply_deinit(&reply);
    return code;
}

static void print_json_value(const char *key, const key_info *info, const kvs_http_reply *reply,
                             uint64_t elements)
{
    char text[64];
    json_t *name = json_string(key);
    char *quoted = json_dumps(name, JSON_ENCODE_ANY);
    (void)printf("{\"key\": %s, \"dtype\": \"%s\", \"shape\": [", quoted != NULL ? quoted : "null",
                 kvs_dtype_name(info->dtype));
    for (uint32_t i = 0; i < info->shape.rank; i++) {
        (void)printf("%s%" PRIu64, i == 0 ? "" : ", ", info->shape.size[i]);
    }
    (void)printf("], \"version\": %s, \"values\": [", reply->etag[0] == '"' ? reply->etag : "null");
    for (uint64_t i = 0; i < elements; i++) {
        kvs_number_print(info->dtype,
                         (const uint8_t *)reply->body + i * kvs_dtype_bytes(info->dtype), text);
        /* JSON knows neither inf nor nan. */
        const bool finite = strspn(text, "-+.0123456789e") == strlen(text);
        (void)printf("%s%s", i == 0 ? "" : ", ", finite ? text : "null");
    }
    (void)printf("]}\n");
    free(quoted);
    json_decref(name);
}

static kvs_exit get_numbers(const kvs_ctl *ctl, const char *key, bool json, const char *file)
{
    key_info info;
    kvs_http_reply reply = {0};
    uint64_t elements = 0;
    kvs_exit code = read_key(ctl, key, &info);
    if (code == KVS_EXIT_DONE) {
        code = fetch(ctl, key, "raw", NULL, &reply);
    }
    if (code == KVS_EXIT_DONE &&
        (!kvs_shape_elements(&info.shape, &elements) ||
         elements * kvs_dtype_bytes(info.dtype) != reply.body_bytes || info.dtype == 0)) {
        code = kvs_ctl_fail(KVS_EXIT_REFUSED, "Was the store created again meanwhile? Repeat.",
                            "%zu bytes came for the key %s, which do not fit its shape",
                            reply.body_bytes, key);
    }
    if (code == KVS_EXIT_DONE && json) {
        print_json_value(key, &info, &reply, elements);
    } else if (code == KVS_EXIT_DONE) {
        FILE *out = file == NULL ? stdout : fopen(file, "w");
        if (out == NULL) {
            code = kvs_ctl_fail(KVS_EXIT_LOCAL, "Name a file that can be written.",
                                "cannot write %s: %s", file, strerror(errno));
        } else {
            kvs_numbers_print(out, info.dtype, &info.shape, (const uint8_t *)reply.body);
        }
        if (out != NULL && file != NULL && fclose(out) != 0) {
            code = kvs_ctl_fail(KVS_EXIT_LOCAL, "Is the disk full?", "writing %s failed", file);
        }
    }
    kvs_http_reply_deinit(&reply);
    return code;
}

/* A format that goes to and comes from the server as it is; NULL: none of those. */
static const char *media_type_of(const char *format)
{
    static const char *const types[][2] = {{"npy", "application/x-npy"},
                                           {"raw", "application/octet-stream"},
                                           {"safetensors", "application/vnd.safetensors"}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(format, types[i][0]) == 0) {
            return types[i][1];
        }
    }
    return NULL;
}

/* What a file's name asks for; a terminal gets text. */
static const char *format_of(const char *file)
{
    if (file == NULL || ends_in(file, ".txt")) {
        return "text";
    }
    if (ends_in(file, ".safetensors")) {
        return "safetensors";
    }
    return ends_in(file, ".npy") ? "npy" : "raw";
}

kvs_exit kvs_ctl_get(const kvs_ctl *ctl, int count, char **words)
{
    static const char *const outputs[] = {"text", "json", "npy", "raw", "safetensors"};
    const char *file = count > 1 && strcmp(words[1], "-") != 0 ? words[1] : NULL;
    const char *output = ctl->output != NULL ? ctl->output : ctl->format;
    output = output != NULL ? output : format_of(file);
    if (media_type_of(output) != NULL) {
        return get_bytes(ctl, words[0], output, file);
    }
    if (strcmp(output, "text") == 0 || strcmp(output, "table") == 0) {
        return get_numbers(ctl, words[0], false, file);
    }
    if (strcmp(output, "json") == 0 && file == NULL) {
        return get_numbers(ctl, words[0], true, NULL);
    }
    return kvs_ctl_fail(
        KVS_EXIT_USAGE,
        kvs_ctl_suggest(output, outputs, 5, "Use text, json, npy, safetensors or raw."),
        "get has no output %s%s", output, file != NULL ? " into a file" : "");
}

/* ------------------------------------------------------------------ put */

/* Where the bytes of a put come from. */
typedef struct put_source {
    FILE *file;    /* streamed when numbers is NULL */
    int64_t bytes; /* of the file; -1: not known */
    uint8_t *numbers;
    uint64_t elements;
    char shape[512]; /* of the query; "" and !has_shape: none */
    bool has_shape;
} put_source;

static kvs_exit check_shape(const kvs_ctl *ctl, put_source *source)
{
    kvs_shape shape;
    if (ctl->shape == NULL) {
        return KVS_EXIT_DONE;
    }
    if (!kvs_shape_parse(ctl->shape, &shape)) {
        return kvs_ctl_fail(KVS_EXIT_USAGE, "Write it like --shape 2,3.", "%s is no shape",
                            ctl->shape);
    }
    size_t used = 0;
    for (uint32_t i = 0; i < shape.rank && used < sizeof source->shape - 24; i++) {
        used += (size_t)snprintf(source->shape + used, sizeof source->shape - used, "%s%" PRIu64,
                                 i == 0 ? "" : ",", shape.size[i]);
    }
    source->has_shape = true;
    return KVS_EXIT_DONE;
}

static kvs_exit read_text(put_source *source, kvs_dtype dtype)
{
    kvs_problem problem = {0};
    if (kvs_numbers_read(source->file, dtype, &source->numbers, &source->elements, &problem) !=
        KVS_OK) {
        return kvs_ctl_fail(KVS_EXIT_LOCAL, "Correct the file, or name its --dtype.", "%s",
                            problem.detail);
    }
    if (!source->has_shape) {
        (void)snprintf(source->shape, sizeof source->shape, "%" PRIu64, source->elements);
        source->has_shape = true;
    }
    return KVS_EXIT_DONE;
}

static kvs_exit open_source(const char *name, put_source *source)
{
    struct stat info;
    source->file = strcmp(name, "-") == 0 ? stdin : fopen(name, "rb");
    if (source->file == NULL || fstat(fileno(source->file), &info) != 0) {
        return kvs_ctl_fail(KVS_EXIT_LOCAL, "Name a file that can be read, or - for stdin.",
                            "cannot open %s: %s", name, strerror(errno));
    }
    source->bytes = S_ISREG(info.st_mode) ? (int64_t)info.st_size : -1;
    return KVS_EXIT_DONE;
}

/* "/keys/{}/value?format=..." with what raw bytes need to be said of them. */
static void write_query(const kvs_ctl *ctl, const char *format, const put_source *source, char *out,
                        size_t out_bytes)
{
    const bool raw = strcmp(format, "raw") == 0;
    const char *dtype = ctl->dtype;
    if (dtype == NULL && source->numbers != NULL) {
        dtype = "f32";
    }
    (void)snprintf(out, out_bytes, "/keys/{}/value?format=%s%s%s%s%s", format,
                   raw && dtype != NULL ? "&dtype=" : "", raw && dtype != NULL ? dtype : "",
                   raw && source->has_shape ? "&shape=" : "", raw ? source->shape : "");
}

static kvs_exit send_value(const kvs_ctl *ctl, const char *key, const char *format,
                           const put_source *source)
{
    char rest[640];
    char path[KVS_HTTP_PATH_BYTES];
    kvs_http_reply reply = {0};
    const kvs_dtype dtype = ctl->dtype != NULL ? kvs_dtype_parse(ctl->dtype) : KVS_F32;
    write_query(ctl, format, source, rest, sizeof rest);
    kvs_exit code = kvs_http_path(ctl, path, rest, key);
    if (code != KVS_EXIT_DONE) {
        return code;
    }
    const kvs_http_request request = {.method = "PUT",
                                      .path = path,
                                      .if_match = ctl->if_match,
                                      .content_type = media_type_of(format),
                                      .body = source->numbers,
                                      .body_bytes =
                                          (size_t)source->elements * kvs_dtype_bytes(dtype),
                                      .source = source->numbers == NULL ? source->file : NULL,
                                      .source_bytes = source->bytes};
    code = kvs_http_call(ctl, &request, &reply);
    if (code == KVS_EXIT_DONE) {
        (void)fprintf(stderr, "%s: %s, version %s\n", key,
                      reply.status == 201 ? "created" : "assigned", reply.etag);
        if (ctl->output != NULL && strcmp(ctl->output, "json") == 0) {
            (void)printf("%s\n", reply.body);
        }
    }
    kvs_http_reply_deinit(&reply);
    return code;
}

kvs_exit kvs_ctl_put(const kvs_ctl *ctl, int count, char **words)
{
    (void)count;
    static const char *const formats[] = {"npy", "raw", "text", "safetensors"};
    put_source source = {0};
    const kvs_dtype dtype = ctl->dtype != NULL ? kvs_dtype_parse(ctl->dtype) : KVS_F32;
    const char *format = ctl->format;
    if (format == NULL) {
        format = format_of(words[1]);
    }
    if (media_type_of(format) == NULL && strcmp(format, "text") != 0) {
        return kvs_ctl_fail(
            KVS_EXIT_USAGE,
            kvs_ctl_suggest(format, formats, 4, "Use npy, safetensors, raw or text."),
            "put knows no format %s", format);
    }
    if (dtype == KVS_DTYPE_NONE) {
        return kvs_ctl_fail(KVS_EXIT_USAGE, "Use f32, f64, f16, bf16, u8, i8, i32 or i64.",
                            "%s is no dtype", ctl->dtype);
    }
    kvs_exit code = check_shape(ctl, &source);
    if (code == KVS_EXIT_DONE) {
        code = open_source(words[1], &source);
    }
    if (code == KVS_EXIT_DONE && strcmp(format, "text") == 0) {
        code = read_text(&source, dtype);
        format = "raw";
    }
    if (code == KVS_EXIT_DONE) {
        code = send_value(ctl, words[0], format, &source);
    }
    if (source.file != NULL && source.file != stdin) {
        (void)fclose(source.file);
    }
    free(source.numbers);
    return code;
}
