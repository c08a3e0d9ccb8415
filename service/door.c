#include "service/door.h"

/* As many streams as are looked at in one go; the others come next time round. */
#define LOOKS_AT_ONCE 256u

kvs_status kvs_door_find(kvs_door *door, const char *store, size_t store_bytes,
                         const uint8_t *session, size_t session_bytes, uint64_t epoch,
                         kvs_store **out_store, kvs_session **out, kvs_problem *problem)
{
    kvs_store *found = NULL;
    KVS_TRY(kvs_store_find(door->engine, store, store_bytes, &found, problem));
    kvs_status status = kvs_session_find(found, session, session_bytes, epoch, out, problem);
    if (status == KVS_OK && out_store != NULL) {
        *out_store = found;
    } else {
        kvs_store_unref(found);
    }
    return status;
}

void kvs_door_subscribe(kvs_door *door, kvs_subscriber *subscriber)
{
    pthread_mutex_lock(&door->lock);
    if (!subscriber->listed) {
        subscriber->listed = true;
        subscriber->next = door->subscribers;
        door->subscribers = subscriber;
    }
    pthread_mutex_unlock(&door->lock);
}

void kvs_door_unsubscribe(kvs_door *door, kvs_subscriber *subscriber)
{
    pthread_mutex_lock(&door->lock);
    for (kvs_subscriber **at = &door->subscribers; *at != NULL; at = &(*at)->next) {
        if (*at == subscriber) {
            *at = subscriber->next;
            subscriber->listed = false;
            break;
        }
    }
    pthread_mutex_unlock(&door->lock);
}

void kvs_door_look(kvs_door *door, uint64_t now_ns)
{
    kvs_subscriber *found[LOOKS_AT_ONCE];
    size_t count = 0;
    pthread_mutex_lock(&door->lock);
    kvs_subscriber **last = &door->subscribers;
    while (*last != NULL && count < LOOKS_AT_ONCE) {
        found[count] = *last;
        (void)kvs_call_take(found[count]->call);
        count++;
        last = &(*last)->next;
    }
    if (*last != NULL) { /* more than fit: turn the list, so that these come last */
        kvs_subscriber *rest = *last;
        kvs_subscriber *tail = rest;
        while (tail->next != NULL) {
            tail = tail->next;
        }
        tail->next = door->subscribers;
        *last = NULL;
        door->subscribers = rest;
    }
    pthread_mutex_unlock(&door->lock);
    bool stopping = atomic_load_explicit(&door->stopping, memory_order_acquire);
    for (size_t i = 0; i < count; i++) {
        found[i]->look(found[i], now_ns);
        if (stopping && kvs_call_method(found[i]->call)->lasting) {
            kvs_problem problem;
            (void)kvs_problem_set(&problem, KVS_STOPPING, "the server is stopping");
            kvs_call_finish(found[i]->call, &problem);
        }
        kvs_call_unref(found[i]->call);
    }
}
