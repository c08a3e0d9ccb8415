#include "examples/word2vec/vocabulary.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORD_BYTES 64u

/* While reading: every word of the text, by a hash of it. */
typedef struct entry {
    char *word;
    uint64_t count;
    uint32_t index; /* in the order of their first appearance; later by frequency */
} entry;

typedef struct table {
    entry *slots; /* a power of two; word NULL: free */
    uint64_t mask, used;
} table;

static uint64_t hash_of(const char *word)
{
    uint64_t hash = 1469598103934665603u; /* FNV-1a */
    for (; *word != '\0'; word++) {
        hash = (hash ^ (uint8_t)*word) * 1099511628211u;
    }
    return hash;
}

static entry *slot_of(const table *words, const char *word)
{
    uint64_t at = hash_of(word) & words->mask;
    while (words->slots[at].word != NULL && strcmp(words->slots[at].word, word) != 0) {
        at = (at + 1) & words->mask;
    }
    return &words->slots[at];
}

static bool grow(table *words)
{
    table larger = {.mask = words->mask == 0 ? 4095 : 2 * words->mask + 1, .used = words->used};
    larger.slots = calloc(larger.mask + 1, sizeof *larger.slots);
    if (larger.slots == NULL) {
        return false;
    }
    for (uint64_t i = 0; words->slots != NULL && i <= words->mask; i++) {
        if (words->slots[i].word != NULL) {
            *slot_of(&larger, words->slots[i].word) = words->slots[i];
        }
    }
    free(words->slots);
    *words = larger;
    return true;
}

static entry *count_word(table *words, const char *word)
{
    if (2 * words->used >= words->mask && !grow(words)) {
        return NULL;
    }
    entry *found = slot_of(words, word);
    if (found->word == NULL) {
        found->word = strdup(word);
        found->index = (uint32_t)words->used++;
    }
    found->count++;
    return found->word == NULL ? NULL : found;
}

/* The next word of the file in lower case; "" at the end of a line; false at the end of the file.
 */
static bool next_word(FILE *file, char word[WORD_BYTES])
{
    size_t used = 0;
    bool number = false;
    int c;
    while ((c = getc(file)) != EOF) {
        if (isalpha(c)) {
            if (used + 1 < WORD_BYTES) {
                word[used++] = (char)tolower(c);
            }
        } else if (isdigit(c)) {
            number = true;
        } else if ((isspace(c) || ispunct(c)) && used > 0 && !(number && c == ':')) {
            word[used] = '\0';
            used = 0;
            if (!number) {
                (void)ungetc(c, file);
                return true;
            }
            number = false;
        } else if (c == '\n') {
            word[0] = '\0';
            return true;
        } else if (isspace(c)) {
            number = false;
        }
    }
    word[used] = '\0';
    return used > 0 && !number;
}

static bool add_token(w2v_vocabulary *out, uint64_t *room, uint32_t token)
{
    if (out->token_count == *room) {
        *room = 2 * *room + 65536;
        uint32_t *larger = realloc(out->tokens, *room * sizeof *larger);
        if (larger == NULL) {
            return false;
        }
        out->tokens = larger;
    }
    out->tokens[out->token_count++] = token;
    return true;
}

static int by_count(const void *a, const void *b)
{
    const entry *left = a;
    const entry *right = b;
    if (left->count != right->count) {
        return left->count < right->count ? 1 : -1;
    }
    return strcmp(left->word, right->word);
}

/* Words by frequency, rare ones dropped, and the tokens in the new numbers. Takes the words. */
static bool settle(table *words, uint64_t count_min, w2v_vocabulary *out)
{
    uint32_t *numbers = malloc((words->used + 1) * sizeof *numbers);
    entry *all = malloc((words->used + 1) * sizeof *all);
    out->words = calloc(words->used + 1, sizeof *out->words);
    out->counts = calloc(words->used + 1, sizeof *out->counts);
    if (numbers == NULL || all == NULL || out->words == NULL || out->counts == NULL) {
        free(numbers);
        free(all);
        return false;
    }
    uint64_t count = 0;
    for (uint64_t i = 0; words->slots != NULL && i <= words->mask; i++) {
        if (words->slots[i].word != NULL) {
            all[count++] = words->slots[i];
        }
    }
    qsort(all, count, sizeof *all, by_count);
    for (uint64_t i = 0; i < count; i++) {
        bool kept = all[i].count >= count_min;
        numbers[all[i].index] = kept ? out->size : W2V_END - 1;
        if (kept) {
            out->words[out->size] = all[i].word;
            out->counts[out->size++] = all[i].count;
        } else {
            free(all[i].word);
        }
    }
    uint64_t kept = 0;
    for (uint64_t i = 0; i < out->token_count; i++) {
        uint32_t token = out->tokens[i] == W2V_END ? W2V_END : numbers[out->tokens[i]];
        if (token != W2V_END - 1) {
            out->tokens[kept++] = token;
        }
    }
    out->token_count = kept;
    free(numbers);
    free(all);
    return true;
}

bool w2v_vocabulary_read(const char *path, uint64_t count_min, w2v_vocabulary *out)
{
    char word[WORD_BYTES];
    table words = {NULL, 0, 0};
    uint64_t room = 0;
    memset(out, 0, sizeof *out);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        (void)fprintf(stderr, "word2vec: cannot read %s: %s\n", path, strerror(errno));
        return false;
    }
    bool good = true;
    while (good && next_word(file, word)) {
        const entry *found = word[0] == '\0' ? NULL : count_word(&words, word);
        good = (word[0] == '\0' || found != NULL) &&
               add_token(out, &room, found == NULL ? W2V_END : found->index);
    }
    (void)fclose(file);
    good = good && settle(&words, count_min, out);
    free(words.slots);
    if (!good || out->size < 2) {
        (void)fprintf(stderr, "word2vec: %s: %s\n", path,
                      good ? "fewer than two words are frequent enough" : "no memory");
        w2v_vocabulary_free(out);
        return false;
    }
    return true;
}

void w2v_vocabulary_free(w2v_vocabulary *vocabulary)
{
    for (uint32_t i = 0; vocabulary->words != NULL && i < vocabulary->size; i++) {
        free(vocabulary->words[i]);
    }
    free(vocabulary->words);
    free(vocabulary->counts);
    free(vocabulary->tokens);
    memset(vocabulary, 0, sizeof *vocabulary);
}

uint32_t w2v_vocabulary_find(const w2v_vocabulary *vocabulary, const char *word)
{
    for (uint32_t i = 0; i < vocabulary->size; i++) {
        if (strcmp(vocabulary->words[i], word) == 0) {
            return i;
        }
    }
    return W2V_END;
}
