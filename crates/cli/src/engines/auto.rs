//! `auto`: the GPU where it can run, else the reference.

use super::{Kind, Open, cuda};
use crate::output::note;
use steadyhand_gr00t::Result;
use steadyhand_gr00t::engine::{Backend, Engine, Reference};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::precision::PrecisionPolicy;

pub const KIND: Kind = Kind {
    name: "auto",
    form: "auto:PRECISION",
    about: "cuda where it can run, else cpu, saying which and why",
    exchanges: true,
    open: Open::Running {
        options: cuda::KIND.options(),
        backend: |options| Ok(Box::new(Auto { first: cuda::backend(options)? })),
    },
};

/// Opens an engine of `first` where it can run, else the reference; says which and why.
struct Auto {
    first: Box<dyn Backend>,
}

impl Backend for Auto {
    fn name(&self) -> &'static str {
        KIND.name
    }

    fn device(&self) -> Result<String> {
        self.first.device().or_else(|_| Reference.device())
    }

    fn check(&self, policy: &PrecisionPolicy, sites: &[ModelSite]) -> Result<()> {
        Reference.check(policy, sites)
    }

    fn open(
        &self,
        model: Model,
        policy: PrecisionPolicy,
        denoising_steps: usize,
    ) -> Result<Box<dyn Engine + Send>> {
        let first = self.first.open(model.clone(), policy.clone(), denoising_steps);
        match first.and_then(|engine| Ok((engine, self.first.device()?))) {
            Ok((engine, device)) => {
                note!("engine: {} on {device}", engine.name());
                Ok(engine)
            }
            Err(error) => {
                note!("engine: cpu, because {} cannot run: {error}", self.first.name());
                Reference.open(model, policy, denoising_steps)
            }
        }
    }
}
