// What happens to a GEMM's sums before it is stored: bias, activation, gate, residual, each rounded as the
// policy says for its site.
//
// Compiled for (`Epilogue::fixed` in `gemm.rs`): EIGHT_BITS; SCALED: operands have 8 bits and scales; ADDS: a residual;
// GATED: columns come as eight of the gate, then eight of what it multiplies; ACTIVATION; OUT_ELEMENT, RESIDUAL_ELEMENT;
// PRODUCT_FORMAT of the product before the bias, LINEAR_FORMAT, ACTIVATION_FORMAT, UP_FORMAT, RESULT_FORMAT of the sum with
// the residual or of the gated product; WHOLE: the columns come in whole eights; MOVES: rows go elsewhere; REPEATS: the
// residual has fewer rows; and for SPLIT, the blocks of a cluster.
#pragma once

#include "machine.cuh"
#include "params.cuh"

__device__ __forceinline__ size_t out_row(const Epilogue& e, u32 row) {
    if (!MOVES) return row;
    return size_t(row / e.item_rows) * e.item_stride + e.item_offset + row % e.item_rows;
}

// This thread's eight columns of a tile and its first row: the columns are the same in every row that it finishes.
template <int ROWS, int COLUMNS, int THREADS>
struct ThreadMap {
    u32 share, from, step, column, first;
    __device__ ThreadMap() {
        static_assert(THREADS % (COLUMNS / 8) == 0, "a thread keeps its columns");
        constexpr u32 width = GATED ? 16 : 8, chunks = COLUMNS / width;
        from = ROWS * blockIdx.z / SPLIT, share = ROWS * (blockIdx.z + 1) / SPLIT - from, step = THREADS / chunks;
        column = threadIdx.x % chunks * width, first = threadIdx.x / chunks;
    }
};

// The biases of eight columns. They are weights: read before the kernel waits for its input. So are their
// scales, which come at least as far as the second-level cache: few kernels have registers left for them.
__device__ __forceinline__ void read_bias(const Epilogue& e, u32 column, u32 n, float (&bias)[8]) {
    if (SCALED && column < n) asm volatile("prefetch.global.L2 [%0];" ::"l"(e.weight_scales + column));
#pragma unroll
    for (int i = 0; i < 8; ++i) bias[i] = e.bias != nullptr && column + i < n ? e.bias[column + i] : 0.0f;
}

// The thread's eight columns of the residual in the row `local` of its share, where there is one.
template <typename Map>
__device__ __forceinline__ Raw8 read_residual(const Epilogue& e, const Map& my, u32 local, u32 first_row, u32 first_column, u32 rows,
                                              u32 n) {
    const u32 row = first_row + my.from + local, column = first_column + my.column;
    if (!ADDS || local >= my.share || row >= rows || column >= n) return {};
    const u32 from = REPEATS ? row % e.residual_rows : row;
    return read8(e.residual, RESIDUAL_ELEMENT, size_t(from) * e.residual_ld + column);
}

// Residuals of the thread's first rows, read before it multiplies; those of later rows are read as many rows ahead.
template <typename Map, int AHEAD>
__device__ __forceinline__ void read_residuals(const Epilogue& e, const Map& my, u32 first_row, u32 first_column, u32 rows, u32 n,
                                               Raw8 (&residuals)[AHEAD]) {
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) residuals[i] = read_residual(e, my, my.first + i * my.step, first_row, first_column, rows, n);
}

// Sums of products of 8-bit operands become what they stand for.
__device__ __forceinline__ void rescale(const Epilogue& e, u32 row, u32 column, u32 n, float (&v)[8]) {
    if (!SCALED) return;
    const float scale = e.amaxes == nullptr ? e.x_scale : dequantization_scale(e.amaxes[row / e.rows_each]);
#pragma unroll
    for (int i = 0; i < 8; ++i)
        if (column + i < n) v[i] = __fmul_rn(v[i], __fmul_rn(scale, e.weight_scales[column + i]));
}

__device__ __forceinline__ void store_result8(const Epilogue& e, u32 row, u32 column, u32 n, float (&v)[8]) {
    store_operand8(e.out, OUT_ELEMENT, e.out_factor, out_row(e, row) * e.out_ld + column, v, WHOLE ? 8 : int(n - column));
}

