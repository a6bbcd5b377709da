//! `steady precision`: number formats shown, compared, calibrated and put into a table.

mod args;
mod calibrate;
mod diff;
mod listing;
mod show;
mod table;

pub use args::PrecisionArgs;

use crate::options::demo;
use crate::outcome::Outcome;
use anyhow::Result;
use args::{ListingArgs, PrecisionCommand};
use std::path::PathBuf;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::policy::{load_model, precision};
use steadyhand_gr00t::precision::PrecisionPolicy;

/// Runs the subcommand.
pub fn run(args: &PrecisionArgs) -> Result<Outcome> {
    match &args.what {
        PrecisionCommand::Show(args) => show::run(args)?,
        PrecisionCommand::Diff(args) => diff::run(args)?,
        PrecisionCommand::Calibrate(args) => calibrate::run(args)?,
        PrecisionCommand::Table(args) => return table::run(args),
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
            None => demo::of_user()?.checkpoint,
        };
        let model = load_model(&checkpoint)?;
        Ok(Listed { sites: model.sites()?, checkpoint, model })
    }

    /// The number formats of this name.
    fn precision(&self, name: &str) -> Result<PrecisionPolicy> {
        Ok(precision(&self.model, name, None)?)
    }
}
