#include "base/status.h"

#include <stdio.h>
#include <string.h>

static const kvs_status_row rows[] = {
#define KVS_STATUS_ROW(name, grpc, http, title, advice) {#name, title, advice, grpc, http},
    KVS_STATUS_TABLE(KVS_STATUS_ROW)
#undef KVS_STATUS_ROW
};

const kvs_status_row *kvs_status_find(kvs_status status)
{
    if ((unsigned)status >= KVS_STATUS_COUNT) {
        status = KVS_INTERNAL;
    }
    return &rows[status];
}

kvs_status kvs_status_parse(const char *reason)
{
    for (int i = 0; i < KVS_STATUS_COUNT; i++) {
        if (strcmp(rows[i].reason, reason) == 0) {
            return (kvs_status)i;
        }
    }
    return KVS_INTERNAL;
}

/* The bytes of the character that begins at `text`, which is terminated; 0: there is none. */
static size_t character_bytes(const unsigned char *text)
{
    unsigned char lead = text[0];
    size_t bytes = lead < 0x80                   ? 1
                   : lead >= 0xc2 && lead < 0xe0 ? 2
                   : lead >= 0xe0 && lead < 0xf0 ? 3
                   : lead >= 0xf0 && lead < 0xf5 ? 4
                                                 : 0;
    for (size_t i = 1; i < bytes; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    /* No overlong forms, surrogates or numbers above U+10FFFF. */
    bool wrong = (lead == 0xe0 && text[1] < 0xa0) || (lead == 0xed && text[1] > 0x9f) ||
                 (lead == 0xf0 && text[1] < 0x90) || (lead == 0xf4 && text[1] > 0x8f);
    return wrong ? 0 : bytes;
}

void kvs_text_clean(char *text)
{
    char *to = text;
    for (const char *from = text; *from != '\0';) {
        size_t bytes = character_bytes((const unsigned char *)from);
        memmove(to, from, bytes);
        to += bytes;
        from += bytes > 0 ? bytes : 1;
    }
    *to = '\0';
}

kvs_status kvs_problem_set_list(kvs_problem *problem, kvs_status status, const char *format,
                                va_list arguments)
{
    problem->status = status;
    (void)vsnprintf(problem->detail, sizeof problem->detail, format, arguments);
    kvs_text_clean(problem->detail);
    return status;
}

kvs_status kvs_problem_set(kvs_problem *problem, kvs_status status, const char *format, ...)
{
    if (problem != NULL) {
        va_list arguments;
        va_start(arguments, format);
        (void)kvs_problem_set_list(problem, status, format, arguments);
        va_end(arguments);
    }
    return status;
}
