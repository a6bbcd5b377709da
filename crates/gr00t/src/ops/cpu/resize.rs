//! Antialiased bilinear resizing, as `torch.nn.functional.interpolate(mode="bilinear", antialias=True,
//! align_corners=False)`: columns first, then rows, in f32.

use super::super::Grid;

/// Resizes a `[side, side, features]` table to `[grid.rows, grid.cols, features]`.
pub(super) fn bilinear(table: &[f32], side: usize, grid: Grid, features: usize) -> Vec<f32> {
    let columns = taps(side, grid.cols);
    let mut wide = vec![0.0; side * grid.cols * features];
    for row in 0..side {
        for (col, (first, weights)) in columns.iter().enumerate() {
            let out = &mut wide[(row * grid.cols + col) * features..][..features];
            for (i, weight) in weights.iter().enumerate() {
                let source = &table[(row * side + first + i) * features..][..features];
                out.iter_mut().zip(source).for_each(|(out, value)| *out += weight * value);
            }
        }
    }
    let rows = taps(side, grid.rows);
    let mut resized = vec![0.0; grid.patches() * features];
    let line = grid.cols * features;
    for (row, (first, weights)) in rows.iter().enumerate() {
        let out = &mut resized[row * line..][..line];
        for (i, weight) in weights.iter().enumerate() {
            let source = &wide[(first + i) * line..][..line];
            out.iter_mut().zip(source).for_each(|(out, value)| *out += weight * value);
        }
    }
    resized
}

/// For each output position, the first input position and the weights from there on.
fn taps(inputs: usize, outputs: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = inputs as f32 / outputs as f32;
    let support = scale.max(1.0);
    (0..outputs)
        .map(|output| {
            let center = scale * (output as f32 + 0.5);
            let first = (center - support + 0.5).max(0.0) as usize;
            let last = ((center + support + 0.5) as usize).min(inputs);
            let weights: Vec<f32> = (first..last)
                .map(|input| (1.0 - ((input as f32 - center + 0.5) / support).abs()).max(0.0))
                .collect();
            let total: f32 = weights.iter().sum();
            (first, weights.iter().map(|weight| weight / total).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_size_changes_nothing() {
        let table: Vec<f32> = (0..4 * 4 * 3).map(|i| i as f32).collect();
        assert_eq!(bilinear(&table, 4, Grid { rows: 4, cols: 4 }, 3), table);
    }

    #[test]
    fn a_constant_stays_constant_at_every_size() {
        for (rows, cols) in [(1, 1), (3, 7), (18, 5), (40, 2)] {
            let resized = bilinear(&[2.5; 16 * 16], 16, Grid { rows, cols }, 1);
            assert!(resized.iter().all(|value| (value - 2.5).abs() < 1e-6), "{rows}x{cols}");
        }
    }
}
