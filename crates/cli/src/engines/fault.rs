//! `fault:NAME` or `fault:NAME:weak`: the reference with a fault of the suite.

use super::{Asked, Examined, Kind, Open};
use anyhow::{Result, bail};
use steadyhand_gr00t::engine::{Backend, Engine, Reference};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t_lab::fault::{Fault, FaultyEngine, suite};

pub const KIND: Kind = Kind {
    name: "fault",
    form: "fault:NAME[:weak]",
    about: "the reference with a known fault",
    exchanges: true,
    open: Open::Examined {
        precision: "f32",
        options: &[],
        fits: |name| !name.is_empty(),
        noise: |_| None,
        open,
    },
};

fn open(text: &str, asked: &Asked) -> Result<Examined> {
    let model = &asked.scene.session.parts.model;
    let engine = FaultyEngine::new(model, asked.precision, asked.denoising_steps, planted(text, model)?);
    Ok(Examined::Running(Box::new(engine)))
}

/// The fault of that name.
fn planted(text: &str, model: &Model) -> Result<Fault> {
    let (name, weak) = text.strip_suffix(":weak").map_or((text, false), |name| (name, true));
    let hyphened = |name: &str| name.replace(' ', "-");
    let cases = suite(model);
    let Some(case) = cases.iter().find(|case| hyphened(case.name) == name) else {
        let known: Vec<String> = cases.iter().map(|case| hyphened(case.name)).collect();
        bail!("fault: expected one of {}, found `{name}`", known.join(", "))
    };
    Ok(if weak { case.weak.clone() } else { case.strong.clone() })
}

/// Opens the reference with the fault of that name, to be served: what a diagnosis of a server can be tried on.
pub struct Planted(pub String);

impl Backend for Planted {
    fn name(&self) -> &'static str {
        KIND.name
    }

    fn device(&self) -> steadyhand_gr00t::Result<String> {
        Reference.device()
    }

    fn check(&self, policy: &PrecisionPolicy, sites: &[ModelSite]) -> steadyhand_gr00t::Result<()> {
        Reference.check(policy, sites)
    }

    fn open(
        &self,
        model: Model,
        policy: PrecisionPolicy,
        denoising_steps: usize,
    ) -> steadyhand_gr00t::Result<Box<dyn Engine + Send>> {
        let fault = planted(&self.0, &model).map_err(steadyhand_gr00t::Error::engine)?;
        Ok(Box::new(FaultyEngine::new(&model, &policy, denoising_steps, fault)))
    }
}
