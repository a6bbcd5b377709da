// y = x Wᵀ + b by wgmma for many rows, with the epilogue of `gemm_mma.cu`.
//
// There are as many blocks as multiprocessors, and each computes tiles of FEATURES outputs of TOKENS rows until there are no more,
// neighbours in turn. A warpgroup multiplies 64 features, transposed as in `gemm_wgmma.cu`, and finishes its own sums, warp by
// warp, while the next tile is fetched and the other warpgroups multiply: they meet nowhere but at the stages. Two threads
// fetch by TMA, one the weights, the other x.
//
// Compiled for: ELEMENT (BF16, FP16), FEATURES (128, 192), TOKENS, STAGES; what `epilogue.cuh` names, SPLIT being 1.
#include "wgmma.cuh"

constexpr int CONSUMERS = 128 * GROUPS, THREADS = CONSUMERS + 128;
constexpr int W_PRODUCER = CONSUMERS / 32, X_PRODUCER = W_PRODUCER + 1;
// Of what the block has, those who fetch need little. A multiprocessor quarter has 512 for each lane.
constexpr int FETCHES_WITH = GROUPS == 2 ? 40 : 32, MULTIPLIES_WITH = GROUPS == 2 ? 232 : 160;
static_assert(SPLIT == 1 && !SCALED, "blocks share no sums, and sums are what they stand for");
// A warp's sums of PASS tokens and its 16 features on their way to the threads that finish them, in rows that start in different
// banks.
constexpr int PASS = 16, PASS_LD = 20, PASS_FLOATS = PASS * PASS_LD;
// Residuals that are read ahead.
constexpr int AHEAD = GROUPS == 2 ? 4 : 2;

template <int COUNT>
__device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <int COUNT>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// Tiles in the order in which blocks take them: all features of the same tokens follow each other.
struct Tiles {
    u32 columns, count;
    __device__ Tiles(u32 rows, u32 n) : columns((n + FEATURES - 1) / FEATURES), count(columns * ((rows + TOKENS - 1) / TOKENS)) {}
    __device__ u32 row(u32 tile) const { return tile / columns * TOKENS; }
    __device__ u32 column(u32 tile) const { return tile % columns * FEATURES; }
};

