//! The CPU engine's tensor: f32 values of whatever format they were rounded to.

use std::sync::Arc;

/// `[batch, tokens, features]`, row-major, shared on clone.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub(super) shape: [usize; 3],
    pub(super) values: Arc<Vec<f32>>,
}

impl Tensor {
    pub(super) fn new(shape: [usize; 3], values: Vec<f32>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), values.len());
        Tensor { shape, values: Arc::new(values) }
    }

    /// A tensor of another engine's values; nothing where they are not as many as the shape says.
    pub fn from_values(shape: [usize; 3], values: Vec<f32>) -> Option<Self> {
        (shape.iter().product::<usize>() == values.len()).then(|| Tensor::new(shape, values))
    }

    /// Row-major values.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// `[batch, tokens, features]`.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    pub(super) fn features(&self) -> usize {
        self.shape[2]
    }

    /// `batch * tokens`.
    pub(super) fn rows(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// The features of one token; `batch` and `token` wrap around where this tensor has only one of them.
    pub(super) fn token(&self, batch: usize, token: usize) -> &[f32] {
        let row = (batch % self.shape[0]) * self.shape[1] + token % self.shape[1];
        &self.values[row * self.features()..(row + 1) * self.features()]
    }
}
