// The products of `dit_persistent.cu`, and the thread that fetches their weights.
#pragma once

#include "dit_exchange.cuh"

// --- Warpgroup products: 64 rows of x times rows of weights, both in rows of 128 bytes, swizzled. ---

__device__ __forceinline__ u64 operand(u32 address) {
    return (u64(address & 0x3ffff) >> 4) | (u64(1) << 16) | (u64(1024 >> 4) << 32) | (u64(1) << 62);
}

__device__ __forceinline__ void fence_sums() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// d += x wᵀ, 16 columns deep.
__device__ __forceinline__ void multiply_add(float (&d)[12], u64 a, u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n24k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11}, "
        "%12, %13, 1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
        : "l"(a), "l"(b));
}

__device__ __forceinline__ void multiply_add(float (&d)[24], u64 a, u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n48k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, "
        "%12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23}, "
        "%24, %25, 1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
        : "l"(a), "l"(b));
}

__device__ __forceinline__ void multiply_add(float (&d)[36], u64 a, u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n72k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, "
        "%12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35}, "
        "%36, %37, 1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
        : "l"(a), "l"(b));
}

template <int SUMS>
__device__ __forceinline__ void multiply_tile(float (&sums)[SUMS], u64 x, u64 w) {
    fence_sums();
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k) multiply_add(sums, x + k * 2, w + k * 2);
    commit_products();
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
        // Of 72 rows a tile, or three of 24.
        const u32 own = block % 2 == 0 ? TILES / 3 : TILES;
        const u32 first = own + TILES / 3;
#pragma unroll 1
        for (u32 i = 0; i < first + 2 * TILES; ++i) stream.fetch(i < first ? 72 * 128 : W_BYTES);
    }
}
