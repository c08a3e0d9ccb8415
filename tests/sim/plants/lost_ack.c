/* A planted bug: the last of every range of acks is lost, as by an off-by-one. */
#define ack(channel, first, last, duplicate)                                                       \
    ack(channel, first, (last) - ((last) > (first) ? 1 : 0), duplicate)
#include "engine/session.c"
