/* Where the elements of a piece of rows are in their matrix. */
#ifndef KVS_CUDA_MAP_CUH
#define KVS_CUDA_MAP_CUH

#include <cuda_runtime.h>
#include <stdint.h>

/* Element i of a piece of whole rows (or of some columns of them), one after the other, is element
 * `list[i / columns] * width + first_column + i % columns` of the matrix. No list: element i. */
typedef struct kvs_cuda_map {
    const uint32_t *list; /* on the device */
    uint32_t columns;
    uint32_t width;
    uint32_t first_column;
} kvs_cuda_map;

/* The place of unit i, in units of `lanes` elements, which divide all numbers of the map. */
__device__ __forceinline__ uint64_t kvs_cuda_place(const kvs_cuda_map &map, uint64_t i,
                                                   unsigned lanes)
{
    const uint32_t unit = static_cast<uint32_t>(i); /* a piece has less than 2^32 */
    const uint32_t columns = map.columns / lanes;
    const uint32_t row = unit / columns;
    return static_cast<uint64_t>(map.list[row]) * (map.width / lanes) + map.first_column / lanes +
           (unit - row * columns);
}

#endif
