/* Items of rows: which rows go at once, and how they are copied and added.
 *
 * An item is done in pieces. A piece is some whole rows, or some columns of one row that is too
 * long for a slot; its list goes up in the slot of its launch.
 *
 * Threads, memory and errors: as cuda/stream.cuh says.
 */
#ifndef KVS_CUDA_ROWS_CUH
#define KVS_CUDA_ROWS_CUH

#include "cuda/map.cuh"
#include "cuda/stream_state.cuh"

/* Fails when this build has no kernel for the device. */
cudaError_t kvs_cuda_rows_load(void);

typedef struct kvs_cuda_rows_piece {
    uint32_t row; /* the first, of the item's list */
    uint32_t rows;
    uint32_t column; /* the first, if it is one row */
    uint32_t columns;
} kvs_cuda_rows_piece;

/* The next piece, of `elements_max` elements at most. False: there is none. The first call gets a
 * piece of zeros. */
bool kvs_cuda_next_piece(const kvs_rows *rows, uint32_t rows_max, uint32_t elements_max,
                         kvs_cuda_rows_piece *piece);
/* Elements of the item before the piece. */
uint64_t kvs_cuda_piece_offset(const kvs_rows *rows, const kvs_cuda_rows_piece *piece);

/* Sends the list of the piece up and fills *out for the next row of work. Needs room for the row
 * of work, and launches if the slot has none for the list. */
kvs_status kvs_cuda_map_piece(kvs_stream *stream, const kvs_rows *rows,
                              const kvs_cuda_rows_piece *piece, kvs_cuda_map *out) KVS_MUST_CHECK;
/* Do words of `lanes` elements not straddle rows? */
bool kvs_cuda_map_has_words(const kvs_cuda_map *map, size_t lanes);
/* The largest piece of kvs_cuda_map_piece. */
#define KVS_CUDA_MAP_ROWS_MAX 16384u
#define KVS_CUDA_PIECE_ELEMENTS_MAX ((uint32_t)1 << 27)

/* The elements that a matrix has at least which has all rows of the list. */
uint64_t kvs_cuda_rows_end(const kvs_rows *rows);

/* What the stream's copy and accumulate do for an item of rows. */
kvs_status kvs_cuda_gather_rows(kvs_stream *stream, const kvs_copy_item *item) KVS_MUST_CHECK;
kvs_status kvs_cuda_add_rows(kvs_stream *stream, const kvs_accumulate_item *item) KVS_MUST_CHECK;

#endif
