//! `steady inspect checkpoint`: sizes, weights, files and embodiments, and whether they fit each other.

use super::Page;
use crate::report::table::{Table, thousands};
use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use steadyhand_files::json;
use steadyhand_gr00t::checkpoint::{Checkpoint, Dtype, Weight, processor_file};
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::policy::{check_horizon, check_processor};
use steadyhand_gr00t::processor::{
    ActionRepresentation, EmbodimentModalities, ModalityConfig, Processor, ProcessorConfig, embodiment_id,
    own_tokenizer,
};
use steadyhand_gr00t::topology::{Layers, Topology};

/// Files of a whole checkpoint, with what they hold.
const FILES: [(&str, &str); 6] = [
    ("config.json", "the model's sizes"),
    ("model.safetensors", "the weights"),
    ("processor_config.json", "embodiments, image and language settings"),
    ("statistics.json", "ranges of states and actions"),
    ("embodiment_id.json", "slots, needed for tags other than the official ones"),
    ("tokenizer.json", "needed unless --tokenizer names another"),
];

/// Those of them that lie in the folder itself; the others may lie in `processor/`.
const OWN: [&str; 2] = ["config.json", "model.safetensors"];

/// Describes whatever the folder has.
///
/// # Errors
/// All that is damaged or does not fit. Files that are missing are no error as long as anything is there.
pub(super) fn describe(folder: &Path, page: &mut Page) -> Result<()> {
    let name = folder.to_str().unwrap_or_default();
    if let Some(config) = steadyhand_gr00t::synthetic::config(name)? {
        page.line(&format!(
            "checkpoint {name}: random weights of these sizes, without files or embodiments\n"
        ));
        page.section("model", &sizes(&config));
        page.section("action head", &action_head(&config));
        return Ok(());
    }
    let has = |name: &str| folder.join(name).is_file();
    let has_weights = has("model.safetensors") || has("model.safetensors.index.json");
    let has_processor = processor_file(folder, "processor_config.json").is_file();
    if !(has("config.json") || has_weights || has_processor) {
        // Says what the folder is instead, or which one was meant.
        Config::load(folder)?;
    }
    page.line(&format!("checkpoint {}\n", folder.display()));
    page.section("files", &files(folder)?);

    let mut problems = Vec::new();
    let config = has("config.json").then(|| Config::load(folder)).transpose();
    let config = config.unwrap_or_else(|error| keep(&mut problems, error.into()));
    if let Some(config) = &config {
        page.section("model", &sizes(config));
        page.section("action head", &action_head(config));
    }
    let weights = has_weights.then(|| Checkpoint::open(folder)).transpose();
    let weights = weights.unwrap_or_else(|error| keep(&mut problems, error.into()));
    if let Some(weights) = &weights {
        page.section("weights", &parts(weights, config.as_ref().map(Topology::of)));
    }
    let processor = has_processor.then(|| ProcessorConfig::read(folder)).transpose();
    let processor = processor.unwrap_or_else(|error| keep(&mut problems, error.into()));
    if let Some(processor) = &processor {
        page.section("embodiments", &embodiments(folder, processor));
    }

    let model = match (&weights, config) {
        (Some(weights), Some(config)) => match Model::load(weights, config) {
            Ok(model) => {
                page.line(&format!("all {} tensors fit config.json", weights.tensors().len()));
                Some(model)
            }
            Err(error) => keep(&mut problems, error.into()),
        },
        (weights, config) => {
            page.line("fit: not checked, it takes config.json and the weights");
            let missing = [
                (!has_weights && weights.is_none()).then(|| Checkpoint::open(folder).err()).flatten(),
                (!has("config.json") && config.is_none()).then(|| Config::load(folder).err()).flatten(),
            ];
            missing.into_iter().flatten().for_each(|error| page.line(&format!("  {error}")));
            None
        }
    };
    match &processor {
        Some(processor) => check_embodiments(folder, processor, model.as_ref(), page, &mut problems),
        None if has_processor => page.line("processor: not checked, processor_config.json is damaged"),
        None => {
            page.line("processor: not checked, processor_config.json is missing");
            if let Err(error) = ProcessorConfig::read(folder) {
                page.line(&format!("  {error}"));
            }
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(anyhow!(problems.iter().map(crate::outcome::describe).collect::<Vec<_>>().join("\n"))),
    }
}

/// Remembers an error and goes on without the value.
fn keep<T>(problems: &mut Vec<anyhow::Error>, error: anyhow::Error) -> Option<T> {
    problems.push(error);
    None
}

/// The folder's files, then those of a whole checkpoint that are missing.
fn files(folder: &Path) -> Result<Table> {
    let mut table = Table::new(&["file", "bytes", "note"]);
    let mut found = BTreeMap::new();
    for below in ["", "processor/"] {
        let folder = folder.join(below);
        if !below.is_empty() && !folder.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if let (true, Some(name)) = (path.is_file(), path.file_name()) {
                let name = format!("{below}{}", name.to_string_lossy());
                found.insert(name, path.metadata()?.len() as usize);
            }
        }
    }
    for (name, bytes) in &found {
        table.row([name.clone(), thousands(*bytes)]);
    }
    let sharded = found.contains_key("model.safetensors.index.json");
    let present = |name: &str| {
        found.contains_key(name)
            || (sharded && name == "model.safetensors")
            || (!OWN.contains(&name) && found.contains_key(&format!("processor/{name}")))
    };
    for (name, what) in FILES.iter().filter(|(name, _)| !present(name)) {
        table.row([(*name).to_owned(), "-".to_owned(), format!("missing: {what}")]);
    }
    Ok(table)
}

