/* kvctl: the command line for admins and scripts. */
#include "client/kvctl/ctl.h"
#include "client/kvctl/http.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORDS_MAX 64

static const char usage[] =
    "Usage: kvctl COMMAND [ARGUMENTS] [OPTIONS]\n"
    "\n"
    "  kvctl status                         is it ready, which stores, who is missing\n"
    "  kvctl keys [--prefix model/]         names, dtypes, shapes, versions\n"
    "  kvctl get w                          a value as text; -o json, npy, safetensors, raw\n"
    "  kvctl get w w.npy                    a value into a file (npy, safetensors; else raw)\n"
    "  kvctl put w w.npy                    creates the key or assigns its value\n"
    "  kvctl put w w.bin --dtype f32 --shape 2,3\n"
    "  echo 1 2 3 | kvctl put w - --format text\n"
    "  kvctl optimizer get\n"
    "  kvctl optimizer set sgd learning_rate=0.1 momentum=0.9\n"
    "  kvctl optimizer set @optimizer.json\n"
    "  kvctl states save s.safetensors [--weights] [--dump-optimizer]\n"
    "  kvctl states load s.safetensors      optimizer states, whole or not at all\n"
    "  kvctl worker ls                      ranks, states, what they have pushed\n"
    "  kvctl health [--rpc]                 exit code 0 when ready (--rpc: gRPC as well)\n"
    "  kvctl selftest                       push and pull end to end, in a store of its own\n"
    "  kvctl version                        of kvctl and of the server\n"
    "\n"
    "Options, anywhere:\n"
    "  --endpoint 127.0.0.1:9401       the HTTP address (KVCTL_ENDPOINT)\n"
    "  --grpc-endpoint 127.0.0.1:9400  the gRPC address, or unix:/path (KVCTL_GRPC_ENDPOINT)\n"
    "  --store default                 which store (KVCTL_STORE)\n"
    "  -o, --output table|json         get: text, json, npy, safetensors or raw\n"
    "  --timeout 10                    seconds without an answer\n"
    "\n"
    "Exit codes: 0 done, 1 refused or not healthy, 2 wrong use, 3 no server, 4 a local file.\n";

typedef struct command {
    const char *name;
    const char *second; /* NULL: a command of one word */
    kvs_ctl_function *run;
    int words_min, words_max;
    const char *form;
} command;

static const command commands[] = {
    {"status", NULL, kvs_ctl_status, 0, 0, "kvctl status"},
    {"keys", NULL, kvs_ctl_keys, 0, 0, "kvctl keys [--prefix TEXT]"},
    {"get", NULL, kvs_ctl_get, 1, 2, "kvctl get KEY [FILE] [-o text|json|npy|safetensors|raw]"},
    {"put", NULL, kvs_ctl_put, 2, 2,
     "kvctl put KEY FILE [--format npy|safetensors|raw|text] [--dtype f32] [--shape 2,3] "
     "[--if-match ETAG]"},
    {"optimizer", "get", kvs_ctl_optimizer_get, 0, 0, "kvctl optimizer get"},
    {"optimizer", "set", kvs_ctl_optimizer_set, 1, WORDS_MAX,
     "kvctl optimizer set NAME [FIELD=VALUE ...] | JSON | @FILE | - | none"},
    {"states", "save", kvs_ctl_states_save, 1, 1,
     "kvctl states save FILE [--weights] [--dump-optimizer]"},
    {"states", "load", kvs_ctl_states_load, 1, 1, "kvctl states load FILE"},
    {"worker", "ls", kvs_ctl_worker_ls, 0, 0, "kvctl worker ls"},
    {"health", NULL, kvs_ctl_health, 0, 0, "kvctl health [--rpc]"},
    {"selftest", NULL, kvs_ctl_selftest, 0, 0, "kvctl selftest"},
    {"version", NULL, kvs_ctl_version, 0, 0, "kvctl version"},
};
#define COMMANDS (sizeof commands / sizeof commands[0])

enum {
    OPTION_ENDPOINT = 256,
    OPTION_GRPC,
    OPTION_STORE,
    OPTION_TIMEOUT,
    OPTION_FORMAT,
    OPTION_DTYPE,
    OPTION_SHAPE,
    OPTION_IF_MATCH,
    OPTION_PREFIX,
    OPTION_RPC,
    OPTION_WEIGHTS,
    OPTION_DUMP_OPTIMIZER
};

