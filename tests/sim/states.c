/* An admin who saves optimizer states and loads them again, as SaveOptimizerStates and
 * LoadOptimizerStates do: a file is read and comes piece by piece, while all else goes on. Some of
 * the files do not fit, end too early, or are given up; some states were tagged by hand. */
#include "tests/sim/sim.h"

#include "base/check.h"
#include "base/safetensors.h"
#include "engine/states.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILES_MAX 8u
#define LOADS_MAX 10u
#define RULES_MAX 5u

/* A file that was saved. */
typedef struct file {
    uint8_t *data;
    size_t bytes;
    uint32_t rule; /* whose states they are */
    bool brings_rule;
    sim_states states;
} file;

struct sim_admin {
    file files[FILES_MAX];
    uint32_t file_count;
    uint32_t saves, loads, rules; /* that were asked for */
    bool last;                    /* the save at rest has come */
};

static bool may_fail(const sim *world, kvs_status status)
{
    return sim_admin_may_fail(world, status) || world->deleted ||
           (status == KVS_NO_MEMORY && world->plan.starve_in != 0) ||
           (status == KVS_OVER_BUDGET && world->plan.memory_bytes != 0);
}

static uint32_t keys_now(sim *world)
{
    kvs_store_info info;
    kvs_store_describe(world->store, &info);
    return (uint32_t)info.keys;
}

/* ------------------------------------------------------------------ what a file holds */

/* A file's header, read; `text` is its own copy. */
typedef struct header {
    char *text;
    size_t bytes; /* and the length before it */
    kvs_safetensors tensors;
} header;

static bool read_header(sim *world, const uint8_t *data, size_t bytes, header *out)
{
    kvs_problem problem = {.status = KVS_OK};
    size_t text_bytes = 0;
    if (bytes < KVS_SAFETENSORS_LENGTH_BYTES ||
        kvs_safetensors_length(data, &text_bytes, &problem) != KVS_OK ||
        text_bytes > bytes - KVS_SAFETENSORS_LENGTH_BYTES) {
        sim_fail(world, "save: no header: %s", problem.detail);
        return false;
    }
    out->bytes = KVS_SAFETENSORS_LENGTH_BYTES + text_bytes;
    out->text = malloc(text_bytes + 1);
    KVS_CHECK(out->text != NULL);
    memcpy(out->text, data + KVS_SAFETENSORS_LENGTH_BYTES, text_bytes);
    if (kvs_safetensors_parse(out->text, text_bytes, &out->tensors, &problem) != KVS_OK) {
        sim_fail(world, "save: the header: %s", problem.detail);
        free(out->text);
        return false;
    }
    return true;
}

static void free_header(header *of)
{
    kvs_safetensors_deinit(&of->tensors);
    free(of->text);
}

/* Where the tensor "key" or "key::what" begins in the file; its tensor, too. 0: there is none. */
static size_t find(const header *in, uint32_t key, const char *what, const kvs_safetensor **out)
{
    char name[64];
    int bytes = snprintf(name, sizeof(name), "%s%s", sim_key_name(key), what);
    for (size_t i = 0; i < in->tensors.count; i++) {
        const kvs_safetensor *tensor = &in->tensors.tensors[i];
        if (tensor->name_bytes == (uint32_t)bytes &&
            memcmp(tensor->name, name, (size_t)bytes) == 0) {
            *out = tensor;
            return in->bytes + (size_t)tensor->begin;
        }
    }
    return 0;
}

/* Elements of all parts, of a tensor of the value's shape. */
static bool read_tensor(const sim *world, const uint8_t *data, const header *in, uint32_t key,
                        const char *what, sim_value **to)
{
    const kvs_safetensor *tensor = NULL;
    size_t at = find(in, key, what, &tensor);
    size_t elements = sim_plan_key_elements(&world->plan, key);
    if (at == 0 || tensor->end - tensor->begin != elements * sizeof(float)) {
        return false;
    }
    for (uint32_t part = 0; part < world->plan.parts[key]; part++) {
        size_t bytes = sim_plan_elements(&world->plan, key, part) * sizeof(float);
        memcpy(to[part]->of, data + at + part * world->plan.part_elements * sizeof(float), bytes);
    }
    return true;
}

static bool read_steps(const sim *world, const uint8_t *data, const header *in, uint32_t key,
                       sim_part_states *to)
{
    const kvs_safetensor *tensor = NULL;
    size_t at = find(in, key, "::step", &tensor);
    if (at == 0 || (tensor->rank == 1 && tensor->sizes[0] != world->plan.parts[key])) {
        return false;
    }
    for (uint32_t part = 0; part < world->plan.parts[key]; part++) {
        memcpy(&to[part].updates, data + at + (tensor->rank == 1 ? part * 8 : 0), 8);
    }
    return true;
}

