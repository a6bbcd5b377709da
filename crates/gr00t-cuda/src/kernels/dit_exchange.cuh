// What the parts of `dit_persistent.cu` share: its memory, how it waits, reads and sends.
#pragma once

#include "machine.cuh"
#include "params.cuh"

// Sizes of the one shape that this is written for, as in `dit_persistent.rs`.
constexpr int HIDDEN = 1536, FF = 6144, HEAD_DIM = 48, PAIRS = 64;
constexpr int OWN = HIDDEN / PAIRS, WIDE = FF / PAIRS;  // columns of the residual stream and of fc1 that a pair makes
constexpr int MULTIPLIERS = 256, LOADERS = 224, THREADS = MULTIPLIERS + LOADERS + 32;
constexpr int DEPTH = 64, TILES = HIDDEN / 2 / DEPTH;   // columns that a block multiplies in a phase, in tiles
constexpr int BOX = 2, BOXES = TILES / BOX;             // tiles that are fetched at once
constexpr int PLACES = 4;                               // of boxes: the last two take those of the first
constexpr int X_BYTES = 56 * 128;                       // of a tile: rows of 128 bytes; rows 56 and up of a tile are what follows
constexpr int IN_FLIGHT = 2;                            // slots of weights that are under way at most
constexpr int W_SLOTS = 12, W_BYTES = 96 * 128;         // of a tile's 96 or 72 columns, or four tiles' 24

// Shared memory.
constexpr u32 RING = 0;
constexpr u32 X_TILES = RING + W_SLOTS * W_BYTES;
constexpr u32 KEYS = X_TILES, VALUES = KEYS + 64 * HEAD_DIM * 2;  // of the head, once x has been multiplied
constexpr u32 WEIGHED = VALUES + 64 * HEAD_DIM * 2;         // weighted values of eight warps
constexpr u32 QUERIES = WEIGHED + 8 * 16 * HEAD_DIM * 4;
constexpr int QUERY_LD = HEAD_DIM + 8;
constexpr u32 LARGEST = QUERIES + 16 * QUERY_LD * 2;        // by warp and row
constexpr u32 TOTALS = LARGEST + 8 * 16 * 4;
constexpr u32 SUMS_BYTES = 8 * 3 * 512;                     // that a pair's ranks send each other
constexpr u32 SUMS_A = X_TILES + PLACES * BOX * X_BYTES;    // of `own` and fc1
constexpr u32 SUMS_B = SUMS_A + SUMS_BYTES;                 // of `out` and fc2
static_assert(TOTALS + 8 * 16 * 4 <= SUMS_A, "takes the place of x");
constexpr u32 NORMS = SUMS_B + SUMS_BYTES;                  // mean and inverse deviation of rows, of `own` and fc1
constexpr u32 MOMENTS = NORMS + 2 * 64 * 8;                 // by eight columns and row
constexpr u32 BARRIERS = MOMENTS + 6 * 16 * 8;
constexpr u32 SHARED_BYTES = BARRIERS + (2 * W_SLOTS + 2 * BOXES + BOXES - PLACES + 1 + 2 + 2 + 16) * 8;
static_assert(SHARED_BYTES == SHARED_MEMORY, "as in `dit_persistent.rs`");

// What blocks of the grid hand to each other, for even and for odd blocks of the DiT.
constexpr u32 ROWS = 64, STREAM_BYTES = ROWS * HIDDEN * 2, MOMENTS_BYTES = ROWS * PAIRS * 8;
constexpr u32 QUERY = 0, KEY = STREAM_BYTES, VALUE = 2 * STREAM_BYTES;
constexpr u32 ATTENTION = 3 * STREAM_BYTES;
constexpr u32 MIDDLE = 4 * STREAM_BYTES;                    // the residual stream after attention
constexpr u32 END = 5 * STREAM_BYTES;                       // and at the end of the block, times the next one's scale
constexpr u32 GELU_OUT = 6 * STREAM_BYTES;
constexpr u32 MIDDLE_MOMENTS = GELU_OUT + ROWS * FF * 2;    // [rows, 64] mean and sum of squared distances of 24 columns
constexpr u32 END_MOMENTS = MIDDLE_MOMENTS + MOMENTS_BYTES;
// How many blocks of the grid have written, counted from all ones: the end of the stream, its middle, attention, GELU's
// results, each by eighths of the grid; queries, keys and values by head. Each count has a line of memory to itself. It may run
// ahead of what it counts: it only says when to look.
constexpr u32 COUNTS = END_MOMENTS + MOMENTS_BYTES, COUNT_BYTES = 128, COUNTS_BYTES = 8 * COUNT_BYTES;
constexpr u32 END_COUNTS = COUNTS, MIDDLE_COUNTS = END_COUNTS + COUNTS_BYTES, ATTENTION_COUNTS = MIDDLE_COUNTS + COUNTS_BYTES;
constexpr u32 GELU_COUNTS = ATTENTION_COUNTS + COUNTS_BYTES, OWN_COUNTS = GELU_COUNTS + COUNTS_BYTES;
constexpr u32 EXCHANGE_BYTES = OWN_COUNTS + 32 * COUNT_BYTES;
static_assert(EXCHANGE_BYTES == EXCHANGED, "as in `dit_persistent.rs`");
// After both: sums of fc2, whose lowest bits say whether a block's number is even.
constexpr u32 PARTIALS = 2 * EXCHANGE_BYTES;
constexpr u32 GRID = 2 * PAIRS;
constexpr u32 UNSET = 0xffffffffu;

