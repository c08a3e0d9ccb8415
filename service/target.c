#include "service/target.h"

#include <string.h>

static int digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool kvs_target_decode(const char *text, size_t bytes, bool plus, char *out, size_t out_bytes)
{
    size_t used = 0;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (c == '%') {
            if (bytes - i < 3 || digit(text[i + 1]) < 0 || digit(text[i + 2]) < 0) {
                return false;
            }
            c = (char)(digit(text[i + 1]) * 16 + digit(text[i + 2]));
            i += 2;
        } else if (plus && c == '+') {
            c = ' ';
        }
        if (c == '\0' || used + 1 >= out_bytes) {
            return false;
        }
        out[used++] = c;
    }
    out[used] = '\0';
    return true;
}

bool kvs_query_next(const char **query, kvs_query_pair *out, bool *broken)
{
    *broken = false;
    while (*query != NULL && **query == '&') {
        (*query)++;
    }
    if (*query == NULL || **query == '\0') {
        return false;
    }
    const char *pair = *query;
    size_t bytes = strcspn(pair, "&");
    size_t name_bytes = strcspn(pair, "=&");
    *query = pair + bytes;
    out->value[0] = '\0';
    if (!kvs_target_decode(pair, name_bytes, true, out->name, sizeof out->name) ||
        (name_bytes < bytes && !kvs_target_decode(pair + name_bytes + 1, bytes - name_bytes - 1,
                                                  true, out->value, sizeof out->value))) {
        *broken = true;
        return false;
    }
    return true;
}
