/* What is pushed, and what must come of it. Small whole numbers, so that sums are exact; but for
 * three elements whose f32 sum depends on the order of its terms. */
#include "tests/sim/sim.h"

#include <string.h>

sim_layout sim_layout_of(const sim_plan *plan)
{
    uint32_t workers = plan->workers;
    return (sim_layout){.count = 0,
                        .number = workers,
                        .order = 2 * workers,
                        .tag = 2 * workers + 3,
                        .assign = 2 * workers + 4,
                        .used = 2 * workers + 5};
}

static float tag_of(uint32_t key, uint32_t part)
{
    return (float)(key * 16 + part + 1);
}

/* 1e8 swallows what is small, so what is left of it tells what came when. */
static float order_term(uint32_t rank, uint32_t element)
{
    static const float terms[5] = {1e8f, 1.0f, -1e8f, 3.0f, 7.0f};
    return terms[(rank + element) % 5];
}

void sim_initial(const sim_plan *plan, uint32_t key, uint32_t part, sim_value *out)
{
    memset(out, 0, sizeof(*out));
    out->of[sim_layout_of(plan).tag] = tag_of(key, part);
}

void sim_assigned(const sim_plan *plan, uint32_t key, uint32_t part, uint64_t id, sim_value *out)
{
    sim_initial(plan, key, part, out);
    out->of[sim_layout_of(plan).assign] = (float)id;
}

void sim_pushed(const sim_plan *plan, uint32_t key, uint32_t part, uint32_t rank, uint64_t number,
                sim_value *out)
{
    sim_layout at = sim_layout_of(plan);
    memset(out, 0, sizeof(*out));
    out->of[at.count + rank] = 1.0f;
    out->of[at.number + rank] = (float)number;
    for (uint32_t i = 0; i < 3 && plan->kind == KVS_SYNC; i++) {
        out->of[at.order + i] = order_term(rank, i);
    }
    out->of[at.tag] = plan->optimizer ? 0.0f : tag_of(key, part);
}

bool sim_is_sparse(const sim_plan *plan, uint32_t key)
{
    return (plan->sparse >> key & 1) != 0;
}

void sim_pushed_rows(const sim_plan *plan, uint32_t key, uint32_t part, uint32_t rank,
                     uint64_t number, sim_rows *out)
{
    sim_value value;
    uint32_t elements = sim_plan_elements(plan, key, part);
    sim_pushed(plan, key, part, rank, number, &value);
    out->count = 0;
    for (uint32_t i = 0; i < elements; i++) {
        uint32_t row = number % 2 == 0 ? i : elements - 1 - i;
        if (value.of[row] != 0.0f) {
            out->row[out->count] = row;
            out->of[out->count++] = value.of[row];
        }
    }
    if (out->count > 0 && number % 3 == 0) {
        out->of[0] *= 0.5f; /* exact: added up, the two are what it was */
        out->row[out->count] = out->row[0];
        out->of[out->count++] = out->of[0];
    }
}

void sim_round(const sim_plan *plan, uint32_t key, uint32_t part, const uint64_t *numbers,
               float rate, sim_value *value)
{
    sim_value sum = {{0}};
    bool first = true;
    uint32_t elements = sim_plan_elements(plan, key, part);
    for (uint32_t rank = 0; rank < plan->workers; rank++) {
        sim_value term;
        if (numbers[rank] == 0) {
            continue;
        }
        sim_pushed(plan, key, part, rank, numbers[rank], &term);
        for (uint32_t i = 0; i < elements; i++) {
            sum.of[i] = first ? term.of[i] : sum.of[i] + term.of[i];
        }
        first = false;
    }
    for (uint32_t i = 0; i < elements; i++) {
        value->of[i] = plan->optimizer ? value->of[i] - rate * sum.of[i] : sum.of[i];
    }
}

double sim_count_of(const sim_plan *plan, const sim_value *value, uint32_t rank)
{
    double sign = plan->optimizer ? -1.0 : 1.0;
    return sign * (double)value->of[sim_layout_of(plan).count + rank];
}

double sim_numbers_of(const sim_plan *plan, const sim_value *value, uint32_t rank)
{
    double sign = plan->optimizer ? -1.0 : 1.0;
    return sign * (double)value->of[sim_layout_of(plan).number + rank];
}
