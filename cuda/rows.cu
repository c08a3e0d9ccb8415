#include "cuda/rows.cuh"

#include "base/check.h"
#include "base/half.h"

#include <string.h>

/* What a source's rows do to those of a target. An entry is a row of the target in the upper half
 * and one of the source in the lower, with KVS_ROW_FIRST where it is copied and not added. Entries
 * of one row of the target stand together, in the order in which they are added. */
typedef struct kvs_cuda_row_move {
    void *target;
    const void *source; /* of rows of `columns` elements */
    const uint64_t *entries;
    uint64_t bytes; /* of `count` rows of `columns` elements */
    uint64_t first_tile;
    uint32_t count;
    uint32_t columns;
    uint32_t width; /* of the target's rows */
    uint32_t first_column;
    kvs_dtype dtype;
    bool words; /* words do not straddle rows */
} kvs_cuda_row_move;

static_assert(KVS_CUDA_ROWS_MAX * sizeof(kvs_cuda_row_move) <= KVS_CUDA_TABLE_BYTES,
              "a table fits its slot");

/* Bytes of rows that go at once from device memory: elements are counted in 32 bits. */
#define PIECE_BYTES_MAX ((size_t)1 << 30)
/* The same from the host, beside their entries in a slot; longer rows go some columns at a time. */
#define STAGED_BYTES_MAX (KVS_CUDA_PAYLOAD_BYTES / 2)

static_assert(KVS_PART_BYTES_MAX <= PIECE_BYTES_MAX, "a row of device memory is never cut");
static_assert(KVS_CUDA_ENTRIES_MAX * sizeof(uint64_t) + STAGED_BYTES_MAX +
                      2 * KVS_CUDA_WORD_BYTES <=
                  KVS_CUDA_PAYLOAD_BYTES,
              "a piece and its entries fit a slot");

/* ------------------------------------------------------------------ the kernel */

template <typename T> struct kvs_cuda_plus {
    typedef T type;
    static __device__ __forceinline__ T add(T a, T b)
    {
        return static_cast<T>(a + b); /* integers come as unsigned ones, which wrap */
    }
};

struct kvs_cuda_plus_f16 {
    typedef uint16_t type;
    static __device__ __forceinline__ uint16_t add(uint16_t a, uint16_t b)
    {
        return kvs_f32_to_f16(kvs_f16_to_f32(a) + kvs_f16_to_f32(b));
    }
};

struct kvs_cuda_plus_bf16 {
    typedef uint16_t type;
    static __device__ __forceinline__ uint16_t add(uint16_t a, uint16_t b)
    {
        return kvs_f32_to_bf16(kvs_bf16_to_f32(a) + kvs_bf16_to_f32(b));
    }
};

/* Some elements side by side, read and written at once. */
template <typename T, unsigned lanes> struct alignas(lanes * sizeof(T)) kvs_cuda_pack {
    T at[lanes];
};

/* One thread does `lanes` elements of a row of the target with all that is added to them. */
template <typename Sum, unsigned lanes>
__device__ __forceinline__ void kvs_cuda_move_pack(const kvs_cuda_row_move *row, uint32_t unit)
{
    typedef kvs_cuda_pack<typename Sum::type, lanes> pack;
    const uint64_t *entries = row->entries;
    const uint32_t columns = row->columns / lanes;
    const uint32_t first = unit / columns;
    const uint32_t column = unit - first * columns;
    const uint64_t target = entries[first] >> 32;
    if (first > 0 && entries[first - 1] >> 32 == target) {
        return; /* done with that one */
    }
    pack *to = static_cast<pack *>(row->target) + target * (row->width / lanes) +
               row->first_column / lanes + column;
    const pack *from = static_cast<const pack *>(row->source) + column;
    pack sum = {};
    if ((entries[first] & KVS_ROW_FIRST) == 0) {
        sum = *to;
    }
    for (uint32_t i = first; i < row->count && entries[i] >> 32 == target; i++) {
        const uint32_t source = static_cast<uint32_t>(entries[i]);
        const pack term = from[static_cast<uint64_t>(source & ~KVS_ROW_FIRST) * columns];
        for (unsigned lane = 0; lane < lanes; lane++) {
            sum.at[lane] = (source & KVS_ROW_FIRST) != 0 ? term.at[lane]
                                                         : Sum::add(sum.at[lane], term.at[lane]);
        }
    }
    *to = sum;
}

