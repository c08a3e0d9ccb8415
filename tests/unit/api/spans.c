#include "tests/unit/api/spans.h"

#include "base/check.h"

#include <stdlib.h>
#include <string.h>

uint64_t kvs_seed_next(kvs_seed *seed)
{
    seed->state += 0x9e3779b97f4a7c15u;
    uint64_t mixed = seed->state;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return mixed ^ (mixed >> 31);
}

uint64_t kvs_seed_below(kvs_seed *seed, uint64_t below)
{
    return kvs_seed_next(seed) % below;
}

bool kvs_seed_chance(kvs_seed *seed, unsigned in)
{
    return kvs_seed_below(seed, in) == 0;
}

uint64_t kvs_seed_number(kvs_seed *seed)
{
    return kvs_seed_next(seed) >> kvs_seed_below(seed, 64);
}

kvs_spans kvs_spans_cut(const uint8_t *bytes, size_t count, size_t pieces_max, kvs_seed *seed)
{
    kvs_spans cut = {.count = 1 + kvs_seed_below(seed, pieces_max)};
    cut.spans = calloc(cut.count, sizeof(kvs_span));
    KVS_CHECK(cut.spans != NULL);
    size_t at = 0;
    for (size_t i = 0; i < cut.count; i++) {
        size_t size = i + 1 == cut.count ? count - at : kvs_seed_below(seed, count - at + 1);
        size = kvs_seed_chance(seed, 3) && i + 1 < cut.count && size > 9 ? size % 9 : size;
        uint8_t *piece = malloc(size == 0 ? 1 : size);
        KVS_CHECK(piece != NULL);
        if (size > 0) {
            memcpy(piece, bytes + at, size);
        }
        cut.spans[i] = (kvs_span){piece, size};
        at += size;
    }
    return cut;
}

void kvs_spans_free(kvs_spans *spans)
{
    for (size_t i = 0; i < spans->count; i++) {
        free((void *)(uintptr_t)spans->spans[i].data);
    }
    free(spans->spans);
}
