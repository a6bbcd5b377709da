// Images to rows of patches. A patch is a row of pixels in the order row, column, channel; with CHANNELS_FIRST channel, frame,
// row, column. Patches follow each other in squares of SQUARE a side, row by row inside each. The last frame of an image stands
// for those that it lacks.
//
// Compiled for: EIGHT_BITS; CHANNELS_FIRST, SQUARE.
#include "machine.cuh"
#include "params.cuh"

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS) patches(const __grid_constant__ PatchesParams p) {
    const u32 features = p.size * p.size * p.frames * 3, index = blockIdx.x * THREADS + threadIdx.x;
    const u32 feature = index % features, row = index / features;
    allow_next_kernel();
    wait_for_earlier_kernels();
    if (row >= p.rows) return;
    u32 number = p.image_count - 1;
    while (p.images[number].first_row > row % p.item_rows) --number;
    const PatchImage image = p.images[number];
    const u32 patch = row % p.item_rows - image.first_row, across = image.width / p.size / SQUARE;
    const u32 square = patch / (SQUARE * SQUARE), inside = patch % (SQUARE * SQUARE);
    const u32 left = (square % across * SQUARE + inside % SQUARE) * p.size, top = (square / across * SQUARE + inside / SQUARE) * p.size;
    const u32 pixel = CHANNELS_FIRST ? feature % (p.size * p.size) : feature / 3;
    const u32 plane_of_patch = feature / (p.size * p.size);
    const u32 channel = CHANNELS_FIRST ? plane_of_patch / p.frames : feature % 3;
    const u32 frame = CHANNELS_FIRST ? min(plane_of_patch % p.frames, image.frames - 1) : 0;
    const u32 x = left + pixel % p.size, y = top + pixel / p.size;
    const size_t plane = (size_t(row / p.item_rows) * image.frames + frame) * 3 + channel;
    const float value = round_to(p.format, image.pixels[(plane * image.height + y) * image.width + x]);
    store(p.out, p.out_element, size_t(row) * p.out_ld + feature, value);
    if (p.tap != nullptr) p.tap[index] = value;
}
