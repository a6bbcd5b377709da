//! The options of a request.

use crate::observation::matrices;
use crate::wire::{Array, Value};
use crate::{Error, Result};
use std::time::Duration;
use steadyhand_gr00t::ActionChunk;
use steadyhand_gr00t::processor::EmbodimentModalities;

/// The longest deadline, a day: longer ones are none.
const MAX_DEADLINE_MS: f64 = 86_400_000.0;

/// `options` of `get_action`.
#[derive(Debug, Default)]
pub struct Options {
    /// After how long the actions are of no more use.
    pub deadline: Option<Duration>,
    /// Noise of the request's own.
    pub noise: Option<Noise>,
    /// How the actions go on from those before.
    pub rtc: Option<Rtc>,
    /// Options that mean nothing here.
    pub ignored: Vec<String>,
}

/// The noise of a request's first observation: that of an inference of an episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    /// The generator's seed.
    pub seed: u64,
    /// Number of the episode.
    pub episode: u32,
    /// Number of the inference.
    pub inference: u32,
}

/// Real-time chunking.
#[derive(Debug)]
pub struct Rtc {
    /// The actions before, one chunk for each observation; those that the server gave last otherwise.
    pub previous: Option<Vec<ActionChunk>>,
    /// As [`RtcOptions`](steadyhand_gr00t::rtc::RtcOptions).
    pub overlap_steps: usize,
    /// As there.
    pub frozen_steps: usize,
    /// As there.
    pub ramp_rate: f32,
}

/// Which of several models a request is for.
#[derive(Debug, Default)]
pub struct Pick<'v> {
    /// Its name.
    pub model: Option<&'v str>,
    /// Its embodiment.
    pub embodiment_tag: Option<&'v str>,
}

impl<'v> Pick<'v> {
    /// The options that it is read from.
    pub const KEYS: [&'static str; 2] = ["model", "embodiment_tag"];

    /// Reads the options of any request; those that are no map are refused elsewhere.
    ///
    /// # Errors
    /// A name that is no text.
    pub fn read<'m>(options: Option<&'v Value<'m>>) -> Result<Self> {
        let text = |key: &str| match options.and_then(|options| options.get(key)) {
            None | Some(Value::Nil) => Ok(None),
            Some(value) => match value.text() {
                Some(text) => Ok(Some(text)),
                None => {
                    let what = format!("expected text, found {}", value.kind());
                    Err(Error::field(format!("options.{key}"), what))
                }
            },
        };
        Ok(Pick { model: text("model")?, embodiment_tag: text("embodiment_tag")? })
    }
}

/// The entries of a map that may be missing or nil.
fn entries<'a, 'm>(value: Option<&'a Value<'m>>, field: &str) -> Result<&'a [(Value<'m>, Value<'m>)]> {
    match value {
        None | Some(Value::Nil) => Ok(&[]),
        Some(Value::Map(entries)) => Ok(entries),
        Some(other) => Err(Error::field(field, format!("expected a map, found {}", other.kind()))),
    }
}

fn whole<T: TryFrom<i128>>(value: &Value, field: &str) -> Result<T> {
    let found = match value {
        Value::Int(found) => T::try_from(*found).ok(),
        _ => None,
    };
    found.ok_or_else(|| {
        let bits = 8 * size_of::<T>();
        let what =
            format!("expected a whole number from 0 on, of at most {bits} bits, found {}", value.kind());
        Error::field(field, what)
    })
}

fn number(value: &Value, field: &str) -> Result<f64> {
    match value {
        Value::Float(number) => Ok(*number),
        Value::Int(number) => Ok(*number as f64),
        other => Err(Error::field(field, format!("expected a number, found {}", other.kind()))),
    }
}

/// The episode that `reset` names, and options that mean nothing to it.
///
/// # Errors
/// Options that are no map, an episode that is no number.
pub fn of_reset(value: Option<&Value>) -> Result<(Option<u32>, Vec<String>)> {
    let (mut episode, mut ignored) = (None, Vec::new());
    for (key, value) in entries(value, "options")? {
        match key.text() {
            // The second is what the official policy that replays a dataset calls it.
            Some("episode" | "episode_index") => episode = Some(whole(value, "options.episode")?),
            other => ignored.push(named(other)),
        }
    }
    Ok((episode, ignored))
}

