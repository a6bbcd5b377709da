//! What a replay need not compute again.
//!
//! A replay differs from the run without a fault only where the fault is made and behind it. Where the engine gave
//! every tensor, each replaces the reference's right after it was compared, so nothing is handed on: only the
//! operations that the fault touches are computed, on the engine's own tensors. Where some are missing, a replay starts
//! behind the last tensor before the fault that all later ones depend on.

use super::teacher_forced::LocalError;
use std::collections::{BTreeMap, BTreeSet};
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::topology::{Part, Topology};

/// What the run without a fault did at a site.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    pub(super) site: Site,
    /// `[batch, tokens, features]` of the result.
    pub(super) shape: [usize; 3],
    /// The local error, where the engine gave a tensor.
    pub(super) error: Option<LocalError>,
    /// Whether the engine's tensor took the place of the reference's.
    pub(super) taken: bool,
}

/// A result that is known without computing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    /// It is the engine's tensor.
    Engines,
    /// Nothing that is computed depends on it.
    Unread,
}

/// Which operations of a replay are computed.
pub(super) struct Plan<'a> {
    topology: &'a Topology,
    visits: &'a BTreeMap<String, Visit>,
    /// Names of the sites that may give something else than before.
    touched: BTreeSet<&'a str>,
    /// Whether there is such a site behind so many of the parts that separate: the last is what comes behind all of them, the
    /// action head.
    parts: Vec<bool>,
    /// The layers that have such a site.
    layers: BTreeSet<&'a str>,
    /// Whether every tensor of the reference was replaced.
    complete: bool,
    /// The last part before all touched ones whose boundary was replaced.
    start: Option<usize>,
}

impl<'a> Plan<'a> {
    /// A replay of the run that made `visits`, in which only the operations at touched sites may compute something
    /// else.
    pub(super) fn new(
        topology: &'a Topology,
        visits: &'a BTreeMap<String, Visit>,
        touches: impl Fn(&Site) -> bool,
    ) -> Self {
        let (mut touched, mut layers) = (BTreeSet::new(), BTreeSet::new());
        let boundaries: Vec<&Part> = topology.separating().collect();
        let mut parts = vec![false; boundaries.len() + 1];
        for (name, visit) in visits.iter().filter(|(_, visit)| touches(&visit.site)) {
            touched.insert(name.as_str());
            layers.extend(topology.layer_of(visit.site.path()));
            parts[topology.separated(visit.site.path())] = true;
        }
        let first = parts.iter().position(|touched| *touched).unwrap_or(boundaries.len());
        let taken = |part: &usize| {
            let mut outputs = boundaries[*part].outputs.iter();
            outputs.all(|output| visits.get(output).is_some_and(|visit| visit.taken))
        };
        let start = (0..first).rev().find(taken);
        let complete = visits.values().all(|visit| visit.taken);
        Plan { topology, complete, visits, touched, parts, layers, start }
    }

    /// A replay that only computes the tensor `name`, of the run that made `visits`: besides it only what leads to it and was
    /// not replaced by the engine's. None where the run has no such tensor.
    pub(super) fn of_one(
        topology: &'a Topology,
        visits: &'a BTreeMap<String, Visit>,
        name: &str,
    ) -> Option<Self> {
        let of = &visits.get(name)?.site;
        let last = topology.separated(of.path());
        let start = Plan::new(topology, visits, |at| at.path() == of.path()).start;
        let first = start.map_or(0, |start| start + 1);
        let leads_there = |visit: &Visit| {
            let in_time = visit.site.step().is_none_or(|step| of.step().is_some_and(|own| step <= own));
            !visit.taken && in_time && (first..=last).contains(&topology.separated(visit.site.path()))
        };
        let computed = |at: &Site| {
            let name_of = at.to_string();
            name_of == name || visits.get(&name_of).is_some_and(leads_there)
        };
        Some(Plan { complete: true, ..Plan::new(topology, visits, computed) })
    }

    /// How many of the tensors that are computed are `touched`.
    pub(super) fn computes(&self, touched: impl Fn(&Site) -> bool) -> usize {
        let visits = self.touched.iter().filter_map(|name| self.visits.get(*name));
        visits.filter(|visit| touched(&visit.site)).count()
    }

