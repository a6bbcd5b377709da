// The warps of `dit_persistent.cu` that fetch what is multiplied.
#pragma once

#include "dit_exchange.cuh"

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

    // Mean and deviation of eight of this rank's rows, from those of their 64 times 24 columns: eight threads a row.
    __device__ __forceinline__ void read_moments(const u8* moments, float eps, u32 kind, u32 group) {
        const u8* from[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) from[i] = moments + min(here.rank * 32 + group * 8 + i * 4 + lane / 8, here.rows - 1) * PAIRS * 8 + chunk * 16;
        uint4 v[2][4];
        auto read = [&] {
            bool all = true;
#pragma unroll
            for (int i = 0; i < 8; ++i) v[i / 4][i % 4] = read_fresh(from[i / 4] + i % 4 * 128);
#pragma unroll
            for (int i = 0; i < 8; ++i) all &= is_set(v[i / 4][i % 4]);
            return all;
        };
        u32 tries = 0;
#pragma unroll 1
        while (!read() && here.patient(tries)) {}
        __syncwarp();
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
            const u32 to = here.at(NORMS) + (kind * 32 + group * 8 + i * 4 + lane / 8) * 8;
            if (chunk == 0) store_shared(to, __float_as_uint(mean)), store_shared(to + 4, __float_as_uint(rsqrtf(squares / HIDDEN + eps)));
        }
        __syncwarp();
        if (lane == 0) arrive(here.norms(kind));
    }

    // What a phase multiplies: `first` of the tiles of `buffer`, rows of so many bytes; `map` and `map_row` say the same.
    struct Input {
        const TensorMap* map;
        u32 map_row;
        const u8* buffer;
        u32 row_bytes;
        u32 first;
        const u8* counts;   // by eighths of the grid, those that it needs
        u32 eighths;
        const u8* moments;  // of its rows, null where it is not normalized
        u32 norm;           // which one
    };

    __device__ __forceinline__ void load(const Input& input, float eps) {
        const u8* from[2];
        u32 to[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            from[i] = input.buffer + min(row[i], here.rows - 1) * input.row_bytes + input.first * (DEPTH * 2) + chunk * 16;
            to[i] = here.at(X_TILES) + row[i] * 128 + ((chunk ^ (row[i] & 7)) << 4);
        }
        if (warp == 0) {
#pragma unroll 1
            for (u32 box = 0; box < PLACES; ++box) wait_for_place(box);
            if (lane < input.eighths) here.wait_for_count(input.counts + lane * COUNT_BYTES, GRID / 8);
            __syncwarp();
            if (elected()) {
                asm volatile("fence.proxy.async.global;" ::: "memory");
#pragma unroll
                for (u32 box = 0; box < PLACES; ++box) fetch(input, box);
            }
            __syncwarp();
        }
        barrier<4, LOADERS>();
        if (input.moments != nullptr && warp >= 3) read_moments(input.moments, eps, input.norm, warp - 3);
#pragma unroll 1
        for (u32 box = 0; box < BOXES; ++box) {
            // A place is free again once its tiles are multiplied, for which the next box must have been there.
            const u32 later = box + PLACES - 2;
            if (later >= PLACES && later < BOXES && warp == 1 && elected()) wait_for_place(later), fetch(input, later);
            __syncwarp();
            finish(from, to, box);
        }
        ++phase;
    }

    // Boxes are numbered through all phases.
    __device__ __forceinline__ u32 place_of(u32 box) const { return (phase * BOXES + box) % PLACES; }

    // Until what was at a box's place has been multiplied.
    __device__ __forceinline__ void wait_for_place(u32 box) const {
        const u32 round = (phase * BOXES + box) / PLACES;
        if (round == 0) return;
#pragma unroll
        for (int i = 0; i < BOX; ++i) here.wait(here.x_empty(place_of(box) * BOX + i), (round - 1) & 1);
    }

    __device__ __forceinline__ void fetch(const Input& input, u32 box) const {
        const u32 place = place_of(box);
        expect_bytes(here.x_raw(place), BOX * X_BYTES);
        asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
                         here.at(X_TILES) + place * BOX * X_BYTES),
                     "l"(input.map), "r"(here.x_raw(place)), "r"(0), "r"(input.map_row), "r"(input.first + box * BOX)
                     : "memory");
    }

    // Tiles that have come: once all that should be there is, they are for those who multiply.
    __device__ __forceinline__ void finish(const u8* const (&from)[2], const u32 (&to)[2], u32 box) const {
        const u32 place = place_of(box);
        here.wait(here.x_raw(place), (phase * BOXES + box) / PLACES & 1);
        bool all = true;
#pragma unroll
        for (int i = 0; i < 2 * BOX; ++i) {
            const uint4 v = load_shared_words(to[i % 2] + (place * BOX + i / 2) * X_BYTES);
            all &= is_set(v) || (i % 2 == 1 && row[1] >= here.rows);
        }
        if (!all) repair(from, to, box * BOX, place * BOX);
        __syncwarp();
        if (lane < BOX) arrive(here.x_full(place * BOX + lane));
    }

    // The count ran ahead: reads this thread's part again until it is there.
    __device__ __forceinline__ void repair(const u8* const (&from)[2], const u32 (&to)[2], u32 first, u32 slot) const {
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
            for (int i = 0; i < 2; ++i) store_shared_words(to[i] + (slot + t) * X_BYTES, v[i]);
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
    const u32 first = here.rank * TILES;
    for (u32 block = 0; block < p.blocks; ++block) {
        u8* now = p.exchange + (block % 2) * EXCHANGE_BYTES;
        u8* before = p.exchange + (block + 1) % 2 * EXCHANGE_BYTES;
        const u32 eighth = here.pair % 4 * 2 + here.rank;
#pragma unroll 1
        for (u32 phase = 0; phase < 4; ++phase) {
            Loader::Input input = {(block % 2 == 0 ? &p.even_streams : &p.odd_streams), 0, now, HIDDEN * 2, first, now, 8, nullptr, 0};
            if (phase == 0) {
                input.map = block % 2 == 0 ? &p.odd_streams : &p.even_streams, input.map_row = END / (HIDDEN * 2), input.buffer = before + END;
                input.counts = before + END_COUNTS, input.moments = before + END_MOMENTS;
            } else if (phase == 1) {
                input.map_row = ATTENTION / (HIDDEN * 2), input.buffer = now + ATTENTION;
                input.counts = now + ATTENTION_COUNTS + here.rank * (4 * COUNT_BYTES), input.eighths = 4;
            } else if (phase == 2) {
                input.map_row = MIDDLE / (HIDDEN * 2), input.buffer = now + MIDDLE;
                input.counts = now + MIDDLE_COUNTS, input.moments = now + MIDDLE_MOMENTS, input.norm = 1;
            } else {
                input.map = block % 2 == 0 ? &p.even_gelus : &p.odd_gelus, input.buffer = now + GELU_OUT, input.row_bytes = FF * 2, input.first = eighth * TILES;
                input.counts = now + GELU_COUNTS + eighth * COUNT_BYTES, input.eighths = 1;
            }
            loader.load(input, p.eps);
        }
        // Every block of the grid has come to the middle of this one of the DiT, so all have read what the one before left.
        unset_all(here, before);
        __threadfence();
    }
}
