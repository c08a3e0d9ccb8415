#include "examples/word2vec/batch.h"

#include <math.h>
#include <stdlib.h>

#define TABLE_SIZE (1u << 20)
#define KEEP 1e-3

/* The rows of one embedding that a batch uses. */
typedef struct row_set {
    uint32_t *places; /* of each word: its place + 1 in this batch; 0: none */
    int64_t *rows;
    uint32_t count;
} row_set;

struct w2v_batcher {
    const w2v_vocabulary *vocabulary;
    uint32_t window;
    uint64_t random;
    uint32_t *table; /* words by their share in the drawing */
    double *keep;    /* probability */
    w2v_example *examples;
    uint32_t count;
    row_set inputs, outputs;
};

static uint64_t draw(w2v_batcher *b)
{
    uint64_t z = b->random += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static double draw_unit(w2v_batcher *b)
{
    return (double)(draw(b) >> 11) * 0x1p-53;
}

static bool open_rows(row_set *rows, uint32_t words)
{
    rows->places = calloc(words, sizeof *rows->places);
    rows->rows = malloc(words * sizeof *rows->rows);
    return rows->places != NULL && rows->rows != NULL;
}

static void fill_tables(w2v_batcher *b)
{
    const w2v_vocabulary *v = b->vocabulary;
    double total = 0, share = 0, all = 0;
    for (uint32_t i = 0; i < v->size; i++) {
        total += (double)v->counts[i];
        all += pow((double)v->counts[i], 0.75);
    }
    uint32_t filled = 0;
    for (uint32_t i = 0; i < v->size; i++) {
        const double kept = sqrt(KEEP * total / (double)v->counts[i]);
        b->keep[i] = kept > 1 ? 1 : kept;
        share += pow((double)v->counts[i], 0.75) / all;
        while (filled < TABLE_SIZE && filled < share * TABLE_SIZE) {
            b->table[filled++] = i;
        }
    }
    while (filled < TABLE_SIZE) {
        b->table[filled++] = v->size - 1;
    }
}

w2v_batcher *w2v_batcher_open(const w2v_vocabulary *vocabulary, uint32_t window, uint32_t tokens,
                              uint64_t seed)
{
    w2v_batcher *b = calloc(1, sizeof *b);
    if (b == NULL) {
        return NULL;
    }
    b->vocabulary = vocabulary;
    b->window = window < W2V_WINDOW_MAX ? window : W2V_WINDOW_MAX;
    b->random = seed;
    b->table = malloc(TABLE_SIZE * sizeof *b->table);
    b->keep = malloc(vocabulary->size * sizeof *b->keep);
    b->examples = malloc(((size_t)tokens * 2 * b->window + 1) * sizeof *b->examples);
    bool good = open_rows(&b->inputs, vocabulary->size);
    good = open_rows(&b->outputs, vocabulary->size) && good;
    if (!good || b->table == NULL || b->keep == NULL || b->examples == NULL) {
        w2v_batcher_close(b);
        return NULL;
    }
    fill_tables(b);
    return b;
}

void w2v_batcher_close(w2v_batcher *b)
{
    if (b == NULL) {
        return;
    }
    free(b->table);
    free(b->keep);
    free(b->examples);
    free(b->inputs.places);
    free(b->inputs.rows);
    free(b->outputs.places);
    free(b->outputs.rows);
    free(b);
}

static void clear(row_set *rows)
{
    for (uint32_t i = 0; i < rows->count; i++) {
        rows->places[rows->rows[i]] = 0;
    }
    rows->count = 0;
}

static void use(row_set *rows, uint32_t word)
{
    if (rows->places[word] == 0) {
        rows->places[word] = 1; /* for now: it is there */
        rows->rows[rows->count++] = word;
    }
}

static int ascending(const void *a, const void *b)
{
    const int64_t left = *(const int64_t *)a;
    const int64_t right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

static void number(row_set *rows)
{
    qsort(rows->rows, rows->count, sizeof *rows->rows, ascending);
    for (uint32_t i = 0; i < rows->count; i++) {
        rows->places[rows->rows[i]] = i + 1;
    }
}

/* Examples are made of words; then, of places. */
static void settle(w2v_batcher *b)
{
    number(&b->inputs);
    number(&b->outputs);
    for (uint32_t e = 0; e < b->count; e++) {
        w2v_example *example = &b->examples[e];
        example->input = b->inputs.places[example->input] - 1;
        for (uint32_t i = 0; i <= W2V_NEGATIVES; i++) {
            example->outputs[i] = b->outputs.places[example->outputs[i]] - 1;
        }
    }
}

static void add(w2v_batcher *b, uint32_t word, uint32_t other)
{
    w2v_example *example = &b->examples[b->count++];
    example->input = word;
    example->outputs[0] = other;
    for (uint32_t i = 1; i <= W2V_NEGATIVES; i++) {
        uint32_t drawn;
        do {
            drawn = b->table[draw(b) % TABLE_SIZE];
        } while (drawn == other);
        example->outputs[i] = drawn;
    }
    use(&b->inputs, word);
    for (uint32_t i = 0; i <= W2V_NEGATIVES; i++) {
        use(&b->outputs, example->outputs[i]);
    }
}

void w2v_batcher_take(w2v_batcher *b, uint64_t first, uint64_t end, w2v_batch *out)
{
    uint32_t near[W2V_WINDOW_MAX]; /* the last kept words of the line: a ring */
    uint32_t kept = 0;
    clear(&b->inputs);
    clear(&b->outputs);
    b->count = 0;
    for (uint64_t at = first; at < end && at < b->vocabulary->token_count; at++) {
        const uint32_t word = b->vocabulary->tokens[at];
        if (word == W2V_END) {
            kept = 0;
            continue;
        }
        if (draw_unit(b) > b->keep[word]) {
            continue;
        }
        /* Both ways, with those before it: each pair of neighbours comes up once from each side. */
        const uint32_t reach = 1 + (uint32_t)(draw(b) % b->window);
        for (uint32_t i = 0; i < reach && i < kept; i++) {
            const uint32_t other = near[(kept - 1 - i) % W2V_WINDOW_MAX];
            add(b, word, other);
            add(b, other, word);
        }
        near[kept++ % W2V_WINDOW_MAX] = word;
    }
    settle(b);
    *out = (w2v_batch){b->examples,     b->count,        b->inputs.rows,
                       b->outputs.rows, b->inputs.count, b->outputs.count};
}
