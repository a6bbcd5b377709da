// The warps of `dit_persistent.cu` that fetch what is multiplied.
#pragma once

#include "dit_products.cuh"

// A thread has 16 bytes of two rows of each tile: eight threads read a row's 128 bytes.
struct Loader {
    const Here& here;
    u32 row[2], chunk, warp, lane;
    u32 phase = 0;

    __device__ Loader(const Here& h) : here(h) {
        const u32 thread = threadIdx.x - MULTIPLIERS;
        lane = thread % 32, warp = uniform(thread / 32), chunk = lane % 8;
        row[0] = warp * 4 + lane / 8, row[1] = row[0] + 28;
    }

    // Moments of eight of this rank's rows as they lie in memory, of their 64 times 24 columns: eight threads a row.
    struct Moments {
        const u8* from[2];
        uint4 v[2][4];
        __device__ __forceinline__ void read() {
#pragma unroll
            for (int i = 0; i < 8; ++i) v[i / 4][i % 4] = read_fresh(from[i / 4] + i % 4 * 128);
        }
        __device__ __forceinline__ bool are_set() const {
            bool all = true;
#pragma unroll
            for (int i = 0; i < 8; ++i) all &= is_set(v[i / 4][i % 4]);
            return all;
        }
    };

    __device__ __forceinline__ Moments ask_moments(const u8* moments, u32 group) const {
        Moments m;
#pragma unroll
        for (int i = 0; i < 2; ++i) m.from[i] = moments + min(here.rank * 32 + group * 8 + i * 4 + lane / 8, here.rows - 1) * PAIRS * 8 + chunk * 16;
        m.read();
        return m;
    }

    // Mean and deviation of their rows, for both ranks.
    __device__ __forceinline__ void finish_moments(Moments& m, float eps, u32 kind, u32 group) const {
        const uint4 (&v)[2][4] = m.v;
        u32 tries = 0;
#pragma unroll 1
        while (!m.are_set() && here.patient(tries)) m.read();
        __syncwarp();
        // These rows and as many of the other rank's.
        if (lane == 0) expect_bytes(here.norms(kind), 16 * 8);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float sum = 0, squares = 0;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                sum += __uint_as_float(v[i][j].x) + __uint_as_float(v[i][j].z);
                squares += __uint_as_float(v[i][j].y) + __uint_as_float(v[i][j].w);
            }
#pragma unroll
            for (int lanes = 1; lanes < 8; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
            const float mean = sum / PAIRS;
            float between = 0;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float a = __uint_as_float(v[i][j].x) - mean, b = __uint_as_float(v[i][j].z) - mean;
                between += a * a + b * b;
            }
            squares += OWN * between;
#pragma unroll
            for (int lanes = 1; lanes < 8; lanes *= 2) squares += __shfl_xor_sync(0xffffffffu, squares, lanes);
            const u32 to = here.at(NORMS) + (kind * 64 + here.rank * 32 + group * 8 + i * 4 + lane / 8) * 8;
            const float inverse = rsqrtf(squares / HIDDEN + eps);
            if (chunk < 2) send(of_rank(to, chunk), of_rank(here.norms(kind), chunk), mean, inverse);
        }
    }

    __device__ __forceinline__ void load(const Input& input, float eps) {
        const u8* from[2];
        u32 to[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            from[i] = input.buffer + min(row[i], here.rows - 1) * input.row_bytes + input.tile * (DEPTH * 2) + chunk * 16;
            to[i] = here.at(X_TILES) + row[i] * 128 + ((chunk ^ (row[i] & 7)) << 4);
        }
        if (warp == 0) {
            if (phase > 0) here.wait(here.x_free(), (phase - 1) & 1);
            if (lane < input.eighths) here.wait_for_count(input.counts + lane * COUNT_BYTES, GRID / 8);
            __syncwarp();
            if (elected()) {
#pragma unroll
                for (u32 box = 0; box < PLACES; ++box) fetch_box(here, input, box);
            }
            __syncwarp();
        }
        barrier<4, LOADERS>();
        if (input.moments != nullptr && warp >= 3) {
            Moments moments = ask_moments(input.moments, warp - 3);
            finish(from, to);
            finish_moments(moments, eps, input.norm, warp - 3);
        } else {
            finish(from, to);
        }
        ++phase;
    }

    // Tiles that have come: once all that should be there is, they are for those who multiply.
    __device__ __forceinline__ void finish(const u8* const (&from)[2], const u32 (&to)[2]) const {
#pragma unroll 1
        for (u32 box = 0; box < BOXES; ++box) {
            here.wait(here.x_raw(box), phase & 1);
            bool all = true;
#pragma unroll
            for (int i = 0; i < 2 * BOX; ++i) {
                // Another word of the 16 bytes in each of four rows, so that all of a warp's are in different banks.
                const u32 word = load_shared_word(to[i % 2] + (box % PLACES * BOX + i / 2) * X_BYTES + lane / 8 * 4);
                all &= word != UNSET || (i % 2 == 1 && row[1] >= here.rows);
            }
            if (!all) repair(from, to, box * BOX);
            __syncwarp();
            if (lane == 0) arrive(here.x_full(box));
        }
    }

    // The count ran ahead: reads this thread's part again until it is there.
    __device__ __forceinline__ void repair(const u8* const (&from)[2], const u32 (&to)[2], u32 first) const {
#pragma unroll 1
        for (u32 t = 0; t < BOX; ++t) {
            uint4 v[2];
            u32 tries = 0;
#pragma unroll 1
            do {
#pragma unroll
                for (int i = 0; i < 2; ++i) v[i] = read_fresh(from[i] + (first + t) * 128);
            } while (!(is_set(v[0]) && is_set(v[1])) && here.patient(tries));
#pragma unroll
            for (int i = 0; i < 2; ++i) store_shared_words(to[i] + (first % (PLACES * BOX) + t) * X_BYTES, v[i]);
        }
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
};

