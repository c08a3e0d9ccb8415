/* A planted bug: of what the shards give back, a part is kept. */
#define credit(channel, bytes) credit(channel, (bytes)-4)
#include "engine/session.c"
