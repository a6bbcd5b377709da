//! Operations that an engine computes otherwise: the reference's operations, but for one change.

mod ops;

use super::computed::attention::Attention;
use super::computed::norms::Normed;
use super::computed::{Change, attention, operands};
use super::handed::{self, Reads};
use super::{Effect, Fault};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use steadyhand_fidelity::Format;
use steadyhand_fidelity::format::reinterpret_bytes;
use steadyhand_gr00t::Result;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::model::dit::Attends;
use steadyhand_gr00t::ops::cpu::{Cpu, Tensor};
use steadyhand_gr00t::ops::{Heads, Mask, Ops, Site};
use steadyhand_gr00t::precision::PrecisionPolicy;

/// The tensor that a buffer holds when it is read as another type. What lies behind its end is zero.
fn reinterpreted(x: &Tensor, stored: Format, read: Format) -> Tensor {
    let mut values = reinterpret_bytes(x.values(), stored, read);
    values.resize(x.values().len(), 0.0);
    Tensor::from_values(x.shape(), values).unwrap_or_else(|| x.clone())
}

/// [`Cpu`] with a fault in it, if it is one of operations.
pub(crate) struct Otherwise<'a, 'p> {
    cpu: Cpu<'a, 'p>,
    policy: &'a PrecisionPolicy,
    fault: Option<(&'a Fault, Change)>,
    model: &'a Model,
    /// Results of norms, modulations and gates, and the noise, by path.
    seen: RefCell<BTreeMap<String, Tensor>>,
    /// Norms that are computed behind the residual connections, by path.
    later: RefCell<BTreeMap<String, Normed>>,
    /// Where the image tokens of the prompt stand.
    images: RefCell<Vec<usize>>,
}

impl<'a, 'p> Otherwise<'a, 'p> {
    pub(crate) fn new(
        cpu: Cpu<'a, 'p>,
        policy: &'a PrecisionPolicy,
        fault: Option<&'a Fault>,
        model: &'a Model,
    ) -> Self {
        let fault = fault.and_then(|fault| match &fault.effect {
            Effect::Operation(change) => Some((fault, *change)),
            _ => None,
        });
        let (seen, later, images) = (RefCell::default(), RefCell::default(), RefCell::default());
        Otherwise { cpu, policy, fault, model, seen, later, images }
    }

    /// What is done otherwise at a site.
    fn change(&self, at: &Site) -> Option<Change> {
        self.fault.and_then(|(fault, change)| fault.touches(at).then_some(change))
    }

    /// What is done otherwise where tokens are moved, which has no site.
    fn moves(&self) -> Option<Change> {
        self.fault.map(|(_, change)| change)
    }

    fn storage(&self, at: &Site) -> Format {
        self.policy.formats(at).storage
    }

    /// Keeps a result for residual connections.
    fn note(&self, at: &Site, made: Result<Tensor>) -> Result<Tensor> {
        if let (Some(_), Ok(made)) = (self.fault, &made) {
            self.seen.borrow_mut().insert(at.path().to_owned(), made.clone());
        }
        made
    }

    /// What an operation reads where its engine takes what it is handed for another type; as it is anywhere else.
    fn handed<'x>(&self, x: &'x Tensor, at: &Site) -> Cow<'x, Tensor> {
        let Some(Change::Handed(handed)) = self.change(at) else { return Cow::Borrowed(x) };
        let misread = match handed::reads(self.model, at.path()) {
            Some(Reads::Own) => handed.own,
            // What a block that attends to a part of the features reads has been chosen from the whole.
            Some(Reads::Memory) => handed.memory && self.attends_to_all(at),
            None => false,
        };
        match misread {
            true => Cow::Owned(reinterpreted(x, handed.stored, handed.read)),
            false => Cow::Borrowed(x),
        }
    }

    /// Whether the block of the DiT that the site is in attends to all features.
    fn attends_to_all(&self, at: &Site) -> bool {
        let index = at.path().split('.').nth(2).and_then(|index| index.parse::<usize>().ok());
        let block = index.and_then(|index| self.model.action_head.dit.blocks.get(index));
        block.is_some_and(|block| matches!(block.attends, Attends::Everything))
    }

    /// The result of another norm, or none where the norm is right.
    fn norm(&self, x: &Tensor, normed: Normed, at: &Site) -> Result<Option<Tensor>> {
        let values = match self.change(at) {
            Some(Change::Norm(other)) => normed.values(x, other),
            Some(Change::PostNorm) if at.path().ends_with(".norm1") || at.path().ends_with(".norm2") => {
                self.later.borrow_mut().insert(at.path().to_owned(), normed);
                x.values().to_vec()
            }
            _ => return Ok(None),
        };
        self.cpu.input(values, x.shape(), at.clone()).map(Some)
    }

    /// The sum of a residual connection, normed by the norm that should have come before what is added.
    fn normed_behind(&self, sum: &Tensor, at: &Site) -> Option<Vec<f32>> {
        let path = match at.path().strip_suffix(".residual1") {
            Some(block) => format!("{block}.norm1"),
            None => format!("{}.norm2", at.path()),
        };
        let later = self.later.borrow();
        Some(later.get(&path)?.right(sum))
    }

    /// Attention that weighs, or sees keys, otherwise; none where that cannot be.
    fn attend(
        &self,
        operands: [&Tensor; 3],
        heads: Heads,
        mask: &Mask,
        change: Change,
        at: &Site,
    ) -> Option<Vec<f32>> {
        let (queries, keys) = (operands[0].shape()[1], operands[1].shape()[1]);
        let (seen, weighing) = match change {
            Change::Weights(weighing) => (attention::allowed(mask, queries, keys), Some(weighing)),
            Change::Sees(other) if queries == keys => {
                (attention::seen(other, queries, &self.images.borrow()), None)
            }
            _ => return None,
        };
        let formats = self.policy.formats(at);
        Some(Attention { operands, heads, seen, formats }.values(weighing))
    }

    /// Keys and values of the tokens that a block of the DiT should not attend to, or of all; none of any other attention.
    fn memory(&self, everything: bool, at: &Site) -> Result<Option<[Tensor; 2]>> {
        let index = at.path().split('.').nth(2).and_then(|index| index.parse::<usize>().ok());
        let block = index.and_then(|index| self.model.action_head.dit.blocks.get(index));
        let name = match block.map(|block| block.attends) {
            Some(Attends::Text | Attends::Images) if everything => "memory",
            Some(Attends::Text) => "memory.images",
            Some(Attends::Images) => "memory.text",
            _ => return Ok(None),
        };
        match self.seen.borrow().get(name) {
            Some(features) => operands::memory(self.policy, self.model, features, at),
            None => Ok(None),
        }
    }
}
