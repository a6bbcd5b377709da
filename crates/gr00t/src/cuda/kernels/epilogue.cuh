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
    const float* units;    // [n]: what the weights' units stand for; null where operands have more than 8 bits
    const float* amaxes;   // largest magnitude of x, one for `rows_each` rows; null where `unit` is known
    u32 rows_each;
    float unit;            // what a unit of x stands for
    float out_factor;      // brings the result into the range of an 8-bit element type
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
    // The usual case without the division.
    if (row < e.item_rows) return e.item_offset + row;
    return size_t(row / e.item_rows) * e.item_stride + e.item_offset + row % e.item_rows;
}

// This thread's eight columns of a tile and its first row: the columns are the same in every row that it finishes.
template <int ROWS, int COLUMNS, int THREADS>
struct Place {
    u32 share, from, step, column, first;
    __device__ explicit Place(const Epilogue& e) {
        static_assert(THREADS % (COLUMNS / 8) == 0, "a thread keeps its columns");
        const u32 width = e.gated ? 16 : 8, chunks = COLUMNS / width;
        from = ROWS * blockIdx.z / gridDim.z, share = ROWS * (blockIdx.z + 1) / gridDim.z - from, step = THREADS / chunks;
        column = threadIdx.x % chunks * width, first = threadIdx.x / chunks;
    }
};

// The biases of eight columns. They are weights: read before the kernel waits for its input. So are what their units stand
// for, which come at least as far as the second-level cache: few kernels have registers left for them.
__device__ __forceinline__ void read_bias(const Epilogue& e, u32 column, u32 n, float (&bias)[8]) {
    if (EIGHT_BITS && e.units != nullptr && column < n) asm volatile("prefetch.global.L2 [%0];" ::"l"(e.units + column));
#pragma unroll
    for (int i = 0; i < 8; ++i) bias[i] = e.bias != nullptr && column + i < n ? e.bias[column + i] : 0.0f;
}

// The thread's eight columns of the residual in the row `local` of its share, where there is one.
template <typename Place>
__device__ __forceinline__ Raw8 read_residual(const Epilogue& e, const Place& my, u32 local, u32 first_row, u32 first_column,
                                              u32 rows, u32 n) {
    const u32 row = first_row + my.from + local, column = first_column + my.column;
    if (e.residual == nullptr || local >= my.share || row >= rows || column >= n) return {};
    const u32 from = row < e.residual_rows ? row : row % e.residual_rows;
    return read8(e.residual, e.residual_element, size_t(from) * e.residual_ld + column);
}

// Residuals of the thread's first rows, read before it multiplies; those of later rows are read as many rows ahead.
template <typename Place, int AHEAD>
__device__ __forceinline__ void read_residuals(const Epilogue& e, const Place& my, u32 first_row, u32 first_column, u32 rows,
                                               u32 n, Raw8 (&residuals)[AHEAD]) {
#pragma unroll
    for (int i = 0; i < AHEAD; ++i)
        residuals[i] = read_residual(e, my, my.first + i * my.step, first_row, first_column, rows, n);
}

// Sums of products of 8-bit operands become what they stand for.
__device__ __forceinline__ void rescale(const Epilogue& e, u32 row, u32 column, u32 n, float (&v)[8]) {
    if (!EIGHT_BITS || e.units == nullptr) return;
    const float unit = e.amaxes == nullptr ? e.unit : unit_of(e.amaxes[row / e.rows_each]);
#pragma unroll
    for (int i = 0; i < 8; ++i)
        if (column + i < n) v[i] = __fmul_rn(v[i], __fmul_rn(unit, e.units[column + i]));
}

// Eight neighbouring sums of one row; `residual` counts where there is one.
__device__ __forceinline__ void finish(const Epilogue& e, const float (&bias)[8], const Raw8& residual, u32 row, u32 column, u32 n,
                                       float (&v)[8]) {
    round8(e.product_format, v);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] += bias[i];
    round8(e.linear_format, v);
    tap8(e.tap_linear, row, n, column, v);
    if (e.activation != IDENTITY) {
        activate8(e.activation, e.activation_format, v);
        round8(e.activation_format, v);
        tap8(e.tap_activation, row, n, column, v);
    }
    if (e.residual != nullptr) {
        float added[8];
        decode8(e.residual_element, residual, added);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] += added[i];
        round8(e.result_format, v);
        tap8(e.tap_result, row, n, column, v);
    }
    store_operand8(e.out, e.out_element, e.out_factor, out_row(e, row) * e.out_ld + column, v, int(n - column));
}

