#include "service/epoch.h"

#include "service/whole_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Takes the folder for this process; the kernel lets go of it with the process. */
static kvs_status lock_folder(const char *folder, int *lock, kvs_problem *problem)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof path, "%s/lock", folder);
    if (mkdir(folder, 0750) != 0 && errno != EEXIST) {
        return kvs_problem_set(problem, KVS_IO_ERROR, "cannot make the folder %.150s: %s", folder,
                               strerror(errno));
    }
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0) {
        return kvs_problem_set(problem, KVS_IO_ERROR, "cannot open %.150s: %s", path,
                               strerror(errno));
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        (void)close(fd);
        return kvs_problem_set(problem, KVS_IO_ERROR, "another server has the folder %.150s",
                               folder);
    }
    *lock = fd;
    return KVS_OK;
}

/* The epoch that the file names; 0 when there is no file. */
static kvs_status read_kept(const char *path, uint64_t *out, kvs_problem *problem)
{
    char text[32] = "";
    char *end;
    FILE *file = fopen(path, "re");
    if (file == NULL && errno == ENOENT) {
        *out = 0;
        return KVS_OK;
    }
    if (file == NULL) {
        return kvs_problem_set(problem, KVS_IO_ERROR, "cannot read %.150s: %s", path,
                               strerror(errno));
    }
    char *line = fgets(text, sizeof text, file);
    (void)fclose(file);
    errno = 0;
    uint64_t number = strtoull(text, &end, 10);
    if (line == NULL || text[0] < '0' || text[0] > '9' || *end != '\n' || errno != 0 ||
        number >= INT64_MAX) {
        return kvs_problem_set(problem, KVS_IO_ERROR, "%.150s holds no epoch", path);
    }
    *out = number;
    return KVS_OK;
}

static kvs_status next_epoch(const char *folder, uint64_t *number, kvs_problem *problem)
{
    char path[PATH_MAX];
    char text[32];
    uint64_t kept = 0;
    (void)snprintf(path, sizeof path, "%s/epoch", folder);
    KVS_TRY(read_kept(path, &kept, problem));
    if (*number <= kept) {
        *number = kept + 1; /* two starts in a second, or a clock that went back */
    }
    (void)snprintf(text, sizeof text, "%" PRIu64 "\n", *number);
    return kvs_whole_file_write(path, text, true, problem);
}

kvs_status kvs_epoch_open(const char *folder, kvs_epoch *out, kvs_problem *problem)
{
    kvs_epoch epoch = {.number = 1, .lock = -1};
    time_t now = time(NULL);
    if (now > 0) {
        epoch.number = (uint64_t)now;
    }
    if (strlen(folder) > PATH_MAX - 64) {
        return kvs_problem_set(problem, KVS_IO_ERROR, "the path %.100s is too long", folder);
    }
    if (folder[0] != '\0') {
        KVS_TRY(lock_folder(folder, &epoch.lock, problem));
        kvs_status status = next_epoch(folder, &epoch.number, problem);
        if (status != KVS_OK) {
            (void)close(epoch.lock);
            return status;
        }
    }
    *out = epoch;
    return KVS_OK;
}

void kvs_epoch_close(kvs_epoch *epoch)
{
    if (epoch->lock >= 0) {
        (void)close(epoch->lock);
        epoch->lock = -1;
    }
}