/* The units of a tile. */
template <typename Sum>
__device__ __forceinline__ void kvs_cuda_move_tile(const kvs_cuda_row_move *row,
                                                   kvs_cuda_range range)
{
    const unsigned bytes = sizeof(typename Sum::type);
    if (row->words) {
        for (uint64_t i = range.begin / 16 + threadIdx.x; i < range.end / 16; i += blockDim.x) {
            kvs_cuda_move_pack<Sum, 16 / bytes>(row, static_cast<uint32_t>(i));
        }
        return;
    }
    for (uint64_t i = range.begin / bytes + threadIdx.x; i < range.end / bytes; i += blockDim.x) {
        kvs_cuda_move_pack<Sum, 1>(row, static_cast<uint32_t>(i));
    }
}

/* Gathers rows, or adds them to some of a matrix: a row of work each piece. Sums in the type of
 * the elements (halves in f32, rounded once a term), in the order of the list: deterministic. */
__global__ void __launch_bounds__(KVS_CUDA_BLOCK_THREADS)
    kvs_cuda_row_kernel(const kvs_cuda_row_move *rows, uint32_t count, uint64_t tiles)
{
    for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const kvs_cuda_row_move *row = kvs_cuda_find_row(rows, count, tile);
        const kvs_cuda_range range = kvs_cuda_tile_range(row, tile);
        switch (row->dtype) {
        case KVS_F32:
            kvs_cuda_move_tile<kvs_cuda_plus<float>>(row, range);
            break;
        case KVS_F64:
            kvs_cuda_move_tile<kvs_cuda_plus<double>>(row, range);
            break;
        case KVS_F16:
            kvs_cuda_move_tile<kvs_cuda_plus_f16>(row, range);
            break;
        case KVS_BF16:
            kvs_cuda_move_tile<kvs_cuda_plus_bf16>(row, range);
            break;
        case KVS_I32:
            kvs_cuda_move_tile<kvs_cuda_plus<uint32_t>>(row, range);
            break;
        case KVS_I64:
            kvs_cuda_move_tile<kvs_cuda_plus<uint64_t>>(row, range);
            break;
        default:
            kvs_cuda_move_tile<kvs_cuda_plus<uint8_t>>(row, range);
            break;
        }
    }
}

static cudaError_t launch_moves(const cudaLaunchConfig_t *config, const void *rows, uint32_t count,
                                uint64_t tiles)
{
    return cudaLaunchKernelEx(config, kvs_cuda_row_kernel, (const kvs_cuda_row_move *)rows, count,
                              tiles);
}

static const kvs_cuda_row_kind row_moves = {sizeof(kvs_cuda_row_move), launch_moves};

cudaError_t kvs_cuda_rows_load(void)
{
    cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, kvs_cuda_row_kernel);
}

/* ------------------------------------------------------------------ pieces */

static uint32_t least(uint64_t a, uint64_t b)
{
    return (uint32_t)(a < b ? a : b);
}

bool kvs_cuda_next_piece(const kvs_rows *rows, uint32_t rows_max, uint32_t elements_max,
                         kvs_cuda_rows_piece *piece)
{
    piece->column += piece->columns;
    if (piece->column == rows->elements) {
        piece->row += piece->rows;
        piece->column = 0;
    }
    if (piece->row == rows->count) {
        return false;
    }
    if (rows->elements > elements_max) {
        piece->rows = 1;
        piece->columns = least(rows->elements - piece->column, elements_max);
        return true;
    }
    piece->rows = least(rows->count - piece->row, least(rows_max, elements_max / rows->elements));
    piece->columns = rows->elements;
    return true;
}

uint64_t kvs_cuda_piece_offset(const kvs_rows *rows, const kvs_cuda_rows_piece *piece)
{
    return (uint64_t)piece->row * rows->elements + piece->column;
}

uint64_t kvs_cuda_rows_end(const kvs_rows *rows)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < rows->count; i++) {
        uint64_t behind = (uint64_t)(rows->list[i] & ~KVS_ROW_FIRST) + 1;
        end = behind > end ? behind : end;
    }
    return end * rows->elements;
}

