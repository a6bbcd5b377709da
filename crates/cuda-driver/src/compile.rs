//! Compiles kernels for the device at hand, once a machine.

use super::Result;
use super::cache::Cache;
use super::locate;
use super::nvrtc::Nvrtc;
use std::fmt;
use std::path::PathBuf;

/// What code is compiled for: a real architecture, whose code runs on devices of its major version and the same or a
/// higher minor version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Arch {
    capability: (u32, u32),
}

impl Arch {
    /// For devices of this compute capability, with what only they have: `(9, 0)` is sm_90a.
    pub const fn of(compute_capability: (u32, u32)) -> Self {
        Arch { capability: compute_capability }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.capability;
        let only = if self.capability == (9, 0) { "a" } else { "" };
        write!(f, "sm_{major}{minor}{only}")
    }
}

/// Where compiled kernels are kept unless told otherwise: `steadyhand/kernels` in `XDG_CACHE_HOME` or `~/.cache`. `None`
/// where the environment names neither: then they are compiled at every start.
pub fn user_cache() -> Option<PathBuf> {
    Cache::user_folder()
}

/// A CUDA C++ source with the files that it may include by name.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Its name in messages, such as `norm.cu`.
    pub name: &'a str,
    /// Its text.
    pub text: &'a str,
    /// Name and text of what it may include.
    pub headers: &'a [(&'a str, &'a str)],
}

/// NVRTC with a cache on disk.
///
/// NVRTC is loaded when it is opened, also where every kernel is in the cache: that takes a twentieth of a second, and
/// an entry then belongs to the compiler that is there.
pub struct Compiler {
    nvrtc: Nvrtc,
    cache: Cache,
}

impl Compiler {
    /// Finds and loads NVRTC, of the driver's major version or an older one: by the system loader's names, in the
    /// toolkits that `CUDA_HOME` and `CUDA_PATH` name or that are in `/usr/local` and `/opt`, and in the folders of
    /// Python's package `nvidia-cuda-nvrtc`. `driver_version` is as in
    /// [`Properties`](super::Properties); `None` takes any.
    ///
    /// Code is kept in `cache`; `None` is [`user_cache`]. A folder that cannot be written is no error.
    ///
    /// # Errors
    /// No NVRTC: what was looked for and where.
    pub fn open(driver_version: Option<u32>, cache: Option<PathBuf>) -> Result<Self> {
        let nvrtc = locate::load(driver_version)?;
        Ok(Compiler { nvrtc, cache: Cache::new(cache.or_else(Cache::user_folder)) })
    }

    /// NVRTC's major and minor version.
    pub fn version(&self) -> (u32, u32) {
        self.nvrtc.version()
    }

    /// Whether NVRTC knows an architecture: one that is newer than it does not compile.
    ///
    /// # Errors
    /// NVRTC's.
    pub fn knows(&self, arch: Arch) -> Result<bool> {
        let (major, minor) = arch.capability;
        Ok(self.nvrtc.architectures()?.contains(&(10 * major + minor)))
    }

    /// The cubin of a source for an architecture, from the cache or compiled. Options are NVRTC's, such as
    /// `-DTILE=64`; the architecture is added.
    ///
    /// # Errors
    /// The compiler's log; the architecture is unknown to this NVRTC.
    pub fn compile(&self, source: &Source, options: &[String], arch: Arch) -> Result<Vec<u8>> {
        let mut options = options.to_vec();
        options.push(format!("--gpu-architecture={arch}"));
        let key = self.key(source, &options);
        if let Some(cubin) = self.cache.get(&key) {
            return Ok(cubin);
        }
        let cubin = self.nvrtc.compile(source.name, source.text, source.headers, &options)?;
        self.cache.put(&key, &cubin);
        Ok(cubin)
    }

    /// All that code depends on, each part after its length.
    fn key(&self, source: &Source, options: &[String]) -> Vec<u8> {
        let (major, minor) = self.version();
        let compiler = format!("{} NVRTC {major}.{minor}", env!("CARGO_PKG_VERSION"));
        let mut key = Vec::new();
        let mut part = |text: &str| {
            key.extend((text.len() as u64).to_le_bytes());
            key.extend(text.as_bytes());
        };
        part(&compiler);
        part(&options.len().to_string());
        options.iter().for_each(|option| part(option));
        part(source.name);
        part(source.text);
        for (name, text) in source.headers {
            part(name);
            part(text);
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_named_by_capability() {
        let names = [(8, 0), (8, 7), (9, 0), (12, 0)].map(|capability| Arch::of(capability).to_string());
        assert_eq!(names, ["sm_80", "sm_87", "sm_90a", "sm_120"]);
    }
}
