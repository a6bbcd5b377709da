//! What may change an inference of the reference from outside: its tensors, or what its operations are asked to do.

use super::Tensor;
use crate::checkpoint::Weight;
use crate::ops::{Activation, Mask, Operation, Site};
use std::ops::Range;
use steadyhand_fidelity::Format;

/// The factors of a matrix product.
#[derive(Debug, Clone)]
pub struct Product<'a> {
    /// `linear`, `category_linear` or `attention`.
    pub operation: Operation,
    /// The activations; queries, keys and values of an attention.
    pub operands: &'a [&'a [f32]],
    /// The weight, and which of its elements are multiplied; none in an attention.
    pub weight: Option<(&'a Weight, Range<usize>)>,
}

/// Interferes with an inference: replaces intermediate tensors, or what an operation was asked to do. With
/// the defaults nothing changes.
pub trait Intervention {
    /// Changes the result at `site` right after it was made, row-major `[batch, tokens, features]`. What comes
    /// later computes with the changed values, and a probe sees them.
    fn result(&self, _site: &Site, _shape: [usize; 3], _values: &mut [f32]) {}

    /// The result at `site` where it is known: the operation is not computed, and [`Intervention::result`] not asked. Cheap
    /// operations do not ask.
    fn known(&self, _site: &Site) -> Option<Tensor> {
        None
    }

    /// Sees what an operation multiplies, as it was handed to it.
    fn product(&self, _site: &Site, _product: &Product) {}

    /// The epsilon of a norm.
    fn eps(&self, _site: &Site, eps: f64) -> f64 {
        eps
    }

    /// The kind of a non-linearity.
    fn activation(&self, _site: &Site, kind: Activation) -> Activation {
        kind
    }

    /// The mask of an attention.
    fn mask(&self, _site: &Site, mask: &Mask) -> Mask {
        mask.clone()
    }

    /// The time, in buckets, that is encoded.
    fn time(&self, _site: &Site, bucket: usize) -> usize {
        bucket
    }

    /// The format of the angles in a time encoding.
    fn angles(&self, _site: &Site) -> Format {
        Format::F32
    }

    /// The embodiment slot of a category-specific layer.
    fn embodiment(&self, _site: &Site, slot: usize) -> usize {
        slot
    }
}

/// Changes nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoIntervention;

impl Intervention for NoIntervention {}
