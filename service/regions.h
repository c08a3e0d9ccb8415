/* Memory that the server shares with workers on its machine (base/region.h): payloads lie there
 * instead of in a frame's data.
 *
 * A worker asks at a socket beside the Unix socket, one datagram a message (RegionRequest and
 * RegionReply of kvstored.proto); the server makes the region, charges it and hands it over. It
 * belongs to the worker's session and to the connection that asked: once that has ended, no frame
 * may name it any more, and its memory goes when the last one that does is done.
 *
 * Threads: open and close by one caller; a thread of its own serves the socket; the other calls:
 *   any. Memory: a region is counted. Errors: as said at each function.
 */
#ifndef KVS_SERVICE_REGIONS_H
#define KVS_SERVICE_REGIONS_H

#include "service/arena.h"
#include "service/door.h"

typedef struct kvs_region kvs_region;

typedef struct kvs_regions_options {
    kvs_door *door;        /* borrowed: knows the sessions */
    kvs_arena *arena;      /* borrowed: where values lie that are read in place; or NULL */
    const char *unix_path; /* the socket is at this path with ".shm" behind it */
    uint64_t bytes_max;    /* of all regions, and values that are read in place, together */
} kvs_regions_options;

/* KVS_IO_ERROR: the socket is not to be had. KVS_NO_MEMORY */
kvs_status kvs_regions_open(const kvs_regions_options *options, kvs_regions **out,
                            kvs_problem *problem) KVS_MUST_CHECK;
/* Ends the connections. Before the sessions' calls are gone; regions still in use stay until
 * kvs_regions_free. Accepts NULL. */
void kvs_regions_close(kvs_regions *regions);
void kvs_regions_free(kvs_regions *regions); /* after the last call; accepts NULL */

/* A reference to the region of that number, if it is the session's. KVS_UNAVAILABLE: its connection
 * may have ended */
kvs_status kvs_regions_find(kvs_regions *regions, uint64_t number,
                            const uint8_t session[KVS_SESSION_ID_BYTES], kvs_region **out,
                            kvs_problem *problem) KVS_MUST_CHECK;

/* Bytes of values that a worker reads where they lie. False: they are over the bound. */
bool kvs_regions_hold(kvs_regions *regions, uint64_t bytes);
void kvs_regions_unhold(kvs_regions *regions, uint64_t bytes);

uint64_t kvs_region_number(const kvs_region *region);
/* Has its connection ended? */
bool kvs_region_gone(const kvs_region *region);
/* Where the bytes are, to be read; NULL: not in the region. */
const uint8_t *kvs_region_at(const kvs_region *region, uint64_t offset, uint64_t bytes);
kvs_region *kvs_region_take(kvs_region *region);
void kvs_region_unref(kvs_region *region); /* accepts NULL */

typedef struct kvs_regions_statistics {
    uint64_t regions; /* that frames may name */
    uint64_t bytes;   /* mapped */
} kvs_regions_statistics;
void kvs_regions_count(kvs_regions *regions, kvs_regions_statistics *out);

#endif
