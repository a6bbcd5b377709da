//! The ways in which servers take observations.

use crate::options::Noise;
use crate::wire::{Dialect, Writer, write_f32, write_u8};
use std::sync::Arc;
use steadyhand_gr00t::processor::EmbodimentModalities;
use steadyhand_gr00t::{ActionChunk, Error, Image, Observation, Result};

/// How arrays and keys of a request are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestForm {
    /// Of arrays.
    pub dialect: Dialect,
    /// `video.ego_view` instead of `ego_view` in `video`.
    pub flat: bool,
}

impl RequestForm {
    /// In the order in which they are tried: that of NVIDIA's server first, then that of its wrapper for simulators.
    pub const ALL: [RequestForm; 4] = [
        RequestForm { dialect: Dialect::Npy, flat: false },
        RequestForm { dialect: Dialect::Npy, flat: true },
        RequestForm { dialect: Dialect::MsgpackNumpy, flat: false },
        RequestForm { dialect: Dialect::MsgpackNumpy, flat: true },
    ];

    /// For errors.
    pub fn name(self) -> String {
        let dialect = match self.dialect {
            Dialect::Npy => ".npy arrays",
            Dialect::MsgpackNumpy => "msgpack-numpy arrays",
            Dialect::OpenPi => "arrays as OpenPI writes them",
        };
        format!("{} keys and {dialect}", if self.flat { "flat" } else { "nested" })
    }

    /// Writes `data` of `get_action`: a batch of one observation, and the options; `model` is one of them where it is named.
    ///
    /// # Errors
    /// An observation that lacks a view or a joint group, or whose frames differ in size.
    pub fn write(
        self,
        writer: &mut Writer,
        modalities: &EmbodimentModalities,
        model: Option<&str>,
        observation: &Observation,
        options: &Asking,
    ) -> Result<()> {
        let EmbodimentModalities { video, state, language, .. } = modalities;
        writer.map(2);
        writer.str("observation");
        let languages = &language.modality_keys;
        if self.flat {
            writer.map(video.modality_keys.len() + state.modality_keys.len() + languages.len());
        } else {
            writer.map(3);
        }
        self.group(writer, "video", &video.modality_keys, |writer, view| {
            self.frames(writer, view, observation.images.get(view).map_or(&[][..], Vec::as_slice))
        })?;
        self.group(writer, "state", &state.modality_keys, |writer, group| {
            let rows = observation.state.get(group);
            let rows =
                rows.ok_or_else(|| Error::input(format!("state.{group}"), "expected rows, found none"))?;
            write_f32(writer, self.dialect, &[1, rows.rows, rows.cols], &rows.data);
            Ok(())
        })?;
        if !self.flat {
            writer.str("language");
            writer.map(languages.len());
        }
        for key in languages {
            writer.str(key);
            writer.list(1);
            if !self.flat {
                writer.list(1);
            }
            writer.str(&observation.instruction);
        }
        writer.str("options");
        options.write(writer, model, self.dialect);
        Ok(())
    }

    /// The arrays of a modality, each under its key.
    fn group(
        self,
        writer: &mut Writer,
        modality: &str,
        keys: &[String],
        value: impl Fn(&mut Writer, &str) -> Result<()>,
    ) -> Result<()> {
        if !self.flat {
            writer.str(modality);
            writer.map(keys.len());
        }
        for key in keys {
            match self.flat {
                true => writer.str(&format!("{modality}.{key}")),
                false => writer.str(key),
            }
            value(writer, key)?;
        }
        Ok(())
    }

    /// `[1, T, H, W, 3]`.
    fn frames(self, writer: &mut Writer, view: &str, frames: &[Arc<Image>]) -> Result<()> {
        let wrong = |what: String| Error::input(format!("video.{view}"), what);
        let first = frames.first().ok_or_else(|| wrong("expected frames, found none".to_owned()))?;
        let size = |image: &Image| [image.height, image.width];
        if let Some(other) = frames.iter().find(|frame| size(frame) != size(first)) {
            let what =
                format!("expected frames of the same size, found {:?} and {:?}", size(first), size(other));
            return Err(wrong(what));
        }
        let pieces: Vec<&[u8]> = frames.iter().map(|frame| &frame.rgb[..]).collect();
        write_u8(writer, self.dialect, &[1, frames.len(), first.height, first.width, 3], &pieces);
        Ok(())
    }
}

/// The options of a request.
#[derive(Debug, Clone, Default)]
pub struct Asking {
    /// The noise that is wanted.
    pub noise: Option<Noise>,
    /// How the actions go on from those before.
    pub rtc: Option<Continue>,
}

/// Real-time chunking: how the actions go on from the chunk before, which goes along with the request.
#[derive(Debug, Clone)]
pub struct Continue {
    /// As the server gave it.
    pub previous: ActionChunk,
    /// Steps at the end of `previous` that the new chunk begins with.
    pub overlap_steps: usize,
    /// Those of them that stay as they are.
    pub frozen_steps: usize,
    /// How quickly the others follow the model, as [`RtcOptions`](steadyhand_gr00t::rtc::RtcOptions) has it.
    pub ramp_rate: f32,
}

impl Asking {
    fn write(&self, writer: &mut Writer, model: Option<&str>, dialect: Dialect) {
        let flags = [model.is_some(), self.rtc.is_some()].map(usize::from);
        writer.map(3 * usize::from(self.noise.is_some()) + flags[0] + flags[1]);
        if let Some(model) = model {
            writer.str("model");
            writer.str(model);
        }
        if let Some(Noise { seed, episode, inference }) = self.noise {
            for (key, value) in
                [("seed", seed), ("episode", u64::from(episode)), ("inference", u64::from(inference))]
            {
                writer.str(key);
                writer.uint(value);
            }
        }
        if let Some(Continue { previous, overlap_steps, frozen_steps, ramp_rate }) = &self.rtc {
            writer.str("rtc");
            writer.map(4);
            writer.str("ramp_rate");
            writer.float(f64::from(*ramp_rate));
            for (key, value) in [("overlap_steps", *overlap_steps), ("frozen_steps", *frozen_steps)] {
                writer.str(key);
                writer.uint(value as u64);
            }
            writer.str("previous");
            writer.map(previous.groups.len());
            for (group, actions) in &previous.groups {
                writer.str(group);
                write_f32(writer, dialect, &[1, actions.rows, actions.cols], &actions.data);
            }
        }
    }
}
