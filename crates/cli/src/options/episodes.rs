//! Episodes as they are named on the command line.

use anyhow::{Context, Result, ensure};
use std::collections::HashSet;
use std::str::FromStr;
use steadyhand_lerobot::Dataset;

/// One word of `--traj-ids`: `3`, `0-3`, `10-` for all from 10 on, or `all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpisodeRange {
    first: usize,
    /// The dataset's last otherwise.
    last: Option<usize>,
}

impl FromStr for EpisodeRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse =
            || format!("expected an episode such as 3, a range such as 0-3 or 10-, or all, found `{text}`");
        let number = |text: &str| text.parse::<usize>().map_err(|_| refuse());
        match text.split_once('-') {
            _ if text == "all" => Ok(EpisodeRange { first: 0, last: None }),
            Some((first, "")) => Ok(EpisodeRange { first: number(first)?, last: None }),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first <= last { Ok(EpisodeRange { first, last: Some(last) }) } else { Err(refuse()) }
            }
            None => number(text).map(|only| EpisodeRange { first: only, last: Some(only) }),
        }
    }
}

/// The episodes that the words name, in their order, each once.
///
/// # Errors
/// A dataset without episodes, an episode that it does not have.
pub fn chosen(words: &[EpisodeRange], dataset: &Dataset) -> Result<Vec<usize>> {
    let path = dataset.path().display();
    let last =
        dataset.len().checked_sub(1).with_context(|| format!("{path}: the dataset has no episodes"))?;
    let mut seen = HashSet::new();
    let mut episodes = Vec::new();
    for word in words {
        let end = word.last.unwrap_or(last.max(word.first));
        ensure!(end <= last, "--traj-ids: expected 0 to {last} for {path}, found {end}");
        episodes.extend((word.first..=end).filter(|episode| seen.insert(*episode)));
    }
    Ok(episodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_one_several_or_all() {
        let range = |first, last| Ok(EpisodeRange { first, last });
        assert_eq!("3".parse(), range(3, Some(3)));
        assert_eq!("0-3".parse(), range(0, Some(3)));
        assert_eq!("10-".parse(), range(10, None));
        assert_eq!("all".parse(), range(0, None));
        for text in ["", "-", "-1", "3-1", "a", "1-b", "0..3", "99999999999999999999"] {
            let error = text.parse::<EpisodeRange>().expect_err(text);
            assert!(error.contains(&format!("found `{text}`")), "{error}");
        }
    }
}
