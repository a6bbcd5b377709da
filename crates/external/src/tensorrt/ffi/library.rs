//! The libraries of TensorRT and TensorRT-RTX, loaded from their files.

use super::tables::{self, Tables};
use super::{Product, Version, abi, logger};
use crate::places::names_in;
use libloading::{Library as File, Symbol};
use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};

type Create = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;
type CreateParser = unsafe extern "C" fn(*mut c_void, *mut c_void, c_int) -> *mut c_void;
type Number = unsafe extern "C" fn() -> c_int;

/// The libraries. They stay loaded until the process ends: what they keep of CUDA may be used until then.
pub(in crate::tensorrt) struct Library {
    create_builder: Create,
    create_runtime: Create,
    /// What makes parsers, and the version that it asks for.
    parser: Option<(CreateParser, c_int)>,
    version: Version,
    tables: &'static Tables,
    /// Libraries that the builder opens by name, which the loader finds where they are loaded already.
    resources: Vec<PathBuf>,
}

impl Library {
    /// Loads the runtime's library, and the parser's where graphs are read by it.
    ///
    /// # Errors
    /// Why not: the loader's reason, a function that is missing, a version whose interface is not known.
    pub(in crate::tensorrt) fn load(
        product: Product,
        runtime: &Path,
        parser: Option<&Path>,
    ) -> Result<Self, String> {
        if cfg!(not(target_os = "linux")) {
            return Err("expected Linux, whose C++ interface is known".to_owned());
        }
        let open = |path: &Path| {
            // SAFETY: loading runs the initialisers of a library that the user chose as TensorRT's.
            let file = unsafe { File::new(path) };
            file.map_err(|error| format!("{}: {error}", path.display()))
        };
        let of_runtime = |what: String| format!("{}: {what}", runtime.display());
        let runtime_file = open(runtime)?;
        let version = version(&runtime_file).map_err(of_runtime)?;
        let tables = tables::of(product, version).map_err(of_runtime)?;
        let parser = parser.map(|path| Ok::<_, String>((open(path)?, path))).transpose()?;
        let parser_functions = parser.as_ref().map(|(file, path)| {
            let of_parser = |what: String| format!("{}: {what}", path.display());
            // SAFETY: the functions of these names have these signatures in every known version.
            unsafe {
                let create = symbol(file, "createNvOnnxParser_INTERNAL").map_err(of_parser)?;
                let version = symbol::<Number>(file, "getNvOnnxParserVersion").map_err(of_parser)?();
                Ok::<_, String>((create, version))
            }
        });
        // SAFETY: the functions of these names have these signatures in every known version.
        let library = unsafe {
            Library {
                create_builder: symbol(&runtime_file, "createInferBuilder_INTERNAL").map_err(of_runtime)?,
                create_runtime: symbol(&runtime_file, "createInferRuntime_INTERNAL").map_err(of_runtime)?,
                parser: parser_functions.transpose()?,
                version,
                tables,
                resources: resources_beside(runtime),
            }
        };
        std::mem::forget((runtime_file, parser));
        Ok(library)
    }

    /// A library whose builders a test makes.
    ///
    /// # Errors
    /// A version whose interface is not known.
    #[cfg(test)]
    pub(super) fn standing_in(
        product: Product,
        version: Version,
        create_builder: Create,
    ) -> Result<Self, String> {
        let tables = tables::of(product, version)?;
        let (parser, resources) = (None, Vec::new());
        Ok(Library { create_builder, create_runtime: create_builder, parser, version, tables, resources })
    }

    /// The runtime's version.
    pub(in crate::tensorrt) fn version(&self) -> Version {
        self.version
    }

    /// Whether graphs can be read by the library's own parser.
    pub(in crate::tensorrt) fn has_parser(&self) -> bool {
        self.parser.is_some()
    }

    /// Whether its networks may be weakly typed: the builder then chooses precisions within what its flags allow.
    pub(in crate::tensorrt) fn weakly_typed(&self) -> bool {
        self.tables.weak.is_some()
    }

    /// The places of its functions.
    pub(super) fn tables(&self) -> &'static Tables {
        self.tables
    }

    /// A builder.
    pub(super) fn builder(&self) -> Option<abi::Builder> {
        for resource in &self.resources {
            // SAFETY: loading runs the initialisers of a library beside the one that the user chose. One that does not
            // load is missed by the builder, which says so.
            std::mem::forget(unsafe { File::new(resource) });
        }
        // SAFETY: the logger lives as long as the process; the object is given to this call alone.
        unsafe {
            abi::Builder::from_address((self.create_builder)(self.logger(), self.number()), self.tables)
        }
    }

    /// A runtime.
    pub(super) fn runtime(&self) -> Option<abi::Runtime> {
        // SAFETY: as in `builder`.
        unsafe {
            abi::Runtime::from_address((self.create_runtime)(self.logger(), self.number()), self.tables)
        }
    }

    /// A parser into `network`, which must outlive it; none where the library has none.
    pub(super) fn parser(&self, network: &abi::Network) -> Option<abi::Parser> {
        let (create, version) = self.parser?;
        // SAFETY: as in `builder`; the network is alive.
        unsafe {
            let parser = create(network.object.as_ptr(), self.logger(), version);
            abi::Parser::from_address(parser, self.tables)
        }
    }

    fn logger(&self) -> *mut c_void {
        logger::address(self.tables.versioned_logger)
    }

    /// The version as the functions that make objects take it: the interface that the caller was made for.
    fn number(&self) -> c_int {
        let Version { major, minor, patch } = self.version;
        let number = match major {
            // As `NV_TENSORRT_VERSION` was counted before TensorRT 10, and TensorRT-RTX counts from 1 the new way.
            8 => major * 1000 + minor * 100 + patch,
            _ => major * 10_000 + minor * 100 + patch,
        };
        number as c_int
    }
}

/// The builder's kernels, in files of their own.
fn resources_beside(runtime: &Path) -> Vec<PathBuf> {
    let folder = runtime.parent().unwrap_or(Path::new("."));
    names_in(folder, |name| name.starts_with("libnvinfer_builder_resource"))
}

/// The version of a runtime's library.
fn version(file: &File) -> Result<Version, String> {
    let part = |name: &str| -> Result<u32, String> {
        // SAFETY: takes nothing and gives an int32 in every version of TensorRT and TensorRT-RTX.
        let number = unsafe { symbol::<Number>(file, name)?() };
        u32::try_from(number).map_err(|_| format!("{name} gives {number}"))
    };
    if let Ok(major) = part("getInferLibMajorVersion") {
        let [minor, patch] = ["getInferLibMinorVersion", "getInferLibPatchVersion"].map(part);
        return Ok(Version { major, minor: minor?, patch: patch? });
    }
    // Up to TensorRT 8.5 there is only the whole number.
    let number = part("getInferLibVersion")?;
    Ok(Version { major: number / 1000, minor: number / 100 % 10, patch: number % 100 })
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