fn named(key: Option<&str>) -> String {
    key.unwrap_or("?").chars().take(60).collect()
}

impl Options {
    /// Reads the options of a request of `count` observations, which have a dimension of their own if `batched`.
    ///
    /// # Errors
    /// Names the option that has another type or range.
    pub fn read(
        value: Option<&Value>,
        modalities: &EmbodimentModalities,
        count: usize,
        batched: bool,
    ) -> Result<Self> {
        let mut options = Options::default();
        let (mut seed, mut episode, mut inference) = (None, None, None);
        for (key, value) in entries(value, "options")? {
            match key.text() {
                _ if *value == Value::Nil => {}
                Some("deadline_ms") => {
                    let ms = number(value, "options.deadline_ms")?;
                    if ms.is_nan() || ms < 0.0 {
                        let what = format!("expected a number from 0 on, found {ms}");
                        return Err(Error::field("options.deadline_ms", what));
                    }
                    options.deadline = Some(Duration::from_secs_f64(ms.min(MAX_DEADLINE_MS) / 1e3));
                }
                Some("seed") => seed = Some(whole(value, "options.seed")?),
                Some("episode") => episode = Some(whole(value, "options.episode")?),
                Some("inference") => inference = Some(whole(value, "options.inference")?),
                Some("rtc") => options.rtc = Some(Rtc::read(value, modalities, count, batched)?),
                other => options.ignored.push(named(other)),
            }
        }
        options.noise = match (seed, episode, inference) {
            (Some(seed), episode, inference) => {
                Some(Noise { seed, episode: episode.unwrap_or(0), inference: inference.unwrap_or(0) })
            }
            (None, None, None) => None,
            (None, ..) => {
                let what = "expected with options.episode and options.inference, found none";
                return Err(Error::field("options.seed", what));
            }
        };
        Ok(options)
    }
}

impl Rtc {
    fn read(value: &Value, modalities: &EmbodimentModalities, count: usize, batched: bool) -> Result<Self> {
        let (mut overlap, mut previous) = (None, None);
        let (mut frozen_steps, mut ramp_rate) = (0, 6.0);
        for (key, value) in entries(Some(value), "options.rtc")? {
            match key.text() {
                Some("previous") if *value == Value::Nil => {}
                Some("previous") => previous = Some(chunks(value, modalities, count, batched)?),
                Some("overlap_steps") => overlap = Some(whole(value, "options.rtc.overlap_steps")?),
                Some("frozen_steps") => frozen_steps = whole(value, "options.rtc.frozen_steps")?,
                Some("ramp_rate") => ramp_rate = number(value, "options.rtc.ramp_rate")? as f32,
                other => {
                    let what =
                        "expected previous, overlap_steps, frozen_steps and ramp_rate, found another key";
                    return Err(Error::field(format!("options.rtc.{}", named(other)), what));
                }
            }
        }
        let overlap_steps = overlap.ok_or_else(|| {
            Error::field("options.rtc.overlap_steps", "expected a whole number, found none")
        })?;
        Ok(Rtc { previous, overlap_steps, frozen_steps, ramp_rate })
    }
}

/// Chunks of actions by joint group, with or without `action.` before the group's name.
fn chunks(
    value: &Value,
    modalities: &EmbodimentModalities,
    count: usize,
    batched: bool,
) -> Result<Vec<ActionChunk>> {
    let mut chunks = vec![ActionChunk::default(); count];
    for group in &modalities.action.modality_keys {
        let field = format!("options.rtc.previous.{group}");
        let found = value.get(group).or_else(|| value.get(&format!("action.{group}")));
        let array = match found {
            Some(found) => Array::of(found, &field)?,
            None => None,
        };
        let Some(array) = array else { return Err(Error::field(field, "expected an array, found none")) };
        let expected: &[usize] = if batched { &[count] } else { &[] };
        if array.shape.len() != expected.len() + 2 || !array.shape.starts_with(expected) {
            let what =
                format!("expected [{}T, D], found {:?}", if batched { "B, " } else { "" }, array.shape);
            return Err(Error::field(field, what));
        }
        for (chunk, actions) in chunks.iter_mut().zip(matrices(&field, &array, count)?) {
            chunk.groups.push((group.clone(), actions));
        }
    }
    Ok(chunks)
}
