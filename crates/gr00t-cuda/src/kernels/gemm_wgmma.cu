// y = x Wᵀ + b by wgmma, with the epilogue of `gemm_mma.cu`.
//
// A block computes FEATURES outputs of TOKENS rows, transposed: the weights are the operand of 64 rows, so that few
// tokens leave no part of a product idle. Two threads fetch by TMA, one the weights, before the kernel waits
// for its input, the other x: one alone takes longer to issue the fetches of a small tile than its products take. A
// warpgroup multiplies 64 features; K_GROUPS groups of warpgroups take turns at the stages, and their sums are added in the end. The
// blocks of a cluster (grid z) share the inner dimension.
//
// Compiled for: ELEMENT (BF16, FP16, E4M3), FEATURES (64, 128), TOKENS (64, 128, 192, 256), STAGES, K_GROUPS;
// SPLIT and what `epilogue.cuh` names.
#include "epilogue.cuh"

constexpr int ROW_BYTES = 128, DEPTH = ELEMENT == E4M3 ? ROW_BYTES : ROW_BYTES / 2;  // of the inner dimension in a stage
constexpr int GROUPS = FEATURES / 64, SUMS = TOKENS / 2, CONSUMERS = 128 * GROUPS * K_GROUPS;
constexpr int W_PRODUCER = CONSUMERS / 32, X_PRODUCER = W_PRODUCER + 1, THREADS = CONSUMERS + 64;  // two warps
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

// d += a bᵀ for 64 rows of a and TOKENS of b, 32 bytes deep.
__device__ __forceinline__ void multiply_add(float (&d)[SUMS], u64 a, u64 b) {
#if TOKENS == 64
    asm volatile(
        PRODUCT("m64n64")
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, " FLAGS
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
          "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
          "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
          "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
          "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b));
#elif TOKENS == 128
    asm volatile(
        PRODUCT("m64n128")
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, " FLAGS
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
          "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
          "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
          "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
          "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
          "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
          "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),
          "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
          "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "l"(a), "l"(b));
#elif TOKENS == 192
    asm volatile(
        PRODUCT("m64n192")
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
        "%96, %97, " FLAGS
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
          "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
          "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
          "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
          "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
          "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
          "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),
          "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
          "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), "+f"(d[64]), "+f"(d[65]),
          "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
          "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]),
          "+f"(d[78]), "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]),
          "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]),
          "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
        : "l"(a), "l"(b));
#elif TOKENS == 256
    asm volatile(
        PRODUCT("m64n256")
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
        "%128, %129, " FLAGS
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
          "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
          "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
          "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
          "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
          "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
          "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),
          "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
          "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), "+f"(d[64]), "+f"(d[65]),
          "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
          "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]),
          "+f"(d[78]), "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]),
          "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]),
          "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]),
          "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]),
          "+f"(d[102]), "+f"(d[103]), "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]),
          "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]), "+f"(d[112]), "+f"(d[113]),
          "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),
          "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]),
          "+f"(d[126]), "+f"(d[127])
        : "l"(a), "l"(b));
#endif
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
