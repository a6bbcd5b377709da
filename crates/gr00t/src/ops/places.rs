//! Where tokens stand: patches in an image, image tokens in a prompt, and how heads are rotated by that.

use super::Tokens;

/// Rows and columns of patches of one image, and the order in which they follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Patches from top to bottom.
    pub rows: usize,
    /// Patches from left to right.
    pub cols: usize,
    /// Patches of a side of the squares that they are walked in: square by square and row by row inside each. 1 walks
    /// the whole image row by row. A divisor of both sides.
    pub block: usize,
}

impl Grid {
    /// Patches walked row by row.
    pub fn by_rows(rows: usize, cols: usize) -> Self {
        Grid { rows, cols, block: 1 }
    }

    /// Number of patches.
    pub fn patches(self) -> usize {
        self.rows * self.cols
    }

    /// Row and column of each patch, in their order.
    pub fn places(self) -> impl Iterator<Item = [usize; 2]> {
        let Grid { rows, cols, block } = self;
        let corners = (0..rows / block).flat_map(move |row| (0..cols / block).map(move |col| [row, col]));
        corners.flat_map(move |[row, col]| {
            (0..block * block).map(move |at| [row * block + at / block, col * block + at % block])
        })
    }

    /// The grid of the squares, walked row by row.
    pub fn blocks(self) -> Grid {
        Grid::by_rows(self.rows / self.block, self.cols / self.block)
    }
}

/// Where the tokens of a sequence stand, in up to three coordinates.
#[derive(Debug, Clone, Copy)]
pub enum Places<'a> {
    /// Tokens of the prompt, counted from 0, in the first coordinate.
    Sequence,
    /// Tokens of a prompt whose images have rows and columns. A text token counts on from the largest coordinate before
    /// it and has it three times. The tokens of an image that would begin at `s` have `s`, `s + row` and `s + column`.
    Prompt {
        /// The tokens that stand for images, those of each image in a row.
        images: &'a Tokens,
        /// The grid of image tokens of each image.
        grids: &'a [Grid],
    },
    /// Patches of images: row and column in its own image.
    Patches(&'a [Grid]),
}

impl Places<'_> {
    /// The coordinates of the first `tokens` tokens; what has no place of its own counts on as text does.
    pub fn coordinates(&self, tokens: usize) -> Vec<[usize; 3]> {
        match self {
            Places::Sequence => (0..tokens).map(|at| [at, 0, 0]).collect(),
            Places::Patches(grids) => {
                let places = grids.iter().flat_map(|grid| grid.places());
                places.map(|[row, col]| [row, col, 0]).take(tokens).collect()
            }
            Places::Prompt { images, grids } => prompt(images, grids, tokens),
        }
    }
}

/// Source: `get_rope_index` in `modeling_qwen3_vl.py`.
fn prompt(images: &Tokens, grids: &[Grid], tokens: usize) -> Vec<[usize; 3]> {
    let mut places = Vec::with_capacity(tokens);
    let mut indices = images.indices.iter().copied();
    let mut next = 0;
    for grid in grids {
        let Some(first) = indices.next() else { break };
        while places.len() < first {
            places.push([next; 3]);
            next += 1;
        }
        places.extend(grid.places().map(|[row, col]| [next, next + row, next + col]));
        next += grid.rows.max(grid.cols);
        if let Some(others) = grid.patches().checked_sub(2) {
            indices.nth(others);
        }
    }
    while places.len() < tokens {
        places.push([next; 3]);
        next += 1;
    }
    places
}

/// The rotation of the two halves of every head (RoPE): pair `i` of features, one of each half, turns by its frequency
/// times one coordinate of the token's place.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Features of one head.
    pub head_dim: usize,
    /// The frequency of each pair, `head_dim / 2` of them.
    pub frequencies: Vec<f32>,
    /// Which coordinate each pair turns by, as many.
    pub axes: Vec<usize>,
    /// What is stored on the way.
    pub stores: Stores,
}

/// What a rotation rounds to the storage format besides frequencies, cosines, sines and its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stores {
    /// Each product; angles are f32.
    Products,
    /// The angles; products are f32.
    Angles,
}

impl Rotary {
    /// All pairs turn by the first coordinate.
    pub fn plain(head_dim: usize, theta: f64) -> Self {
        let frequencies = Rotary::frequencies(head_dim / 2, theta);
        Rotary { head_dim, frequencies, axes: vec![0; head_dim / 2], stores: Stores::Products }
    }

    /// `theta^(-i / count)`, `count` of them.
    pub fn frequencies(count: usize, theta: f64) -> Vec<f32> {
        (0..count).map(|i| (1.0 / theta.powf(2.0 * i as f64 / (2 * count) as f64)) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Part;

    #[test]
    fn blocks_are_walked_one_after_the_other() {
        let places: Vec<[usize; 2]> = Grid { rows: 2, cols: 4, block: 2 }.places().collect();
        assert_eq!(places, [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]]);
        let places: Vec<[usize; 2]> = Grid::by_rows(2, 2).places().collect();
        assert_eq!(places, [[0, 0], [0, 1], [1, 0], [1, 1]]);
    }

    #[test]
    fn text_goes_on_behind_the_longer_side_of_an_image() {
        let images = Tokens { part: Part::Images, indices: vec![1, 2, 3, 5] };
        let grids = [Grid::by_rows(1, 3), Grid::by_rows(1, 1)];
        let places = Places::Prompt { images: &images, grids: &grids }.coordinates(7);
        let expected = [[0, 0, 0], [1, 1, 1], [1, 1, 2], [1, 1, 3], [4, 4, 4], [5, 5, 5], [6, 6, 6]];
        assert_eq!(places, expected);
        let none = Tokens { part: Part::Images, indices: Vec::new() };
        let text = Places::Prompt { images: &none, grids: &[] }.coordinates(3);
        assert_eq!(text, [[0; 3], [1; 3], [2; 3]]);
    }
}
