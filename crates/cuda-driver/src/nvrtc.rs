//! NVRTC's C interface, from a library chosen by its path.

use super::{Error, Result};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

/// `nvrtcResult`; 0 is success. A number, not an enumeration: newer versions have more values.
type Code = c_int;
type Program = *mut c_void;
type Size = unsafe extern "C" fn(Program, *mut usize) -> Code;
type Content = unsafe extern "C" fn(Program, *mut c_char) -> Code;

/// A loaded NVRTC.
pub(crate) struct Nvrtc {
    version: (u32, u32),
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Code,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Code,
    log_size: Size,
    log: Content,
    cubin_size: Size,
    cubin: Content,
    destroy: unsafe extern "C" fn(*mut Program) -> Code,
    count_architectures: unsafe extern "C" fn(*mut c_int) -> Code,
    list_architectures: unsafe extern "C" fn(*mut c_int) -> Code,
    describe: unsafe extern "C" fn(Code) -> *const c_char,
    /// Never unloaded: it may have put destructors in threads that live on.
    _libraries: ManuallyDrop<Vec<Library>>,
}

impl Nvrtc {
    /// Loads the library at a path or of a name that the system's loader knows, after `before`, which it would look
    /// for by name where that need not lie.
    ///
    /// # Errors
    /// The loader's reason; a function is missing.
    pub(crate) fn load(library_path: &Path, before: &[PathBuf]) -> Result<Self, String> {
        let open = |path: &Path| {
            // SAFETY: NVRTC's libraries run nothing but their own initialisation when they are loaded.
            unsafe { Library::new(path) }.map_err(|error| reason(path, &error))
        };
        // One that does not load is one that is not needed, or NVRTC names it when it compiles.
        let mut libraries: Vec<Library> = before.iter().filter_map(|path| open(path).ok()).collect();
        let library = open(library_path)?;
        macro_rules! function {
            // SAFETY: each field has the type of its function in nvrtc.h, which has not changed since CUDA 11.1.
            ($name:literal) => {
                *unsafe { library.get($name) }.map_err(|error| error.to_string())?
            };
        }
        let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Code = function!("nvrtcVersion");
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both are written.
        if unsafe { version(&mut major, &mut minor) } != 0 {
            return Err("does not tell its version".to_owned());
        }
        let mut nvrtc = Nvrtc {
            version: (u32::try_from(major).unwrap_or(0), u32::try_from(minor).unwrap_or(0)),
            create: function!("nvrtcCreateProgram"),
            compile: function!("nvrtcCompileProgram"),
            log_size: function!("nvrtcGetProgramLogSize"),
            log: function!("nvrtcGetProgramLog"),
            cubin_size: function!("nvrtcGetCUBINSize"),
            cubin: function!("nvrtcGetCUBIN"),
            destroy: function!("nvrtcDestroyProgram"),
            count_architectures: function!("nvrtcGetNumSupportedArchs"),
            list_architectures: function!("nvrtcGetSupportedArchs"),
            describe: function!("nvrtcGetErrorString"),
            _libraries: ManuallyDrop::new(Vec::new()),
        };
        libraries.push(library);
        nvrtc._libraries = ManuallyDrop::new(libraries);
        Ok(nvrtc)
    }

    /// Major and minor version.
    pub(crate) fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Compute capabilities that it compiles for, 10 x major + minor.
    ///
    /// # Errors
    /// NVRTC's description of a failure.
    pub(crate) fn architectures(&self) -> Result<Vec<u32>> {
        let operation = || "list architectures".to_owned();
        let mut count = 0;
        // SAFETY: `count` is written.
        self.check(unsafe { (self.count_architectures)(&mut count) }, operation)?;
        let mut found = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: as many numbers are written as the other function told.
        self.check(unsafe { (self.list_architectures)(found.as_mut_ptr()) }, operation)?;
        Ok(found.into_iter().filter_map(|capability| u32::try_from(capability).ok()).collect())
    }

