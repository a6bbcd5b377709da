// Kernels that bring values to where they are used: inputs, embeddings, the Euler step.
#include "machine.cuh"
#include "params.cuh"

constexpr int THREADS = 256;

__device__ __forceinline__ u32 thread_index() { return blockIdx.x * THREADS + threadIdx.x; }

extern "C" __global__ void __launch_bounds__(THREADS) embed(const __grid_constant__ EmbedParams p) {
    const u32 row = blockIdx.x;
    allow_next_kernel();
    wait_for_earlier_kernels();
    const u32 source = p.sources[row];
    const size_t from = size_t(p.ids[row]) * p.table_ld;
    for (u32 i = threadIdx.x; i < p.features; i += THREADS) {
        float value = round_to(p.format, load(p.table, p.table_element, from + i));
        if (p.tap != nullptr) p.tap[size_t(row) * p.features + i] = value;
        if (source != 0xffffffffu) value = load(p.images, p.images_element, size_t(source) * p.images_ld + i);
        store(p.out, p.out_element, size_t(row) * p.out_ld + i, value);
    }
}

// Rows of x, those that have a source with its row of `values` added.
extern "C" __global__ void __launch_bounds__(THREADS) add_rows(const __grid_constant__ AddRowsParams p) {
    const u32 row = blockIdx.x;
    allow_next_kernel();
    wait_for_earlier_kernels();
    const u32 source = p.sources[row];
    for (u32 i = threadIdx.x; i < p.features; i += THREADS) {
        float value = load(p.x, p.x_element, size_t(row) * p.x_ld + i);
        if (source != 0xffffffffu) value += load(p.values, p.values_element, size_t(source) * p.values_ld + i);
        value = round_to(p.format, value);
        store(p.out, p.out_element, size_t(row) * p.out_ld + i, value);
        if (p.tap != nullptr) p.tap[size_t(row) * p.features + i] = value;
    }
}

// Rounds and stores: a value from outside, or one that is needed in another element type.
extern "C" __global__ void __launch_bounds__(THREADS) convert(const __grid_constant__ ConvertParams p) {
    const u32 index = thread_index(), row = index / p.features, column = index % p.features;
    allow_next_kernel();
    wait_for_earlier_kernels();
    if (row >= p.rows) return;
    const float value = round_to(p.format, load(p.x, p.x_element, size_t(row) * p.x_ld + column));
    store(p.out, p.out_element, size_t(row) * p.out_ld + column, value);
    if (p.copy != nullptr) store(p.copy, p.copy_element, size_t(row) * p.copy_ld + column, value);
    if (p.tap != nullptr) p.tap[index] = value;
}

constexpr u32 PARTS = 32;  // a lane of a warp for each

// Calls f(row, column) for eights of an item's values (grid y), a share of them to each block.
template <typename F>
__device__ __forceinline__ void each_eight(const QuantizeParams& p, F f) {
    const u32 chunks = (p.features + 7) / 8;
    for (u32 i = thread_index(); i < p.item_rows * chunks; i += gridDim.x * THREADS)
        f(size_t(blockIdx.y) * p.item_rows + i / chunks, i % chunks * 8);
}

// The largest magnitude of each part of an item. Grid: PARTS, items.
extern "C" __global__ void __launch_bounds__(THREADS) largest(const __grid_constant__ QuantizeParams p) {
    allow_next_kernel();
    wait_for_earlier_kernels();
    float amax = 0;
    each_eight(p, [&](size_t row, u32 column) {
        float v[8];
        load8(p.x, p.x_element, row * p.x_ld + column, v);
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (column + i < p.features) amax = fmaxf(amax, fabsf(v[i]));
    });
    amax = block_max<THREADS / 32>(amax);
    if (threadIdx.x == 0) p.partials[blockIdx.y * p.partials_ld + blockIdx.x] = amax;
}

// Rows of an operand in e4m3. Grid: any number, items.
extern "C" __global__ void __launch_bounds__(THREADS) quantize(const __grid_constant__ QuantizeParams p) {
    allow_next_kernel();
    wait_for_earlier_kernels();
    float amax = p.amax;
    if (p.partials != nullptr) {
        amax = warp_max(p.partials[blockIdx.y * p.partials_ld + threadIdx.x % PARTS]);
        if (blockIdx.x == 0 && threadIdx.x == 0) p.amaxes[blockIdx.y] = amax;
    }
    const float factor = quantization_scale(amax);
    each_eight(p, [&](size_t row, u32 column) {
        float v[8];
        load8(p.x, p.x_element, row * p.x_ld + column, v);
        store_operand8(p.out, E4M3, factor, row * p.out_ld + column, v, int(p.features - column));
    });
}

extern "C" __global__ void __launch_bounds__(THREADS) euler(const __grid_constant__ EulerParams p) {
    const u32 index = thread_index(), row = index / p.features, column = index % p.features;
    allow_next_kernel();
    wait_for_earlier_kernels();
    if (row >= p.batch * p.horizon) return;
    const size_t from = size_t(row / p.horizon) * p.tokens + p.tokens - p.horizon + row % p.horizon;
    const float velocity = load(p.velocity, p.velocity_element, from * p.velocity_ld + column);
    // Products are stored before they are added: no fused multiply-add, so f32 is the reference's f32.
    float step = round_to(p.format, __fmul_rn(p.dt, velocity));
    if (p.strength != nullptr) step = round_to(p.format, __fmul_rn(step, p.strength[index]));
    const float value = round_to(p.format, __fadd_rn(p.actions[index], step));
    p.actions[index] = value;
    if (p.operand != nullptr) store(p.operand, p.operand_element, size_t(row) * p.operand_ld + column, value);
    if (p.tap != nullptr) p.tap[index] = value;
}
