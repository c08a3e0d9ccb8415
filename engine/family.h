/* The optimizers by name: which numbers each has, what they are unless said, and what they make of
 * an update. One row of a table each; engine/rules.h has the arithmetic.
 *
 * Threads: any; constant tables and pure functions. Memory: allocates nothing.
 */
#ifndef KVS_ENGINE_FAMILY_H
#define KVS_ENGINE_FAMILY_H

#include "base/json.h"
#include "engine/scalars.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The lines of MXNet, "rules" of the optimizer. */
typedef enum kvs_line { KVS_LINE_19, KVS_LINE_20, KVS_LINE_COUNT } kvs_line;
extern const char *const kvs_line_names[KVS_LINE_COUNT]; /* "1.9", "2.0" */

typedef struct kvs_family kvs_family;

/* The family of a name in lower case, or NULL: no optimizer of that line. */
const kvs_family *kvs_family_find(const char *name, kvs_line line);
/* The names of a line, KVS_FAMILIES_MAX at most: how many. */
#define KVS_FAMILIES_MAX 32u
size_t kvs_family_names(kvs_line line, const char *out[KVS_FAMILIES_MAX]);

const char *kvs_family_name(const kvs_family *family);
/* False: its wd has to be 0. */
bool kvs_family_decays(const kvs_family *family);
/* True: its schedule is asked before the update is counted. */
bool kvs_family_lags(const kvs_family *family);
double kvs_family_learning_rate(const kvs_family *family, kvs_line line);
/* *out: whether rows without a gradient are left alone, unless the optimizer's lazy_update says
 * otherwise; false: it has no lazy_update. */
bool kvs_family_lazy(const kvs_family *family, kvs_line line, bool *out);

/* Reads the family's own numbers over their defaults. Errors are collected in the fields'. */
void kvs_family_read(const kvs_family *family, kvs_line line, kvs_json_fields *fields,
                     double hyper[KVS_HYPER_COUNT]);
/* Writes them, each behind ", ". An error stays in the FILE. */
void kvs_family_write(const kvs_family *family, kvs_line line, const double hyper[KVS_HYPER_COUNT],
                      FILE *to);

/* The rule of these numbers, a kvs_rule. */
int kvs_family_rule(const kvs_family *family, kvs_line line, const double hyper[KVS_HYPER_COUNT]);

/* What the numbers make of update `count` of a key, which began to count at `begin`. In `out`,
 * rule, rescale, clip, wd and lr (schedule and multiplier included) are there already. */
void kvs_family_scalars(const kvs_family *family, const double hyper[KVS_HYPER_COUNT],
                        uint64_t begin, uint64_t count, kvs_rule_scalars *out);

/* What is measured over a whole value before each update, in order: how many, at most
 * KVS_FAMILY_MEASURES_MAX. None of a key that is `plain`. */
#define KVS_FAMILY_MEASURES_MAX 2u
unsigned kvs_family_measures(const kvs_family *family, const double hyper[KVS_HYPER_COUNT],
                             bool plain, kvs_measure out[KVS_FAMILY_MEASURES_MAX]);
/* Adds what the sums of squares of measure `stage` make of the numbers. */
void kvs_family_scale(const kvs_family *family, const double hyper[KVS_HYPER_COUNT], unsigned stage,
                      const double *squares, kvs_rule_scalars *out);
/* Is a key of this name updated without norms? lars does so with what ends in gamma, beta, bias. */
bool kvs_family_plain(const kvs_family *family, const char *key, size_t key_bytes);

#endif
