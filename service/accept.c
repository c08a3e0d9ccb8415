#include "service/accept.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BLANKS " \t"
#define HOST_BYTES_MAX 256u

/* ------------------------------------------------------------------ media types */

/* The length of `text` without blanks at its end. */
static size_t trimmed(const char *text, size_t bytes)
{
    while (bytes > 0 && strchr(BLANKS, text[bytes - 1]) != NULL) {
        bytes--;
    }
    return bytes;
}

/* How precisely one entry of Accept names the media type: 3 exactly, 2 type/ *, 1 * / *, 0 not. */
static int precision(const char *entry, size_t bytes, const char *media_type)
{
    size_t slash = strcspn(media_type, "/");
    if (bytes == strlen(media_type) && strncasecmp(entry, media_type, bytes) == 0) {
        return 3;
    }
    if (bytes == slash + 2 && strncasecmp(entry, media_type, slash + 1) == 0 &&
        entry[bytes - 1] == '*') {
        return 2;
    }
    return bytes == 3 && memcmp(entry, "*/*", 3) == 0 ? 1 : 0;
}

/* Has the entry, parameters and all, q=0? */
static bool forbids(const char *entry, size_t bytes)
{
    for (size_t i = 0; i + 2 < bytes; i++) {
        if (entry[i] == ';') {
            size_t at = i + 1 + strspn(entry + i + 1, BLANKS);
            if (at + 2 < bytes && (entry[at] == 'q' || entry[at] == 'Q') && entry[at + 1] == '=') {
                return strtod(entry + at + 2, NULL) <= 0;
            }
        }
    }
    return false;
}

/* The best precision among the entries; *forbidden tells of that entry. */
static int best_precision(const char *accept, const char *media_type, bool *forbidden)
{
    int best = 0;
    *forbidden = false;
    while (*accept != '\0') {
        accept += strspn(accept, BLANKS ",");
        size_t bytes = strcspn(accept, ",");
        size_t name = strcspn(accept, ",;");
        int found = precision(accept, trimmed(accept, name), media_type);
        if (found > best) {
            best = found;
            *forbidden = forbids(accept, bytes);
        }
        accept += bytes;
    }
    return best;
}

bool kvs_accept_admits(const char *accept, const char *media_type)
{
    bool forbidden;
    if (accept == NULL || accept[strspn(accept, BLANKS)] == '\0') {
        return true;
    }
    return best_precision(accept, media_type, &forbidden) > 0 && !forbidden;
}

bool kvs_accept_names(const char *accept, const char *media_type)
{
    bool forbidden;
    return accept != NULL && best_precision(accept, media_type, &forbidden) == 3 && !forbidden;
}

bool kvs_media_type_is(const char *content_type, const char *media_type)
{
    size_t bytes = trimmed(content_type, strcspn(content_type, ";"));
    return bytes == strlen(media_type) && strncasecmp(content_type, media_type, bytes) == 0;
}

/* ------------------------------------------------------------------ conditions and ranges */

bool kvs_etag_list_holds(const char *list, const char *etag)
{
    if (strcmp(list, "*") == 0) {
        return true;
    }
    while (*list != '\0') {
        list += strspn(list, BLANKS ",");
        if (strncmp(list, "W/", 2) == 0) {
            list += 2;
        }
        size_t bytes = strcspn(list, BLANKS ",");
        if (bytes == strlen(etag) && memcmp(list, etag, bytes) == 0) {
            return true;
        }
        list += bytes;
    }
    return false;
}

/* A decimal number at *text, which moves behind it. */
static bool read_number(const char **text, uint64_t *out)
{
    char *end;
    if (**text < '0' || **text > '9') {
        return false;
    }
    errno = 0;
    *out = strtoull(*text, &end, 10);
    *text = end;
    return errno == 0;
}

kvs_range kvs_range_parse(const char *range, uint64_t total, uint64_t *first, uint64_t *bytes)
{
    uint64_t last = UINT64_MAX;
    if (strncmp(range, "bytes=", 6) != 0) {
        return KVS_RANGE_WHOLE;
    }
    range += 6;
    bool suffix = *range == '-';
    if (!suffix && !read_number(&range, first)) {
        return KVS_RANGE_WHOLE;
    }
    if (*range++ != '-') {
        return KVS_RANGE_WHOLE;
    }
    if (*range != '\0' && !read_number(&range, &last)) {
        return KVS_RANGE_WHOLE;
    }
    if (*range != '\0' || (suffix && last == UINT64_MAX)) {
        return KVS_RANGE_WHOLE;
    }
    if (suffix) {
        *bytes = last < total ? last : total;
        *first = total - *bytes;
        return *bytes > 0 ? KVS_RANGE_PART : KVS_RANGE_NONE;
    }
    if (last < *first) {
        return KVS_RANGE_WHOLE; /* not a valid range, so the header does not count */
    }
    if (*first >= total) {
        return KVS_RANGE_NONE;
    }
    last = last < total - 1 ? last : total - 1;
    *bytes = last - *first + 1;
    return KVS_RANGE_PART;
}

/* ------------------------------------------------------------------ hosts */

static bool is_address(const char *name)
{
    struct in6_addr six;
    struct in_addr four;
    return inet_pton(AF_INET, name, &four) == 1 || inet_pton(AF_INET6, name, &six) == 1;
}

static bool is_listed(const char *name, const char *names)
{
    size_t length = strlen(name);
    while (*names != '\0') {
        names += strspn(names, BLANKS ",");
        size_t bytes = strcspn(names, ",");
        size_t word = trimmed(names, bytes);
        if (word == length && strncasecmp(names, name, word) == 0) {
            return true;
        }
        names += bytes;
    }
    return false;
}

bool kvs_host_is_ours(const char *host, const char *names)
{
    char name[HOST_BYTES_MAX];
    bool bracket = host[0] == '[';
    const char *start = bracket ? host + 1 : host;
    size_t bytes = strcspn(start, bracket ? "]" : ":");
    const char *rest = start + bytes;
    if (bytes == 0 || bytes >= sizeof name || (bracket && *rest != ']')) {
        return false;
    }
    memcpy(name, start, bytes);
    name[bytes] = '\0';
    rest += bracket ? 1 : 0;
    if (*rest != '\0' && (*rest != ':' || rest[1 + strspn(rest + 1, "0123456789")] != '\0')) {
        return false;
    }
    return is_address(name) || strcasecmp(name, "localhost") == 0 || is_listed(name, names);
}
