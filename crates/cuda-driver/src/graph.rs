//! Recorded work, and marks that keep time.

use super::error::check;
use super::memory::PinnedMemory;
use super::{Device, Error, Result};
use cudarc::driver::sys;
use std::sync::Arc;

/// Recorded work of a stream, ready to be replayed. It keeps the page-locked memory that it copies from or to.
#[derive(Debug)]
pub struct Graph {
    device: Device,
    handle: sys::CUgraphExec,
    nodes: usize,
    _pinned: Vec<Arc<PinnedMemory>>,
}

// SAFETY: an executable graph may move between threads; it is not used by two at once, as it is not `Sync`.
unsafe impl Send for Graph {}

impl Graph {
    /// Makes a captured graph executable, and frees the captured one.
    pub(super) fn instantiate(
        device: &Device,
        graph: sys::CUgraph,
        pinned: Vec<Arc<PinnedMemory>>,
    ) -> Result<Self> {
        let instantiated = instantiate(graph);
        destroy(graph);
        let (handle, nodes) = instantiated?;
        Ok(Graph { device: device.clone(), handle, nodes, _pinned: pinned })
    }

    /// Number of recorded kernels, copies and memory fills.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// The driver's handle.
    pub(super) fn handle(&self) -> sys::CUgraphExec {
        self.handle
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: instantiated once, destroyed once; a replay under way runs to its end.
            let _ = unsafe { sys::cuGraphExecDestroy(self.handle) };
        }
    }
}

fn instantiate(graph: sys::CUgraph) -> Result<(sys::CUgraphExec, usize)> {
    if graph.is_null() {
        return Err(Error::failed("capture", "the driver returned no graph"));
    }
    let mut nodes = 0;
    // SAFETY: without a place for the nodes, their number is written.
    check("cuGraphGetNodes", unsafe { sys::cuGraphGetNodes(graph, std::ptr::null_mut(), &mut nodes) })?;
    let mut handle = std::ptr::null_mut();
    // SAFETY: `graph` is alive and `handle` is written.
    check("cuGraphInstantiate", unsafe { sys::cuGraphInstantiateWithFlags(&mut handle, graph, 0) })?;
    Ok((handle, nodes))
}

/// Frees a captured graph, if there is one.
pub(super) fn destroy(graph: sys::CUgraph) {
    if !graph.is_null() {
        // SAFETY: the caller owns it and does not use it again. A failure leaves nothing to be done.
        let _ = unsafe { sys::cuGraphDestroy(graph) };
    }
}

/// A mark in a stream, with the time at which it was reached.
#[derive(Debug)]
pub struct Event {
    device: Device,
    handle: sys::CUevent,
}

// SAFETY: an event may be used from any thread on which its context is current.
unsafe impl Send for Event {}
// SAFETY: as above; the driver orders calls from several threads.
unsafe impl Sync for Event {}

impl Event {
    /// See [`Device::event`].
    pub(super) fn new(device: &Device) -> Result<Self> {
        device.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` is written; the event is destroyed in `drop`.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut handle, 0) })?;
        Ok(Event { device: device.clone(), handle })
    }

    /// Waits until the mark is reached; returns at once where it was never put in a stream.
    ///
    /// # Errors
    /// What failed before the mark.
    pub fn synchronize(&self) -> Result<()> {
        self.device.enter()?;
        // SAFETY: the event is alive.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.handle) })
    }

    /// Milliseconds from `start` to this mark, to half a microsecond. Both must have been reached.
    ///
    /// # Errors
    /// One was not reached yet or never put in a stream; CUDA's.
    pub fn milliseconds_since(&self, start: &Event) -> Result<f32> {
        type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
        self.device.enter()?;
        // The bindings have the second version alone, which drivers before CUDA 12.8 lack.
        // SAFETY: the library is loaded, since a device is open; both versions have this type.
        let find = |name: &str| unsafe { sys::culib().get::<Elapsed>(name) };
        let elapsed = find("cuEventElapsedTime_v2").or_else(|_| find("cuEventElapsedTime"));
        let elapsed = elapsed.map_err(|error| Error::failed("cuEventElapsedTime", error.to_string()))?;
        let mut milliseconds = 0.0;
        // SAFETY: `milliseconds` is written; both events are alive.
        check("cuEventElapsedTime", unsafe { elapsed(&mut milliseconds, start.handle, self.handle) })?;
        Ok(milliseconds)
    }

    /// The driver's handle.
    pub(super) fn handle(&self) -> sys::CUevent {
        self.handle
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: created in `new`, destroyed once. A failure leaves nothing to be done.
            let _ = unsafe { sys::cuEventDestroy_v2(self.handle) };
        }
    }
}
