//! The initial noise of an inference, from a seed.
//!
//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) makes each value
//! from its coordinates alone, so the noise of an inference is the same on every engine and machine,
//! whatever ran before it, in whatever batch or thread:
//!
//! - key: the seed's low and high 32 bits;
//! - counter: `[block, inference, episode, 0]`, where `block` counts groups of four values of the row-major
//!   `[action_horizon, action_dim]` matrix and `inference` counts from 0 within the episode;
//! - the four 32-bit words `w0 w1 w2 w3` give two Box-Muller pairs: with `u = (w0 + 0.5) / 2³²` and
//!   `v = w1 / 2³²`, the values `sqrt(-2 ln u) cos(2πv)` and `sqrt(-2 ln u) sin(2πv)`, computed in f64 and
//!   rounded to f32; likewise from `w2` and `w3`.

use crate::observation::Matrix;
use std::f64::consts::TAU;

/// Standard normal noise `[rows, cols]` for one inference of one episode.
pub fn gaussian(seed: u64, episode: u32, inference: u32, rows: usize, cols: usize) -> Matrix {
    let key = [seed as u32, (seed >> 32) as u32];
    let count = rows * cols;
    let mut data = Vec::with_capacity(count + 3);
    for block in 0..count.div_ceil(4) {
        let [a, b, c, d] = philox([block as u32, inference, episode, 0], key);
        data.extend(box_muller(a, b));
        data.extend(box_muller(c, d));
    }
    data.truncate(count);
    Matrix { rows, cols, data }
}

fn box_muller(radius: u32, angle: u32) -> [f32; 2] {
    const SCALE: f64 = 1.0 / 4_294_967_296.0;
    let radius = libm::sqrt(-2.0 * libm::log((f64::from(radius) + 0.5) * SCALE));
    let angle = TAU * f64::from(angle) * SCALE;
    // libm instead of std: the same digits on every platform.
    [(radius * libm::cos(angle)) as f32, (radius * libm::sin(angle)) as f32]
}

/// Ten rounds of Philox4x32.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xd251_1f53;
        let b = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution.
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn the_noise_is_standard_normal_and_depends_on_every_coordinate() {
        let noise = gaussian(42, 3, 7, 200, 101);
        let n = noise.data.len() as f64;
        let mean = noise.data.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let variance = noise.data.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n;
        // Four standard errors of 20200 samples.
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
        for other in
            [gaussian(43, 3, 7, 200, 101), gaussian(42, 4, 7, 200, 101), gaussian(42, 3, 8, 200, 101)]
        {
            assert_ne!(noise.data[..4], other.data[..4]);
        }
        assert_eq!(noise.data[..10], gaussian(42, 3, 7, 2, 5).data[..]);
    }
}
