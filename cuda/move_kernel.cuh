/* The kernel of copies and sums, and the tables of work that it reads.
 *
 * Rows that stand together may be the terms of one sum: the same target, the same bytes, and no
 * tiles of their own but those of the last. They are added in the order of the rows in one pass,
 * so k terms cost k reads and one write.
 *
 * One launch does a whole table. The bytes of every row are cut into tiles; blocks take tiles by
 * striding over the grid and find the row of a tile by bisection, so many small rows and one large
 * row load the card alike. All pointers are aligned to 16 bytes and are read and written in words
 * of 16 bytes; what is left of the last word goes element by element.
 *
 * Elementwise, in the type of the elements, each operation rounded once (-fmad=false): the bits
 * do not depend on tiles, blocks or order, nor on how many terms a pass has. All other rows of one
 * table have different targets.
 */
#ifndef KVS_CUDA_MOVE_KERNEL_CUH
#define KVS_CUDA_MOVE_KERNEL_CUH

#include "base/half.h"
#include "cuda/words.cuh"

typedef enum kvs_cuda_move_kind {
    KVS_CUDA_ZERO,
    KVS_CUDA_COPY,
    KVS_CUDA_ADD_F32,
    KVS_CUDA_ADD_F64,
    KVS_CUDA_ADD_8,
    KVS_CUDA_ADD_32,
    KVS_CUDA_ADD_64,
    KVS_CUDA_ADD_F16,
    KVS_CUDA_ADD_BF16
} kvs_cuda_move_kind;

/* target := 0, source, or target + source. Row `term` of a sum, of which the first may be a copy:
 * its tiles are its last row's. */
typedef struct kvs_cuda_move {
    void *target;
    const void *source;
    uint64_t bytes;
    uint64_t first_tile; /* the tiles of all rows before this one */
    kvs_cuda_move_kind kind;
    uint32_t term;
} kvs_cuda_move;

struct kvs_cuda_zero_body {
    void *target;

    __device__ void word(uint64_t i) const
    {
        kvs_cuda_store(target, i, kvs_cuda_word<uint32_t>{{0, 0, 0, 0}});
    }
    __device__ void element(uint64_t i) const
    {
        static_cast<uint8_t *>(target)[i] = 0;
    }
};

struct kvs_cuda_copy_body {
    void *target;
    const void *source;

    __device__ void word(uint64_t i) const
    {
        kvs_cuda_store(target, i, kvs_cuda_load<uint32_t>(source, i));
    }
    __device__ void element(uint64_t i) const
    {
        static_cast<uint8_t *>(target)[i] = static_cast<const uint8_t *>(source)[i];
    }
};

/* Integers come as unsigned ones, which wrap. */
template <typename T> struct kvs_cuda_plain {
    typedef T type;
    typedef T packed; /* of what a word is made */
    static __device__ __forceinline__ T add(T a, T b)
    {
        return static_cast<T>(a + b);
    }
};

/* Four at a time: a register each would be too many. */
struct kvs_cuda_bytes {
    typedef uint8_t type;
    typedef uint32_t packed;
    static __device__ __forceinline__ uint8_t add(uint8_t a, uint8_t b)
    {
        return static_cast<uint8_t>(a + b);
    }
    static __device__ __forceinline__ uint32_t add(uint32_t a, uint32_t b)
    {
        /* The highest bit of each apart, so that nothing is carried over. */
        return ((a & 0x7f7f7f7fu) + (b & 0x7f7f7f7fu)) ^ ((a ^ b) & 0x80808080u);
    }
};

/* Halves are added in f32, each sum rounded once. */
struct kvs_cuda_f16 {
    typedef uint16_t type;
    typedef uint16_t packed;
    static __device__ __forceinline__ uint16_t add(uint16_t a, uint16_t b)
    {
        return kvs_f32_to_f16(kvs_f16_to_f32(a) + kvs_f16_to_f32(b));
    }
};

