//! Opens a device and says what it is.

use super::error::check;
use super::{Buffer, Error, Event, Module, Pinned, Result, Stream};
use cudarc::driver::sys;
use std::ffi::{CStr, c_int};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The oldest driver interface used: clusters and programmatic launches came with it.
const OLDEST_DRIVER: u32 = 12000;
/// The oldest compute capability the kernels are written for: bf16 matrix instructions and asynchronous copies.
const OLDEST_CAPABILITY: (u32, u32) = (8, 0);

/// Where a planned buffer may begin, as the driver's allocations.
const PLANNED_ALIGN: u64 = 256;

/// A GPU with its primary context. Clones share it; it is released with the last of them and of what was
/// allocated, loaded or created from it.
#[derive(Debug, Clone)]
pub struct Device(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// None of a device that is only planned for.
    gpu: Option<Gpu>,
    properties: Properties,
    allocated: AtomicUsize,
    /// Where the next buffer of a planned device begins.
    next_address: AtomicU64,
}

/// The driver's handles.
#[derive(Debug)]
struct Gpu {
    handle: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: a context may be current on many threads at once, and the driver's calls are thread-safe.
unsafe impl Send for Gpu {}
// SAFETY: as above; it is never written after `open`.
unsafe impl Sync for Gpu {}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// The product's name, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Major and minor compute capability: `(9, 0)` is sm_90.
    pub compute_capability: (u32, u32),
    /// Number of streaming multiprocessors.
    pub multiprocessors: u32,
    /// Device memory, bytes.
    pub total_memory: usize,
    /// Level-2 cache, bytes.
    pub l2_bytes: usize,
    /// The newest CUDA version the driver speaks, 1000 x major + 10 x minor: 13000 is 13.0.
    pub driver_version: u32,
    /// Shared memory that one block can have when a kernel asks for more than the usual 48 KiB, bytes.
    pub shared_memory_per_block: usize,
}

