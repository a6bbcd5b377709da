//! Connectors on the device. Mirrors `model/connector.rs`.

use super::builder::Builder;
use super::linear::{Fusion, Linear};
use super::norm::{Affine, Norm, NormAt, Rows};
use super::program::Tensor;
use super::weights::Layout;
use crate::Result;
use steadyhand_gr00t::model::connector::{self as model, Join};
use steadyhand_gr00t::ops::{Activation, Grid, Site};

/// Weights of a connector on the device.
pub struct Connector {
    norm: Affine,
    eps: f64,
    join: Join,
    fc1: Linear,
    fc2: Linear,
}

impl Connector {
    /// Lays the weights out.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn lay_out(layout: &mut Layout, w: &model::Connector, at: &Site) -> Result<Self> {
        if matches!(w.join, Join::PixelUnshuffle(side) if side != 2) {
            let what = format!("expected 2x2 patches to a token, found {:?}", w.join);
            return Err(steadyhand_gr00t::Error::Shape {
                site: at.to_string(),
                operation: "pixel_unshuffle",
                what,
            }
            .into());
        }
        Ok(Connector {
            norm: layout.affine(&w.norm, &(at / "norm"))?,
            eps: w.eps,
            join: w.join,
            fc1: layout.linear(&w.fc1, &(at / "fc1"))?,
            fc2: layout.linear(&w.fc2, at)?,
        })
    }
}

/// Patches `[batch * patches, vision_hidden]` to image tokens `[batch * patches / 4, text_hidden]`. The patches
/// are joined where the norm reads them, or where it puts them.
pub fn forward(
    b: &mut Builder,
    w: &Connector,
    patches: &Tensor,
    grids: &[Grid],
    at: &Site,
) -> Result<Tensor> {
    let (count, rows) = match w.join {
        Join::PixelUnshuffle(side) => {
            let joined = joined_patches(grids, b.batch);
            let joined = Some(b.constant_indices(joined.iter().flatten().copied())?);
            (side * side, Rows { joined, ..Rows::default() })
        }
        Join::InOrder { count, norm_first: true } => (count, Rows { group: count, ..Rows::default() }),
        Join::InOrder { count, norm_first: false } => (count, Rows { parts: count, ..Rows::default() }),
    };
    let element = b.operand(&(at / "norm"), &[at / "fc1"])?;
    let h = b.tensor(patches.rows / count, patches.features * count, element)?;
    let norm = NormAt { norm: Norm::Layer, affine: Some(&w.norm), eps: w.eps, site: at / "norm" };
    b.norm_into(patches, norm, None, rows, &h)?;
    let element = b.operand(&(at / "gelu"), std::slice::from_ref(at))?;
    let h = b.linear(&w.fc1, &h, element, at / "fc1", Fusion::Activate(Activation::Gelu, at / "gelu"))?;
    let element = b.storage(at)?;
    b.linear(&w.fc2, &h, element, at.clone(), Fusion::Store)
}

/// The four patches of each token, image by image, row by row.
fn joined_patches(grids: &[Grid], batch: usize) -> Vec<[u32; 4]> {
    let mut joined = Vec::new();
    let mut first = 0;
    for grid in std::iter::repeat_n(grids, batch).flatten() {
        let patch = |row: usize, col: usize| (first + row * grid.cols + col) as u32;
        for row in (0..grid.rows).step_by(2) {
            let corners = (0..grid.cols).step_by(2);
            joined.extend(corners.map(|col| {
                [patch(row, col), patch(row, col + 1), patch(row + 1, col), patch(row + 1, col + 1)]
            }));
        }
        first += grid.patches();
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_joined_two_by_two_in_every_image() {
        let grids = [Grid::by_rows(2, 4), Grid::by_rows(2, 2)];
        let expected = vec![[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 10, 11]];
        assert_eq!(joined_patches(&grids, 1), expected);
        assert_eq!(joined_patches(&grids, 2)[3], [12, 13, 16, 17]);
    }
}
