/* How well an embedding knows the words of its text: of pairs that belong together (father and
 * mother, gold and silver), how many are near each other.
 *
 * Threads: any; pure. Memory: the caller's. Errors: none.
 */
#ifndef WORD2VEC_RELATIONS_H
#define WORD2VEC_RELATIONS_H

#include "examples/word2vec/vocabulary.h"

typedef struct w2v_relations {
    uint32_t known; /* pairs of which both words are in the vocabulary */
    uint32_t near;  /* of those: the second is among the nearest hundredth of all words */
} w2v_relations;

/* embedding: a row of `width` for each word. */
w2v_relations w2v_relations_measure(const w2v_vocabulary *vocabulary, const float *embedding,
                                    uint32_t width);

/* The `count` words nearest to `word` by cosine, itself left out; fewer if there are not so many.
 */
uint32_t w2v_nearest(const w2v_vocabulary *vocabulary, const float *embedding, uint32_t width,
                     uint32_t word, uint32_t count, uint32_t *out);

#endif
