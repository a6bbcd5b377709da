// Number formats, and values in memory.
//
// A format (what a value is rounded to) and an element type (what it is stored in) share their codes. E4M3 is an element
// type of GEMM operands on tensor cores alone.
//
// Precision is a value of the policy, never a choice made here: a kernel is compiled for the formats that its argument
// holds (`Argument::fixed` in `kernels.rs`). Decided at every value instead, they took most of an epilogue's time, and every
// GEMM carried the code of all formats and activations with it: so much of it that two kinds of GEMMs in one block
// of the DiT took longer than one, which they no longer do; presumably they displaced each other from the instruction cache.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Every file is compiled with EIGHT_BITS: whether a kernel multiplies or stores elements of 8 bits.

// As `Element` in `elements.rs`.
enum Element { F32 = 0, BF16 = 1, FP16 = 2, E4M3 = 3 };

__device__ __forceinline__ u16 to_bf16(float value) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ float from_bf16(u16 bits) { return __uint_as_float(u32(bits) << 16); }

__device__ __forceinline__ u16 to_fp16(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ float from_fp16(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

// Two values as e4m3, the first in the low byte; what lies beyond 448 becomes 448. From compute capability 8.9 on: the
// engine asks for it nowhere else.
__device__ __forceinline__ u16 to_e4m3x2(float low, float high) {
    u16 bits = 0;
#if __CUDA_ARCH__ >= 890
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(bits) : "f"(high), "f"(low));
#endif
    return bits;
}

constexpr float E4M3_MAX = 448.0f;

// Quantization scale of an e4m3 operand: 448 / amax, and its dequantization scale: amax / 448; both 1 if amax is 0.
__device__ __forceinline__ float quantization_scale(float amax) { return amax > 0.0f ? __fdiv_rn(E4M3_MAX, amax) : 1.0f; }
__device__ __forceinline__ float dequantization_scale(float amax) { return amax > 0.0f ? __fdiv_rn(amax, E4M3_MAX) : 1.0f; }

// The nearest value of a format, ties to even.
__device__ __forceinline__ float round_to(int format, float value) {
    if (format == BF16) return from_bf16(to_bf16(value));
    if (format == FP16) return from_fp16(to_fp16(value));
    return value;
}

template <typename F>
__device__ __forceinline__ void each8(float (&values)[8], F f) {
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = f(values[i]);
}

// Two values as bf16, the first in the low half: one instruction for both.
__device__ __forceinline__ u32 to_bf16x2(float low, float high) {
    u32 bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

// The format is the same for all: one of the loops runs, without a branch in it.
__device__ __forceinline__ void round8(int format, float (&values)[8]) {
    if (format == BF16) {
#pragma unroll
        for (int i = 0; i < 8; i += 2) {
            const u32 bits = to_bf16x2(values[i], values[i + 1]);
            values[i] = __uint_as_float(bits << 16), values[i + 1] = __uint_as_float(bits & 0xffff0000u);
        }
    }
    if (format == FP16) each8(values, [](float x) { return from_fp16(to_fp16(x)); });
}

__device__ __forceinline__ u16 encode16(int element, float value) { return element == BF16 ? to_bf16(value) : to_fp16(value); }

__device__ __forceinline__ float decode16(int element, u16 bits) { return element == BF16 ? from_bf16(bits) : from_fp16(bits); }

__device__ __forceinline__ float load(const void* base, int element, size_t index) {
    if (element == F32) return static_cast<const float*>(base)[index];
    return decode16(element, static_cast<const u16*>(base)[index]);
}

__device__ __forceinline__ void store(void* base, int element, size_t index, float value) {
    if (element == F32) {
        static_cast<float*>(base)[index] = value;
    } else if (EIGHT_BITS && element == E4M3) {
        static_cast<u8*>(base)[index] = u8(to_e4m3x2(value, 0.0f));
    } else {
        static_cast<u16*>(base)[index] = encode16(element, value);
    }
}

// Eight values as they lie in memory: reading them waits for nothing, decoding them does.
struct Raw8 {
    u32 words[8];  // of 16-bit values the first half
};

// Eight values from `index` on, which must be a multiple of eight.
__device__ __forceinline__ Raw8 read8(const void* base, int element, size_t index) {
    const uint4* from = reinterpret_cast<const uint4*>(static_cast<const u8*>(base) + index * (element == F32 ? 4 : 2));
    const uint4 low = from[0];
    uint4 high = make_uint4(0, 0, 0, 0);
    if (element == F32) high = from[1];
    return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}

__device__ __forceinline__ void decode8(int element, const Raw8& raw, float (&values)[8]) {
    const u32(&words)[8] = raw.words;
    if (element == F32) {
#pragma unroll
        for (int i = 0; i < 8; ++i) values[i] = __uint_as_float(words[i]);
    } else if (element == BF16) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            values[2 * i] = __uint_as_float(words[i] << 16), values[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) values[2 * i] = from_fp16(u16(words[i])), values[2 * i + 1] = from_fp16(u16(words[i] >> 16));
    }
}

__device__ __forceinline__ void load8(const void* base, int element, size_t index, float (&values)[8]) {
    decode8(element, read8(base, element, index), values);
}

// The first `count` of eight values from `index` on, which must be a multiple of eight.
__device__ __forceinline__ void store8(void* base, int element, size_t index, const float (&values)[8], int count) {
    if (count < 8) {
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (i < count) store(base, element, index + i, values[i]);
        return;
    }
    if (element == F32) {
        float4* to = reinterpret_cast<float4*>(static_cast<float*>(base) + index);
        to[0] = make_float4(values[0], values[1], values[2], values[3]);
        to[1] = make_float4(values[4], values[5], values[6], values[7]);
        return;
    }
    if (EIGHT_BITS && element == E4M3) {
        u32 halves[2];
#pragma unroll
        for (int i = 0; i < 2; ++i)
            halves[i] = u32(to_e4m3x2(values[4 * i], values[4 * i + 1])) | u32(to_e4m3x2(values[4 * i + 2], values[4 * i + 3])) << 16;
        *reinterpret_cast<uint2*>(static_cast<u8*>(base) + index) = make_uint2(halves[0], halves[1]);
        return;
    }
    u32 words[4];
    if (element == BF16) {
#pragma unroll
        for (int i = 0; i < 4; ++i) words[i] = to_bf16x2(values[2 * i], values[2 * i + 1]);
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) words[i] = u32(to_fp16(values[2 * i])) | u32(to_fp16(values[2 * i + 1])) << 16;
    }
    *reinterpret_cast<uint4*>(static_cast<u16*>(base) + index) = make_uint4(words[0], words[1], words[2], words[3]);
}

