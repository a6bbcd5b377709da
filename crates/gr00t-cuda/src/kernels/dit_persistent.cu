// All blocks of the DiT in one launch, for one Euler step of up to 56 rows in bf16: 64 clusters of two blocks.
//
// Rank r of a pair holds half of the columns that a product of 1536 columns multiplies, so a product's sums are put together
// over both: each rank gets those of its 32 rows, or of half of the columns, sent to its shared memory as they are ready. A block
// of the DiT has four phases; each multiplies 768 columns of x a block, puts sums together and stores to memory what the next one
// reads:
//
//   own      norm and modulation; query, key and value of half a head, or its query; 16 queries' attention
//   out      24 columns of attention's output projection, residual
//   fc1      norm; 96 columns of fc1, GELU
//   fc2      96 columns of fc2, of an eighth of what is multiplied; four pairs' sums, residual
//
// Warps: four multiply, they and four more finish, seven fetch what a phase multiplies, one fetches weights. Weights come as one
// stream for each block of the grid, packed in the order in which they are used (`dit_pack.cu`), through a ring that runs ahead
// across phases; how many of its slots are under way is limited, since what is fetched of x waits behind them.
//
// A norm is applied to what the product gives: y = inverse (W x - mean c1) + c0. So x is multiplied as it is stored, before a
// modulated norm times 1 + scale, by who stores it; mean and deviation come from sums that each pair leaves of its columns.
//
// What a phase leaves in memory says itself that it is there: places hold words of ones, which no result is (a NaN is
// 0x7fff), until they are written, and are set to ones again a block later, when all have read them. Of x, which a warp stores in
// pieces of 16 bytes by one instruction each, one word of a piece is looked at: looking at all takes 0.7 us a block. That a piece
// comes whole is how the hardware stores it, not what PTX promises; were it not so, ones would be multiplied, which are NaN.
// Counts say when to look. There is no barrier over the grid. A wait that does not end stops the kernel, which the driver reports.
//
// Rounds where the chain of kernels does but for norms, whose results are not rounded before they are multiplied; sums are
// taken in a fixed order.
//
// Compiled for: SHARED_MEMORY and EXCHANGED, bytes that must be those of the host; EIGHT_BITS, which is none here.
#include "dit_attention.cuh"
#include "dit_loader.cuh"

struct Block : Attention {
    using Attention::Attention;

    __device__ __forceinline__ void project_attention(u8* now) {
        if (threadIdx.x == 0) expect_bytes(here.sums(SUMS_B), SUMS_BYTES / 2);
        float2 added = make_float2(0, 0);
        if (warp < 6) added = bias(0, own_columns());
        multiply_narrow(1, SUMS_B);
        here.wait(here.sums(SUMS_B), block & 1);
        free_x();
        if (warp >= 6) return;
        add_to_residual(gather(SUMS_B, warp / 3, warp % 3), added);
        publish_residual(now + MIDDLE, now + MIDDLE_MOMENTS, now + MIDDLE_COUNTS + here.pair / 8 * COUNT_BYTES, 0);
    }

    __device__ __forceinline__ static float gelu(float x) {
        x = from_bf16(to_bf16(x));
        const float e = power_of_two(-2.3022082f * (x + 0.044715f * x * x * x));
        float inverse;
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + e));
        return x * inverse;
    }

    __device__ __forceinline__ void widen(u8* now) {
        const u32 first = here.pair * WIDE + part() * OWN;
        float4 c[3], v[3];
#pragma unroll
        for (int i = 0; i < 3; ++i) c[i] = constants(p.fc1, FF, first + i * 8);
        // Every second block has exchanged sums of `own` before.
        multiply_wide<96>(2, SUMS_A, ((block + 1) / 2 + block) & 1, v);
        free_x();
        here.wait(here.norms(1), block & 1);
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            v[i] = normalized(1, warp % 4, v[i], c[i]);
            v[i] = make_float4(gelu(v[i].x), gelu(v[i].y), gelu(v[i].z), gelu(v[i].w));
        }
