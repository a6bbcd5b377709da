//! TensorRT-RTX's two libraries, loaded from their files.

use super::logger::Logger;
use super::{Version, abi};
use libloading::{Library as File, Symbol};
use std::ffi::{c_int, c_void};
use std::path::Path;
use std::sync::Arc;

/// The versions whose tables are known: major, then first and last minor.
pub(in crate::tensorrt) const KNOWN: (u32, [u32; 2]) = (1, [5, 7]);

type Create = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;
type CreateParser = unsafe extern "C" fn(*mut c_void, *mut c_void, c_int) -> *mut c_void;
type Number = unsafe extern "C" fn() -> c_int;

/// The libraries. They stay loaded as long as one clone, or something made from one, is alive.
#[derive(Clone)]
pub(in crate::tensorrt) struct Library(Arc<Loaded>);

struct Loaded {
    create_builder: Create,
    create_runtime: Create,
    create_parser: CreateParser,
    parser_version: c_int,
    version: Version,
    /// Last: the functions above are theirs.
    _files: [File; 2],
}

impl Library {
    /// Loads the runtime's library and the parser's.
    ///
    /// # Errors
    /// Why not: the loader's reason, a function that is missing, a version whose interface is not known.
    pub(in crate::tensorrt) fn load(runtime: &Path, parser: &Path) -> Result<Self, String> {
        if cfg!(not(target_os = "linux")) {
            return Err("expected Linux, whose C++ interface is known".to_owned());
        }
        let open = |path: &Path| {
            // SAFETY: loading runs the initialisers of a library that the user chose as TensorRT-RTX's.
            let file = unsafe { File::new(path) };
            file.map_err(|error| format!("{}: {error}", path.display()))
        };
        let runtime_file = open(runtime)?;
        let version = version(&runtime_file).map_err(|what| format!("{}: {what}", runtime.display()))?;
        let parser_file = open(parser)?;
        let of_runtime = |what: String| format!("{}: {what}", runtime.display());
        let of_parser = |what: String| format!("{}: {what}", parser.display());
        // SAFETY: the functions of these names have these signatures in every known version.
        let loaded = unsafe {
            Loaded {
                create_builder: symbol(&runtime_file, "createInferBuilder_INTERNAL").map_err(of_runtime)?,
                create_runtime: symbol(&runtime_file, "createInferRuntime_INTERNAL").map_err(of_runtime)?,
                create_parser: symbol(&parser_file, "createNvOnnxParser_INTERNAL").map_err(of_parser)?,
                parser_version: symbol::<Number>(&parser_file, "getNvOnnxParserVersion")
                    .map_err(of_parser)?(),
                version,
                _files: [runtime_file, parser_file],
            }
        };
        Ok(Library(Arc::new(loaded)))
    }

    /// The runtime's version.
    pub(in crate::tensorrt) fn version(&self) -> Version {
        self.0.version
    }

    /// A builder that speaks to `logger`, which must outlive it.
    pub(super) fn builder(&self, logger: &Logger) -> Option<abi::Builder> {
        // SAFETY: a living logger; the object is given to this call alone.
        unsafe { abi::Builder::from_address((self.0.create_builder)(logger.address(), self.number())) }
    }

    /// A runtime that speaks to `logger`, which must outlive it.
    pub(super) fn runtime(&self, logger: &Logger) -> Option<abi::Runtime> {
        // SAFETY: as in `builder`.
        unsafe { abi::Runtime::from_address((self.0.create_runtime)(logger.address(), self.number())) }
    }

    /// A parser into `network`, which must outlive it as `logger` must.
    pub(super) fn parser(&self, network: &abi::Network, logger: &Logger) -> Option<abi::Parser> {
        // SAFETY: as in `builder`; the network is alive.
        unsafe {
            let (network, logger) = (network.address(), logger.address());
            abi::Parser::from_address((self.0.create_parser)(network, logger, self.0.parser_version))
        }
    }

    /// The version as the functions that make objects take it: the interface that the caller was made for.
    fn number(&self) -> c_int {
        let Version { major, minor, patch } = self.0.version;
        (major * 10_000 + minor * 100 + patch) as c_int
    }
}

/// The version of a runtime's library, where its interface is known.
fn version(file: &File) -> Result<Version, String> {
    let part = |name: &str| -> Result<u32, String> {
        // SAFETY: takes nothing and gives an int32 in every version of TensorRT and TensorRT-RTX.
        let number = unsafe { symbol::<Number>(file, name)?() };
        u32::try_from(number).map_err(|_| format!("{name} gives {number}"))
    };
    let version = Version {
        major: part("getInferLibMajorVersion")?,
        minor: part("getInferLibMinorVersion")?,
        patch: part("getInferLibPatchVersion")?,
    };
    let (major, [first, last]) = KNOWN;
    if version.major != major || !(first..=last).contains(&version.minor) {
        return Err(format!(
            "version {version}, whose interface is not known: {major}.{first} to {major}.{last} are"
        ));
    }
    Ok(version)
}

/// The function of this name.
///
/// # Safety
/// It has the signature `T`.
unsafe fn symbol<T: Copy>(file: &File, name: &str) -> Result<T, String> {
    // SAFETY: the caller's promise.
    let found: Symbol<T> = unsafe { file.get(name.as_bytes()) }.map_err(|error| error.to_string())?;
    Ok(*found)
}
