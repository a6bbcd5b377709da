// Brings a checkpoint's tensor into the layout that the products read: rows of outputs, padded with zeros.
#include "numeric.cuh"

constexpr int THREADS = 256;

// As `PackParams` in `weights.rs`.
struct PackParams {
    const void* from;  // the tensor's elements from `from_index` on; null for synthetic ones
    void* to;          // [.., ld]
    u64 from_index;    // of element 0, 0 of what is packed, in the whole tensor
    u64 row_stride;    // in elements of the tensor: [outputs, inputs] has (inputs, 1), [inputs, outputs] (1, outputs)
    u64 column_stride;
    u64 key;           // of a synthetic tensor
    float scale;
    float offset;
    u32 rows;
    u32 columns;
    u32 ld;
    u32 first_row;     // of these rows in the result
    u32 from_element;
    u32 to_element;
    u32 format;
    u32 interleave;    // row r goes to r / 8 * 8 * interleave + lane * 8 + r % 8; 1 for the same order
    u32 lane;
};

// Element `index` of a synthetic tensor, as `Synthetic` in `checkpoint/weight.rs` computes it.
__device__ __forceinline__ float synthetic(const PackParams& p, u64 index) {
    u64 hash = p.key + index * 0x9e3779b97f4a7c15ull;
    hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9ull;
    hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebull;
    hash ^= hash >> 31;
    const int odd = 2 * int(hash >> 56) - 255, units = p.offset == 0.0f ? odd : odd / 16 * 16;
    return p.offset + p.scale * (float(units) / 256.0f);
}

extern "C" __global__ void __launch_bounds__(THREADS) pack(const __grid_constant__ PackParams p) {
    for (u64 i = u64(blockIdx.x) * THREADS + threadIdx.x; i < u64(p.rows) * p.columns; i += u64(gridDim.x) * THREADS) {
        const u32 row = u32(i / p.columns), column = u32(i % p.columns);
        const u64 index = row * p.row_stride + column * p.column_stride;
        const float value = p.from != nullptr ? load(p.from, p.from_element, index) : synthetic(p, p.from_index + index);
        const u32 r = p.first_row + row;
        const u64 to = u64(r / 8) * 8 * p.interleave + p.lane * 8 + r % 8;
        store(p.to, p.to_element, to * p.ld + column, round_to(p.format, value));
    }
}
