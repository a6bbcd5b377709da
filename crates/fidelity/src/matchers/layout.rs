//! Right values, wrong places.

use super::{Case, MIN_VALUES, Match, MatchKind};
use std::collections::BTreeSet;

/// Permutations of more axes than this are not looked for; leading dimensions are merged until they fit.
const MAX_AXES: usize = 5;
/// Rows that decide which group stands where; the whole tensor then confirms it.
const SAMPLED_ROWS: usize = 64;
/// Whole rows, or whole matrices, that a shift is looked for.
const MAX_ROW_SHIFT: usize = 4;

/// Values that stand some elements, or rows, from their place.
pub(super) fn shifted(case: &Case, matches: &mut Vec<Match>) {
    let len = case.found.len();
    // Half of the tensor, and enough of it, has to agree.
    let most = (len / 2).min(len.saturating_sub(MIN_VALUES));
    let mut distances: BTreeSet<usize> = (1..=case.context.max_shift.min(most)).collect();
    let mut stride = 1usize;
    for dimension in case.shape.iter().rev() {
        stride *= dimension;
        distances.extend((1..=MAX_ROW_SHIFT).map(|rows| rows * stride));
    }
    for distance in distances.into_iter().filter(|distance| *distance <= most) {
        for later in [true, false] {
            let (found, reference) = if later {
                (&case.found[distance..], &case.reference[..len - distance])
            } else {
                (&case.found[..len - distance], &case.reference[distance..])
            };
            let pairs = found.iter().copied().zip(reference.iter().copied());
            let Some(residual) = case.residual(pairs, case.energy) else { continue };
            let start = if later { len - distance } else { distance };
            let around = case.reference[start..].iter().chain(&case.reference[..start]);
            let wrapped = case.residual(case.found.iter().copied().zip(around.copied()), case.energy);
            let by = if later { distance as isize } else { -(distance as isize) };
            let kind = MatchKind::Shifted { by, wrapped: wrapped.is_some() };
            case.claim(matches, kind, wrapped.unwrap_or(residual), 0.0, len - distance);
        }
    }
}

/// Axes in another order, of the shape itself and with the last dimension divided into groups.
pub(super) fn axes(case: &Case, matches: &mut Vec<Match>) {
    permuted(case, case.shape, None, matches);
    let channels = case.row();
    // Groups of one channel are the axis that the shape has already.
    for groups in divisors(case).into_iter().filter(|groups| *groups < channels) {
        let mut shape = case.shape[..case.shape.len() - 1].to_vec();
        shape.extend([groups, channels / groups]);
        permuted(case, &shape, Some(groups), matches);
    }
}

/// The context's group counts that divide the last dimension into several groups.
fn divisors(case: &Case) -> BTreeSet<usize> {
    let channels = if case.shape.is_empty() { 1 } else { case.row() };
    let divides = |groups: &usize| *groups > 1 && *groups <= channels && channels.is_multiple_of(*groups);
    case.context.groups.iter().copied().filter(divides).collect()
}

fn permuted(case: &Case, shape: &[usize], groups: Option<usize>, matches: &mut Vec<Match>) {
    // Dimensions of one move without moving anything.
    let mut shape: Vec<usize> = shape.iter().copied().filter(|dimension| *dimension > 1).collect();
    while shape.len() > MAX_AXES {
        let first = shape.remove(0);
        shape[0] *= first;
    }
    let (rank, identity) = (shape.len(), (0..shape.len()).collect::<Vec<_>>());
    for order in permutations(rank) {
        // An order that keeps the two halves of the last dimension together was tried without groups.
        let kept = groups.is_some() && order.windows(2).any(|pair| pair == [rank - 2, rank - 1]);
        if order == identity || kept {
            continue;
        }
        let places = PermutedIndices::new(&shape, &order);
        let pairs = case.found.iter().copied().zip(places.map(|place| case.reference[place]));
        if let Some(residual) = case.residual(pairs, case.energy) {
            let kind = MatchKind::AxesPermuted { shape: shape.clone(), order, groups };
            case.claim(matches, kind, residual, 0.0, case.found.len());
        }
    }
}

/// All orders of `0..rank`, the identity first.
fn permutations(rank: usize) -> Vec<Vec<usize>> {
    let mut orders = vec![Vec::new()];
    for _ in 0..rank {
        let extend = |order: &Vec<usize>| {
            let free = (0..rank).filter(|axis| !order.contains(axis));
            free.map(|axis| [order.as_slice(), &[axis]].concat()).collect::<Vec<_>>()
        };
        orders = orders.iter().flat_map(extend).collect();
    }
    orders
}

/// Where the elements of a permuted tensor stand in the original, in the order of the permuted memory.
pub(super) struct PermutedIndices {
    /// (dimension, stride in the original, current position) of each axis, outermost first.
    axes: Vec<(usize, usize, usize)>,
    next: Option<usize>,
}

impl PermutedIndices {
    pub(super) fn new(shape: &[usize], order: &[usize]) -> Self {
        let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
        let axes = order.iter().map(|axis| (shape[*axis], stride(*axis), 0)).collect();
        PermutedIndices { axes, next: (!shape.contains(&0)).then_some(0) }
    }
}

impl Iterator for PermutedIndices {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let current = self.next?;
        let mut place = current;
        for (dimension, stride, position) in self.axes.iter_mut().rev() {
            *position += 1;
            place += *stride;
            if *position < *dimension {
                self.next = Some(place);
                return Some(current);
            }
            place -= *stride * *dimension;
            *position = 0;
        }
        self.next = None;
        Some(current)
    }
}

/// Heads or channel groups in any other order.
pub(super) fn groups(case: &Case, matches: &mut Vec<Match>) {
    let channels = case.row();
    let rows = case.found.len() / channels;
    for groups in divisors(case) {
        let width = channels / groups;
        // With few values a group, noise resembles some group.
        if rows * width < MIN_VALUES {
            continue;
        }
        let Some(order) = nearest_groups(case, groups, width) else { continue };
        let source = |at: usize| {
            let (row, channel) = (at / channels, at % channels);
            row * channels + order[channel / width] * width + channel % width
        };
        let pairs = case.found.iter().enumerate().map(|(at, found)| (*found, case.reference[source(at)]));
        if let Some(residual) = case.residual(pairs, case.energy) {
            let kind = MatchKind::GroupsPermuted { groups, order: order.clone() };
            case.claim(matches, kind, residual, 0.0, case.found.len());
        }
    }
}

/// The reference's group nearest to each found one, if this is a change of order.
fn nearest_groups(case: &Case, groups: usize, width: usize) -> Option<Vec<usize>> {
    let channels = groups * width;
    let rows = (case.found.len() / channels).min(SAMPLED_ROWS.max(MIN_VALUES.div_ceil(width)));
    let distance = |found: usize, group: usize| {
        (0..rows)
            .flat_map(|row| (0..width).map(move |channel| row * channels + channel))
            .map(|at| case.found[at + found * width] - case.reference[at + group * width])
            .map(|difference| f64::from(difference).powi(2))
            .sum::<f64>()
    };
    let mut order = Vec::with_capacity(groups);
    for found in 0..groups {
        let distances = (0..groups).map(|group| (distance(found, group), group));
        order.push(distances.min_by(|a, b| a.0.total_cmp(&b.0))?.1);
    }
    let distinct: BTreeSet<usize> = order.iter().copied().collect();
    (distinct.len() == groups && order.iter().enumerate().any(|(at, group)| at != *group)).then_some(order)
}
