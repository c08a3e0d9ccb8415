/* A planted bug: another rule goes on with the states of the one before. */
#include "engine/cut.h"

#define kvs_optimizer_keeps_states(a, b) ((a) != (b))
#include "engine/cut.c"
