//! The loop of a robot that does not stop to think: it executes a chunk while the next one is asked for.

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::time::{Duration, Instant};
use steadyhand_gr00t::ActionChunk;
use steadyhand_gr00t::session::{Actor, Observations};
use steadyhand_lerobot::Episode;
use steadyhand_serve::{Asking, Continue, Noise, Remote};

/// How an episode is driven.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Most steps.
    pub steps: usize,
    /// Steps of a chunk that are executed before the next one is asked for.
    pub execution_horizon: usize,
    /// What every reply is late by, beside the time that it took.
    pub delay: Duration,
    /// Whether steps pass at the frame rate and a reply counts for as long as it took; otherwise for the delay alone.
    pub at_frame_rate: bool,
    /// Of the noise.
    pub seed: u64,
    /// The ramp rate with which chunks go on from the ones before, if they do, as
    /// [`RtcOptions`](steadyhand_gr00t::rtc::RtcOptions) has it.
    pub ramp_rate: Option<f32>,
}

/// What was executed.
#[derive(Debug, Serialize)]
pub struct Course {
    /// The ramp rate with which chunks went on from the ones before, if they did.
    pub ramp_rate: Option<f32>,
    /// A row a step, joint groups side by side.
    #[serde(skip)]
    pub executed: Vec<Vec<f32>>,
    /// Where a chunk took over from another.
    pub switches: Vec<Switch>,
    /// Steps in which there was nothing left of a chunk and its last action was held.
    pub held: usize,
    /// The largest delay of a reply in steps.
    pub delay_steps: usize,
}

/// One chunk taking over from another. Distances are Euclidean, over all joints, in their units.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Switch {
    /// The first step of the new chunk.
    pub step: usize,
    /// From the action before to this one.
    pub jump: f64,
    /// From what the old chunk would have done in this step.
    pub parted: f64,
}

/// A chunk, and when it was asked for.
struct Chunk {
    asked: usize,
    arrives: usize,
    actions: ActionChunk,
}

impl Chunk {
    fn rows(&self) -> usize {
        self.actions.groups.iter().map(|(_, actions)| actions.rows).min().unwrap_or_default()
    }

    /// The action of a step, the last one where the chunk is over.
    fn at(&self, step: usize) -> Vec<f32> {
        let row = (step - self.asked).min(self.rows().saturating_sub(1));
        self.actions.groups.iter().flat_map(|(_, actions)| actions.row(row)).copied().collect()
    }
}

/// Drives an episode whose frames come `fps` times a second: the server sees what was recorded, whatever is executed.
///
/// # Errors
/// The server or the dataset; `progress` is told of every step.
pub fn drive(
    remote: &mut Remote,
    (episode, fps): (&Episode, f64),
    manner: Manner,
    progress: &dyn Fn(),
) -> Result<Course> {
    let Manner { execution_horizon, delay, at_frame_rate, seed, ramp_rate, .. } = manner;
    let modalities = remote.modalities().clone();
    let steps = manner.steps.min(episode.len());
    ensure!(steps > 0, "episode {}: expected steps, found none", episode.index());
    let number = u32::try_from(episode.index()).context("episode: expected below 2^32")?;
    remote.reset(number)?;
    let late = |waited: Duration| ((delay + waited).as_secs_f64() * fps).ceil() as usize;
    let mut course = Course {
        ramp_rate,
        executed: Vec::with_capacity(steps),
        switches: Vec::new(),
        held: 0,
        delay_steps: 0,
    };
    let (mut current, mut pending): (Option<Chunk>, Option<Chunk>) = (None, None);
    let (mut inference, mut expected) = (0, late(Duration::ZERO));
    let start = Instant::now();
    for observed in Observations::open(&modalities, episode, (0..steps).collect())? {
        let (step, observation) = observed?;
        if at_frame_rate {
            let due = start + Duration::from_secs_f64(step as f64 / fps);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let is_due = current.as_ref().is_none_or(|chunk| step - chunk.asked >= execution_horizon);
        if pending.is_none() && is_due {
            let going_on = ramp_rate.zip(current.as_ref()).and_then(|(ramp_rate, chunk)| {
                let overlap_steps = chunk.rows().saturating_sub(step - chunk.asked);
                (overlap_steps > 0).then(|| Continue {
                    previous: chunk.actions.clone(),
                    overlap_steps,
                    frozen_steps: expected.min(overlap_steps),
                    ramp_rate,
                })
            });
            let asking = Asking { noise: Some(Noise { seed, episode: number, inference }), rtc: going_on };
            let asked = Instant::now();
            let given = remote.ask(&observation, &asking)?;
            ensure!(
                given.rtc || asking.rtc.is_none(),
                "{}: the server does not say that it went on from the chunk before (rtc in its info)",
                remote.name()
            );
            let waited = if at_frame_rate { asked.elapsed() } else { Duration::ZERO };
            // At the start nothing is executed meanwhile: the robot waits.
            let delayed = if current.is_some() { late(waited) } else { 0 };
            expected = late(waited);
            course.delay_steps = course.delay_steps.max(delayed);
            pending = Some(Chunk { asked: step, arrives: step + delayed, actions: given.chunk });
            inference += 1;
        }
        if let Some(chunk) = pending.take_if(|chunk| chunk.arrives <= step) {
            if let (Some(old), Some(last)) = (&current, course.executed.last()) {
                let action = chunk.at(step);
                let (jump, parted) = (distance(&action, last), distance(&action, &old.at(step)));
                course.switches.push(Switch { step, jump, parted });
            }
            current = Some(chunk);
        }
        let chunk = current.as_ref().context("a first chunk that did not arrive")?;
        course.held += usize::from(step - chunk.asked >= chunk.rows());
        course.executed.push(chunk.at(step));
        progress();
    }
    Ok(course)
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

impl Course {
    /// Mean jump at a switch.
    pub fn jump(&self) -> f64 {
        mean(self.switches.iter().map(|switch| switch.jump))
    }

    /// Mean over switches of the largest step from one action to the next until the next switch: a jump that comes later
    /// than the switch is one too.
    pub fn largest(&self) -> f64 {
        let ends = self.switches.iter().skip(1).map(|switch| switch.step).chain([self.executed.len()]);
        let largest = |(switch, end): (&Switch, usize)| {
            let steps = switch.step..end;
            steps.map(|step| distance(&self.executed[step], &self.executed[step - 1])).fold(0.0, f64::max)
        };
        mean(self.switches.iter().zip(ends).map(largest))
    }

    /// Mean distance from what the old chunk would have done.
    pub fn parted(&self) -> f64 {
        mean(self.switches.iter().map(|switch| switch.parted))
    }

    /// Mean distance from one action to the next within chunks.
    pub fn motion(&self) -> f64 {
        let within = |step: &usize| self.switches.iter().all(|switch| switch.step != *step);
        let steps = (1..self.executed.len()).filter(within);
        mean(steps.map(|step| distance(&self.executed[step], &self.executed[step - 1])))
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), value| (sum + value, count + 1));
    sum / count.max(1) as f64
}