/// The sizes of the parts that repeat a layer.
fn sizes(config: &Config) -> Table {
    let mut table = Table::new(&["part", "layers", "hidden", "heads", "head dim", "feed-forward", "note"]);
    for part in Topology::of(config).parts {
        let Some(Layers { count, hidden, heads, feed_forward, note, .. }) = part.layers else { continue };
        let sizes = [count, hidden, heads.heads, heads.head_dim, feed_forward].map(|size| size.to_string());
        table.row([part.name.to_owned()].into_iter().chain(sizes).chain([note]));
    }
    table
}

fn action_head(config: &Config) -> Table {
    let mut table = Table::new(&["size", "value"]);
    for (name, value) in [
        ("action horizon", config.action_horizon),
        ("state dims", config.max_state_dim),
        ("action dims", config.max_action_dim),
        ("embodiment slots", config.max_num_embodiments),
        ("Euler steps", config.num_inference_timesteps),
    ] {
        table.row([name.to_owned(), value.to_string()]);
    }
    table
}

/// Parameters, bytes and element types of each part of the model, where its topology is known, and of all of it.
fn parts(checkpoint: &Checkpoint, topology: Option<Topology>) -> Table {
    let parts = topology.as_ref().map_or(&[][..], |topology| &topology.parts);
    let part = |name: &str| topology.as_ref().and_then(|topology| topology.part_of_weight(name));
    let mut tensors: BTreeMap<usize, Vec<&Weight>> = BTreeMap::new();
    for (name, weight) in checkpoint.tensors() {
        let index = part(name).and_then(|part| parts.iter().position(|other| other == part));
        tensors.entry(index.unwrap_or(parts.len())).or_default().push(weight);
    }
    let mut table = Table::new(&["component", "tensors", "parameters", "bytes", "dtypes"]);
    let mut row = |name: &str, weights: &[&Weight]| {
        let parameters: usize = weights.iter().map(|weight| weight.len()).sum();
        let bytes: usize = weights.iter().map(|weight| weight.len() * weight.dtype().size()).sum();
        table.row([
            name.to_owned(),
            weights.len().to_string(),
            thousands(parameters),
            thousands(bytes),
            dtypes(weights),
        ]);
    };
    for (index, weights) in &tensors {
        row(parts.get(*index).map_or("other", |part| part.name), weights);
    }
    row("all", &tensors.values().flatten().copied().collect::<Vec<_>>());
    table
}

/// The element types; each with its number of tensors where there are several.
fn dtypes(weights: &[&Weight]) -> String {
    let kinds = [(Dtype::Bf16, "bf16"), (Dtype::F16, "f16"), (Dtype::F32, "f32")];
    let counted = kinds.map(|(dtype, name)| (name, weights.iter().filter(|w| w.dtype() == dtype).count()));
    let present: Vec<_> = counted.into_iter().filter(|(_, count)| *count > 0).collect();
    match present[..] {
        [(name, _)] => name.to_owned(),
        _ => present.iter().map(|(name, count)| format!("{name} x{count}")).collect::<Vec<_>>().join(", "),
    }
}

