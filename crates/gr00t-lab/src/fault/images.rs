//! Faults of how images reach the language layers and the action head: rows and columns in the prompt, layers of the vision
//! tower that are added later, which layer's features are taken, and who attends to whom before the DiT.

use super::Change;
use super::{Case, Effect, Fault, Reach, Suspect};
use std::sync::Arc;
use steadyhand_gr00t::model::Model;

/// Where features are read behind the language layers.
const READERS: [&str; 3] = ["language.norm", "action_head.vl_norm", "backbone_features"];
/// The same, with the layers.
const LAYERS_AND_READERS: [&str; 4] =
    ["language.layer", "language.norm", "action_head.vl_norm", "backbone_features"];
/// What rotates the heads of the language layers.
const ROPE: [&str; 2] = ["query_rope", "key_rope"];
/// Numbers of padding tokens that are tried.
const PADDING: [usize; 7] = [1, 2, 4, 5, 8, 16, 32];

/// The features are taken behind the final norm of the language model.
pub fn normed_features() -> Fault {
    Fault {
        kind: "normed-features",
        place: "action_head.vl_norm".to_owned(),
        reach: Reach::Paths(&READERS),
        effect: Effect::Model(Arc::new(|model| model.language.normed = true)),
        opaque: false,
        description: "takes the features behind the language model's final norm".to_owned(),
        fix: "take the last layer's own result: hidden_states[-1], not last_hidden_state".to_owned(),
    }
}

/// What the vision tower's deeper layers give is never added.
pub fn no_deepstack() -> Fault {
    Fault {
        kind: "no-deepstack",
        place: "language.deepstack".to_owned(),
        reach: Reach::Below,
        effect: Effect::Operation(Change::NoAddition),
        opaque: false,
        description: "leaves deepstack out: the vision tower's intermediate layers are never added"
            .to_owned(),
        fix: "add each deepstack merger's rows to the image tokens behind its language layer".to_owned(),
    }
}

/// It is added some language layers too late.
pub fn late_deepstack(layers: usize) -> Fault {
    Fault {
        kind: "late-deepstack",
        place: "language".to_owned(),
        reach: Reach::Below,
        effect: Effect::Model(Arc::new(move |model| {
            model.language.deepstack.iter_mut().for_each(|layer| *layer += layers);
        })),
        opaque: false,
        description: format!("adds deepstack {layers} language layers too late"),
        fix: "add it behind language layers 0, 1, 2, …, whatever the vision layers' numbers are".to_owned(),
    }
}

/// Time, row and column have frequencies of their own in one block each.
pub fn sectioned_rope() -> Fault {
    Fault {
        kind: "sectioned-rope",
        place: "language.layer".to_owned(),
        reach: Reach::Named(&ROPE),
        effect: Effect::Model(Arc::new(|model| model.language.rotary.axes.sort_unstable())),
        opaque: false,
        description: "gives time, row and column a block of frequencies each (M-RoPE of Qwen2-VL)".to_owned(),
        fix: "interleave them: frequency i turns by row where i % 3 is 1, by column where it is 2".to_owned(),
    }
}

/// Image tokens stand one behind the other.
pub fn sequential_rope() -> Fault {
    Fault {
        kind: "sequential-rope",
        place: "language.layer".to_owned(),
        reach: Reach::Named(&ROPE),
        effect: Effect::Model(Arc::new(|model| model.language.rows_and_columns = false)),
        opaque: false,
        description: "numbers the tokens of the prompt one by one: images have no rows and columns"
            .to_owned(),
        fix: "pass the position ids of time, row and column (get_rope_index)".to_owned(),
    }
}

/// Language layers are missing at the end.
pub fn fewer_layers(kept: usize, of: usize) -> Fault {
    Fault {
        kind: "fewer-layers",
        place: "language.layer".to_owned(),
        reach: Reach::Paths(&LAYERS_AND_READERS),
        effect: Effect::Model(Arc::new(move |model| model.language.layers.truncate(kept))),
        opaque: false,
        description: format!("runs {kept} of the {of} language layers"),
        fix: "take select_layer from the checkpoint's config.json: the code's default is another".to_owned(),
    }
}

