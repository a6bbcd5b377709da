//! stub
/// x
#[derive(Debug, Clone)]
pub struct PixelValues {
    /// h
    pub height: usize,
    /// w
    pub width: usize,
    /// d
    pub data: Vec<f32>,
}
