//! Blocks of the DiT in a row as a component of their own: graphs of all blocks, one behind the other, are the DiT.
//!
//! A builder then needs memory for some of the weights only, and of several engines the one that errs can be told.

use super::Export;
use crate::model::{Model, Prompt};
use crate::ops::onnx::{Recorder, Value};
use crate::ops::{Ops, Site};
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// What a component of blocks is called, in front of their numbers.
const NAME: &str = "dit.blocks.";
/// What blocks are told of the time, `[batch, 1, inner_dim]`: made by the graph of the first one, taken by the others.
const TIME: &str = "time_embedding";
/// The tap that [`TIME`] is.
const TIME_TAP: &str = "dit.silu";
/// The tokens behind a block, `[batch, tokens, inner_dim]`, are called this and its number.
const TOKENS: &str = "block.";

/// Blocks of the DiT in a row. The graph of the first one takes what the DiT takes, the graph of the last one gives what it
/// gives; between them are tokens, and what the first one made of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// The first of them.
    pub first: usize,
    /// The one behind the last of them; none where they are the last ones, of however many.
    pub end: Option<usize>,
}

impl Blocks {
    /// The blocks that a graph of this interface has; none for one that is no part of a DiT. A whole DiT has all of them.
    pub fn of_interface<'n>(
        inputs: impl IntoIterator<Item = &'n str>,
        outputs: impl IntoIterator<Item = &'n str>,
    ) -> Option<Self> {
        let first = inputs.into_iter().find_map(|name| match name {
            "state_action_tokens" | "sa_embs" => Some(0),
            name => Some(number(name)? + 1),
        });
        let ends = outputs.into_iter().filter(|name| *name != TIME);
        let ends: Option<Vec<Option<usize>>> = ends
            .map(|name| match name {
                "dit_output" | "output" => Some(None),
                name => Some(Some(number(name)? + 1)),
            })
            .collect();
        // Engines that were joined give what is between them too.
        let end = ends?.into_iter().max_by_key(|end| end.unwrap_or(usize::MAX))?;
        Some(Blocks { first: first?, end })
    }

    /// Whether something of this name goes from the graph of some blocks to the graph of others.
    pub fn is_between(name: &str) -> bool {
        name == TIME || number(name).is_some()
    }

    /// Whether something of this name is what blocks are told of the time: the same for every observation of one time.
    pub fn is_time(name: &str) -> bool {
        name == TIME
    }

    /// The tap that something of this name is, without its Euler step; none for what does not go between graphs of blocks.
    pub fn tap(name: &str) -> Option<String> {
        match number(name) {
            Some(_) => Some(format!("dit.{name}")),
            None => (name == TIME).then(|| TIME_TAP.to_owned()),
        }
    }

    /// Whether a site of the DiT lies in these blocks, in what makes the first one's time or in what follows the last one.
    pub(super) fn hold(self, path: &str) -> bool {
        let block = path.strip_prefix("dit.block.").map(|rest| rest.split('.').next().unwrap_or_default());
        match block.map(str::parse::<usize>) {
            Some(Ok(index)) => self.first <= index && self.end.is_none_or(|end| index < end),
            _ if ["output", "norm_out", "modulated"]
                .iter()
                .any(|part| path.strip_prefix("dit.").is_some_and(|own| own.starts_with(part))) =>
            {
                self.end.is_none()
            }
            _ => self.first == 0,
        }
    }

    /// Whether this site makes what the blocks are given by others.
    pub(super) fn are_entered_from(self, path: &str) -> bool {
        self.first > 0 && (path == TIME_TAP || path == format!("dit.block.{}", self.first - 1))
    }

    /// These of a model's blocks, without an end where they are its last, and the end all the same.
    pub(super) fn of(self, model: &Model) -> Result<(Self, usize)> {
        let count = model.action_head.dit.blocks.len();
        let end = self.end.unwrap_or(count);
        if self.first >= end || end > count {
            let what = format!("expected some of the blocks 0:{count}, found {}:{end}", self.first);
            return Err(Error::input("component", what));
        }
        Ok((Blocks { first: self.first, end: (end < count).then_some(end) }, end))
    }

    /// Records the graph; the name of its last output.
    pub(super) fn record(
        self,
        export: &Export<'_>,
        model: &Model,
        recorder: &Recorder<'_>,
        prompt: &Prompt,
        features_shape: [usize; 3],
    ) -> Result<(Value, String)> {
        let (blocks, end) = self.of(model)?;
        let (at, config) = (&Site::new("dit"), &model.config);
        let count = config.state_shape(export.layout.state_horizon)[0] + config.action_horizon;
        let inner = config.diffusion_model_cfg.inner_dim();
        let (tokens, time) = match blocks.first.checked_sub(1) {
            None => {
                let shape = [1, count, config.input_embedding_dim];
                (recorder.input(Vec::new(), shape, at / "state_action_tokens")?, None)
            }
            Some(before) => {
                let (from, site) = (format!("{TOKENS}{before}"), &(at / "block") / before);
                let tokens = recorder.float_input(&from, [1, count, inner], &site);
                (tokens, Some(recorder.float_input(TIME, [1, 1, inner], &Site::new(TIME_TAP))))
            }
        };
        let features = recorder.input(Vec::new(), features_shape, at / "vl_features")?;
        let time = match time {
            Some(time) => time,
            None => {
                recorder.time_input();
                let time = model.dit_time(recorder, 0)?;
                if blocks.end.is_some() {
                    recorder.output(&time, TIME);
                }
                time
            }
        };
        let features = recorder.prompt_input(&features);
        let x = model.dit_blocks(recorder, blocks.first..end, &tokens, &time, &features, prompt)?;
        match blocks.end {
            Some(end) => Ok((x, format!("{TOKENS}{}", end - 1))),
            None => Ok((model.dit_output(recorder, &x, &time)?, "dit_output".to_owned())),
        }
    }
}

