#include "examples/diloco/statistics.h"

#include <curl/curl.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_SECONDS 20L

typedef struct body {
    char text[4096];
    size_t bytes;
} body;

static size_t keep(char *data, size_t size, size_t count, void *context)
{
    body *to = context;
    const size_t bytes = size * count;
    if (bytes >= sizeof to->text - to->bytes) {
        return 0;
    }
    memcpy(to->text + to->bytes, data, bytes);
    to->bytes += bytes;
    to->text[to->bytes] = '\0';
    return bytes;
}

/* The whole number that stands after "name":, in quotes as 64 bits do in JSON. */
static bool find_number(const char *text, const char *name, uint64_t *out)
{
    const char *start = strstr(text, name);
    start = start == NULL ? NULL : strpbrk(start + strlen(name) + 1, "0123456789");
    if (start == NULL) {
        (void)fprintf(stderr, "diloco: the server's statistics have no %s.\n", name);
        return false;
    }
    *out = strtoull(start, NULL, 10);
    return true;
}

bool diloco_statistics_read(const char *address, diloco_statistics *out)
{
    char url[256];
    body got = {.bytes = 0};
    CURL *curl = curl_easy_init();
    if (curl == NULL) {
        (void)fprintf(stderr, "diloco: libcurl does not start.\n");
        return false;
    }
    (void)snprintf(url, sizeof url, "http://%s/v1/stores/default/statistics", address);
    (void)curl_easy_setopt(curl, CURLOPT_URL, url);
    (void)curl_easy_setopt(curl, CURLOPT_PROXY, "");
    (void)curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
    (void)curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(curl, CURLOPT_TIMEOUT, TIMEOUT_SECONDS);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, keep);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEDATA, &got);
    const CURLcode code = curl_easy_perform(curl);
    curl_easy_cleanup(curl);
    if (code != CURLE_OK) {
        (void)fprintf(stderr, "diloco: GET %s: %s.\n", url, curl_easy_strerror(code));
        return false;
    }
    return find_number(got.text, "\"bytes_pushed\"", &out->bytes_pushed) &&
           find_number(got.text, "\"bytes_pulled\"", &out->bytes_pulled) &&
           find_number(got.text, "\"rounds_closed\"", &out->rounds_closed);
}
