#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static _Atomic int least = KVS_LOG_INFO;
static _Atomic int silent;

void kvs_log_set_level(kvs_log_level level)
{
    atomic_store_explicit(&least, (int)level, memory_order_relaxed);
}

void kvs_log_set_quiet(int quiet)
{
    atomic_store_explicit(&silent, quiet, memory_order_relaxed);
}

void kvs_log(kvs_log_level level, const char *event, const char *format, ...)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    if ((int)level > atomic_load_explicit(&least, memory_order_relaxed) ||
        atomic_load_explicit(&silent, memory_order_relaxed) != 0) {
        return;
    }
    char line[1024];
    struct timespec now;
    struct tm utc;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &utc);
    size_t used = strftime(line, sizeof line, "ts=%Y-%m-%dT%H:%M:%S", &utc);
    used += (size_t)snprintf(line + used, sizeof line - used, ".%06ldZ level=%s event=%s ",
                             now.tv_nsec / 1000, names[level], event);
    va_list arguments;
    va_start(arguments, format);
    int more = vsnprintf(line + used, sizeof line - used - 1, format, arguments);
    va_end(arguments);
    if (more > 0) {
        used += (size_t)more;
    }
    if (used > sizeof line - 2) {
        used = sizeof line - 2;
    }
    line[used++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, used);
    (void)written; /* there is nobody left to tell */
}

const char *kvs_log_text(char *out, size_t out_bytes, const char *text, size_t text_bytes)
{
    size_t used = 0;
    for (; used < text_bytes && used + 1 < out_bytes; used++) {
        unsigned char c = (unsigned char)text[used];
        out[used] = c < 0x20 || c == 0x7f || c == '"' || c == '\\' ? '?' : (char)c;
    }
    out[used] = '\0';
    return out;
}