#pragma unroll
        for (int i = 0; i < 3; ++i) publish_rows(now + GELU_OUT, FF * 2, warp % 4, first + i * 8, v[i]);
        barrier<1, MULTIPLIERS>();
        if (threadIdx.x == 0) count(now + GELU_COUNTS + here.pair / 8 * COUNT_BYTES);
    }

    // The lowest bit of a sum says whose block it is.
    __device__ __forceinline__ float tagged(float v) const { return __uint_as_float((__float_as_uint(v) & ~1u) | (block & 1)); }
    __device__ __forceinline__ bool is_this_block(const uint4& v) const {
        return block & 1 ? (v.x & v.y & v.z & v.w & 1) != 0 : ((v.x | v.y | v.z | v.w) & 1) == 0;
    }

    // fc2: pairs of the same four have the same 96 columns and a quarter of what is multiplied each; they exchange sums
    // of 24 columns.
    __device__ __forceinline__ void narrow(u8* now) {
        float2 added = make_float2(0, 0);
        if (warp < 6) added = bias(1, own_columns()), read_scale(min(block + 1, p.blocks - 1));
        float4 sums[3];
        multiply_wide<96>(3, SUMS_B, block & 1, sums);
        free_x();
        // [four pairs, rank, column group of the receiver, sender, half, eight columns, lane]
        u8* partials = p.exchange + PARTIALS + here.pair / 4 * (2 * 16 * 6 * 512) + lane * 16;
        u8* to = partials + warp % 4 / 2 * (16 * 6 * 512) + (((part() * 4 + here.pair % 4) * 2 + warp % 2) * 3) * 512;
#pragma unroll
        for (int i = 0; i < 3; ++i)
            asm volatile("st.relaxed.gpu.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to + i * 512), "f"(tagged(sums[i].x)), "f"(tagged(sums[i].y)), "f"(tagged(sums[i].z)),
                         "f"(tagged(sums[i].w))
                         : "memory");
        if (warp >= 6) return;
        uint4 v[4];
        const u8* from = partials + here.rank * (16 * 6 * 512) + (here.pair % 4 * 4 * 6 + warp) * 512;
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = read_fresh(from + i * 6 * 512);
        u32 tries = 0;
#pragma unroll 1
        while (!(is_this_block(v[0]) && is_this_block(v[1]) && is_this_block(v[2]) && is_this_block(v[3])) && here.patient(tries)) {
#pragma unroll
            for (int i = 0; i < 4; ++i) v[i] = read_fresh(from + i * 6 * 512);
        }
        __syncwarp();
        float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            sum.x += __uint_as_float(v[i].x), sum.y += __uint_as_float(v[i].y), sum.z += __uint_as_float(v[i].z), sum.w += __uint_as_float(v[i].w);
        add_to_residual(sum, added);
    }

    __device__ __forceinline__ void run() {
        if (warp < 6) {
            read_scale(0);
            // The stream as it comes in, handed out as a block before the first would have.
            const u16* tokens = p.tokens + own_columns() + column();
#pragma unroll
            for (int second = 0; second < 2; ++second) {
                if (row(own_rows(), second) >= here.rows) continue;
                const u32 words = *reinterpret_cast<const u32*>(tokens + row(own_rows(), second) * HIDDEN);
                residual[2 * second] = low_of(words), residual[2 * second + 1] = high_of(words);
            }
        }
#pragma unroll 1
        for (block = 0;; ++block) {
            u8* before = p.exchange + (block + 1) % 2 * EXCHANGE_BYTES;
            if (block == p.blocks) break;
            if (warp < 6) publish_residual(before + END, before + END_MOMENTS, before + END_COUNTS + here.pair / 8 * COUNT_BYTES, 1);
            u8* now = p.exchange + (block % 2) * EXCHANGE_BYTES;
            {
                Chunk chunks[2] = {};
                const DitMemory memory = p.memories[block / 2];
                if (block % 2 == 0) ask_memory(memory, now, chunks);
                else ask_own(now, chunks);
                attend(chunks, block % 2 == 0 ? memory.keys : here.rows, now);
            }
            project_attention(now);
            widen(now);
            narrow(now);
        }
        if (warp < 6)
            publish_rows(reinterpret_cast<u8*>(p.out), HIDDEN * 2, own_rows(), own_columns(), make_float4(residual[0], residual[1], residual[2], residual[3]));
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) dit(const __grid_constant__ DitParams p) {
    extern __shared__ __align__(1024) u8 shared[];
    const u32 base = uniform(shared_address(shared));
    const Here here = {blockIdx.z / 2, blockIdx.z % 2, base, p.rows, p.patience};
    if (threadIdx.x == 0) {
        for (int i = 0; i < W_SLOTS; ++i) init_barrier(here.w_full(i), 1), init_barrier(here.w_empty(i), 1);
        for (int i = 0; i < BOXES; ++i) init_barrier(here.x_raw(i), 1), init_barrier(here.x_full(i), LOADERS / 32);
        for (int i = 0; i < BOXES - PLACES; ++i) init_barrier(here.x_again(i), 1);
        init_barrier(here.x_free(), MULTIPLIERS / 32), init_barrier(here.norms(0), 4), init_barrier(here.norms(1), 4);
#pragma unroll
        for (u32 region = SUMS_A; region <= SUMS_B; region += SUMS_BYTES) {
            init_barrier(here.sums(region), 1);
            for (u32 i = 0; i < MULTIPLIERS / 32; ++i) init_barrier(here.sums(region, i), 1);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    // What is multiplied beyond the last row must not be read uninitialized.
    for (u32 i = threadIdx.x; i < (PLACES * BOX * X_BYTES + 1024) / 16; i += THREADS) store_shared4(here.at(X_TILES) + i * 16, 0, 0, 0, 0);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    arrive_at_cluster_barrier();
    wait_at_cluster_barrier();
    const u32 warp = uniform(threadIdx.x / 32);
    if (warp < MULTIPLIERS / 32) {
        Block(p, here).run();
    } else if (warp < (MULTIPLIERS + LOADERS) / 32) {
        load_inputs(p, here);
    } else if (elected()) {
        fetch_weights(p, here);
    }
    __syncwarp();
    __syncthreads();
    arrive_at_cluster_barrier();
    wait_at_cluster_barrier();
}
