/* kvbench: how fast kvstored is on this machine, beside what the machine and gRPC can do. */
#include "bench/report.h"
#include "bench/rows.h"

#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
    "Usage: kvbench [--quick] [--raw] [--json] [--rounds 5] [--mib 64] [--repeats 16]\n"
    "               [--server PROGRAM]\n"
    "\n"
    "Measures, interleaved: memcpy, the sum of f32, loopback TCP, a bare gRPC stream, and push,\n"
    "pull and pushpull of a tensor and of 4 KiB keys through a kvstored that it starts itself.\n"
    "\n"
    "  --quick    seconds instead of a minute: only shows that it runs\n"
    "  --raw      the limits and the bare stream only\n"
    "  --json     JSON on stdout\n"
    "  --mib      of the tensor; --repeats times in one measurement\n"
    "  --message-kib 1024  of TCP and of the bare stream; must divide the tensor\n"
    "  --server   kvstored (default: beside kvbench)\n"
    "  --rows N   instead of all that: reads and pushes of --ask 65536 rows at random of a\n"
    "             row_sparse value of N rows of --width 64 f32, beside memcpy of such rows\n"
    "\n"
    "Exit codes: 0 done, 1 failed, 2 wrong use.\n";

enum {
    OPTION_QUICK = 256,
    OPTION_RAW,
    OPTION_JSON,
    OPTION_ROUNDS,
    OPTION_MIB,
    OPTION_REPEATS,
    OPTION_MESSAGE,
    OPTION_SERVER,
    OPTION_ROWS,
    OPTION_WIDTH,
    OPTION_ASK,
    OPTION_HELP
};

static const struct option options[] = {
    {"quick", no_argument, NULL, OPTION_QUICK},
    {"raw", no_argument, NULL, OPTION_RAW},
    {"json", no_argument, NULL, OPTION_JSON},
    {"rounds", required_argument, NULL, OPTION_ROUNDS},
    {"mib", required_argument, NULL, OPTION_MIB},
    {"repeats", required_argument, NULL, OPTION_REPEATS},
    {"message-kib", required_argument, NULL, OPTION_MESSAGE},
    {"server", required_argument, NULL, OPTION_SERVER},
    {"rows", required_argument, NULL, OPTION_ROWS},
    {"width", required_argument, NULL, OPTION_WIDTH},
    {"ask", required_argument, NULL, OPTION_ASK},
    {"help", no_argument, NULL, OPTION_HELP},
    {NULL, 0, NULL, 0},
};

typedef struct command_line {
    kvs_bench_plan plan;
    bool json, raw, help;
    uint32_t rows, width, ask;
    char beside[PATH_MAX + 16];
} command_line;

/* kvstored in the folder of this program. */
static void find_server(command_line *line)
{
    char path[PATH_MAX];
    const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    path[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(path, '/');
    if (slash != NULL) {
        *slash = '\0';
    }
    (void)snprintf(line->beside, sizeof line->beside, "%s/kvstored", path);
    line->plan.server = line->beside;
}

static bool read_count(const char *name, long low, long high, uint32_t *out)
{
    char *end = NULL;
    const long value = strtol(optarg, &end, 10);
    if (end == optarg || *end != '\0' || value < low || value > high) {
        (void)fprintf(stderr, "kvbench: --%s must be a whole number from %ld to %ld.\n", name, low,
                      high);
        return false;
    }
    *out = (uint32_t)value;
    return true;
}

static bool read_option(command_line *line, int option)
{
    uint32_t mib = 0;
    uint32_t kib = 0;
    switch (option) {
    case OPTION_QUICK:
        line->plan.rounds = 1;
        line->plan.sizes.tensor_bytes = 4u << 20;
        line->plan.sizes.repeats = 2;
        line->plan.sizes.small_keys = 64;
        line->plan.sizes.small_repeats = 2;
        line->plan.sizes.alone_operations = 50;
        return true;
    case OPTION_RAW:
        line->raw = true;
        return true;
    case OPTION_JSON:
        line->json = true;
        return true;
    case OPTION_HELP:
        line->help = true;
        return true;
    case OPTION_SERVER:
        line->plan.server = optarg;
        return true;
    case OPTION_ROWS:
        return read_count("rows", 1, 1000000000, &line->rows);
    case OPTION_WIDTH:
        return read_count("width", 1, 65536, &line->width);
    case OPTION_ASK:
        return read_count("ask", 1, 16777216, &line->ask);
    case OPTION_ROUNDS:
        return read_count("rounds", 1, KVS_BENCH_ROUNDS_MAX - 1, &line->plan.rounds);
    case OPTION_REPEATS:
        return read_count("repeats", 1, 10000, &line->plan.sizes.repeats);
    case OPTION_MESSAGE:
        if (!read_count("message-kib", 4, 65536, &kib)) {
            return false;
        }
        line->plan.sizes.message_bytes = (uint64_t)kib << 10;
        return true;
    case OPTION_MIB:
        if (!read_count("mib", 1, 16384, &mib)) {
            return false;
        }
        line->plan.sizes.tensor_bytes = (uint64_t)mib << 20;
        return true;
    default:
        return false;
    }
}

int main(int count, char **words)
{
    static kvs_bench_results results;
    command_line line = {.width = 64,
                         .ask = 65536,
                         .plan = {.rounds = 5,
                                  .verbose = true,
                                  .sizes = {.tensor_bytes = 64u << 20,
                                            .message_bytes = 1u << 20,
                                            .small_keys = 1024,
                                            .small_bytes = 4096,
                                            .repeats = 16,
                                            .small_repeats = 32,
                                            .alone_operations = 2000}}};
    find_server(&line);
    for (int option; (option = getopt_long(count, words, "", options, NULL)) != -1;) {
        if (!read_option(&line, option)) {
            (void)fprintf(stderr, "See kvbench --help.\n");
            return 2;
        }
    }
    if (line.help) {
        (void)fputs(usage, stdout);
        return 0;
    }
    if (optind < count) {
        (void)fprintf(stderr, "kvbench: what is %s? See --help.\n", words[optind]);
        return 2;
    }
    if (line.rows > 0) {
        const kvs_bench_rows_plan plan = {.server = line.plan.server,
                                          .rows = line.rows,
                                          .width = line.width,
                                          .ask = line.ask,
                                          .rounds = line.plan.rounds,
                                          .json = line.json};
        return kvs_bench_rows(&plan) ? 0 : 1;
    }
    if (line.plan.sizes.tensor_bytes % line.plan.sizes.message_bytes != 0) {
        (void)fprintf(stderr, "kvbench: --message-kib must divide the tensor.\n");
        return 2;
    }
    line.plan.server = line.raw ? NULL : line.plan.server;
    if (!kvs_bench_measure(&line.plan, &results)) {
        return 1;
    }
    if (line.json) {
        kvs_bench_print_json(&line.plan, &results);
    } else {
        kvs_bench_print(&line.plan, &results);
    }
    if (!kvs_bench_plausible(&line.plan, &results)) {
        (void)fprintf(stderr, "kvbench: a number that must be above 0 is not.\n");
        return 1;
    }
    return 0;
}
