#include "service/whole_file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool write_all(int fd, const char *text, size_t bytes)
{
    while (bytes > 0) {
        ssize_t written = write(fd, text, bytes);
        if (written < 0 && errno != EINTR) {
            return false;
        }
        if (written > 0) {
            text += written;
            bytes -= (size_t)written;
        }
    }
    return true;
}

/* Makes a rename in the folder of `path` last. */
static bool sync_folder(const char *path)
{
    char copy[PATH_MAX];
    (void)snprintf(copy, sizeof copy, "%s", path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    bool synced = fsync(fd) == 0;
    (void)close(fd);
    return synced;
}

kvs_status kvs_whole_file_write(const char *path, const char *text, bool durable,
                                kvs_problem *problem)
{
    char beside[PATH_MAX];
    int length = snprintf(beside, sizeof beside, "%s.%ld.new", path, (long)getpid());
    if (length < 0 || (size_t)length >= sizeof beside) {
        return kvs_problem_set(problem, KVS_IO_ERROR, "the path %.100s is too long", path);
    }
    int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    bool good = fd >= 0 && write_all(fd, text, strlen(text)) && (!durable || fsync(fd) == 0);
    int error = errno;
    if (fd >= 0 && close(fd) != 0 && good) {
        error = errno;
        good = false;
    }
    if (good && rename(beside, path) != 0) {
        error = errno;
        good = false;
    }
    if (!good) {
        (void)unlink(beside);
    } else if (durable && !sync_folder(path)) {
        error = errno;
        good = false;
    }
    return good ? KVS_OK
                : kvs_problem_set(problem, KVS_IO_ERROR, "cannot write %.150s: %s", path,
                                  strerror(error));
}
