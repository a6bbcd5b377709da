//! `steady inspect`: what is in a checkpoint or a dataset.

use crate::Outcome;
use crate::args::{InspectArgs, Inspected};
use anyhow::Result;
use std::path::Path;

/// Prints tables about the folder.
pub fn run(args: &InspectArgs) -> Result<Outcome> {
    match &args.what {
        Inspected::Checkpoint { path } => checkpoint(path)?,
        Inspected::Dataset { path } => dataset(path)?,
    }
    Ok(Outcome::Success)
}
fn checkpoint(_path: &Path) -> Result<()> {
    Ok(())
}
fn dataset(_path: &Path) -> Result<()> {
    Ok(())
}
