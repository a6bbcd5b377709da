//! Which models are served, and on which engines.

use super::ServeArgs;
use crate::engines::EngineSpec;
use crate::options::{Devices, demo};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use steadyhand_gr00t::{Session, session, synthetic};

/// Longest name of a model.
const MAX_NAME: usize = 100;

/// What a model's engines are.
#[derive(Debug, Clone, PartialEq)]
pub struct On {
    pub engine: EngineSpec,
    /// As of `--precision`.
    pub precision: Option<String>,
    /// Numbers of GPUs; none where the option is left out.
    pub devices: Vec<usize>,
    /// Engines on each of them.
    pub replicas: usize,
    pub denoising_steps: usize,
}

/// A model that is asked for.
pub struct Wanted {
    /// Its embodiment where it has none.
    name: Option<String>,
    /// A folder or the name of synthetic sizes.
    checkpoint: PathBuf,
    embodiment_tag: Option<String>,
    tokenizer: Option<PathBuf>,
    on: On,
}

/// A model that is there, without engines.
pub struct Opened {
    pub name: String,
    pub session: Session,
}

/// Models of one checkpoint, which share engines.
pub struct Group {
    /// As it was named.
    pub checkpoint: PathBuf,
    pub on: On,
    /// At least one.
    pub models: Vec<Opened>,
}

/// `--models FILE`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    model: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Option<String>,
    checkpoint: String,
    embodiment_tag: Option<String>,
    tokenizer: Option<PathBuf>,
    engine: Option<String>,
    precision: Option<String>,
    device: Option<OneOrMore>,
    replicas: Option<u8>,
    denoising_steps: Option<usize>,
}

/// `0` or `[0, 1]`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(usize),
    More(Vec<usize>),
}

/// What the command line or its file asks for, in order: the first is that of clients that name none.
///
/// # Errors
/// A file that cannot be read or has no such form.
pub fn wanted(args: &ServeArgs) -> Result<Vec<Wanted>> {
    let devices = args.engine.options.device.device.as_ref();
    let on = On {
        engine: args.engine.engine.clone(),
        precision: args.engine.precision.clone(),
        devices: devices.map(|Devices(numbers)| numbers.clone()).unwrap_or_default(),
        replicas: usize::from(args.replicas),
        denoising_steps: args.denoising_steps,
    };
    if let Some(file) = &args.models {
        return of_file(file, &on).with_context(|| format!("--models {}", file.display()));
    }
    let checkpoint = match &args.checkpoint {
        Some(checkpoint) => checkpoint.clone(),
        None => demo::of_user()?.checkpoint,
    };
    let model = |embodiment_tag: Option<String>| Wanted {
        name: None,
        checkpoint: checkpoint.clone(),
        embodiment_tag,
        tokenizer: args.tokenizer.clone(),
        on: on.clone(),
    };
    match args.embodiment_tag.is_empty() {
        true => Ok(vec![model(None)]),
        false => Ok(args.embodiment_tag.iter().map(|tag| model(Some(tag.clone()))).collect()),
    }
}

fn of_file(file: &Path, on: &On) -> Result<Vec<Wanted>> {
    let text = std::fs::read_to_string(file).context("cannot be read")?;
    let File { model: entries } = toml::from_str(&text)?;
    ensure!(!entries.is_empty(), "model: expected at least one, found none");
    let folder = file.parent().unwrap_or(Path::new(""));
    let model = |(place, entry): (usize, Entry)| {
        let number = place + 1;
        Wanted::of(entry, folder, on).with_context(|| format!("model {number}"))
    };
    entries.into_iter().enumerate().map(model).collect()
}

impl Wanted {
    /// Paths are relative to the file's folder.
    fn of(entry: Entry, folder: &Path, on: &On) -> Result<Self> {
        let Entry { name, checkpoint, embodiment_tag, tokenizer, .. } = entry;
        let checkpoint = match synthetic::config(&checkpoint)? {
            Some(_) => PathBuf::from(checkpoint),
            None => folder.join(checkpoint),
        };
        let engine = entry.engine.map(|text| EngineSpec::served(&text)).transpose();
        let engine = engine.map_err(|what| anyhow::anyhow!("engine: {what}"))?;
        let replicas = entry.replicas.map_or(on.replicas, usize::from);
        ensure!((1..=64).contains(&replicas), "replicas: expected 1 to 64, found {replicas}");
        let devices = match entry.device {
            None => on.devices.clone(),
            Some(OneOrMore::One(number)) => vec![number],
            Some(OneOrMore::More(numbers)) => {
                let twice =
                    numbers.iter().enumerate().any(|(place, number)| numbers[..place].contains(number));
                ensure!(
                    !twice && !numbers.is_empty(),
                    "device: expected different numbers, found {numbers:?}"
                );
                numbers
            }
        };
        let precision = entry.precision.map(|text| match text.ends_with(".toml") {
            true => folder.join(text).display().to_string(),
            false => text,
        });
        // An engine's own precision does not go with one that another engine was given.
        let precision = precision.or_else(|| on.precision.clone().filter(|_| engine.is_none()));
        Ok(Wanted {
            name,
            checkpoint,
            embodiment_tag,
            tokenizer: tokenizer.map(|path| folder.join(path)),
            on: On {
                engine: engine.unwrap_or_else(|| on.engine.clone()),
                precision,
                devices,
                replicas,
                denoising_steps: entry.denoising_steps.unwrap_or(on.denoising_steps),
            },
        })
    }

    fn open(&self, args: &ServeArgs) -> Result<Opened> {
        let options = session::Options {
            embodiment_tag: self.embodiment_tag.clone(),
            tokenizer: self.tokenizer.clone(),
            seed: args.seed,
            shapes: synthetic::Shapes { frame: args.frame, ..Default::default() },
            ..session::Options::default()
        };
        let session = Session::open(&self.checkpoint, &options)?;
        let tag = session.parts.processor.embodiment_tag();
        let name = self.name.clone().unwrap_or_else(|| tag.to_owned());
        Ok(Opened { name, session })
    }
}

/// Opens what is wanted, without engines; models of one checkpoint on the same engines are together. The first one stays
/// the first.
///
/// # Errors
/// As [`Session::open`]; a name that is none, or is there twice.
pub fn open(wanted: &[Wanted], args: &ServeArgs) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    for model in wanted {
        let opened = model.open(args)?;
        let name = &opened.name;
        let fits =
            (1..=MAX_NAME).contains(&name.len()) && !name.contains(['/', '\\']) && !name.starts_with('.');
        ensure!(
            fits && !name.contains(char::is_control),
            "model name: expected 1 to {MAX_NAME} bytes of a name for a folder, found {name:?}"
        );
        if groups.iter().flat_map(|group| &group.models).any(|other| other.name == *name) {
            bail!(
                "model name: expected each once, found {name} twice; a name in the file of --models tells them apart"
            );
        }
        let same =
            |group: &&mut Group| group.on == model.on && same_file(&group.checkpoint, &model.checkpoint);
        match groups.iter_mut().find(same) {
            Some(group) => group.models.push(opened),
            None => groups.push(Group {
                checkpoint: model.checkpoint.clone(),
                on: model.on.clone(),
                models: vec![opened],
            }),
        }
    }
    Ok(groups)
}

fn same_file(a: &Path, b: &Path) -> bool {
    let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    a == b || canonical(a) == canonical(b)
}
