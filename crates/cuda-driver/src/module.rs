//! Compiled kernels and their arguments.

use super::elf::is_whole;
use super::error::check;
use super::{Device, Error, Result};
use cudarc::driver::sys;
use std::ffi::{CString, c_int};
use std::sync::Arc;

/// The first driver that tells the size of a kernel's arguments.
const TELLS_ARGUMENTS: u32 = 12040;

/// Kernels loaded from one cubin. Its kernels keep it loaded.
#[derive(Debug, Clone)]
pub struct Module(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    device: Device,
    handle: sys::CUmodule,
}

// SAFETY: a module may be used from any thread on which its context is current.
unsafe impl Send for Loaded {}
// SAFETY: it is never written after it was loaded.
unsafe impl Sync for Loaded {}

impl Module {
    /// See [`Device::load_module`].
    pub(super) fn load(device: &Device, cubin: &[u8]) -> Result<Self> {
        // The driver is told no length: it reads as far as the file's own headers say.
        if !is_whole(cubin) {
            let what = format!("expected a cubin, a whole ELF file, found {} other bytes", cubin.len());
            return Err(Error::refused("load module", what));
        }
        device.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: what the file's headers point to lies in `cubin`; the driver copies it.
        check("cuModuleLoadData", unsafe { sys::cuModuleLoadData(&mut handle, cubin.as_ptr().cast()) })?;
        Ok(Module(Arc::new(Loaded { device: device.clone(), handle })))
    }

    /// The kernel of this name, allowed to be launched with `dynamic_shared_bytes`.
    ///
    /// # Errors
    /// No kernel of this name; more shared memory than a block can have; CUDA's.
    pub fn kernel(&self, name: &str, dynamic_shared_bytes: usize) -> Result<Kernel> {
        let device = &self.0.device;
        device.enter()?;
        let operation = format!("kernel {name}");
        let most = device.properties().shared_memory_per_block;
        let shared = c_int::try_from(dynamic_shared_bytes).ok().filter(|_| dynamic_shared_bytes <= most);
        let shared = shared.ok_or_else(|| {
            let gpu = &device.properties().name;
            let what =
                format!("needs {dynamic_shared_bytes} bytes of shared memory, {gpu} gives a block {most}");
            Error::refused(&operation, what)
        })?;
        let c_name = CString::new(name).map_err(|_| Error::refused(&operation, "a zero byte in the name"))?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module is loaded and the name ends in a zero.
        check(&operation, unsafe {
            sys::cuModuleGetFunction(&mut function, self.0.handle, c_name.as_ptr())
        })?;
        let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let mut allowed = 0;
        // SAFETY: `allowed` is written; the function is of the current context.
        check(&operation, unsafe { sys::cuFuncGetAttribute(&mut allowed, which, function) })?;
        // Raised only: the same kernel may have been asked for with more.
        if shared > allowed {
            // SAFETY: as above.
            check(&operation, unsafe { sys::cuFuncSetAttribute(function, which, shared) })?;
        }
        let argument_bytes = match device.properties().driver_version >= TELLS_ARGUMENTS {
            true => Some(argument_bytes(&operation, function)?),
            false => None,
        };
        let name = name.into();
        Ok(Kernel { module: self.0.clone(), function, name, dynamic_shared_bytes, argument_bytes })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: loaded in `load`, unloaded once, and its kernels hold it. A failure is that of earlier work.
            let _ = unsafe { sys::cuModuleUnload(self.handle) };
        }
    }
}

/// A kernel of a [`Module`]. Clones are the same kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    module: Arc<Loaded>,
    function: sys::CUfunction,
    name: Arc<str>,
    dynamic_shared_bytes: usize,
    argument_bytes: Option<usize>,
}

// SAFETY: as `Loaded`, whose part the function is.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// The name of its entry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Dynamic shared memory it was loaded for, bytes.
    pub fn dynamic_shared_bytes(&self) -> usize {
        self.dynamic_shared_bytes
    }

    /// Registers of a thread.
    ///
    /// # Errors
    /// CUDA's.
    pub fn registers(&self) -> Result<u32> {
        self.attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)
    }

    /// Local memory of a thread, bytes: registers that spilled, and arrays indexed at run time.
    ///
    /// # Errors
    /// CUDA's.
    pub fn local_bytes(&self) -> Result<u32> {
        self.attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)
    }

    fn attribute(&self, which: sys::CUfunction_attribute) -> Result<u32> {
        self.module.device.enter()?;
        let mut value = 0;
        // SAFETY: `value` is written; the function's module is loaded.
        check("cuFuncGetAttribute", unsafe { sys::cuFuncGetAttribute(&mut value, which, self.function) })?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// The driver's handle.
    pub(super) fn function(&self) -> sys::CUfunction {
        self.function
    }

    /// An error where `bytes` of arguments are not what the kernel takes, if the driver tells.
    pub(super) fn check_arguments(&self, bytes: usize) -> Result<()> {
        match self.argument_bytes {
            Some(expected) if expected != bytes => {
                let what = format!("takes a struct of {expected} bytes, was given one of {bytes}");
                Err(Error::refused(format!("launch {}", self.name), what))
            }
            _ => Ok(()),
        }
    }
}

/// The size of a kernel's first argument.
fn argument_bytes(operation: &str, function: sys::CUfunction) -> Result<usize> {
    let (mut offset, mut size) = (0, 0);
    // SAFETY: both are written; a kernel without arguments is refused.
    check(operation, unsafe { sys::cuFuncGetParamInfo(function, 0, &mut offset, &mut size) })?;
    Ok(size)
}
