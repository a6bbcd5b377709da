// y = x Wᵀ + b by wgmma, with the epilogue of `gemm_mma.cu`.
//
// A block computes FEATURES outputs of TOKENS rows, transposed: the weights are the operand of 64 rows, so that few
// tokens leave no part of a product idle. Two threads fetch by TMA, one the weights, before the kernel waits
// for its input, the other x: one alone takes longer to issue the fetches of a small tile than its products take. A
// warpgroup multiplies 64 features; K_GROUPS groups of warpgroups take turns at the stages, and their sums are added in the end. The
// blocks of a cluster (grid z) share the inner dimension.
//
// Compiled for: ELEMENT (BF16, FP16, E4M3), FEATURES (64, 128, 192), TOKENS (multiples of 8 from 64 to 256), STAGES, K_GROUPS;
// SPLIT and what `epilogue.cuh` names.
#include "epilogue.cuh"

constexpr int ROW_BYTES = 128, DEPTH = ELEMENT == E4M3 ? ROW_BYTES : ROW_BYTES / 2;  // of the inner dimension in a stage
constexpr int GROUPS = FEATURES / 64, SUMS = TOKENS / 2, CONSUMERS = 128 * GROUPS * K_GROUPS;
constexpr int W_PRODUCER = CONSUMERS / 32, X_PRODUCER = W_PRODUCER + 1, THREADS = CONSUMERS + 64;  // two warps
// Threads that finish rows: all, where each keeps its columns.
constexpr int FINISHERS = THREADS % (FEATURES / 8) == 0 ? THREADS : CONSUMERS;
constexpr int W_BYTES = FEATURES * ROW_BYTES, X_BYTES = TOKENS * ROW_BYTES, STAGE_BYTES = W_BYTES + X_BYTES;
static_assert(EIGHT_BITS || ELEMENT != E4M3, "sums of 8-bit products are rescaled");
constexpr int TILE_LD = FEATURES + 4;
static_assert(TOKENS * TILE_LD * 4 <= STAGES * STAGE_BYTES, "the sums take the place of the operands");
static_assert(STAGES % K_GROUPS == 0, "a stage is always the same k group's");

