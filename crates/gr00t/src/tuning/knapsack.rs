//! The multiple-choice knapsack: of each group one choice, least cost within an error budget.
//!
//! Errors of groups are taken as independent, so their squares add up. The budget's square is cut into `BINS` equal
//! parts and every choice's square is rounded up to whole parts: the solution never exceeds the budget, and what the
//! rounding gives away is at most one part a group. Within that, dynamic programming finds the least cost exactly; of
//! equal costs it takes the smaller error.

/// Parts of the budget: with 400 groups the rounding gives away at most 5 % of the square, 2.5 % of the error.
const BINS: usize = 8192;

/// One choice of a group, against the group's cheapest-to-keep default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Item {
    /// Whole units (nanoseconds or bytes), so that sums do not depend on their order.
    pub cost: i64,
    /// What it adds to the square of the error; below zero where it takes some away.
    pub square: f64,
}

/// The index of the choice taken in each group: least cost, the squares' sum being at most `budget`. None where no
/// choice fits, or a group has none.
pub fn solve(groups: &[Vec<Item>], budget: f64) -> Option<Vec<usize>> {
    let least = |items: &Vec<Item>| items.iter().map(|item| item.square).fold(f64::INFINITY, f64::min);
    let least: Vec<f64> = groups.iter().map(least).collect();
    let room = budget - least.iter().sum::<f64>();
    if !room.is_finite() || room < 0.0 {
        return None;
    }
    let bin = room / BINS as f64;
    // Parts taken by a choice beyond the group's least square; none where it does not fit at all.
    let parts = |item: &Item, least: f64| match item.square - least {
        extra if extra <= 0.0 => Some(0),
        extra => Some((extra / bin).ceil()).filter(|parts| *parts <= BINS as f64).map(|parts| parts as usize),
    };
    // The least (cost, square) of the groups so far with at most so many parts.
    let mut best = vec![(0i64, 0.0f64); BINS + 1];
    let mut taken: Vec<Vec<u8>> = Vec::with_capacity(groups.len());
    for (items, least) in groups.iter().zip(&least) {
        let mut next = vec![(i64::MAX, f64::INFINITY); BINS + 1];
        let mut choice = vec![0u8; BINS + 1];
        for (index, item) in items.iter().enumerate() {
            let Some(parts) = parts(item, *least) else { continue };
            for (used, (cost, square)) in best[..=BINS - parts].iter().enumerate() {
                let sum = (cost + item.cost, square + item.square);
                let found = &mut next[used + parts];
                if sum.0 < found.0 || (sum.0 == found.0 && sum.1 < found.1) {
                    (*found, choice[used + parts]) = (sum, index as u8);
                }
            }
        }
        best = next;
        taken.push(choice);
    }
    let mut used = BINS;
    let mut chosen = vec![0; groups.len()];
    for index in (0..groups.len()).rev() {
        chosen[index] = usize::from(taken[index][used]);
        used -= parts(&groups[index][chosen[index]], least[index])?;
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(cost: i64, square: f64) -> Item {
        Item { cost, square }
    }

    fn totals(groups: &[Vec<Item>], chosen: &[usize]) -> (i64, f64) {
        let items = groups.iter().zip(chosen).map(|(items, index)| items[*index]);
        items.fold((0, 0.0), |(cost, square), item| (cost + item.cost, square + item.square))
    }

    #[test]
    fn the_solution_is_that_of_trying_everything() {
        // A fixed sequence of pseudo-random groups, small enough to try all combinations.
        let mut state = 7u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for _ in 0..20 {
            let groups: Vec<Vec<Item>> = (0..6)
                .map(|_| {
                    let mut items = vec![item(0, 0.0)];
                    items.extend((0..2).map(|_| item(-(next(50) as i64), next(100) as f64 - 10.0)));
                    items
                })
                .collect();
            let budget = 60.0;
            let mut best = i64::MAX;
            for combination in 0..3usize.pow(6) {
                let chosen: Vec<usize> = (0..6).map(|group| combination / 3usize.pow(group) % 3).collect();
                let (cost, square) = totals(&groups, &chosen);
                // Within what the rounding of six groups can give away.
                if square <= budget * (1.0 - 0.01) {
                    best = best.min(cost);
                }
            }
            let (cost, square) = totals(&groups, &solve(&groups, budget).expect("a solution"));
            assert!(square <= budget + 1e-9 && cost <= best, "{cost} {square} {best}");
        }
    }

    #[test]
    fn equal_costs_take_the_smaller_error_and_nothing_fits_where_nothing_can() {
        let groups = vec![vec![item(0, 3.0), item(0, 1.0)], vec![item(5, 0.0), item(0, 9.0)]];
        assert_eq!(solve(&groups, 5.0), Some(vec![1, 0]));
        assert_eq!(solve(&groups, 20.0), Some(vec![1, 1]));
        assert_eq!(solve(&groups, 0.5), None);
        assert_eq!(solve(&[vec![]], 1.0), None);
        assert_eq!(solve(&[], 1.0), Some(vec![]));
    }
}
