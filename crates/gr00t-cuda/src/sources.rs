//! The CUDA C++ that kernels are compiled from: embedded in the program, or read from a folder.

use super::attention::{AttentionParams, DeviceSegment};
use super::dit_persistent::{DitConstantsParams, DitMemory, DitPackParams, DitParams};
use super::gemm::{Epilogue, GemmParams, GemmWgmmaParams};
use super::images::{ResampleImage, ResampleParams};
use super::norm::NormParams;
use super::operands::{ConvertParams, QuantizeParams};
use super::pack::PackParams;
use super::rotary::RotaryParams;
use super::tokens::{AddRowsParams, EmbedParams, EulerParams, PatchImage, PatchesParams};
use crate::{Error, Result};
use std::path::Path;
use std::sync::OnceLock;
use steadyhand_cuda_driver::compile::{Arch, Compiler, Source};
use steadyhand_cuda_driver::{Params, TensorMap};

/// Files of `kernels/` with their texts.
macro_rules! embedded {
    ($($file:literal),* $(,)?) => { &[$(($file, include_str!(concat!("kernels/", $file)))),*] };
}

/// Name and text of the files with kernels.
pub(super) const SOURCES: &[(&str, &str)] = embedded![
    "attention.cu",
    "attention_f32.cu",
    "dit_pack.cu",
    "dit_persistent.cu",
    "gemm_mma.cu",
    "gemm_f32.cu",
    "gemm_persistent.cu",
    "gemm_wgmma.cu",
    "images.cu",
    "norm.cu",
    "patches.cu",
    "rotary.cu",
    "tokens.cu",
    "weights.cu",
];

/// Name and text of the files that they include.
pub(super) const HEADERS: &[(&str, &str)] = embedded![
    "dit_attention.cuh",
    "dit_exchange.cuh",
    "dit_loader.cuh",
    "dit_products.cuh",
    "dit_sums.cuh",
    "epilogue.cuh",
    "machine.cuh",
    "numeric.cuh",
    "wgmma.cuh",
];

/// The header with the structs that kernels are given, which every source includes by this name.
const PARAMS: &str = "params.cuh";

/// Text of the header `PARAMS`: the structs that `kernel_params!` declares, those that others have as fields first.
pub fn params_header() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let declarations = [
            TensorMap::declaration(),
            DeviceSegment::declaration(),
            AttentionParams::declaration(),
            Epilogue::declaration(),
            GemmParams::declaration(),
            GemmWgmmaParams::declaration(),
            NormParams::declaration(),
            RotaryParams::declaration(),
            ResampleImage::declaration(),
            ResampleParams::declaration(),
            PatchImage::declaration(),
            PatchesParams::declaration(),
            EmbedParams::declaration(),
            ConvertParams::declaration(),
            QuantizeParams::declaration(),
            AddRowsParams::declaration(),
            EulerParams::declaration(),
            PackParams::declaration(),
            DitMemory::declaration(),
            DitParams::declaration(),
            DitPackParams::declaration(),
            DitConstantsParams::declaration(),
        ];
        format!("#pragma once\n\n{}", declarations.join("\n"))
    })
}

/// Options of every kernel.
const OPTIONS: &[&str] = &["--std=c++17"];
/// Tells profilers and `compute-sanitizer` the lines of instructions; the instructions are the same.
const LINE_INFO: &str = "-lineinfo";

/// Source files of kernels, with the headers that they include by name.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Name in the program, name in messages, text.
    files: Vec<(&'static str, String, String)>,
    /// Name and text.
    headers: Vec<(String, String)>,
    line_info: bool,
}

impl Sources {
    /// Those in a folder, or the embedded ones.
    ///
    /// # Errors
    /// As [`Sources::read`].
    pub fn open(folder: Option<&Path>) -> Result<Self> {
        folder.map_or_else(|| Ok(Sources::embedded()), Sources::read)
    }

