#include "base/check.h"
#include "engine/session.h"

#include <stdlib.h>

static kvs_entry *entry_of(const kvs_window *window, uint64_t sequence)
{
    return &window->entries[sequence & window->mask];
}

static kvs_status make_ring(uint64_t size, kvs_entry **entries, uint64_t *mask)
{
    uint64_t slots = 16;
    while (slots < 2 * size) {
        slots *= 2;
    }
    *entries = calloc(slots, sizeof **entries);
    *mask = slots - 1;
    return *entries == NULL ? KVS_NO_MEMORY : KVS_OK;
}

kvs_status kvs_window_init(kvs_window *window, uint64_t size)
{
    window->size = size;
    window->low = 1;
    window->through = 0;
    return make_ring(size, &window->entries, &window->mask);
}

void kvs_window_deinit(kvs_window *window)
{
    free(window->entries);
}

kvs_status kvs_window_grow(kvs_window *window, uint64_t size)
{
    kvs_entry *entries;
    uint64_t mask;
    KVS_CHECK(size >= window->size);
    KVS_TRY(make_ring(size, &entries, &mask));
    uint64_t first = window->low > window->size ? window->low - window->size : 1;
    for (uint64_t s = first; s < window->low + window->size; s++) {
        entries[s & mask] = *entry_of(window, s);
    }
    /* Sequences below `first` that the larger window would still know have ended well, as far as
     * anybody can tell. */
    for (uint64_t s = window->low > size ? window->low - size : 1; s < first; s++) {
        entries[s & mask] = (kvs_entry){.state = KVS_ENTRY_ENDED, .status = KVS_OK};
    }
    free(window->entries);
    window->entries = entries;
    window->mask = mask;
    window->size = size;
    return KVS_OK;
}

kvs_place kvs_window_find(kvs_window *window, uint64_t sequence, kvs_entry **out)
{
    if (sequence >= window->low + window->size) {
        return KVS_PLACE_BEYOND;
    }
    if (sequence + window->size < window->low) {
        return KVS_PLACE_OLD;
    }
    *out = entry_of(window, sequence);
    return KVS_PLACE_IN;
}

static bool move_through(kvs_window *window)
{
    uint64_t before = window->through;
    while (window->through + 1 < window->low + window->size &&
           entry_of(window, window->through + 1)->state >= KVS_ENTRY_OPEN) {
        window->through++;
    }
    return window->through != before;
}

bool kvs_window_open(kvs_window *window, uint64_t sequence)
{
    entry_of(window, sequence)->state = KVS_ENTRY_OPEN;
    return move_through(window);
}

/* Forgets the entry that the window's upper end has just come to stand on. */
static void move_low(kvs_window *window)
{
    while (entry_of(window, window->low)->state == KVS_ENTRY_ENDED) {
        *entry_of(window, window->low + window->size) = (kvs_entry){0};
        window->low++;
    }
    (void)move_through(window);
}

void kvs_window_end(kvs_window *window, uint64_t sequence, kvs_status status)
{
    *entry_of(window, sequence) = (kvs_entry){.state = KVS_ENTRY_ENDED, .status = (uint8_t)status};
    move_low(window);
}

/* Starts anew at `low`, when nothing is at work. */
static void jump(kvs_window *window, uint64_t low)
{
    for (uint64_t i = 0; i <= window->mask; i++) {
        if (window->entries[i].op != NULL) {
            return;
        }
    }
    for (uint64_t i = 0; i <= window->mask; i++) {
        window->entries[i] = (kvs_entry){0};
    }
    for (uint64_t s = low > window->size ? low - window->size : 1; s < low; s++) {
        entry_of(window, s)->state = KVS_ENTRY_ENDED;
    }
    window->low = low;
    window->through = low - 1;
}

void kvs_window_skip(kvs_window *window, uint64_t low)
{
    if (low > window->low && low - window->low > window->size) {
        jump(window, low);
        return;
    }
    while (window->low < low) {
        kvs_entry *entry = entry_of(window, window->low);
        if (entry->op != NULL) {
            return; /* it is still at work; its end moves the window */
        }
        *entry = (kvs_entry){.state = KVS_ENTRY_ENDED, .status = KVS_OK};
        move_low(window);
    }
}
