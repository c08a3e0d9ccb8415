/* The launch that a stream is putting together, for the parts of cuda/ that add rows to it.
 *
 * Rows of one launch are of one kind and have different targets, but for the terms of one sum,
 * which stand together: who adds a row of another kind launches what is there, and launches of a
 * stream take effect in order.
 *
 * Threads, memory and errors: as cuda/stream.cuh says.
 */
#ifndef KVS_CUDA_STREAM_STATE_CUH
#define KVS_CUDA_STREAM_STATE_CUH

#include "cuda/ring.cuh"
#include "cuda/stream.cuh"
#include "cuda/tiles.cuh"

/* Rows of one launch. Enough that a frame of small keys needs one or two launches. */
#define KVS_CUDA_ROWS_MAX 256u

/* Rows of a matrix that go at once: their entries are 64 KiB. */
#define KVS_CUDA_ENTRIES_MAX 8192u

/* What rows are made of, and the kernel that reads them. */
typedef struct kvs_cuda_row_kind {
    size_t row_bytes;
    cudaError_t (*launch)(const cudaLaunchConfig_t *config, const void *rows, uint32_t count,
                          uint64_t tiles);
} kvs_cuda_row_kind;

/* What one part on its way needs beside its own memory, in the order of the launches. */
#define KVS_CUDA_SCRATCH_BYTES ((size_t)KVS_PART_ELEMENTS * 8)
typedef struct kvs_cuda_scratch {
    kvs_memory encoded;  /* as it came: the longest that a codec has */
    kvs_memory weight;   /* f32 */
    kvs_memory gradient; /* f32 */
} kvs_cuda_scratch;

/* Sums of blocks that are on their way to a measure's sums on the host. */
#define KVS_CUDA_MEASURED_MAX 512u
#define KVS_CUDA_PARTIALS_MAX 16384u
typedef struct kvs_cuda_measured {
    double *sums;
    uint8_t *changed; /* of a scan: a block each, instead of sums; or NULL */
    uint32_t place;   /* of its partial sums */
    uint32_t blocks;
    uint32_t count; /* of sums */
} kvs_cuda_measured;

struct kvs_stream {
    kvs_cuda_device *device;
    kvs_stream *next; /* of the device's idle ones */
    cudaStream_t up;
    cudaStream_t compute;
    cudaStream_t down;
    cudaEvent_t computed;   /* on compute, before a download */
    cudaEvent_t downloaded; /* on down, after it */
    bool downloading;       /* compute has yet to wait for `downloaded` */
    kvs_cuda_ring ring;
    kvs_cuda_scratch scratch;
    /* The launch that is being put together. */
    const kvs_cuda_row_kind *kind;
    uint32_t rows;
    uint64_t tiles;
    alignas(16) uint8_t table[KVS_CUDA_TABLE_BYTES];
    double *partial;      /* on the device, KVS_CUDA_PARTIALS_MAX of them */
    double *partial_host; /* pinned */
    uint32_t partials;
    uint32_t measured_count;
    kvs_cuda_measured measured[KVS_CUDA_MEASURED_MAX];
    uint64_t entries[2 * KVS_CUDA_ENTRIES_MAX]; /* of cuda/rows.cu, and the room to sort them */
};

/* Makes room for a row of that kind. */
kvs_status kvs_cuda_make_row(kvs_stream *stream, const kvs_cuda_row_kind *kind) KVS_MUST_CHECK;
/* The place of the next row; what is there counts once its tiles are added. */
void *kvs_cuda_row_place(kvs_stream *stream);
void kvs_cuda_add_tiles(kvs_stream *stream, uint64_t bytes);
/* It is one more term of the sum of the row before, whose tiles it has. */
void kvs_cuda_add_term(kvs_stream *stream);
/* The row before, if such a row could be one more term of it: it is of that kind, and the source
 * needs no launch before. Else NULL. */
void *kvs_cuda_row_before(kvs_stream *stream, const kvs_cuda_row_kind *kind,
                          const kvs_source *source, size_t bytes);
/* Sends the table and what was staged for it, and launches its kernel. */
kvs_status kvs_cuda_launch(kvs_stream *stream) KVS_MUST_CHECK;

/* Makes room for so many bytes to stage: launches if the slot has less. At most
 * KVS_CUDA_PAYLOAD_BYTES. */
kvs_status kvs_cuda_make_room(kvs_stream *stream, size_t bytes) KVS_MUST_CHECK;
/* Copies bytes of the host into the slot; *out is where they will be on the device when the next
 * kernel runs. Needs room. */
kvs_status kvs_cuda_stage(kvs_stream *stream, const void *data, size_t bytes,
                          const void **out) KVS_MUST_CHECK;

/* A piece of a source, on the device when the next kernel runs. */
typedef struct kvs_cuda_piece {
    const void *data;
    size_t bytes;
} kvs_cuda_piece;

/* The next piece of `source` from `offset` on, `bytes` at most: all of it where it is in device
 * memory, else what the slot takes, a multiple of a word but for the last. Launches when the slot
 * is full. */
kvs_status kvs_cuda_take_piece(kvs_stream *stream, const kvs_source *source, size_t offset,
                               size_t bytes, kvs_cuda_piece *out) KVS_MUST_CHECK;
/* Has the source so many bytes? */
void kvs_cuda_check_source(const kvs_source *source, size_t bytes);

/* Rows that copy the source to the target. */
kvs_status kvs_cuda_copy_rows(kvs_stream *stream, const kvs_memory *target,
                              const kvs_source *source, size_t bytes) KVS_MUST_CHECK;
/* Rows that add the source to the target. */
kvs_status kvs_cuda_sum_rows(kvs_stream *stream, kvs_dtype dtype, const kvs_memory *target,
                             const kvs_source *source, size_t bytes) KVS_MUST_CHECK;
kvs_status kvs_cuda_zero_row(kvs_stream *stream, const kvs_memory *target,
                             size_t bytes) KVS_MUST_CHECK;

#endif
