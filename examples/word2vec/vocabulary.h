/* A text as numbers: its words by frequency, and its tokens, verse by verse.
 *
 * A word is a run of letters, in lower case; a token with a digit in it (a verse's number) is left
 * out. Words that are too rare are left out as if they were not in the text.
 *
 * Threads: one writes, then any read. Memory: owned by the vocabulary. Errors: false, with a
 * sentence on stderr.
 */
#ifndef WORD2VEC_VOCABULARY_H
#define WORD2VEC_VOCABULARY_H

#include <stdbool.h>
#include <stdint.h>

#define W2V_END UINT32_MAX /* in the tokens: the end of a line */

typedef struct w2v_vocabulary {
    char **words;     /* most frequent first; equal ones in alphabetical order */
    uint64_t *counts; /* of each */
    uint32_t size;
    uint32_t *tokens; /* indices of words, and W2V_END */
    uint64_t token_count;
} w2v_vocabulary;

bool w2v_vocabulary_read(const char *path, uint64_t count_min, w2v_vocabulary *out);
void w2v_vocabulary_free(w2v_vocabulary *vocabulary);

/* The word's index, or W2V_END. */
uint32_t w2v_vocabulary_find(const w2v_vocabulary *vocabulary, const char *word);

#endif
