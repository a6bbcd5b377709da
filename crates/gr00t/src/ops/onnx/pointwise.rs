//! Norms, modulation and activations as graphs of standard operations, in the accumulation format.

use super::super::{Activation, Affine};
use super::Value;
use super::graph::Attribute;
use super::scope::Scope;
use crate::checkpoint::Weight;

/// The first opset with Gelu.
const GELU_OPSET: i64 = 20;

/// The first opset whose runtimes all have LayerNormalization, and whose reductions take their axes as an input.
const NORM_OPSET: i64 = 18;

/// LayerNorm over the features, which runtimes have as one operation from [`NORM_OPSET`] on.
pub(super) fn layer_norm(
    scope: &mut Scope,
    x: &Value,
    affine: Option<&Affine>,
    eps: f64,
    opset: i64,
) -> Value {
    let wide = scope.wide(x);
    if opset < NORM_OPSET {
        let normalized = layer_norm_in_parts(scope, &wide, affine, eps, opset);
        return scope.store(normalized, x.shape);
    }
    let attributes = [Attribute::Int("axis", -1), Attribute::Float("epsilon", eps as f32)];
    let normalized = match affine {
        Some(affine) => {
            let weight = scope.stored_weight(&affine.weight);
            let bias = scope.stored_weight(&affine.bias);
            scope.op_with("LayerNormalization", &[&wide, &weight, &bias], &attributes)
        }
        None => {
            let ones = scope.stored_numbers(&[x.shape[2]], vec![1.0; x.shape[2]]);
            scope.op_with("LayerNormalization", &[&wide, &ones], &attributes)
        }
    };
    scope.store(normalized, x.shape)
}

fn layer_norm_in_parts(
    scope: &mut Scope,
    wide: &str,
    affine: Option<&Affine>,
    eps: f64,
    opset: i64,
) -> String {
    let mean = mean(scope, wide, opset);
    let centred = scope.op("Sub", &[wide, &mean]);
    let root = root_mean_square(scope, &centred, eps, opset);
    let normalized = scope.op("Div", &[&centred, &root]);
    let Some(affine) = affine else { return normalized };
    let weight = scope.stored_weight(&affine.weight);
    let bias = scope.stored_weight(&affine.bias);
    let weighed = scope.op("Mul", &[&normalized, &weight]);
    scope.op("Add", &[&weighed, &bias])
}

/// The mean over the features, which stay as one.
fn mean(scope: &mut Scope, x: &str, opset: i64) -> String {
    if opset < NORM_OPSET {
        return scope.op_with("ReduceMean", &[x], &[Attribute::Ints("axes", vec![-1])]);
    }
    let axis = scope.graph.integers(&[-1]);
    scope.op("ReduceMean", &[x, &axis])
}

/// The root of the features' mean square and `eps`.
fn root_mean_square(scope: &mut Scope, x: &str, eps: f64, opset: i64) -> String {
    let squares = scope.op("Mul", &[x, x]);
    let mean = mean(scope, &squares, opset);
    let eps = scope.number(eps as f32);
    let mean = scope.op("Add", &[&mean, &eps]);
    scope.op("Sqrt", &[&mean])
}

/// RMSNorm over each run of `weight.len()` features; the normalized value is stored before it meets the weight.
pub(super) fn rms_norm(scope: &mut Scope, x: &Value, weight: &Weight, eps: f64, opset: i64) -> Value {
    let (features, run) = (x.shape[2], weight.len());
    let mut wide = scope.wide(x);
    if run != features {
        wide = scope.reshape(&wide, &[0, 0, (features / run) as i64, run as i64]);
    }
    let root = root_mean_square(scope, &wide, eps, opset);
    let normalized = scope.op("Div", &[&wide, &root]);
    let normalized = scope.round(normalized);
    let weight = scope.stored_weight(weight);
    let mut result = scope.op("Mul", &[&normalized, &weight]);
    if run != features {
        result = scope.reshape(&result, &[0, 0, features as i64]);
    }
    scope.store(result, x.shape)
}

/// `x (1 + scale) + shift`, stored after each step.
pub(super) fn modulate(scope: &mut Scope, [x, scale, shift]: [&Value; 3]) -> Value {
    let [wide, scale, shift] = [x, scale, shift].map(|x| scope.wide(x));
    let one = scope.number(1.0);
    let factor = scope.op("Add", &[&scale, &one]);
    let factor = scope.round(factor);
    let scaled = scope.op("Mul", &[&wide, &factor]);
    let scaled = scope.round(scaled);
    let shifted = scope.op("Add", &[&scaled, &shift]);
    scope.store(shifted, x.shape)
}

/// A pointwise non-linearity; the GELUs from their parts where the opset lacks them.
pub(super) fn activation(scope: &mut Scope, x: &Value, kind: Activation, opset: i64) -> Value {
    let wide = scope.wide(x);
    let result = match kind {
        Activation::Gelu if opset >= GELU_OPSET => {
            scope.op_with("Gelu", &[&wide], &[Attribute::Text("approximate", "none")])
        }
        Activation::GeluTanh if opset >= GELU_OPSET => {
            scope.op_with("Gelu", &[&wide], &[Attribute::Text("approximate", "tanh")])
        }
        Activation::Gelu => {
            let factor = scope.number(std::f32::consts::FRAC_1_SQRT_2);
            let inner = scope.op("Mul", &[&wide, &factor]);
            let inner = scope.op("Erf", &[&inner]);
            half_times_one_plus(scope, &wide, &inner)
        }
        Activation::GeluTanh => {
            let [square, beta] = [0.044_715, 0.797_884_6].map(|number| scope.number(number));
            let cube = scope.op("Mul", &[&wide, &wide]);
            let cube = scope.op("Mul", &[&cube, &wide]);
            let cube = scope.op("Mul", &[&cube, &square]);
            let inner = scope.op("Add", &[&wide, &cube]);
            let inner = scope.op("Mul", &[&inner, &beta]);
            let inner = scope.op("Tanh", &[&inner]);
            half_times_one_plus(scope, &wide, &inner)
        }
        Activation::Silu | Activation::Swish => {
            let mut sigmoid = scope.op("Sigmoid", &[&wide]);
            if kind == Activation::Swish {
                sigmoid = scope.round(sigmoid);
            }
            scope.op("Mul", &[&wide, &sigmoid])
        }
        Activation::Relu => scope.op("Relu", &[&wide]),
    };
    scope.store(result, x.shape)
}

/// `x / 2 * (1 + inner)`: a GELU before its opset.
fn half_times_one_plus(scope: &mut Scope, x: &str, inner: &str) -> String {
    let [one, half] = [1.0, 0.5].map(|number| scope.number(number));
    let sum = scope.op("Add", &[inner, &one]);
    let product = scope.op("Mul", &[x, &sum]);
    scope.op("Mul", &[&product, &half])
}
