/* A planted bug: the window forgets some of what has been applied, so that a repetition is taken
 * for new. */
#include "engine/session.h"

kvs_place kvs_planted_window_find(kvs_window *window, uint64_t sequence, kvs_entry **out);

#define kvs_window_find kvs_planted_window_find
#include "engine/window.c"
#undef kvs_window_find

kvs_place kvs_window_find(kvs_window *window, uint64_t sequence, kvs_entry **out)
{
    kvs_place place = kvs_planted_window_find(window, sequence, out);
    if (place == KVS_PLACE_IN && sequence % 3 == 0 && (*out)->state == KVS_ENTRY_ENDED &&
        (*out)->status == KVS_OK) {
        (*out)->state = KVS_ENTRY_NEW;
    }
    return place;
}
