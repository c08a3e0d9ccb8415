#include "service/door.h"

#include "api/kvstored.pb-c.h"
#include "service/pb_call.h"
#include "service/watch.h"

#include <stdlib.h>
#include <string.h>

/* Events that a peer may leave unread before the next ones wait; what waits is told at its newest,
 * not one by one. */
#define EVENTS_MAX 64u
/* Keys that one look goes through; a store of more is gone through in several. */
#define KEYS_A_LOOK 256u

/* What was last told of a key. In the order of kvs_key_list. */
typedef struct told_key {
    char name[KVS_KEY_BYTES_MAX + 1];
    kvs_version version;
} told_key;

/* The Watch stream. After the request only the ticking thread touches it. */
typedef struct watch_state {
    kvs_subscriber subscriber; /* first */
    Kvstored__V1__WatchRequest *request;
    kvs_store *store;
    bool told_membership;
    uint64_t membership;
    bool told_configuration;
    char *optimizer; /* JSON, as told */
    told_key *keys;
    size_t key_count, key_max;
    size_t at; /* where `after` belongs in keys */
    char after[KVS_KEY_BYTES_MAX + 1];
} watch_state;

static void send_event(watch_state *state, Kvstored__V1__WatchEvent *event)
{
    kvs_pb_send(state->subscriber.call, &event->base);
}

/* ------------------------------------------------------------------ membership */

/* Splits the ranks of a store into the live and the missing; false without memory. */
static bool tell_ranks(watch_state *state, const kvs_store_info *info, uint64_t now_ns)
{
    kvs_worker_info *workers = calloc(info->num_workers, sizeof(*workers));
    uint32_t *live = calloc(info->num_workers, sizeof(*live));
    uint32_t *missing = calloc(info->num_workers, sizeof(*missing));
    bool room = workers != NULL && live != NULL && missing != NULL;
    if (room) {
        size_t count = kvs_worker_list(state->store, now_ns, info->num_workers, workers);
        size_t next = 0;
        Kvstored__V1__Membership membership = KVSTORED__V1__MEMBERSHIP__INIT;
        for (uint32_t rank = 0; rank < info->num_workers; rank++) {
            while (next < count && workers[next].rank < rank) {
                next++;
            }
            bool here = next < count && workers[next].rank == rank &&
                        strcmp(workers[next].state, "live") == 0;
            if (here) {
                live[membership.n_live_ranks++] = rank;
            } else {
                missing[membership.n_missing_ranks++] = rank;
            }
        }
        membership.membership = info->membership;
        membership.num_workers = info->num_workers;
        membership.live_ranks = live;
        membership.missing_ranks = missing;
        Kvstored__V1__WatchEvent event = KVSTORED__V1__WATCH_EVENT__INIT;
        event.event_case = KVSTORED__V1__WATCH_EVENT__EVENT_MEMBERSHIP;
        event.membership = &membership;
        send_event(state, &event);
    }
    free(workers);
    free(live);
    free(missing);
    return room;
}

static void look_at_membership(watch_state *state, uint64_t now_ns)
{
    kvs_store_info info;
    kvs_store_describe(state->store, &info);
    if ((!state->told_membership || info.membership != state->membership) &&
        tell_ranks(state, &info, now_ns)) {
        state->told_membership = true;
        state->membership = info.membership;
    }
}

/* ------------------------------------------------------------------ configuration */

static void look_at_configuration(watch_state *state)
{
    static char none[] = "";
    kvs_optimizer *optimizer = kvs_store_optimizer(state->store);
    const char *json = optimizer == NULL ? none : kvs_optimizer_json(optimizer);
    if (!state->told_configuration || strcmp(state->optimizer, json) != 0) {
        char *copy = strdup(json);
        if (copy != NULL) {
            free(state->optimizer);
            state->optimizer = copy;
            state->told_configuration = true;
            Kvstored__V1__Configuration configuration = KVSTORED__V1__CONFIGURATION__INIT;
            configuration.optimizer_json = copy;
            Kvstored__V1__WatchEvent event = KVSTORED__V1__WATCH_EVENT__INIT;
            event.event_case = KVSTORED__V1__WATCH_EVENT__EVENT_CONFIGURATION;
            event.configuration = &configuration;
            send_event(state, &event);
        }
    }
    kvs_optimizer_unref(optimizer);
}