// The same for what may be an operand of 8 bits: `factor` brings it into the range of e4m3.
__device__ __forceinline__ void store_operand8(void* base, int element, float factor, size_t index, float (&values)[8], int count) {
    if (EIGHT_BITS && element == E4M3) each8(values, [&](float x) { return x * factor; });
    store8(base, element, index, values, count);
}

// Tensors that a probe asked for: always f32, rows without padding. Null where nobody asked.
__device__ __forceinline__ void tap8(float* tap, size_t row, int features, int column, const float (&values)[8]) {
    if (tap == nullptr) return;
#pragma unroll
    for (int i = 0; i < 8; ++i)
        if (column + i < features) tap[row * features + column + i] = values[i];
}

// 1 / (1 + e^-x) within two units in the last place. A division branches where its operands are unusual, which keeps the
// compiler from computing several values at a time; what is divided by here is at least 1.
__device__ __forceinline__ float sigmoid(float x) {
    const float divisor = 1.0f + expf(-x);
    float estimate;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(estimate) : "f"(divisor));
    const float result = __fmaf_rn(estimate, __fmaf_rn(-divisor, estimate, 1.0f), estimate);
    // Its reciprocal would be no normal number, that of infinity not even a number.
    return divisor > 0x1p126f ? 0.0f : result;
}

// The same by the special function unit alone, within some 1e-6 of it: where 16 bits are kept of what it is multiplied
// into. What is too large for the unit's reciprocal becomes 0, as it should.
__device__ __forceinline__ float rough_sigmoid(float x) {
    float power, result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.4426950408889634f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(1.0f + power));
    return result;
}

// As `Activation` in `ops/mod.rs`, with none.
enum Activation { IDENTITY = 0, GELU = 1, GELU_TANH = 2, SILU = 3, SWISH = 4, RELU = 5 };

// `format` is what the result is rounded to, and where SWISH keeps its sigmoid. The kind is the same for all: one of the
// loops runs.
__device__ __forceinline__ void activate8(int kind, int format, float (&values)[8]) {
    if (kind == GELU) each8(values, [](float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); });
    // 1 + tanh(y) is 2 sigmoid(2 y), which has no branch and loses no digits where tanh is close to -1.
    const bool rough = format == BF16 || format == FP16;
    if (kind == GELU_TANH && rough) {
        each8(values, [](float x) { return x * rough_sigmoid(x * __fmaf_rn(1.5957691216f * 0.044715f, x * x, 1.5957691216f)); });
    } else if (kind == GELU_TANH) {
        each8(values, [](float x) { return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x)); });
    }
    if (kind == SILU) each8(values, [&](float x) { return x * (rough ? rough_sigmoid(x) : sigmoid(x)); });
    if (kind == SWISH) each8(values, [&](float x) { return x * round_to(format, sigmoid(x)); });
    // What is not a number stays so.
    if (kind == RELU) each8(values, [](float x) { return x <= 0.0f ? 0.0f : x; });
}

__device__ __forceinline__ float infinity() { return __uint_as_float(0x7f800000u); }

// The largest value of a warp's lanes, the same in every lane.
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, lanes));
    return value;
}

// The largest value of a block's threads, the same in every thread. Once in a kernel: its memory is not free again.
template <int WARPS>
__device__ __forceinline__ float block_max(float value) {
    __shared__ float largest[WARPS];
    value = warp_max(value);
    if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = value;
    __syncthreads();
    float result = largest[0];
#pragma unroll
    for (int warp = 1; warp < WARPS; ++warp) result = fmaxf(result, largest[warp]);
    return result;
}

// Sum over the lanes of a warp, the same in every lane.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
    return value;
}
