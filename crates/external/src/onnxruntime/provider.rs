//! What ONNX Runtime computes with, at no lower precision than the graph says.

use ort::ep::{CPU, CUDA, ExecutionProvider, ExecutionProviderDispatch, NVRTX, TensorRT};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::ops::onnx::Products;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{Error, Result};

/// NVIDIA's switch for all its libraries; 0 keeps products of f32 values in f32.
const TF32_SWITCH: &str = "NVIDIA_TF32_OVERRIDE";

/// How ONNX Runtime is loaded and what it computes with.
#[derive(Debug, Clone, Default)]
pub struct RuntimeOptions {
    /// Its library, or the folder with it, where it is not to be looked for.
    pub library: Option<PathBuf>,
    /// What computes.
    pub provider: Provider,
}

/// An execution provider of ONNX Runtime.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Provider {
    /// Its own kernels on the CPU.
    #[default]
    Cpu,
    /// Its own kernels on an NVIDIA GPU.
    Cuda,
    /// TensorRT.
    TensorRt,
    /// TensorRT-RTX.
    NvTensorRtRtx,
}

impl Provider {
    /// Every provider by its name.
    pub const ALL: [(&'static str, Provider); 4] = [
        ("cpu", Provider::Cpu),
        ("cuda", Provider::Cuda),
        ("tensorrt", Provider::TensorRt),
        ("nv-tensorrt-rtx", Provider::NvTensorRtRtx),
    ];

    /// The form of matrix products that it has kernels for and runs fast.
    pub(super) fn products(self) -> Products {
        match self {
            Provider::Cpu => Products::Widened,
            _ => Products::Native,
        }
    }

    /// What a session is asked to use. Nothing may lower a precision: a failure is not passed over for the CPU, and
    /// options that allow narrower formats than the graph's are set to off, whatever a library's defaults are.
    pub(super) fn dispatch(self) -> ExecutionProviderDispatch {
        let dispatch = match self {
            Provider::Cpu => CPU::default().build(),
            Provider::Cuda => CUDA::default().with_tf32(false).build(),
            Provider::TensorRt => {
                TensorRT::default().with_fp16(false).with_bf16(false).with_int8(false).build()
            }
            // Its networks are strongly typed; it has no such options.
            Provider::NvTensorRtRtx => NVRTX::default().build(),
        };
        dispatch.error_on_failure()
    }

    /// Checks that the loaded library was built with the provider.
    ///
    /// # Errors
    /// It was not: names those that it has.
    pub(super) fn expect_in_library(self) -> Result<()> {
        let available = available()?;
        if available.contains(&self) {
            return Ok(());
        }
        let known = available.iter().map(Provider::to_string).collect::<Vec<_>>().join(", ");
        let what = format!("expected one that ONNX Runtime's library has: {known}");
        Err(Error::input(format!("provider {self}"), what))
    }

    /// Checks that the provider keeps what the policy says. TensorRT rounds products of f32 values to TF32 unless it
    /// is told not to, which ONNX Runtime has no option for.
    ///
    /// # Errors
    /// The first site that multiplies in f32, where TF32 is not switched off for the process.
    pub(super) fn check(
        self,
        policy: &PrecisionPolicy,
        sites: &[ModelSite],
        tf32_is_off: bool,
    ) -> Result<()> {
        if matches!(self, Provider::Cpu | Provider::Cuda) || tf32_is_off {
            return Ok(());
        }
        let in_f32 = |site: &&ModelSite| {
            site.operation.multiplies() && policy.formats_of(&site.path).compute == Format::F32
        };
        let Some(site) = sites.iter().find(in_f32) else { return Ok(()) };
        let what = format!(
            "site `{}` multiplies in f32, which it may round to TF32; set {TF32_SWITCH}=0, or choose a policy \
             whose products are in bf16 or fp16",
            site.path
        );
        Err(Error::input(format!("provider {self}"), what))
    }
}

/// The providers that the loaded library was built with.
///
/// # Errors
/// The library does not answer.
pub(super) fn available() -> Result<Vec<Provider>> {
    let mut available = Vec::new();
    for (_, provider) in Provider::ALL {
        let found = match provider {
            Provider::Cpu => CPU::is_available(),
            Provider::Cuda => CUDA::is_available(),
            Provider::TensorRt => TensorRT::is_available(),
            Provider::NvTensorRtRtx => NVRTX::is_available(),
        };
        if found.map_err(|error| Error::input("onnxruntime", error.to_string()))? {
            available.push(provider);
        }
    }
    Ok(available)
}

/// Whether TF32 is switched off for this process.
pub(super) fn tf32_is_off() -> bool {
    std::env::var_os(TF32_SWITCH).is_some_and(|value| value == "0")
}

impl fmt::Display for Provider {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Provider::ALL.iter().find(|(_, provider)| provider == self);
        formatter.write_str(found.map_or("", |(name, _)| name))
    }
}

impl FromStr for Provider {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Provider::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, provider)| *provider).ok_or_else(|| {
            let known = Provider::ALL.map(|(name, _)| name).join(", ");
            Error::input("provider", format!("expected one of {known}, found `{name}`"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadyhand_gr00t::ops::Operation;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (name, provider) in Provider::ALL {
            assert_eq!(name.parse::<Provider>().expect("known"), provider);
            assert_eq!(provider.to_string(), name);
        }
        let refusal = "rocm".parse::<Provider>().expect_err("a refusal").to_string();
        assert_eq!(refusal, "provider: expected one of cpu, cuda, tensorrt, nv-tensorrt-rtx, found `rocm`");
    }

    #[test]
    fn products_in_f32_are_not_left_to_tf32() {
        let sites = [ModelSite { path: "dit.block.0.query".to_owned(), operation: Operation::Linear }];
        let policy = |name| PrecisionPolicy::preset(name).expect("a preset");
        let refusal =
            Provider::TensorRt.check(&policy("f32"), &sites, false).expect_err("a refusal").to_string();
        assert!(
            refusal.starts_with("provider tensorrt: site `dit.block.0.query` multiplies in f32"),
            "{refusal}"
        );
        assert!(Provider::NvTensorRtRtx.check(&policy("f32"), &sites, true).is_ok());
        assert!(Provider::NvTensorRtRtx.check(&policy("bf16"), &sites, false).is_ok());
        assert!(Provider::Cuda.check(&policy("f32"), &sites, false).is_ok());
    }
}
