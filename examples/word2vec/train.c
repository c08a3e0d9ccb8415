#include "examples/word2vec/train.h"

#include "examples/word2vec/model.h"

#include <kvstore/kvstore.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { INPUTS, OUTPUTS, EMBEDDINGS };
static const kv_key keys[EMBEDDINGS] = {{.name = "input"}, {.name = "output"}};

/* What one process holds while it trains. Rows lie one after another, `width` floats each. */
typedef struct trainer {
    const w2v_run *run;
    const w2v_vocabulary *vocabulary;
    w2v_report *report;
    kv_store *kv;
    w2v_batcher *batcher;
    uint64_t shape[2];
    float *rows[EMBEDDINGS];      /* pulled */
    float *gradients[EMBEDDINGS]; /* to be pushed */
    int64_t *ids[EMBEDDINGS];     /* that a pull writes */
} trainer;

static double now(void)
{
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static bool failed(const trainer *t, const char *what, kv_status status)
{
    (void)fprintf(stderr, "word2vec: rank %u, step %llu: %s: %s: %s\n", t->report->rank,
                  (unsigned long long)t->report->steps, what, kv_status_reason(status),
                  kv_last_error(t->kv));
    return false;
}

static bool prepare(trainer *t)
{
    const size_t floats = (size_t)t->vocabulary->size * t->run->width;
    bool good = true;
    for (int i = 0; i < EMBEDDINGS; i++) {
        t->rows[i] = calloc(floats, sizeof(float));
        t->gradients[i] = calloc(floats, sizeof(float));
        t->ids[i] = calloc(t->vocabulary->size, sizeof(int64_t));
        good = good && t->rows[i] != NULL && t->gradients[i] != NULL && t->ids[i] != NULL;
    }
    t->batcher = w2v_batcher_open(t->vocabulary, t->run->window, t->run->tokens,
                                  t->run->seed * 1000003u + t->report->rank);
    t->report->embedding = calloc(floats, sizeof(float));
    if (!good || t->batcher == NULL || t->report->embedding == NULL) {
        (void)fprintf(stderr, "word2vec: no memory. Use a smaller --width.\n");
        return false;
    }
    return true;
}

static void release(trainer *t)
{
    for (int i = 0; i < EMBEDDINGS; i++) {
        free(t->rows[i]);
        free(t->gradients[i]);
        free(t->ids[i]);
    }
    w2v_batcher_close(t->batcher);
}

/* Input rows start small and at random, output rows at zero: as in the authors' program. */
static bool start_embeddings(trainer *t)
{
    const size_t floats = (size_t)t->vocabulary->size * t->run->width;
    uint64_t random = t->run->seed;
    for (size_t i = 0; i < floats; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        t->rows[INPUTS][i] =
            (float)(((double)(random >> 11) * 0x1p-53 - 0.5) / (double)t->run->width);
    }
    const kv_row_sparse values[EMBEDDINGS] = {
        {.data = t->rows[INPUTS],
         .dtype = KV_F32,
         .rank = 2,
         .shape = t->shape,
         .count = t->shape[0]},
        {.dtype = KV_F32, .rank = 2, .shape = t->shape, .count = 0}, /* no rows: all zero */
    };
    kv_status status = kv_init_row_sparse(t->kv, keys, values, EMBEDDINGS);
    if (status != 0) {
        return failed(t, "init", status);
    }
    char json[128];
    (void)snprintf(json, sizeof json, "{\"name\": \"adagrad\", \"learning_rate\": %.9g}",
                   t->run->learning_rate);
    status = kv_set_optimizer(t->kv, json);
    return status == 0 || failed(t, "set_optimizer", status);
}

static kv_row_sparse rows_of(const trainer *t, float *data, const int64_t *ids, uint64_t count)
{
    return (kv_row_sparse){.data = data,
                           .dtype = KV_F32,
                           .rank = 2,
                           .shape = t->shape,
                           .ids = (void *)ids,
                           .id_dtype = KV_I64,
                           .count = count};
}

static bool pull_rows(trainer *t, const w2v_batch *batch)
{
    const uint64_t counts[EMBEDDINGS] = {batch->input_count, batch->output_count};
    kv_row_sparse outs[EMBEDDINGS];
    const kv_array wanted[EMBEDDINGS] = {
        {(void *)batch->input_rows, KV_I64, 1, &counts[INPUTS]},
        {(void *)batch->output_rows, KV_I64, 1, &counts[OUTPUTS]},
    };
    for (int i = 0; i < EMBEDDINGS; i++) {
        outs[i] = rows_of(t, t->rows[i], t->ids[i], counts[i]);
    }
    kv_status status =
        kv_row_sparse_pull(t->kv, keys, outs, NULL, wanted, EMBEDDINGS, EMBEDDINGS, 0, NULL);
    if (status == 0) {
        status = kv_wait(t->kv, KV_FOREVER);
    }
    t->report->rows += counts[INPUTS] + counts[OUTPUTS];
    return status == 0 || failed(t, "row_sparse_pull", status);
}

/* A batch without examples still takes this worker's turn in the round. */
static bool push_rows(trainer *t, const w2v_batch *batch)
{
    const kv_row_sparse values[EMBEDDINGS] = {
        rows_of(t, t->gradients[INPUTS], batch->input_rows, batch->input_count),
        rows_of(t, t->gradients[OUTPUTS], batch->output_rows, batch->output_count),
    };
    const kv_status status = kv_push_row_sparse(t->kv, keys, values, NULL, EMBEDDINGS, 0, NULL);
    return status == 0 || failed(t, "push", status);
}

static bool train_epoch(trainer *t, uint32_t epoch, uint64_t first, uint64_t end)
{
    double loss = 0;
    uint64_t examples = 0;
    for (uint64_t at = first; at < end; at += t->run->tokens) {
        w2v_batch batch;
        const uint64_t stop = at + t->run->tokens < end ? at + t->run->tokens : end;
        w2v_batcher_take(t->batcher, at, stop, &batch);
        if (!pull_rows(t, &batch)) {
            return false;
        }
        loss += w2v_gradient(&batch, t->run->width, t->rows[INPUTS], t->rows[OUTPUTS],
                             t->gradients[INPUTS], t->gradients[OUTPUTS]);
        examples += batch.count;
        if (!push_rows(t, &batch)) {
            return false;
        }
        t->report->steps++;
    }
    t->report->last_loss = examples == 0 ? 0 : loss / (double)examples;
    t->report->first_loss = epoch == 0 ? t->report->last_loss : t->report->first_loss;
    if (!t->run->quiet) {
        (void)fprintf(stderr, "word2vec: rank %u, epoch %u of %u, loss %.4f\n", t->report->rank,
                      epoch + 1, t->run->epochs, t->report->last_loss);
    }
    return true;
}

/* All workers' pushes are in what is pulled. */
static bool pull_embedding(trainer *t)
{
    const kv_array out = {t->report->embedding, KV_F32, 2, t->shape};
    kv_status status = kv_wait(t->kv, KV_FOREVER);
    if (status == 0 && strstr(t->run->type, "dist") != NULL) {
        status = kv_barrier(t->kv, 0);
    }
    if (status == 0) {
        status = kv_pull(t->kv, &keys[INPUTS], &out, NULL, 1, 0, NULL);
    }
    if (status == 0) {
        status = kv_wait(t->kv, KV_FOREVER);
    }
    return status == 0 || failed(t, "pull", status);
}

bool w2v_train(const w2v_run *run, const w2v_vocabulary *vocabulary, w2v_report *report)
{
    trainer t = {.run = run,
                 .vocabulary = vocabulary,
                 .report = report,
                 .shape = {vocabulary->size, run->width}};
    kv_options options;
    kv_options_init(&options);
    options.store = run->store;
    options.rank = run->rank;
    char error[256] = "";
    const kv_status status =
        kv_create(run->type, run->address, &options, &t.kv, error, sizeof error);
    if (status != 0) {
        (void)fprintf(stderr, "word2vec: no %s store: %s: %s\n", run->type,
                      kv_status_reason(status), error);
        return false;
    }
    const double start = now();
    report->rank = kv_rank(t.kv);
    const uint64_t workers = kv_num_workers(t.kv);
    const uint64_t stretch = (vocabulary->token_count + workers - 1) / workers;
    bool good = prepare(&t) && start_embeddings(&t);
    for (uint32_t epoch = 0; good && epoch < run->epochs; epoch++) {
        good = train_epoch(&t, epoch, report->rank * stretch, (report->rank + 1) * stretch);
    }
    good = good && pull_embedding(&t);
    report->seconds = now() - start;
    release(&t);
    return kv_close(t.kv) == 0 && good;
}
