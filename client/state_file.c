#include "client/state_file.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static kvs_status fail(const kvs_state_file *file, const char *what, kvs_problem *problem)
{
    char words[64] = "";
    const char *text = strerror_r(errno, words, sizeof words); /* GNU's */
    return kvs_problem_set(problem, KVS_IO_ERROR, "%s \"%.120s\": %s", what, file->path, text);
}

kvs_status kvs_state_file_create(const char *path, kvs_state_file *out, kvs_problem *problem)
{
    kvs_state_file file = {.fd = -1};
    file.path = strdup(path);
    /* In the same folder, so that it can be renamed. */
    if (file.path == NULL || asprintf(&file.temporary, "%s.part-%ld-%" PRIx64, path, (long)getpid(),
                                      kvs_clock_now_ns()) < 0) {
        free(file.path);
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a name");
    }
    file.fd = open(file.temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file.fd < 0) {
        kvs_status status = fail(&file, "cannot write beside", problem);
        free(file.temporary);
        free(file.path);
        return status;
    }
    *out = file;
    return KVS_OK;
}

kvs_status kvs_state_file_write(kvs_state_file *file, const void *data, size_t bytes,
                                kvs_problem *problem)
{
    const char *at = data;
    while (bytes > 0) {
        ssize_t written = write(file->fd, at, bytes);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            return fail(file, "cannot write", problem);
        }
        at += written;
        bytes -= (size_t)written;
    }
    return KVS_OK;
}

/* The rename is on the disk when the folder is. */
static kvs_status sync_folder(const kvs_state_file *file, kvs_problem *problem)
{
    char *folder = strdup(file->path);
    if (folder == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a name");
    }
    char *slash = strrchr(folder, '/');
    if (slash != NULL) {
        slash[slash == folder ? 1 : 0] = '\0';
    }
    int fd = open(slash != NULL ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    bool good = fd >= 0 && fsync(fd) == 0;
    kvs_status status = good ? KVS_OK : fail(file, "cannot sync the folder of", problem);
    if (fd >= 0) {
        (void)close(fd);
    }
    return status;
}

kvs_status kvs_state_file_commit(kvs_state_file *file, kvs_problem *problem)
{
    if (fsync(file->fd) != 0) {
        return fail(file, "cannot sync", problem);
    }
    int fd = file->fd;
    file->fd = -1;
    if (close(fd) != 0) {
        return fail(file, "cannot close", problem);
    }
    if (rename(file->temporary, file->path) != 0) {
        return fail(file, "cannot rename to", problem);
    }
    free(file->temporary);
    file->temporary = NULL;
    return sync_folder(file, problem);
}

kvs_status kvs_state_file_open(const char *path, kvs_state_file *out, kvs_problem *problem)
{
    kvs_state_file file = {.fd = -1};
    struct stat info;
    file.path = strdup(path);
    if (file.path == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a name");
    }
    kvs_status status = KVS_OK;
    file.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* else a pipe's waits for a writer */
    if (file.fd < 0 || fstat(file.fd, &info) != 0) {
        status = fail(&file, "cannot read", problem);
    } else if (!S_ISREG(info.st_mode)) {
        status = kvs_problem_set(problem, KVS_IO_ERROR, "\"%.120s\" is not a file of states", path);
    }
    if (status != KVS_OK) {
        kvs_state_file_close(&file);
        return status;
    }
    file.bytes = (uint64_t)info.st_size;
    *out = file;
    return KVS_OK;
}

kvs_status kvs_state_file_read(kvs_state_file *file, void *out, size_t bytes, kvs_problem *problem)
{
    char *at = out;
    while (bytes > 0) {
        ssize_t count = read(file->fd, at, bytes);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count == 0) {
            return kvs_problem_set(problem, KVS_IO_ERROR, "\"%.120s\" has become shorter",
                                   file->path);
        }
        if (count < 0) {
            return fail(file, "cannot read", problem);
        }
        at += count;
        bytes -= (size_t)count;
    }
    return KVS_OK;
}

void kvs_state_file_close(kvs_state_file *file)
{
    if (file->fd >= 0) {
        (void)close(file->fd);
    }
    if (file->temporary != NULL) {
        (void)unlink(file->temporary);
    }
    free(file->temporary);
    free(file->path);
    *file = (kvs_state_file){.fd = -1};
}
