// Camera frames to the vision tower's pixels: a step of the way of each image, byte for byte what the CPU's processor makes
// (crates/gr00t/src/processor/plan.rs has the arithmetic, and its test follows it in Rust). A thread makes one pixel.
// Grid: pixels, images.
//
// Compiled for: FILTER; TO_PIXELS, whether the result is f32 in [-1, 1], channel by channel, instead of bytes.
#include "machine.cuh"
#include "params.cuh"

constexpr int THREADS = 256;
constexpr u32 CHANNELS = 3;

// As `code` in `images.rs`.
enum Filter { SEPARABLE = 0, AREA = 1, BLOCK_MEANS = 2, LINEAR = 3 };

// Pixels under the windows of a result's pixel.
struct Source {
    const ResampleImage& image;
    const u8* bytes;
    u32 first_column, first_row;

    __device__ __forceinline__ u32 row(u32 tap) const { return min(first_row + tap, image.last_row) + image.top; }
    __device__ __forceinline__ u32 column(u32 tap) const { return min(first_column + tap, image.last_column) + image.left; }
    // Black around the image: what lies before it is a large number.
    __device__ __forceinline__ void pixel(u32 tap_x, u32 tap_y, int (&out)[CHANNELS]) const {
        const u32 x = column(tap_x), y = row(tap_y);
        const bool inside = x < image.source_width && y < image.source_height;
        const u8* from = bytes + (size_t(y) * image.source_width + x) * CHANNELS;
#pragma unroll
        for (u32 c = 0; c < CHANNELS; ++c) out[c] = inside ? from[c] : 0;
    }
};

__device__ __forceinline__ int to_byte(int sum) { return min(max(sum, 0), 255); }

// Nearest, ties to even.
__device__ __forceinline__ int nearest_byte(float value) { return to_byte(__float2int_rn(value)); }

__device__ __forceinline__ void separable(const Source& source, const int* along_x, const int* along_y, int (&out)[CHANNELS]) {
    const ResampleImage& image = source.image;
    int sum[CHANNELS], pixel[CHANNELS];
#pragma unroll
    for (u32 c = 0; c < CHANNELS; ++c) sum[c] = 1 << (image.precision_y - 1);
    for (u32 j = 0; j < image.taps_y; ++j) {
        const int weight_y = along_y[j];
        if (weight_y == 0) continue;
        int row[CHANNELS];
#pragma unroll
        for (u32 c = 0; c < CHANNELS; ++c) row[c] = 1 << (image.precision_x - 1);
        for (u32 i = 0; i < image.taps_x; ++i) {
            source.pixel(i, j, pixel);
#pragma unroll
            for (u32 c = 0; c < CHANNELS; ++c) row[c] += pixel[c] * along_x[i];
        }
#pragma unroll
        for (u32 c = 0; c < CHANNELS; ++c) sum[c] += to_byte(row[c] >> image.precision_x) * weight_y;
    }
#pragma unroll
    for (u32 c = 0; c < CHANNELS; ++c) out[c] = to_byte(sum[c] >> image.precision_y);
}

__device__ __forceinline__ void area(const Source& source, const int* along_x, const int* along_y, int (&out)[CHANNELS]) {
    const ResampleImage& image = source.image;
    float sum[CHANNELS] = {};
    int pixel[CHANNELS];
    for (u32 j = 0; j < image.taps_y; ++j) {
        float row[CHANNELS] = {};
        for (u32 i = 0; i < image.taps_x; ++i) {
            source.pixel(i, j, pixel);
            const float weight = __int_as_float(along_x[i]);
            // Rounded products: no fused multiply-add.
#pragma unroll
            for (u32 c = 0; c < CHANNELS; ++c) row[c] = __fadd_rn(row[c], __fmul_rn(float(pixel[c]), weight));
        }
        const float weight = __int_as_float(along_y[j]);
#pragma unroll
        for (u32 c = 0; c < CHANNELS; ++c) sum[c] = __fadd_rn(sum[c], __fmul_rn(weight, row[c]));
    }
#pragma unroll
    for (u32 c = 0; c < CHANNELS; ++c) out[c] = nearest_byte(sum[c]);
}

__device__ __forceinline__ void block_means(const Source& source, int (&out)[CHANNELS]) {
    const ResampleImage& image = source.image;
    int sum[CHANNELS] = {}, pixel[CHANNELS];
    for (u32 j = 0; j < image.taps_y; ++j)
        for (u32 i = 0; i < image.taps_x; ++i) {
            source.pixel(i, j, pixel);
#pragma unroll
            for (u32 c = 0; c < CHANNELS; ++c) sum[c] += pixel[c];
        }
    const float scale = __fdiv_rn(1.0f, float(image.taps_x * image.taps_y));
#pragma unroll
    for (u32 c = 0; c < CHANNELS; ++c)
        out[c] = image.taps_x == 2 && image.taps_y == 2 ? (sum[c] + 2) >> 2 : nearest_byte(__fmul_rn(float(sum[c]), scale));
}

__device__ __forceinline__ void linear(const Source& source, const int* along_x, const int* along_y, int (&out)[CHANNELS]) {
    int sum[CHANNELS] = {2, 2, 2}, left[CHANNELS], right[CHANNELS];
#pragma unroll
    for (u32 j = 0; j < 2; ++j) {
        source.pixel(0, j, left);
        source.pixel(1, j, right);
#pragma unroll
        for (u32 c = 0; c < CHANNELS; ++c) sum[c] += along_y[j] * ((left[c] * along_x[0] + right[c] * along_x[1]) >> 4) >> 16;
    }
#pragma unroll
    for (u32 c = 0; c < CHANNELS; ++c) out[c] = sum[c] >> 2;
}

extern "C" __global__ void __launch_bounds__(THREADS) resample(const __grid_constant__ ResampleParams p) {
    const ResampleImage image = p.images[blockIdx.y];
    const u32 index = blockIdx.x * THREADS + threadIdx.x;
    allow_next_kernel();
    wait_for_earlier_kernels();
    if (index >= image.width * image.height) return;
    const u32 x = index % image.width, y = index / image.width;
    const Source source = {image, image.source, image.firsts_x[x], image.firsts_y[y]};
    const int *along_x = image.weights_x + size_t(x) * image.taps_x, *along_y = image.weights_y + size_t(y) * image.taps_y;
    int out[CHANNELS];
    if (FILTER == SEPARABLE) separable(source, along_x, along_y, out);
    if (FILTER == AREA) area(source, along_x, along_y, out);
    if (FILTER == BLOCK_MEANS) block_means(source, out);
    if (FILTER == LINEAR) linear(source, along_x, along_y, out);
    const size_t pixels = size_t(image.width) * image.height;
#pragma unroll
    for (u32 c = 0; c < CHANNELS; ++c) {
        if (TO_PIXELS)
            ((float*)image.out)[c * pixels + index] = __fdiv_rn(__fsub_rn(float(out[c]), 127.5f), 127.5f);
        else
            ((u8*)image.out)[size_t(index) * CHANNELS + c] = u8(out[c]);
    }
}
