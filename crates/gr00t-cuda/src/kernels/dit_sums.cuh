// The warps of `dit_persistent.cu` that multiply: products, the ways of their sums, the residual stream.
#pragma once

#include "dit_products.cuh"

struct Sums {
    const DitParams& p;
    const Here& here;
    u32 group, warp, lane;  // warpgroup, warp of all eight
    u32 w_count = 0;        // slots of weights that the warpgroup has used
    u32 phase = 0;
    u32 a_parity = 0, b_parity = 0;
    u32 block = 0;
    float residual[4] = {};  // of the warps 0 to 5: their eight columns
    u32 scale = 0;           // of the modulation of the block that follows, two columns

    __device__ Sums(const DitParams& params, const Here& h) : p(params), here(h) {
        warp = uniform(threadIdx.x / 32), group = warp / 4, lane = threadIdx.x % 32;
    }

    __device__ __forceinline__ bool speaker() const { return threadIdx.x % 128 == 0; }
    __device__ __forceinline__ u32 w_slot(u32 count) const { return count % (W_SLOTS / 2) * 2 + group; }
    __device__ __forceinline__ void wait_for_weights() const { here.wait(here.w_full(w_slot(w_count)), w_count / (W_SLOTS / 2) & 1); }
    // Tiles are numbered through all phases.
    __device__ __forceinline__ u32 x_slot(u32 tile) const { return (phase * TILES + tile) % X_SLOTS; }
    __device__ __forceinline__ void wait_for_x(u32 tile) const { here.wait(here.x_full(x_slot(tile)), (phase * TILES + tile) / X_SLOTS & 1); }
    __device__ __forceinline__ u64 x_operand(u32 tile) const { return operand(here.at(X_TILES) + x_slot(tile) * X_BYTES); }
    __device__ __forceinline__ u64 w_operand() const { return operand(here.at(RING) + w_slot(w_count) * W_BYTES); }

    // A tile has been multiplied: by one of two warpgroups, or by the only one, which counts twice.
    __device__ __forceinline__ void release_x(u32 tile, u32 count) const {
        if (speaker()) arrive(here.x_empty(x_slot(tile)), count);
    }
    __device__ __forceinline__ void release_weights(u32 count) const {
        if (speaker()) arrive(here.w_empty(w_slot(count)));
    }

