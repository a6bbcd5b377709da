// Queries, keys and values, and attention, in `dit_persistent.cu`.
#pragma once

#include "dit_sums.cuh"

struct Attention : Sums {
    using Sums::Sums;

    // 16 keys and values as operands.
    struct Chunk {
        u32 keys[2][3][2];  // by eight keys, 16 columns
        u32 values[6][2];   // by eight columns
    };

    // Keys beyond the last are the last again: nothing attends to them.
    __device__ __forceinline__ void read_memory(const DitMemory& m, u32 chunk, Chunk& c) const {
        auto line = [&](const u16* of, u32 at) { return of + here.pair / 2 * HEAD_DIM + size_t(min(at, m.keys - 1)) * m.ld; };
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const u32* from = reinterpret_cast<const u32*>(line(m.key, chunk * 16 + i * 8 + lane / 4) + column());
#pragma unroll
            for (int part = 0; part < 3; ++part)
#pragma unroll
                for (int half = 0; half < 2; ++half) c.keys[i][part][half] = __ldg(from + part * 8 + half * 4);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const u16* first = line(m.value, chunk * 16 + half * 8 + column()) + lane / 4;
            const u16* second = line(m.value, chunk * 16 + half * 8 + column() + 1) + lane / 4;
#pragma unroll
            for (int i = 0; i < 6; ++i) c.values[i][half] = u32(__ldg(first + i * 8)) | u32(__ldg(second + i * 8)) << 16;
        }
    }

    __device__ __forceinline__ void read_own(u32 chunk, Chunk& c) const {
        const u32 key = chunk * 16 + (lane & 7) + ((lane >> 4) << 3), half = (lane >> 3) & 1;
#pragma unroll
        for (int part = 0; part < 3; ++part) {
            u32 k[4], v[4];
            load_matrices(k, here.at(KEYS) + (key * HEAD_DIM + part * 16 + half * 8) * 2);
            load_matrices_transposed(v, here.at(VALUES) + ((chunk * 16 + (lane & 15)) * HEAD_DIM + part * 16 + (lane >> 4) * 8) * 2);
            c.keys[0][part][0] = k[0], c.keys[0][part][1] = k[1], c.keys[1][part][0] = k[2], c.keys[1][part][1] = k[3];
            c.values[2 * part][0] = v[0], c.values[2 * part][1] = v[1], c.values[2 * part + 1][0] = v[2], c.values[2 * part + 1][1] = v[3];
        }
    }

    // What was written where x lay has been read: x may come again.
    __device__ __forceinline__ void finish_attention() const {
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncwarp();
        free_x();
    }

    // Attention of this rank's 16 queries to up to 256 keys: every eighth 16 of them a warp.
    __device__ __forceinline__ void attend(const Chunk (&chunks)[2], u32 keys, u8* now) {
        constexpr int CHUNKS = 2;
        u32 q[3][4];
#pragma unroll
        for (int part = 0; part < 3; ++part)
            load_matrices(q[part], here.at(QUERIES) + ((lane & 15) * QUERY_LD + part * 16 + (lane >> 4) * 8) * 2);
        float scores[CHUNKS][2][4] = {};
        float largest[2] = {-infinity(), -infinity()};
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
#pragma unroll
                for (int part = 0; part < 3; ++part) multiply_add<BF16>(scores[c][i], q[part], chunks[c].keys[i][part][0], chunks[c].keys[i][part][1]);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const u32 key = (warp + 8 * c) * 16 + i * 8 + column() + j % 2;
                    scores[c][i][j] = key < keys ? scores[c][i][j] * (p.scale * 1.4426950408889634f) : -infinity();
                    largest[j / 2] = fmaxf(largest[j / 2], scores[c][i][j]);
                }
            }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            largest[half] = fmaxf(largest[half], __shfl_xor_sync(0xffffffffu, largest[half], 1));
            largest[half] = fmaxf(largest[half], __shfl_xor_sync(0xffffffffu, largest[half], 2));
            if (lane % 4 == 0) store_shared(here.at(LARGEST) + (warp * 16 + lane / 4 + half * 8) * 4, __float_as_uint(largest[half]));
        }
        barrier<1, MULTIPLIERS>();
        float total[2] = {};
        const u32 active = min(8u, (keys + 15) / 16);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float max = largest[half];
