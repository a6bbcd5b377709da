//! Memory of the device, and of the host where the device can copy from and to it.

use super::error::{check, check_range};
use super::{Device, Error, Result};
use cudarc::driver::sys;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

/// What an allocation of zero bytes asks for: the driver refuses zero.
const SMALLEST: usize = 16;

/// An address in device memory, as kernels receive it.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// Nowhere: what a kernel takes for an argument that is left out.
    pub const NULL: DevicePtr = DevicePtr(0);
}

/// Device memory; freed when dropped, after the device's work has ended.
#[derive(Debug)]
pub struct Buffer {
    device: Device,
    address: DevicePtr,
    bytes: usize,
}

impl Buffer {
    /// See [`Device::alloc_zeroed`].
    pub(super) fn zeroed(device: &Device, bytes: usize) -> Result<Self> {
        let allocated = bytes.max(SMALLEST);
        if device.is_planned() {
            device.count_allocated(bytes);
            let address = DevicePtr(device.planned_address(allocated));
            return Ok(Buffer { device: device.clone(), address, bytes });
        }
        device.enter()?;
        let mut address = 0;
        // SAFETY: `address` is written; the memory is freed in `drop`.
        let result = unsafe { sys::cuMemAlloc_v2(&mut address, allocated) };
        check(&format!("allocate {bytes} bytes of device memory"), result)?;
        device.count_allocated(bytes);
        let buffer = Buffer { device: device.clone(), address: DevicePtr(address), bytes };
        // SAFETY: the range is the allocation just made.
        check("cuMemsetD8", unsafe { sys::cuMemsetD8_v2(address, 0, allocated) })?;
        wait_for_default_stream()?;
        Ok(buffer)
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The address of byte `byte_offset`, for a kernel. Not checked: see [`driver`](super).
    pub fn at(&self, byte_offset: usize) -> DevicePtr {
        DevicePtr(self.address.0.wrapping_add(byte_offset as u64))
    }

    /// Copies `bytes` to byte `byte_offset` and on. The copy has ended on return; work of streams that uses these
    /// bytes must have ended before.
    ///
    /// # Errors
    /// The bytes do not lie in the buffer; CUDA's, also of earlier asynchronous work.
    pub fn upload(&self, byte_offset: usize, bytes: &[u8]) -> Result<()> {
        check_range("upload", byte_offset, bytes.len(), self.bytes)?;
        if self.device.is_planned() {
            return Ok(());
        }
        self.device.enter()?;
        let (to, from) = (self.at(byte_offset).0, bytes.as_ptr().cast());
        // SAFETY: `from` has `bytes.len()` bytes, and they lie in the allocation at `to`.
        check("cuMemcpyHtoD", unsafe { sys::cuMemcpyHtoD_v2(to, from, bytes.len()) })?;
        // From pageable memory, the call returns once the bytes are staged.
        wait_for_default_stream()
    }

    /// Copies the bytes from `byte_offset` on to `out`. The copy has ended on return; work of streams that writes
    /// these bytes must have ended before.
    ///
    /// # Errors
    /// The bytes do not lie in the buffer; CUDA's, also of earlier asynchronous work.
    pub fn download(&self, byte_offset: usize, out: &mut [u8]) -> Result<()> {
        check_range("download", byte_offset, out.len(), self.bytes)?;
        self.device.enter()?;
        let (to, from) = (out.as_mut_ptr().cast(), self.at(byte_offset).0);
        // SAFETY: `to` has `out.len()` bytes, and as many lie in the allocation at `from`.
        check("cuMemcpyDtoH", unsafe { sys::cuMemcpyDtoH_v2(to, from, out.len()) })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.device.count_freed(self.bytes);
        if self.device.enter().is_ok() {
            // SAFETY: allocated in `zeroed` and freed once. A failure is that of earlier work, which has been
            // returned or will be.
            let _ = unsafe { sys::cuMemFree_v2(self.address.0) };
        }
    }
}

/// Page-locked host memory; freed when dropped, after the device's work has ended and the graphs that copy
/// from or to it are gone.
///
/// A copy of a [`Stream`](super::Stream) or a graph reads or writes it until the stream is synchronized: what is
/// read before is old or new, what is written before may or may not be copied.
#[derive(Debug)]
pub struct Pinned {
    memory: Arc<PinnedMemory>,
    bytes: usize,
}

/// The allocation, kept alive also by graphs that copy from or to it.
#[derive(Debug)]
pub(super) struct PinnedMemory {
    device: Device,
    address: NonNull<c_void>,
}

// SAFETY: plain memory of the process; the driver frees it from any thread.
unsafe impl Send for PinnedMemory {}
// SAFETY: it is read and written through `Pinned`'s shared and exclusive borrows alone.
unsafe impl Sync for PinnedMemory {}

impl Pinned {
    /// See [`Device::alloc_pinned`].
    pub(super) fn zeroed(device: &Device, bytes: usize) -> Result<Self> {
        device.enter()?;
        let allocated = bytes.max(SMALLEST);
        let mut address = std::ptr::null_mut();
        // SAFETY: `address` is written; the memory is freed in `PinnedMemory`'s drop.
        let result = unsafe { sys::cuMemHostAlloc(&mut address, allocated, 0) };
        let operation = format!("allocate {bytes} bytes of page-locked memory");
        check(&operation, result)?;
        let address =
            NonNull::new(address).ok_or_else(|| Error::failed(operation, "the driver gave no address"))?;
        // SAFETY: `allocated` bytes were allocated there.
        unsafe { address.as_ptr().cast::<u8>().write_bytes(0, allocated) };
        Ok(Pinned { memory: Arc::new(PinnedMemory { device: device.clone(), address }), bytes })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: `bytes` initialised bytes lie there for as long as `self`; they are written through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.memory.address.as_ptr().cast(), self.bytes) }
    }

    /// The bytes, to be written.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_bytes`; graphs that share the memory do not read or write it on the host.
        unsafe { std::slice::from_raw_parts_mut(self.memory.address.as_ptr().cast(), self.bytes) }
    }

    /// The bytes as numbers; up to three bytes behind the last are left out.
    pub fn as_f32(&self) -> &[f32] {
        // SAFETY: as in `as_bytes`; the memory starts at a page, and every pattern of bits is an f32.
        unsafe { std::slice::from_raw_parts(self.memory.address.as_ptr().cast(), self.bytes / 4) }
    }

    /// The bytes as numbers, to be written; up to three bytes behind the last are left out.
    pub fn as_f32_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `as_bytes_mut` and `as_f32`.
        unsafe { std::slice::from_raw_parts_mut(self.memory.address.as_ptr().cast(), self.bytes / 4) }
    }

    /// The allocation, for a graph to keep.
    pub(super) fn memory(&self) -> &Arc<PinnedMemory> {
        &self.memory
    }
}

impl PinnedMemory {
    /// The address of byte `offset`, which lies in the allocation.
    pub(super) fn at(&self, offset: usize) -> *mut c_void {
        self.address.as_ptr().wrapping_byte_add(offset)
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: waits for copies under way, then frees what `zeroed` allocated, once. Failures are those of
            // earlier work, which have been returned or will be.
            unsafe {
                let _ = sys::cuCtxSynchronize();
                let _ = sys::cuMemFreeHost(self.address.as_ptr());
            }
        }
    }
}

/// Waits for what the synchronous calls have put in the default stream.
fn wait_for_default_stream() -> Result<()> {
    // SAFETY: null is the default stream of the current context.
    check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(std::ptr::null_mut()) })
}
