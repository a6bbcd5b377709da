//! The graph of a checkpoint that an engine is built from or compared with.

use super::args::GraphArgs;
use crate::options::{NamesArg, ProductsArg, model, refuse_unused};
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::Path;
use steadyhand_external::tensorrt::{Range, Target};
use steadyhand_gr00t::export::{Component, DEFAULT_OPSET, Export, Layout, Names};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::onnx::{Port, PortDim, Products};
use steadyhand_gr00t::policy::precision;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// Observations of a batch, or images of one size.
const BATCH: [usize; 3] = [1, 1, 8];
/// Tokens of a prompt beside its images: the task and the frame around it.
const TEXT_TOKENS: usize = 40;
/// Tokens of one image of 252 x 252 pixels.
const IMAGE_TOKENS: usize = 81;
/// The longest prompt, unless its images alone are half of that.
const MOST_TOKENS: usize = 512;

/// A checkpoint's component at a policy.
pub struct CheckpointGraph {
    pub fingerprint: String,
    pub model: Model,
    pub policy: PrecisionPolicy,
    pub component: Component,
    pub products: Products,
    names: Names,
    layout: Layout,
}

impl CheckpointGraph {
    /// Loads the checkpoint and the policy.
    ///
    /// # Errors
    /// A file or a policy that does not fit.
    pub fn load(checkpoint: &Path, args: &GraphArgs) -> Result<Self> {
        let component = args.component.unwrap_or(Component::Dit);
        // The shapes of a dit are those of as many state rows.
        let part = matches!(component, Component::Dit | Component::Blocks(_));
        let states = args.state_horizon.is_some() && !part;
        refuse_unused(component, !args.image.is_empty(), args.denoising_steps.is_some(), states)?;
        let (model, fingerprint) = model(checkpoint)?;
        let policy = precision(&model, args.precision.as_deref().unwrap_or("f32"), None)?;
        let layout = Layout {
            images: args.image.clone(),
            state_horizon: args.state_horizon.map_or(1, usize::from),
            denoising_steps: args.denoising_steps.map_or(model.config.num_inference_timesteps, usize::from),
        };
        Ok(CheckpointGraph {
            fingerprint,
            model,
            policy,
            component,
            products: args.products.unwrap_or(ProductsArg::Native).into(),
            names: args.io_names.unwrap_or(NamesArg::Steady).into(),
            layout,
        })
    }

    /// Refuses a policy with formats that a target has no types for.
    ///
    /// # Errors
    /// As of [`Target::check`].
    pub fn check(&self, target: Target) -> Result<()> {
        Ok(target.check(&self.policy, &self.component.sites(&self.model)?)?)
    }

    /// How it is exported.
    pub fn export(&self) -> Export<'_> {
        Export {
            component: self.component,
            policy: &self.policy,
            products: self.products,
            opset: DEFAULT_OPSET,
            names: self.names,
            layout: self.layout.clone(),
        }
    }

    /// Sizes of the open dimensions of its inputs, by name.
    pub fn ranges(&self, ports: &[Port]) -> Result<BTreeMap<String, Range>> {
        let inputs = ports.iter().filter(|port| !port.is_output);
        let open = inputs.flat_map(|port| &port.dims).filter_map(|dim| match dim {
            PortDim::Open(name) => Some(name.clone()),
            PortDim::Fixed(_) => None,
        });
        open.map(|name| Ok((name.clone(), self.range(&name)?))).collect()
    }

    fn range(&self, name: &str) -> Result<Range> {
        let [least, best, most] = match name {
            "batch" | "batch_size" | "images" => BATCH,
            "image_tokens" | "num_vis_tokens" => [1, IMAGE_TOKENS, MOST_TOKENS],
            "state_action_tokens" | "sa_seq_len" => {
                let config = &self.model.config;
                let count = config.state_shape(self.layout.state_horizon)[0] + config.action_horizon;
                [count; 3]
            }
            _ => {
                // A graph with images has a place for each of their features.
                let images = self.model.config.image_tokens(&self.layout.images);
                let best = if images == 0 { IMAGE_TOKENS } else { images } + TEXT_TOKENS;
                [images.max(1), best, MOST_TOKENS.max(2 * best)]
            }
        };
        Ok(Range::new(least, best, most)?)
    }
}