static void read_states(sim *world, const file *from, sim_states *out)
{
    header of = {.text = NULL};
    const kvs_safetensor *tensor = NULL;
    if (!read_header(world, from->data, from->bytes, &of)) {
        return;
    }
    out->keys = find(&of, 0, "::step", &tensor) != 0 ? world->plan.keys : 0;
    out->values = find(&of, 0, "", &tensor) != 0;
    for (uint32_t key = 0; key < out->keys; key++) {
        sim_part_states *parts = out->of[key];
        sim_value *momenta[SIM_PARTS_MAX];
        sim_value *values[SIM_PARTS_MAX];
        for (uint32_t part = 0; part < SIM_PARTS_MAX; part++) {
            momenta[part] = &parts[part].momentum;
            values[part] = &parts[part].value;
        }
        if (!read_steps(world, from->data, &of, key, parts) ||
            !read_tensor(world, from->data, &of, key, "::momentum_buffer", momenta) ||
            (out->values && !read_tensor(world, from->data, &of, key, "", values))) {
            sim_fail(world, "save: the file lacks something of %s", sim_key_name(key));
        }
    }
    if (of.tensors.data_bytes + of.bytes != from->bytes) {
        sim_fail(world, "save: the file has %zu bytes", from->bytes);
    }
    free_header(&of);
}

/* ------------------------------------------------------------------ saving */

typedef struct save {
    sim *world;
    size_t cut;
    bool values;
    kvs_capture *capture;
    kvs_states *states;
    file file;
    size_t read;
} save;

static void keep(save *of)
{
    sim *world = of->world;
    sim_admin *admin = world->admin;
    sim_cut *cut = &world->cuts[of->cut];
    read_states(world, &of->file, &of->file.states);
    of->file.states.tag = of->file.states.of[0][0].momentum.of[sim_layout_of(&world->plan).assign];
    cut->happened = true;
    cut->states = malloc(sizeof(*cut->states));
    KVS_CHECK(cut->states != NULL);
    *cut->states = of->file.states;
    world->counts->saves++;
    admin->last = true;
    if (admin->file_count == FILES_MAX) {
        free(of->file.data);
    } else {
        admin->files[admin->file_count++] = of->file;
    }
}

static void run_read(sim *world, void *context, uint64_t number)
{
    save *of = context;
    (void)number;
    do {
        kvs_span span = kvs_states_span(of->states, of->read);
        size_t bytes = sim_chance(world, 2) ? span.bytes : 1 + sim_below(world, span.bytes);
        memcpy(of->file.data + of->read, span.data, bytes);
        of->read += bytes;
    } while (of->read < of->file.bytes && !sim_chance(world, 4));
    if (of->read < of->file.bytes) {
        sim_after(world, sim_delay(world), run_read, of, 0);
        return;
    }
    kvs_states_close(of->states);
    keep(of);
    free(of);
}

static void run_open(sim *world, void *context, uint64_t number)
{
    save *of = context;
    kvs_problem problem = {.status = KVS_OK};
    (void)number;
    if (kvs_states_open(of->capture, of->file.brings_rule, &of->states, &problem) != KVS_OK) {
        sim_fail(world, "save: %s", problem.detail);
        return;
    }
    of->file.bytes = (size_t)kvs_states_bytes(of->states);
    of->file.data = malloc(of->file.bytes);
    KVS_CHECK(of->file.data != NULL);
    sim_after(world, sim_delay(world), run_read, of, 0);
}

static void save_told(sim_waiter *waiter, const kvs_problem *problem)
{
    save *of = waiter->context;
    sim *world = of->world;
    if (problem->status == KVS_OK) {
        sim_history_over(world, of->cut);
        sim_after(world, sim_delay(world), run_open, of, 0);
        return;
    }
    if (!may_fail(world, problem->status)) {
        sim_fail(world, "save: %s %s", kvs_status_find(problem->status)->reason, problem->detail);
    }
    free(of);
}

static void begin_save(sim *world, bool values, bool brings_rule)
{
    save *of = calloc(1, sizeof(*of));
    KVS_CHECK(of != NULL);
    of->world = world;
    of->file.rule = world->rule;
    of->file.brings_rule = brings_rule;
    of->cut = sim_history_add(world, SIM_CUT_SAVE);
    sim_waiter *waiter = sim_waiter_make(world, save_told, of, 0);
    kvs_store_capture(world->store, values, &of->capture, &waiter->waiter, world->now_ns);
}

/* ------------------------------------------------------------------ loading */

typedef enum defect { FITS, OTHER_NAME, NEGATIVE_STEP, TOO_LONG, TOO_SHORT, GIVEN_UP } defect;