impl Device {
    /// Opens the device with this number, counted from 0 in the driver's order.
    ///
    /// # Errors
    /// No driver library, a driver older than CUDA 12.0, no GPU, no GPU of this number, or one of a compute
    /// capability below 8.0.
    pub fn open(ordinal: usize) -> Result<Self> {
        let driver_version = load()?;
        let count = device_count()?;
        let number = c_int::try_from(ordinal).ok().filter(|number| *number < count).ok_or_else(|| {
            let found = if count == 0 { "no GPU".to_owned() } else { format!("GPUs 0 to {}", count - 1) };
            Error::unavailable("open device", format!("expected GPU {ordinal}, found {found}"))
        })?;
        let handle = handle(number)?;
        let properties = properties(handle, driver_version)?;
        if properties.compute_capability < OLDEST_CAPABILITY {
            let ((major, minor), (need_major, need_minor)) =
                (properties.compute_capability, OLDEST_CAPABILITY);
            let name = &properties.name;
            let what = format!(
                "expected compute capability {need_major}.{need_minor} or higher, found {name} with {major}.{minor}"
            );
            return Err(Error::unavailable("open device", what));
        }
        let mut context = std::ptr::null_mut();
        // SAFETY: `handle` is a device; the release is in `Shared`'s drop.
        check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, handle) })?;
        let device = Device::new(Some(Gpu { handle, context }), properties);
        device.enter()?;
        Ok(device)
    }

    /// A device that is not there, for planning what would run on one: buffers have addresses and no memory, what is
    /// uploaded is dropped, and everything that needs the driver is refused.
    pub fn planned(properties: Properties) -> Self {
        Device::new(None, properties)
    }

    fn new(gpu: Option<Gpu>, properties: Properties) -> Self {
        let (allocated, next_address) = (AtomicUsize::new(0), AtomicU64::new(PLANNED_ALIGN));
        Device(Arc::new(Shared { gpu, properties, allocated, next_address }))
    }

    /// Whether it is only planned for.
    pub(crate) fn is_planned(&self) -> bool {
        self.0.gpu.is_none()
    }

    /// An address for a planned buffer.
    pub(crate) fn planned_address(&self, bytes: usize) -> u64 {
        self.0.next_address.fetch_add((bytes as u64).next_multiple_of(PLANNED_ALIGN), Ordering::Relaxed)
    }

    /// What the device is.
    pub fn properties(&self) -> &Properties {
        &self.0.properties
    }

    /// Bytes of device memory that no process holds.
    ///
    /// # Errors
    /// CUDA's.
    pub fn free_memory(&self) -> Result<usize> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are written, and the context is current.
        check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
        Ok(free)
    }

    /// Fails early where `what` (such as `the weights in bf16`) needs more device memory than is free.
    ///
    /// # Errors
    /// Fewer than `bytes` are free, with both numbers; CUDA's.
    pub fn require(&self, bytes: usize, what: &str) -> Result<()> {
        let free = self.free_memory()?;
        if bytes <= free {
            return Ok(());
        }
        let Properties { name, total_memory, .. } = self.properties();
        let (bytes, free, total) = (gib(bytes), gib(free), gib(*total_memory));
        let what = format!("{what} needs {bytes} GiB, {name} has {free} GiB free of {total} GiB");
        Err(Error::unavailable("device memory", what))
    }

    /// Device memory filled with zeros. Zero bytes give a buffer of length 0 with an address of its own.
    ///
    /// # Errors
    /// Out of memory; CUDA's.
    pub fn alloc_zeroed(&self, bytes: usize) -> Result<Buffer> {
        Buffer::zeroed(self, bytes)
    }

    /// Bytes in buffers that are alive.
    pub fn allocated_bytes(&self) -> usize {
        self.0.allocated.load(Ordering::Relaxed)
    }

    /// Page-locked host memory filled with zeros, for copies that run beside the host.
    ///
    /// # Errors
    /// Out of memory; CUDA's.
    pub fn alloc_pinned(&self, bytes: usize) -> Result<Pinned> {
        Pinned::zeroed(self, bytes)
    }

    /// A queue of work that does not wait for the default stream.
    ///
    /// # Errors
    /// CUDA's.
    pub fn stream(&self) -> Result<Stream> {
        Stream::new(self)
    }

    /// A mark in a stream that also keeps time.
    ///
    /// # Errors
    /// CUDA's.
    pub fn event(&self) -> Result<Event> {
        Event::new(self)
    }

    /// Loads compiled kernels: the cubin of [`Compiler`](crate::compile::Compiler).
    ///
    /// # Errors
    /// The cubin is for another architecture or damaged; CUDA's.
    pub fn load_module(&self, cubin: &[u8]) -> Result<Module> {
        Module::load(self, cubin)
    }

    /// Makes the context current on this thread. Every call of the driver is preceded by it.
    pub(super) fn enter(&self) -> Result<()> {
        let Some(gpu) = &self.0.gpu else {
            let what = format!("expected a GPU, found a plan for {}", self.0.properties.name);
            return Err(Error::unavailable("use device", what));
        };
        // SAFETY: the context is retained as long as `Shared` lives.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(gpu.context) })
    }

    /// Counts device memory that was allocated.
    pub(super) fn count_allocated(&self, bytes: usize) {
        self.0.allocated.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts device memory that was freed.
    pub(super) fn count_freed(&self, bytes: usize) {
        self.0.allocated.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: balances the retain in `open`. A failure here leaves nothing to be done.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.handle) };
    }
}

/// What the driver of this machine shows, whether or not the engine runs on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// As [`Properties::driver_version`].
    pub driver_version: u32,
    /// The GPUs in the driver's order, older ones too.
    pub devices: Vec<Properties>,
}

/// Asks the driver what there is; no GPU is opened.
///
/// # Errors
/// No driver library, a driver older than CUDA 12.0, CUDA's; no GPU is no error.
pub fn survey() -> Result<Survey> {
    let driver_version = load()?;
    let one = |number| properties(handle(number)?, driver_version);
    let devices = (0..device_count()?).map(one).collect::<Result<_>>()?;
    Ok(Survey { driver_version, devices })
}

