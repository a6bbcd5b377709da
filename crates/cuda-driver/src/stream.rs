//! Queues of asynchronous work: copies, kernels, recorded graphs.

use super::error::{check, check_range};
use super::memory::PinnedMemory;
use super::{Buffer, Device, DevicePtr, Error, Event, Graph, Kernel, Params, Pinned, Result};
use cudarc::driver::sys;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard};

/// The first compute capability with clusters and programmatic launches.
const HOPPER: (u32, u32) = (9, 0);

/// How a kernel is spread over the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, along x.
    pub block: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared_bytes: u32,
    /// Blocks along z that form a cluster; 1 is none. More needs compute capability 9.0 and divides the grid's z.
    pub cluster: u32,
    /// Whether the kernel may start before the kernel ahead of it in the stream has ended; it waits for that one's
    /// results itself (`griddepcontrol.wait`). Below compute capability 9.0 kernels run one after the other.
    pub programmatic: bool,
    /// Whether blocks wait for each other over the whole grid: a launch whose blocks cannot all run at the same time is
    /// refused by the driver.
    pub cooperative: bool,
}

/// A queue of work of a device: what is put in runs in order.
#[derive(Debug)]
pub struct Stream {
    device: Device,
    handle: sys::CUstream,
    /// Page-locked memory used by what is being recorded; none while nothing is.
    recording: Mutex<Option<Vec<Arc<PinnedMemory>>>>,
}

// SAFETY: a stream may be used from any thread on which its context is current.
unsafe impl Send for Stream {}
// SAFETY: as above; the driver orders calls from several threads.
unsafe impl Sync for Stream {}

