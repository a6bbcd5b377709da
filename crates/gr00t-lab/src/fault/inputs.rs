//! Faults made before the model: in noise, images and states.

use super::Fault;
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::noise;
use steadyhand_gr00t::processor::PixelValues;

/// Changes an input as `fault` says.
pub(super) fn damage(fault: &Fault, input: &mut ModelInput) {
    match fault {
        Fault::UnpairedNoise { seed } => {
            // Another draw for each inference, as an engine with a generator of its own would make.
            let inference = input.noise.data.first().map_or(0, |value| value.to_bits());
            input.noise = noise::gaussian(*seed, 0, inference, input.noise.rows, input.noise.cols);
        }
        Fault::ChannelOrder => input.images.iter_mut().for_each(exchange_red_and_blue),
        Fault::ShiftedPixels => input.images.iter_mut().for_each(shift_half_a_pixel),
        Fault::OtherStatistics { spread } => {
            for (dimension, value) in input.state.data.iter_mut().enumerate() {
                // Padding stays zero: it was never normalized.
                if *value != 0.0 {
                    *value = *value * (1.0 + spread * wobble(dimension)) + spread * wobble(dimension + 1000);
                }
            }
        }
        _ => {}
    }
}

fn exchange_red_and_blue(image: &mut PixelValues) {
    let plane = image.height * image.width;
    let (red, rest) = image.data.split_at_mut(plane);
    red.swap_with_slice(&mut rest[plane..2 * plane]);
}

/// Every pixel becomes the mean of itself and its right neighbour.
fn shift_half_a_pixel(image: &mut PixelValues) {
    for row in image.data.chunks_exact_mut(image.width) {
        for x in 0..row.len() - 1 {
            row[x] = 0.5 * (row[x] + row[x + 1]);
        }
    }
}

/// A fixed value in [-1, 1] for each index.
pub(super) fn wobble(index: usize) -> f32 {
    let mixed = (index as u32).wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995;
    let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x85eb_ca6b);
    (mixed >> 8) as f32 / 8_388_608.0 - 1.0
}