/// The block that tokens of this name come from.
fn number(name: &str) -> Option<usize> {
    name.strip_prefix(TOKENS)?.parse().ok()
}

impl fmt::Display for Blocks {
    /// Such as `dit.blocks.8:16`, or `dit.blocks.24:` for those from 24 on.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{NAME}{}:", self.first)?;
        self.end.map_or(Ok(()), |end| write!(formatter, "{end}"))
    }
}

impl FromStr for Blocks {
    type Err = ();

    fn from_str(name: &str) -> std::result::Result<Self, ()> {
        let (first, end) = name.strip_prefix(NAME).and_then(|numbers| numbers.split_once(':')).ok_or(())?;
        let first = first.parse().map_err(|_| ())?;
        let end = match end {
            "" => None,
            end => Some(end.parse().map_err(|_| ())?),
        };
        Ok(Blocks { first, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_by_their_interface() {
        let shared = ["vl_features", "image_mask", "backbone_attention_mask"];
        let of = |input: &'static str, outputs: &[&'static str]| {
            let inputs = [input].into_iter().chain(shared);
            Blocks::of_interface(inputs, outputs.iter().copied()).map(|blocks| blocks.to_string())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of("state_action_tokens", &["time_embedding", "block.7"]), some("dit.blocks.0:8"));
        assert_eq!(of("block.7", &["block.15"]), some("dit.blocks.8:16"));
        assert_eq!(of("block.7", &["output"]), some("dit.blocks.8:"));
        assert_eq!(of("sa_embs", &["block.1", "dit_output"]), some("dit.blocks.0:"));
        assert_eq!(of("noise", &["action_pred"]), None);
        assert_eq!(of("block.x", &["block.3"]), None);
    }

    #[test]
    fn every_site_lies_in_one_of_the_parts() {
        let parts = ["dit.blocks.0:2", "dit.blocks.2:12", "dit.blocks.12:"].map(|name| {
            let blocks: Blocks = name.parse().expect(name);
            assert_eq!(blocks.to_string(), name);
            blocks
        });
        for (path, part) in [
            ("timestep_embedding", 0),
            ("dit.timestep_linear1", 0),
            ("dit.silu", 0),
            ("dit.block.1.fc1", 0),
            ("dit.block.2", 1),
            ("dit.block.11.modulated", 1),
            ("dit.block.12.query", 2),
            ("dit.output_modulation", 2),
            ("dit.norm_out", 2),
            ("dit.modulated", 2),
            ("dit.output", 2),
        ] {
            let holding: Vec<usize> = (0..3).filter(|index| parts[*index].hold(path)).collect();
            assert_eq!(holding, [part], "{path}");
        }
        assert!(parts[1].are_entered_from("dit.block.1") && parts[1].are_entered_from("dit.silu"));
        assert!(!parts[0].are_entered_from("dit.silu") && !parts[1].are_entered_from("dit.block.2"));
    }
}
