// The products of `dit_persistent.cu`, and the thread that fetches their weights.
#pragma once

#include "dit_exchange.cuh"

// --- Warpgroup products: 64 rows of x times rows of weights, both in rows of 128 bytes, swizzled. ---

// The lower half of what describes an operand; the upper one is the same for all.
__device__ __forceinline__ u32 operand(u32 address) { return ((address & 0x3ffff) >> 4) | (1 << 16); }
constexpr u32 OPERAND_HIGH = (1024 >> 4) | (1 << 30);

__device__ __forceinline__ void fence_sums() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// d += x wᵀ, 16 columns deep, so many columns wide.
template <int COLUMNS, int SUMS>
__device__ void multiply_add(float (&d)[SUMS], u32 a, u32 b);

template <>
__device__ __forceinline__ void multiply_add<24>(float (&d)[12], u32 a, u32 b) {
    asm volatile(
        "{\n\t.reg .b64 a, b;\n\t"
        "mov.b64 a, {%12, %14};\n\t"
        "mov.b64 b, {%13, %14};\n\t"
        "wgmma.mma_async.sync.aligned.m64n24k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11}, "
        "a, b, 1, 1, 1, 0, 0;\n\t}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
        : "r"(a), "r"(b), "n"(OPERAND_HIGH));
}

template <>
__device__ __forceinline__ void multiply_add<72>(float (&d)[48], u32 a, u32 b) {
    asm volatile(
        "{\n\t.reg .b64 a, b;\n\t"
        "mov.b64 a, {%36, %38};\n\t"
        "mov.b64 b, {%37, %38};\n\t"
        "wgmma.mma_async.sync.aligned.m64n72k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, "
        "%12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35}, "
        "a, b, 1, 1, 1, 0, 0;\n\t}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
        : "r"(a), "r"(b), "n"(OPERAND_HIGH));
}

template <>
__device__ __forceinline__ void multiply_add<96>(float (&d)[48], u32 a, u32 b) {
    asm volatile(
        "{\n\t.reg .b64 a, b;\n\t"
        "mov.b64 a, {%48, %50};\n\t"
        "mov.b64 b, {%49, %50};\n\t"
        "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, "
        "%12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "
        "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
        "a, b, 1, 1, 1, 0, 0;\n\t}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
        : "r"(a), "r"(b), "n"(OPERAND_HIGH));
}

template <int COLUMNS, int SUMS>
__device__ __forceinline__ void multiply_tile(float (&sums)[SUMS], u32 x, u32 w) {
    fence_sums();
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k) multiply_add<COLUMNS>(sums, x + k * 2, w + k * 2);
    commit_products();
}

// --- What a phase multiplies: its half or eighth of the columns of rows that others of the grid write. ---

struct Input {
    const TensorMap* map;
    u32 row, tile;          // of the map, the first ones
    const u8* buffer;       // the same rows
    u32 row_bytes;
    const u8* counts;       // by eighths of the grid, those that it needs
    u32 eighths;
    const u8* moments;      // of its rows, null where it is not normalized
    u32 norm;               // of `own` or of fc1
};

// Phases are `own`, `out`, fc1 and fc2.
__device__ __forceinline__ Input input_of(const DitParams& p, const Here& here, u32 block, u32 phase) {
    const bool odd = block % 2 == 1;
    const u8* now = p.exchange + (odd ? EXCHANGE_BYTES : 0);
    const u32 half = here.rank * (4 * COUNT_BYTES);
    Input input = {odd ? &p.odd_streams : &p.even_streams, 0, here.rank * TILES, now, HIDDEN * 2, now, 4, nullptr, 0};
    if (phase == 0) {
        const u8* before = p.exchange + (odd ? 0 : EXCHANGE_BYTES);
        input.map = odd ? &p.even_streams : &p.odd_streams, input.row = END / (HIDDEN * 2), input.buffer = before + END;
        input.counts = before + END_COUNTS + half, input.moments = before + END_MOMENTS;
    } else if (phase == 1) {
        input.row = ATTENTION / (HIDDEN * 2), input.buffer = now + ATTENTION, input.counts = now + ATTENTION_COUNTS + half;
    } else if (phase == 2) {
        input.row = MIDDLE / (HIDDEN * 2), input.buffer = now + MIDDLE;
        input.counts = now + MIDDLE_COUNTS + half, input.moments = now + MIDDLE_MOMENTS, input.norm = 1;
    } else {
        const u32 eighth = here.pair % 4 * 2 + here.rank;
        input.map = odd ? &p.odd_gelus : &p.even_gelus, input.tile = eighth * TILES, input.buffer = now + GELU_OUT, input.row_bytes = FF * 2;
        input.counts = now + GELU_COUNTS + eighth * COUNT_BYTES, input.eighths = 1;
    }
    return input;
}

__device__ __forceinline__ void fetch_box(const Here& here, const Input& input, u32 box) {
    expect_bytes(here.x_raw(box), BOX * X_BYTES);
    asm volatile("fence.proxy.async.global;" ::: "memory");
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
                     here.at(X_TILES) + box % PLACES * BOX * X_BYTES),
                 "l"(input.map), "r"(here.x_raw(box)), "r"(0), "r"(input.row), "r"(input.tile + box * BOX)
                 : "memory");
}

// --- The thread that fetches weights. ---

struct Stream {
    const Here& here;
    const u8* from;
    u32 index = 0;
    u64 policy;
    __device__ __forceinline__ void fetch(u32 bytes) {
        const u32 slot = index % W_SLOTS, round = index / W_SLOTS;
        if (round > 0) here.wait(here.w_empty(slot), (round - 1) & 1);
        // No more than so many under way.
        if (index >= IN_FLIGHT) {
            const u32 before = index - IN_FLIGHT;
            here.wait(here.w_full(before % W_SLOTS), (before / W_SLOTS) & 1);
        }
        expect_bytes(here.w_full(slot), bytes);
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
                         here.at(RING + slot * W_BYTES)),
                     "l"(from), "r"(bytes), "r"(here.w_full(slot)), "l"(policy)
                     : "memory");
        from += bytes;
        ++index;
    }
};

__device__ __forceinline__ void fetch_weights(const DitParams& p, const Here& here) {
    Stream stream = {here, p.weights + blockIdx.z * p.weights_each};
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(stream.policy));
    for (u32 block = 0; block < p.blocks; ++block) {
        const u32 own = block % 2 == 0 ? 0 : TILES, all = (block % 2 == 0 ? TILES / 4 : TILES) + TILES / 4 + 2 * TILES;
#pragma unroll 1
        for (u32 i = 0; i < all; ++i) stream.fetch(i < own ? 72 * 128 : W_BYTES);
    }
}
