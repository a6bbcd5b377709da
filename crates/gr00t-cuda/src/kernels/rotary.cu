// The rotation (RoPE) of each query and key head, behind its RMSNorm where there is one; values pass unchanged. A warp takes
// HEADS neighbouring heads of a row, and reads all of them before it writes one.
//
// Compiled for: HEAD_DIM; HEADS; EIGHT_BITS; NORMS: heads are normalized first; Q_ELEMENT, K_ELEMENT, V_ELEMENT, OUT_ELEMENT;
// QUERY_NORM_FORMAT, KEY_NORM_FORMAT; FORMAT of what is turned; PRODUCT_FORMAT of products before they are added.
#include "machine.cuh"
#include "params.cuh"

// A lane turns a column of each half, then the one that is 32 behind.
constexpr int WARPS = 4, HALF = HEAD_DIM / 2, PAIRS = (HALF + 31) / 32;

// Calls f(pair, column) for this lane's columns of a half.
template <typename F>
__device__ __forceinline__ void each_column(F f) {
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
        const u32 at = i * 32 + threadIdx.x % 32;
        if (at < HALF) f(i, at);
    }
}

// Normalizes and turns what a lane has of a query or key head.
template <int NORM_FORMAT>
__device__ __forceinline__ void turn(const RotaryParams& p, float (&a)[PAIRS], float (&b)[PAIRS], size_t to,
                                     const float (&weights)[2][PAIRS], const float (&cosines)[PAIRS], const float (&sines)[PAIRS],
                                     float* tap_norm, float* tap_turned, size_t tap) {
    float squares = 0;
    each_column([&](int i, u32) { squares += a[i] * a[i] + b[i] * b[i]; });
    const float inverse = NORMS ? 1.0f / sqrtf(warp_sum(squares) / HEAD_DIM + p.eps) : 1.0f;
    each_column([&](int i, u32 at) {
        float x = a[i], y = b[i];
        if (NORMS) {
            x = round_to(NORM_FORMAT, round_to(NORM_FORMAT, x * inverse) * weights[0][i]);
            y = round_to(NORM_FORMAT, round_to(NORM_FORMAT, y * inverse) * weights[1][i]);
            if (tap_norm != nullptr) tap_norm[tap + at] = x, tap_norm[tap + HALF + at] = y;
        }
        const float cosine = cosines[i], sine = sines[i];
        // Each product is rounded, in f32 too, as in the reference: none becomes a fused multiply-add.
        auto product = [](float a, float b) { return round_to(PRODUCT_FORMAT, __fmul_rn(a, b)); };
        const float u = round_to(FORMAT, product(x, cosine) + product(-y, sine));
        const float v = round_to(FORMAT, product(y, cosine) + product(x, sine));
        if (tap_turned != nullptr) tap_turned[tap + at] = u, tap_turned[tap + HALF + at] = v;
        store(p.out, OUT_ELEMENT, to + at, u), store(p.out, OUT_ELEMENT, to + HALF + at, v);
    });
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) rotary(const __grid_constant__ RotaryParams p) {
    const u32 all = p.heads + 2 * p.kv_heads, groups = (all + HEADS - 1) / HEADS;
    const u32 index = blockIdx.x * WARPS + threadIdx.x / 32, row = index / groups, first = index % groups * HEADS;
    allow_next_kernel();
    const u32 keys = p.heads, values = p.heads + p.kv_heads;
    const float* angles = p.turns + size_t(row % p.tokens) * HEAD_DIM;
    // Neither is written by a kernel of the stream: read before the wait.
    float query_weights[2][PAIRS] = {}, key_weights[2][PAIRS] = {}, cosines[PAIRS] = {}, sines[PAIRS] = {};
    if (row < p.rows && first < values) {
        each_column([&](int i, u32 at) {
            if (NORMS && first < keys) query_weights[0][i] = p.query_weight[at], query_weights[1][i] = p.query_weight[HALF + at];
            if (NORMS && first + HEADS > keys) key_weights[0][i] = p.key_weight[at], key_weights[1][i] = p.key_weight[HALF + at];
            cosines[i] = angles[at], sines[i] = angles[HALF + at];
        });
    }
    wait_for_earlier_kernels();
    if (row >= p.rows) return;
    float x[HEADS][PAIRS] = {}, y[HEADS][PAIRS] = {};
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
        const u32 head = first + h;
        auto load_halves = [&](const void* from, int element, size_t index) {
            each_column([&](int i, u32 at) {
                x[h][i] = load(from, element, index + at), y[h][i] = load(from, element, index + HALF + at);
            });
        };
        if (head >= all) continue;
        if (head < keys)
            load_halves(p.q, Q_ELEMENT, size_t(row) * p.q_ld + head * HEAD_DIM);
        else if (head < values)
            load_halves(p.k, K_ELEMENT, size_t(row) * p.k_ld + (head - keys) * HEAD_DIM);
        else
            load_halves(p.v, V_ELEMENT, size_t(row) * p.v_ld + (head - values) * HEAD_DIM);
    }
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
        const u32 head = first + h;
        if (head >= all) continue;
        const size_t to = size_t(row) * p.out_ld + head * HEAD_DIM;
        if (head < keys) {
            const size_t tap = (size_t(row) * p.heads + head) * HEAD_DIM;
            turn<QUERY_NORM_FORMAT>(p, x[h], y[h], to, query_weights, cosines, sines, p.tap_query_norm, p.tap_query, tap);
        } else if (head < values) {
            const size_t tap = (size_t(row) * p.kv_heads + head - keys) * HEAD_DIM;
            turn<KEY_NORM_FORMAT>(p, x[h], y[h], to, key_weights, cosines, sines, p.tap_key_norm, p.tap_key, tap);
        } else {
            each_column([&](int i, u32 at) {
                store(p.out, OUT_ELEMENT, to + at, x[h][i]), store(p.out, OUT_ELEMENT, to + HALF + at, y[h][i]);
            });
        }
    }
}
