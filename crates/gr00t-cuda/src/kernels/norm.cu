// LayerNorm and RMSNorm of whole rows, with what follows them: the scale and shift of AdaLN, or another order of
// the rows; and with what comes before or behind: joining the patches of one token.
//
// A row stays in the registers of ROW_THREADS: the mean and the variance are computed one after the other. Where there are few
// rows, all threads of a block take one; where there are many, a warp does, which waits for no other.
//
// Compiled for: ROW_THREADS (32, 256); CHUNKS, of 8 features for each of them; EIGHT_BITS; KIND; WEIGHTED, BIASED, MODULATES;
// JOINS: 2x2 patches become tokens; PARTS: rows of x that become one; GROUP: rows of the result that come to stand side by side;
// MOVES: rows go elsewhere; WHOLE: the features come in whole eights; X_ELEMENT, OUT_ELEMENT; NORM_FORMAT, MODULATED_FORMAT.
#include "machine.cuh"
#include "params.cuh"

// As `Norm` in `norm.rs`.
enum Kind { NONE = 0, LAYER_NORM = 1, RMS_NORM = 2 };

constexpr int THREADS = 256, WARPS = THREADS / 32;
// The weights of a warp's chunks are too many for its registers: they are read when they are needed, and the warps of a block
// find them in the first-level cache.
constexpr bool READS_AHEAD = ROW_THREADS == THREADS;

// Sum over the threads of a row, the same in each.
__device__ __forceinline__ float row_sum(float value) {
    value = warp_sum(value);
    if (ROW_THREADS == 32) return value;
    __shared__ float sums[WARPS];
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
    const u32 row = blockIdx.x * (THREADS / ROW_THREADS) + threadIdx.x / ROW_THREADS;
    allow_next_kernel();
    auto column_of = [](int chunk) { return (chunk * ROW_THREADS + threadIdx.x % ROW_THREADS) * 8; };
    constexpr int AHEAD = READS_AHEAD ? CHUNKS : 1;
    float weight[AHEAD][8], bias[AHEAD][8], scale[AHEAD][8], shift[AHEAD][8];
    auto read_weights = [&](int at, u32 column) {
        if (WEIGHTED) load_weights8(p.weight, column, p.features, weight[at]);
        if (BIASED) load_weights8(p.bias, column, p.features, bias[at]);
        if (MODULATES) load_weights8(p.scale, column, p.features, scale[at]), load_weights8(p.shift, column, p.features, shift[at]);
    };
    if (READS_AHEAD) {
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c) read_weights(c, column_of(c));
    }
    wait_for_earlier_kernels();
    if (row >= p.rows) return;
    float v[CHUNKS][8];
    float sum = 0;
    // Features beyond the last are zeros in memory and count for nothing.
    auto inside = [&](u32 column, int i) { return (WHOLE ? column : column + i) < p.features; };
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
    const float mean = KIND == LAYER_NORM ? row_sum(sum) / p.features : 0.0f;
    float squares = 0;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (inside(column_of(c), i)) squares += (v[c][i] - mean) * (v[c][i] - mean);
    const float inverse = KIND == NONE ? 1.0f : 1.0f / sqrtf(row_sum(squares) / p.features + p.eps);
    const size_t to = size_t(MOVES ? p.out_rows[row] : row / GROUP) * p.out_ld + row % GROUP * p.features;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        const u32 column = column_of(c);
        if (column >= p.features) continue;
        const int at = READS_AHEAD ? c : 0;
        if (!READS_AHEAD) read_weights(0, column);
        float (&x)[8] = v[c];
        each8(x, [&](float value) { return (value - mean) * inverse; });
        // Qwen3 stores the normalized value before it meets the weight.
        if (KIND == RMS_NORM) round8(NORM_FORMAT, x);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            if (WEIGHTED) x[i] *= weight[at][i];
            if (BIASED) x[i] += bias[at][i];
        }
        round8(NORM_FORMAT, x);
        tap8(p.tap_norm, row, p.features, column, x);
        if (MODULATES) {
            each8(scale[at], [](float value) { return 1.0f + value; });
            round8(MODULATED_FORMAT, scale[at]);
#pragma unroll
            for (int i = 0; i < 8; ++i) x[i] *= scale[at][i];
            round8(MODULATED_FORMAT, x);
#pragma unroll
            for (int i = 0; i < 8; ++i) x[i] += shift[at][i];
            round8(MODULATED_FORMAT, x);
            tap8(p.tap_modulated, row, p.features, column, x);
        }
        store_operand8(p.out, OUT_ELEMENT, p.out_factor, to + column, x, WHOLE ? 8 : int(p.features - column));
    }
}
