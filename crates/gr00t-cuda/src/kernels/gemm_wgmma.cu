// y = x Wᵀ + b by wgmma, with the epilogue of `gemm_mma.cu`.
//
// A block computes FEATURES outputs of TOKENS rows, transposed: the weights are the operand of 64 rows, so that few
// tokens leave no part of a product idle. Two threads fetch by TMA, one the weights, before the kernel waits
// for its input, the other x: one alone takes longer to issue the fetches of a small tile than its products take. A
// warpgroup multiplies 64 features; K_GROUPS groups of warpgroups take turns at the stages, and their sums are added in the end. The
// blocks of a cluster (grid z) share the inner dimension.
//
// Compiled for: ELEMENT (BF16, FP16, E4M3), FEATURES (64, 128), TOKENS (multiples of 8 from 64 to 256), STAGES, K_GROUPS;
// SPLIT and what `epilogue.cuh` names.
#include "wgmma.cuh"

constexpr int CONSUMERS = 128 * GROUPS * K_GROUPS;
constexpr int W_PRODUCER = CONSUMERS / 32, X_PRODUCER = W_PRODUCER + 1, THREADS = CONSUMERS + 64;  // two warps
static_assert(EIGHT_BITS || ELEMENT != E4M3, "sums of 8-bit products are rescaled");
constexpr int TILE_LD = FEATURES + 4;
static_assert(TOKENS * TILE_LD * 4 <= STAGES * STAGE_BYTES, "the sums take the place of the operands");
static_assert(STAGES % K_GROUPS == 0, "a stage is always the same k group's");

// This thread's sums to the tile [TOKENS, FEATURES], or added to what is there: a product's rows are features, its
// columns tokens.
template <bool ADD>
__device__ __forceinline__ void store_sums(float* tile, const float (&sums)[SUMS]) {
    const u32 lane = threadIdx.x % 32, feature = threadIdx.x / 32 % (4 * GROUPS) * 16 + lane / 4, token = lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < SUMS; ++i) {
        float* at = tile + (i / 4 * 8 + token + i % 2) * TILE_LD + feature + i / 2 % 2 * 8;
        *at = ADD ? *at + sums[i] : sums[i];
    }
}

// One thread: fetches an operand's boxes as long as there are places for them, to an offset of their stages.
template <u32 BYTES, u32 OFFSET, bool IS_INPUT>
__device__ __forceinline__ void produce(const TensorMap& map, const Stages& s, u32 row, u32 from, u32 count) {
    const u32 first = min(count, u32(STAGES));
    for (u32 i = 0; i < first; ++i) expect_bytes(s.filled(i), BYTES);
    if constexpr (IS_INPUT) wait_for_earlier_kernels();
    for (u32 i = 0; i < first; ++i) fetch(s.at(i) + OFFSET, map, (from + i) * DEPTH, row, s.filled(i));
    for (u32 i = first; i < count; ++i) {
        wait(s.emptied(i), Stages::parity(i) ^ 1);
        expect_bytes(s.filled(i), BYTES);
        fetch(s.at(i) + OFFSET, map, (from + i) * DEPTH, row, s.filled(i));
    }
}

// A warpgroup: the products of its 64 features with all tokens, over its k group's stages.
__device__ __forceinline__ void consume(const Stages& s, u32 count, float (&sums)[SUMS]) {
    const u32 warpgroup = uniform(threadIdx.x / 128);
    const u32 k_group = warpgroup / GROUPS, group = warpgroup % GROUPS;
    const u32 first = uniform(s.at(k_group)), barriers = uniform(s.filled(k_group));
    const u64 w = operand(first + group * 64 * ROW_BYTES), x = operand(first + W_BYTES);
    const bool leader = threadIdx.x % 128 == 0;
    for (u32 round = 0; round * STAGES + k_group < count; ++round) {
#pragma unroll
        for (u32 j = 0; j < STAGES; j += K_GROUPS) {
            if (round * STAGES + k_group + j >= count) break;
            wait(barriers + j * 8, round & 1);
            constexpr u32 EMPTY = STAGES * 8;
            const u32 offset = j * (STAGE_BYTES / 16);
            if constexpr (ELEMENT == E4M3) {
                // The tensor cores keep few bits of what they add 8-bit products to: a stage at a time, the rest in f32.
                float part[SUMS] = {};
                multiply_stage(part, w + offset, x + offset);
                wait_for_wgmma<0>();
#pragma unroll
                for (int i = 0; i < SUMS; ++i) sums[i] += part[i];
                if (leader) arrive(barriers + EMPTY + j * 8);
            } else {
                multiply_stage(sums, w + offset, x + offset);
                // The k group's stage before this one has been read once its products are done.
                wait_for_wgmma<1>();
                const u32 before = j >= K_GROUPS ? j - K_GROUPS : STAGES - K_GROUPS;
                if (leader && (j > 0 || round > 0)) arrive(barriers + EMPTY + before * 8);
            }
        }
    }
    wait_for_wgmma<0>();
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) gemm(const __grid_constant__ GemmWgmmaParams p) {
    extern __shared__ __align__(1024) u8 shared[];
    __shared__ __align__(8) u64 barriers[2 * STAGES];
    const u32 full = uniform(shared_address(barriers));
    const Stages s = {uniform(shared_address(shared)), full, full + STAGES * 8};
    const u32 stages = p.inner / DEPTH, ranks = SPLIT;
    const u32 from = stages * blockIdx.z / ranks, count = stages * (blockIdx.z + 1) / ranks - from;
    const u32 warp = uniform(threadIdx.x / 32);
    const bool producer = warp >= CONSUMERS / 32;

    allow_next_kernel();
    const Epilogue& e = p.epilogue;
    const ThreadMap<TOKENS, FEATURES, THREADS> my;
    const u32 first_row = blockIdx.y * TOKENS, first_column = blockIdx.x * FEATURES;
    float bias[8];
    Raw8 residuals[SUMS < 96 ? 2 : 1];  // as many as the sums leave registers for
    read_bias(e, first_column + my.column, p.n, bias);
    if (warp == W_PRODUCER && elected()) fetch_map(p.w);
    if (warp == X_PRODUCER && elected()) fetch_map(p.x);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) init_barrier(s.filled(i), 2), init_barrier(s.emptied(i), GROUPS);
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    float sums[SUMS] = {};
    if (warp == W_PRODUCER && elected()) produce<W_BYTES, 0, false>(p.w, s, first_column, from, count);
    if (warp == X_PRODUCER && elected()) produce<X_BYTES, W_BYTES, true>(p.x, s, first_row, from, count);
    __syncwarp();
    wait_for_earlier_kernels();
    read_residuals(e, my, first_row, first_column, p.rows, p.n, residuals);
    if (!producer) consume(s, count, sums);
    __syncthreads();
    float* tile = reinterpret_cast<float*>(shared);
    const u32 k_group = threadIdx.x / (128 * GROUPS);
    if (k_group == 0) store_sums<false>(tile, sums);
    __syncthreads();
    for (u32 next = 1; next < K_GROUPS; ++next) {
        if (k_group == next && !producer) store_sums<true>(tile, sums);
        __syncthreads();
    }
    finish_tile<TOKENS, FEATURES, TILE_LD, THREADS>(e, my, bias, residuals, tile, first_row, first_column, p.rows, p.n);
}
