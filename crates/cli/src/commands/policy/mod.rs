//! `steady policy`: precision policies shown, compared, calibrated and put into a table.

mod args;
mod calibrate;
mod diff;
mod listing;
mod show;
mod table;

pub use args::PolicyArgs;
pub use calibrate::spread;

use crate::{Outcome, demo_assets, engines};
use anyhow::{Context, Result};
use args::{ListingArgs, PolicyCommand};
use std::path::{Path, PathBuf};
use steadyhand_gr00t::checkpoint::fingerprint;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::policy::load_model;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// Runs the subcommand.
pub fn run(args: &PolicyArgs) -> Result<Outcome> {
    match &args.what {
        PolicyCommand::Show(args) => show::run(args)?,
        PolicyCommand::Diff(args) => diff::run(args)?,
        PolicyCommand::Calibrate(args) => calibrate::run(args)?,
        PolicyCommand::Table(args) => return table::run(args),
    }
    Ok(Outcome::Success)
}

/// A model whose sites are listed.
struct Listed {
    checkpoint: PathBuf,
    model: Model,
    sites: Vec<ModelSite>,
}

impl Listed {
    fn load(args: &ListingArgs) -> Result<Self> {
        let checkpoint = match &args.checkpoint {
            Some(folder) => folder.clone(),
            None => demo_assets::temporary()?.checkpoint,
        };
        let model = load_model(&checkpoint)?;
        Ok(Listed { sites: model.sites()?, checkpoint, model })
    }

    fn policy(&self, name: &str) -> Result<PrecisionPolicy> {
        engines::policy(name, &self.checkpoint, &self.model, None)
    }
}

/// A hash of a dataset: the paths of its files and the contents of all but its videos, of which the lengths count.
///
/// # Errors
/// A file that cannot be read.
pub fn dataset_hash(folder: &Path) -> Result<String> {
    let mut names = Vec::new();
    list(folder, "", &mut names)?;
    names.sort();
    let mut files = Vec::new();
    for name in &names {
        let path = folder.join(name);
        let read = || match path.extension().is_some_and(|extension| extension == "mp4") {
            true => Ok(std::fs::metadata(&path)?.len().to_le_bytes().to_vec()),
            false => std::fs::read(&path),
        };
        files.push(read().with_context(|| path.display().to_string())?);
    }
    Ok(fingerprint(names.iter().map(String::as_str).zip(files.iter().map(Vec::as_slice))))
}

/// Files below a folder as `a/b`; hidden ones are what tools left there.
fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry.with_context(|| folder.display().to_string())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        if entry.path().is_dir() {
            list(&entry.path(), &format!("{prefix}{name}/"), names)?;
        } else {
            names.push(format!("{prefix}{name}"));
        }
    }
    Ok(())
}
