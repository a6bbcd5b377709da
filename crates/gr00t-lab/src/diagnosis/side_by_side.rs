//! Components exchanged between two running engines.
//!
//! The reference and the engine run side by side on the same input. Wherever a component hands its tensor over, the
//! tensor of one of them, the owner of that component, goes on in both. So each component is computed on what the
//! mixture of both made before it, in every Euler step, and the actions are exactly those of the mixture.

use std::sync::mpsc::{Receiver, Sender, channel};
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::exchange::Patches;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::observation::Matrix;
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::topology::Part;
use steadyhand_gr00t::{Error, Result};

/// The field of errors about engines that hand over different tensors.
pub(super) const ENGINES: &str = "engines";

/// One of two engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The reference.
    A,
    /// The engine under examination.
    B,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

/// Whose each component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mixture<'a> {
    /// The owner of all components but one.
    pub most: Side,
    /// The component of the other side, if any.
    pub swapped: Option<&'a Part>,
}

impl Mixture<'_> {
    fn owner(self, at: &Site) -> Side {
        if self.swapped.is_some_and(|part| part.hands_over(at.path())) {
            self.most.other()
        } else {
            self.most
        }
    }
}

/// The reference for [`side_by_side`].
#[derive(Clone, Copy)]
pub struct Reference<'a> {
    /// The model that both compute.
    pub model: &'a Model,
    /// What the reference runs at.
    pub policy: &'a PrecisionPolicy,
    /// Euler steps.
    pub denoising_steps: usize,
}

/// The normalized actions of a mixture, as its most frequent owner gives them. `b` must not run on the threads of the
/// reference's pool: it waits for the reference, and the reference for it.
///
/// # Errors
/// Those of both engines; `b` takes no tensors between its components; the two hand over different tensors.
pub fn side_by_side(
    reference: Reference,
    b: &mut dyn Engine,
    input: &ModelInput,
    mixture: Mixture<'_>,
) -> Result<Matrix> {
    let ((to_b, from_a), (to_a, from_b)) = (channel(), channel());
    let (a, b) = std::thread::scope(|scope| {
        let Reference { model, policy, denoising_steps } = reference;
        let a = scope.spawn(move || {
            let mut engine = CpuEngine::new(model.clone(), policy.clone(), denoising_steps);
            Exchange::new(Side::A, mixture, to_b, from_b).run(&mut engine, input)
        });
        let b = Exchange::new(Side::B, mixture, to_a, from_a).run(b, input);
        (a.join(), b)
    });
    let a = a.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    match (a, b) {
        (Err(Ended::Failed(error)), _) | (_, Err(Ended::Failed(error))) => Err(error),
        (Ok(a), Ok(b)) => Ok(if mixture.most == Side::A { a } else { b }),
        _ => Err(Error::input(ENGINES, "expected both to hand over the same tensors, one had fewer")),
    }
}

/// How an inference of one side can end early.
enum Ended {
    Failed(Error),
    /// One side had more tensors than the other.
    Alone,
}

/// A tensor on its way to the other side.
struct Message {
    at: Site,
    values: Vec<f32>,
}

/// One side's end of the exchange.
struct Exchange<'a> {
    side: Side,
    mixture: Mixture<'a>,
    to: Sender<Message>,
    from: Receiver<Message>,
    ended: Option<Ended>,
}

impl<'a> Exchange<'a> {
    fn new(side: Side, mixture: Mixture<'a>, to: Sender<Message>, from: Receiver<Message>) -> Self {
        Exchange { side, mixture, to, from, ended: None }
    }

    /// Runs this side's inference. The other side learns of its end when the sender is dropped.
    fn run(mut self, engine: &mut dyn Engine, input: &ModelInput) -> Result<Matrix, Ended> {
        let actions = engine.infer_patched(input, &mut self).map_err(Ended::Failed)?;
        let Exchange { to, from, ended, .. } = self;
        drop(to);
        // What the other side still hands over has no taker here: it had more tensors.
        let left = from.recv().is_ok();
        ended.or(left.then_some(Ended::Alone)).map_or(Ok(actions), Err)
    }
}

impl Patches for Exchange<'_> {
    fn hand_over(&mut self, at: &Site, _: [usize; 3], values: &mut [f32]) {
        if self.ended.is_some() {
            return;
        }
        if self.mixture.owner(at) == self.side {
            let handed = Message { at: at.clone(), values: values.to_vec() };
            self.ended = self.to.send(handed).is_err().then_some(Ended::Alone);
            return;
        }
        self.ended = match self.from.recv() {
            Err(_) => Some(Ended::Alone),
            Ok(found) => {
                let same = (&found.at, found.values.len()) == (at, values.len());
                if same {
                    values.copy_from_slice(&found.values);
                }
                (!same).then(|| Ended::Failed(mismatch(at, values.len(), &found)))
            }
        }
    }
}

fn mismatch(at: &Site, values: usize, found: &Message) -> Error {
    let what = format!("expected {values} values of `{at}`, found {} of `{}`", found.values.len(), found.at);
    Error::input(ENGINES, what)
}

/// What exchanging one component does to the actions: relative L2 to the reference's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Swap {
    /// The name of the component.
    pub component: &'static str,
    /// Only this component is the engine's.
    pub only_b: f64,
    /// All but this component is the engine's.
    pub all_but_b: f64,
}

impl Swap {
    /// Whether the component alone makes the error, and nothing else does: its own version causes more than `floor`,
    /// and without it no more than that is left.
    pub fn locates(&self, floor: f64) -> bool {
        self.only_b > floor && self.all_but_b <= floor
    }
}

/// Exchanges every component in both directions; `actions` are the reference's. Where the engine keeps state, `before`
/// is the input of the inference before, which it is given again each time. `progress` is told how many of how many
/// mixtures ran.
///
/// # Errors
/// As [`side_by_side`].
pub fn swap_components(
    reference: Reference,
    b: &mut dyn Engine,
    (input, before): (&ModelInput, Option<&ModelInput>),
    actions: &Matrix,
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<Swap>> {
    let parts = &reference.model.topology.parts;
    let (mut swaps, mut done, of) = (Vec::new(), 0, 2 * parts.len());
    for part in parts {
        let mut error = |most: Side| -> Result<f64> {
            progress(done, of);
            done += 1;
            if let Some(before) = before {
                b.infer(std::slice::from_ref(before), None)?;
            }
            let mixture = Mixture { most, swapped: Some(part) };
            Ok(relative_l2(&side_by_side(reference, b, input, mixture)?.data, &actions.data))
        };
        swaps.push(Swap { component: part.name, only_b: error(Side::A)?, all_but_b: error(Side::B)? });
    }
    Ok(swaps)
}
