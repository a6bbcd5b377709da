//! What messages are made of: msgpack values, and arrays in the two ways that NumPy's users write them.

mod array;
mod msgpack;
mod npy;

pub use array::{Array, Dialect, dialect_of, write_f32, write_u8};
pub use msgpack::{Ndarray, Value, Writer, read};
