// softmax(q kᵀ scale) v on tensor cores, one head of one segment at a time; scores never leave the registers.
//
// A block takes QUERIES of one head, a warp 16 of them. The keys are split among KV_SPLITS groups of warps, KEYS at a
// time, each keeping the running maximum, the running sum and the weighted values of each query (Dao et al.,
// FlashAttention-2); in the end the splits are merged. Where there are few blocks, what counts is how many instructions a warp
// has to go through: hence splits, where there are many keys. Exponentials are rounded to the operands' type before they meet
// v and the sum is taken of the unrounded ones, as the reference does.
//
// Compiled for: ELEMENT (BF16, FP16), HEAD_DIM, QUERIES (multiples of 16), KV_SPLITS (1, 2, 4), KEYS (32, 64); CAUSAL,
// OUT_ELEMENT, OUT_FORMAT, EIGHT_BITS.
#include "machine.cuh"
#include "params.cuh"

constexpr int SPLIT_WARPS = QUERIES / 16, SPLIT_THREADS = 32 * SPLIT_WARPS, THREADS = SPLIT_THREADS * KV_SPLITS;
constexpr int WIDTH = (HEAD_DIM + 15) / 16 * 16;  // zeros fill up the head
constexpr int LD = WIDTH + 8;                     // rows start in different banks
constexpr int PARTS = WIDTH / 16, TILES = KEYS / 8;
constexpr int Q_ELEMENTS = QUERIES * LD, KV_ELEMENTS = KEYS * LD;
constexpr float LOG2_E = 1.4426950408889634f;

// Copies `count` rows of one head, zeros where there are no more rows or columns; `thread` of `COPIERS`.
template <int ROWS, int COPIERS>
__device__ __forceinline__ void copy_head(u16* to, const u16* from, u32 ld, u32 count, u32 thread) {
    constexpr int CHUNKS = WIDTH / 8;
#pragma unroll
    for (int i = 0; i < (ROWS * CHUNKS + COPIERS - 1) / COPIERS; ++i) {
        const u32 index = thread + i * COPIERS, row = index / CHUNKS, column = index % CHUNKS * 8;
        if (ROWS * CHUNKS % COPIERS != 0 && row >= ROWS) continue;
        u16* at = to + row * LD + column;
        if constexpr (HEAD_DIM % 8 == 0) {
            const bool inside = row < count && column < HEAD_DIM;
            copy16_async_or_zero(shared_address(at), from + (inside ? size_t(row) * ld + column : 0), inside);
        } else {
#pragma unroll
            for (int j = 0; j < 8; ++j) at[j] = row < count && column + j < HEAD_DIM ? from[size_t(row) * ld + column + j] : 0;
        }
    }
}

struct State {
    float values[WIDTH / 8][4];  // weighted values, rows lane / 4 and lane / 4 + 8
    float max[2];
    float sum[2];
};

// Scores of this warp's 16 queries and the tile's keys, in units of log2.
__device__ __forceinline__ void qk(const u32 (&q)[PARTS][4], const u16* keys, float scale, float (&scores)[TILES][4]) {
    const u32 lane = threadIdx.x % 32, row = (lane & 7) + ((lane >> 4) << 3), half = (lane >> 3) & 1;
    // All keys of one part of the head at a time: products that do not wait for each other.
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        u32 k[TILES / 2][4];
#pragma unroll
        for (int pair = 0; pair < TILES / 2; ++pair)
            load_matrices(k[pair], shared_address(keys + (pair * 16 + row) * LD + part * 16 + half * 8));
#pragma unroll
        for (int pair = 0; pair < TILES / 2; ++pair) {
            multiply_add<ELEMENT>(scores[pair * 2], q[part], k[pair][0], k[pair][1]);
            multiply_add<ELEMENT>(scores[pair * 2 + 1], q[part], k[pair][2], k[pair][3]);
        }
    }
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[tile][i] *= scale * LOG2_E;
}

// Keys from `visible[half]` on are hidden from this thread's rows.
__device__ __forceinline__ void apply_mask(float (&scores)[TILES][4], u32 first_key, const u32 (&visible)[2]) {
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (first_key + tile * 8 + threadIdx.x % 4 * 2 + i % 2 >= visible[i / 2]) scores[tile][i] = -infinity();
}

// Turns scores into exponentials against the new maximum and rescales what was summed before.
__device__ __forceinline__ void exponentiate(float (&scores)[TILES][4], State& state) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float old = state.max[half];
        float max = old;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) max = fmaxf(max, fmaxf(scores[tile][half * 2], scores[tile][half * 2 + 1]));
        max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
        max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
        state.max[half] = max;
        // Nothing seen yet: every exponential is zero.
        if (max == -infinity()) max = 0;
        const float before = power_of_two(old - max);
        state.sum[half] *= before;
#pragma unroll
        for (int part = 0; part < WIDTH / 8; ++part) state.values[part][half * 2] *= before, state.values[part][half * 2 + 1] *= before;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
            for (int i = half * 2; i < half * 2 + 2; ++i) {
                scores[tile][i] = power_of_two(scores[tile][i] - max);
                state.sum[half] += scores[tile][i];
            }
    }
}

