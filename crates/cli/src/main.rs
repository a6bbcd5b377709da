//! `steady`.
fn main() {}