    /// Those that the program was built with.
    pub fn embedded() -> Self {
        let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        let file = |(name, text): &(&'static str, &str)| (*name, (*name).to_owned(), (*text).to_owned());
        Sources {
            files: SOURCES.iter().map(file).collect(),
            headers: HEADERS.iter().map(own).collect(),
            line_info: false,
        }
    }

    /// Those in a folder, which has all files of `crates/gr00t-cuda/src/kernels`; kernels get line information. Whether
    /// a kernel is in the cache depends on what the files hold, so an edited one is compiled at the next start.
    ///
    /// # Errors
    /// A file is missing or cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let text = |name: &str| {
            let path = folder.join(name);
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|error| steadyhand_gr00t::Error::io(&path, error))?;
            Ok((path.display().to_string(), text))
        };
        let file = |(name, _): &(&'static str, &str)| text(name).map(|(path, text)| (*name, path, text));
        let header = |(name, _): &(&str, &str)| text(name).map(|(_, text)| ((*name).to_owned(), text));
        Ok(Sources {
            files: SOURCES.iter().map(file).collect::<Result<_>>()?,
            headers: HEADERS.iter().map(header).collect::<Result<_>>()?,
            line_info: true,
        })
    }

    /// The cubin of a file, compiled for these names and values.
    ///
    /// # Errors
    /// No such file; the compiler's.
    pub(super) fn compile(
        &self,
        file: &str,
        defines: &[(&'static str, usize)],
        compiler: &Compiler,
        arch: Arch,
    ) -> Result<Vec<u8>> {
        let found = self.files.iter().find(|(name, ..)| *name == file);
        let (_, name, text) =
            found.ok_or_else(|| Error::engine("compile", format!("no kernel source {file}")))?;
        let line_info = self.line_info.then(|| LINE_INFO.to_owned());
        let options = OPTIONS.iter().map(|option| (*option).to_owned()).chain(line_info);
        let defines = defines.iter().map(|(name, value)| format!("-D{name}={value}"));
        let options: Vec<String> = options.chain(defines).collect();
        let headers = self.headers.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let headers: Vec<_> = headers.chain([(PARAMS, params_header())]).collect();
        Ok(compiler.compile(&Source { name, text, headers: &headers }, &options, arch)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dit_persistent::Matrix;
    use crate::elements::Element;
    use crate::images::code;
    use crate::norm::Norm;
    use steadyhand_gr00t::ops::Activation;
    use steadyhand_gr00t::processor::Filter;

    #[test]
    fn every_file_is_embedded() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernels");
        let mut files = 0;
        for entry in std::fs::read_dir(&folder).expect("the folder of kernels") {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let list = if name.ends_with(".cuh") { HEADERS } else { SOURCES };
            assert!(list.iter().any(|(embedded, _)| *embedded == name), "{name} is not embedded");
            files += 1;
        }
        assert_eq!(files, SOURCES.len() + HEADERS.len());
    }

    /// Enumerators of `enum NAME` in a file of CUDA C++.
    fn enumerators(file: &str, name: &str) -> Vec<(String, u32)> {
        let (_, text) = SOURCES.iter().chain(HEADERS).find(|(known, _)| *known == file).expect(file);
        let (_, rest) = text.split_once(&format!("enum {name} {{")).expect(name);
        let (list, _) = rest.split_once('}').expect(name);
        let pairs = list.split(',').map(|one| one.split_once('=').expect("an enumerator with its value"));
        pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().parse().expect("a number"))).collect()
    }

    /// What the host passes as a number must mean the same to a kernel.
    #[test]
    fn enums_are_the_same_on_host_and_device() {
        let same = |file, name, host: &[(&str, u32)]| {
            let host: Vec<_> = host.iter().map(|(name, code)| ((*name).to_owned(), *code)).collect();
            assert_eq!(enumerators(file, name), host, "{file}: {name}");
        };
        let [f32, bf16, fp16, e4m3] = Element::ALL.map(Element::code);
        same("numeric.cuh", "Element", &[("F32", f32), ("BF16", bf16), ("FP16", fp16), ("E4M3", e4m3)]);
        let of = |activation| crate::linear::code(activation);
        let activations = [
            ("IDENTITY", 0),
            ("GELU", of(Activation::Gelu)),
            ("GELU_TANH", of(Activation::GeluTanh)),
            ("SILU", of(Activation::Silu)),
            ("SWISH", of(Activation::Swish)),
            ("RELU", of(Activation::Relu)),
        ];
        same("numeric.cuh", "Activation", &activations);
        let norms =
            [("NONE", Norm::None as u32), ("LAYER_NORM", Norm::Layer as u32), ("RMS_NORM", Norm::Rms as u32)];
        same("norm.cu", "Kind", &norms);
        let filters = [
            ("SEPARABLE", code(Filter::Separable)),
            ("AREA", code(Filter::Area)),
            ("BLOCK_MEANS", code(Filter::BlockMeans)),
            ("LINEAR", code(Filter::Linear)),
        ];
        same("images.cu", "Filter", &filters);
        let matrices = [
            ("OWN", Matrix::Own as u32),
            ("NARROW", Matrix::Narrow as u32),
            ("FC1", Matrix::Fc1 as u32),
            ("FC2", Matrix::Fc2 as u32),
        ];
        same("dit_pack.cu", "Matrix", &matrices);
    }

    #[test]
    fn a_folder_without_a_file_is_refused_by_path() {
        let folder = tempfile::tempdir().unwrap();
        let error = Sources::read(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with(&folder.path().join(SOURCES[0].0).display().to_string()), "{error}");
    }
}
