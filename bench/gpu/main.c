/* kvbench_gpu: what the kernels of the CUDA engine take beside what the card can do, and beside the
 * CPU engine. Prints JSON; bench/gpu/run.py is the command that people want. */
#include "base/json.h"
#include "base/limits.h"
#include "bench/commit.h"
#include "bench/gpu/card.h"
#include "bench/gpu/cases.h"
#include "cuda/backend_cuda.h"
#include "engine/backend_cpu.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

static const char usage[] =
    "Usage: kvbench_gpu [--parts 256] [--repeats 20] [--rounds 5] [--link-mib 256]\n"
    "\n"
    "  --parts     of 1 MiB of f32: what one call works on; 0 measures nothing but the card\n"
    "  --repeats   of a call in one measurement\n"
    "  --link-mib  of one copy that measures the card\n"
    "\n"
    "Exit codes: 0 done, 1 failed (no card, no memory), 2 wrong use.\n";

typedef struct command_line {
    uint32_t parts, repeats, rounds, link_mib;
} command_line;

static bool read_count(const char *text, unsigned long max, uint32_t *out)
{
    char *end = NULL;
    const unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end != '\0' || value > max) {
        return false;
    }
    *out = (uint32_t)value;
    return true;
}

static bool read_line(int count, char **words, command_line *out)
{
    static const struct option options[] = {{"parts", required_argument, NULL, 'p'},
                                            {"repeats", required_argument, NULL, 'r'},
                                            {"rounds", required_argument, NULL, 'n'},
                                            {"link-mib", required_argument, NULL, 'l'},
                                            {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(count, words, "", options, NULL)) != -1;) {
        bool good = false;
        switch (option) {
        case 'p':
            good = read_count(optarg, 1U << 16, &out->parts);
            break;
        case 'r':
            good = read_count(optarg, 1U << 16, &out->repeats) && out->repeats > 0;
            break;
        case 'n':
            good = read_count(optarg, KVS_GPU_ROUNDS_MAX, &out->rounds) && out->rounds > 0;
            break;
        case 'l':
            good = read_count(optarg, 1U << 12, &out->link_mib) && out->link_mib > 0;
            break;
        default:
            break;
        }
        if (!good) {
            return false;
        }
    }
    return optind == count;
}

static int compare_numbers(const void *a, const void *b)
{
    const double left = *(const double *)a;
    const double right = *(const double *)b;
    return (left > right) - (left < right);
}

/* The seconds of one call; a reason where there is nothing to measure. NULL: it failed. */
static json_t *measure(const kvs_gpu_case *which, const kvs_gpu_plan *plan, bool link)
{
    kvs_gpu_times times = {0};
    if (which->verb == KVS_GPU_PULL && !link) {
        return json_pack("{s:s}", "left_out", "it is read where it was computed");
    }
    const kvs_status status = kvs_gpu_case_run(which, plan, &times);
    if (status == KVS_UNIMPLEMENTED) {
        return json_pack("{s:s}", "left_out", kvs_status_find(status)->reason);
    }
    if (status != KVS_OK) {
        (void)fprintf(stderr, "kvbench_gpu: %s on %s: %s\n", which->name, plan->backend->name,
                      kvs_status_find(status)->reason);
        return NULL;
    }
    qsort(times.seconds, times.count, sizeof times.seconds[0], compare_numbers);
    const double median = times.seconds[times.count / 2];
    const double bytes =
        kvs_gpu_case_bytes(which) * (double)plan->parts * (double)KVS_PART_ELEMENTS;
    return json_pack("{s:f, s:f, s:f, s:f}", "seconds", median, "lowest", times.seconds[0],
                     "highest", times.seconds[times.count - 1], "bytes_per_second", bytes / median);
}

static const char *limit_of(const kvs_gpu_case *which)
{
    switch (which->verb) {
    case KVS_GPU_PUSH:
        return "up";
    case KVS_GPU_PULL:
        return "down";
    default:
        return "copy";
    }
}

/* Each case on both engines. NULL: one failed. */
static json_t *measure_cases(const command_line *line, kvs_backend *cuda, kvs_backend *cpu)
{
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);
    kvs_gpu_plan plan = {.parts = line->parts, .repeats = line->repeats, .rounds = line->rounds};
    json_t *list = json_array();
    for (uint32_t i = 0; i < kvs_gpu_cases_count && line->parts > 0; i++) {
        const kvs_gpu_case *which = &kvs_gpu_cases[i];
        plan.backend = cuda;
        plan.threads = 1;
        json_t *on_cuda = measure(which, &plan, true);
        plan.backend = cpu;
        plan.threads = processors > 0 ? (uint32_t)processors : 1;
        json_t *on_cpu = measure(which, &plan, false);
        if (on_cuda == NULL || on_cpu == NULL) {
            json_decref(on_cuda);
            json_decref(on_cpu);
            json_decref(list);
            return NULL;
        }
        (void)json_array_append_new(
            list, json_pack("{s:s, s:f, s:s, s:o, s:o}", "name", which->name, "bytes_per_element",
                            kvs_gpu_case_bytes(which), "limit", limit_of(which), "cuda", on_cuda,
                            "cpu", on_cpu));
    }
    return list;
}

static json_t *card_json(const kvs_gpu_card *card)
{
    return json_pack("{s:s, s:[i, i], s:i, s:{s:f, s:f, s:f, s:f, s:f}}", "name", card->name,
                     "compute_capability", card->major, card->minor, "multiprocessors",
                     card->multiprocessors, "bytes_per_second", "copy", card->copy, "up", card->up,
                     "down", card->down, "up_with_down", card->up_both, "down_with_up",
                     card->down_both);
}

/* Opens both engines, measures, and prints. */
static bool run(const command_line *line)
{
    kvs_gpu_card card;
    kvs_problem problem = {0};
    kvs_backend *cuda = NULL;
    kvs_backend *cpu = NULL;
    json_t *cases = NULL;
    if (!kvs_gpu_card_measure(line->link_mib * MIB, line->repeats, &card)) {
        return false;
    }
    if (kvs_backend_cuda_open(&cuda, &problem) != KVS_OK ||
        kvs_backend_cpu_open(NULL, &cpu, &problem) != KVS_OK) {
        (void)fprintf(stderr, "kvbench_gpu: %s\n", problem.detail);
    } else {
        cases = measure_cases(line, cuda, cpu);
    }
    if (cases != NULL) {
        json_t *out =
            json_pack("{s:o, s:s, s:s, s:s, s:I, s:I, s:I, s:o}", "card", card_json(&card),
                      "commit", KVS_BENCH_COMMIT, "cuda", cuda->name, "cpu", cpu->name, "parts",
                      (json_int_t)line->parts, "repeats", (json_int_t)line->repeats, "rounds",
                      (json_int_t)line->rounds, "cases", cases);
        (void)json_dumpf(out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        (void)fputc('\n', stdout);
        json_decref(out);
    }
    if (cpu != NULL) {
        cpu->table->close(cpu);
    }
    if (cuda != NULL) {
        cuda->table->close(cuda);
    }
    return cases != NULL;
}

int main(int count, char **words)
{
    command_line line = {.parts = 256, .repeats = 20, .rounds = 5, .link_mib = 256};
    if (!read_line(count, words, &line)) {
        (void)fputs(usage, stderr);
        return 2;
    }
    return run(&line) ? 0 : 1;
}
