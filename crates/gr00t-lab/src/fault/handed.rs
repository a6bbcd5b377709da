//! Buffers that the engine of one part is handed and takes for another type: the tensors before it are right, and it
//! computes with others.

use super::buffers::MISREAD;
use super::computed::Handed;
use super::{Change, Effect, Fault, Reach, Suspect};
use steadyhand_fidelity::format::reinterpret_bytes;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::model::dit::Attends;

const FIX: &str =
    "hand over buffers of the engine's own types, as its bindings report them, and convert by value";

/// A part that deployments build an engine of.
struct Engine {
    /// How the paths of its operations begin.
    part: &'static str,
    /// Its operations: these paths and everything below.
    paths: &'static [&'static str],
    /// The tensor that it is handed.
    own: &'static str,
    /// Whether it is handed what the DiT attends to, too.
    memory: bool,
    /// Whether its result is that of a linear layer, which a buffer gives back.
    output: Option<&'static str>,
}

const ENGINES: [Engine; 6] = [
    Engine { part: "dit", paths: &["dit"], own: "dit.tokens", memory: true, output: Some("dit.output") },
    Engine {
        part: "action_head.vl_self_attention",
        paths: &["action_head.vl_self_attention"],
        own: "action_head.vl_norm",
        memory: false,
        output: None,
    },
    Engine {
        part: "action_head.state_encoder",
        paths: &["action_head.state_encoder", "action_head.state_features"],
        own: "action_head.state",
        memory: false,
        output: Some("action_head.state_features"),
    },
    Engine {
        part: "action_encoder",
        paths: &["action_encoder", "action_features"],
        own: "actions_in",
        memory: false,
        output: Some("action_features"),
    },
    Engine {
        part: "decoder",
        paths: &["decoder"],
        own: "dit.output",
        memory: false,
        output: Some("decoder"),
    },
    Engine { part: "language", paths: &["language"], own: "inputs_embeds", memory: false, output: None },
];

/// Operations that read the tensor that their part is handed.
const READERS: [&str; 9] = [
    "dit.block.0.norm1",
    "dit.block.0.residual1",
    "action_head.vl_self_attention.layer.0.norm1",
    "action_head.vl_self_attention.layer.0.residual1",
    "action_head.state_encoder.layer1",
    "action_encoder.layer1",
    "decoder.layer1",
    "language.layer.0.norm1",
    "language.layer.0.residual1",
];

/// What of the tensors that a part is handed an operation reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    /// The part's own.
    Own,
    /// What the DiT attends to.
    Memory,
}

/// What the operation at `path` reads of what its part is handed.
pub(super) fn reads(model: &Model, path: &str) -> Option<Reads> {
    if READERS.contains(&path) {
        return Some(Reads::Own);
    }
    let (index, name) = path.strip_prefix("dit.block.")?.split_once('.')?;
    let block = model.action_head.dit.blocks.get(index.parse::<usize>().ok()?)?;
    let attends = matches!(name, "key" | "value") && !matches!(block.attends, Attends::Itself);
    attends.then_some(Reads::Memory)
}

/// The result of the operation at `path`, as its buffer is read.
pub(super) fn give_back(handed: Handed, path: &str, values: &mut [f32]) {
    if handed.back && ENGINES.iter().any(|engine| engine.output == Some(path)) {
        let misread = reinterpret_bytes(values, handed.read, handed.stored);
        values.iter_mut().zip(misread).for_each(|(value, misread)| *value = misread);
    }
}

/// How many times as much a rounding of the result at `path` shows once it has been read as the other type: a unit in the last
/// place of what was written is one of what is read.
pub(super) fn spread(handed: Handed, path: &str) -> f64 {
    let misread = handed.back && ENGINES.iter().any(|engine| engine.output == Some(path));
    let units = f64::from(handed.stored.epsilon()) / f64::from(handed.read.epsilon());
    if misread { units.max(1.0) } else { 1.0 }
}

impl Engine {
    fn fault(&self, model: &Model, handed: Handed) -> Fault {
        let Handed { stored, read, own, memory, back } = handed;
        let memory_name = model.topology.memory();
        let tensors = match (own, memory) {
            (true, true) => format!("`{}` and `{memory_name}`", self.own),
            (false, _) => format!("`{memory_name}`"),
            (true, false) => format!("`{}`", self.own),
        };
        let mut description = format!("is handed {tensors} in {stored} and reads the bytes as {read}");
        if let (true, Some(output)) = (back, self.output) {
            description.push_str(&format!(", and the {read} of `{output}` is read as {stored}"));
        }
        Fault {
            kind: "misread-input",
            place: self.part.to_owned(),
            reach: Reach::Paths(self.paths),
            effect: Effect::Operation(Change::Handed(handed)),
            opaque: false,
            description,
            fix: FIX.to_owned(),
        }
    }

    /// Every way in which its buffers may be misread.
    fn faults(&self, model: &Model) -> Vec<Fault> {
        let which: &[(bool, bool)] =
            if self.memory { &[(true, true), (true, false), (false, true)] } else { &[(true, false)] };
        let mut faults = Vec::new();
        for (stored, read) in MISREAD {
            // Of a wider result every second value read would be made of the bits that rounding decides.
            let comes_back = self.output.is_some() && stored.bits() == read.bits();
            let returns: &[bool] = if comes_back { &[false, true] } else { &[false] };
            for (own, memory) in which {
                for back in returns {
                    let handed = Handed { stored, read, own: *own, memory: *memory, back: *back };
                    faults.push(self.fault(model, handed));
                }
            }
        }
        faults
    }
}

pub(super) fn candidates(suspect: &Suspect) -> Vec<Fault> {
    let model = suspect.model;
    let at_edge = reads(model, suspect.site).is_some();
    let engines = ENGINES.iter().filter(|engine| {
        let of_it = engine.paths.iter().any(|path| suspect.may_be(path));
        of_it && (at_edge || !suspect.unshown.is_empty())
    });
    engines.flat_map(|engine| engine.faults(model)).collect()
}

/// Of the DiT, the part that is built as an engine most: both tensors in one 16-bit type, read as the other.
pub(super) fn of_any_engine(model: &Model) -> Vec<Fault> {
    let dit = ENGINES.iter().filter(|engine| engine.memory);
    let all = dit.flat_map(|engine| engine.faults(model));
    let wanted = |fault: &Fault| {
        matches!(fault.effect, Effect::Operation(Change::Handed(handed))
            if handed.own && handed.memory && handed.stored.bits() == handed.read.bits())
    };
    all.filter(wanted).collect()
}
