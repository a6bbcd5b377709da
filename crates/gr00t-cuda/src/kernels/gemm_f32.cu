// y = x Wᵀ + b in IEEE f32, by fused multiply-adds on the CUDA cores: no tensor core, so no TF32.
// The epilogue and the split of the inner dimension are those of `gemm_mma.cu`.
#include "epilogue.cuh"

constexpr int TILE = 64, DEPTH = 16, THREADS = 256, TILE_LD = TILE + 4;

// Four neighbouring elements of one row, put into shared memory as a column.
__device__ __forceinline__ void put(float (&to)[DEPTH][TILE_LD], u32 row, u32 depth, const float4& v) {
    to[depth][row] = v.x, to[depth + 1][row] = v.y, to[depth + 2][row] = v.z, to[depth + 3][row] = v.w;
}

extern "C" __global__ void __launch_bounds__(THREADS) gemm(const __grid_constant__ GemmParams p) {
    __shared__ __align__(16) float operands[2][DEPTH][TILE_LD];
    __shared__ __align__(16) float tile[TILE * TILE_LD];
    const u32 first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    const u32 depths = p.inner / DEPTH, ranks = SPLIT;
    const u32 from = depths * blockIdx.z / ranks, to = depths * (blockIdx.z + 1) / ranks;
    const u32 row = threadIdx.x / 4, depth = threadIdx.x % 4 * 4;
    const float* x = static_cast<const float*>(p.x) + size_t(first_row + row) * p.ldx + depth;
    const float* w = static_cast<const float*>(p.w) + size_t(first_column + row) * p.inner + depth;
    const u32 my_row = threadIdx.x / 16 * 4, left_column = threadIdx.x % 16 * 4;

    allow_next_kernel();
    const Epilogue& e = p.epilogue;
    const ThreadMap<TILE, TILE, THREADS> my;
    float bias[8];
    Raw8 residuals[2];
    read_bias(e, first_column + my.column, p.n, bias);
    wait_for_earlier_kernels();
    read_residuals(e, my, first_row, first_column, p.rows, p.n, residuals);
    float sums[4][4] = {};
    auto load_step = [&](const float* operand, u32 step) { return *reinterpret_cast<const float4*>(operand + step * DEPTH); };
    float4 next_x = {}, next_w = {};
    if (from < to) next_x = load_step(x, from), next_w = load_step(w, from);
    for (u32 step = from; step < to; ++step) {
        __syncthreads();
        put(operands[0], row, depth, next_x);
        put(operands[1], row, depth, next_w);
        __syncthreads();
        // On their way while this step's are multiplied.
        if (step + 1 < to) next_x = load_step(x, step + 1), next_w = load_step(w, step + 1);
#pragma unroll
        for (int k = 0; k < DEPTH; ++k) {
            const float4 a = *reinterpret_cast<const float4*>(&operands[0][k][my_row]);
            const float4 b = *reinterpret_cast<const float4*>(&operands[1][k][left_column]);
            const float left[4] = {a.x, a.y, a.z, a.w}, right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[i][j] += left[i] * right[j];
        }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
        *reinterpret_cast<float4*>(&tile[(my_row + i) * TILE_LD + left_column]) =
            make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
    __syncthreads();
    finish_tile<TILE, TILE, TILE_LD, THREADS>(e, my, bias, residuals, tile, first_row, first_column, p.rows, p.n);
}
