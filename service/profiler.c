#include "service/profiler.h"

#include "base/limits.h"
#include "base/log.h"
#include "service/whole_file.h"

#include <dirent.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* 3 MiB; some seconds of a busy server. */
#define SPANS ((size_t)1 << 16)

struct kvs_profiler {
    kvs_profile *profile;
    char *folder;
    pthread_mutex_t mutex; /* of what follows, and of one dump at a time */
    bool running;
    bool paused;
    char name[KVS_NAME_BYTES_MAX + 1];
};

kvs_status kvs_profiler_open(const char *folder, kvs_profiler **out, kvs_problem *problem)
{
    if (access(folder, W_OK | X_OK) != 0) {
        return kvs_problem_set(problem, KVS_IO_ERROR, "cannot write into \"%.150s\"", folder);
    }
    kvs_profiler *profiler = calloc(1, sizeof *profiler);
    if (profiler != NULL) {
        (void)pthread_mutex_init(&profiler->mutex, NULL);
        (void)snprintf(profiler->name, sizeof profiler->name, "profile.json");
        profiler->folder = strdup(folder);
    }
    if (profiler == NULL || profiler->folder == NULL ||
        kvs_profile_open(SPANS, &profiler->profile) != KVS_OK) {
        kvs_profiler_close(profiler);
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a profile");
    }
    *out = profiler;
    return KVS_OK;
}

void kvs_profiler_close(kvs_profiler *profiler)
{
    if (profiler != NULL) {
        kvs_profile_close(profiler->profile);
        (void)pthread_mutex_destroy(&profiler->mutex);
        free(profiler->folder);
        free(profiler);
    }
}

kvs_profile *kvs_profiler_profile(kvs_profiler *profiler)
{
    return profiler != NULL ? profiler->profile : NULL;
}

/* ------------------------------------------------------------------ set_config */

static bool is(const char *text, size_t bytes, const char *word)
{
    return strlen(word) == bytes && memcmp(text, word, bytes) == 0;
}

/* A name that names nothing but a file of the folder. */
static bool valid_name(const char *name, size_t bytes)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    return bytes > 0 && bytes <= KVS_NAME_BYTES_MAX && name[0] != '.' &&
           strspn(name, allowed) >= bytes;
}

/* One NAME:VALUE. All but the file's name choose what MXNet's engine records. */
static kvs_status take_setting(kvs_profiler *profiler, const char *text, size_t bytes,
                               kvs_problem *problem)
{
    static const char *const known[] = {"profile_all",        "profile_symbolic",
                                        "profile_imperative", "profile_memory",
                                        "profile_api",        "profile_process",
                                        "continuous_dump",    "dump_period",
                                        "aggregate_stats",    "gpu_memory_profile_filename_prefix"};
    const char *colon = memchr(text, ':', bytes);
    size_t name_bytes = colon != NULL ? (size_t)(colon - text) : bytes;
    if (colon != NULL && is(text, name_bytes, "filename")) {
        size_t value_bytes = bytes - name_bytes - 1;
        if (!valid_name(colon + 1, value_bytes)) {
            return kvs_problem_set(problem, KVS_INVALID_FIELD,
                                   "/body: filename is a name of letters, digits and ._- in the "
                                   "server's --profile-dir, not a path");
        }
        (void)snprintf(profiler->name, sizeof profiler->name, "%.*s", (int)value_bytes, colon + 1);
        return KVS_OK;
    }
    for (size_t i = 0; colon != NULL && i < sizeof known / sizeof known[0]; i++) {
        if (is(text, name_bytes, known[i])) {
            return KVS_OK;
        }
    }
    return kvs_problem_set(problem, KVS_INVALID_FIELD,
                           "/body: \"%.*s\" is no setting of the profiler",
                           (int)(name_bytes < 60 ? name_bytes : 60), text);
}

static kvs_status set_config(kvs_profiler *profiler, const char *text, size_t bytes,
                             kvs_problem *problem)
{
    const char *end = text + bytes;
    while (text < end) {
        const char *comma = memchr(text, ',', (size_t)(end - text));
        const char *stop = comma != NULL ? comma : end;
        if (stop > text) {
            KVS_TRY(take_setting(profiler, text, (size_t)(stop - text), problem));
        }
        text = stop < end ? stop + 1 : end;
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ dump */

static bool has_room(const kvs_profiler *profiler, const char *path)
{
    size_t count = 0;
    DIR *list = opendir(profiler->folder);
    if (access(path, F_OK) == 0 || list == NULL) { /* an unreadable folder shows at the write */
        if (list != NULL) {
            (void)closedir(list);
        }
        return true;
    }
    for (const struct dirent *entry; (entry = readdir(list)) != NULL;) {
        count += entry->d_name[0] != '.' ? 1 : 0;
    }
    (void)closedir(list);
    return count < KVS_PROFILE_FILES_MAX;
}

static kvs_status dump(kvs_profiler *profiler, kvs_problem *problem)
{
    char path[4096];
    char *text = NULL;
    size_t bytes = 0;
    if ((size_t)snprintf(path, sizeof path, "%s/rank0_%s", profiler->folder, profiler->name) >=
        sizeof path) {
        return kvs_problem_set(problem, KVS_IO_ERROR, "the folder's name is too long");
    }
    if (!has_room(profiler, path)) {
        return kvs_problem_set(problem, KVS_TOO_MANY, "--profile-dir holds %u files",
                               KVS_PROFILE_FILES_MAX);
    }
    FILE *to = open_memstream(&text, &bytes);
    if (to == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the trace");
    }
    size_t spans = kvs_profile_print(profiler->profile, to);
    bool failed = ferror(to) != 0;
    failed = fclose(to) != 0 || failed;
    kvs_status status = failed ? kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the trace")
                               : kvs_whole_file_write(path, text, false, problem);
    free(text);
    if (status == KVS_OK) {
        kvs_log(KVS_LOG_INFO, "profile_dumped", "path=%s spans=%zu", path, spans);
    }
    return status;
}

/* ------------------------------------------------------------------ commands */

static kvs_status run_command(kvs_profiler *profiler, const char *body, size_t bytes,
                              kvs_problem *problem)
{
    char which = body[bytes];
    bool flag = bytes > 0 && body[0] != '0';
    switch (which) {
    case '0':
        return set_config(profiler, body, bytes, problem);
    case '1':
        if (flag && !profiler->running) {
            kvs_profile_clear(profiler->profile);
        }
        profiler->running = flag;
        profiler->paused = false;
        break;
    case '2':
        profiler->paused = flag;
        break;
    case '3':
        return dump(profiler, problem);
    default:
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "/body must end with the digit of a profiler command, 0 to 3");
    }
    kvs_profile_switch(profiler->profile, profiler->running && !profiler->paused);
    return KVS_OK;
}

kvs_status kvs_profiler_command(kvs_profiler *profiler, const char *body, kvs_problem *problem)
{
    if (profiler == NULL) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "/head 5 profiles a server that was started with --profile-dir");
    }
    size_t bytes = strlen(body);
    if (bytes == 0) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "/body holds no profiler command");
    }
    (void)pthread_mutex_lock(&profiler->mutex);
    kvs_status status = run_command(profiler, body, bytes - 1, problem);
    (void)pthread_mutex_unlock(&profiler->mutex);
    return status;
}