/* ------------------------------------------------------------------ versions */

/* The row of a key at or after state->at, made if it is not there; NULL without memory. */
static told_key *row_of(watch_state *state, const char *name, bool *made)
{
    while (state->at < state->key_count && strcmp(state->keys[state->at].name, name) < 0) {
        state->at++;
    }
    *made = false;
    if (state->at < state->key_count && strcmp(state->keys[state->at].name, name) == 0) {
        return &state->keys[state->at];
    }
    if (state->key_count == state->key_max) {
        size_t max = state->key_max == 0 ? 16 : state->key_max * 2;
        told_key *keys = realloc(state->keys, max * sizeof(*keys));
        if (keys == NULL) {
            return NULL;
        }
        state->keys = keys;
        state->key_max = max;
    }
    told_key *row = &state->keys[state->at];
    memmove(row + 1, row, (state->key_count - state->at) * sizeof(*row));
    state->key_count++;
    *row = (told_key){.version = {.epoch = 0}};
    (void)snprintf(row->name, sizeof(row->name), "%s", name);
    *made = true;
    return row;
}

static void tell_version(watch_state *state, told_key *row)
{
    Kvstored__V1__Version version = KVSTORED__V1__VERSION__INIT;
    version.epoch = row->version.epoch;
    version.count = row->version.count;
    Kvstored__V1__KeyVersion key = KVSTORED__V1__KEY_VERSION__INIT;
    key.key = row->name;
    key.version = &version;
    Kvstored__V1__WatchEvent event = KVSTORED__V1__WATCH_EVENT__INIT;
    event.event_case = KVSTORED__V1__WATCH_EVENT__EVENT_VERSION;
    event.version = &key;
    send_event(state, &event);
}

static void look_at_versions(watch_state *state)
{
    kvs_key_info infos[KEYS_A_LOOK];
    size_t count =
        kvs_key_list(state->store, state->request->prefix, state->after, KEYS_A_LOOK, infos);
    for (size_t i = 0; i < count; i++) {
        if (kvs_call_queued(state->subscriber.call) >= EVENTS_MAX) {
            return; /* goes on from `after` next time */
        }
        (void)snprintf(state->after, sizeof(state->after), "%.*s", (int)infos[i].name_bytes,
                       infos[i].name);
        bool made;
        told_key *row = row_of(state, state->after, &made);
        if (row != NULL && (made || row->version.epoch != infos[i].version.epoch ||
                            row->version.count != infos[i].version.count)) {
            row->version = infos[i].version;
            tell_version(state, row);
        }
    }
    if (count < KEYS_A_LOOK) { /* the last page: begin again */
        state->after[0] = '\0';
        state->at = 0;
    }
}

/* ------------------------------------------------------------------ the stream */

static void watch_look(kvs_subscriber *subscriber, uint64_t now_ns)
{
    watch_state *state = (watch_state *)(void *)subscriber;
    kvs_call *call = subscriber->call;
    const Kvstored__V1__WatchRequest *request = state->request;
    kvs_door *door = kvs_call_context(call);
    kvs_problem problem;
    kvs_store *now_there = NULL;
    kvs_status status =
        kvs_store_find(door->engine, request->store, strlen(request->store), &now_there, &problem);
    bool same = status == KVS_OK && now_there == state->store;
    kvs_store_unref(now_there);
    if (!same) {
        (void)kvs_problem_set(&problem, KVS_STORE_DELETED, "the watched store was deleted");
        kvs_call_finish(call, &problem);
        return;
    }
    if (kvs_call_queued(call) >= EVENTS_MAX) {
        return;
    }
    if (request->membership) {
        look_at_membership(state, now_ns);
    }
    if (request->configuration) {
        look_at_configuration(state);
    }
    if (request->versions) {
        look_at_versions(state);
    }
}