// One thread: fetches an operand's boxes of all tiles of the block.
template <u32 BYTES, u32 OFFSET, bool IS_INPUT>
__device__ __forceinline__ void produce(const TensorMap& map, const Stages& s, const Tiles& tiles, u32 count) {
    if constexpr (IS_INPUT) wait_for_earlier_kernels();
    u32 stage = 0, parity = 1;
    for (u32 tile = blockIdx.x; tile < tiles.count; tile += gridDim.x) {
        const u32 row = IS_INPUT ? tiles.row(tile) : tiles.column(tile);
        for (u32 i = 0; i < count; ++i) {
            wait(s.emptied(stage), parity);
            expect_bytes(s.filled(stage), BYTES);
            fetch(s.at(stage) + OFFSET, map, i * DEPTH, row, s.filled(stage));
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
    }
}

// A warp's tile of sums is finished by lanes that take eight features of a token each.
__device__ __forceinline__ void finish_sums(const Epilogue& e, const float (&sums)[SUMS], const float (&bias)[8], float* staged,
                                            u32 first_row, u32 column, u32 rows, u32 n) {
    const u32 lane = threadIdx.x % 32, local = GATED ? lane : lane / 2;
    const bool works = column < n && (!GATED || lane < PASS);
    auto row_of = [&](int pass) { return first_row + pass * PASS + local; };
    auto inside = [&](int pass) { return works && pass * PASS + local < TOKENS && row_of(pass) < rows; };
    auto residual_of = [&](int pass) {
        if (!ADDS || !inside(pass)) return Raw8{};
        const u32 from = REPEATS ? row_of(pass) % e.residual_rows : row_of(pass);
        return read8(e.residual, RESIDUAL_ELEMENT, size_t(from) * e.residual_ld + column);
    };
    constexpr int PASSES = (TOKENS + PASS - 1) / PASS;
    Raw8 residuals[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) residuals[i] = residual_of(i);
    float* to = staged + lane % 4 * 2 * PASS_LD + lane / 4;
    const float* from = staged + local * PASS_LD + (GATED ? 0 : lane % 2 * 8);
#pragma unroll
    for (int pass = 0; pass < PASSES; ++pass) {
#pragma unroll
        for (int i = pass * PASS / 2; i < (pass + 1) * PASS / 2 && i < SUMS; ++i)
            to[((i - pass * PASS / 2) / 4 * 8 + i % 2) * PASS_LD + i / 2 % 2 * 8] = sums[i];
        __syncwarp();
        const Raw8 residual = residuals[pass % AHEAD];
        if (pass + AHEAD < PASSES) residuals[pass % AHEAD] = residual_of(pass + AHEAD);
        float v[8], up[8];
        if (inside(pass)) {
            load_tile8(from, v);
            if (GATED) load_tile8(from + 8, up);
        }
        __syncwarp();
        if (!inside(pass)) continue;
        if constexpr (GATED)
            finish_gated(e, row_of(pass), column / 2, n / 2, v, up);
        else
            finish(e, bias, residual, row_of(pass), column, n, v);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) gemm(const __grid_constant__ GemmWgmmaParams p) {
    extern __shared__ __align__(1024) u8 shared[];
    __shared__ __align__(8) u64 barriers[2 * STAGES];
    const u32 full = uniform(shared_address(barriers));
    const Stages s = {uniform(shared_address(shared)), full, full + STAGES * 8};
    const Tiles tiles(p.rows, p.n);
    const u32 count = p.inner / DEPTH, warp = uniform(threadIdx.x / 32);

    allow_next_kernel();
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) init_barrier(s.filled(i), 2), init_barrier(s.emptied(i), GROUPS);
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    if (warp >= CONSUMERS / 32) {
        give_registers<FETCHES_WITH>();
        if (warp == W_PRODUCER && elected()) produce<W_BYTES, 0, false>(p.w, s, tiles, count);
        if (warp == X_PRODUCER && elected()) produce<X_BYTES, W_BYTES, true>(p.x, s, tiles, count);
    } else {
        take_registers<MULTIPLIES_WITH>();
        const Epilogue& e = p.epilogue;
        const u32 group = warp / 4, lane = threadIdx.x % 32;
        const u64 w = operand(s.base + group * 64 * ROW_BYTES), x = operand(s.base + W_BYTES);
        const bool leader = threadIdx.x % 128 == 0;
        float* staged = reinterpret_cast<float*>(shared + STAGES * STAGE_BYTES) + warp * PASS_FLOATS;
        u32 stage = 0, parity = 0;
        bool waited = false;
        for (u32 tile = blockIdx.x; tile < tiles.count; tile += gridDim.x) {
            const u32 column = tiles.column(tile) + warp * 16 + (GATED ? 0 : lane % 2 * 8);
            float bias[8];
            read_bias(e, column, p.n, bias);
            float sums[SUMS] = {};
            u32 before = stage;
            for (u32 i = 0; i < count; ++i) {
                wait(s.filled(stage), parity);
                multiply_stage(sums, w + stage * (STAGE_BYTES / 16), x + stage * (STAGE_BYTES / 16));
                // The stage before this one has been read once its products are done.
                wait_for_wgmma<1>();
                if (leader && i > 0) arrive(s.emptied(before));
                before = stage;
                if (++stage == STAGES) stage = 0, parity ^= 1;
            }
            wait_for_wgmma<0>();
            if (leader) arrive(s.emptied(before));
            // What earlier kernels read may be what is written here.
            if (!waited) wait_for_earlier_kernels(), waited = true;
            finish_sums(e, sums, bias, staged, tiles.row(tile), column, p.rows, p.n);
        }
    }
}
