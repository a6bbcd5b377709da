//! RoPE that turns otherwise.

use super::change::{Numbering, Rotation};
use steadyhand_fidelity::Format;
use steadyhand_gr00t::ops::cpu::{Tensor, rotary_turns};
use steadyhand_gr00t::ops::{Rotary, Stores};

/// `x` turned by its places, but for `other`.
pub(crate) fn turned(
    x: &Tensor,
    rotary: &Rotary,
    places: &[[usize; 3]],
    storage: Format,
    other: Rotation,
) -> Vec<f32> {
    let Rotary { head_dim, .. } = *rotary;
    let half = head_dim / 2;
    let turns = match other {
        Rotation::HalfOfHead => {
            let every_other = |values: &[f32]| values.iter().step_by(2).copied().collect();
            let frequencies: Vec<f32> = every_other(&rotary.frequencies);
            let axes = rotary.axes.iter().step_by(2).copied().collect();
            let part = Rotary { head_dim: 2 * frequencies.len(), frequencies, axes, stores: rotary.stores };
            rotary_turns(&part, places, storage)
        }
        _ => rotary_turns(rotary, places, storage),
    };
    let width = turns.len() / places.len().max(1);
    let pairs = width / 2;
    let stored = if rotary.stores == Stores::Products { storage } else { Format::F32 };
    let mut values = x.values().to_vec();
    for (row, token) in values.chunks_exact_mut(x.shape()[2]).enumerate() {
        let (cosines, sines) = turns[row % places.len() * width..][..width].split_at(pairs);
        for head in token.chunks_exact_mut(head_dim) {
            for (i, (cos, sin)) in cosines.iter().zip(sines).enumerate() {
                let (cos, sin) = match other {
                    Rotation::Backwards => (*cos, -*sin),
                    Rotation::SinesForCosines => (*sin, *cos),
                    _ => (*cos, *sin),
                };
                let (first, second) = match other {
                    Rotation::Neighbours => (2 * i, 2 * i + 1),
                    Rotation::HalfOfHead => (i, pairs + i),
                    _ => (i, half + i),
                };
                let (a, b) = (head[first], head[second]);
                head[first] = stored.round(a * cos) + stored.round(-b * sin);
                head[second] = stored.round(b * cos) + stored.round(a * sin);
            }
        }
    }
    values
}

/// Positions of tokens of which those at `images`, in ascending order, are of images.
pub(crate) fn numbered(tokens: usize, images: &[usize], other: Numbering) -> Vec<[usize; 3]> {
    let is_image = |at: usize| images.binary_search(&at).is_ok();
    let (mut places, mut next) = (Vec::with_capacity(tokens), 0);
    for at in 0..tokens {
        let (image, before) = (is_image(at), at > 0 && is_image(at - 1));
        match other {
            Numbering::FromImage if image && !before => next = 0,
            Numbering::BehindImage if !image && before => next = 0,
            Numbering::ImageAsOne if image && before => next -= 1,
            _ => {}
        }
        places.push([next; 3]);
        next += usize::from(!(other == Numbering::WithoutImages && image));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_numbered_by_where_images_stand() {
        let of = |other| numbered(6, &[2, 3], other).into_iter().map(|[at, ..]| at).collect::<Vec<_>>();
        assert_eq!(of(Numbering::FromImage), [0, 1, 0, 1, 2, 3]);
        assert_eq!(of(Numbering::BehindImage), [0, 1, 2, 3, 0, 1]);
        assert_eq!(of(Numbering::ImageAsOne), [0, 1, 2, 2, 3, 4]);
        assert_eq!(of(Numbering::WithoutImages), [0, 1, 2, 2, 2, 3]);
    }

    /// One head of four features at position 1, by a frequency of 1 and one of 0.
    #[test]
    fn a_head_is_turned_in_other_pairs() {
        let rotary = Rotary {
            head_dim: 4,
            frequencies: vec![std::f32::consts::FRAC_PI_2, 0.0],
            axes: vec![0; 2],
            stores: Stores::Products,
        };
        let x = Tensor::from_values([1, 1, 4], vec![1.0, 2.0, 3.0, 4.0]).expect("four values");
        let of = |other| {
            turned(&x, &rotary, &[[1; 3]], Format::F32, other).iter().map(|x| x.round()).collect::<Vec<_>>()
        };
        assert_eq!(of(Rotation::Neighbours), [-2.0, 1.0, 3.0, 4.0]);
        assert_eq!(of(Rotation::Backwards), [3.0, 2.0, -1.0, 4.0]);
        assert_eq!(of(Rotation::SinesForCosines), [1.0, -4.0, 3.0, 2.0]);
        assert_eq!(of(Rotation::HalfOfHead), [-2.0, 1.0, 3.0, 4.0]);
    }
}