/// Loads and initialises the driver; the CUDA version it speaks.
fn load() -> Result<u32> {
    // SAFETY: looks for the library only; cudarc's other functions panic where there is none.
    if !unsafe { sys::is_culib_present() } {
        let what = "expected the NVIDIA driver's library (libcuda.so, libcuda.so.1), found none; is the driver installed?";
        return Err(Error::unavailable("open device", what));
    }
    let mut version = 0;
    // SAFETY: `version` is written. Every version of the driver has this function.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
    let version = u32::try_from(version).unwrap_or(0);
    if version < OLDEST_DRIVER {
        let name = |version: u32| format!("{}.{}", version / 1000, version % 1000 / 10);
        let (expected, found) = (name(OLDEST_DRIVER), name(version));
        let what = format!("expected a driver for CUDA {expected} or newer, found one for CUDA {found}");
        return Err(Error::unavailable("open device", what));
    }
    Ok(version)
}

/// Initialises the driver; how many GPUs it shows to this process.
fn device_count() -> Result<c_int> {
    // SAFETY: takes no pointers.
    match unsafe { sys::cuInit(0) } {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => return Ok(0),
        result => check("cuInit", result)?,
    }
    let mut count = 0;
    // SAFETY: `count` is written.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    Ok(count)
}

/// The device of a number below the count.
fn handle(number: c_int) -> Result<sys::CUdevice> {
    let mut handle = 0;
    // SAFETY: `handle` is written; a number that no device has is an error.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut handle, number) })?;
    Ok(handle)
}

fn properties(handle: sys::CUdevice, driver_version: u32) -> Result<Properties> {
    use sys::CUdevice_attribute as Attribute;
    let attribute = |which: Attribute| {
        let mut value = 0;
        // SAFETY: `value` is written.
        check("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&mut value, which, handle) })?;
        u32::try_from(value).map_err(|_| {
            Error::failed("cuDeviceGetAttribute", format!("{which:?} is {value}, expected 0 or more"))
        })
    };
    let mut name = [0u8; 256];
    // SAFETY: the driver writes at most 256 bytes, the last of them a zero.
    check("cuDeviceGetName", unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), 256, handle) })?;
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned();
    let mut total_memory = 0;
    // SAFETY: `total_memory` is written.
    check("cuDeviceTotalMem", unsafe { sys::cuDeviceTotalMem_v2(&mut total_memory, handle) })?;
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
    Ok(Properties {
        name,
        compute_capability: (major, minor),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        total_memory,
        l2_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
        driver_version,
        shared_memory_per_block: shared as usize,
    })
}

fn gib(bytes: usize) -> String {
    format!("{:.2}", bytes as f64 / (1u64 << 30) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_driver_or_device_is_named() {
        let message = match Device::open(4096) {
            Ok(device) => panic!("GPU 4096 is there: {:?}", device.properties()),
            Err(error) => error.to_string(),
        };
        let reasons = ["libcuda.so.1", "expected GPU 4096", "CUDA_ERROR", "expected a driver for CUDA"];
        assert!(reasons.iter().any(|reason| message.contains(reason)), "{message}");
    }

    #[test]
    fn a_survey_finds_what_can_be_opened() {
        match survey() {
            Ok(found) => {
                assert!(found.driver_version >= OLDEST_DRIVER, "{found:?}");
                let opened = Device::open(found.devices.len()).expect_err("one more than there are");
                assert!(opened.to_string().contains("expected GPU"), "{opened}");
            }
            Err(error) => assert!(Device::open(0).is_err(), "{error}"),
        }
    }

    #[test]
    fn a_planned_device_has_addresses_and_nothing_else() {
        let properties = Properties {
            name: "planned".to_owned(),
            compute_capability: (8, 0),
            multiprocessors: 1,
            total_memory: 0,
            l2_bytes: 0,
            driver_version: OLDEST_DRIVER,
            shared_memory_per_block: 0,
        };
        let device = Device::planned(properties);
        let (first, second) = (device.alloc_zeroed(300).unwrap(), device.alloc_zeroed(0).unwrap());
        assert!(first.at(0).0 > 0 && second.at(0).0 >= first.at(300).0);
        assert_eq!(device.allocated_bytes(), 300);
        first.upload(0, &[1; 300]).unwrap();
        assert!(first.upload(1, &[1; 300]).is_err(), "beyond the end");
        for refused in [first.download(0, &mut [0; 300]).err(), device.stream().err(), device.event().err()] {
            assert!(refused.is_some_and(|error| error.to_string().contains("a plan for planned")));
        }
    }

    #[test]
    fn sizes_are_in_gib() {
        assert_eq!(gib(3 << 29), "1.50");
    }
}
