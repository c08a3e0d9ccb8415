#include "examples/word2vec/relations.h"

#include "examples/word2vec/model.h"

#include <stddef.h>

/* Of a text of religion and history; what another text lacks is left out. */
static const char *const pairs[][2] = {
    {"father", "mother"}, {"son", "daughter"}, {"king", "queen"},  {"brother", "sister"},
    {"he", "she"},        {"gold", "silver"},  {"north", "south"}, {"bread", "wine"},
    {"day", "night"},     {"heaven", "earth"}, {"sheep", "goats"}, {"eyes", "ears"},
    {"hand", "arm"},      {"man", "woman"},    {"sun", "moon"},    {"husband", "wife"},
    {"jacob", "esau"},    {"moses", "aaron"},  {"tree", "fruit"},  {"sin", "iniquity"},
};
#define PAIRS (sizeof pairs / sizeof pairs[0])

/* How many words are nearer to a than b is. */
static uint32_t nearer(const w2v_vocabulary *v, const float *rows, uint32_t width, uint32_t a,
                       uint32_t b)
{
    const double bound = w2v_cosine(rows + (size_t)a * width, rows + (size_t)b * width, width);
    uint32_t count = 0;
    for (uint32_t i = 0; i < v->size; i++) {
        const double near = w2v_cosine(rows + (size_t)a * width, rows + (size_t)i * width, width);
        /* Turned round, so that what is no number counts as nearer. */
        count += i != a && i != b && !(near < bound) ? 1u : 0u;
    }
    return count;
}

w2v_relations w2v_relations_measure(const w2v_vocabulary *vocabulary, const float *embedding,
                                    uint32_t width)
{
    w2v_relations found = {0, 0};
    for (size_t i = 0; i < PAIRS; i++) {
        const uint32_t a = w2v_vocabulary_find(vocabulary, pairs[i][0]);
        const uint32_t b = w2v_vocabulary_find(vocabulary, pairs[i][1]);
        if (a != W2V_END && b != W2V_END) {
            found.known++;
            found.near += nearer(vocabulary, embedding, width, a, b) < vocabulary->size / 100;
        }
    }
    return found;
}

uint32_t w2v_nearest(const w2v_vocabulary *vocabulary, const float *embedding, uint32_t width,
                     uint32_t word, uint32_t count, uint32_t *out)
{
    uint32_t found = 0;
    while (found < count && found + 1 < vocabulary->size) {
        double best = -2;
        uint32_t at = word;
        for (uint32_t i = 0; i < vocabulary->size; i++) {
            bool taken = i == word;
            for (uint32_t k = 0; k < found; k++) {
                taken = taken || out[k] == i;
            }
            const double near = taken ? -2
                                      : w2v_cosine(embedding + (size_t)word * width,
                                                   embedding + (size_t)i * width, width);
            if (near > best) {
                best = near;
                at = i;
            }
        }
        out[found++] = at;
    }
    return found;
}
