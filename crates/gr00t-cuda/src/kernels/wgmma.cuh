// What GEMMs by wgmma share: a ring of stages that TMA fills, and the products of a warpgroup, 64 rows of weights with all
// tokens of a tile.
//
// Compiled for: ELEMENT (BF16, FP16, E4M3), FEATURES (multiples of 64), TOKENS (multiples of 8 from 64 to 256), STAGES.
#pragma once

#include "epilogue.cuh"

constexpr int ROW_BYTES = 128, DEPTH = ELEMENT == E4M3 ? ROW_BYTES : ROW_BYTES / 2;  // of the inner dimension in a stage
constexpr int GROUPS = FEATURES / 64, SUMS = TOKENS / 2;
// Columns of one product. The compiler gives one that names more sums than this no registers in a block of 512 threads.
#if FEATURES == 192 && TOKENS > 192
#define WIDTH (TOKENS / 2)
#else
#define WIDTH TOKENS
#endif
static_assert(WIDTH % 8 == 0, "products have columns in eights");
constexpr int W_BYTES = FEATURES * ROW_BYTES, X_BYTES = TOKENS * ROW_BYTES, STAGE_BYTES = W_BYTES + X_BYTES;

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

// d += a bᵀ for 64 rows of a and WIDTH of b, 32 bytes deep. The instruction names every sum, half as many as columns, then a
// and b: the preprocessor writes the names and the registers, ten at a time.
#define NAMES_0(T)
#define NAMES_2(T) ", %" #T "0, %" #T "1"
#define NAMES_4(T) NAMES_2(T) ", %" #T "2, %" #T "3"
#define NAMES_6(T) NAMES_4(T) ", %" #T "4, %" #T "5"
#define NAMES_8(T) NAMES_6(T) ", %" #T "6, %" #T "7"
#define NAMES_10(T) NAMES_8(T) ", %" #T "8, %" #T "9"
#define NAMES_TO_2 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9" NAMES_10(1)
#define NAMES_TO_3 NAMES_TO_2 NAMES_10(2)
#define NAMES_TO_4 NAMES_TO_3 NAMES_10(3)
#define NAMES_TO_5 NAMES_TO_4 NAMES_10(4)
#define NAMES_TO_6 NAMES_TO_5 NAMES_10(5)
#define NAMES_TO_7 NAMES_TO_6 NAMES_10(6)
#define NAMES_TO_8 NAMES_TO_7 NAMES_10(7)
#define NAMES_TO_9 NAMES_TO_8 NAMES_10(8)
#define NAMES_TO_10 NAMES_TO_9 NAMES_10(9)
#define NAMES_TO_11 NAMES_TO_10 NAMES_10(10)
#define NAMES_TO_12 NAMES_TO_11 NAMES_10(11)
#define SUMS_0(I)
#define SUMS_2(I) , "+f"(d[FROM + I]), "+f"(d[FROM + I + 1])
#define SUMS_4(I) SUMS_2(I) SUMS_2(I + 2)
#define SUMS_6(I) SUMS_4(I) SUMS_2(I + 4)
#define SUMS_8(I) SUMS_4(I) SUMS_4(I + 4)
#define SUMS_10(I) SUMS_8(I) SUMS_2(I + 8)
#define SUMS_TO_2 "+f"(d[FROM]), "+f"(d[FROM + 1]) SUMS_8(2) SUMS_10(10)
#define SUMS_TO_3 SUMS_TO_2 SUMS_10(20)
#define SUMS_TO_4 SUMS_TO_3 SUMS_10(30)
#define SUMS_TO_5 SUMS_TO_4 SUMS_10(40)
#define SUMS_TO_6 SUMS_TO_5 SUMS_10(50)
#define SUMS_TO_7 SUMS_TO_6 SUMS_10(60)
#define SUMS_TO_8 SUMS_TO_7 SUMS_10(70)
#define SUMS_TO_9 SUMS_TO_8 SUMS_10(80)
#define SUMS_TO_10 SUMS_TO_9 SUMS_10(90)
#define SUMS_TO_11 SUMS_TO_10 SUMS_10(100)
#define SUMS_TO_12 SUMS_TO_11 SUMS_10(110)
#define A_AND_B_0(T) ", %" #T "0, %" #T "1, "
#define A_AND_B_2(T) ", %" #T "2, %" #T "3, "
#define A_AND_B_4(T) ", %" #T "4, %" #T "5, "
#define A_AND_B_6(T) ", %" #T "6, %" #T "7, "
#define A_AND_B_8(T) ", %" #T "8, %" #T "9, "
#if WIDTH / 20 == 2
#define TENS 2
#elif WIDTH / 20 == 3
#define TENS 3
#elif WIDTH / 20 == 4
#define TENS 4
#elif WIDTH / 20 == 5
#define TENS 5
#elif WIDTH / 20 == 6
#define TENS 6
#elif WIDTH / 20 == 7
#define TENS 7
#elif WIDTH / 20 == 8
#define TENS 8
#elif WIDTH / 20 == 9
#define TENS 9
#elif WIDTH / 20 == 10
#define TENS 10
#elif WIDTH / 20 == 11
#define TENS 11
#elif WIDTH / 20 == 12
#define TENS 12
#endif
#if WIDTH / 2 % 10 == 0
#define ONES 0
#elif WIDTH / 2 % 10 == 2
#define ONES 2
#elif WIDTH / 2 % 10 == 4
#define ONES 4
#elif WIDTH / 2 % 10 == 6
#define ONES 6
#elif WIDTH / 2 % 10 == 8
#define ONES 8
#endif
#define JOINED(A, B) A##B
#define CALLED(A, B) JOINED(A, B)
#define TEXT(A) #A
#define APPLIED(LIST, T) LIST(T)
#define SHAPE(N) "m64n" TEXT(N)
// The preprocessor divides before it pastes the text.
#if WIDTH == TOKENS
#define PRODUCT_SHAPE SHAPE(TOKENS)
#elif TOKENS == 208
#define PRODUCT_SHAPE SHAPE(104)
#endif

// Of the sums those from FROM on.
template <int FROM>
__device__ __forceinline__ void multiply_add(float (&d)[SUMS], u64 a, u64 b) {
    asm volatile(PRODUCT(PRODUCT_SHAPE) "{" CALLED(NAMES_TO_, TENS) APPLIED(CALLED(NAMES_, ONES), TENS) "}"
                 APPLIED(CALLED(A_AND_B_, ONES), TENS) FLAGS
                 : CALLED(SUMS_TO_, TENS) APPLIED(CALLED(SUMS_, ONES), TENS * 10)
                 : "l"(a), "l"(b));
}

// The products of one stage, added to d once they are waited for.
__device__ __forceinline__ void multiply_stage(float (&d)[SUMS], u64 w, u64 x) {
    fence_sums();
#pragma unroll
    for (int k = 0; k < ROW_BYTES / 32; ++k) {
        multiply_add<0>(d, w + k * 2, x + k * 2);
        if constexpr (WIDTH < TOKENS) multiply_add<WIDTH / 2>(d, w + k * 2, x + WIDTH * ROW_BYTES / 16 + k * 2);
    }
    commit_wgmma();
}

struct Stages {
    u32 base, full, empty;
    __device__ u32 at(u32 i) const { return base + i % STAGES * STAGE_BYTES; }
    __device__ u32 filled(u32 i) const { return full + i % STAGES * 8; }
    __device__ u32 emptied(u32 i) const { return empty + i % STAGES * 8; }
    __device__ static u32 parity(u32 i) { return i / STAGES & 1; }
};
