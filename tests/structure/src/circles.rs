//! Circles among arrows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::imports::{Arrows, Crate};

/// Circles of one crate that tie files of different folders, described; each line names files and what is imported.
///
/// Files that reach each other are taken together. Where they are of one folder they may: a folder is one thought.
pub fn between_folders(krate: &Crate, arrows: &Arrows, root: &Path) -> Vec<String> {
    let next = neighbours(arrows);
    let mut described = Vec::new();
    let mut seen: BTreeSet<Vec<&PathBuf>> = BTreeSet::new();
    for (from, to) in arrows.0.keys() {
        if krate.folder_of(from) == krate.folder_of(to) {
            continue;
        }
        let Some(mut way) = shortest(&next, to, from) else { continue };
        let first = (0..way.len()).min_by_key(|index| way[*index]).unwrap_or(0);
        way.rotate_left(first);
        if seen.insert(way.clone()) {
            described.push(describe(arrows, &way, root));
        }
    }
    described.sort_by_key(|text| (text.lines().count(), text.clone()));
    described
}

type Neighbours<'a> = BTreeMap<&'a PathBuf, Vec<&'a PathBuf>>;

fn neighbours(arrows: &Arrows) -> Neighbours<'_> {
    let mut next = Neighbours::new();
    for (from, to) in arrows.0.keys() {
        next.entry(from).or_default().push(to);
    }
    next
}

/// The files on the shortest way from one to another, both included.
fn shortest<'a>(next: &Neighbours<'a>, from: &'a PathBuf, to: &'a PathBuf) -> Option<Vec<&'a PathBuf>> {
    let mut before: BTreeMap<&PathBuf, &PathBuf> = BTreeMap::new();
    let mut waiting = VecDeque::from([from]);
    while let Some(file) = waiting.pop_front() {
        if file == to {
            let mut way = vec![file];
            while let Some(previous) = before.get(way[way.len() - 1]).filter(|_| way[way.len() - 1] != from) {
                way.push(previous);
            }
            way.reverse();
            return Some(way);
        }
        for target in next.get(file).into_iter().flatten() {
            if *target != from && !before.contains_key(target) {
                before.insert(target, file);
                waiting.push_back(target);
            }
        }
    }
    None
}

/// One line an arrow, around the circle.
fn describe(arrows: &Arrows, way: &[&PathBuf], root: &Path) -> String {
    let shown = |file: &Path| file.strip_prefix(root).unwrap_or(file).display().to_string();
    let mut text = String::new();
    for (index, from) in way.iter().enumerate() {
        let to = way[(index + 1) % way.len()];
        let names = &arrows.0[&((*from).clone(), to.clone())];
        let names = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        writeln!(text, "  {} imports {names} from {}", shown(from), shown(to)).expect("writing to a string");
    }
    text
}
