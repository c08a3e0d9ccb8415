/* The learning rate of the n-th update: a constant, or one of MXNet's four schedulers.
 *
 * MXNet's schedulers change their own base rate as they are called; these are the same values as
 * pure functions of n, the key's own count, so that a rate does not depend on what other keys do
 * or on what was asked before. A learning_rate beside a scheduler replaces its base_lr for
 * everything, also the end of the warm-up and the start of poly and cosine.
 *
 * Threads: any once read. Memory: `steps` is borrowed from whoever read it.
 */
#ifndef KVS_ENGINE_LEARNING_RATE_H
#define KVS_ENGINE_LEARNING_RATE_H

#include "base/json.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Steps of one multifactor schedule. */
#define KVS_LEARNING_RATE_STEPS_MAX 4096u

typedef enum kvs_rate_kind {
    KVS_RATE_CONSTANT,
    KVS_RATE_FACTOR,
    KVS_RATE_MULTIFACTOR,
    KVS_RATE_POLY,
    KVS_RATE_COSINE,
    KVS_RATE_COUNT
} kvs_rate_kind;

typedef struct kvs_learning_rate {
    kvs_rate_kind kind;
    double base;
    /* all but constant: for n < warmup_steps, begin + (base - begin) n / warmup_steps, or begin */
    uint64_t warmup_steps;
    double warmup_begin;
    bool warmup_constant;
    /* factor: base * factor^k, not below stop, k the multiples of step that lie below n.
     * multifactor: k the steps that lie below n, no lower bound. */
    double factor;
    uint64_t step;
    double stop;
    const json_t *steps; /* array of growing integers */
    /* poly: final + (base - final) (1 - x)^power; cosine: final + (base - final)(1 + cos pi x)/2;
     * x = (n - warmup_steps) / (max_update - warmup_steps), 1 from max_update on */
    uint64_t max_update;
    double power;
    double final;
} kvs_learning_rate;

/* Reads the field "lr_scheduler" of `parent`; absent or null is a constant rate. `base` is the
 * rate where the scheduler names none; with `fixed` it is the rate whatever the scheduler names.
 * Errors are collected in the parent's. */
void kvs_learning_rate_read(kvs_json_fields *parent, double base, bool fixed,
                            kvs_learning_rate *out);

/* Writes the scheduler as canonical JSON; "null" for a constant rate. */
void kvs_learning_rate_write(const kvs_learning_rate *rate, FILE *to);

/* The rate of update n, the first being 1. */
double kvs_learning_rate_at(const kvs_learning_rate *rate, uint64_t n);

/* x^n by multiplication alone: the same bits on every machine, whatever its libm. */
double kvs_power(double x, uint64_t n);

#endif
