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
    float* amaxes;     // [n]: largest magnitudes of rows, or of their layer; null where nothing is scaled
    float* units;      // [n]: what a unit of a row's elements stands for
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

__device__ __forceinline__ float value_at(const PackParams& p, u32 row, u32 column) {
    const u64 index = row * p.row_stride + column * p.column_stride;
    return p.from != nullptr ? load(p.from, p.from_element, index) : synthetic(p, p.from_index + index);
}

// Where a row goes.
__device__ __forceinline__ u64 place(const PackParams& p, u32 row) {
    const u32 r = p.first_row + row;
    return u64(r / 8) * 8 * p.interleave + p.lane * 8 + r % 8;
}

// The largest magnitude of every row.
extern "C" __global__ void __launch_bounds__(THREADS) row_largest(const __grid_constant__ PackParams p) {
    const u32 row = blockIdx.x;
    float amax = 0;
    for (u32 column = threadIdx.x; column < p.columns; column += THREADS) amax = fmaxf(amax, fabsf(value_at(p, row, column)));
    amax = block_max<THREADS / 32>(amax);
    if (threadIdx.x == 0) p.amaxes[place(p, row)] = amax;
}

// The largest of all rows in the place of each. One block.
extern "C" __global__ void __launch_bounds__(THREADS) spread_largest(const __grid_constant__ PackParams p) {
    float amax = 0;
    for (u32 row = threadIdx.x; row < p.rows; row += THREADS) amax = fmaxf(amax, p.amaxes[place(p, row)]);
    amax = block_max<THREADS / 32>(amax);
    for (u32 row = threadIdx.x; row < p.rows; row += THREADS) p.amaxes[place(p, row)] = amax;
}

extern "C" __global__ void __launch_bounds__(THREADS) pack(const __grid_constant__ PackParams p) {
    for (u64 i = u64(blockIdx.x) * THREADS + threadIdx.x; i < u64(p.rows) * p.columns; i += u64(gridDim.x) * THREADS) {
        const u32 row = u32(i / p.columns), column = u32(i % p.columns);
        const u64 to = place(p, row);
        float value = value_at(p, row, column);
        if (p.amaxes != nullptr) {
            value *= factor_of(p.amaxes[to]);
            if (column == 0) p.units[to] = unit_of(p.amaxes[to]);
        }
        store(p.to, p.to_element, to * p.ld + column, round_to(p.format, value));
    }
}
