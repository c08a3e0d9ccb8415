#include "base/region.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Newer than the headers of Debian 12; a kernel that does not know it says so. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define SIZE_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

static int make_file(void)
{
    int fd = memfd_create("kvstored-region", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) {
        fd = memfd_create("kvstored-region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    }
    return fd;
}

static kvs_status map_file(int fd, size_t bytes, int protection, kvs_region_map *out)
{
    void *data = mmap(NULL, bytes, protection, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
        return KVS_NO_MEMORY;
    }
    *out = (kvs_region_map){data, bytes};
    return KVS_OK;
}

kvs_status kvs_region_make(size_t bytes, kvs_region_writer writer, kvs_region_map *out, int *fd)
{
    bool writes = writer == KVS_REGION_MAKER;
    int seals = SIZE_SEALS | F_SEAL_SEAL | (writes ? F_SEAL_FUTURE_WRITE : 0);
    int file = make_file();
    /* fallocate: a page that is not there when it is touched would be a SIGBUS. */
    bool made = file >= 0 && ftruncate(file, (off_t)bytes) == 0 &&
                (writes || fallocate(file, 0, 0, (off_t)bytes) == 0) &&
                map_file(file, bytes, PROT_READ | (writes ? PROT_WRITE : 0), out) == KVS_OK;
    if (made && fcntl(file, F_ADD_SEALS, seals) != 0) {
        kvs_region_unmap(out);
        made = false;
    }
    if (!made) {
        if (file >= 0) {
            (void)close(file);
        }
        return KVS_NO_MEMORY;
    }
    *fd = file;
    return KVS_OK;
}

kvs_status kvs_region_attach(int fd, size_t bytes, kvs_region_writer writer, kvs_region_map *out)
{
    struct stat status;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SIZE_SEALS) != SIZE_SEALS || fstat(fd, &status) != 0 ||
        (uint64_t)status.st_size != bytes || bytes == 0) {
        return KVS_INVALID_FIELD;
    }
    return map_file(fd, bytes, PROT_READ | (writer == KVS_REGION_PEER ? PROT_WRITE : 0), out);
}

void kvs_region_unmap(kvs_region_map *map)
{
    if (map->data != NULL) {
        (void)munmap(map->data, map->bytes);
        *map = (kvs_region_map){NULL, 0};
    }
}

/* ------------------------------------------------------------------ messages */

typedef union control {
    struct cmsghdr header; /* for its alignment */
    char bytes[CMSG_SPACE(sizeof(int))];
} control;

bool kvs_region_send(int socket, const void *message, size_t bytes, int fd)
{
    control ancillary;
    struct iovec part = {.iov_base = (void *)message, .iov_len = bytes}; /* only read */
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        memset(&ancillary, 0, sizeof ancillary);
        header.msg_control = ancillary.bytes;
        header.msg_controllen = sizeof ancillary.bytes;
        struct cmsghdr *at = CMSG_FIRSTHDR(&header);
        at->cmsg_level = SOL_SOCKET;
        at->cmsg_type = SCM_RIGHTS;
        at->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(at), &fd, sizeof fd);
    }
    return sendmsg(socket, &header, MSG_NOSIGNAL) == (ssize_t)bytes;
}

/* Keeps the first descriptor that came. There is room for one, and by its alignment for another;
 * the kernel drops those that do not fit. */
static void take_descriptors(struct msghdr *header, int *fd)
{
    for (struct cmsghdr *at = CMSG_FIRSTHDR(header); at != NULL; at = CMSG_NXTHDR(header, at)) {
        if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t bytes = at->cmsg_len - CMSG_LEN(0);
        for (size_t offset = 0; offset + sizeof(int) <= bytes; offset += sizeof(int)) {
            int came;
            memcpy(&came, CMSG_DATA(at) + offset, sizeof came);
            if (*fd < 0) {
                *fd = came;
            } else {
                (void)close(came);
            }
        }
    }
}

ptrdiff_t kvs_region_receive(int socket, void *message, size_t room, int *fd)
{
    control ancillary;
    struct iovec part = {.iov_base = message, .iov_len = room};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = ancillary.bytes,
                            .msg_controllen = sizeof ancillary.bytes};
    *fd = -1;
    ssize_t bytes = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
    if (bytes < 0) {
        return -1;
    }
    take_descriptors(&header, fd);
    if ((header.msg_flags & MSG_TRUNC) != 0) {
        if (*fd >= 0) {
            (void)close(*fd);
            *fd = -1;
        }
        errno = EMSGSIZE;
        return -1;
    }
    return bytes;
}
