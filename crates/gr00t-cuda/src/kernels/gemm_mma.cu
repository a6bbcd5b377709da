// y = x Wᵀ + b by mma.sync, with its epilogue.
//
// A block computes a tile [TILE_ROWS, TILE_COLUMNS]; the blocks of a cluster (grid z) share the inner dimension
// and add their partial sums in a fixed order. Weights are fetched before the kernel waits for its input: they
// are what the time goes to when there are few rows.
//
// Compiled for: ELEMENT (BF16, FP16, and E4M3 from compute capability 8.9 on), TILE_ROWS (64, 128), TILE_COLUMNS (64, 128), STAGES;
// SPLIT and what `epilogue.cuh` names.
#include "epilogue.cuh"

constexpr int SIZE = ELEMENT == E4M3 ? 1 : 2, ROW_BYTES = 128, DEPTH = ROW_BYTES / SIZE;  // of the inner dimension at a time
constexpr int CHUNKS = ROW_BYTES / 16;
constexpr int WARPS_M = 2, WARPS_N = 4, THREADS = 32 * WARPS_M * WARPS_N;
constexpr int WARP_ROWS = TILE_ROWS / WARPS_M, WARP_COLUMNS = TILE_COLUMNS / WARPS_N;
constexpr int MMA_M = WARP_ROWS / 16, MMA_N = WARP_COLUMNS / 8;
constexpr int X_BYTES = TILE_ROWS * ROW_BYTES, W_BYTES = TILE_COLUMNS * ROW_BYTES, STAGE_BYTES = X_BYTES + W_BYTES;
static_assert(EIGHT_BITS || ELEMENT != E4M3, "sums of 8-bit products are rescaled");
constexpr int TILE_LD = TILE_COLUMNS + 4;
static_assert(TILE_ROWS * TILE_LD * 4 <= STAGES * STAGE_BYTES, "the sums take the place of the operands");

// Copies rows of 128 bytes, `ld` bytes apart. The eight 16-byte chunks of row r are permuted by r % 8, so that the eight rows
// that a matrix load touches lie in different banks.
template <int ROWS>
__device__ __forceinline__ void copy_rows(u32 to, const u8* from, u32 ld) {
#pragma unroll
    for (int i = 0; i < ROWS * CHUNKS / THREADS; ++i) {
        const u32 index = threadIdx.x + i * THREADS, row = index / CHUNKS, chunk = index % CHUNKS;
        copy16_async(to + row * ROW_BYTES + ((chunk ^ (row & 7)) << 4), from + size_t(row) * ld + chunk * 16);
    }
}

// The products of one stage.
__device__ __forceinline__ void multiply_stage(u32 stage, float (&sums)[MMA_M][MMA_N][4]) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 x_row = (warp / WARPS_N) * WARP_ROWS + (lane & 15), x_half = lane >> 4;
    const u32 w_row = (warp % WARPS_N) * WARP_COLUMNS + (lane & 7) + ((lane >> 4) << 3), w_half = (lane >> 3) & 1;
#pragma unroll
    for (int k = 0; k < ROW_BYTES / 32; ++k) {
        u32 x[MMA_M][4], w[MMA_N / 2][4];
#pragma unroll
        for (int m = 0; m < MMA_M; ++m) {
            const u32 row = x_row + m * 16;
            load_matrices(x[m], stage + row * ROW_BYTES + (((k * 2 + x_half) ^ (row & 7)) << 4));
        }
#pragma unroll
        for (int n = 0; n < MMA_N / 2; ++n) {
            const u32 row = w_row + n * 16;
            load_matrices(w[n], stage + X_BYTES + row * ROW_BYTES + (((k * 2 + w_half) ^ (row & 7)) << 4));
        }
#pragma unroll
        for (int m = 0; m < MMA_M; ++m)
#pragma unroll
            for (int n = 0; n < MMA_N; ++n) multiply_add<ELEMENT>(sums[m][n], x[m], w[n / 2][n % 2 * 2], w[n / 2][n % 2 * 2 + 1]);
    }
}

