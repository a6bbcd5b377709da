//! `fault:NAME` or `fault:NAME:weak`: the reference with a fault of the suite.

use super::{Asked, Examined, Kind, Open};
use anyhow::{Result, bail};
use steadyhand_gr00t_lab::fault::{FaultyEngine, suite};

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
    let (name, weak) = text.strip_suffix(":weak").map_or((text, false), |name| (name, true));
    let model = &asked.scene.session.parts.model;
    let hyphened = |name: &str| name.replace(' ', "-");
    let cases = suite(model);
    let Some(case) = cases.iter().find(|case| hyphened(case.name) == name) else {
        let known: Vec<String> = cases.iter().map(|case| hyphened(case.name)).collect();
        bail!("fault: expected one of {}, found `{name}`", known.join(", "))
    };
    let fault = if weak { case.weak.clone() } else { case.strong.clone() };
    let engine = FaultyEngine::new(model, asked.precision, asked.denoising_steps, fault);
    Ok(Examined::Running(Box::new(engine)))
}