// --- Memory that others of the grid write. ---

__device__ __forceinline__ uint4 read_fresh(const void* from) {
    uint4 v;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
    return v;
}

__device__ __forceinline__ u32 read_fresh_word(const void* from) {
    u32 v;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(from) : "memory");
    return v;
}

__device__ __forceinline__ void publish(void* to, u32 word) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}

__device__ __forceinline__ void count(u8* counter) {
    asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}

__device__ __forceinline__ bool is_set(const uint4& v) { return v.x != UNSET && v.y != UNSET && v.z != UNSET && v.w != UNSET; }

// --- Waiting. ---

__device__ __forceinline__ void init_barrier(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void expect_bytes(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void arrive(u32 barrier, u32 count = 1) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ bool passed(u32 barrier, u32 parity) {
    u32 done;
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.b32 %0, 1, 0, p;\n\t}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    return done;
}

// Whether a phase is over; `passed` may wait for a while.
__device__ __forceinline__ bool is_over(u32 barrier, u32 parity) {
    u32 done;
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.b32 %0, 1, 0, p;\n\t}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    return done;
}

// What a block of the grid knows everywhere.
struct Here {
    u32 pair, rank, base, rows, patience;
    __device__ u32 at(u32 offset) const { return base + offset; }
    __device__ u32 w_full(u32 slot) const { return base + BARRIERS + slot * 8; }
    __device__ u32 w_empty(u32 slot) const { return base + BARRIERS + (W_SLOTS + slot) * 8; }
    __device__ u32 x_raw(u32 box) const { return base + BARRIERS + (2 * W_SLOTS + box) * 8; }
    __device__ u32 x_full(u32 box) const { return base + BARRIERS + (2 * W_SLOTS + BOXES + box) * 8; }
    // A box has been multiplied whose place another takes.
    __device__ u32 x_again(u32 box) const { return base + BARRIERS + (2 * W_SLOTS + 2 * BOXES + box) * 8; }
    __device__ u32 x_free() const { return x_again(BOXES - PLACES); }
    __device__ u32 norms(u32 kind) const { return x_free() + 8 + kind * 8; }
    // Sums of a region, and of one of its warps.
    __device__ u32 sums(u32 region) const { return x_free() + (region == SUMS_A ? 24 : 32); }
    __device__ u32 sums(u32 region, u32 warp) const { return x_free() + 40 + (region == SUMS_A ? 0 : 64) + warp * 8; }
    // Whether to try once more: a wait that does not end is an error of the launch instead of a device that hangs.
    __device__ __forceinline__ bool patient(u32& tries) const {
        if (++tries < patience) return true;
        __trap();
        return false;
    }
    __device__ __forceinline__ void wait_for_count(const u8* counter, u32 expected) const {
        u32 tries = 0;
#pragma unroll 1
        while (read_fresh_word(counter) + 1 < expected && patient(tries)) {}
    }
    // The same by all threads of a warp: what follows is uniform for the compiler.
    __device__ __forceinline__ void wait_together(u32 barrier, u32 parity) const {
        u32 tries = 0;
#pragma unroll 1
        while (!__all_sync(0xffffffffu, passed(barrier, parity)) && patient(tries)) {}
    }
    __device__ __forceinline__ void wait(u32 barrier, u32 parity) const {
        u32 tries = 0;
#pragma unroll 1
        while (!passed(barrier, parity) && patient(tries)) {}
    }
};

// --- Shared memory of the cluster. ---

__device__ __forceinline__ u32 of_rank(u32 address, u32 rank) {
    u32 remote;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
    return remote;
}

__device__ __forceinline__ void send(u32 to, u32 barrier, float a, float b, float c, float d) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to), "f"(a), "f"(b), "f"(c), "f"(d), "r"(barrier)
                 : "memory");
}

__device__ __forceinline__ void send(u32 to, u32 barrier, float a, float b) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(to), "f"(a), "f"(b), "r"(barrier) : "memory");
}

__device__ __forceinline__ float4 load_shared4(u32 at) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(at) : "memory");
    return v;
}

__device__ __forceinline__ void store_shared4(u32 at, float a, float b, float c, float d) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(at), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}

__device__ __forceinline__ void store_shared(u32 at, u32 word) { asm volatile("st.shared.u32 [%0], %1;" ::"r"(at), "r"(word) : "memory"); }

__device__ __forceinline__ float load_shared_float(u32 at) {
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
    return v;
}

__device__ __forceinline__ u32 load_shared_word(u32 at) {
    u32 v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
    return v;
}

template <int ID, int COUNT>
__device__ __forceinline__ void barrier() {
    asm volatile("bar.sync %0, %1;" ::"n"(ID), "n"(COUNT) : "memory");
}

__device__ __forceinline__ bool elected() {
    u32 is;
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "elect.sync _|p, 0xffffffff;\n\t"
        "selp.b32 %0, 1, 0, p;\n\t}"
        : "=r"(is));
    return is;
}

__device__ __forceinline__ u32 uniform(u32 value) { return __shfl_sync(0xffffffffu, value, 0); }

// --- Pairs of bf16. ---

__device__ __forceinline__ u32 multiply_bf16x2(u32 a, u32 b) {
    u32 result;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
}

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
}

__device__ __forceinline__ float low_of(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_of(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ __forceinline__ void store_shared_words(u32 at, const uint4& v) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
