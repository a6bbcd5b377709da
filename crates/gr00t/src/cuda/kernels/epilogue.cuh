// What happens to a matrix product before it is stored: bias, activation, gate, residual, each rounded as the
// policy says for its site.
#pragma once

#include "machine.cuh"

// As `Epilogue` in `linear.rs`.
struct Epilogue {
    const float* bias;     // [n], null for none
    const void* residual;  // [residual_rows, residual_ld], null for none
    void* out;             // [.., out_ld]
    float* tap_linear;     // [rows, n]; with a gate the first half of the columns is its own tensor
    float* tap_activation;
    float* tap_up;
    float* tap_result;
    u32 residual_element;
    u32 residual_ld;
    u32 residual_rows;     // rows after which the residual repeats
    u32 out_element;
    u32 out_ld;
    u32 item_rows;         // row r goes to row (r / item_rows) * item_stride + item_offset + r % item_rows
    u32 item_stride;
    u32 item_offset;
    u32 activation;
    u32 gated;             // columns come as eight of the gate, then eight of what it multiplies
    u32 product_format;    // of the product before the bias
    u32 linear_format;
    u32 activation_format;
    u32 up_format;
    u32 result_format;     // of the sum with the residual, or of the gated product
};

__device__ __forceinline__ size_t out_row(const Epilogue& e, u32 row) {
    return size_t(row / e.item_rows) * e.item_stride + e.item_offset + row % e.item_rows;
}

__device__ __forceinline__ void add_bias(const Epilogue& e, u32 column, u32 n, u32 format, float (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const float bias = e.bias != nullptr && column + i < n ? e.bias[column + i] : 0.0f;
        v[i] = round_to(format, round_to(e.product_format, v[i]) + bias);
    }
}

// Eight neighbouring sums of one row.
__device__ __forceinline__ void finish(const Epilogue& e, u32 row, u32 column, u32 n, float (&v)[8]) {
    add_bias(e, column, n, e.linear_format, v);
    tap8(e.tap_linear, row, n, column, v);
    if (e.activation != IDENTITY) {
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = round_to(e.activation_format, activate(e.activation, e.activation_format, v[i]));
        tap8(e.tap_activation, row, n, column, v);
    }
    if (e.residual != nullptr) {
        float r[8];
        load8(e.residual, e.residual_element, size_t(row % e.residual_rows) * e.residual_ld + column, r);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = round_to(e.result_format, r[i] + v[i]);
        tap8(e.tap_result, row, n, column, v);
    }
    store8(e.out, e.out_element, out_row(e, row) * e.out_ld + column, v, int(n - column));
}

// Eight sums of the gate and the eight that it multiplies; `column` and `n` count the columns of the result.
__device__ __forceinline__ void finish_gated(const Epilogue& e, u32 row, u32 column, u32 n, float (&gate)[8],
                                             float (&up)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) gate[i] = round_to(e.linear_format, gate[i]), up[i] = round_to(e.up_format, up[i]);
    tap8(e.tap_linear, row, n, column, gate);
    tap8(e.tap_up, row, n, column, up);
#pragma unroll
    for (int i = 0; i < 8; ++i) gate[i] = round_to(e.activation_format, activate(e.activation, e.activation_format, gate[i]));
    tap8(e.tap_activation, row, n, column, gate);
#pragma unroll
    for (int i = 0; i < 8; ++i) gate[i] = round_to(e.result_format, gate[i] * up[i]);
    tap8(e.tap_result, row, n, column, gate);
    store8(e.out, e.out_element, out_row(e, row) * e.out_ld + column, gate, int(n - column));
}

__device__ __forceinline__ void add4(float* sums, const float4& term) {
    sums[0] += term.x, sums[1] += term.y, sums[2] += term.z, sums[3] += term.w;
}

// Eight sums at `row`, `column` of the tile, over all blocks of the cluster in the order of their rank.
template <int RANKS>
__device__ __forceinline__ void gather8(const float* at, float (&v)[8]) {
    float4 parts[RANKS][2];
    const u32 address = shared_address(at);
#pragma unroll
    for (int rank = 0; rank < RANKS; ++rank) {
        parts[rank][0] = load_from_cluster(address, rank);
        parts[rank][1] = load_from_cluster(address + 16, rank);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = 0.0f;
#pragma unroll
    for (int rank = 0; rank < RANKS; ++rank) add4(v, parts[rank][0]), add4(v + 4, parts[rank][1]);
}

__device__ __forceinline__ void gather8(const float* at, u32 ranks, float (&v)[8]) {
    if (ranks == 1) {
        const float4 low = *reinterpret_cast<const float4*>(at), high = *reinterpret_cast<const float4*>(at + 4);
        v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w, v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    } else if (ranks == 2) {
        gather8<2>(at, v);
    } else if (ranks == 4) {
        gather8<4>(at, v);
    } else {
        gather8<8>(at, v);
    }
}

// Finishes a tile [ROWS, COLUMNS] of partial sums in shared memory, row stride LD. The blocks of a cluster hold
// partial sums of the same tile and finish an equal share of its rows each.
template <int ROWS, int COLUMNS, int LD, int THREADS>
__device__ __forceinline__ void finish_tile(const Epilogue& e, const float* tile, u32 first_row, u32 first_column,
                                            u32 rows, u32 n) {
    const u32 ranks = gridDim.z, share = ROWS / ranks, from = blockIdx.z * share;
    if (ranks > 1) cluster_barrier();
    const u32 width = e.gated ? 16 : 8, chunks = COLUMNS / width;
    for (u32 index = threadIdx.x; index < share * chunks; index += THREADS) {
        const u32 row = from + index / chunks, column = index % chunks * width;
        const u32 to_row = first_row + row, to_column = first_column + column;
        if (to_row >= rows || to_column >= n) continue;
        float v[8];
        gather8(tile + row * LD + column, ranks, v);
        if (e.gated) {
            float up[8];
            gather8(tile + row * LD + column + 8, ranks, up);
            finish_gated(e, to_row, to_column / 2, n / 2, v, up);
        } else {
            finish(e, to_row, to_column, n, v);
        }
    }
    // A block's shared memory must outlive the last look of the others.
    if (ranks > 1) cluster_barrier();
}