__device__ __forceinline__ void add(float (&sums)[MMA_M][MMA_N][4], const float (&part)[MMA_M][MMA_N][4]) {
#pragma unroll
    for (int m = 0; m < MMA_M; ++m)
#pragma unroll
        for (int n = 0; n < MMA_N; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[m][n][i] += part[m][n][i];
}

__device__ __forceinline__ void store_sums(float* tile, const float (&sums)[MMA_M][MMA_N][4]) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 row = (warp / WARPS_N) * WARP_ROWS + lane / 4, column = (warp % WARPS_N) * WARP_COLUMNS + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < MMA_M; ++m)
#pragma unroll
        for (int n = 0; n < MMA_N; ++n) {
            float* at = tile + (row + m * 16) * TILE_LD + column + n * 8;
            *reinterpret_cast<float2*>(at) = make_float2(sums[m][n][0], sums[m][n][1]);
            *reinterpret_cast<float2*>(at + 8 * TILE_LD) = make_float2(sums[m][n][2], sums[m][n][3]);
        }
}

extern "C" __global__ void __launch_bounds__(THREADS) gemm(const __grid_constant__ GemmParams p) {
    extern __shared__ __align__(1024) u8 shared[];
    const u32 base = shared_address(shared);
    const u32 first_row = blockIdx.y * TILE_ROWS, first_column = blockIdx.x * TILE_COLUMNS;
    const u32 depths = p.inner / DEPTH, ranks = SPLIT;
    const u32 from = depths * blockIdx.z / ranks, count = depths * (blockIdx.z + 1) / ranks - from;
    const u8* x = static_cast<const u8*>(p.x) + size_t(first_row) * p.ldx * SIZE + from * ROW_BYTES;
    const u8* w = static_cast<const u8*>(p.w) + size_t(first_column) * p.inner * SIZE + from * ROW_BYTES;
    auto stage = [&](u32 index) { return base + index % STAGES * STAGE_BYTES; };
    auto copy_x = [&](u32 index) { copy_rows<TILE_ROWS>(stage(index), x + index * ROW_BYTES, p.ldx * SIZE); };
    auto copy_w = [&](u32 index) { copy_rows<TILE_COLUMNS>(stage(index) + X_BYTES, w + index * ROW_BYTES, p.inner * SIZE); };

    allow_next_kernel();
    const Epilogue& e = p.epilogue;
    const ThreadMap<TILE_ROWS, TILE_COLUMNS, THREADS> my;
    float bias[8];
    Raw8 residuals[2];
    read_bias(e, first_column + my.column, p.n, bias);
#pragma unroll
    for (u32 i = 0; i < STAGES - 1; ++i)
        if (i < count) copy_w(i);
    wait_for_earlier_kernels();
#pragma unroll
    for (u32 i = 0; i < STAGES - 1; ++i) {
        if (i < count) copy_x(i);
        commit_copies();
    }
    read_residuals(e, my, first_row, first_column, p.rows, p.n, residuals);
    float sums[MMA_M][MMA_N][4] = {};
    for (u32 i = 0; i < count; ++i) {
        wait_for_copies<STAGES - 2>();
        __syncthreads();
        const u32 next = i + STAGES - 1;
        if (next < count) copy_x(next), copy_w(next);
        commit_copies();
        if constexpr (ELEMENT == E4M3) {
            // The tensor cores keep few bits of what they add 8-bit products to: a stage at a time, the rest in f32.
            float part[MMA_M][MMA_N][4] = {};
            multiply_stage(stage(i), part);
            add(sums, part);
        } else {
            multiply_stage(stage(i), sums);
        }
    }
    wait_for_copies<0>();
    __syncthreads();
    float* tile = reinterpret_cast<float*>(shared);
    store_sums(tile, sums);
    __syncthreads();
    finish_tile<TILE_ROWS, TILE_COLUMNS, TILE_LD, THREADS>(e, my, bias, residuals, tile, first_row, first_column, p.rows, p.n);
}
