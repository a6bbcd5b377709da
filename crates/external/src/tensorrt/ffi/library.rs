//! TensorRT-RTX's two libraries, loaded from their files.

use super::{Version, abi, logger};
use libloading::{Library as File, Symbol};
use std::ffi::{c_int, c_void};
use std::path::Path;

/// The versions whose tables are known: major, then first and last minor.
pub(in crate::tensorrt) const KNOWN: (u32, [u32; 2]) = (1, [5, 7]);

type Create = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;
type CreateParser = unsafe extern "C" fn(*mut c_void, *mut c_void, c_int) -> *mut c_void;
type Number = unsafe extern "C" fn() -> c_int;

/// The libraries. They stay loaded until the process ends: what they keep of CUDA may be used until then.
pub(in crate::tensorrt) struct Library {
    create_builder: Create,
    create_runtime: Create,
    create_parser: CreateParser,
    parser_version: c_int,
    version: Version,
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
        let library = unsafe {
            Library {
                create_builder: symbol(&runtime_file, "createInferBuilder_INTERNAL").map_err(of_runtime)?,
                create_runtime: symbol(&runtime_file, "createInferRuntime_INTERNAL").map_err(of_runtime)?,
                create_parser: symbol(&parser_file, "createNvOnnxParser_INTERNAL").map_err(of_parser)?,
                parser_version: symbol::<Number>(&parser_file, "getNvOnnxParserVersion")
                    .map_err(of_parser)?(),
                version,
            }
        };
        std::mem::forget([runtime_file, parser_file]);
        Ok(library)
    }

    /// The runtime's version.
    pub(in crate::tensorrt) fn version(&self) -> Version {
        self.version
    }

    /// A builder.
    pub(super) fn builder(&self) -> Option<abi::Builder> {
        // SAFETY: the logger lives as long as the process; the object is given to this call alone.
        unsafe { abi::Builder::from_address((self.create_builder)(logger::address(), self.number())) }
    }

    /// A runtime.
    pub(super) fn runtime(&self) -> Option<abi::Runtime> {
        // SAFETY: as in `builder`.
        unsafe { abi::Runtime::from_address((self.create_runtime)(logger::address(), self.number())) }
    }

    /// A parser into `network`, which must outlive it.
    pub(super) fn parser(&self, network: &abi::Network) -> Option<abi::Parser> {
        // SAFETY: as in `builder`; the network is alive.
        unsafe {
            let parser = (self.create_parser)(network.0.as_ptr(), logger::address(), self.parser_version);
            abi::Parser::from_address(parser)
        }
    }

    /// The version as the functions that make objects take it: the interface that the caller was made for.
    fn number(&self) -> c_int {
        let Version { major, minor, patch } = self.version;
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
