/* word2vec: words of a text as vectors, learned with two row_sparse embeddings in a parameter
 * server. See README.md beside this file. */
#include "examples/word2vec/relations.h"
#include "examples/word2vec/train.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: word2vec --text FILE [--type local|dist_sync|dist_async] [--address HOST:PORT]\n"
    "                [--rank N] [--store NAME] [--nearest WORD]...\n"
    "\n"
    "  --epochs 3  --width 64  --window 5  --tokens 1500 (of a step)  --learning-rate 0.1\n"
    "  --count-min 5          words that are rarer are left out\n"
    "  --seed 1\n"
    "  --quiet                no progress\n"
    "\n"
    "The last line on stdout is JSON. Exit codes: 0 done, 1 failed, 2 wrong use.\n";

typedef struct options {
    w2v_run run;
    const char *text;
    uint64_t count_min;
    const char *words[16];
    unsigned word_count;
} options;

static bool read_number(const char *text, double least, double most, double *out)
{
    char *end;
    *out = strtod(text, &end);
    return end != text && *end == '\0' && *out >= least && *out <= most;
}

/* False: the value is no good. */
static bool read_option(options *o, int option, const char *value)
{
    double number = 0;
    switch (option) {
    case 't':
        o->text = value;
        return true;
    case 'T':
        o->run.type = value;
        return true;
    case 'a':
        o->run.address = value;
        return true;
    case 's':
        o->run.store = value;
        return true;
    case 'n':
        o->words[o->word_count++ % 16] = value;
        return o->word_count <= 16;
    case 'q':
        o->run.quiet = true;
        return true;
    case 'l':
        return read_number(value, 1e-9, 100, &o->run.learning_rate);
    default:
        break;
    }
    if (!read_number(value, option == 'r' ? -1 : 1, option == 'S' || option == 'c' ? 1e15 : 1e6,
                     &number)) {
        return false;
    }
    switch (option) {
    case 'r':
        o->run.rank = (int64_t)number;
        return true;
    case 'e':
        o->run.epochs = (uint32_t)number;
        return true;
    case 'w':
        o->run.width = (uint32_t)number;
        return true;
    case 'W':
        o->run.window = (uint32_t)number;
        return number <= 32;
    case 'k':
        o->run.tokens = (uint32_t)number;
        return true;
    case 'c':
        o->count_min = (uint64_t)number;
        return true;
    default:
        o->run.seed = (uint64_t)number;
        return true;
    }
}

static bool read_options(int argc, char **argv, options *o)
{
    static const struct option longs[] = {{"text", required_argument, NULL, 't'},
                                          {"type", required_argument, NULL, 'T'},
                                          {"address", required_argument, NULL, 'a'},
                                          {"store", required_argument, NULL, 's'},
                                          {"rank", required_argument, NULL, 'r'},
                                          {"epochs", required_argument, NULL, 'e'},
                                          {"width", required_argument, NULL, 'w'},
                                          {"window", required_argument, NULL, 'W'},
                                          {"tokens", required_argument, NULL, 'k'},
                                          {"learning-rate", required_argument, NULL, 'l'},
                                          {"count-min", required_argument, NULL, 'c'},
                                          {"seed", required_argument, NULL, 'S'},
                                          {"nearest", required_argument, NULL, 'n'},
                                          {"quiet", no_argument, NULL, 'q'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (option == 'h') {
            (void)fputs(usage, stdout);
            exit(0);
        }
        if (option == '?' || !read_option(o, option, optarg)) {
            (void)fprintf(stderr, "word2vec: \"%s\" will not do here. See --help.\n",
                          optarg != NULL ? optarg : argv[optind - 1]);
            return false;
        }
    }
    if (o->text == NULL || optind != argc) {
        (void)fprintf(stderr, "word2vec: %s. See --help.\n",
                      o->text == NULL ? "--text is missing" : "options only");
        return false;
    }
    return true;
}

static void print_nearest(const options *o, const w2v_vocabulary *vocabulary,
                          const float *embedding)
{
    for (unsigned i = 0; i < o->word_count; i++) {
        uint32_t found[8];
        const uint32_t word = w2v_vocabulary_find(vocabulary, o->words[i]);
        (void)printf("%s:", o->words[i]);
        if (word == W2V_END) {
            (void)printf(" not in the vocabulary");
        } else {
            const uint32_t count = w2v_nearest(vocabulary, embedding, o->run.width, word, 8, found);
            for (uint32_t k = 0; k < count; k++) {
                (void)printf(" %s", vocabulary->words[found[k]]);
            }
        }
        (void)printf("\n");
    }
}

int main(int argc, char **argv)
{
    options o = {.run = {.type = "local",
                         .rank = -1,
                         .epochs = 3,
                         .width = 64,
                         .window = 5,
                         .tokens = 1500,
                         .learning_rate = 0.1,
                         .seed = 1},
                 .count_min = 5};
    w2v_vocabulary vocabulary;
    w2v_report report = {0};
    if (!read_options(argc, argv, &o)) {
        return 2;
    }
    if (!w2v_vocabulary_read(o.text, o.count_min, &vocabulary)) {
        return 1;
    }
    const bool good = w2v_train(&o.run, &vocabulary, &report);
    if (good) {
        print_nearest(&o, &vocabulary, report.embedding);
        const w2v_relations found =
            w2v_relations_measure(&vocabulary, report.embedding, o.run.width);
        (void)printf("{\"rank\": %u, \"words\": %u, \"first_loss\": %.4f, \"last_loss\": %.4f, "
                     "\"pairs\": %u, \"near\": %u, \"steps\": %llu, \"rows\": %llu, "
                     "\"seconds\": %.1f}\n",
                     report.rank, vocabulary.size, report.first_loss, report.last_loss, found.known,
                     found.near, (unsigned long long)report.steps, (unsigned long long)report.rows,
                     report.seconds);
    }
    free(report.embedding);
    w2v_vocabulary_free(&vocabulary);
    return good ? 0 : 1;
}