__device__ __forceinline__ void init_barrier(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void expect_bytes(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void arrive(u32 barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"); }

__device__ __forceinline__ void wait(u32 barrier, u32 parity) {
    u32 done = 0;
    while (!done) {
        asm volatile(
            "{\n\t.reg .pred p;\n\t"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
            "selp.b32 %0, 1, 0, p;\n\t}"
            : "=r"(done)
            : "r"(barrier), "r"(parity)
            : "memory");
    }
}

// One lane of a warp. The compiler knows that it is one: around what only one thread does at a time, such as a fetch, it
// would otherwise put a loop over the lanes.
__device__ __forceinline__ bool elected() {
    u32 is;
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "elect.sync _|p, 0xffffffff;\n\t"
        "selp.b32 %0, 1, 0, p;\n\t}"
        : "=r"(is));
    return is;
}

// The same in every lane, which the compiler must know: fetches and operands are described in uniform registers.
__device__ __forceinline__ u32 uniform(u32 value) { return __shfl_sync(0xffffffffu, value, 0); }

// Fetches a box of a tensor, whose bytes the barrier expects. Rows outside the tensor are zeros.
__device__ __forceinline__ void fetch(u32 to, const TensorMap& map, u32 column, u32 row, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(to),
                 "l"(&map), "r"(barrier), "r"(column), "r"(row)
                 : "memory");
}

// Fetches a description, which the first box would wait for.
__device__ __forceinline__ void fetch_map(const TensorMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }

// Rows of 128 bytes, eight of them 1024 bytes apart, chunks swizzled by 128 bytes.
__device__ __forceinline__ u64 operand(u32 address) {
    return (u64(address & 0x3ffff) >> 4) | (u64(1) << 16) | (u64(1024 >> 4) << 32) | (u64(1) << 62);
}

__device__ __forceinline__ void fence_sums() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void commit_wgmma() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void wait_for_wgmma() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

#if ELEMENT == 1
#define PRODUCT(SHAPE) "wgmma.mma_async.sync.aligned." SHAPE "k16.f32.bf16.bf16 "
#elif ELEMENT == 2
#define PRODUCT(SHAPE) "wgmma.mma_async.sync.aligned." SHAPE "k16.f32.f16.f16 "
#else
#define PRODUCT(SHAPE) "wgmma.mma_async.sync.aligned." SHAPE "k32.f32.e4m3.e4m3 "
#endif

// Added to what is there, neither operand negated; both with their inner dimension in rows, as 8-bit ones always are.
#if ELEMENT == 3
#define FLAGS "1, 1, 1;"
#else
#define FLAGS "1, 1, 1, 0, 0;"
#endif

// d += a bᵀ for 64 rows of a and TOKENS of b, 32 bytes deep. The instruction names every sum, half as many as tokens, then a
// and b: the preprocessor writes the names and the registers, ten at a time.
#define NAMES_0(T)
#define NAMES_2(T) ", %" #T "0, %" #T "1"
#define NAMES_4(T) NAMES_2(T) ", %" #T "2, %" #T "3"
#define NAMES_6(T) NAMES_4(T) ", %" #T "4, %" #T "5"
#define NAMES_8(T) NAMES_6(T) ", %" #T "6, %" #T "7"
#define NAMES_10(T) NAMES_8(T) ", %" #T "8, %" #T "9"
#define NAMES_TO_2 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9" NAMES_10(1)
#define NAMES_TO_3 NAMES_TO_2 NAMES_10(2)
#define NAMES_TO_4 NAMES_TO_3 NAMES_10(3)
#define NAMES_TO_5 NAMES_TO_4 NAMES_10(4)
#define NAMES_TO_6 NAMES_TO_5 NAMES_10(5)
#define NAMES_TO_7 NAMES_TO_6 NAMES_10(6)
#define NAMES_TO_8 NAMES_TO_7 NAMES_10(7)
#define NAMES_TO_9 NAMES_TO_8 NAMES_10(8)
#define NAMES_TO_10 NAMES_TO_9 NAMES_10(9)
#define NAMES_TO_11 NAMES_TO_10 NAMES_10(10)
#define NAMES_TO_12 NAMES_TO_11 NAMES_10(11)
#define SUMS_0(I)
#define SUMS_2(I) , "+f"(d[I]), "+f"(d[I + 1])
#define SUMS_4(I) SUMS_2(I) SUMS_2(I + 2)
#define SUMS_6(I) SUMS_4(I) SUMS_2(I + 4)
#define SUMS_8(I) SUMS_4(I) SUMS_4(I + 4)
#define SUMS_10(I) SUMS_8(I) SUMS_2(I + 8)
#define SUMS_TO_2 "+f"(d[0]), "+f"(d[1]) SUMS_8(2) SUMS_10(10)
#define SUMS_TO_3 SUMS_TO_2 SUMS_10(20)
#define SUMS_TO_4 SUMS_TO_3 SUMS_10(30)
#define SUMS_TO_5 SUMS_TO_4 SUMS_10(40)
#define SUMS_TO_6 SUMS_TO_5 SUMS_10(50)
#define SUMS_TO_7 SUMS_TO_6 SUMS_10(60)
#define SUMS_TO_8 SUMS_TO_7 SUMS_10(70)
#define SUMS_TO_9 SUMS_TO_8 SUMS_10(80)
#define SUMS_TO_10 SUMS_TO_9 SUMS_10(90)
#define SUMS_TO_11 SUMS_TO_10 SUMS_10(100)
#define SUMS_TO_12 SUMS_TO_11 SUMS_10(110)
#define A_AND_B_0(T) ", %" #T "0, %" #T "1, "
#define A_AND_B_2(T) ", %" #T "2, %" #T "3, "
#define A_AND_B_4(T) ", %" #T "4, %" #T "5, "
#define A_AND_B_6(T) ", %" #T "6, %" #T "7, "
#define A_AND_B_8(T) ", %" #T "8, %" #T "9, "
#if TOKENS / 20 == 2
#define TENS 2
#elif TOKENS / 20 == 3
#define TENS 3
#elif TOKENS / 20 == 4
#define TENS 4
#elif TOKENS / 20 == 5
#define TENS 5
#elif TOKENS / 20 == 6
#define TENS 6
#elif TOKENS / 20 == 7
#define TENS 7
#elif TOKENS / 20 == 8
#define TENS 8
#elif TOKENS / 20 == 9
#define TENS 9
#elif TOKENS / 20 == 10
#define TENS 10
#elif TOKENS / 20 == 11
#define TENS 11
#elif TOKENS / 20 == 12
#define TENS 12
#endif
#if TOKENS / 2 % 10 == 0
#define ONES 0
#elif TOKENS / 2 % 10 == 2
#define ONES 2
#elif TOKENS / 2 % 10 == 4
#define ONES 4
#elif TOKENS / 2 % 10 == 6
#define ONES 6
#elif TOKENS / 2 % 10 == 8
#define ONES 8
#endif
#define JOINED(A, B) A##B
#define CALLED(A, B) JOINED(A, B)
#define TEXT(A) #A
#define APPLIED(LIST, T) LIST(T)
#define SHAPE(N) "m64n" TEXT(N)

__device__ __forceinline__ void multiply_add(float (&d)[SUMS], u64 a, u64 b) {
    asm volatile(PRODUCT(SHAPE(TOKENS)) "{" CALLED(NAMES_TO_, TENS) APPLIED(CALLED(NAMES_, ONES), TENS) "}"
                 APPLIED(CALLED(A_AND_B_, ONES), TENS) FLAGS
                 : CALLED(SUMS_TO_, TENS) APPLIED(CALLED(SUMS_, ONES), TENS * 10)
                 : "l"(a), "l"(b));
}

// The products of one stage, added to d once they are waited for.
__device__ __forceinline__ void multiply_stage(float (&d)[SUMS], u64 w, u64 x) {
    fence_sums();
#pragma unroll
    for (int k = 0; k < ROW_BYTES / 32; ++k) multiply_add(d, w + k * 2, x + k * 2);
    commit_wgmma();
}

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

struct Stages {
    u32 base, full, empty;
    __device__ u32 at(u32 i) const { return base + i % STAGES * STAGE_BYTES; }
    __device__ u32 filled(u32 i) const { return full + i % STAGES * 8; }
    __device__ u32 emptied(u32 i) const { return empty + i % STAGES * 8; }
    __device__ static u32 parity(u32 i) { return i / STAGES & 1; }
};

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
    const ThreadMap<TOKENS, FEATURES, FINISHERS> my;
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
    finish_tile<TOKENS, FEATURES, TILE_LD, FINISHERS>(e, my, bias, residuals, tile, first_row, first_column, p.rows, p.n);
}
