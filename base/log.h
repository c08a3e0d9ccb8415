/* One line a happening, key=value, on stderr: level=warn event=lease_lost store=default rank=2
 *
 * error: work was lost or refused for a bad reason. warn: it may heal. info: less than one a
 * second in normal running. debug: off unless asked for. Nothing on the push path logs.
 *
 * Threads: any; a line is written by one write(2). Values of %s that come from the wire go
 * through kvs_log_text, which keeps control characters and quotes out.
 */
#ifndef KVS_BASE_LOG_H
#define KVS_BASE_LOG_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kvs_log_level {
    KVS_LOG_ERROR,
    KVS_LOG_WARN,
    KVS_LOG_INFO,
    KVS_LOG_DEBUG
} kvs_log_level;

/* What is less important than `level` is dropped. Starts at KVS_LOG_INFO. */
void kvs_log_set_level(kvs_log_level level);

/* Switches all logging off (the client library's default: a library does not write to stderr). */
void kvs_log_set_quiet(int quiet);

void kvs_log(kvs_log_level level, const char *event, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* `text` cut to what fits `out`, with everything below 0x20, 0x7f, '"' and '\' replaced by '?'. */
const char *kvs_log_text(char *out, size_t out_bytes, const char *text, size_t text_bytes);

#ifdef __cplusplus
}
#endif

#endif