static const struct option options[] = {
    {"endpoint", required_argument, NULL, OPTION_ENDPOINT},
    {"grpc-endpoint", required_argument, NULL, OPTION_GRPC},
    {"store", required_argument, NULL, OPTION_STORE},
    {"output", required_argument, NULL, 'o'},
    {"timeout", required_argument, NULL, OPTION_TIMEOUT},
    {"format", required_argument, NULL, OPTION_FORMAT},
    {"dtype", required_argument, NULL, OPTION_DTYPE},
    {"shape", required_argument, NULL, OPTION_SHAPE},
    {"if-match", required_argument, NULL, OPTION_IF_MATCH},
    {"prefix", required_argument, NULL, OPTION_PREFIX},
    {"rpc", no_argument, NULL, OPTION_RPC},
    {"weights", no_argument, NULL, OPTION_WEIGHTS},
    {"dump-optimizer", no_argument, NULL, OPTION_DUMP_OPTIMIZER},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};
#define OPTIONS (sizeof options / sizeof options[0] - 1)

kvs_exit kvs_ctl_fail(kvs_exit code, const char *next, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)fflush(stdout);
    (void)fprintf(stderr, "kvctl: ");
    (void)vfprintf(stderr, format, arguments);
    (void)fprintf(stderr, "\n  next: %s\n", next);
    va_end(arguments);
    return code;
}

const char *kvs_ctl_suggest(const char *word, const char *const *words, size_t count,
                            const char *otherwise)
{
    static char text[128];
    const char *nearest = kvs_json_nearest(word, words, count);
    if (nearest == NULL) {
        return otherwise;
    }
    (void)snprintf(text, sizeof text, "Did you mean %s?", nearest);
    return text;
}

bool kvs_ctl_wants_json(const kvs_ctl *ctl, kvs_exit *code)
{
    *code = KVS_EXIT_DONE;
    if (ctl->output == NULL || strcmp(ctl->output, "table") == 0) {
        return false;
    }
    if (strcmp(ctl->output, "json") == 0) {
        return true;
    }
    *code = kvs_ctl_fail(KVS_EXIT_USAGE, "Use -o table or -o json.", "%s has no output %s",
                         ctl->command_name, ctl->output);
    return false;
}

kvs_exit kvs_ctl_print_json(const json_t *value)
{
    if (json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY) != 0) {
        return kvs_ctl_fail(KVS_EXIT_LOCAL, "Is the disk full?", "writing to stdout failed");
    }
    (void)fputc('\n', stdout);
    return KVS_EXIT_DONE;
}

static const char *or_environment(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value != NULL && *value != '\0' ? value : otherwise;
}

static kvs_exit unknown_option(const char *word)
{
    const char *names[OPTIONS];
    char bare[64];
    for (size_t i = 0; i < OPTIONS; i++) {
        names[i] = options[i].name;
    }
    (void)snprintf(bare, sizeof bare, "%.*s", (int)strcspn(word + strspn(word, "-"), "="),
                   word + strspn(word, "-"));
    return kvs_ctl_fail(KVS_EXIT_USAGE, kvs_ctl_suggest(bare, names, OPTIONS, "See kvctl --help."),
                        "the option %s is unknown, or lacks its value", word);
}

static kvs_exit set_timeout(kvs_ctl *ctl, const char *text)
{
    char *end = NULL;
    ctl->timeout_seconds = strtol(text, &end, 10);
    if (end == text || *end != '\0' || ctl->timeout_seconds < 1 || ctl->timeout_seconds > 86400) {
        return kvs_ctl_fail(KVS_EXIT_USAGE, "Use whole seconds from 1 to 86400.",
                            "--timeout %s is no time", text);
    }
    return KVS_EXIT_DONE;
}

static kvs_exit set_option(kvs_ctl *ctl, int option, const char *value, const char *word)
{
    switch (option) {
    case OPTION_ENDPOINT:
        ctl->endpoint = strncmp(value, "http://", 7) == 0 ? value + 7 : value;
        return KVS_EXIT_DONE;
    case OPTION_GRPC:
        ctl->grpc_endpoint = value;
        return KVS_EXIT_DONE;
    case OPTION_STORE:
        ctl->store = value;
        return KVS_EXIT_DONE;
    case 'o':
        ctl->output = value;
        return KVS_EXIT_DONE;
    case OPTION_FORMAT:
        ctl->format = value;
        return KVS_EXIT_DONE;
    case OPTION_DTYPE:
        ctl->dtype = value;
        return KVS_EXIT_DONE;
    case OPTION_SHAPE:
        ctl->shape = value;
        return KVS_EXIT_DONE;
    case OPTION_IF_MATCH:
        ctl->if_match = value;
        return KVS_EXIT_DONE;
    case OPTION_PREFIX:
        ctl->prefix = value;
        return KVS_EXIT_DONE;
    case OPTION_RPC:
        ctl->rpc = true;
        return KVS_EXIT_DONE;
    case OPTION_WEIGHTS:
        ctl->weights = true;
        return KVS_EXIT_DONE;
    case OPTION_DUMP_OPTIMIZER:
        ctl->dump_optimizer = true;
        return KVS_EXIT_DONE;
    case OPTION_TIMEOUT:
        return set_timeout(ctl, value);
    case 'h':
        ctl->help = true;
        return KVS_EXIT_DONE;
    default:
        return unknown_option(word);
    }
}