typedef struct load {
    sim *world;
    uint8_t *data;
    size_t bytes, sent, head_bytes;
    uint32_t rule;
    bool brings_rule;
    sim_states states;
    defect defect;
    uint32_t judged_rule, judged_keys; /* the store's, when the header had come */
    kvs_status expected;
    kvs_states_load *in;
    size_t cut;
    bool told, refused;
} load;

static void end_load(load *of)
{
    kvs_states_load_close(of->in);
    free(of->data);
    free(of);
}

static void run_end_load(sim *world, void *context, uint64_t number)
{
    (void)world;
    (void)number;
    end_load(context);
}

static void judge(load *of, kvs_status status, const kvs_problem *problem)
{
    sim *world = of->world;
    if (status == of->expected || (status != KVS_OK && may_fail(world, status))) {
        world->counts->refused_loads += status == of->expected && status != KVS_OK ? 1 : 0;
        return;
    }
    sim_fail(world, "load: %s %s, expected %s", kvs_status_find(status)->reason, problem->detail,
             kvs_status_find(of->expected)->reason);
}

static void load_told(sim_waiter *waiter, const kvs_problem *problem)
{
    load *of = waiter->context;
    sim *world = of->world;
    judge(of, problem->status, problem);
    of->told = true;
    of->refused = problem->status != KVS_OK;
    if (!of->refused) {
        world->counts->loads++;
        sim_history_over(world, of->cut);
    }
    sim_after(world, 0, run_end_load, of, 0);
}

static void commit(load *of)
{
    sim *world = of->world;
    bool fits = keys_now(world) == of->judged_keys &&
                (of->brings_rule || sim_states_same_rule(world->rule, of->judged_rule));
    of->expected = of->defect == TOO_SHORT ? KVS_INVALID_FRAME
                   : fits                  ? KVS_OK
                                           : KVS_STATES_MISMATCH;
    of->cut = sim_history_add(world, SIM_CUT_LOAD);
    sim_waiter *waiter = sim_waiter_make(world, load_told, of, 0);
    kvs_states_load_commit(of->in, &waiter->waiter, world->now_ns);
    if (of->told && of->refused) {
        return; /* at once: there is no cut */
    }
    sim_cut *cut = &world->cuts[of->cut];
    cut->happened = true;
    cut->rule = of->brings_rule ? of->rule : 0;
    cut->states = malloc(sizeof(*cut->states));
    KVS_CHECK(cut->states != NULL);
    *cut->states = of->states;
    world->rule = of->brings_rule ? of->rule : world->rule;
}

/* The header is about to come. */
static void expect_header(load *of)
{
    sim *world = of->world;
    of->judged_rule = of->brings_rule ? of->rule : world->rule;
    of->judged_keys = keys_now(world);
    if (of->defect == OTHER_NAME || of->judged_keys != of->states.keys ||
        !sim_states_same_rule(of->judged_rule, of->rule)) {
        of->expected = KVS_STATES_MISMATCH;
    }
}

static void run_append(sim *world, void *context, uint64_t number)
{
    load *of = context;
    kvs_problem problem = {.status = KVS_OK};
    (void)number;
    size_t bytes = 1 + sim_below(world, of->bytes - of->sent);
    if (of->sent < of->head_bytes && of->sent + bytes >= of->head_bytes) {
        expect_header(of);
    }
    /* What is wrong with the data is known by the time that the last of it has come. */
    kvs_status early = of->expected;
    if (early == KVS_OK && of->sent + bytes == of->bytes) {
        of->expected = of->defect == NEGATIVE_STEP ? KVS_INVALID_TENSOR
                       : of->defect == TOO_LONG    ? KVS_INVALID_FRAME
                                                   : KVS_OK;
    }
    kvs_status status = kvs_states_load_append(of->in, of->data + of->sent, bytes, &problem);
    of->sent += bytes;
    if (of->defect == NEGATIVE_STEP && status == KVS_INVALID_TENSOR && early == KVS_OK) {
        of->expected = KVS_INVALID_TENSOR;
    }
    if (of->sent >= of->head_bytes || status != KVS_OK) {
        judge(of, status, &problem);
    }
    if (status != KVS_OK || (of->defect == GIVEN_UP && sim_chance(world, 3))) {
        end_load(of);
    } else if (of->sent < of->bytes) {
        sim_after(world, sim_delay(world), run_append, of, 0);
    } else {
        commit(of);
    }
}

/* ------------------------------------------------------------------ files that are not as saved */

