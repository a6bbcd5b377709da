// Brings weights of the DiT into the order in which `dit_persistent.cu` uses them, and computes what it makes of its norms.
//
// Compiled for: EIGHT_BITS, which is none here.
#include "machine.cuh"
#include "params.cuh"

constexpr int THREADS = 256, HIDDEN = 1536, GRID = 128, TILE_COLUMNS = 64;

// As `Matrix` in `dit_persistent.rs`.
enum Matrix { OWN = 0, NARROW = 1, FC1 = 2, FC2 = 3 };

// A feature and the first of eight columns.
struct Source {
    u32 feature, column;
};

// What 16 bytes of a stream hold. Tiles are 64 columns; their rows of 128 bytes are swizzled.
__device__ __forceinline__ Source source_of(u32 matrix, u32 block, u32 chunk) {
    const u32 pair = block / 2, rank = block % 2;
    const u32 rows = matrix == OWN ? 72 : matrix == NARROW ? 24 : 96;
    const u32 index = chunk / (rows * 8), row = chunk / 8 % rows, column = ((chunk % 8) ^ (row % 8)) * 8;
    const u32 half = rank * (HIDDEN / 2);
    if (matrix == OWN) return {row / 24 * HIDDEN + pair * 24 + row % 24, half + index * TILE_COLUMNS + column};
    if (matrix == NARROW) return {pair * 24 + row, half + index * TILE_COLUMNS + column};
    if (matrix == FC1) return {pair * 96 + row, half + index * TILE_COLUMNS + column};
    return {pair / 4 * 96 + row, (pair % 4 * 2 + rank) * (HIDDEN / 2) + index * TILE_COLUMNS + column};
}

extern "C" __global__ void __launch_bounds__(THREADS) pack(const __grid_constant__ DitPackParams p) {
    const u32 chunks = p.bytes / 16;
    for (u32 i = blockIdx.x * THREADS + threadIdx.x; i < chunks * GRID; i += gridDim.x * THREADS) {
        const Source source = source_of(p.matrix, i / chunks, i % chunks);
        *reinterpret_cast<uint4*>(p.to + i / chunks * p.each + i % chunks * 16) =
            *reinterpret_cast<const uint4*>(p.from + size_t(source.feature) * p.ld + source.column);
    }
}

// A warp's feature: sums of its weights times 1 + scale, and times the shift, plus the bias.
extern "C" __global__ void __launch_bounds__(THREADS) constants(const __grid_constant__ DitConstantsParams p) {
    const u32 feature = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (feature >= p.features) return;
    float scaled = 0, shifted = 0;
    for (u32 column = lane; column < HIDDEN; column += 32) {
        const float w = from_bf16(p.weights[size_t(feature) * p.ld + column]);
        scaled += p.scale == nullptr ? w : w * round_to(BF16, 1.0f + p.scale[column]);
        if (p.scale != nullptr) shifted += w * p.shift[column];
    }
    scaled = warp_sum(scaled), shifted = warp_sum(shifted);
    if (lane == 0) p.to[feature] = make_float2(scaled, shifted + p.bias[feature]);
}
