//! Tensors as the Tensor Memory Accelerator (TMA) of compute capability 9.0 sees them.

use super::error::check;
use super::{Device, DevicePtr, Error, Params, Plain, Result};
use cudarc::driver::sys;

/// Describes a matrix in device memory, for a kernel that fetches boxes of it. Part of a kernel's argument.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub struct TensorMap {
    words: [u64; 16],
}

// SAFETY: `CUtensorMap` is 128 opaque bytes at 64; no pattern is invalid to hold.
unsafe impl Plain for TensorMap {
    const CUDA: &'static str = "TensorMap";
}

// SAFETY: as above: the words, at the alignment of `CUtensorMap`.
unsafe impl Params for TensorMap {
    fn declaration() -> String {
        "struct __align__(64) TensorMap {\n    unsigned long long words[16];\n};\n".to_owned()
    }
}

/// The type of a matrix's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    /// IEEE binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE binary16.
    F16,
    /// Bytes, whatever they stand for.
    U8,
}

impl ElementType {
    /// Bytes of one element.
    fn size(self) -> usize {
        match self {
            ElementType::F32 => 4,
            ElementType::Bf16 | ElementType::F16 => 2,
            ElementType::U8 => 1,
        }
    }

    /// The driver's name of the type.
    fn data_type(self) -> sys::CUtensorMapDataType {
        match self {
            ElementType::F32 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            ElementType::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            ElementType::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            ElementType::U8 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        }
    }
}

/// A matrix and the boxes that are fetched of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boxes {
    /// Element type.
    pub element: ElementType,
    /// Rows of the matrix: what a box has beyond is zeros.
    pub rows: usize,
    /// Columns of the matrix.
    pub columns: usize,
    /// Elements from row to row.
    pub ld: usize,
    /// Rows of a box, at most 256. They have 128 bytes, swizzled.
    pub box_rows: usize,
}

/// A matrix and the boxes of several tiles that are fetched of it. A tile is 128 bytes of columns of a number of rows; the tiles
/// of a box come one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles {
    /// Element type.
    pub element: ElementType,
    /// Rows.
    pub rows: usize,
    /// Tiles beside each other.
    pub tiles: usize,
    /// Elements from row to row.
    pub ld: usize,
    /// Rows of a box.
    pub box_rows: usize,
    /// Tiles of a box.
    pub box_tiles: usize,
}

/// Dimensions that a description may have here.
const MAX_DIMENSIONS: usize = 3;
/// Bytes of a box's rows.
const ROW_BYTES: usize = 128;

impl TensorMap {
    /// Describes the matrix at an address of a device, which must be a multiple of 16. A planned device has no
    /// descriptions: all of one's words are zero.
    ///
    /// # Errors
    /// CUDA's, such as a stride that is not a multiple of 16 bytes.
    pub fn new(device: &Device, at: DevicePtr, boxes: Boxes) -> Result<Self> {
        let Boxes { element, rows, columns, ld, box_rows } = boxes;
        let (sizes, strides) = ([columns as u64, rows as u64], [(ld * element.size()) as u64]);
        let shape = [(ROW_BYTES / element.size()) as u32, box_rows as u32];
        TensorMap::encode(device, at, element, (&sizes, &strides, &shape), &format!("{boxes:?}"))
    }

    /// The same for boxes of several tiles: its coordinates are a column of a tile, a row and a tile.
    ///
    /// # Errors
    /// As [`TensorMap::new`].
    pub fn of_tiles(device: &Device, at: DevicePtr, boxes: Tiles) -> Result<Self> {
        let Tiles { element, rows, tiles, ld, box_rows, box_tiles } = boxes;
        let columns = ROW_BYTES / element.size();
        let (sizes, strides) = (
            [columns, rows, tiles].map(|size| size as u64),
            [(ld * element.size()) as u64, ROW_BYTES as u64],
        );
        let shape = [columns, box_rows, box_tiles].map(|size| size as u32);
        TensorMap::encode(device, at, element, (&sizes, &strides, &shape), &format!("{boxes:?}"))
    }

    /// Has the driver describe a tensor of as many dimensions as there are sizes, the fastest first.
    fn encode(
        device: &Device,
        at: DevicePtr,
        element: ElementType,
        (sizes, strides, shape): (&[u64], &[u64], &[u32]),
        what: &str,
    ) -> Result<Self> {
        let mut map = TensorMap { words: [0; 16] };
        if device.is_planned() {
            return Ok(map);
        }
        let steps = [1u32; MAX_DIMENSIONS];
        if sizes.len() > MAX_DIMENSIONS || strides.len() + 1 != sizes.len() || shape.len() != sizes.len() {
            return Err(Error::refused(
                format!("describe {what} to the TMA"),
                format!(
                    "expected {} strides and a box of {} sizes",
                    sizes.len().saturating_sub(1),
                    sizes.len()
                ),
            ));
        }
        // SAFETY: `map` has the size and alignment of a `CUtensorMap` and is written; the arrays have as many
        // elements as the dimensions ask for, which was checked. The address is not followed.
        let result = unsafe {
            sys::cuTensorMapEncodeTiled(
                (&raw mut map).cast(),
                element.data_type(),
                sizes.len() as u32,
                at.0 as *mut std::ffi::c_void,
                sizes.as_ptr(),
                strides.as_ptr(),
                shape.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        check(&format!("describe {what} to the TMA"), result)?;
        Ok(map)
    }
}