#pragma unroll
            for (int of = 0; of < 8; ++of) max = fmaxf(max, load_shared_float(here.at(LARGEST) + (of * 16 + lane / 4 + half * 8) * 4));
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
                for (int i = 0; i < 2; ++i)
#pragma unroll
                    for (int j = half * 2; j < half * 2 + 2; ++j) scores[c][i][j] = power_of_two(scores[c][i][j] - max), total[half] += scores[c][i][j];
        }
        if (warp < active) {
            float values[6][4] = {};
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c) {
                const u32 a[4] = {pack(scores[c][0][0], scores[c][0][1]), pack(scores[c][0][2], scores[c][0][3]),
                                  pack(scores[c][1][0], scores[c][1][1]), pack(scores[c][1][2], scores[c][1][3])};
#pragma unroll
                for (int i = 0; i < 6; ++i) multiply_add<BF16>(values[i], a, chunks[c].values[i][0], chunks[c].values[i][1]);
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
                total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
                if (lane % 4 == 0) store_shared(here.at(TOTALS) + (warp * 16 + lane / 4 + half * 8) * 4, __float_as_uint(total[half]));
            }
#pragma unroll
            for (int i = 0; i < 6; ++i) store_shared4(here.at(WEIGHED) + ((warp * 6 + i) * 32 + lane) * 16, values[i][0], values[i][1], values[i][2], values[i][3]);
        }
        barrier<1, MULTIPLIERS>();
        if (warp >= 6) {
            finish_attention();
            return;
        }
        float4 sum = make_float4(0, 0, 0, 0);
        float totals[2] = {};
        for (u32 of = 0; of < active; ++of) {
            const float4 v = load_shared4(here.at(WEIGHED) + ((of * 6 + warp) * 32 + lane) * 16);
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
#pragma unroll
            for (int half = 0; half < 2; ++half) totals[half] += load_shared_float(here.at(TOTALS) + (of * 16 + lane / 4 + half * 8) * 4);
        }
        const float share[2] = {__fdividef(1.0f, totals[0]), __fdividef(1.0f, totals[1])};
        publish_rows(now + ATTENTION, HIDDEN * 2, here.rank * 2 + here.pair % 2, here.pair / 2 * HEAD_DIM + warp * 8,
                     make_float4(sum.x * share[0], sum.y * share[0], sum.z * share[1], sum.w * share[1]));
        barrier<2, 192>();
        if (threadIdx.x == 0) count(now + ATTENTION_COUNTS + here.pair / 8 * COUNT_BYTES);
        finish_attention();
    }

    // Waits for the four blocks of the head.
    __device__ __forceinline__ void meet_head(u8* now) const {
        u8* counter = now + OWN_COUNTS + here.pair / 2 * COUNT_BYTES;
        barrier<1, MULTIPLIERS>();
        if (threadIdx.x == 0) count(counter), here.wait_for_count(counter, 4);
        barrier<1, MULTIPLIERS>();
    }

    // 16 bytes of a row of the head, as soon as they are there; zeros beyond the last row.
    __device__ __forceinline__ void take(const u8* stream, u32 of, u32 chunk, u32 to) const {
        uint4 v = make_uint4(0, 0, 0, 0);
        if (of < here.rows) {
            const u8* from = stream + of * HIDDEN * 2 + here.pair / 2 * (HEAD_DIM * 2) + chunk * 16;
            v = read_fresh(from);
            u32 tries = 0;
#pragma unroll 1
            while (!is_set(v) && here.patient(tries)) v = read_fresh(from);
        }
        asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
    }

    __device__ __forceinline__ void take_queries(const u8* now, u32 thread) const {
        if (thread < 16 * 6)
            take(now + QUERY, here.rank * 32 + here.pair % 2 * 16 + thread / 6, thread % 6, here.at(QUERIES) + thread / 6 * (QUERY_LD * 2) + thread % 6 * 16);
    }

    __device__ __forceinline__ void ask_memory(const DitMemory& m, u8* now, Chunk (&chunks)[2]) {
        if (threadIdx.x == 0) expect_bytes(here.sums(SUMS_A), SUMS_BYTES / 2);
        if (warp * 16 < m.keys) read_memory(m, warp, chunks[0]);
        if ((warp + 8) * 16 < m.keys) read_memory(m, warp + 8, chunks[1]);
        float4 c = make_float4(0, 0, 0, 0);
        if (warp < 6) c = constants(p.own, 3 * HIDDEN, own_columns());
        multiply_narrow(0, SUMS_A);
        here.wait(here.norms(0), block & 1);
        here.wait(here.sums(SUMS_A), block / 2 & 1);
        if (warp < 6) publish_rows(now + QUERY, HIDDEN * 2, own_rows(), own_columns(), normalized(0, own_rows(), gather(SUMS_A, warp / 3, warp % 3), c));
        meet_head(now);
        take_queries(now, threadIdx.x);
        barrier<1, MULTIPLIERS>();
    }

    __device__ __forceinline__ void ask_own(u8* now, Chunk (&chunks)[2]) {
        // Nine times eight columns: the last warp's share is empty.
        const u32 first = part() * 3;
        float4 c[3];
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            const u32 columns = min(first + i, 8u);
            c[i] = constants(p.own, 3 * HIDDEN, columns / 3 * HIDDEN + here.pair * OWN + columns % 3 * 8);
        }
        float4 v[3];
        multiply_wide<72>(0, SUMS_A, (block / 2 + block) & 1, v);
        here.wait(here.norms(0), block & 1);
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            const u32 columns = first + i;
            if (first < 9) publish_rows(now + QUERY + columns / 3 * STREAM_BYTES, HIDDEN * 2, warp % 4, here.pair * OWN + columns % 3 * 8, normalized(0, warp % 4, v[i], c[i]));
        }
        // All of x has been multiplied, too: keys and values take its place.
        meet_head(now);
        {
            // Keys and values of 64 rows, three times 16 bytes a thread; queries.
            const u8* from[4];
            u32 to[4];
            bool there[4];
#pragma unroll
            for (int i = 0; i < 3; ++i) {
                const u32 index = threadIdx.x + i * MULTIPLIERS, of = index / 12, part = index % 12;
                from[i] = now + (part < 6 ? KEY : VALUE) + of * HIDDEN * 2 + here.pair / 2 * (HEAD_DIM * 2) + part % 6 * 16;
                to[i] = here.at(part < 6 ? KEYS : VALUES) + of * (HEAD_DIM * 2) + part % 6 * 16;
                there[i] = of < here.rows;
            }
            const u32 query = here.rank * 32 + here.pair % 2 * 16 + threadIdx.x / 6;
            from[3] = now + QUERY + query * HIDDEN * 2 + here.pair / 2 * (HEAD_DIM * 2) + threadIdx.x % 6 * 16;
            to[3] = here.at(QUERIES) + threadIdx.x / 6 * (QUERY_LD * 2) + threadIdx.x % 6 * 16;
            there[3] = threadIdx.x < 96 && query < here.rows;
            uint4 x[4] = {};
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (there[i]) x[i] = read_fresh(from[i]);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                u32 tries = 0;
#pragma unroll 1
                while (!is_set(x[i]) && here.patient(tries)) x[i] = read_fresh(from[i]);
                if (i < 3 || threadIdx.x < 96) store_shared_words(to[i], x[i]);
            }
        }
        barrier<1, MULTIPLIERS>();
        if (warp < 4) read_own(warp, chunks[0]);
    }
};
