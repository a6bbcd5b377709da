// LayerNorm and RMSNorm of whole rows, with what follows them: the scale and shift of AdaLN, or another order of
// the rows; and with what comes before or behind: joining the patches of one token.
//
// A block takes one row and keeps it in registers: the mean and the variance are computed one after the other.
//
// Compiled for: CHUNKS, of 2048 features each; EIGHT_BITS; KIND; WEIGHTED, BIASED, MODULATES; JOINS: 2x2 patches become
// tokens; PARTS: rows of x that become one; GROUP: rows of the result that come to stand side by side; MOVES: rows go elsewhere;
// X_ELEMENT, OUT_ELEMENT; NORM_FORMAT, MODULATED_FORMAT.
#include "machine.cuh"
#include "params.cuh"

// As `Norm` in `norm.rs`.
enum Kind { NONE = 0, LAYER_NORM = 1, RMS_NORM = 2 };

constexpr int THREADS = 256, WARPS = THREADS / 32;

__device__ __forceinline__ float block_sum(float value) {
    __shared__ float sums[WARPS];
    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) total += sums[warp];
    return total;
}

// Feature c * 4 + i of a joined row is feature c of its patch i (`pixel_unshuffle`).
__device__ __forceinline__ void load_joined8(const NormParams& p, u32 row, u32 column, float (&v)[8]) {
    const uint4 patch = reinterpret_cast<const uint4*>(p.patches)[row];
    const u32 patches[4] = {patch.x, patch.y, patch.z, patch.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = load(p.x, X_ELEMENT, size_t(patches[i % 4]) * p.x_ld + column / 4 + i / 4);
}

// Feature c of a row of PARTS rows of x, one behind the other. A part's features are a multiple of eight.
__device__ __forceinline__ void load_parts8(const NormParams& p, u32 row, u32 column, float (&v)[8]) {
    const u32 width = p.features / PARTS;
    load8(p.x, X_ELEMENT, (size_t(row) * PARTS + column / width) * p.x_ld + column % width, v);
}

// Eight of a row's weights. They are read before the kernel waits for its input: no kernel of the stream writes them.
__device__ __forceinline__ void load_weights8(const float* weights, u32 column, u32 features, float (&w)[8]) {
    if (column + 8 <= features && reinterpret_cast<u64>(weights + column) % 16 == 0) return load8(weights, F32, column, w);
#pragma unroll
    for (int i = 0; i < 8; ++i) w[i] = column + i < features ? weights[column + i] : 0.0f;
}

extern "C" __global__ void __launch_bounds__(THREADS) normalize(const __grid_constant__ NormParams p) {
    const u32 row = blockIdx.x;
    allow_next_kernel();
    auto column_of = [](int chunk) { return (chunk * THREADS + threadIdx.x) * 8; };
    float weight[CHUNKS][8], bias[CHUNKS][8], scale[CHUNKS][8], shift[CHUNKS][8];
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        if (WEIGHTED) load_weights8(p.weight, column_of(c), p.features, weight[c]);
        if (BIASED) load_weights8(p.bias, column_of(c), p.features, bias[c]);
        if (MODULATES)
            load_weights8(p.scale, column_of(c), p.features, scale[c]), load_weights8(p.shift, column_of(c), p.features, shift[c]);
    }
    wait_for_earlier_kernels();
    float v[CHUNKS][8];
    float sum = 0;
    // Features beyond the last are zeros in memory and count for nothing.
    auto inside = [&](u32 column, int i) { return column + i < p.features; };
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        const u32 column = column_of(c);
        if (column >= p.features) continue;
        if (JOINS)
            load_joined8(p, row, column, v[c]);
        else
            load_parts8(p, row, column, v[c]);
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (inside(column, i)) sum += v[c][i];
    }
    const float mean = KIND == LAYER_NORM ? block_sum(sum) / p.features : 0.0f;
    float squares = 0;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (inside(column_of(c), i)) squares += (v[c][i] - mean) * (v[c][i] - mean);
    const float inverse = KIND == NONE ? 1.0f : 1.0f / sqrtf(block_sum(squares) / p.features + p.eps);
    const size_t to = size_t(MOVES ? p.out_rows[row] : row / GROUP) * p.out_ld + row % GROUP * p.features;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        const u32 column = column_of(c);
        if (column >= p.features) continue;
        float (&x)[8] = v[c];
        each8(x, [&](float value) { return (value - mean) * inverse; });
        // Qwen3 stores the normalized value before it meets the weight.
        if (KIND == RMS_NORM) round8(NORM_FORMAT, x);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            if (WEIGHTED) x[i] *= weight[c][i];
            if (BIASED) x[i] += bias[c][i];
        }
        round8(NORM_FORMAT, x);
        tap8(p.tap_norm, row, p.features, column, x);
        if (MODULATES) {
            each8(scale[c], [](float value) { return 1.0f + value; });
            round8(MODULATED_FORMAT, scale[c]);
#pragma unroll
            for (int i = 0; i < 8; ++i) x[i] *= scale[c][i];
            round8(MODULATED_FORMAT, x);
#pragma unroll
            for (int i = 0; i < 8; ++i) x[i] += shift[c][i];
            round8(MODULATED_FORMAT, x);
            tap8(p.tap_modulated, row, p.features, column, x);
        }
        store_operand8(p.out, OUT_ELEMENT, p.out_factor, to + column, x, int(p.features - column));
    }
}
