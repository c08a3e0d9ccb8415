#include "bench/limits.h"

#include "bench/add.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

float *kvs_bench_tensor(uint64_t bytes, float value)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return NULL;
    }
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
    float *tensor = memory;
    for (uint64_t i = 0; i < bytes / sizeof(float); i++) {
        tensor[i] = value;
    }
    return tensor;
}

void kvs_bench_tensor_free(float *tensor, uint64_t bytes)
{
    if (tensor != NULL) {
        (void)munmap(tensor, bytes);
    }
}

/* Keeps a loop whose result nobody reads. */
static void keep(const void *memory)
{
    __asm__ volatile("" : : "r"(memory) : "memory");
}

typedef void pass_function(float *target, const float *source, uint64_t bytes);

static void pass_copy(float *target, const float *source, uint64_t bytes)
{
    memcpy(target, source, bytes);
}

static void pass_sum(float *target, const float *source, uint64_t bytes)
{
    kvs_bench_add(target, (const uint8_t *)source, bytes / sizeof(float));
}

/* The sum reads what was copied to the target's second half. */
static void pass_copy_and_sum(float *target, const float *source, uint64_t bytes)
{
    float *copy = target + bytes / sizeof(float);
    memcpy(copy, source, bytes);
    kvs_bench_add(target, (const uint8_t *)copy, bytes / sizeof(float));
}

static bool time_passes(const kvs_bench_sizes *sizes, pass_function *pass, double *out)
{
    float *target = kvs_bench_tensor(2 * sizes->tensor_bytes, 0);
    float *source = kvs_bench_tensor(sizes->tensor_bytes, 1);
    const bool good = target != NULL && source != NULL;
    if (good) {
        pass(target, source, sizes->tensor_bytes);
        const double start = kvs_bench_clock();
        for (uint32_t i = 0; i < sizes->repeats; i++) {
            pass(target, source, sizes->tensor_bytes);
            keep(target);
        }
        *out = (double)sizes->tensor_bytes * sizes->repeats / (kvs_bench_clock() - start);
    } else {
        (void)fprintf(stderr, "kvbench: no memory for two tensors; use a smaller --mib.\n");
    }
    kvs_bench_tensor_free(target, 2 * sizes->tensor_bytes);
    kvs_bench_tensor_free(source, sizes->tensor_bytes);
    return good;
}

bool kvs_bench_memcpy(const kvs_bench_sizes *sizes, double *out)
{
    return time_passes(sizes, pass_copy, out);
}

bool kvs_bench_sum(const kvs_bench_sizes *sizes, double *out)
{
    return time_passes(sizes, pass_sum, out);
}

bool kvs_bench_copy_and_sum(const kvs_bench_sizes *sizes, double *out)
{
    return time_passes(sizes, pass_copy_and_sum, out);
}

/* ------------------------------------------------------------------ TCP */

static bool connect_pair(int ends[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    const int one = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ends[1] = -1;
    if (listener >= 0 && ends[0] >= 0 &&
        bind(listener, (struct sockaddr *)&address, sizeof address) == 0 &&
        listen(listener, 1) == 0 &&
        getsockname(listener, (struct sockaddr *)&address, &length) == 0 &&
        connect(ends[0], (struct sockaddr *)&address, length) == 0) {
        ends[1] = accept(listener, NULL, NULL);
    }
    if (ends[1] >= 0) {
        (void)setsockopt(ends[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        (void)setsockopt(ends[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    (void)close(listener);
    return ends[1] >= 0;
}

static bool read_whole(int socket, uint8_t *out, uint64_t bytes)
{
    while (bytes > 0) {
        const ssize_t got = read(socket, out, bytes);
        if (got <= 0) {
            return false;
        }
        out += got;
        bytes -= (uint64_t)got;
    }
    return true;
}

static bool write_whole(int socket, const uint8_t *data, uint64_t bytes)
{
    while (bytes > 0) {
        const ssize_t put = write(socket, data, bytes);
        if (put <= 0) {
            return false;
        }
        data += put;
        bytes -= (uint64_t)put;
    }
    return true;
}

/* The child: says that it is ready, waits for a byte, sends the tensor `repeats` times, then its
 * processor time. */
static bool send_tensor(const kvs_bench_sizes *sizes, int socket)
{
    uint8_t go = 0;
    float *tensor = kvs_bench_tensor(sizes->tensor_bytes, 1);
    bool good = tensor != NULL && write_whole(socket, &go, 1) && read_whole(socket, &go, 1);
    const double cpu = kvs_bench_cpu(0);
    const uint64_t total = sizes->tensor_bytes * sizes->repeats;
    for (uint64_t done = 0; good && done < total; done += sizes->message_bytes) {
        good = write_whole(socket, (const uint8_t *)tensor + done % sizes->tensor_bytes,
                           sizes->message_bytes);
    }
    const double used = kvs_bench_cpu(0) - cpu;
    return good && write_whole(socket, (const uint8_t *)&used, sizeof used);
}

static bool receive_tensor(const kvs_bench_sizes *sizes, int socket, double *out, double cpu[2])
{
    float *tensor = kvs_bench_tensor(sizes->tensor_bytes, 0);
    float *message = kvs_bench_tensor(sizes->message_bytes, 0);
    uint8_t go = 0;
    bool good = tensor != NULL && message != NULL && read_whole(socket, &go, 1);
    const uint64_t total = sizes->tensor_bytes * sizes->repeats;
    cpu[1] = -kvs_bench_cpu(0);
    const double start = kvs_bench_clock();
    good = good && write_whole(socket, &go, 1);
    for (uint64_t done = 0; good && done < total; done += sizes->message_bytes) {
        good = read_whole(socket, (uint8_t *)message, sizes->message_bytes);
        kvs_bench_add(tensor + done % sizes->tensor_bytes / sizeof(float), (uint8_t *)message,
                      sizes->message_bytes / sizeof(float));
    }
    *out = (double)total / (kvs_bench_clock() - start);
    cpu[1] += kvs_bench_cpu(0);
    good = good && read_whole(socket, (uint8_t *)&cpu[0], sizeof cpu[0]);
    kvs_bench_tensor_free(tensor, sizes->tensor_bytes);
    kvs_bench_tensor_free(message, sizes->message_bytes);
    return good;
}

bool kvs_bench_tcp(const kvs_bench_sizes *sizes, double *out, double cpu[2])
{
    int ends[2];
    if (!connect_pair(ends)) {
        perror("kvbench: loopback TCP");
        return false;
    }
    (void)fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        (void)close(ends[1]);
        _exit(send_tensor(sizes, ends[0]) ? 0 : 1);
    }
    (void)close(ends[0]);
    const bool good = child > 0 && receive_tensor(sizes, ends[1], out, cpu);
    (void)close(ends[1]);
    if (child > 0) {
        (void)waitpid(child, NULL, 0);
    }
    if (!good) {
        (void)fprintf(stderr, "kvbench: the TCP stream broke.\n");
    }
    return good;
}