static void tag(load *of, const header *in, uint32_t number)
{
    sim *world = of->world;
    const kvs_safetensor *tensor = NULL;
    sim_layout at = sim_layout_of(&world->plan);
    float value = (float)number;
    of->states.tag = of->states.keys > 0 ? value : 0;
    for (uint32_t key = 0; key < of->states.keys; key++) {
        size_t begin = find(in, key, "::momentum_buffer", &tensor);
        for (uint32_t part = 0; part < world->plan.parts[key]; part++) {
            size_t element = part * world->plan.part_elements + at.assign;
            memcpy(of->data + begin + element * sizeof(float), &value, sizeof(float));
            of->states.of[key][part].momentum.of[at.assign] = value;
        }
    }
}

/* The defects need a key. */
static void spoil(load *of, const header *in)
{
    const kvs_safetensor *tensor = NULL;
    static const char name[] = "momentum_buffer";
    switch (of->defect) {
    case OTHER_NAME:
        for (size_t i = 0; i + sizeof(name) <= of->head_bytes; i++) {
            if (memcmp(of->data + i, name, sizeof(name) - 1) == 0) {
                of->data[i] = 'n';
                return;
            }
        }
        break;
    case NEGATIVE_STEP:
        of->data[find(in, 0, "::step", &tensor) + 7] = 0x80;
        break;
    case TOO_LONG:
        of->bytes++; /* there is room */
        break;
    case TOO_SHORT:
        of->bytes--;
        break;
    default:
        break;
    }
}

static void begin_load(sim *world, const file *from)
{
    load *of = calloc(1, sizeof(*of));
    header in = {.text = NULL};
    kvs_problem problem = {.status = KVS_OK};
    KVS_CHECK(of != NULL);
    if (!read_header(world, from->data, from->bytes, &in)) {
        return;
    }
    of->world = world;
    of->data = calloc(from->bytes + 1, 1);
    KVS_CHECK(of->data != NULL);
    memcpy(of->data, from->data, from->bytes);
    of->bytes = from->bytes;
    of->head_bytes = in.bytes;
    of->rule = from->rule;
    of->brings_rule = from->brings_rule;
    of->states = from->states;
    if (sim_chance(world, 2)) {
        tag(of, &in, world->admin->loads);
    }
    if (sim_chance(world, 3) && of->states.keys > 0) {
        of->defect = (defect)(1 + sim_below(world, GIVEN_UP));
        spoil(of, &in);
    }
    free_header(&in);
    if (kvs_states_load_open(world->store, &of->in, &problem) != KVS_OK) {
        sim_fail(world, "load: %s", problem.detail);
        return;
    }
    sim_after(world, sim_delay(world), run_append, of, 0);
}

/* ------------------------------------------------------------------ its day */

static void run_something(sim *world, void *context, uint64_t number)
{
    sim_admin *admin = world->admin;
    const sim_plan *plan = &world->plan;
    (void)context;
    (void)number;
    if (world->closing || world->deleted) {
        return;
    }
    uint64_t pause = plan->chaos ? 1500 * SIM_MS : 4 * plan->delay_ns;
    sim_after(world, 1 + sim_below(world, pause), run_something, NULL, 0);
    switch (sim_below(world, 5)) {
    case 0:
    case 1:
        if (admin->saves < FILES_MAX) {
            admin->saves++;
            begin_save(world, plan->states == SIM_STATES_AND_VALUES && sim_chance(world, 2),
                       sim_chance(world, 3));
        }
        break;
    case 2:
    case 3:
        if (admin->loads < LOADS_MAX && admin->file_count > 0) {
            admin->loads++;
            begin_load(world, &admin->files[sim_below(world, admin->file_count)]);
        }
        break;
    default: {
        uint32_t most = sim_states_rules(plan);
        bool last = plan->norms != 0 && sim_chance(world, 2);
        uint32_t rule = last ? most : 1 + (uint32_t)sim_below(world, most);
        if (admin->rules < RULES_MAX && rule != world->rule) {
            admin->rules++;
            sim_admin_set_rule(world, rule);
        }
        break;
    }
    }
}

void sim_states_open(sim *world)
{
    if (world->plan.states != 0) {
        world->admin = calloc(1, sizeof(*world->admin));
        KVS_CHECK(world->admin != NULL);
        sim_after(world, sim_below(world, 8 * world->plan.delay_ns), run_something, NULL, 0);
    }
}

void sim_states_save_last(sim *world)
{
    if (world->failed || world->plan.states == 0) {
        return;
    }
    world->admin->last = false;
    begin_save(world, true, true);
    sim_loop(world, NULL);
    if (!world->admin->last) {
        sim_fail(world, "rest: the states could not be saved");
    }
}

void sim_states_close(sim *world)
{
    for (uint32_t i = 0; world->admin != NULL && i < world->admin->file_count; i++) {
        free(world->admin->files[i].data);
    }
    free(world->admin);
}
