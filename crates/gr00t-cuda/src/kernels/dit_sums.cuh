// The warps of `dit_persistent.cu` that multiply: products, the ways of their sums, the residual stream.
#pragma once

#include "dit_products.cuh"

struct Sums {
    const DitParams& p;
    const Here& here;
    u32 group, warp, lane;  // warpgroup, warp of all eight
    u32 slot = 0, slot_parity = 0;  // of the weights that come next
    u32 block = 0;
    float residual[4] = {};  // of the warps 0 to 5: their eight columns
    u32 scale = 0;           // of the modulation of the block that follows, two columns

    __device__ Sums(const DitParams& params, const Here& h) : p(params), here(h) {
        warp = uniform(threadIdx.x / 32), group = warp / 4, lane = threadIdx.x % 32;
    }

    // Multiplies a phase's tiles, of which EACH have their weights in one slot; the products of one tile are under way while the
    // next is waited for. By the first warpgroup alone: two read x twice from shared memory, which keeps them waiting longer
    // than the tensor cores do.
    template <int COLUMNS, int EACH, int SUMS>
    __device__ __forceinline__ void multiply(float (&sums)[SUMS], u32 phase) {
        const u32 x = operand(here.at(X_TILES)), w = operand(here.at(RING));
        static_assert(PLACES * BOX == 8, "the last four tiles lie where the first four lay");
        u32 before = W_SLOTS;
        // Asking takes 90 cycles: whether the next ones are there is asked before the products that they follow.
        bool x_is_there = false, w_is_there = false;
#pragma unroll 1
        for (u32 tile = 0; tile < TILES; tile += 4) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (i % BOX == 0 && !__all_sync(0xffffffffu, x_is_there)) here.wait_together(here.x_full((tile + i) / BOX), phase & 1);
                if (i % EACH == 0 && !__all_sync(0xffffffffu, w_is_there)) here.wait_together(here.w_full(slot), slot_parity);
                const u32 now = slot;
                if (i % EACH == EACH - 1) {
                    slot = slot + 1 == W_SLOTS ? 0 : slot + 1;
                    slot_parity ^= slot == 0;
                }
                if (i % BOX == BOX - 1 && (i < 3 || tile < TILES - 4)) x_is_there = is_over(here.x_full((tile + i + 1) / BOX), phase & 1);
                if (i % EACH == EACH - 1) w_is_there = is_over(here.w_full(slot), slot_parity);
                multiply_tile<COLUMNS>(sums, x + ((tile & 4) + i) * (X_BYTES / 16), w + now * (W_BYTES / 16) + i % EACH * (COLUMNS * 128 / 16));
                // The tiles before this one have been multiplied.
                if (i % EACH == 0 || i == 2) wait_for_products<1>();
                if (i % EACH == 0 && before < W_SLOTS && threadIdx.x == 0) arrive(here.w_empty(before));
                if (i == 2 && tile == 0 && threadIdx.x == 0) arrive(here.x_again(0));
                if (i == 0 && tile == 4 && threadIdx.x == 0) arrive(here.x_again(1));
                if (i % EACH == EACH - 1) before = now;
            }
        }
        wait_for_products<0>();
        if (threadIdx.x == 0) arrive(here.w_empty(before));
    }

    // Fetches the boxes that take others' places, by a warp that does not multiply.
    __device__ __forceinline__ void fetch_last_boxes(u32 phase) const {
        if (warp != 4) return;
#pragma unroll 1
        for (u32 box = PLACES; box < BOXES; ++box) {
            here.wait_together(here.x_again(box - PLACES), phase & 1);
            if (elected()) fetch_box(here, input_of(p, here, block, phase), box);
            __syncwarp();
        }
    }

    // As far as this warp is concerned, what comes next may take the place of x. Not before x of the phase is known to have come:
    // a warp that does not multiply would be counted for two phases.
    __device__ __forceinline__ void free_x() const {
        if (lane == 0) arrive(here.x_free());
    }

    // The first warpgroup's sums of 24 columns: each warp's 16 rows go to the rank that finishes them.
    __device__ __forceinline__ void scatter(const float (&sums)[12], u32 region) const {
        const u32 rank = warp / 2;
        const u32 to = of_rank(here.at(region) + ((here.rank * 2 + warp % 2) * 96 + lane) * 16, rank);
        const u32 done = of_rank(here.sums(region), rank);
#pragma unroll
        for (int i = 0; i < 3; ++i) send(to + i * 512, done, sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]);
    }

    // Eight columns of 16 of this rank's rows, of both ranks' sums.
    __device__ __forceinline__ float4 gather(u32 region, u32 half, u32 columns) const {
        const u32 from = here.at(region) + ((half * 3 + columns) * 32 + lane) * 16;
        const float4 a = load_shared4(from), b = load_shared4(from + 6 * 512);
        return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
    }

    // A warp's sums of up to 96 columns of 16 rows are finished by four: 24 columns each by its counterparts in both warpgroups of
    // both ranks, of which rank 0 has the first half. `v` is what the warp keeps. What is for the second warpgroup of this block
    // takes the place of x, which has been multiplied.
    __device__ __forceinline__ void hand_out(const float (&sums)[48], u32 region, float4 (&v)[3]) const {
        const bool second = here.rank == 1;
        const u32 place = (warp * 96 + lane) * 16;
        const u32 there = of_rank(here.at(region) + place, here.rank ^ 1), done = of_rank(here.sums(region, warp), here.rank ^ 1);
        const u32 beside = of_rank(here.at(X_TILES) + place, here.rank), beside_done = of_rank(here.sums(region, warp + 4), here.rank);
        constexpr u32 FOUR_WARPS = 4 * 3 * 512, FOUR_BARRIERS = 4 * 8;
#pragma unroll
        for (int i = 0; i < 6; ++i) {
            float other[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) other[j] = second ? sums[4 * i + j] : sums[24 + 4 * i + j];
            send(there + i % 3 * 512 + (i < 3 ? 0 : FOUR_WARPS), done + (i < 3 ? 0 : FOUR_BARRIERS), other[0], other[1], other[2], other[3]);
        }
#pragma unroll
        for (int i = 0; i < 6; ++i) {
            float own[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) own[j] = second ? sums[24 + 4 * i + j] : sums[4 * i + j];
            if (i < 3) v[i] = make_float4(own[0], own[1], own[2], own[3]);
            else send(beside + (i - 3) * 512, beside_done, own[0], own[1], own[2], own[3]);
        }
    }

    // Adds what the other rank sends to what this warp kept, or to what the first warpgroup gave it.
    __device__ __forceinline__ void take_in(u32 region, u32 parity, float4 (&v)[3]) const {
        const u32 barrier = here.sums(region, warp);
        if (lane == 0) expect_bytes(barrier, (group + 1) * (3 * 512));
        here.wait(barrier, parity);
        if (group == 1) {
#pragma unroll
            for (int i = 0; i < 3; ++i) v[i] = load_shared4(here.at(X_TILES) + ((warp - 4) * 96 + lane) * 16 + i * 512);
        }
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            const float4 a = load_shared4(here.at(region) + (warp * 96 + lane) * 16 + i * 512);
            v[i].x += a.x, v[i].y += a.y, v[i].z += a.z, v[i].w += a.w;
        }
    }

    // Which 24 of up to 96 columns this warp finishes.
    __device__ __forceinline__ u32 part() const { return here.rank * 2 + group; }

    // Multiplies by weights of 72 or 96 columns: 16 rows of 24 of them.
    template <int COLUMNS>
    __device__ __forceinline__ void multiply_wide(u32 phase, u32 region, u32 parity, float4 (&v)[3]) {
        if (group == 0) {
            float sums[48] = {};
            multiply<COLUMNS, 1>(sums, phase);
            hand_out(sums, region, v);
        } else {
            fetch_last_boxes(phase);
        }
        take_in(region, parity, v);
    }

    // Multiplies by weights of 24 columns, whose sums come to `region`.
    __device__ __forceinline__ void multiply_narrow(u32 phase, u32 region) {
        if (group == 0) {
            float sums[12] = {};
            multiply<24, 4>(sums, phase);
            scatter(sums, region);
        } else {
            fetch_last_boxes(phase);
        }
    }

    __device__ __forceinline__ u32 column() const { return lane % 4 * 2; }
    // Of 16 rows, this thread's first or second.
    __device__ __forceinline__ u32 row(u32 rows, int second) const { return rows * 16 + lane / 4 + second * 8; }
    // The 16 rows and eight columns of the residual stream that each of the warps 0 to 5 has.
    __device__ __forceinline__ u32 own_rows() const { return here.rank * 2 + warp / 3; }
    __device__ __forceinline__ u32 own_columns() const { return here.pair * OWN + warp % 3 * 8; }

    __device__ __forceinline__ float2 bias(u32 kind, u32 columns) const {
        return __ldg(reinterpret_cast<const float2*>(p.biases + (size_t(block) * 2 + kind) * HIDDEN + columns + column()));
    }

    __device__ __forceinline__ void read_scale(u32 of) {
        scale = __ldg(reinterpret_cast<const u32*>(p.scales + size_t(of) * HIDDEN + own_columns() + column()));
    }

    // c1 and c0 of two columns.
    __device__ __forceinline__ float4 constants(const float2* of, u32 features, u32 columns) const {
        return __ldg(reinterpret_cast<const float4*>(of + size_t(block) * features + columns + column()));
    }

    // What the norm of this thread's rows makes of a product with what was not normalized.
    __device__ __forceinline__ float4 normalized(u32 kind, u32 rows, const float4& v, const float4& c) const {
        float2 a, b;
        const u32 at = here.at(NORMS) + (kind * 64 + rows * 16 + lane / 4) * 8;
        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(a.x), "=f"(a.y) : "r"(at) : "memory");
        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(b.x), "=f"(b.y) : "r"(at + 64) : "memory");
        return make_float4(a.y * (v.x - a.x * c.x) + c.y, a.y * (v.y - a.x * c.z) + c.w, b.y * (v.z - b.x * c.x) + c.y, b.y * (v.w - b.x * c.z) + c.w);
    }

    // Two pairs of columns, as words of a stream.
    __device__ __forceinline__ void publish_rows(u8* stream, u32 row_bytes, u32 rows, u32 first, const float4& v) const {
        if (row(rows, 0) < here.rows) publish(stream + row(rows, 0) * row_bytes + (first + column()) * 2, pack(v.x, v.y));
        if (row(rows, 1) < here.rows) publish(stream + row(rows, 1) * row_bytes + (first + column()) * 2, pack(v.z, v.w));
    }

    // The residual stream's 24 columns of 32 rows, and their moments, for all.
    __device__ __forceinline__ void publish_residual(u8* stream, u8* moments, u8* counter, u32 kind) {
        const u32 first = (own_columns() + column()) * 2;
        u32 words[2] = {pack(residual[0], residual[1]), pack(residual[2], residual[3])};
#pragma unroll
        for (int second = 0; second < 2; ++second) {
            if (kind == 1) words[second] = multiply_bf16x2(words[second], scale);
            if (row(own_rows(), second) < here.rows) publish(stream + row(own_rows(), second) * (HIDDEN * 2) + first, words[second]);
        }
        // The count may run ahead, so it does not wait for the other warps.
        if (threadIdx.x == 0) count(counter);
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
        const u32 place = here.at(MOMENTS);
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
    }

    // Adds a product of this warp's eight columns to the residual stream.
    __device__ __forceinline__ void add_to_residual(const float4& v, const float2& b) {
        const float product[4] = {v.x + b.x, v.y + b.y, v.z + b.x, v.w + b.y};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float rounded = from_bf16(to_bf16(product[i]));
            residual[i] = row(own_rows(), i / 2) < here.rows ? from_bf16(to_bf16(rounded + residual[i])) : 0.0f;
        }
    }
};
