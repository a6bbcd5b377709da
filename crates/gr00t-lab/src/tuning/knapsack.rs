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

/// Items of several groups that together cost something else than the sum of their costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Joint {
    /// Groups and the item of each. No group is in two joints.
    pub items: Vec<(usize, usize)>,
    /// What they cost besides, when all of them are taken; below zero.
    pub cost: i64,
}

/// The least (cost, square) with at most so many parts of the budget.
type Best = Vec<(i64, f64)>;

/// What was taken where the groups of a joint, or one other group, were added.
struct Step {
    /// Groups and the item taken in each, by parts used, where they were taken one by one.
    taken: Vec<(usize, Vec<u8>)>,
    /// A joint and whether it was taken, by parts used.
    joint: Option<(usize, Vec<bool>)>,
}

/// The budget's parts.
struct Parts<'a> {
    groups: &'a [Vec<Item>],
    /// By group: the least square of its items.
    least: Vec<f64>,
    bin: f64,
}

impl Parts<'_> {
    /// Parts taken by an item beyond its group's least square; none where it does not fit at all.
    fn of(&self, group: usize, item: usize) -> Option<usize> {
        match self.groups[group][item].square - self.least[group] {
            extra if extra <= 0.0 => Some(0),
            extra => Some((extra / self.bin).ceil())
                .filter(|parts| *parts <= BINS as f64)
                .map(|parts| parts as usize),
        }
    }

    /// Adds a group: the best afterwards, and the item that was taken.
    fn add(&self, best: &Best, group: usize) -> (Best, Vec<u8>) {
        let mut next = vec![(i64::MAX, f64::INFINITY); BINS + 1];
        let mut choice = vec![0u8; BINS + 1];
        for (index, item) in self.groups[group].iter().enumerate() {
            let Some(parts) = self.of(group, index) else { continue };
            for (used, (cost, square)) in best[..=BINS - parts].iter().enumerate() {
                let sum = (cost + item.cost, square + item.square);
                if less(sum, next[used + parts]) {
                    (next[used + parts], choice[used + parts]) = (sum, index as u8);
                }
            }
        }
        (next, choice)
    }

    /// Parts, cost and square of a joint; none where it does not fit.
    fn joint(&self, joint: &Joint) -> Option<(usize, i64, f64)> {
        let parts = joint.items.iter().map(|(group, item)| self.of(*group, *item)).sum::<Option<usize>>();
        let items = || joint.items.iter().map(|(group, item)| self.groups[*group][*item]);
        let cost = joint.cost + items().map(|item| item.cost).sum::<i64>();
        Some((parts.filter(|parts| *parts <= BINS)?, cost, items().map(|item| item.square).sum()))
    }
}

/// Less cost; of equal costs the smaller square.
fn less(a: (i64, f64), b: (i64, f64)) -> bool {
    a.0 < b.0 || (a.0 == b.0 && a.1 < b.1)
}

/// The index of the choice taken in each group: least cost, the squares' sum being at most `budget`. None where no
/// choice fits, or a group has none.
pub fn solve(groups: &[Vec<Item>], joints: &[Joint], budget: f64) -> Option<Vec<usize>> {
    let least = |items: &Vec<Item>| items.iter().map(|item| item.square).fold(f64::INFINITY, f64::min);
    let least: Vec<f64> = groups.iter().map(least).collect();
    let room = budget - least.iter().sum::<f64>();
    if !room.is_finite() || room < 0.0 {
        return None;
    }
    let parts = Parts { groups, least, bin: room / BINS as f64 };
    let mut best: Best = vec![(0, 0.0); BINS + 1];
    let mut steps = Vec::new();
    let joined = |group: &usize| joints.iter().any(|joint| joint.items.iter().any(|(own, _)| own == group));
    for group in (0..groups.len()).filter(|group| !joined(group)) {
        let (next, choice) = parts.add(&best, group);
        best = next;
        steps.push(Step { taken: vec![(group, choice)], joint: None });
    }
    for (index, joint) in joints.iter().enumerate() {
        let before = best.clone();
        let mut taken = Vec::new();
        for (group, _) in &joint.items {
            let (next, choice) = parts.add(&best, *group);
            best = next;
            taken.push((*group, choice));
        }
        let mut whole = vec![false; BINS + 1];
        if let Some((parts, cost, square)) = parts.joint(joint) {
            for (used, (cost_before, square_before)) in before[..=BINS - parts].iter().enumerate() {
                let sum = (cost_before + cost, square_before + square);
                if less(sum, best[used + parts]) {
                    (best[used + parts], whole[used + parts]) = (sum, true);
                }
            }
        }
        steps.push(Step { taken, joint: Some((index, whole)) });
    }
    let mut used = BINS;
    let mut chosen = vec![0; groups.len()];
    for Step { taken, joint } in steps.into_iter().rev() {
        if let Some((index, whole)) = joint
            && whole[used]
        {
            joints[index].items.iter().for_each(|(group, item)| chosen[*group] = *item);
            used -= parts.joint(&joints[index])?.0;
            continue;
        }
        for (group, choice) in taken.into_iter().rev() {
            chosen[group] = usize::from(choice[used]);
            used -= parts.of(group, chosen[group])?;
        }
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(cost: i64, square: f64) -> Item {
        Item { cost, square }
    }

    fn totals(groups: &[Vec<Item>], joints: &[Joint], chosen: &[usize]) -> (i64, f64) {
        let items = groups.iter().zip(chosen).map(|(items, index)| items[*index]);
        let taken = |joint: &&Joint| joint.items.iter().all(|(group, item)| chosen[*group] == *item);
        let besides = joints.iter().filter(taken).map(|joint| joint.cost).sum();
        items.fold((besides, 0.0), |(cost, square), item| (cost + item.cost, square + item.square))
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
            // Two and three groups that are cheaper in their second item together.
            let joint = |groups: std::ops::Range<usize>, cost| Joint {
                items: groups.map(|group| (group, 1)).collect(),
                cost,
            };
            let joints = [joint(0..2, -(next(40) as i64)), joint(3..6, -(next(60) as i64))];
            let budget = 60.0;
            let mut best = i64::MAX;
            for combination in 0..3usize.pow(6) {
                let chosen: Vec<usize> = (0..6).map(|group| combination / 3usize.pow(group) % 3).collect();
                let (cost, square) = totals(&groups, &joints, &chosen);
                // Within what the rounding of six groups can give away.
                if square <= budget * (1.0 - 0.01) {
                    best = best.min(cost);
                }
            }
            let found = solve(&groups, &joints, budget).expect("a solution");
            let (cost, square) = totals(&groups, &joints, &found);
            assert!(square <= budget + 1e-9 && cost <= best, "{cost} {square} {best}");
        }
    }

    #[test]
    fn equal_costs_take_the_smaller_error_and_nothing_fits_where_nothing_can() {
        let groups = vec![vec![item(0, 3.0), item(0, 1.0)], vec![item(5, 0.0), item(0, 9.0)]];
        assert_eq!(solve(&groups, &[], 5.0), Some(vec![1, 0]));
        assert_eq!(solve(&groups, &[], 20.0), Some(vec![1, 1]));
        assert_eq!(solve(&groups, &[], 0.5), None);
        assert_eq!(solve(&[vec![]], &[], 1.0), None);
        assert_eq!(solve(&[], &[], 1.0), Some(vec![]));
    }
}
