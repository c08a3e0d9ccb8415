/* fashion_mnist: trains a small network on Fashion-MNIST with its weights in a KVStore.
 *
 * `demo` starts a server and workers and compares them with one process; `train` is one worker (or
 * the one process) by itself.
 */
#include "examples/fashion_mnist/demo.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: fashion_mnist demo [--type dist_sync|dist_async] [--workers 4] [--server PROGRAM]\n"
    "       fashion_mnist train [--type local] [--address HOST:PORT] [--rank N] [--workers 4]\n"
    "\n"
    "demo   starts kvstored and the workers, then one process alone, and compares accuracy and\n"
    "       weights. Writes loss.csv and loss.svg; the last line on stdout is JSON.\n"
    "train  one worker of a running server; with --type local one process for all shares.\n"
    "\n"
    "  --epochs 12  --batch 256  --samples 60000  --seed 1\n"
    "  --learning-rate 0.1  --momentum 0.9  (async or compressed: 0.3 and 0)\n"
    "  --compression TYPE     of the workers' gradients: 2bit, 1bit, fp16, bf16, int8, topk,\n"
    "                         randomk; one process sends none\n"
    "  --threshold NUMBER     of 2bit (1) and 1bit (0)\n"
    "  --data FOLDER          of dataset-fashion-mnist (" FASHION_FOLDER ")\n"
    "  --output FOLDER        for loss.csv and loss.svg (.)\n"
    "  --store NAME           of the server (default)\n"
    "  --accuracy-min NUMBER  demo: less is a failure (0.87; dist_async 0.85; 0 with --samples)\n"
    "  --quiet                train: no progress\n"
    "\n"
    "Exit codes: 0 done, 1 failed, 2 wrong use.\n";

enum {
    OPTION_TYPE = 256,
    OPTION_ADDRESS,
    OPTION_RANK,
    OPTION_WORKERS,
    OPTION_SERVER,
    OPTION_EPOCHS,
    OPTION_BATCH,
    OPTION_SAMPLES,
    OPTION_RATE,
    OPTION_MOMENTUM,
    OPTION_COMPRESSION,
    OPTION_THRESHOLD,
    OPTION_SEED,
    OPTION_DATA,
    OPTION_OUTPUT,
    OPTION_STORE,
    OPTION_ACCURACY,
    OPTION_QUIET,
    OPTION_HELP
};

static const struct option options[] = {
    {"type", required_argument, NULL, OPTION_TYPE},
    {"address", required_argument, NULL, OPTION_ADDRESS},
    {"rank", required_argument, NULL, OPTION_RANK},
    {"workers", required_argument, NULL, OPTION_WORKERS},
    {"server", required_argument, NULL, OPTION_SERVER},
    {"epochs", required_argument, NULL, OPTION_EPOCHS},
    {"batch", required_argument, NULL, OPTION_BATCH},
    {"samples", required_argument, NULL, OPTION_SAMPLES},
    {"learning-rate", required_argument, NULL, OPTION_RATE},
    {"momentum", required_argument, NULL, OPTION_MOMENTUM},
    {"compression", required_argument, NULL, OPTION_COMPRESSION},
    {"threshold", required_argument, NULL, OPTION_THRESHOLD},
    {"seed", required_argument, NULL, OPTION_SEED},
    {"data", required_argument, NULL, OPTION_DATA},
    {"output", required_argument, NULL, OPTION_OUTPUT},
    {"store", required_argument, NULL, OPTION_STORE},
    {"accuracy-min", required_argument, NULL, OPTION_ACCURACY},
    {"quiet", no_argument, NULL, OPTION_QUIET},
    {"help", no_argument, NULL, OPTION_HELP},
    {NULL, 0, NULL, 0},
};

typedef struct command_line {
    fashion_run run;
    fashion_demo demo;
    const char *data;
    bool demo_wanted, quiet, type_given, help;
} command_line;

/* A whole number in [low, high], or an error on stderr. */
static bool read_count(const char *name, const char *text, long low, long high, long *out)
{
    char *end = NULL;
    const long value = strtol(text, &end, 10);
    if (end == text || *end != '\0' || value < low || value > high) {
        (void)fprintf(stderr, "fashion_mnist: --%s must be a whole number from %ld to %ld.\n", name,
                      low, high);
        return false;
    }
    *out = value;
    return true;
}

static bool read_number(const char *name, const char *text, double high, double *out)
{
    char *end = NULL;
    const double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= 0 && value <= high)) {
        (void)fprintf(stderr, "fashion_mnist: --%s must be a number from 0 to %g.\n", name, high);
        return false;
    }
    *out = value;
    return true;
}

/* The options that are whole numbers. */
static bool read_integer(int option, const char *name, const char *text, fashion_run *run)
{
    long value = 0;
    switch (option) {
    case OPTION_RANK:
        return read_count(name, text, 0, 4095, &value) && (run->rank = value, true);
    case OPTION_WORKERS:
        return read_count(name, text, 1, 64, &value) && (run->shares = (uint32_t)value, true);
    case OPTION_EPOCHS:
        return read_count(name, text, 1, 10000, &value) && (run->epochs = (uint32_t)value, true);
    case OPTION_BATCH:
        return read_count(name, text, 1, 60000, &value) && (run->batch = (uint32_t)value, true);
    case OPTION_SAMPLES:
        return read_count(name, text, 1, 60000, &value) && (run->samples = (uint32_t)value, true);
    default:
        return read_count(name, text, 0, 1000000000, &value) && (run->seed = (uint64_t)value, true);
    }
}

