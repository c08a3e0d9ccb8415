#include "service/quantity.h"

#include "base/limits.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct unit {
    const char *name;
    double factor;
} unit;

/* A number and one of the units. */
static bool parse(const char *text, const unit *units, size_t count, uint64_t *out)
{
    char digits[20];
    char *end;
    size_t length = strspn(text, "0123456789.");
    if (length == 0 || length >= sizeof digits || text[0] == '.') {
        return false;
    }
    /* Alone, so that no exponent and no hexadecimal is read. */
    memcpy(digits, text, length);
    digits[length] = '\0';
    double number = strtod(digits, &end);
    if (*end != '\0') {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (strcmp(text + length, units[i].name) == 0) {
            double product = number * units[i].factor;
            if (!(product < 9e18)) {
                return false;
            }
            *out = (uint64_t)llround(product);
            return true;
        }
    }
    return false;
}

bool kvs_duration_parse(const char *text, uint64_t *out_ns)
{
    static const unit units[] = {
        {"", 1e9}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9},
    };
    return parse(text, units, sizeof units / sizeof units[0], out_ns);
}

bool kvs_size_parse(const char *text, uint64_t *out_bytes)
{
    static const unit units[] = {
        {"", 1},
        {"KiB", (double)KVS_KIB},
        {"MiB", (double)KVS_MIB},
        {"GiB", (double)KVS_MIB * 1024},
        {"TiB", (double)KVS_MIB * 1024 * 1024},
    };
    return parse(text, units, sizeof units / sizeof units[0], out_bytes);
}

bool kvs_count_parse(const char *text, uint64_t max, uint64_t *out)
{
    char *end;
    if (text[0] < '0' || text[0] > '9') {
        return false;
    }
    errno = 0;
    uint64_t number = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || number > max) {
        return false;
    }
    *out = number;
    return true;
}