__device__ __forceinline__ void unset(u8* to) { *reinterpret_cast<uint4*>(to) = make_uint4(UNSET, UNSET, UNSET, UNSET); }

// This block's part of what was exchanged, to be written anew: 16 rows of 96 bytes, 32 rows of five times 48 and of 192.
__device__ __forceinline__ void unset_all(const Here& here, u8* exchange) {
    const u32 thread = threadIdx.x - MULTIPLIERS;
#pragma unroll 1
    for (u32 i = thread; i < 32 * 30; i += LOADERS) {
        const u32 row = here.rank * 32 + i / 30, chunk = i % 30;
        if (chunk < 27 && row >= here.rows) continue;
        if (chunk < 12) {
            unset(exchange + GELU_OUT + row * FF * 2 + here.pair * (WIDE * 2) + chunk * 16);
        } else if (chunk < 27) {
            const u32 kind = (chunk - 12) / 3;
            const u32 stream = kind < 3 ? kind * STREAM_BYTES : kind == 3 ? MIDDLE : END;
            unset(exchange + stream + row * HIDDEN * 2 + here.pair * (OWN * 2) + chunk % 3 * 16);
        } else {
            const u32 index = i / 30 * 3 + chunk - 27, of = here.rank * 32 + here.pair % 2 * 16 + index / 6;
            if (of < here.rows) unset(exchange + ATTENTION + of * HIDDEN * 2 + here.pair / 2 * (HEAD_DIM * 2) + index % 6 * 16);
        }
    }
    if (blockIdx.z == 0)
        for (u32 i = thread; i < (EXCHANGE_BYTES - COUNTS) / 16; i += LOADERS) unset(exchange + COUNTS + i * 16);
    const u32 row = here.rank * 32 + thread / 2;
    if (thread < 64 && row < here.rows)
        *reinterpret_cast<uint2*>(exchange + (thread % 2 ? END_MOMENTS : MIDDLE_MOMENTS) + (row * PAIRS + here.pair) * 8) = make_uint2(UNSET, UNSET);
}

__device__ __forceinline__ void load_inputs(const DitParams& p, const Here& here) {
    Loader loader(here);
    for (u32 block = 0; block < p.blocks; ++block) {
        const u8* now = p.exchange + (block % 2) * EXCHANGE_BYTES;
        u8* before = p.exchange + (block + 1) % 2 * EXCHANGE_BYTES;
#pragma unroll 1
        for (u32 phase = 0; phase < 4; ++phase) {
            loader.load(input_of(p, here, block, phase), p.eps);
        }
        // Once every block of the grid has come to the middle of this one of the DiT, all have read what the one before left.
        if (loader.lane < 8) here.wait_for_count(now + MIDDLE_COUNTS + loader.lane * COUNT_BYTES, GRID / 8);
        __syncwarp();
        unset_all(here, before);
        __threadfence();
    }
}