kvs_status kvs_cuda_map_piece(kvs_stream *stream, const kvs_rows *rows,
                              const kvs_cuda_rows_piece *piece, kvs_cuda_map *out)
{
    const void *list = NULL;
    KVS_TRY(kvs_cuda_make_room(stream, piece->rows * sizeof rows->list[0]));
    KVS_TRY(
        kvs_cuda_stage(stream, rows->list + piece->row, piece->rows * sizeof rows->list[0], &list));
    out->list = (const uint32_t *)list;
    out->columns = piece->columns;
    out->width = rows->elements;
    out->first_column = piece->column;
    return KVS_OK;
}

static_assert(KVS_CUDA_MAP_ROWS_MAX * sizeof(uint32_t) <= KVS_CUDA_PAYLOAD_BYTES,
              "a list fits a slot");

bool kvs_cuda_map_has_words(const kvs_cuda_map *map, size_t lanes)
{
    return map->columns % lanes == 0 && map->width % lanes == 0 && map->first_column % lanes == 0;
}

/* ------------------------------------------------------------------ copies and sums */

/* One piece, whose entries and source are staged. */
static void add_row(kvs_stream *stream, const kvs_rows *rows, const kvs_cuda_rows_piece *piece,
                    kvs_dtype dtype, const kvs_cuda_row_move *from)
{
    size_t lanes = KVS_CUDA_WORD_BYTES / kvs_dtype_bytes(dtype);
    kvs_cuda_map map = {NULL, piece->columns, rows->elements, piece->column};
    kvs_cuda_row_move *row = (kvs_cuda_row_move *)kvs_cuda_row_place(stream);
    *row = *from;
    row->bytes = (uint64_t)piece->rows * piece->columns * kvs_dtype_bytes(dtype);
    row->first_tile = stream->tiles;
    row->count = piece->rows;
    row->columns = piece->columns;
    row->width = rows->elements;
    row->first_column = piece->column;
    row->dtype = dtype;
    row->words = kvs_cuda_map_has_words(&map, lanes);
    kvs_cuda_add_tiles(stream, row->bytes);
}

/* Any dtype of that size: nothing is added. */
static kvs_dtype dtype_of_bytes(size_t bytes)
{
    switch (bytes) {
    case 2:
        return KVS_F16;
    case 4:
        return KVS_I32;
    case 8:
        return KVS_I64;
    default:
        return KVS_U8;
    }
}

kvs_status kvs_cuda_gather_rows(kvs_stream *stream, const kvs_copy_item *item)
{
    const kvs_rows *rows = &item->rows;
    size_t elements = (size_t)rows->count * rows->elements;
    size_t element_bytes = elements == 0 ? 1 : item->bytes / elements;
    kvs_cuda_rows_piece piece = {0, 0, 0, 0};
    KVS_CHECK(item->bytes <= item->target->bytes);
    KVS_CHECK(item->bytes == elements * element_bytes);
    KVS_CHECK(kvs_cuda_rows_end(rows) * element_bytes <= item->source.memory->bytes);
    while (kvs_cuda_next_piece(rows, KVS_CUDA_ENTRIES_MAX,
                               (uint32_t)(PIECE_BYTES_MAX / element_bytes), &piece)) {
        const void *entries = NULL;
        size_t bytes = piece.rows * sizeof stream->entries[0];
        for (uint32_t i = 0; i < piece.rows; i++) {
            stream->entries[i] =
                (uint64_t)(piece.row + i) << 32 | KVS_ROW_FIRST | rows->list[piece.row + i];
        }
        KVS_TRY(kvs_cuda_make_row(stream, &row_moves));
        KVS_TRY(kvs_cuda_make_room(stream, bytes));
        KVS_TRY(kvs_cuda_stage(stream, stream->entries, bytes, &entries));
        kvs_cuda_row_move from = {item->target->data,
                                  item->source.memory->data,
                                  (const uint64_t *)entries,
                                  0,
                                  0,
                                  0,
                                  0,
                                  0,
                                  0,
                                  KVS_U8,
                                  false};
        add_row(stream, rows, &piece, dtype_of_bytes(element_bytes), &from);
    }
    return KVS_OK;
}

static bool ascending(const kvs_rows *rows)
{
    bool yes = true;
    for (uint32_t i = 1; i < rows->count; i++) {
        yes = yes && (rows->list[i] & ~KVS_ROW_FIRST) > (rows->list[i - 1] & ~KVS_ROW_FIRST);
    }
    return yes;
}

/* By the target's row, those of one row as they were: byte by byte from the lowest, as many as the
 * largest has. The result is in entries[0 .. count). */