__device__ __forceinline__ void pv(const float (&scores)[TILES][4], const u16* values, State& state) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int tile = 0; tile < TILES; tile += 2) {
        const u32 p[4] = {pack2<ELEMENT>(scores[tile][0], scores[tile][1]), pack2<ELEMENT>(scores[tile][2], scores[tile][3]),
                          pack2<ELEMENT>(scores[tile + 1][0], scores[tile + 1][1]),
                          pack2<ELEMENT>(scores[tile + 1][2], scores[tile + 1][3])};
        u32 v[PARTS][4];
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
            load_matrices_transposed(v[part], shared_address(values + (tile * 8 + (lane & 15)) * LD + part * 16 + (lane >> 4) * 8));
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            multiply_add<ELEMENT>(state.values[part * 2], p, v[part][0], v[part][1]);
            // Nothing is stored of what fills the head up.
            if (part * 16 + 8 < HEAD_DIM) multiply_add<ELEMENT>(state.values[part * 2 + 1], p, v[part][2], v[part][3]);
        }
    }
}

// Merges the splits' maxima, sums and weighted values in the first split's registers.
__device__ __forceinline__ void merge_splits(State& state, float* shared, u32 split, u32 warp) {
    constexpr int VALUES = WIDTH / 8 * 4;
    auto place = [&](u32 of) { return shared + (((of - 1) * SPLIT_WARPS + warp) * 32 + threadIdx.x % 32) * (VALUES + 5); };
    __syncthreads();
    if (split > 0) {
        float* mine = place(split);
#pragma unroll
        for (int i = 0; i < VALUES; ++i) mine[i] = state.values[i / 4][i % 4];
#pragma unroll
        for (int half = 0; half < 2; ++half) mine[VALUES + half] = state.max[half], mine[VALUES + 2 + half] = state.sum[half];
    }
    __syncthreads();
    if (split > 0) return;
#pragma unroll 1
    for (u32 other = 1; other < KV_SPLITS; ++other) {
        const float* found = place(other);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float theirs = found[VALUES + half], max = fmaxf(state.max[half], theirs);
            // Splits without keys, and rows beyond the last query, have maximum -infinity.
            const float base = max == -infinity() ? 0.0f : max;
            const float a = power_of_two(state.max[half] - base), b = power_of_two(theirs - base);
            state.max[half] = max;
            state.sum[half] = state.sum[half] * a + found[VALUES + 2 + half] * b;
#pragma unroll
            for (int part = 0; part < WIDTH / 8; ++part)
#pragma unroll
                for (int i = half * 2; i < half * 2 + 2; ++i) state.values[part][i] = state.values[part][i] * a + found[part * 4 + i] * b;
        }
    }
}

template <typename F>
__device__ __forceinline__ void each_value(State& state, F f) {
#pragma unroll
    for (int part = 0; part < WIDTH / 8; ++part)
#pragma unroll
        for (int i = 0; i < 4; ++i) state.values[part][i] = f(state.values[part][i]);
}

// Calls f(column, low, high) for this thread's pairs of neighbouring columns in one of its two rows.
template <typename F>
__device__ __forceinline__ void each_pair(const State& state, int half, F f) {
    static_assert(HEAD_DIM % 2 == 0, "columns are stored in pairs");
#pragma unroll
    for (int part = 0; part < WIDTH / 8; ++part) {
        const u32 column = part * 8 + threadIdx.x % 4 * 2;
        if (column < HEAD_DIM) f(column, state.values[part][half * 2], state.values[part][half * 2 + 1]);
    }
}

__device__ __forceinline__ void store_values(const AttentionParams& p, State& state, const DeviceSegment& segment, u32 head,
                                             u32 first_query) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float sum = state.sum[half];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const float share = 1.0f / sum;
#pragma unroll
        for (int part = 0; part < WIDTH / 8; ++part) state.values[part][half * 2] *= share, state.values[part][half * 2 + 1] *= share;
    }
    if (OUT_FORMAT == BF16) each_value(state, [](float x) { return from_bf16(to_bf16(x)); });
    if (OUT_FORMAT == FP16) each_value(state, [](float x) { return from_fp16(to_fp16(x)); });
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const u32 query = first_query + threadIdx.x % 32 / 4 + half * 8;
        if (query >= segment.queries) continue;
        const size_t row = segment.query_start + query, to = row * p.out_ld + head * HEAD_DIM;
        float* wide = static_cast<float*>(p.out) + to;
        u16* narrow = static_cast<u16*>(p.out) + to;
        auto narrow_pair = [&](u32 column) { return reinterpret_cast<u32*>(narrow + column); };
        if (OUT_ELEMENT == F32) {
            each_pair(state, half, [&](u32 column, float low, float high) { wide[column] = low, wide[column + 1] = high; });
        } else if (EIGHT_BITS && OUT_ELEMENT == E4M3) {
            u8* bytes = static_cast<u8*>(p.out) + to;
            const float factor = p.out_factor;
            each_pair(state, half, [&](u32 column, float low, float high) {
                *reinterpret_cast<u16*>(bytes + column) = to_e4m3x2(low * factor, high * factor);
            });
        } else if (OUT_ELEMENT == BF16) {
            each_pair(state, half, [&](u32 column, float low, float high) { *narrow_pair(column) = pack2<BF16>(low, high); });
        } else {
            each_pair(state, half, [&](u32 column, float low, float high) { *narrow_pair(column) = pack2<FP16>(low, high); });
        }
        if (p.tap == nullptr) continue;
        float* tap = p.tap + (row * p.heads + head) * HEAD_DIM;
        each_pair(state, half, [&](u32 column, float low, float high) { tap[column] = low, tap[column + 1] = high; });
    }
}

