//! What `steady diagnose` leaves behind: the diagnosis, and what it is of.

use super::args::DiagnoseArgs;
use super::scene::Scene;
use crate::report::output::WRITTEN_BY;
use serde::Serialize;
use steadyhand_gr00t_lab::diagnosis::Diagnosis;

/// Two engines on the same observations and the same noise, and why they differ.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub written_by: &'static str,
    pub checkpoint: String,
    pub dataset: String,
    pub embodiment_tag: String,
    /// The reference, such as `cpu:f32`.
    pub a: String,
    /// The engine under examination, such as `trace:out`.
    pub b: String,
    pub inferences: Vec<Inference>,
    #[serde(flatten)]
    pub diagnosis: Diagnosis,
    /// The most memory that the process had in use, where the system tells.
    pub peak_rss_bytes: Option<u64>,
}

/// One observation.
#[derive(Debug, Clone, Serialize)]
pub struct Inference {
    pub episode: usize,
    pub step: usize,
}

impl Report {
    /// What was found of the engine that `args` names.
    pub fn new(
        scene: &Scene,
        args: &DiagnoseArgs,
        diagnosis: Diagnosis,
        peak_rss_bytes: Option<u64>,
    ) -> Self {
        Report {
            written_by: WRITTEN_BY,
            checkpoint: scene.checkpoint.clone(),
            dataset: scene.dataset.clone(),
            embodiment_tag: scene.processor.embodiment_tag().to_owned(),
            a: args.a.clone(),
            b: args.b.to_string(),
            inferences: inferences(scene, diagnosis.inferences),
            diagnosis,
            peak_rss_bytes,
        }
    }
}

/// The first `count` observations of a scene.
pub fn inferences(scene: &Scene, count: usize) -> Vec<Inference> {
    let steps = scene.steps.iter().take(count);
    steps.map(|step| Inference { episode: scene.episode, step: *step }).collect()
}
