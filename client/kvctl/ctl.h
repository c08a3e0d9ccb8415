/* What every command of kvctl gets: where the server is, how to print, and one exit code to give.
 *
 * Results go to stdout, everything else to stderr; every error ends with a next step.
 * Threads: one.
 */
#ifndef KVS_CLIENT_KVCTL_CTL_H
#define KVS_CLIENT_KVCTL_CTL_H

#include "base/json.h"
#include "base/status.h"

typedef enum kvs_exit {
    KVS_EXIT_DONE = 0,
    KVS_EXIT_REFUSED = 1,     /* the server said no, or is not healthy */
    KVS_EXIT_USAGE = 2,       /* the command line is wrong */
    KVS_EXIT_UNREACHABLE = 3, /* no server answered */
    KVS_EXIT_LOCAL = 4        /* a file or the memory of this machine */
} kvs_exit;

/* The command line, read. Borrows its words. */
typedef struct kvs_ctl {
    const char *endpoint;      /* of HTTP: host:port */
    const char *grpc_endpoint; /* host:port or unix:/path */
    const char *store;
    const char *output; /* NULL: the command's own default */
    const char *format; /* put: npy, safetensors, raw, text; NULL: by the file's name */
    const char *dtype;
    const char *shape; /* "2,3"; "" is a scalar; NULL: not said */
    const char *if_match;
    const char *prefix;
    const char *command_name; /* "worker ls", for messages */
    long timeout_seconds;
    bool rpc;
    bool weights;        /* states save */
    bool dump_optimizer; /* states save */
    bool help;
} kvs_ctl;

typedef kvs_exit kvs_ctl_function(const kvs_ctl *ctl, int count, char **words);

/* Prints "kvctl: ..." and, on the next line, what to do. Gives `code`. */
kvs_exit kvs_ctl_fail(kvs_exit code, const char *next, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* "Did you mean X?" for one of `count` words, or `otherwise`. Borrowed until the next call. */
const char *kvs_ctl_suggest(const char *word, const char *const *words, size_t count,
                            const char *otherwise);

/* True when -o json was given. False with an exit code in `code` for anything but table or json. */
bool kvs_ctl_wants_json(const kvs_ctl *ctl, kvs_exit *code);

/* Prints a tree on stdout, indented, with a line's end. */
kvs_exit kvs_ctl_print_json(const json_t *value);

kvs_ctl_function kvs_ctl_status, kvs_ctl_health, kvs_ctl_version, kvs_ctl_keys, kvs_ctl_get,
    kvs_ctl_put, kvs_ctl_optimizer_get, kvs_ctl_optimizer_set, kvs_ctl_worker_ls, kvs_ctl_selftest,
    kvs_ctl_states_save, kvs_ctl_states_load;

#endif