// Waits for the other warps of the split. A barrier whose number is known when the kernel is compiled: otherwise a block has
// all sixteen.
__device__ __forceinline__ void split_barrier(u32 split) {
#pragma unroll
    for (int known = 0; known < KV_SPLITS; ++known)
        if (split == known) asm volatile("bar.sync %0, %1;" ::"r"(known + 1), "n"(SPLIT_THREADS) : "memory");
}

// Registers for two blocks of up to eight warps, where they are enough: a quarter of a multiprocessor has room for whole warps.
constexpr int BOUND = (THREADS + 127) / 128 * 128, BLOCKS = BOUND == 256 && QUERIES > 64 && HEAD_DIM <= 80 ? 2 : 1;

extern "C" __global__ void __launch_bounds__(BOUND, BLOCKS) attention(const __grid_constant__ AttentionParams p) {
    extern __shared__ __align__(16) u16 shared[];
    u16* queries = shared;
    const u32 head = blockIdx.y, lane = threadIdx.x % 32, split = threadIdx.x / SPLIT_THREADS, thread = threadIdx.x % SPLIT_THREADS;
    const u32 warp = thread / 32;
    // Each split has two buffers of keys and values.
    auto keys = [&](u32 round) { return shared + Q_ELEMENTS + (split * 2 + round % 2) * 2 * KV_ELEMENTS; };
    auto values = [&](u32 round) { return keys(round) + KV_ELEMENTS; };

    allow_next_kernel();
    // Written when the program was recorded: read before the wait.
    const DeviceSegment segment = p.segments[blockIdx.z];
    const u32 first = blockIdx.x * QUERIES;
    if (first >= segment.queries) return;
    // A query sees keys up to its own position, so a block needs none beyond its last query.
    const u32 needed = CAUSAL ? min(segment.keys, first + QUERIES) : segment.keys;
    const u32 column = head / p.group * HEAD_DIM;
    // The tile of the split's round, where there is one.
    auto copy_tile = [&](u32 round) {
        const u32 start = (round * KV_SPLITS + split) * KEYS;
        if (start < needed) {
            const u32 count = segment.keys - start;
            const size_t row = segment.key_start + start;
            copy_head<KEYS, SPLIT_THREADS>(keys(round), static_cast<const u16*>(p.k) + row * p.k_ld + column, p.k_ld, count, thread);
            copy_head<KEYS, SPLIT_THREADS>(values(round), static_cast<const u16*>(p.v) + row * p.v_ld + column, p.v_ld, count, thread);
        }
        commit_copies();
    };
    wait_for_earlier_kernels();
    copy_head<QUERIES, THREADS>(queries, static_cast<const u16*>(p.q) + size_t(segment.query_start + first) * p.q_ld + head * HEAD_DIM,
                                p.q_ld, segment.queries - first, threadIdx.x);
    copy_tile(0);
    copy_tile(1);
    wait_for_copies<1>();
    __syncthreads();
    u32 q[PARTS][4];
#pragma unroll
    for (int part = 0; part < PARTS; ++part)
        load_matrices(q[part], shared_address(queries + (warp * 16 + (lane & 15)) * LD + part * 16 + (lane >> 4) * 8));

    State state = {};
    state.max[0] = state.max[1] = -infinity();
    const u32 first_query = first + warp * 16;
    for (u32 round = 0; (round * KV_SPLITS + split) * KEYS < needed; ++round) {
        if (round > 0) wait_for_copies<1>(), split_barrier(split);
        const u32 first_key = (round * KV_SPLITS + split) * KEYS;
        // None of this warp's queries sees keys beyond its last.
        if (!CAUSAL || first_key < first_query + 16) {
            float scores[TILES][4] = {};
            qk(q, keys(round), p.scale, scores);
            u32 visible[2] = {segment.keys, segment.keys};
            if (CAUSAL) {
#pragma unroll
                for (int half = 0; half < 2; ++half) visible[half] = min(segment.keys, first_query + lane / 4 + half * 8 + 1);
            }
            if (first_key + KEYS > min(visible[0], visible[1])) apply_mask(scores, first_key, visible);
            exponentiate(scores, state);
            pv(scores, values(round), state);
        }
        // All warps have read the buffer.
        split_barrier(split);
        copy_tile(round + 2);
    }
    wait_for_copies<0>();
    if (KV_SPLITS > 1) merge_splits(state, reinterpret_cast<float*>(shared), split, warp);
    if (split == 0) store_values(p, state, segment, head, first_query);
}