static bool read_option(command_line *line, int option, const char *name, const char *text)
{
    switch (option) {
    case OPTION_TYPE:
        line->run.type = text;
        line->type_given = true;
        return true;
    case OPTION_ADDRESS:
        line->run.address = text;
        return true;
    case OPTION_SERVER:
        line->demo.server = text;
        return true;
    case OPTION_DATA:
        line->data = text;
        return true;
    case OPTION_COMPRESSION:
        line->run.compression = text;
        return true;
    case OPTION_OUTPUT:
        line->demo.output = text;
        return true;
    case OPTION_STORE:
        line->run.store = text;
        return true;
    case OPTION_QUIET:
        line->quiet = true;
        return true;
    case OPTION_HELP:
        line->help = true;
        return true;
    case OPTION_RATE:
        return read_number(name, text, 1000, &line->run.learning_rate);
    case OPTION_MOMENTUM:
        return read_number(name, text, 1, &line->run.momentum);
    case OPTION_THRESHOLD:
        return read_number(name, text, 1000, &line->run.threshold);
    case OPTION_ACCURACY:
        return read_number(name, text, 1, &line->demo.accuracy_min);
    default:
        return read_integer(option, name, text, &line->run);
    }
}

static bool check_line(command_line *line)
{
    const bool distributed = strstr(line->run.type, "dist") != NULL;
    if (line->run.batch % line->run.shares != 0) {
        (void)fprintf(stderr, "fashion_mnist: --batch must be a multiple of --workers.\n");
        return false;
    }
    if (line->run.samples != 0 && line->run.samples < line->run.batch) {
        (void)fprintf(stderr, "fashion_mnist: --samples must be at least --batch.\n");
        return false;
    }
    if (line->demo_wanted && !distributed) {
        (void)fprintf(stderr, "fashion_mnist: demo needs --type dist_sync or dist_async.\n");
        return false;
    }
    if (!line->demo_wanted && distributed && line->run.address == NULL) {
        (void)fprintf(stderr, "fashion_mnist: --type %s needs --address of a server.\n",
                      line->run.type);
        return false;
    }
    /* Pushes that are a few updates late act like momentum by themselves, and so does what a
     * residual holds back: with 0.9 on top of it the asynchronous run gets no further than 0.83. */
    const bool async = strstr(line->run.type, "async") != NULL;
    const char *compression = line->run.compression;
    const bool late = async || compression != NULL;
    if (line->run.learning_rate < 0) {
        line->run.learning_rate = late ? 0.3 : 0.1;
    }
    if (line->run.momentum < 0) {
        line->run.momentum = late ? 0 : 0.9;
    }
    if (line->run.threshold < 0) {
        line->run.threshold = compression != NULL && strcmp(compression, "1bit") == 0 ? 0 : 1;
    }
    if (line->demo.accuracy_min < 0) {
        line->demo.accuracy_min = line->run.samples != 0 ? 0 : late ? 0.85 : 0.87;
    }
    return true;
}

static bool read_line(int count, char **words, command_line *line)
{
    fashion_run_init(&line->run);
    line->demo = (fashion_demo){.server = "build/bin/kvstored", .output = ".", .accuracy_min = -1};
    line->data = FASHION_FOLDER;
    if (count >= 2 && strcmp(words[1], "--help") == 0) {
        line->help = true;
        return true;
    }
    if (count < 2 || (strcmp(words[1], "demo") != 0 && strcmp(words[1], "train") != 0)) {
        (void)fprintf(stderr, "fashion_mnist: the first word is demo or train. See --help.\n");
        return false;
    }
    line->demo_wanted = strcmp(words[1], "demo") == 0;
    optind = 2;
    int index = 0;
    for (int option; (option = getopt_long(count, words, "", options, &index)) != -1;) {
        if (option == '?' || !read_option(line, option, options[index].name, optarg)) {
            (void)fprintf(stderr, "See fashion_mnist --help.\n");
            return false;
        }
    }
    if (optind < count) {
        (void)fprintf(stderr, "fashion_mnist: what is %s? See --help.\n", words[optind]);
        return false;
    }
    if (!line->demo_wanted && !line->type_given) {
        line->run.type = line->run.address == NULL ? "local" : "dist_sync";
    }
    return line->help || check_line(line);
}

/* One run by itself; its last line is JSON. */
static bool train_alone(command_line *line, const fashion_set *train, const fashion_set *test)
{
    const uint32_t steps = line->run.epochs * fashion_run_steps(&line->run, train);
    fashion_report *report = fashion_report_open(steps, line->run.epochs);
    if (report == NULL) {
        return false;
    }
    line->run.name = line->quiet ? NULL : line->run.type;
    const bool good = fashion_train(&line->run, train, test, report);
    (void)printf("{\"rank\": %u, \"done\": %s, \"steps\": %u, \"accuracy\": %.4f, "
                 "\"seconds\": %.1f, \"weights\": \"%016" PRIx64 "\"}\n",
                 report->rank, good ? "true" : "false", report->steps_done,
                 fashion_report_accuracy(report), report->seconds, fashion_report_hash(report));
    fashion_report_close(report);
    return good;
}

int main(int count, char **words)
{
    command_line line = {0};
    if (!read_line(count, words, &line)) {
        return 2;
    }
    if (line.help) {
        (void)fputs(usage, stdout);
        return 0;
    }
    fashion_set train = {0};
    fashion_set test = {0};
    const bool good = fashion_set_load(line.data, "train", &train) &&
                      fashion_set_load(line.data, "t10k", &test) &&
                      (line.demo_wanted ? fashion_demo_run(&line.demo, &line.run, &train, &test)
                                        : train_alone(&line, &train, &test));
    fashion_set_deinit(&train);
    fashion_set_deinit(&test);
    return good ? 0 : 1;
}
