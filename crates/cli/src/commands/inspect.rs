//! `steady inspect`: what is in a checkpoint or a dataset.

mod checkpoint;
mod dataset;

use crate::options::VideoArgs;
use crate::outcome::Outcome;
use crate::output;
use crate::report::table::Table;
use anyhow::Result;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(subcommand)]
    pub what: Inspected,
}

#[derive(Debug, Subcommand)]
pub enum Inspected {
    /// Sizes, tensors and embodiments of a checkpoint folder.
    Checkpoint {
        /// The folder, or synth:n1.6 or synth:tiny.
        path: PathBuf,
    },
    /// Features, modalities, episodes and videos of a LeRobot dataset.
    Dataset {
        /// The folder.
        path: PathBuf,
        #[command(flatten)]
        video: VideoArgs,
    },
}

/// Prints tables about the folder.
pub fn run(args: &InspectArgs) -> Result<Outcome> {
    let mut page = Page::default();
    let found = match &args.what {
        Inspected::Checkpoint { path } => checkpoint::describe(path, &mut page),
        Inspected::Dataset { path, video } => dataset::describe(path, video.decoder(), &mut page),
    };
    // What could be read is shown even where something else is wrong.
    output::print(&page.text)?;
    found.map(|()| Outcome::Success)
}

/// Text under headings. Written at once at the end: a reader that goes away early is no panic.
#[derive(Debug, Default)]
struct Page {
    text: String,
}

impl Page {
    /// A heading with a table below it.
    fn section(&mut self, title: &str, table: &Table) {
        self.line(title);
        self.line(&format!("{table}"));
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}