static const command *find_command(int count, char **words)
{
    for (size_t i = 0; i < COMMANDS; i++) {
        if (strcmp(words[0], commands[i].name) == 0 &&
            (commands[i].second == NULL ||
             (count > 1 && strcmp(words[1], commands[i].second) == 0))) {
            return &commands[i];
        }
    }
    return NULL;
}

static kvs_exit unknown_command(int count, char **words)
{
    const char *names[COMMANDS];
    size_t known = 0;
    bool first_known = false;
    for (size_t i = 0; i < COMMANDS; i++) {
        first_known = first_known || strcmp(words[0], commands[i].name) == 0;
    }
    for (size_t i = 0; i < COMMANDS; i++) {
        if (!first_known) {
            names[known++] = commands[i].name;
        } else if (strcmp(words[0], commands[i].name) == 0) {
            names[known++] = commands[i].second;
        }
    }
    if (!first_known) {
        return kvs_ctl_fail(KVS_EXIT_USAGE,
                            kvs_ctl_suggest(words[0], names, known, "See kvctl --help."),
                            "there is no command %s", words[0]);
    }
    if (count < 2) {
        return kvs_ctl_fail(KVS_EXIT_USAGE, "See kvctl --help.", "%s needs a second word",
                            words[0]);
    }
    return kvs_ctl_fail(KVS_EXIT_USAGE,
                        kvs_ctl_suggest(words[1], names, known, "See kvctl --help."),
                        "%s knows no %s", words[0], words[1]);
}

static kvs_exit run_command(kvs_ctl *ctl, int count, char **words)
{
    char name[64];
    if (count > 0 && strcmp(words[0], "help") == 0) {
        ctl->help = true;
    }
    if (ctl->help) {
        (void)fputs(usage, stdout);
        return KVS_EXIT_DONE;
    }
    if (count == 0) {
        (void)fputs(usage, stderr);
        return KVS_EXIT_USAGE;
    }
    const command *found = find_command(count, words);
    if (found == NULL) {
        return unknown_command(count, words);
    }
    const int used = found->second == NULL ? 1 : 2;
    if (count - used < found->words_min || count - used > found->words_max) {
        return kvs_ctl_fail(KVS_EXIT_USAGE, found->form, "%s with %d arguments", words[0],
                            count - used);
    }
    (void)snprintf(name, sizeof name, "%s%s%s", found->name, used == 2 ? " " : "",
                   used == 2 ? found->second : "");
    ctl->command_name = name;
    kvs_exit code = kvs_http_open();
    if (code == KVS_EXIT_DONE) {
        code = found->run(ctl, count - used, words + used);
        kvs_http_close();
    }
    if (code == KVS_EXIT_DONE && (fflush(stdout) != 0 || ferror(stdout) != 0)) {
        code = kvs_ctl_fail(KVS_EXIT_LOCAL, "Is the disk full?", "writing to stdout failed");
    }
    return code;
}

int main(int count, char **words)
{
    kvs_ctl ctl = {.endpoint = or_environment("KVCTL_ENDPOINT", "127.0.0.1:9401"),
                   .grpc_endpoint = or_environment("KVCTL_GRPC_ENDPOINT", "127.0.0.1:9400"),
                   .store = or_environment("KVCTL_STORE", "default"),
                   .timeout_seconds = 10};
    opterr = 0;
    for (int option; (option = getopt_long(count, words, "o:h", options, NULL)) != -1;) {
        const kvs_exit code = set_option(&ctl, option, optarg, words[optind - 1]);
        if (code != KVS_EXIT_DONE) {
            return (int)code;
        }
    }
    return (int)run_command(&ctl, count - optind, words + optind);
}
