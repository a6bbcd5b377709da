//! What is known before a network runs, computed here.

use super::{Translation, Value};
use half::f16;
use steadyhand_fidelity::Format;
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::ops::onnx::{Bytes, Constant};

impl Translation {
    /// A constant as the library takes it: whole numbers of 32 bits where it has no longer ones.
    pub(super) fn narrowed(&self, constant: &Constant) -> Result<Constant, String> {
        let dtype = self.taken(constant.dtype)?;
        if dtype == constant.dtype {
            return Ok(constant.clone());
        }
        let values = constant.integers().ok_or_else(|| format!("expected I64, found {}", constant.dtype))?;
        let mut bytes = Vec::with_capacity(values.len() * 4);
        for value in values {
            let value =
                i32::try_from(value).map_err(|_| format!("expected a number of 32 bits, found {value}"))?;
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        Ok(Constant { dtype, dims: constant.dims.clone(), bytes: Bytes::new(bytes) })
    }
}

/// A constant as another float type; none where one of the types is no f32 or fp16.
pub(super) fn cast(constant: &Constant, to: Dtype) -> Option<Constant> {
    let elements = constant.bytes.as_slice();
    let bytes: Vec<u8> = match (constant.dtype, to) {
        (from, to) if from == to => return Some(constant.clone()),
        (Dtype::F16, Dtype::F32) => {
            let (codes, _) = elements.as_chunks();
            codes.iter().flat_map(|code| f16::from_le_bytes(*code).to_f32().to_le_bytes()).collect()
        }
        (Dtype::F32, Dtype::F16) => {
            let (values, _) = elements.as_chunks();
            let code = |value: &[u8; 4]| Format::Fp16.encode(f32::from_le_bytes(*value)) as u16;
            values.iter().flat_map(|value| code(value).to_le_bytes()).collect()
        }
        _ => return None,
    };
    Some(Constant { dtype: to, dims: constant.dims.clone(), bytes: Bytes::new(bytes) })
}

/// Whole numbers as a constant of one dimension.
pub(super) fn integers(values: &[i64]) -> Value {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let constant = Constant { dtype: Dtype::I64, dims: vec![values.len()], bytes: Bytes::new(bytes) };
    Value::Known { constant, transposed: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_become_the_other_type() {
        let bytes = [1.5f32, 1.0 + 1.0 / 4096.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let wide = Constant { dtype: Dtype::F32, dims: vec![2], bytes: Bytes::new(bytes) };
        let narrow = cast(&wide, Dtype::F16).expect("floats");
        assert_eq!(narrow.bytes.as_slice(), [0x00, 0x3e, 0x00, 0x3c]);
        let back = cast(&narrow, Dtype::F32).expect("floats");
        assert_eq!(back.bytes.as_slice(), [1.5f32.to_le_bytes(), 1.0f32.to_le_bytes()].concat());
        assert!(cast(&wide, Dtype::Bf16).is_none());
    }
}
