//! Products in narrow formats against results worked out by hand.

use super::*;
use crate::checkpoint::Checkpoint;
use crate::precision::Calibration;
use crate::precision::PrecisionPolicy;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

/// A layer without bias whose f32 weights are these, `[out, in]`.
fn layer(shape: &[usize], values: &[f32]) -> Linear {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = TensorView::new(Dtype::F32, shape.to_vec(), &bytes).expect("a tensor");
    serialize_to_file([("w", tensor)], None, &folder.path().join("model.safetensors")).expect("written");
    let checkpoint = Checkpoint::open(folder.path()).expect("a checkpoint");
    Linear { weight: checkpoint.get("w").expect("the tensor").clone(), bias: None }
}

fn policy(formats: Formats) -> PrecisionPolicy {
    PrecisionPolicy::preset("f32").expect("a preset").with("", formats)
}

fn fp8(scale: Scale) -> Formats {
    Formats { scale, ..Formats::new(Format::F32, Format::Fp8E4m3, Format::F32) }
}

fn product(policy: &PrecisionPolicy, shape: [usize; 3], x: &[f32], layer: &Linear) -> Result<Vec<f32>> {
    let x = Tensor::new(shape, x.to_vec());
    Ok(Cpu::new(policy, None).linear(&x, layer, Site::in_step("dit.output", 1))?.values().to_vec())
}

/// Rows whose largest magnitudes, 7 and 14, make scales of 1/64 and 1/32.
fn two_rows() -> Linear {
    layer(&[2, 3], &[3.5, 7.0, 0.0, 0.0, 0.0, -14.0])
}

#[test]
fn fp8_scales_weights_by_channel_and_activations_by_observation() {
    // 448 is the largest e4m3: the activations' scale is 1; 17 lies between 16 and 18 and goes to the even 16.
    // 448 * 224 + 1 * 448 = 100800 of 64ths; 16 * -448 = -7168 of 32nds.
    let x = [448.0, 1.0, 17.0];
    let policy = policy(fp8(Scale::PerChannel));
    assert_eq!(product(&policy, [1, 1, 3], &x, &two_rows()).expect("a product"), [1575.0, -224.0]);
    // Another observation of the batch, half as large, has a scale of its own; tokens share one.
    let batch = [x, x.map(|x| x / 2.0)].concat();
    let both = product(&policy, [2, 1, 3], &batch, &two_rows()).expect("a product");
    assert_eq!(both, [1575.0, -224.0, 787.5, -112.0]);
    // With the scale of 448, 8.5 is a tie between 8 and 9 that goes to the even 8.
    let tokens = product(&policy, [1, 2, 3], &batch, &two_rows()).expect("a product");
    assert_eq!(tokens, [1575.0, -224.0, 224.0 * 3.5 + 0.5 * 7.0, 8.0 * -14.0]);
}

#[test]
fn fp8_scales_all_weights_alike_when_told_so() {
    // The largest weight is 14, so the first row is in 32nds as well: 3.5 is 112, 7 is 224.
    let policy = policy(fp8(Scale::PerTensor));
    let layer = layer(&[2, 3], &[3.6, 7.0, 0.0, 0.0, 0.0, -14.0]);
    // 3.6 * 32 = 115.2 lies between 112 and 120 and becomes 112.
    let found = product(&policy, [1, 1, 3], &[448.0, 1.0, 17.0], &layer).expect("a product");
    assert_eq!(found, [1575.0, -224.0]);
}

#[test]
fn a_calibrated_scale_saturates_what_exceeds_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("calibration.json");
    let text = r#"{"checkpoint": "c", "embodiment_tag": "e", "dataset": "d", "frames": 1, "denoising_steps": 4,
                   "percentile": 100.0, "amax": {"dit.output": 224.0}}"#;
    std::fs::write(&path, text).expect("written");
    let calibration = Calibration::load(&path).expect("a calibration");
    let policy = policy(fp8(Scale::PerChannel)).with_calibration(calibration.clone());
    // Twice the values are rounded: 896 saturates at 448, 2 stays, 34 lies between 32 and 36 and becomes 32.
    // (448 * 224 + 2 * 448) / 128 and 32 * -448 / 64.
    let found = product(&policy, [1, 1, 3], &[448.0, 1.0, 17.0], &two_rows()).expect("a product");
    assert_eq!(found, [791.0, -224.0]);
    let mut unknown = calibration;
    unknown.amax.clear();
    let policy = policy.with_calibration(unknown);
    let error = product(&policy, [1, 1, 3], &[0.0; 3], &two_rows()).expect_err("not calibrated").to_string();
    assert!(error.contains("calibration.json") && error.contains("`dit.output`"), "{error}");
}

