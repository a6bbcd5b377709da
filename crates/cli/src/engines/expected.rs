//! `expected:DIR#NAME`: only an engine's final actions, tensor `normalized_actions.NAME` of
//! `episode_NNNNNN.safetensors`, with the noise they came from.

use super::{Asked, Examined, Kind, Open};
use anyhow::{Context, Result, bail};
use std::path::Path;
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::session::{NoiseSource, Tensors};

pub const KIND: Kind = Kind {
    name: "expected",
    form: "expected:DIR#NAME",
    about: "final actions that an engine left, with their noise",
    exchanges: false,
    open: Open::Examined {
        // The official precision.
        precision: "bf16",
        options: &[],
        fits: |text| text.contains('#'),
        noise: |text| Some(NoiseSource::Recorded(parts(text).0.into())),
        open,
    },
};

/// Folder and name.
fn parts(text: &str) -> (&str, &str) {
    text.rsplit_once('#').unwrap_or((text, ""))
}

fn open(text: &str, asked: &Asked) -> Result<Examined> {
    let (folder, name) = parts(text);
    let path = Path::new(folder).join(format!("episode_{:06}.safetensors", asked.scene.episode));
    let tensor = format!("normalized_actions.{name}");
    let tensors = Tensors::read(&path)?;
    let actions = tensors.float(&tensor).with_context(|| {
        let known = tensors.floats().keys().filter_map(|key| key.strip_prefix("normalized_actions."));
        format!("known names: {}", known.collect::<Vec<_>>().join(", "))
    })?;
    let [_, rows, cols] = actions.shape[..] else {
        bail!("{}: {tensor}: expected [inferences, horizon, dim], found {:?}", path.display(), actions.shape);
    };
    let chunks = actions.values.chunks_exact(rows * cols);
    Ok(Examined::Actions(chunks.map(|data| Matrix { rows, cols, data: data.to_vec() }).collect()))
}