static void sort_entries(kvs_stream *stream, uint32_t count)
{
    uint64_t *from = stream->entries;
    uint64_t *to = stream->entries + KVS_CUDA_ENTRIES_MAX;
    uint64_t all = 0;
    for (uint32_t i = 0; i < count; i++) {
        all |= from[i];
    }
    for (unsigned shift = 32; shift < 64 && all >> shift != 0; shift += 8) {
        uint32_t begin[257] = {0};
        for (uint32_t i = 0; i < count; i++) {
            begin[(from[i] >> shift & 255) + 1]++;
        }
        for (unsigned i = 1; i < 256; i++) {
            begin[i] += begin[i - 1];
        }
        for (uint32_t i = 0; i < count; i++) {
            to[begin[from[i] >> shift & 255]++] = from[i];
        }
        uint64_t *sorted = to;
        to = from;
        from = sorted;
    }
    if (from != stream->entries) {
        memcpy(stream->entries, from, count * sizeof from[0]);
    }
}

static void list_entries(kvs_stream *stream, const kvs_rows *rows, const kvs_cuda_rows_piece *piece,
                         bool sorted)
{
    for (uint32_t i = 0; i < piece->rows; i++) {
        uint64_t row = rows->list[piece->row + i];
        stream->entries[i] = (row & ~(uint64_t)KVS_ROW_FIRST) << 32 | (row & KVS_ROW_FIRST) | i;
    }
    if (!sorted) {
        sort_entries(stream, piece->rows);
    }
}

/* Stages what a piece reads: its entries, and its source where that is on the host. */
static kvs_status stage_piece(kvs_stream *stream, const kvs_accumulate_item *item,
                              const kvs_cuda_rows_piece *piece, kvs_cuda_row_move *out)
{
    size_t element_bytes = kvs_dtype_bytes(item->dtype);
    size_t offset = (size_t)kvs_cuda_piece_offset(&item->rows, piece) * element_bytes;
    size_t bytes = (size_t)piece->rows * piece->columns * element_bytes;
    size_t list_bytes = piece->rows * sizeof stream->entries[0];
    const void *entries = NULL;
    KVS_TRY(kvs_cuda_make_row(stream, &row_moves));
    if (item->source.memory != NULL) {
        KVS_TRY(kvs_cuda_make_room(stream, list_bytes));
        out->source = (const uint8_t *)item->source.memory->data + offset;
    } else {
        KVS_TRY(kvs_cuda_make_room(stream, list_bytes + bytes + 2 * KVS_CUDA_WORD_BYTES));
        KVS_TRY(
            kvs_cuda_ring_stage(&stream->ring, &item->source.payload, offset, bytes, &out->source));
    }
    KVS_TRY(kvs_cuda_stage(stream, stream->entries, list_bytes, &entries));
    out->entries = (const uint64_t *)entries;
    return KVS_OK;
}

kvs_status kvs_cuda_add_rows(kvs_stream *stream, const kvs_accumulate_item *item)
{
    const kvs_rows *rows = &item->rows;
    size_t element_bytes = kvs_dtype_bytes(item->dtype);
    size_t bytes_max = item->source.memory != NULL ? PIECE_BYTES_MAX : STAGED_BYTES_MAX;
    kvs_cuda_rows_piece piece = {0, 0, 0, 0};
    bool once = ascending(rows);
    KVS_CHECK(item->codec == KVS_CODEC_NONE);
    KVS_CHECK(item->elements == (uint64_t)rows->count * rows->elements);
    kvs_cuda_check_source(&item->source, (size_t)item->elements * element_bytes);
    KVS_CHECK(kvs_cuda_rows_end(rows) * element_bytes <= item->target->bytes);
    while (kvs_cuda_next_piece(rows, KVS_CUDA_ENTRIES_MAX, (uint32_t)(bytes_max / element_bytes),
                               &piece)) {
        kvs_cuda_row_move from = {item->target->data, NULL, NULL, 0, 0, 0, 0, 0, 0, KVS_U8, false};
        list_entries(stream, rows, &piece, once);
        KVS_TRY(stage_piece(stream, item, &piece, &from));
        add_row(stream, rows, &piece, item->dtype, &from);
        if (!once) {
            KVS_TRY(kvs_cuda_launch(stream)); /* the next may bring a row again */
        }
    }
    return KVS_OK;
}