/// Views, groups and time steps of each embodiment.
fn embodiments(folder: &Path, processor: &ProcessorConfig) -> Table {
    // Damaged statistics are reported where the processor is checked; here they only leave dims out.
    let statistics = std::fs::read(processor_file(folder, "statistics.json")).ok();
    let statistics: Value = statistics.and_then(|text| json::from_slice(&text).ok()).unwrap_or(Value::Null);
    let mut table = Table::new(&["embodiment", "slot", "modality", "time steps", "dims", "keys"]);
    for (tag, modalities) in &processor.modality_configs {
        let slot = embodiment_id(folder, processor.version, tag)
            .map_or_else(|_| "unknown".to_owned(), |id| id.to_string());
        let EmbodimentModalities { video, state, action, language } = modalities;
        let rows = [("video", video), ("state", state), ("action", action), ("language", language)];
        for (index, (name, modality)) in rows.into_iter().enumerate() {
            // Relative groups may have statistics of their own only.
            let dims = |key: &str| {
                let of = |modality: &str| dim(&statistics[tag.as_str()][modality][key]);
                of(name).or_else(|| of("relative_action").filter(|_| name == "action"))
            };
            let total: Option<usize> = modality.modality_keys.iter().map(|key| dims(key)).sum();
            let keys = modality.modality_keys.iter().enumerate().map(|(place, key)| {
                let dims = dims(key).map(|dims| format!(" [{dims}]")).unwrap_or_default();
                format!("{key}{dims}{}", representation(processor, modality, place))
            });
            let first = |text: &str| if index == 0 { text.to_owned() } else { String::new() };
            table.row([
                first(tag),
                first(&slot),
                name.to_owned(),
                time_steps(&modality.delta_indices),
                total.map_or_else(|| "-".to_owned(), |total| total.to_string()),
                keys.collect::<Vec<_>>().join(", "),
            ]);
        }
    }
    table
}

/// Values of a group by the length of its statistics, which may have a row for each time step.
fn dim(group: &Value) -> Option<usize> {
    let first = group.as_object()?.values().next()?.as_array()?;
    first.first()?.as_array().map(Vec::len).or(Some(first.len()))
}

/// Marks action groups that the policy gives relative to the state.
fn representation(processor: &ProcessorConfig, modality: &ModalityConfig, place: usize) -> &'static str {
    let rep =
        modality.action_configs.as_ref().and_then(|configs| configs.get(place)).map(|config| config.rep);
    match rep {
        Some(ActionRepresentation::Relative) if processor.use_relative_action => " relative",
        _ => "",
    }
}

fn time_steps(deltas: &[i64]) -> String {
    match deltas {
        [first, .., last] if (*first..=*last).eq(deltas.iter().copied()) => {
            format!("{} ({first} to {last})", deltas.len())
        }
        _ => {
            let steps = deltas.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
            format!("{} ({steps})", deltas.len())
        }
    }
}

/// Loads each embodiment's processor, which checks its files against each other and against the model.
fn check_embodiments(
    folder: &Path,
    config: &ProcessorConfig,
    model: Option<&Model>,
    page: &mut Page,
    problems: &mut Vec<anyhow::Error>,
) {
    let missing = own_tokenizer(folder, config.version).err().map(|error| error.to_string());
    for tag in config.modality_configs.keys() {
        let check = || -> Result<()> {
            let processor = Processor::load(folder, tag, None)?;
            let Some(model) = model else { return Ok(()) };
            check_horizon(&processor, model)?;
            Ok(check_processor(&processor, model)?)
        };
        match check() {
            Ok(()) if model.is_some() => page.line(&format!("the processor of {tag} fits the model")),
            Ok(()) => page.line(&format!("the processor files of {tag} fit each other")),
            // Many checkpoints have none; whoever runs them names one.
            Err(error) if missing.as_ref() == Some(&error.to_string()) => {
                page.line(&format!(
                    "processor of {tag}: not checked further, the folder has no tokenizer\n  {error}"
                ));
            }
            Err(error) => problems.push(error),
        }
    }
}
