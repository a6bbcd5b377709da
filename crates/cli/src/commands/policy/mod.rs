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
use anyhow::Result;
use args::{ListingArgs, PolicyCommand};
use std::path::PathBuf;
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
