//! Resizing of position tables.

use super::super::Grid;
use steadyhand_fidelity::Format;

/// Resizes a `[side, side, features]` table to `[grid.rows, grid.cols, features]`, antialiased, as
/// `torch.nn.functional.interpolate(mode="bilinear", antialias=True, align_corners=False)`: columns first, then rows, in
/// f32.
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

/// `[rows, cols, features]` in the order of the grid's patches.
pub(super) fn in_order(table: Vec<f32>, grid: Grid, features: usize) -> Vec<f32> {
    if grid.block == 1 {
        return table;
    }
    let places = grid.places().map(|[row, col]| (row * grid.cols + col) * features);
    places.flat_map(|start| &table[start..start + features]).copied().collect()
}

/// Resizes a `[side, side, features]` table to a grid's patches, in their order, the ends of both lying on each other.
/// Weights are computed in f32; they, the products and the sums are stored.
/// Source: `fast_pos_embed_interpolate` in `modeling_qwen3_vl.py`.
pub(super) fn aligned(table: &[f32], side: usize, grid: Grid, features: usize, storage: Format) -> Vec<f32> {
    let [rows, cols] = [grid.rows, grid.cols].map(|count| between(side, count));
    let mut values = vec![0.0; grid.patches() * features];
    for ([row, col], out) in grid.places().zip(values.chunks_exact_mut(features)) {
        let ((top, bottom, dy), (left, right, dx)) = (rows[row], cols[col]);
        let corners = [
            (top, left, (1.0 - dy) * (1.0 - dx)),
            (top, right, (1.0 - dy) * dx),
            (bottom, left, dy * (1.0 - dx)),
            (bottom, right, dy * dx),
        ];
        for (y, x, weight) in corners {
            let (source, weight) = (&table[(y * side + x) * features..][..features], storage.round(weight));
            for (out, value) in out.iter_mut().zip(source) {
                *out = storage.round(*out + storage.round(weight * value));
            }
        }
    }
    values
}

/// For each of `count` points spread over `0..side`, the neighbours on both sides and the share of the second.
fn between(side: usize, count: usize) -> Vec<(usize, usize, f32)> {
    let points = linspace(side, count).into_iter();
    let neighbours = |point: f32| {
        let floor = point as usize;
        (floor, (floor + 1).min(side - 1), point - floor as f32)
    };
    points.map(neighbours).collect()
}

/// `torch.linspace(0, side - 1, count)`: the second half is counted back from the end, in one rounding.
fn linspace(side: usize, count: usize) -> Vec<f32> {
    let end = (side - 1) as f32;
    if count < 2 {
        return vec![0.0; count];
    }
    let step = end / (count - 1) as f32;
    let point = |i: usize| {
        if i < count / 2 { step * i as f32 } else { (-step).mul_add((count - 1 - i) as f32, end) }
    };
    (0..count).map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_size_changes_nothing() {
        let table: Vec<f32> = (0..4 * 4 * 3).map(|i| i as f32).collect();
        assert_eq!(bilinear(&table, 4, Grid::by_rows(4, 4), 3), table);
    }

    #[test]
    fn a_constant_stays_constant_at_every_size() {
        for (rows, cols) in [(1, 1), (3, 7), (18, 5), (40, 2)] {
            let resized = bilinear(&[2.5; 16 * 16], 16, Grid::by_rows(rows, cols), 1);
            assert!(resized.iter().all(|value| (value - 2.5).abs() < 1e-6), "{rows}x{cols}");
        }
    }

    #[test]
    fn aligned_ends_are_the_tables() {
        // Every fourth point of a 9x9 table, and what lies between its first two: a quarter and three quarters.
        let table: Vec<f32> = (0..81).map(|i| i as f32).collect();
        let whole = aligned(&table, 9, Grid::by_rows(3, 3), 1, Format::F32);
        assert_eq!(whole, [0.0, 4.0, 8.0, 36.0, 40.0, 44.0, 72.0, 76.0, 80.0]);
        assert_eq!(aligned(&table[..4], 2, Grid::by_rows(1, 5), 1, Format::F32), [0.0, 0.25, 0.5, 0.75, 1.0]);
        let blocks = aligned(&table, 9, Grid { rows: 2, cols: 4, block: 2 }, 1, Format::F32);
        let (a, b) = (8.0f32 / 3.0, 16.0f32 / 3.0);
        for (found, expected) in blocks.iter().zip([0.0, a, 72.0, 72.0 + a, b, 8.0, 72.0 + b, 80.0]) {
            assert!((found - expected).abs() < 1e-5, "{blocks:?}");
        }
    }

    #[test]
    fn points_behind_the_middle_are_counted_from_the_end() {
        let points = linspace(48, 16);
        assert_eq!((points[0], points[15]), (0.0, 47.0));
        let step = 47.0f32 / 15.0;
        assert_eq!(points[13], (47.0 - 2.0 * f64::from(step)) as f32);
    }
}
