#include "tests/support/failing_alloc.h"

#include <errno.h>
#include <stddef.h>

static uint64_t calls, fails_at;
static bool goes_on, failed;

void failing_alloc_begin(uint64_t n, bool and_all_after)
{
    calls = 0;
    fails_at = n;
    goes_on = and_all_after;
    failed = false;
}

bool failing_alloc_end(void)
{
    fails_at = 0;
    return failed;
}

static bool fails(void)
{
    if (fails_at == 0) {
        return false;
    }
    calls++;
    if (calls == fails_at || (goes_on && calls > fails_at)) {
        failed = true;
        return true;
    }
    return false;
}

/* The linker's names (--wrap): what the program calls, and what it would have called. */
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
int __real_posix_memalign(void **out, size_t alignment, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
char *__wrap_strdup(const char *text);

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *old, size_t bytes)
{
    return fails() ? NULL : __real_realloc(old, bytes);
}

int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes)
{
    return fails() ? ENOMEM : __real_posix_memalign(out, alignment, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    return fails() ? NULL : __real_aligned_alloc(alignment, bytes);
}

char *__wrap_strdup(const char *text)
{
    return fails() ? NULL : __real_strdup(text);
}
