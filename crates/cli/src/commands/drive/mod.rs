//! `steady drive`: plays an episode against a server, with and without real-time chunking.

mod args;
mod course;
mod picture;

pub use args::DriveArgs;

use crate::options::demo;
use crate::outcome::Outcome;
use crate::output::say;
use crate::progress::Progress;
use crate::report::output::{WRITTEN_BY, claim, write_json};
use crate::report::table::Table;
use anyhow::{Result, ensure};
use course::{Course, Manner, drive};
use serde::Serialize;
use std::time::Duration;
use steadyhand_gr00t::session::Actor;
use steadyhand_lerobot::{Dataset, Kind};

/// What `drive.json` has.
#[derive(Serialize)]
struct Report<'a> {
    written_by: &'static str,
    server: String,
    dataset: String,
    episode: usize,
    fps: f64,
    execution_horizon: u16,
    delay_ms: u16,
    /// Whether steps passed at the frame rate.
    at_frame_rate: bool,
    seed: u64,
    courses: Vec<Driven<'a>>,
    /// How many times as far the jumps go without real-time chunking as with it.
    jumps_fall_by: f64,
    /// The same of the largest step from a switch to the next.
    largest_steps_fall_by: f64,
}

/// One of the two.
#[derive(Serialize)]
struct Driven<'a> {
    mean_jump: f64,
    mean_largest_step: f64,
    mean_parting: f64,
    mean_motion_within_chunks: f64,
    #[serde(flatten)]
    course: &'a Course,
}

/// Drives twice, prints the jumps, and leaves JSON and a picture.
pub fn run(args: &DriveArgs) -> Result<Outcome> {
    let (json, png) = (args.out.join("drive.json"), args.out.join("drive.png"));
    claim(&json)?;
    claim(&png)?;
    let folder = match &args.dataset_path {
        Some(folder) => folder.clone(),
        None => demo::of_user()?.dataset,
    };
    let dataset = Dataset::open(&folder)?.with_video_decoder(args.video.decoder());
    let episode = dataset.episode(args.traj_id)?;
    let server = args.server.options();
    let mut remote = server.connect(server.address(None)?, None)?;
    let horizon = remote.modalities().action.delta_indices.len();
    let most = usize::from(args.execution_horizon);
    ensure!(
        most <= horizon,
        "--execution-horizon: expected at most {horizon}, the steps of a chunk, found {most}"
    );
    let steps = (args.steps as usize).min(episode.len());
    let progress = Progress::new("driving", "steps", 2 * steps as u64);
    let mut of = |ramp_rate| {
        let manner = Manner {
            steps,
            execution_horizon: most,
            delay: Duration::from_millis(u64::from(args.delay_ms)),
            at_frame_rate: !args.without_clock,
            seed: args.seed,
            ramp_rate,
        };
        drive(&mut remote, (&episode, dataset.fps()), manner, &|| progress.inc())
    };
    let (naive, chunked) = (&of(None)?, &of(Some(args.ramp_rate))?);
    drop(progress);
    ensure!(!naive.switches.is_empty(), "--steps: expected enough for a second chunk, found {steps}");
    let report = Report {
        written_by: WRITTEN_BY,
        server: remote.name().to_owned(),
        dataset: folder.display().to_string(),
        episode: args.traj_id,
        fps: dataset.fps(),
        execution_horizon: args.execution_horizon,
        delay_ms: args.delay_ms,
        at_frame_rate: !args.without_clock,
        seed: args.seed,
        jumps_fall_by: naive.jump() / chunked.jump(),
        largest_steps_fall_by: naive.largest() / chunked.largest(),
        courses: [naive, chunked]
            .map(|course| Driven {
                mean_jump: course.jump(),
                mean_largest_step: course.largest(),
                mean_parting: course.parted(),
                mean_motion_within_chunks: course.motion(),
                course,
            })
            .into(),
    };
    let mut table = Table::new(&[
        "chunks",
        "switches",
        "jump",
        "largest step",
        "off the old chunk",
        "motion within",
        "held",
    ]);
    for (what, course) in [("naive", naive), ("rtc", chunked)] {
        let numbers = [course.jump(), course.largest(), course.parted(), course.motion()];
        let [jump, largest, parted, motion] = numbers.map(|number| format!("{number:.4}"));
        let (switches, held) = (course.switches.len().to_string(), course.held.to_string());
        table.row([what.to_owned(), switches, jump, largest, parted, motion, held]);
    }
    write_json(&json, &report)?;
    let names = remote.modalities().action.modality_keys.iter();
    let names: Vec<String> = names.flat_map(|group| dataset.dimension_names(Kind::Action, group)).collect();
    picture::write(&png, &names, naive, chunked, dataset.fps())?;
    say!("{table}")?;
    say!(
        "Means over switches, Euclidean over all joints; replies at most {} steps late.",
        naive.delay_steps.max(chunked.delay_steps)
    )?;
    say!(
        "Jumps fall by {:.1}, the largest steps from a switch to the next by {:.1}.",
        report.jumps_fall_by,
        report.largest_steps_fall_by
    )?;
    say!("Picture: {}\nJSON: {}", png.display(), json.display())?;
    Ok(Outcome::Success)
}
