// softmax(q kᵀ scale) v in IEEE f32, without tensor cores.
//
// A warp takes one query and walks over the keys, 32 at a time: a lane for each key's score, then a lane for
// every 32nd column of the values. The running maximum and sum are those of `attention.cu`.
//
// Compiled for: HEAD_DIM; CAUSAL, OUT_ELEMENT, OUT_FORMAT, EIGHT_BITS.
#include "machine.cuh"
#include "params.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS, KEYS = 32, LD = HEAD_DIM + 1;
constexpr int COLUMNS = (HEAD_DIM + 31) / 32;  // of the values, to a lane

extern "C" __global__ void __launch_bounds__(THREADS) attention(const __grid_constant__ AttentionParams p) {
    extern __shared__ float shared[];
    float* keys = shared;
    float* values = keys + KEYS * LD;
    float* query = values + KEYS * LD + threadIdx.x / 32 * HEAD_DIM;
    const u32 head = blockIdx.y, lane = threadIdx.x % 32, column = head / p.group * HEAD_DIM;

    allow_next_kernel();
    wait_for_earlier_kernels();
    const DeviceSegment segment = p.segments[blockIdx.z];
    const u32 first = blockIdx.x * WARPS, index = first + threadIdx.x / 32;
    if (first >= segment.queries) return;
    const bool real = index < segment.queries;
    const size_t row = segment.query_start + (real ? index : first);
    for (u32 i = lane; i < HEAD_DIM; i += 32) query[i] = static_cast<const float*>(p.q)[row * p.q_ld + head * HEAD_DIM + i];
    const u32 seen = CAUSAL ? min(segment.keys, index + 1) : segment.keys;
    const u32 needed = CAUSAL ? min(segment.keys, first + WARPS) : segment.keys;
    float max = -infinity(), sum = 0, out[COLUMNS] = {};
    for (u32 start = 0; start < needed; start += KEYS) {
        __syncthreads();
        for (u32 i = threadIdx.x; i < KEYS * HEAD_DIM; i += THREADS) {
            const u32 key = i / HEAD_DIM, d = i % HEAD_DIM;
            const size_t from = segment.key_start + start + key;
            const bool inside = start + key < segment.keys;
            keys[key * LD + d] = inside ? static_cast<const float*>(p.k)[from * p.k_ld + column + d] : 0.0f;
            values[key * LD + d] = inside ? static_cast<const float*>(p.v)[from * p.v_ld + column + d] : 0.0f;
        }
        __syncthreads();
        float score = 0;
        for (u32 d = 0; d < HEAD_DIM; ++d) score += query[d] * keys[lane * LD + d];
        score = start + lane < seen ? score * p.scale : -infinity();
        const float new_max = fmaxf(max, warp_max(score));
        // A query before this tile's first key sees none of it: its maximum stays as it is.
        const float before = max == new_max ? 1.0f : expf(max - new_max);
        const float weight = expf(score - new_max);
        max = new_max;
        sum = sum * before + warp_sum(weight);
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) out[c] *= before;
        for (u32 key = 0; key < KEYS; ++key) {
            const float share = __shfl_sync(0xffffffffu, weight, key);
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c)
                if (c * 32 + lane < HEAD_DIM) out[c] += share * values[key * LD + c * 32 + lane];
        }
    }
    if (!real) return;
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
        const u32 d = c * 32 + lane;
        if (d >= HEAD_DIM) continue;
        const float value = round_to(OUT_FORMAT, out[c] / sum);
        const float stored = EIGHT_BITS && OUT_ELEMENT == E4M3 ? value * p.out_factor : value;
        store(p.out, OUT_ELEMENT, row * p.out_ld + head * HEAD_DIM + d, stored);
        if (p.tap != nullptr) p.tap[row * p.heads * HEAD_DIM + head * HEAD_DIM + d] = value;
    }
}