    // Multiplies the tiles FIRST, FIRST + STEP, .., of which EACH have their weights in one slot; the products of one tile are
    // under way while the next is waited for.
    template <int STEP, int EACH, int SUMS>
    __device__ __forceinline__ void multiply(float (&sums)[SUMS], u32 first) {
        constexpr u32 BYTES = SUMS * 2 * 128, ARRIVALS = STEP == 1 ? 1 : 2;
        u32 tile = first;
#pragma unroll 1
        for (int slot = 0; slot < TILES / STEP / EACH; ++slot) {
            wait_for_weights();
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
                wait_for_x(tile);
                multiply_tile(sums, x_operand(tile), w_operand() + i * (BYTES / 16));
                if (slot > 0 || i > 0) {
                    wait_for_products<1>();
                    release_x(tile - STEP, ARRIVALS);
                    if (i == 0) release_weights(w_count - 1);
                }
                tile += STEP;
            }
            ++w_count;
        }
        wait_for_products<0>();
        release_x(tile - STEP, ARRIVALS);
        release_weights(w_count - 1);
        ++phase;
    }

    // The warpgroups take turns at the tiles.
    template <int EACH, int SUMS>
    __device__ __forceinline__ void multiply_in_turns(float (&sums)[SUMS]) { multiply<2, EACH>(sums, group); }

    // Each warpgroup has 48 of the columns.
    __device__ __forceinline__ void multiply_apart(float (&sums)[24]) { multiply<1, 2>(sums, 0); }

    // Each warp's 16 rows go to the rank that finishes them.
    template <int SUMS>
    __device__ __forceinline__ void scatter(const float (&sums)[SUMS], u32 region, u32 there) const {
        constexpr int COUNT = SUMS / 4;
        const u32 rank = warp % 4 / 2;
        const u32 to = of_rank(here.at(region) + (((here.rank * 2 + group) * 2 + warp % 2) * COUNT * 32 + lane) * 16, rank);
        const u32 done = of_rank(there, rank);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) send(to + i * 512, done, sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]);
    }

    // Eight columns of 16 of this rank's rows, of which each of four parts holds COUNT times two.
    template <int COUNT>
    __device__ __forceinline__ float4 gather(u32 region, u32 half, u32 columns) const {
        float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int part = 0; part < 4; ++part) {
            const float4 v = load_shared4(here.at(region) + (((part * 2 + half) * COUNT + columns) * 32 + lane) * 16);
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        }
        return sum;
    }

    // The same where the warpgroups had six times eight columns each.
    __device__ __forceinline__ float4 gather_apart(u32 region, u32 half, u32 columns) const {
        const u32 from = here.at(region) + (((columns / 6 * 2 + half) * 6 + columns % 6) * 32 + lane) * 16;
        const float4 a = load_shared4(from), b = load_shared4(from + 4 * 6 * 512);
        return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
    }

    __device__ __forceinline__ u32 column() const { return lane % 4 * 2; }
    // Of a half of this rank's rows, this thread's first or second.
    __device__ __forceinline__ u32 row(u32 half, int second) const { return here.rank * 32 + half * 16 + lane / 4 + second * 8; }

    __device__ __forceinline__ float2 bias(u32 kind, u32 columns) const {
        return __ldg(reinterpret_cast<const float2*>(p.biases + (size_t(block) * 2 + kind) * HIDDEN + columns + column()));
    }

    __device__ __forceinline__ void read_scale(u32 of) {
        scale = __ldg(reinterpret_cast<const u32*>(p.scales + size_t(of) * HIDDEN + here.pair * OWN + warp % 3 * 8 + column()));
    }

    // c1 and c0 of two columns.
    __device__ __forceinline__ float4 constants(const float2* of, u32 features, u32 columns) const {
        return __ldg(reinterpret_cast<const float4*>(of + size_t(block) * features + columns + column()));
    }

    // What the norm of this thread's rows makes of a product with what was not normalized.
    __device__ __forceinline__ float4 normalized(u32 kind, u32 half, const float4& v, const float4& c) const {
        float2 a, b;
        const u32 at = here.at(NORMS) + (kind * 32 + half * 16 + lane / 4) * 8;
        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(a.x), "=f"(a.y) : "r"(at) : "memory");
        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(b.x), "=f"(b.y) : "r"(at + 64) : "memory");
        return make_float4(a.y * (v.x - a.x * c.x) + c.y, a.y * (v.y - a.x * c.z) + c.w, b.y * (v.z - b.x * c.x) + c.y, b.y * (v.w - b.x * c.z) + c.w);
    }

    // Two pairs of columns, as words of a stream.
    __device__ __forceinline__ void publish_rows(u8* stream, u32 row_bytes, u32 half, u32 first, const float4& v) const {
        if (row(half, 0) < here.rows) publish(stream + row(half, 0) * row_bytes + (first + column()) * 2, pack(v.x, v.y));
        if (row(half, 1) < here.rows) publish(stream + row(half, 1) * row_bytes + (first + column()) * 2, pack(v.z, v.w));
    }

    // The residual stream's 24 columns of 32 rows, and their moments, for all.
    __device__ __forceinline__ void publish_residual(u8* stream, u8* moments, u8* counter, u32 kind) {
        const u32 first = (here.pair * OWN + warp % 3 * 8 + column()) * 2;
        u32 words[2] = {pack(residual[0], residual[1]), pack(residual[2], residual[3])};
#pragma unroll
        for (int second = 0; second < 2; ++second) {
            if (kind == 1) words[second] = multiply_bf16x2(words[second], scale);
            if (row(warp / 3, second) < here.rows) publish(stream + row(warp / 3, second) * (HIDDEN * 2) + first, words[second]);
        }
        float mean[2], squares[2];
#pragma unroll
        for (int second = 0; second < 2; ++second) {
            const float a = residual[2 * second], b = residual[2 * second + 1];
            float sum = a + b;
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            mean[second] = sum / 8;
            float square = (a - mean[second]) * (a - mean[second]) + (b - mean[second]) * (b - mean[second]);
            square += __shfl_xor_sync(0xffffffffu, square, 1);
            square += __shfl_xor_sync(0xffffffffu, square, 2);
            squares[second] = square;
        }
        const u32 place = here.at(MOMENTS) + kind * 6 * 16 * 8;
        if (lane % 4 < 2) {
            const u32 second = lane % 4, at = place + (warp * 16 + lane / 4 + second * 8) * 8;
            store_shared(at, __float_as_uint(second ? mean[1] : mean[0]));
            store_shared(at + 4, __float_as_uint(second ? squares[1] : squares[0]));
        }
        barrier<2, 192>();
        if (warp != 0) return;
        float means[3], sum = 0, total = 0;
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            const u32 at = place + ((lane / 16 * 3 + i) * 16 + lane % 16) * 8;
            means[i] = load_shared_float(at), sum += means[i];
            total += load_shared_float(at + 4);
        }
        const float all = sum * (1.0f / 3);
        float between = 0;
#pragma unroll
        for (int i = 0; i < 3; ++i) between += (means[i] - all) * (means[i] - all);
        const u32 of = here.rank * 32 + lane;
        if (of < here.rows) {
            u8* to = moments + (of * PAIRS + here.pair) * 8;
            publish(to, __float_as_uint(all));
            publish(to + 4, __float_as_uint(total + 8 * between));
        }
        __syncwarp();
        if (lane == 0) count(counter);
    }

    // Adds a product of this warp's eight columns to the residual stream.
    __device__ __forceinline__ void add_to_residual(const float4& v, const float2& b) {
        const float product[4] = {v.x + b.x, v.y + b.y, v.z + b.x, v.w + b.y};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float rounded = from_bf16(to_bf16(product[i]));
            residual[i] = row(warp / 3, i / 2) < here.rows ? from_bf16(to_bf16(rounded + residual[i])) : 0.0f;
        }
    }
};