static void watch_received(kvs_call *call, kvs_message *message, uint64_t now_ns)
{
    (void)now_ns;
    watch_state *state = kvs_call_state(call);
    kvs_door *door = kvs_call_context(call);
    state->request = kvs_pb_take(call, message, &kvstored__v1__watch_request__descriptor);
    if (state->request == NULL) {
        return;
    }
    const Kvstored__V1__WatchRequest *request = state->request;
    kvs_problem problem;
    kvs_status status = kvs_store_find(door->engine, request->store, strlen(request->store),
                                       &state->store, &problem);
    if (status == KVS_OK && strlen(request->prefix) > KVS_KEY_BYTES_MAX) {
        status = kvs_problem_set(&problem, KVS_INVALID_FIELD, "a prefix has at most %u bytes",
                                 KVS_KEY_BYTES_MAX);
    }
    if (status == KVS_OK && !request->versions && !request->membership && !request->configuration) {
        status = kvs_problem_set(&problem, KVS_INVALID_FIELD,
                                 "one of versions, membership and configuration must be set");
    }
    if (status != KVS_OK) {
        kvs_call_finish(call, &problem);
        return;
    }
    state->subscriber.call = call;
    state->subscriber.look = watch_look;
    kvs_door_subscribe(door, &state->subscriber);
}

static void watch_closed(kvs_call *call, uint64_t now_ns)
{
    (void)now_ns;
    watch_state *state = kvs_call_state(call);
    kvs_door_unsubscribe(kvs_call_context(call), &state->subscriber);
}

static void watch_deinit(kvs_call *call)
{
    watch_state *state = kvs_call_state(call);
    kvs_pb_free(state->request);
    kvs_store_unref(state->store);
    free(state->optimizer);
    free(state->keys);
}

static const kvs_method watch_method = {.path = "/kvstored.v1.KVStore/Watch",
                                        .slots = 1,
                                        .streaming = true,
                                        .lasting = true,
                                        .state_bytes = sizeof(watch_state),
                                        .received = watch_received,
                                        .closed = watch_closed,
                                        .deinit = watch_deinit};

const kvs_method *const kvs_watch_methods[] = {&watch_method, NULL};

void kvs_watch_command(kvs_door *door, const char *store, int32_t head, const char *body)
{
    size_t bytes = strlen(body) + 1;
    char *copy = malloc(bytes);
    if (copy == NULL) {
        return; /* a command is told on a best effort: who must not miss one uses a key */
    }
    memcpy(copy, body, bytes);
    Kvstored__V1__CommandEvent command = KVSTORED__V1__COMMAND_EVENT__INIT;
    command.head = head;
    command.body = copy;
    Kvstored__V1__WatchEvent event = KVSTORED__V1__WATCH_EVENT__INIT;
    event.event_case = KVSTORED__V1__WATCH_EVENT__EVENT_COMMAND;
    event.command = &command;
    const char *name = store[0] != '\0' ? store : "default";
    pthread_mutex_lock(&door->lock);
    for (kvs_subscriber *at = door->subscribers; at != NULL; at = at->next) {
        watch_state *state = (watch_state *)(void *)at;
        if (at->look != watch_look || !state->request->configuration) {
            continue;
        }
        const char *watched = state->request->store;
        if (strcmp(watched[0] != '\0' ? watched : "default", name) == 0 &&
            kvs_call_queued(at->call) < EVENTS_MAX) {
            send_event(state, &event);
        }
    }
    pthread_mutex_unlock(&door->lock);
    free(copy);
}
