/* The table of settings: name, kind, default, help, and where in kvs_config the value goes.
 *
 * Threads: any; the table is constant. Errors: KVS_INVALID_FIELD; the detail says what is expected.
 */
#ifndef KVS_SERVICE_SETTINGS_H
#define KVS_SERVICE_SETTINGS_H

#include "service/config.h"

#define KVS_SETTINGS 29u

typedef enum kvs_setting_kind {
    KVS_SETTING_TEXT,
    KVS_SETTING_ADDRESS,
    KVS_SETTING_ADDRESS_OR_NONE,
    KVS_SETTING_STORE_TYPE,
    KVS_SETTING_CHOICE,
    KVS_SETTING_COUNT, /* min to max */
    KVS_SETTING_DURATION,
    KVS_SETTING_SIZE,
    KVS_SETTING_SWITCH
} kvs_setting_kind;

typedef struct kvs_setting {
    const char *name;
    kvs_setting_kind kind;
    const char *fallback;
    size_t offset; /* in kvs_config */
    const char *help;
    uint64_t min, max;
    const char *choices[4]; /* in the order of the enumeration */
} kvs_setting;

/* `index` below KVS_SETTINGS. */
const kvs_setting *kvs_setting_at(size_t index);

/* The index of a name, KVS_SETTINGS for none. */
size_t kvs_setting_find(const char *name, size_t bytes);

/* Reads `text`, which must live as long as the configuration, into it. `source` is for the
 * refusal: "flag". */
kvs_status kvs_setting_store(const kvs_setting *setting, const char *text, const char *source,
                             kvs_config *config, kvs_problem *problem) KVS_MUST_CHECK;

#endif