// Eight sums of the gate and the eight that it multiplies; `column` and `n` count the columns of the result.
__device__ __forceinline__ void finish_gated(const Epilogue& e, u32 row, u32 column, u32 n, float (&gate)[8],
                                             float (&up)[8]) {
    round8(e.linear_format, gate), round8(e.up_format, up);
    tap8(e.tap_linear, row, n, column, gate);
    tap8(e.tap_up, row, n, column, up);
    activate8(e.activation, e.activation_format, gate);
    round8(e.activation_format, gate);
    tap8(e.tap_activation, row, n, column, gate);
#pragma unroll
    for (int i = 0; i < 8; ++i) gate[i] *= up[i];
    round8(e.result_format, gate);
    tap8(e.tap_result, row, n, column, gate);
    store_operand8(e.out, e.out_element, e.out_factor, out_row(e, row) * e.out_ld + column, gate, int(n - column));
}

__device__ __forceinline__ void load_tile8(const float* at, float (&v)[8]) {
    const float4 low = *reinterpret_cast<const float4*>(at), high = *reinterpret_cast<const float4*>(at + 4);
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w, v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}

// The sum of four floats at `at` over all blocks of the cluster, in the order of their rank.
template <int RANKS>
__device__ __forceinline__ float4 gather4(const float* at) {
    float4 parts[RANKS];
#pragma unroll
    for (int rank = 0; rank < RANKS; ++rank) parts[rank] = load_from_cluster(shared_address(at), rank);
    float4 sum = parts[0];
#pragma unroll
    for (int rank = 1; rank < RANKS; ++rank)
        sum.x += parts[rank].x, sum.y += parts[rank].y, sum.z += parts[rank].z, sum.w += parts[rank].w;
    return sum;
}

// Adds up this block's share of the rows over the cluster, in its own tile, where no other block reads them.
template <int COLUMNS, int LD, int THREADS>
__device__ __forceinline__ void add_up(float* share, u32 rows) {
    arrive_at_cluster_barrier();
    wait_at_cluster_barrier();
    for (u32 index = threadIdx.x; index < rows * (COLUMNS / 4); index += THREADS) {
        float* at = share + index / (COLUMNS / 4) * LD + index % (COLUMNS / 4) * 4;
        float4 sum;
        switch (gridDim.z) {
            case 2: sum = gather4<2>(at); break;
            case 3: sum = gather4<3>(at); break;
            case 4: sum = gather4<4>(at); break;
            default: sum = gather4<8>(at);
        }
        *reinterpret_cast<float4*>(at) = sum;
    }
    __syncthreads();
    arrive_at_cluster_barrier();
}

// Finishes a tile [ROWS, COLUMNS] of partial sums in shared memory, row stride LD. The blocks of a cluster hold
// partial sums of the same tile and finish a share of its rows each.
template <int ROWS, int COLUMNS, int LD, int THREADS, int AHEAD>
__device__ __forceinline__ void finish_tile(const Epilogue& e, const Place<ROWS, COLUMNS, THREADS>& my, const float (&bias)[8],
                                            Raw8 (&residuals)[AHEAD], float* tile, u32 first_row, u32 first_column, u32 rows,
                                            u32 n) {
    const u32 column = first_column + my.column;
    auto place = [&](u32 local) { return tile + (my.from + local) * LD + my.column; };
    auto row_of = [&](u32 local) { return first_row + my.from + local; };
    if (gridDim.z > 1) add_up<COLUMNS, LD, THREADS>(tile + my.from * LD, my.share);
#pragma unroll 1
    for (u32 local = my.first; local < my.share && row_of(local) < rows && column < n; local += my.step) {
        float v[8];
        load_tile8(place(local), v);
        rescale(e, row_of(local), column, n, v);
        if (e.gated) {
            float up[8];
            load_tile8(place(local) + 8, up);
            rescale(e, row_of(local), column + 8, n, up);
            finish_gated(e, row_of(local), column / 2, n / 2, v, up);
            continue;
        }
        const Raw8 later = read_residual(e, my, local + AHEAD * my.step, first_row, first_column, rows, n);
        finish(e, bias, residuals[0], row_of(local), column, n, v);
#pragma unroll
        for (int i = 0; i + 1 < AHEAD; ++i) residuals[i] = residuals[i + 1];
        residuals[AHEAD - 1] = later;
    }
    // A block's shared memory must outlive the last look of the others.
    if (gridDim.z > 1) wait_at_cluster_barrier();
}