// Eight neighbouring sums of one row; `residual` counts where there is one.
__device__ __forceinline__ void finish(const Epilogue& e, const float (&bias)[8], const Raw8& residual, u32 row, u32 column, u32 n,
                                       float (&v)[8]) {
    round8(PRODUCT_FORMAT, v);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] += bias[i];
    round8(LINEAR_FORMAT, v);
    tap8(e.tap_linear, row, n, column, v);
    if (ACTIVATION != IDENTITY) {
        activate8(ACTIVATION, ACTIVATION_FORMAT, v);
        round8(ACTIVATION_FORMAT, v);
        tap8(e.tap_activation, row, n, column, v);
    }
    if (ADDS) {
        float added[8];
        decode8(RESIDUAL_ELEMENT, residual, added);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] += added[i];
        round8(RESULT_FORMAT, v);
        tap8(e.tap_result, row, n, column, v);
    }
    store_result8(e, row, column, n, v);
}

// Eight sums of the gate and the eight that it multiplies; `column` and `n` count the columns of the result.
__device__ __forceinline__ void finish_gated(const Epilogue& e, u32 row, u32 column, u32 n, float (&gate)[8], float (&up)[8]) {
    round8(LINEAR_FORMAT, gate), round8(UP_FORMAT, up);
    tap8(e.tap_linear, row, n, column, gate);
    tap8(e.tap_up, row, n, column, up);
    activate8(ACTIVATION, ACTIVATION_FORMAT, gate);
    round8(ACTIVATION_FORMAT, gate);
    tap8(e.tap_activation, row, n, column, gate);
#pragma unroll
    for (int i = 0; i < 8; ++i) gate[i] *= up[i];
    round8(RESULT_FORMAT, gate);
    tap8(e.tap_result, row, n, column, gate);
    store_result8(e, row, column, n, gate);
}

__device__ __forceinline__ void load_tile8(const float* at, float (&v)[8]) {
    const float4 low = *reinterpret_cast<const float4*>(at), high = *reinterpret_cast<const float4*>(at + 4);
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w, v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}

// Eight floats at `at`, summed over the blocks of the cluster in the order of their rank.
__device__ __forceinline__ void gather8(const float* at, float (&v)[8]) {
    if (SPLIT == 1) return load_tile8(at, v);
    float4 parts[SPLIT][2];
#pragma unroll
    for (int rank = 0; rank < SPLIT; ++rank)
        parts[rank][0] = load_from_cluster(shared_address(at), rank), parts[rank][1] = load_from_cluster(shared_address(at + 4), rank);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = 0.0f;
#pragma unroll
    for (int rank = 0; rank < SPLIT; ++rank) {
        v[0] += parts[rank][0].x, v[1] += parts[rank][0].y, v[2] += parts[rank][0].z, v[3] += parts[rank][0].w;
        v[4] += parts[rank][1].x, v[5] += parts[rank][1].y, v[6] += parts[rank][1].z, v[7] += parts[rank][1].w;
    }
}

// Finishes a tile [ROWS, COLUMNS] of partial sums in shared memory, row stride LD. The blocks of a cluster hold
// partial sums of the same tile and finish a share of its rows each.
template <int ROWS, int COLUMNS, int LD, int THREADS, int AHEAD>
__device__ __forceinline__ void finish_tile(const Epilogue& e, const ThreadMap<ROWS, COLUMNS, THREADS>& my, const float (&bias)[8],
                                            Raw8 (&residuals)[AHEAD], const float* tile, u32 first_row, u32 first_column, u32 rows, u32 n) {
    const u32 column = first_column + my.column;
    auto place = [&](u32 local) { return tile + (my.from + local) * LD + my.column; };
    auto row_of = [&](u32 local) { return first_row + my.from + local; };
    auto works = [&](u32 local) { return local < my.share && row_of(local) < rows && column < n; };
    if (SPLIT > 1) arrive_at_cluster_barrier(), wait_at_cluster_barrier();
    bool reads = true;
#pragma unroll 1
    for (u32 local = my.first; works(local); local += my.step) {
        float v[8], up[8];
        gather8(place(local), v);
        if (GATED) gather8(place(local) + 8, up);
        reads = works(local + my.step);
        // The other blocks may leave once nothing of theirs is read any more: they are told before the last row is
        // finished, which takes about as long as they take to hear of it.
        if (SPLIT > 1 && !reads) arrive_alone_at_cluster_barrier();
        rescale(e, row_of(local), column, n, v);
        if constexpr (GATED) {
            rescale(e, row_of(local), column + 8, n, up);
            finish_gated(e, row_of(local), column / 2, n / 2, v, up);
        } else {
            const Raw8 later = read_residual(e, my, local + AHEAD * my.step, first_row, first_column, rows, n);
            finish(e, bias, residuals[0], row_of(local), column, n, v);
#pragma unroll
            for (int i = 0; i + 1 < AHEAD; ++i) residuals[i] = residuals[i + 1];
            residuals[AHEAD - 1] = later;
        }
    }
    if (SPLIT > 1 && reads) arrive_alone_at_cluster_barrier();
    if (SPLIT > 1) wait_at_cluster_barrier();
}
