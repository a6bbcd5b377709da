// The rotation (RoPE) of each query and key head, behind its RMSNorm where there is one; values pass unchanged. One warp, one
// head.
//
// Compiled for: HEAD_DIM; EIGHT_BITS; NORMS: heads are normalized first.
#include "machine.cuh"
#include "params.cuh"

constexpr int WARPS = 4, HALF = HEAD_DIM / 2, PAIRS = (HALF + 31) / 32;

extern "C" __global__ void __launch_bounds__(32 * WARPS) rotary(const __grid_constant__ RotaryParams p) {
    const u32 lane = threadIdx.x % 32, all = p.heads + 2 * p.kv_heads;
    const u32 index = blockIdx.x * WARPS + threadIdx.x / 32, row = index / all, head = index % all;
    allow_next_kernel();
    const bool query = head < p.heads, turns = row < p.rows && head < p.heads + p.kv_heads;
    const float* weight = query ? p.query_weight : p.key_weight;
    const float* turn = p.turns + size_t(row % p.tokens) * HEAD_DIM;
    // Neither is written by a kernel of the stream: read before the wait.
    float weights[PAIRS][2], cosines[PAIRS], sines[PAIRS];
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
        const u32 at = i * 32 + lane;
        if (at >= HALF || !turns) continue;
        if (NORMS) weights[i][0] = weight[at], weights[i][1] = weight[HALF + at];
        cosines[i] = turn[at], sines[i] = turn[HALF + at];
    }
    wait_for_earlier_kernels();
    if (row >= p.rows) return;
    const size_t to = size_t(row) * p.out_ld + head * HEAD_DIM;
    if (head >= p.heads + p.kv_heads) {
        const size_t from = size_t(row) * p.v_ld + (head - p.heads - p.kv_heads) * HEAD_DIM;
        for (u32 i = lane; i < HEAD_DIM; i += 32) store(p.out, p.out_element, to + i, load(p.v, p.v_element, from + i));
        return;
    }
    const void* x = query ? p.q : p.k;
    const u32 element = query ? p.q_element : p.k_element;
    const size_t from = query ? size_t(row) * p.q_ld + head * HEAD_DIM : size_t(row) * p.k_ld + (head - p.heads) * HEAD_DIM;
    const u32 norm_format = query ? p.query_norm_format : p.key_norm_format;
    const u32 format = query ? p.query_format : p.key_format;
    const size_t tap = query ? (size_t(row) * p.heads + head) * HEAD_DIM : (size_t(row) * p.kv_heads + head - p.heads) * HEAD_DIM;
    float* tap_norm = query ? p.tap_query_norm : p.tap_key_norm;
    float* tap_turned = query ? p.tap_query : p.tap_key;
    float a[PAIRS] = {}, b[PAIRS] = {}, squares = 0;
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
        const u32 at = i * 32 + lane;
        if (at >= HALF) continue;
        a[i] = load(x, element, from + at), b[i] = load(x, element, from + HALF + at);
        squares += a[i] * a[i] + b[i] * b[i];
    }
    const float inverse = NORMS ? 1.0f / sqrtf(warp_sum(squares) / HEAD_DIM + p.eps) : 1.0f;
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
        const u32 at = i * 32 + lane;
        if (at >= HALF) continue;
        float x = a[i], y = b[i];
        if (NORMS) {
            x = round_to(norm_format, round_to(norm_format, x * inverse) * weights[i][0]);
            y = round_to(norm_format, round_to(norm_format, y * inverse) * weights[i][1]);
            if (tap_norm != nullptr) tap_norm[tap + at] = x, tap_norm[tap + HALF + at] = y;
        }
        const float cosine = cosines[i], sine = sines[i];
        const float u = round_to(format, round_to(p.product_format, x * cosine) + round_to(p.product_format, -y * sine));
        const float v = round_to(format, round_to(p.product_format, y * cosine) + round_to(p.product_format, x * sine));
        if (tap_turned != nullptr) tap_turned[tap + at] = u, tap_turned[tap + HALF + at] = v;
        store(p.out, p.out_element, to + at, u), store(p.out, p.out_element, to + HALF + at, v);
    }
}
