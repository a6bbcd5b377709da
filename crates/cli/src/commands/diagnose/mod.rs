//! `steady diagnose`: whether an engine gives the reference's actions, and if not, why.

mod args;
mod declared;
mod html;
mod print;
mod report;
mod scene;

pub use args::DiagnoseArgs;
pub use report::{Inference, inferences};
pub use scene::{Opened, Scene};

use crate::outcome::Outcome;
use crate::output::say;
use crate::progress::Progress;
use crate::report::memory::peak_rss_bytes;
use crate::report::output::{claim, write_file, write_json};
use anyhow::{Result, ensure};
use declared::Declared;
use report::Report;
use std::cell::RefCell;
use std::path::Path;
use steadyhand_gr00t_lab::diagnosis::{Options, Progress as Told, Status, SwapWhen, Task, diagnose};

/// Diagnoses, prints the verdict and leaves JSON and a page.
pub fn run(args: &DiagnoseArgs) -> Result<Outcome> {
    let (json, page) = (args.out.join("diagnosis.json"), args.out.join("diagnosis.html"));
    claim(&json)?;
    claim(&page)?;
    ensure!(!args.isolated || args.b.name() == "trace", "--isolated: expected with trace:DIR");
    ensure!(
        !args.swaps || args.b.exchanges(),
        "--swaps: expected with cpu, cuda or fault, whose components take tensors from outside, found {}",
        args.b
    );
    let options = args.engines();
    options.check(&[&args.b])?;
    let scene = Scene::load(&args.observations, &[&args.b])?;
    let Declared { precision: policy, inputs, notes } = Declared::new(args, &scene, &options)?;
    let mut opened = scene.engine(&args.b, &policy, &options)?;
    let options = Options {
        policy,
        inputs,
        swaps: if args.swaps { SwapWhen::Always } else { SwapWhen::ActionsErr },
        scratch: args.scratch.clone(),
    };
    let bar = RefCell::new(None);
    let diagnosis = diagnose(&scene.setup(), opened.subject(), &options, &|told| show(&bar, told));
    drop(bar);
    let mut diagnosis = diagnosis.map_err(named(args.scratch.as_deref()))?;
    diagnosis.audit.splice(0..0, notes);
    let report = Report::new(&scene, args, diagnosis, peak_rss_bytes());
    // A reader that leaves early costs no file, a full disk no verdict.
    let printed = print::print(&report.diagnosis, &mut std::io::stdout().lock());
    write_json(&json, &report)?;
    write_file(&page, html::page(&report).as_bytes())?;
    printed?;
    say!("Page: {}\nJSON: {}", page.display(), json.display())?;
    let healthy = report.diagnosis.verdict.status == Status::NoFault;
    Ok(if healthy { Outcome::Success } else { Outcome::Failure })
}

/// Says which option decides where tensors are kept, in an error about that.
pub fn named(scratch: Option<&Path>) -> impl Fn(steadyhand_gr00t_lab::Error) -> anyhow::Error {
    let folder = scratch.map_or_else(std::env::temp_dir, Path::to_path_buf);
    move |error| {
        let of_disk = matches!(&error, steadyhand_gr00t_lab::Error::Scratch { .. })
            || matches!(&error, steadyhand_gr00t_lab::Error::Trace(error) if error.to_string().contains("steady-scratch"));
        let error = anyhow::Error::new(error);
        if of_disk { error.context(format!("--scratch {}", folder.display())) } else { error }
    }
}

/// Replays and mixtures cost up to an inference each: minutes on a model of full size.
fn show(bar: &RefCell<Option<(Task, Progress)>>, told: Told) {
    let mut bar = bar.borrow_mut();
    if bar.as_ref().is_none_or(|(task, _)| *task != told.task) {
        let (what, unit) = match told.task {
            Task::Hypotheses => ("hypotheses", "replays"),
            Task::Mixtures => ("mixtures of both engines", "inferences"),
        };
        // The bar before it goes first.
        *bar = None;
        *bar = Some((told.task, Progress::new(what, unit, told.of as u64)));
    }
    if let Some((_, bar)) = bar.as_ref() {
        bar.reach(told.done as u64, told.of as u64);
    }
}