impl Stream {
    /// See [`Device::stream`].
    pub(super) fn new(device: &Device) -> Result<Self> {
        device.enter()?;
        let mut handle = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: `handle` is written; the stream is destroyed in `drop`.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut handle, flags) })?;
        Ok(Stream { device: device.clone(), handle, recording: Mutex::new(None) })
    }

    /// Queues a kernel with `params` as its one argument. The argument is copied; the memory it points to must
    /// stay allocated until the kernel has run.
    ///
    /// # Errors
    /// An empty grid or block, a cluster that does not fit, more shared memory than the kernel was loaded for,
    /// arguments of another size than the kernel's; CUDA's.
    pub fn launch<P: Params>(&self, kernel: &Kernel, launch: &Launch, params: &P) -> Result<()> {
        let capability = self.device.properties().compute_capability;
        let refuse = |what: String| Err(Error::refused(format!("launch {}", kernel.name()), what));
        let Launch { grid, block, shared_bytes, cluster, .. } = *launch;
        if grid.contains(&0) || block == 0 {
            return refuse(format!(
                "expected blocks and threads, found a grid of {grid:?} and a block of {block}"
            ));
        }
        if shared_bytes as usize > kernel.dynamic_shared_bytes() {
            let most = kernel.dynamic_shared_bytes();
            return refuse(format!("loaded for {most} bytes of shared memory, launched with {shared_bytes}"));
        }
        if cluster == 0 || !grid[2].is_multiple_of(cluster) {
            return refuse(format!(
                "expected a cluster that divides the grid's z, found {cluster} in {grid:?}"
            ));
        }
        if cluster > 1 && capability < HOPPER {
            let (major, minor) = capability;
            return refuse(format!("clusters need compute capability 9.0, this device has {major}.{minor}"));
        }
        kernel.check_arguments(size_of::<P>())?;
        self.device.enter()?;

        let mut attributes = attributes_of(launch, capability);
        let config = self.config(launch, &mut attributes);
        let mut arguments = [std::ptr::from_ref(params).cast::<c_void>().cast_mut()];
        // SAFETY: the configuration and its attributes live over the call. The driver reads as many bytes of the
        // one argument as the kernel's struct has, which is `P` by the contract of `Params`, and copies them.
        let result = unsafe {
            sys::cuLaunchKernelEx(&config, kernel.function(), arguments.as_mut_ptr(), std::ptr::null_mut())
        };
        if result != sys::CUresult::CUDA_SUCCESS {
            check(&format!("launch {} with {launch:?}", kernel.name()), result)?;
        }
        Ok(())
    }

    /// How many clusters of a kernel can run at the same time where nothing else does.
    ///
    /// # Errors
    /// CUDA's, such as a cluster that no multiprocessors can hold.
    pub fn clusters_at_a_time(&self, kernel: &Kernel, launch: &Launch) -> Result<usize> {
        self.device.enter()?;
        // The grid's size has no part in it.
        let launch = Launch { programmatic: false, cooperative: false, ..*launch };
        let mut attributes = attributes_of(&launch, self.device.properties().compute_capability);
        let config = self.config(&launch, &mut attributes);
        let mut clusters = 0;
        // SAFETY: `clusters` is written; the configuration and its attributes live over the call.
        let result = unsafe { sys::cuOccupancyMaxActiveClusters(&mut clusters, kernel.function(), &config) };
        check("cuOccupancyMaxActiveClusters", result)?;
        Ok(usize::try_from(clusters).unwrap_or(0))
    }

    /// A launch as the driver takes it. It points to the attributes.
    fn config(&self, launch: &Launch, attributes: &mut [sys::CUlaunchAttribute]) -> sys::CUlaunchConfig {
        sys::CUlaunchConfig {
            gridDimX: launch.grid[0],
            gridDimY: launch.grid[1],
            gridDimZ: launch.grid[2],
            blockDimX: launch.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes,
            hStream: self.handle,
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        }
    }

    /// Queues a copy to the device. A recorded graph copies what the memory holds when it is replayed.
    ///
    /// # Errors
    /// The bytes do not lie in one of the two; CUDA's.
    pub fn upload(
        &self,
        from: &Pinned,
        from_offset: usize,
        to: &Buffer,
        to_offset: usize,
        bytes: usize,
    ) -> Result<()> {
        check_range("upload from page-locked memory", from_offset, bytes, from.len())?;
        check_range("upload to the device", to_offset, bytes, to.len())?;
        self.device.enter()?;
        self.keep(from);
        let (to, from) = (to.at(to_offset).0, from.memory().at(from_offset));
        // SAFETY: both ranges lie in their memory. The host's is freed only after the device's work, and is kept
        // by a graph that records this.
        check("cuMemcpyHtoDAsync", unsafe { sys::cuMemcpyHtoDAsync_v2(to, from, bytes, self.handle) })
    }

    /// Queues a copy from the device. Read `to` after [`Stream::synchronize`].
    ///
    /// # Errors
    /// The bytes do not lie in one of the two; CUDA's.
    pub fn download(
        &self,
        from: &Buffer,
        from_offset: usize,
        to: &mut Pinned,
        to_offset: usize,
        bytes: usize,
    ) -> Result<()> {
        check_range("download from the device", from_offset, bytes, from.len())?;
        check_range("download to page-locked memory", to_offset, bytes, to.len())?;
        self.device.enter()?;
        self.keep(to);
        let (to, from) = (to.memory().at(to_offset), from.at(from_offset).0);
        // SAFETY: as in `upload`.
        check("cuMemcpyDtoHAsync", unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, bytes, self.handle) })
    }

    /// Queues a copy inside device memory. The ranges must not overlap; addresses are not checked.
    ///
    /// # Errors
    /// CUDA's.
    pub fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        self.device.enter()?;
        // SAFETY: device addresses; a wrong one is an error of CUDA's or damages device memory alone.
        check("cuMemcpyDtoDAsync", unsafe { sys::cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, self.handle) })
    }

    /// Waits until everything in the queue has run.
    ///
    /// # Errors
    /// What failed in the queue.
    pub fn synchronize(&self) -> Result<()> {
        self.device.enter()?;
        // SAFETY: the stream is alive.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.handle) })
    }

    /// Records what `record` puts in this stream, without running it. Allocating, synchronous copies and waiting
    /// are refused meanwhile.
    ///
    /// The graph has the addresses of buffers, not the buffers: these must live as long as it is replayed.
    ///
    /// # Errors
    /// `record`'s; CUDA's.
    pub fn capture<E: From<Error>>(&self, record: &mut dyn FnMut() -> Result<(), E>) -> Result<Graph, E> {
        self.device.enter()?;
        // Only this thread's calls are refused: others may go on with their own streams.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive.
        check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(self.handle, mode) })?;
        *self.recording() = Some(Vec::new());
        let capture = Capture(self);
        let recorded = record();
        let ended = capture.end();
        let pinned = self.recording().take().unwrap_or_default();
        recorded?;
        let (result, graph) = ended;
        check("cuStreamEndCapture", result)?;
        Ok(Graph::instantiate(&self.device, graph, pinned)?)
    }

    /// Queues a recorded graph.
    ///
    /// # Errors
    /// CUDA's.
    pub fn replay(&self, graph: &Graph) -> Result<()> {
        self.device.enter()?;
        // SAFETY: both are alive; the driver keeps a graph that is under way.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(graph.handle(), self.handle) })
    }

    /// Puts a mark in the queue.
    ///
    /// # Errors
    /// CUDA's.
    pub fn record(&self, event: &Event) -> Result<()> {
        self.device.enter()?;
        // SAFETY: both are alive.
        check("cuEventRecord", unsafe { sys::cuEventRecord(event.handle(), self.handle) })
    }

    /// While a graph is recorded, it keeps the memory that it copies from or to.
    fn keep(&self, pinned: &Pinned) {
        if let Some(kept) = &mut *self.recording() {
            kept.push(pinned.memory().clone());
        }
    }

    /// The driver's handle (`CUstream`, `cudaStream_t`), for libraries that queue work of their own. It lives as long
    /// as the stream.
    pub fn raw(&self) -> *mut c_void {
        self.handle.cast()
    }

    fn recording(&self) -> MutexGuard<'_, Option<Vec<Arc<PinnedMemory>>>> {
        // Each change is one assignment or push: a panic elsewhere leaves it whole.
        self.recording.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What a launch asks for beyond its grid.