    /// Compiles `text`, called `name` in messages, which may include `headers` (name and text); the cubin.
    ///
    /// # Errors
    /// The compiler's log; NVRTC's description of another failure.
    pub(crate) fn compile(
        &self,
        name: &str,
        text: &str,
        headers: &[(&str, &str)],
        options: &[String],
    ) -> Result<Vec<u8>> {
        let operation = || format!("compile {name} ({})", options.join(" "));
        let c_string = |text: &str| {
            CString::new(text)
                .map_err(|_| Error::refused(operation(), "a zero byte in a source, name or option"))
        };
        let c_strings = |texts: Vec<&str>| texts.into_iter().map(c_string).collect::<Result<Vec<_>>>();
        let (c_name, c_text) = (c_string(name)?, c_string(text)?);
        let header_names = c_strings(headers.iter().map(|header| header.0).collect())?;
        let header_texts = c_strings(headers.iter().map(|header| header.1).collect())?;
        let options_text = c_strings(options.iter().map(String::as_str).collect())?;
        let (names, texts) = (addresses(&header_names), addresses(&header_texts));
        let option_addresses = addresses(&options_text);

        let mut handle = std::ptr::null_mut();
        let count = headers.len() as c_int;
        // SAFETY: every string ends in a zero and lives over the call; the two lists have `count` entries.
        let code = unsafe {
            let (text, name) = (c_text.as_ptr(), c_name.as_ptr());
            (self.create)(&mut handle, text, name, count, texts.as_ptr(), names.as_ptr())
        };
        self.check(code, operation)?;
        let program = Handle { nvrtc: self, handle };
        // SAFETY: the program was created; the list and its strings live over the call.
        let code = unsafe { (self.compile)(handle, options.len() as c_int, option_addresses.as_ptr()) };
        if code != 0 {
            let log = program.content(self.log_size, self.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let log = log.trim_end_matches('\0').trim_end();
            return Err(Error::failed(operation(), format!("{}\n{log}", self.description(code))));
        }
        program.content(self.cubin_size, self.cubin).or_else(|code| {
            self.check(code, operation)?;
            Ok(Vec::new())
        })
    }

    fn check(&self, code: Code, operation: impl Fn() -> String) -> Result<()> {
        if code == 0 { Ok(()) } else { Err(Error::failed(operation(), self.description(code))) }
    }

    fn description(&self, code: Code) -> String {
        // SAFETY: a static string for every code, known or not.
        let text = unsafe { (self.describe)(code) };
        if text.is_null() {
            return format!("NVRTC error {code}");
        }
        // SAFETY: not null; the string is static and ends in a zero.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}

/// A program, destroyed when dropped.
struct Handle<'a> {
    nvrtc: &'a Nvrtc,
    handle: Program,
}

impl Handle<'_> {
    /// The bytes that one function tells the number of and another writes.
    fn content(&self, size: Size, content: Content) -> Result<Vec<u8>, Code> {
        let mut bytes = 0;
        // SAFETY: the program is alive and `bytes` is written.
        let code = unsafe { size(self.handle, &mut bytes) };
        if code != 0 {
            return Err(code);
        }
        let mut out = vec![0u8; bytes];
        // SAFETY: as many bytes are written as the other function told.
        let code = unsafe { content(self.handle, out.as_mut_ptr().cast()) };
        if code == 0 { Ok(out) } else { Err(code) }
    }
}

impl Drop for Handle<'_> {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once. A failure leaves nothing to be done.
        let _ = unsafe { (self.nvrtc.destroy)(&mut self.handle) };
    }
}

/// The loader's words, which stand behind the error's own, without the path they begin with.
fn reason(path: &Path, error: &libloading::Error) -> String {
    let text =
        std::error::Error::source(error).map_or_else(|| error.to_string(), |source| source.to_string());
    let path = format!("{}: ", path.display());
    text.strip_prefix(&path).unwrap_or(&text).to_owned()
}

fn addresses(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).collect()
}