/// The self-attention over the features sees tokens of padding.
pub fn seen_padding(tokens: usize) -> Fault {
    Fault {
        kind: "seen-padding",
        place: "action_head.vl_self_attention".to_owned(),
        reach: Reach::Named(&["attention"]),
        effect: Effect::Operation(Change::SeesPadding(tokens)),
        opaque: false,
        description: format!("lets the self-attention over the features see {tokens} tokens of padding"),
        fix: "run prompts of one length at a time, or mask the padding".to_owned(),
    }
}

/// The rows of a state's history stand in the reverse order.
pub fn reversed_state() -> Fault {
    Fault {
        kind: "reversed-state",
        place: "action_head.state".to_owned(),
        reach: Reach::Place,
        effect: Effect::Input(Arc::new(|input| {
            let cols = input.state.cols.max(1);
            let rows: Vec<&[f32]> = input.state.data.chunks_exact(cols).rev().collect();
            input.state.data = rows.concat();
        })),
        opaque: false,
        description: "is given the rows of the state's history in the reverse order".to_owned(),
        fix: "put the oldest state first".to_owned(),
    }
}

/// The faults of places that the model has.
fn all(model: &Model) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !model.language.normed {
        faults.push(normed_features());
    }
    if !model.deepstack.is_empty() {
        faults.extend([no_deepstack(), late_deepstack(1)]);
    }
    if model.language.rows_and_columns {
        faults.extend([sectioned_rope(), sequential_rope()]);
    }
    if model.action_head.vl_self_attention.is_some() {
        faults.extend(PADDING.map(seen_padding));
    }
    if model.action_head.state_rows.is_some_and(|rows| rows > 1) {
        faults.push(reversed_state());
    }
    faults
}

pub(super) fn candidates(suspect: &Suspect) -> Vec<Fault> {
    let (model, site) = (suspect.model, suspect.site);
    let mut faults = all(model);
    faults.retain(|fault| match fault.kind {
        "normed-features" => READERS.contains(&site),
        "no-deepstack" => suspect.may_be("language.deepstack"),
        "late-deepstack" => suspect.may_be("language.deepstack") || suspect.may_be("language.layer"),
        "sectioned-rope" | "sequential-rope" => {
            ROPE.contains(&suspect.name()) || suspect.unshown.iter().any(|path| path.ends_with("_rope"))
        }
        "seen-padding" => suspect.may_be("action_head.vl_self_attention") && suspect.name() == "attention",
        "reversed-state" => suspect.may_be("action_head.state"),
        _ => true,
    });
    // What reads the features errs where layers do not run.
    if READERS.contains(&site) {
        faults.extend(shortened(model));
    }
    faults
}

/// Fewer layers, of a model whose configuration has a default that is not its value.
fn shortened(model: &Model) -> Vec<Fault> {
    let layers = model.language.layers.len();
    (1..layers).filter(|_| !model.language.normed).map(|kept| fewer_layers(kept, layers)).collect()
}

pub(super) fn of_any_engine(model: &Model) -> Vec<Fault> {
    [all(model), shortened(model)].concat()
}

/// Cases of a model that has such places.
pub(super) fn cases(model: &Model) -> Vec<Case> {
    let case = |name, strong: Fault, weak: Fault| Case { name, strong, weak };
    let same = |name, fault: Fault| case(name, fault.clone(), fault);
    let layers = model.language.layers.len();
    let mut cases = Vec::new();
    if !model.language.normed {
        cases.push(same("features after the final norm", normed_features()));
        let quarter = (layers - layers / 4).min(layers - 1);
        cases.push(case(
            "fewer language layers",
            fewer_layers(quarter, layers),
            fewer_layers(layers - 1, layers),
        ));
    }
    if !model.deepstack.is_empty() {
        cases.push(same("deepstack left out", no_deepstack()));
        cases.push(same("deepstack at the wrong layer", late_deepstack(1)));
    }
    if model.language.rows_and_columns {
        cases.push(case("M-RoPE in blocks", sectioned_rope(), sequential_rope()));
    }
    if model.action_head.vl_self_attention.is_some() {
        cases.push(case("padding seen by self-attention", seen_padding(16), seen_padding(1)));
    }
    if model.action_head.state_rows.is_some_and(|rows| rows > 1) {
        cases.push(same("state history reversed", reversed_state()));
    }
    cases
}
