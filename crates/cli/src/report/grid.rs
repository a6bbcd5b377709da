//! The grid of a picture's panels: how many columns, and where each panel lies.

use super::canvas::Area;

/// Least logical width of the picture; a README shows it at about this width.
const WIDTH: f32 = 1200.0;
/// Width over height of the whole picture, between 4:3 and 16:10.
const ASPECT: f32 = 1.52;
/// Least logical width of a panel, below which the picture grows.
const LEAST_PANEL: f32 = 180.0;
/// Width over height at which a panel shows a time series best.
const PANEL_ASPECT: f32 = 1.6;
/// How much a cell left empty counts against a panel's poor shape.
const EMPTY_WEIGHT: f32 = 2.0;
/// White around everything.
pub const MARGIN: f32 = 18.0;
/// Room for the header, above the panels.
const HEADER: f32 = 56.0;
/// Room for the labels of the time axis, below the panels.
const FOOTER: f32 = 14.0;
/// Between panels.
const GAP: f32 = 9.0;
/// Where the panels lie.
pub struct Grid {
    /// Row and column of each panel.
    places: Vec<(usize, usize)>,
    pub width: f32,
    pub height: f32,
    cell_width: f32,
    cell_height: f32,
}

impl Grid {
    /// The number of columns that gives panels the best shape at the picture's fixed one, with few cells empty.
    pub fn of(groups: &[&str]) -> Self {
        let rows = |places: &[(usize, usize)]| places.last().map_or(1, |(row, _)| row + 1);
        let badness = |columns: &usize| {
            let rows = rows(&wrap(groups, *columns));
            let shape = ASPECT * rows as f32 / *columns as f32 / PANEL_ASPECT;
            let empty = (rows * columns) as f32 / groups.len() as f32 - 1.0;
            shape.ln().abs() + EMPTY_WEIGHT * empty
        };
        let columns = (1..=groups.len()).min_by(|a, b| badness(a).total_cmp(&badness(b))).unwrap_or(1);
        let places = wrap(groups, columns);

        let width = WIDTH.max(LEAST_PANEL * columns as f32);
        let height = (width / ASPECT).round();
        let share = |room: f32, count: usize| (room - GAP * (count - 1) as f32) / count as f32;
        let cell_width = share(width - 2.0 * MARGIN, columns);
        let cell_height = share(height - 2.0 * MARGIN - HEADER - FOOTER, rows(&places));
        Self { places, width, height, cell_width, cell_height }
    }

    pub fn cell(&self, index: usize) -> Area {
        let (row, column) = self.places[index];
        Area {
            x: MARGIN + column as f32 * (self.cell_width + GAP),
            y: MARGIN + HEADER + row as f32 * (self.cell_height + GAP),
            width: self.cell_width,
            height: self.cell_height,
        }
    }

    /// Whether nothing lies below the panel in its column: it carries the labels of the time axis.
    pub fn is_lowest(&self, index: usize) -> bool {
        let (_, column) = self.places[index];
        self.places[index + 1..].iter().all(|place| place.1 != column)
    }
}

/// Row and column of each panel when groups wrap as words do: one that no longer fits begins a row.
fn wrap(groups: &[&str], columns: usize) -> Vec<(usize, usize)> {
    let (mut row, mut column) = (0, 0);
    let mut places = Vec::with_capacity(groups.len());
    for group in groups.chunk_by(|a, b| a == b) {
        let overflows = column + group.len() > columns;
        for index in 0..group.len() {
            if column == columns || (index == 0 && overflows && column > 0) {
                (row, column) = (row + 1, 0);
            }
            places.push((row, column));
            column += 1;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(grid: &Grid) -> usize {
        1 + grid.places.iter().map(|place| place.1).max().unwrap()
    }

    #[test]
    fn groups_begin_rows_and_small_ones_share_one() {
        let arms = [vec!["left_arm"; 7], vec!["right_arm"; 7], vec!["left_hand"; 6], vec!["right_hand"; 6]];
        let grid = Grid::of(&arms.concat());
        assert_eq!(columns(&grid), 7);
        assert_eq!([0, 7, 14, 20].map(|panel| grid.places[panel]), [(0, 0), (1, 0), (2, 0), (3, 0)]);
        // The last column is one panel short in the lower rows: its labels stand below the second.
        assert!(grid.is_lowest(13) && !grid.is_lowest(12) && grid.is_lowest(25));

        assert_eq!(wrap(&["x", "y", "z", "gripper"], 3), [(0, 0), (0, 1), (0, 2), (1, 0)]);
        assert_eq!(wrap(&["arm", "arm", "arm", "arm", "waist"], 3), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]);
    }

    #[test]
    fn any_number_of_panels_fits_the_picture() {
        for panels in 1..=100 {
            let grid = Grid::of(&vec!["action"; panels]);
            assert!((grid.width / grid.height - ASPECT).abs() < 0.01);
            assert!(grid.cell_width > 150.0 && grid.cell_height > 60.0, "{panels}: {}", grid.cell_height);
            let last = grid.cell(panels - 1);
            assert!(last.right() <= grid.width - MARGIN + 0.1 && last.bottom() < grid.height);
            assert_eq!((0..panels).filter(|&panel| grid.is_lowest(panel)).count(), columns(&grid));
        }
    }
}