fn attributes_of(launch: &Launch, capability: (u32, u32)) -> Vec<sys::CUlaunchAttribute> {
    let mut attributes = Vec::with_capacity(3);
    if launch.cluster > 1 {
        let size = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: 1, y: 1, z: launch.cluster };
        let which = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        attributes.push(attribute(which, |value| value.clusterDim = size));
    }
    if launch.programmatic && capability >= HOPPER {
        let which = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attributes.push(attribute(which, |value| value.programmaticStreamSerializationAllowed = 1));
    }
    if launch.cooperative {
        let which = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
        attributes.push(attribute(which, |value| value.cooperative = 1));
    }
    attributes
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: created in `new`, destroyed once; work in it still runs to its end.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.handle) };
        }
    }
}

/// An attribute with its value, the rest of which is zero.
fn attribute(
    which: sys::CUlaunchAttributeID,
    set: impl FnOnce(&mut sys::CUlaunchAttributeValue),
) -> sys::CUlaunchAttribute {
    let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
    set(&mut value);
    sys::CUlaunchAttribute { id: which, pad: [0; 4], value }
}

/// Ends a capture also where recording panics.
struct Capture<'a>(&'a Stream);

impl Capture<'_> {
    fn end(self) -> (sys::CUresult, sys::CUgraph) {
        let ended = self.finish();
        std::mem::forget(self);
        ended
    }

    fn finish(&self) -> (sys::CUresult, sys::CUgraph) {
        let mut graph = std::ptr::null_mut();
        // SAFETY: `graph` is written; null where recording was refused.
        let result = unsafe { sys::cuStreamEndCapture(self.0.handle, &mut graph) };
        (result, graph)
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        let (_, graph) = self.finish();
        super::graph::destroy(graph);
        self.0.recording().take();
    }
}