    /// Where the result at a site comes from; none where it has to be computed.
    pub(super) fn reuse(&self, at: &Site, name: &str) -> Option<(Reuse, &'a Visit)> {
        let visit = self.visits.get(name)?;
        if self.touched.contains(name) {
            return None;
        }
        let part = self.topology.separated(at.path());
        let boundary = self.topology.separating().any(|part| part.hands_over(at.path()));
        let read = if self.complete {
            visit.taken && (boundary || self.parts[part] && self.is_read_beside(at.path()))
        } else if part > self.start? {
            return None;
        } else {
            boundary && Some(part) == self.start
        };
        Some((if read { Reuse::Engines } else { Reuse::Unread }, visit))
    }

    /// Whether a touched operation of the same part may read the result at `path`.
    fn is_read_beside(&self, path: &str) -> bool {
        self.topology.layer_of(path).is_none_or(|layer| layer == path || self.layers.contains(layer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadyhand_gr00t::synthetic::tiny;

    fn visits(taken: &dyn Fn(&str) -> bool) -> BTreeMap<String, Visit> {
        let sites = [
            Site::new("vision.layer.0"),
            Site::new("vision.post_layernorm"),
            Site::new("connector"),
            Site::new("language.layer.0.down"),
            Site::new("language.layer.0"),
            Site::new("language.layer.1.down"),
            Site::new("language.layer.1"),
            Site::new("language.norm"),
            Site::in_step("dit.block.0", 1),
            Site::in_step("dit.output", 1),
        ];
        let visit = |site: Site| {
            let taken = taken(site.path());
            (site.to_string(), Visit { site, shape: [1, 1, 1], error: None, taken })
        };
        sites.into_iter().map(visit).collect()
    }

    fn reuse(taken: &dyn Fn(&str) -> bool, touched: &str) -> Vec<(String, Option<Reuse>)> {
        let visits = visits(taken);
        let topology = Topology::of(&tiny());
        let plan = Plan::new(&topology, &visits, |site| site.is_within(touched));
        let of = |(name, visit): (&String, &Visit)| {
            (name.clone(), plan.reuse(&visit.site, name).map(|(reuse, _)| reuse))
        };
        visits.iter().map(of).collect()
    }

    fn expect(found: Vec<(String, Option<Reuse>)>, expected: [(&str, Option<Reuse>); 10]) {
        let expected: BTreeMap<_, _> =
            expected.into_iter().map(|(name, reuse)| (name.to_owned(), reuse)).collect();
        assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), expected);
    }

    #[test]
    fn of_a_whole_trace_only_touched_operations_are_computed() {
        let (engines, unread) = (Some(Reuse::Engines), Some(Reuse::Unread));
        expect(
            reuse(&|_| true, "language.layer.1.down"),
            [
                ("vision.layer.0", unread),
                ("vision.post_layernorm", engines),
                ("connector", engines),
                ("language.layer.0.down", unread),
                ("language.layer.0", engines),
                ("language.layer.1.down", None),
                ("language.layer.1", engines),
                ("language.norm", engines),
                ("step.1.dit.block.0", unread),
                ("step.1.dit.output", unread),
            ],
        );
    }

    #[test]
    fn of_some_tensors_a_replay_starts_behind_the_last_whole_part() {
        let (engines, unread) = (Some(Reuse::Engines), Some(Reuse::Unread));
        expect(
            reuse(&|path| path == "connector", "dit.output"),
            [
                ("vision.layer.0", unread),
                ("vision.post_layernorm", unread),
                ("connector", engines),
                ("language.layer.0.down", None),
                ("language.layer.0", None),
                ("language.layer.1.down", None),
                ("language.layer.1", None),
                ("language.norm", None),
                ("step.1.dit.block.0", None),
                ("step.1.dit.output", None),
            ],
        );
        let nothing = reuse(&|path| path == "dit.output", "vision.layer");
        assert!(nothing.iter().all(|(_, reuse)| reuse.is_none()), "{nothing:?}");
    }
}
