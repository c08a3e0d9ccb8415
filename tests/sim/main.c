/* kvs_sim: runs the simulation of one seed, or of a range of them.
 *
 *     kvs_sim --seed N [--verbose]     one; says why it failed
 *     kvs_sim --seeds A:B              A to B - 1; stops at the first that fails and names it
 *     kvs_sim --seeds A:B --twice      each twice: the same run, to the last event
 *     kvs_sim --seeds A:B --expect W   for a planted bug: succeeds once a seed fails for a reason
 *                                      that begins with W, or with one of W,W
 */
#include "tests/sim/sim.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct sim_options {
    uint64_t first, end;
    bool verbose, twice;
    const char *expect;
} sim_options;

static bool parse(int argc, char **argv, sim_options *out)
{
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (strcmp(argv[i], "--seed") == 0 && more) {
            out->first = strtoull(argv[++i], NULL, 0);
            out->end = out->first + 1;
        } else if (strcmp(argv[i], "--seeds") == 0 && more) {
            char *colon = NULL;
            out->first = strtoull(argv[++i], &colon, 0);
            if (*colon != ':') {
                return false;
            }
            out->end = strtoull(colon + 1, NULL, 0);
        } else if (strcmp(argv[i], "--expect") == 0 && more) {
            out->expect = argv[++i];
        } else if (strcmp(argv[i], "--verbose") == 0) {
            out->verbose = true;
        } else if (strcmp(argv[i], "--twice") == 0) {
            out->twice = true;
        } else {
            return false;
        }
    }
    return out->first < out->end;
}

/* What was checked; and the first thing that never happened in a long range, or NULL. */
static const char *report(const sim_counts *counts)
{
    const struct {
        const char *name;
        uint64_t count;
    } all[] = {
        {"turns", counts->turns},
        {"pushes", counts->pushes},
        {"pulls", counts->pulls},
        {"frames", counts->frames},
        {"acks", counts->acks},
        {"duplicate acks", counts->duplicates},
        {"messages repeated", counts->repeats},
        {"messages overtaken", counts->out_of_order},
        {"streams broken", counts->breaks},
        {"sessions resumed", counts->resumes},
        {"deaths", counts->deaths},
        {"stalls", counts->stalls},
        {"leaves", counts->leaves},
        {"refused: round failed", counts->refused_rounds},
        {"refused: over credit", counts->refused_credit},
        {"refused: no memory", counts->refused_memory},
        {"refused: fenced", counts->refused_fenced},
        {"refused: no optimizer", counts->refused_rule},
        {"refused: store deleted", counts->refused_deleted},
        {"snapshots", counts->snapshots},
        {"reads at cuts", counts->cuts},
        {"assignments", counts->assigns},
        {"etag mismatches", counts->mismatches},
        {"rules set", counts->rules},
        {"states saved", counts->saves},
        {"states loaded", counts->loads},
        {"loads refused", counts->refused_loads},
        {"histories explained", counts->histories},
        {"barriers", counts->barriers},
        {"versions seen", counts->versions},
        {"versions matched to the bit", counts->exact_versions},
    };
    const char *never = NULL;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        (void)printf("%12" PRIu64 "  %s\n", all[i].count, all[i].name);
        if (all[i].count == 0 && never == NULL) {
            never = all[i].name;
        }
    }
    return never;
}

/* Does the reason begin with one of the words, parted by commas? */
static bool begins_with(const char *reason, const char *words)
{
    while (*words != '\0') {
        size_t bytes = strcspn(words, ",");
        if (strncmp(reason, words, bytes) == 0) {
            return true;
        }
        words += bytes + (words[bytes] == ',' ? 1 : 0);
    }
    return false;
}

/* The exit code when a seed has failed. What it held is not given back: the process ends here,
 * before anybody looks for leaks. */
static int end_failed(const sim_options *options, uint64_t seed, const char *reason)
{
    if (options->expect == NULL) {
        (void)printf("seed %" PRIu64 " failed: %s\n  again: kvs_sim --seed %" PRIu64 " --verbose\n",
                     seed, reason, seed);
        return 1;
    }
    bool as_expected = begins_with(reason, options->expect);
    (void)printf("seed %" PRIu64 " found the planted bug: %s\n", seed, reason);
    if (!as_expected) {
        (void)printf("which is not \"%s\"\n", options->expect);
    }
    return as_expected ? 0 : 1;
}

int main(int argc, char **argv)
{
    sim_options options = {.first = 0, .end = 200};
    static sim_counts counts;
    char reason[512];
    if (!parse(argc, argv, &options)) {
        (void)fprintf(stderr, "usage: kvs_sim --seed N | --seeds A:B [--verbose] [--twice] "
                              "[--expect WORD]\n");
        return 2;
    }
    for (uint64_t seed = options.first; seed < options.end; seed++) {
        uint64_t trace = 0;
        uint64_t again = 0;
        bool good = sim_run(seed, options.verbose, &counts, &trace, reason, sizeof(reason));
        if (good && options.twice) {
            good = sim_run(seed, false, &counts, &again, reason, sizeof(reason));
            if (good && trace != again) {
                (void)snprintf(reason, sizeof(reason), "replay: the second run went another way");
                good = false;
            }
        }
        if (!good) {
            int code = end_failed(&options, seed, reason);
            (void)fflush(stdout);
            _exit(code);
        }
    }
    if (options.expect != NULL) {
        (void)printf("no seed has found the planted bug\n");
        return 1;
    }
    const char *never = report(&counts);
    (void)printf("%" PRIu64 " seeds passed\n", options.end - options.first);
    if (never != NULL && options.end - options.first >= 500) {
        (void)printf("but there were no: %s\n", never);
        return 1;
    }
    return 0;
}
