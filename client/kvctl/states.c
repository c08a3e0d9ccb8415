/* kvctl states save, load: the optimizer states of a store as a safetensors file. */
#include "client/kvctl/http.h"
#include "client/kvctl/table.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static kvs_exit save_to(const kvs_ctl *ctl, FILE *sink)
{
    char rest[128];
    char path[KVS_HTTP_PATH_BYTES];
    kvs_http_reply reply = {0};
    (void)snprintf(rest, sizeof rest, "/optimizer/states?dump_optimizer=%s&weights=%s",
                   ctl->dump_optimizer ? "true" : "false", ctl->weights ? "true" : "false");
    kvs_exit code = kvs_http_path(ctl, path, rest, NULL);
    const kvs_http_request request = {.method = "GET", .path = path, .accept = "*/*", .sink = sink};
    if (code == KVS_EXIT_DONE) {
        code = kvs_http_call(ctl, &request, &reply);
    }
    kvs_http_reply_deinit(&reply);
    return code;
}

/* The file comes to its place when it is whole. */
kvs_exit kvs_ctl_states_save(const kvs_ctl *ctl, int count, char **words)
{
    (void)count;
    const char *file = words[0];
    char part[4096];
    if ((size_t)snprintf(part, sizeof part, "%s.part-%ld", file, (long)getpid()) >= sizeof part) {
        return kvs_ctl_fail(KVS_EXIT_LOCAL, "Use a shorter name.", "%.60s... is too long", file);
    }
    FILE *sink = fopen(part, "wbx");
    if (sink == NULL) {
        return kvs_ctl_fail(KVS_EXIT_LOCAL, "Name a file that can be written.",
                            "cannot write beside %s: %s", file, strerror(errno));
    }
    kvs_exit code = save_to(ctl, sink);
    if (code == KVS_EXIT_DONE && (fflush(sink) != 0 || fsync(fileno(sink)) != 0)) {
        code = kvs_ctl_fail(KVS_EXIT_LOCAL, "Is the disk full?", "writing %s failed", file);
    }
    if (fclose(sink) != 0 && code == KVS_EXIT_DONE) {
        code = kvs_ctl_fail(KVS_EXIT_LOCAL, "Is the disk full?", "writing %s failed", file);
    }
    if (code == KVS_EXIT_DONE && rename(part, file) != 0) {
        code = kvs_ctl_fail(KVS_EXIT_LOCAL, "Name a file that can be written.",
                            "cannot rename to %s: %s", file, strerror(errno));
    }
    if (code != KVS_EXIT_DONE) {
        (void)unlink(part);
    }
    return code;
}

static kvs_exit print_loaded(const kvs_ctl *ctl, const kvs_http_reply *reply)
{
    kvs_exit code = KVS_EXIT_DONE;
    json_t *loaded = NULL;
    const bool json = kvs_ctl_wants_json(ctl, &code);
    if (code != KVS_EXIT_DONE) {
        return code;
    }
    if (kvs_json_parse(reply->body != NULL ? reply->body : "", reply->body_bytes, 1u << 20, &loaded,
                       NULL) != KVS_OK) {
        return kvs_ctl_fail(KVS_EXIT_REFUSED, "Is it a kvstored at --endpoint?",
                            "the answer is no JSON");
    }
    if (json) {
        code = kvs_ctl_print_json(loaded);
    } else {
        (void)fprintf(stderr, "loaded %s tensors%s\n", kvs_field_text(loaded, "tensors"),
                      json_is_true(json_object_get(loaded, "optimizer_set"))
                          ? "; the optimizer is the file's"
                          : "");
    }
    json_decref(loaded);
    return code;
}

/* A file whose length is known. Opening a pipe would wait until somebody writes to it. */
static kvs_exit open_file(const char *name, FILE **out, int64_t *bytes)
{
    struct stat info;
    int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool there = fd >= 0 && fstat(fd, &info) == 0;
    bool regular = there && S_ISREG(info.st_mode);
    FILE *file = regular ? fdopen(fd, "rb") : NULL;
    if (file == NULL && fd >= 0) {
        (void)close(fd);
    }
    if (there && !regular) {
        return kvs_ctl_fail(KVS_EXIT_LOCAL, "Write what it gives into a file first.",
                            "%s is no regular file", name);
    }
    if (file == NULL) {
        return kvs_ctl_fail(KVS_EXIT_LOCAL, "Name a file that can be read.", "cannot read %s",
                            name);
    }
    *out = file;
    *bytes = (int64_t)info.st_size;
    return KVS_EXIT_DONE;
}

kvs_exit kvs_ctl_states_load(const kvs_ctl *ctl, int count, char **words)
{
    (void)count;
    char path[KVS_HTTP_PATH_BYTES];
    kvs_http_reply reply = {0};
    FILE *source = NULL;
    int64_t bytes = 0;
    const kvs_exit opened = open_file(words[0], &source, &bytes);
    if (opened != KVS_EXIT_DONE) {
        return opened;
    }
    kvs_exit code = kvs_http_path(ctl, path, "/optimizer/states", NULL);
    const kvs_http_request request = {.method = "PUT",
                                      .path = path,
                                      .content_type = "application/vnd.safetensors",
                                      .source = source,
                                      .source_bytes = bytes};
    if (code == KVS_EXIT_DONE) {
        code = kvs_http_call(ctl, &request, &reply);
    }
    if (code == KVS_EXIT_DONE) {
        code = print_loaded(ctl, &reply);
    }
    kvs_http_reply_deinit(&reply);
    (void)fclose(source);
    return code;
}
