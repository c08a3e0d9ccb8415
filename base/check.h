/* What a programmer did wrong stops the process; nothing from the wire may reach a KVS_CHECK.
 *
 * Two conditions are two lines. On in every build.
 */
#ifndef KVS_BASE_CHECK_H
#define KVS_BASE_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define KVS_CHECK(condition)                                                                       \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0)) {                                                   \
            (void)fprintf(stderr, "level=error event=check_failed file=%s line=%d check=\"%s\"\n", \
                          __FILE__, __LINE__, #condition);                                         \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
