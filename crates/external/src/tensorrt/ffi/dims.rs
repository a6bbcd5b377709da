//! Dimensions as the libraries take and give them: whole numbers of 32 bits before TensorRT 10, of 64 bits since.

use super::abi::{Context, Engine, Network, NetworkTensor, Profile, Shuffle, Weights};
use std::ffi::{c_char, c_void};

/// The most dimensions of a tensor.
pub(super) const MAX_DIMS: usize = 8;

/// Dimensions of a tensor; -1 stands for one that is open.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Dims {
    pub(super) count: i32,
    pub(super) sizes: [i64; MAX_DIMS],
}

/// The same before TensorRT 10.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct NarrowDims {
    count: i32,
    sizes: [i32; MAX_DIMS],
}

impl Dims {
    /// Dimensions for the library.
    ///
    /// # Errors
    /// More than it takes; sizes that it cannot count.
    pub(super) fn new(sizes: &[i64]) -> Result<Self, String> {
        if sizes.len() > MAX_DIMS {
            return Err(format!("expected at most {MAX_DIMS} dimensions, found {sizes:?}"));
        }
        if sizes.iter().any(|size| i32::try_from(*size).is_err()) {
            return Err(format!("expected smaller dimensions, found {sizes:?}"));
        }
        let mut dims = Dims { count: sizes.len() as i32, sizes: [0; MAX_DIMS] };
        dims.sizes[..sizes.len()].copy_from_slice(sizes);
        Ok(dims)
    }

    /// Dimensions of a shape.
    ///
    /// # Errors
    /// As [`Dims::new`].
    pub(super) fn of_shape(sizes: &[usize]) -> Result<Self, String> {
        let wide: Result<Vec<i64>, _> = sizes.iter().map(|size| i64::try_from(*size)).collect();
        Dims::new(&wide.map_err(|_| format!("expected smaller dimensions, found {sizes:?}"))?)
    }

    /// Dimensions from the library; -1 where open.
    ///
    /// # Errors
    /// A number of them that no tensor has: the library's sign of an error.
    pub(super) fn to_vec(self) -> Result<Vec<i64>, String> {
        let count = usize::try_from(self.count).ok().filter(|count| *count <= MAX_DIMS);
        let count = count.ok_or_else(|| format!("expected dimensions, found a number of {}", self.count))?;
        Ok(self.sizes[..count].to_vec())
    }

    /// [`Dims::new`] admits no size that is lost here.
    pub(super) fn narrow(&self) -> NarrowDims {
        NarrowDims { count: self.count, sizes: self.sizes.map(|size| size as i32) }
    }
}

impl From<NarrowDims> for Dims {
    fn from(narrow: NarrowDims) -> Self {
        Dims { count: narrow.count, sizes: narrow.sizes.map(i64::from) }
    }
}

// Each of these calls the method with the dimensions of its library's version. What a call needs is said at
// `interface`: a living object, and pointers that are what the interface asks for.

impl Profile {
    pub(super) unsafe fn set_shape(&self, name: *const c_char, which: i32, dims: &Dims) -> bool {
        // SAFETY: the caller's promise; the dimensions live over the call.
        unsafe {
            match self.tables.narrow {
                true => self.set_narrow_dimensions(name, which, dims.narrow()),
                false => self.set_dimensions(name, which, dims),
            }
        }
    }
}

impl Network {
    pub(super) unsafe fn input_of(&self, name: *const c_char, data_type: i32, dims: &Dims) -> *mut c_void {
        // SAFETY: the caller's promise; the dimensions live over the call.
        unsafe {
            match self.tables.narrow {
                true => self.add_narrow_input(name, data_type, dims.narrow()),
                false => self.add_input(name, data_type, dims),
            }
        }
    }

    pub(super) unsafe fn constant_of(&self, dims: &Dims, weights: Weights) -> *mut c_void {
        // SAFETY: the caller's promise; the dimensions live over the call.
        unsafe {
            match self.tables.narrow {
                true => self.add_narrow_constant(dims.narrow(), weights),
                false => self.add_constant(dims, weights),
            }
        }
    }

    pub(super) unsafe fn slice_of(
        &self,
        tensor: *mut c_void,
        start: &Dims,
        size: &Dims,
        stride: &Dims,
    ) -> *mut c_void {
        // SAFETY: the caller's promise; the dimensions live over the call.
        unsafe {
            match self.tables.narrow {
                true => self.add_narrow_slice(tensor, start.narrow(), size.narrow(), stride.narrow()),
                false => self.add_slice(tensor, start, size, stride),
            }
        }
    }
}

impl Shuffle {
    pub(super) unsafe fn reshape(&self, dims: &Dims) {
        // SAFETY: the caller's promise; the dimensions live over the call.
        unsafe {
            match self.tables.narrow {
                true => self.set_narrow_reshape(dims.narrow()),
                false => self.set_reshape(dims),
            }
        }
    }
}

impl NetworkTensor {
    pub(super) unsafe fn dims(&self) -> Dims {
        // SAFETY: the caller's promise.
        unsafe {
            match self.tables.narrow {
                true => self.narrow_dimensions().into(),
                false => self.dimensions(),
            }
        }
    }
}

impl Engine {
    pub(super) unsafe fn dims(&self, name: *const c_char) -> Dims {
        // SAFETY: the caller's promise.
        unsafe {
            match self.tables.narrow {
                true => self.narrow_shape(name).into(),
                false => self.shape(name),
            }
        }
    }

    pub(super) unsafe fn profile_dims(&self, name: *const c_char, profile: i32, which: i32) -> Dims {
        // SAFETY: the caller's promise.
        unsafe {
            match self.tables.narrow {
                true => self.narrow_profile_shape(name, profile, which).into(),
                false => self.profile_shape(name, profile, which),
            }
        }
    }
}

impl Context {
    pub(super) unsafe fn set_shape(&self, name: *const c_char, dims: &Dims) -> bool {
        // SAFETY: the caller's promise; the dimensions live over the call.
        unsafe {
            match self.tables.narrow {
                true => self.set_narrow_input_shape(name, &dims.narrow()),
                false => self.set_input_shape(name, dims),
            }
        }
    }

    pub(super) unsafe fn dims(&self, name: *const c_char) -> Dims {
        // SAFETY: the caller's promise.
        unsafe {
            match self.tables.narrow {
                true => self.narrow_shape(name).into(),
                false => self.shape(name),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_dimensions_are_the_same() {
        let dims = Dims::new(&[-1, 17, 128]).expect("they fit");
        assert_eq!(Dims::from(dims.narrow()).to_vec().expect("dimensions"), [-1, 17, 128]);
        assert!(Dims::new(&[i64::from(i32::MAX) + 1]).is_err() && Dims::of_shape(&[1; 9]).is_err());
        // The library's sign of an error.
        assert!(Dims { count: -1, sizes: [0; MAX_DIMS] }.to_vec().is_err());
    }
}
