// Brings a checkpoint's tensor into the layout that the GEMMs read: rows of outputs, padded with zeros.
#include "numeric.cuh"
#include "params.cuh"

constexpr int THREADS = 256;

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
            value *= quantization_scale(p.amaxes[to]);
            if (column == 0) p.scales[to] = dequantization_scale(p.amaxes[to]);
        }
        store(p.to, p.to_element, to * p.ld + column, round_to(p.format, value));
    }
}