#[test]
fn zeros_and_what_is_not_finite() {
    let policy = policy(fp8(Scale::PerChannel));
    let zeros = layer(&[1, 3], &[0.0; 3]);
    assert_eq!(product(&policy, [1, 1, 3], &[0.0; 3], &two_rows()).expect("a product"), [0.0, 0.0]);
    assert_eq!(product(&policy, [1, 1, 3], &[1.0, 2.0, 3.0], &zeros).expect("a product"), [0.0]);
    let found = product(&policy, [1, 1, 3], &[1.0, f32::NAN, 3.0], &two_rows()).expect("a product");
    assert!(found.iter().all(|value| value.is_nan()), "{found:?}");
}

#[test]
fn without_a_scale_fp8_overflows() {
    let policy = policy(fp8(Scale::None));
    let found = product(&policy, [1, 1, 3], &[1000.0, 1.0, 17.0], &two_rows()).expect("a product");
    assert!(found.iter().all(|value| value.is_nan()), "{found:?}");
}

#[test]
fn a_linear_layer_is_summed_in_fp16_where_the_policy_says_so() {
    let ones = layer(&[1, 48], &[1.0; 48]);
    let mut x = vec![0.0; 48];
    (x[0], x[16], x[32]) = (2048.0, 1.0, 1.0);
    let fp16 = |accumulate| policy(Formats::new(Format::F32, Format::Fp16, accumulate));
    assert_eq!(product(&fp16(Format::F32), [1, 1, 48], &x, &ones).expect("a product"), [2050.0]);
    assert_eq!(product(&fp16(Format::Fp16), [1, 1, 48], &x, &ones).expect("a product"), [2048.0]);
    // The operands of 8 bits as well: 448 * 448 of 1/448ths each is beyond fp16 before it is rescaled.
    let both = Formats { accumulate: Format::Fp16, ..fp8(Scale::PerChannel) };
    assert_eq!(product(&policy(both), [1, 1, 48], &x, &ones).expect("a product"), [f32::INFINITY]);
}

#[test]
fn attention_is_summed_in_fp16_where_the_policy_says_so() {
    // All scores are equal, so each of 48 exponentials is 1 and the result is the mean of v.
    let heads = Heads { heads: 1, kv_heads: 1, head_dim: 1 };
    let mut v = vec![0.0; 48];
    (v[0], v[16], v[32]) = (2048.0, 1.0, 1.0);
    let run = |accumulate| {
        let policy = policy(Formats::new(Format::F32, Format::Fp16, accumulate));
        let q = Tensor::new([1, 1, 1], vec![1.0]);
        let k = Tensor::new([1, 48, 1], vec![1.0; 48]);
        let v = Tensor::new([1, 48, 1], v.clone());
        let ops = Cpu::new(&policy, None);
        ops.attention(&q, &k, &v, heads, &Mask::None, Site::new("dit.block.0.attention")).expect("attention")
    };
    assert_eq!(run(Format::F32).values(), [2050.0f32 / 48.0]);
    assert_eq!(run(Format::Fp16).values(), [2048.0f32 / 48.0]);
}

#[test]
fn relu_hands_on_what_is_not_a_number() {
    let relu = |values: &[f32]| pointwise::activation(values, Activation::Relu, Format::F32);
    assert_eq!(relu(&[-1.5, 0.0, 2.5, f32::INFINITY]), [0.0, 0.0, 2.5, f32::INFINITY]);
    assert!(relu(&[f32::NAN])[0].is_nan());
}
