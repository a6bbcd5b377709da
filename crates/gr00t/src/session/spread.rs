//! Steps spread over the episodes of a dataset.

use crate::{Error, Result};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use steadyhand_lerobot::Dataset;

/// `count` steps spread evenly over all steps of the episodes of these numbers, or of all episodes: the steps of each
/// episode.
///
/// # Errors
/// An episode that the dataset does not have; no step at all.
pub fn spread(dataset: &Dataset, episodes: &[usize], count: usize) -> Result<BTreeMap<usize, Vec<usize>>> {
    let mut episodes = episodes.to_vec();
    if episodes.is_empty() {
        episodes = (0..dataset.len()).collect();
    }
    episodes.sort_unstable();
    episodes.dedup();
    let Some(last) = dataset.len().checked_sub(1) else {
        return Err(Error::input("dataset", "the dataset has no episodes"));
    };
    if let Some(episode) = episodes.iter().find(|episode| **episode > last) {
        return Err(Error::option("traj_ids", format!("expected 0 to {last}, found {episode}")));
    }
    let mut lengths = Vec::with_capacity(episodes.len());
    for episode in episodes {
        // No honest episode is longer, and sums of such lengths cannot overflow.
        lengths.push((episode, dataset.episode_meta(episode)?.length.min(u32::MAX as usize)));
    }
    // The metadata may promise more steps than the data have. Only the episodes that are chosen are opened: a dataset
    // may have very many.
    let mut opened = HashSet::new();
    loop {
        let mut changed = false;
        let chosen: Vec<usize> = places(&lengths, count).map(|chosen| chosen.episode).collect();
        let mut chosen = chosen.into_iter().peekable();
        for (episode, length) in &mut lengths {
            if chosen.next_if_eq(episode).is_some() && opened.insert(*episode) {
                let found = dataset.episode(*episode)?.len();
                changed |= *length != found;
                *length = found;
            }
        }
        if !changed {
            break;
        }
    }
    let steps: BTreeMap<usize, Vec<usize>> = places(&lengths, count).map(Chosen::steps).collect();
    match steps.is_empty() {
        true => Err(Error::file(dataset.path(), "no rows to observe")),
        false => Ok(steps),
    }
}

/// Some of the steps of an episode.
struct Chosen {
    episode: usize,
    /// Place of its first step among those of all episodes.
    start: u128,
    /// Numbers of the steps among those chosen.
    frames: Range<u128>,
    /// Steps of all episodes, and how many of them are chosen.
    share: [u128; 2],
}

impl Chosen {
    /// The episode and its steps.
    fn steps(self) -> (usize, Vec<usize>) {
        let [total, count] = self.share;
        let step = |frame: u128| (frame * total / count - self.start) as usize;
        (self.episode, self.frames.map(step).collect())
    }
}

/// The episodes that `count` steps spread evenly over episodes of these lengths fall on, in their order.
fn places(lengths: &[(usize, usize)], count: usize) -> impl Iterator<Item = Chosen> {
    let total: u128 = lengths.iter().map(|(_, length)| *length as u128).sum();
    let count = (count as u128).min(total);
    // Frame `f` is the step at `f * total / count`, rounded down: the first frame of a place.
    let first = move |place: u128| (place * count).div_ceil(total);
    let starts = lengths.iter().scan(0, |end, (episode, length)| {
        let start = *end;
        *end += *length as u128;
        Some((*episode, start, *end))
    });
    starts.filter(move |(_, start, end)| start < end).filter_map(move |(episode, start, end)| {
        let frames = first(start)..first(end);
        (!frames.is_empty()).then_some(Chosen { episode, start, frames, share: [total, count] })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_lie_at_equal_distances() {
        let of = |lengths: &[(usize, usize)], count| {
            places(lengths, count).map(Chosen::steps).collect::<Vec<(usize, Vec<usize>)>>()
        };
        assert_eq!(of(&[(0, 4), (2, 2)], 3), [(0, vec![0, 2]), (2, vec![0])]);
        assert_eq!(of(&[(0, 2), (1, 0), (5, 1)], 9), [(0, vec![0, 1]), (5, vec![0])]);
        assert_eq!(of(&[(7, 0)], 2), []);
        let long = u32::MAX as usize;
        assert_eq!(of(&[(0, 1), (1, long), (2, long)], 2), [(0, vec![0]), (1, vec![long - 1])]);
        // As a list of all steps would give them.
        let lengths = [(0, 7), (1, 1), (3, 12), (4, 3)];
        let all: Vec<(usize, usize)> =
            lengths.iter().flat_map(|(episode, length)| (0..*length).map(|step| (*episode, step))).collect();
        for count in 1..=all.len() {
            let expected: Vec<_> = (0..count).map(|frame| all[frame * all.len() / count]).collect();
            let found = of(&lengths, count).into_iter();
            let found: Vec<_> = found
                .flat_map(|(episode, steps)| steps.into_iter().map(move |step| (episode, step)))
                .collect();
            assert_eq!(found, expected, "{count}");
        }
    }
}
