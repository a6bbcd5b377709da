//! What a compute capability says of a GPU's tensor cores.

use steadyhand_fidelity::Format;

/// First compute capability, and the formats that its tensor cores multiply besides those of older ones.
const FORMATS: [((u32, u32), &[Format]); 3] = [
    ((7, 0), &[Format::Fp16]),
    ((8, 0), &[Format::Bf16, Format::Tf32]),
    ((8, 9), &[Format::Fp8E4m3, Format::Fp8E5m2]),
];

/// The formats that the tensor cores of a compute capability multiply. An f32 product needs none.
pub fn tensor_core_formats(capability: (u32, u32)) -> Vec<Format> {
    let had = FORMATS.iter().filter(|(first, _)| capability >= *first);
    had.flat_map(|(_, formats)| formats.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_come_with_the_hardware_that_has_them() {
        use Format::{Bf16, Fp8E4m3, Fp8E5m2, Fp16, Tf32};
        for (capability, expected) in [
            ((6, 1), &[][..]),                                // Pascal
            ((7, 0), &[Fp16]),                                // V100
            ((7, 5), &[Fp16]),                                // T4
            ((8, 0), &[Fp16, Bf16, Tf32]),                    // A100
            ((8, 6), &[Fp16, Bf16, Tf32]),                    // RTX 3090
            ((8, 7), &[Fp16, Bf16, Tf32]),                    // Jetson Orin
            ((8, 9), &[Fp16, Bf16, Tf32, Fp8E4m3, Fp8E5m2]),  // RTX 4090, L40
            ((9, 0), &[Fp16, Bf16, Tf32, Fp8E4m3, Fp8E5m2]),  // H100, H200
            ((10, 0), &[Fp16, Bf16, Tf32, Fp8E4m3, Fp8E5m2]), // B200
            ((11, 0), &[Fp16, Bf16, Tf32, Fp8E4m3, Fp8E5m2]), // Jetson Thor
            ((12, 0), &[Fp16, Bf16, Tf32, Fp8E4m3, Fp8E5m2]), // RTX 5090
        ] {
            assert_eq!(tensor_core_formats(capability), expected, "{capability:?}");
        }
    }
}