struct kvs_cuda_bf16 {
    typedef uint16_t type;
    typedef uint16_t packed;
    static __device__ __forceinline__ uint16_t add(uint16_t a, uint16_t b)
    {
        return kvs_f32_to_bf16(kvs_bf16_to_f32(a) + kvs_bf16_to_f32(b));
    }
};

/* The rows from `more` to `last`, one at least, are added to `base`, which is the target or its
 * first term. */
template <typename Number> struct kvs_cuda_add_body {
    typedef typename Number::type T;
    typedef typename Number::packed packed;
    void *target;
    const void *base;
    const kvs_cuda_move *more;
    const kvs_cuda_move *last;

    __device__ void word(uint64_t i) const
    {
        kvs_cuda_word<packed> sum = kvs_cuda_load<packed>(base, i);
        const kvs_cuda_move *row = more;
        KVS_CUDA_ROLLED
        do {
            const kvs_cuda_word<packed> term = kvs_cuda_load<packed>(row->source, i);
            for (unsigned lane = 0; lane < sizeof sum.at / sizeof sum.at[0]; lane++) {
                sum.at[lane] = Number::add(sum.at[lane], term.at[lane]);
            }
        } while (row++ != last);
        kvs_cuda_store(target, i, sum);
    }
    __device__ void element(uint64_t i) const
    {
        T sum = static_cast<const T *>(base)[i];
        const kvs_cuda_move *row = more;
        KVS_CUDA_ROLLED
        do {
            sum = Number::add(sum, static_cast<const T *>(row->source)[i]);
        } while (row++ != last);
        static_cast<T *>(target)[i] = sum;
    }
};

/* What the rows that end with this one add up to. */
template <typename Number>
__device__ __forceinline__ void kvs_cuda_add_terms(const kvs_cuda_move *last, kvs_cuda_range range)
{
    const kvs_cuda_move *first = last - last->term;
    const bool copied = first->kind == KVS_CUDA_COPY;
    kvs_cuda_each<typename Number::type>(
        range, kvs_cuda_add_body<Number>{last->target, copied ? first->source : last->target,
                                         copied ? first + 1 : first, last});
}

/* Copies, zeroes and sums. Reads and writes 16 bytes at a time; of an f32 sum of k terms
 * 4 (k + 1) bytes an element, and 4 more unless the first is a copy. */
__global__ void __launch_bounds__(KVS_CUDA_BLOCK_THREADS)
    kvs_cuda_move_kernel(const kvs_cuda_move *rows, uint32_t count, uint64_t tiles)
{
    for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const kvs_cuda_move *row = kvs_cuda_find_row(rows, count, tile);
        const kvs_cuda_range range = kvs_cuda_tile_range(row, tile);
        void *target = row->target;
        const void *source = row->source;
        switch (row->kind) {
        case KVS_CUDA_ZERO:
            kvs_cuda_each<uint8_t>(range, kvs_cuda_zero_body{target});
            break;
        case KVS_CUDA_COPY:
            kvs_cuda_each<uint8_t>(range, kvs_cuda_copy_body{target, source});
            break;
        case KVS_CUDA_ADD_F32:
            kvs_cuda_add_terms<kvs_cuda_plain<float>>(row, range);
            break;
        case KVS_CUDA_ADD_F64:
            kvs_cuda_add_terms<kvs_cuda_plain<double>>(row, range);
            break;
        case KVS_CUDA_ADD_8:
            kvs_cuda_add_terms<kvs_cuda_bytes>(row, range);
            break;
        case KVS_CUDA_ADD_32:
            kvs_cuda_add_terms<kvs_cuda_plain<uint32_t>>(row, range);
            break;
        case KVS_CUDA_ADD_64:
            kvs_cuda_add_terms<kvs_cuda_plain<uint64_t>>(row, range);
            break;
        case KVS_CUDA_ADD_F16:
            kvs_cuda_add_terms<kvs_cuda_f16>(row, range);
            break;
        case KVS_CUDA_ADD_BF16:
            kvs_cuda_add_terms<kvs_cuda_bf16>(row, range);
            break;
        }
    }
}

#endif
