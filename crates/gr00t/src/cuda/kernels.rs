//! The kernels' sources, and what each is compiled to.

use super::compile::{Arch, Compiler, Source};
use crate::{Error, Result};

/// Files of `kernels/` with their texts.
macro_rules! embedded {
    ($($file:literal),* $(,)?) => { &[$(($file, include_str!(concat!("kernels/", $file)))),*] };
}

/// Name and text of the files with kernels.
const SOURCES: &[(&str, &str)] = embedded![];

/// Name and text of the files that they include.
const HEADERS: &[(&str, &str)] = embedded![];

/// Options of every kernel.
const OPTIONS: &[&str] = &["--std=c++17"];

/// A kernel compiled for particular sizes and formats.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The file with its source, in `kernels/`.
    pub file: &'static str,
    /// Names and values of the macros it is compiled with.
    pub defines: Vec<(&'static str, String)>,
    /// The name of its entry.
    pub entry: &'static str,
}

impl Variant {
    /// The cubin for an architecture.
    ///
    /// # Errors
    /// No such file; the compiler's.
    pub fn compile(&self, compiler: &Compiler, arch: Arch) -> Result<Vec<u8>> {
        let source = SOURCES.iter().find(|(name, _)| *name == self.file);
        let (name, text) =
            source.ok_or_else(|| Error::cuda("compile", format!("no kernel source {}", self.file)))?;
        let defines = self.defines.iter().map(|(name, value)| format!("-D{name}={value}"));
        let options: Vec<String> = OPTIONS.iter().map(|option| option.to_string()).chain(defines).collect();
        compiler.compile(&Source { name, text, headers: HEADERS }, &options, arch)
    }
}

impl std::fmt::Display for Variant {
    /// Such as `linear.cu linear TILE_ROWS=64 STAGES=4`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.file, self.entry)?;
        self.defines.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

/// Every variant that the engine may ask for.
pub fn catalogue() -> Vec<Variant> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_file_is_embedded_and_every_source_has_a_variant() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda/kernels");
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let list = if name.ends_with(".cuh") { HEADERS } else { SOURCES };
            assert!(list.iter().any(|(embedded, _)| *embedded == name), "{name} is not embedded");
        }
        let variants = catalogue();
        for (file, _) in SOURCES {
            assert!(variants.iter().any(|variant| variant.file == *file), "{file} is compiled for nothing");
        }
    }

    #[test]
    fn variants_differ() {
        let variants = catalogue();
        let different: std::collections::HashSet<_> = variants.iter().collect();
        assert_eq!(different.len(), variants.len());
    }
}
