//! GEMMs in every tiling, those of older devices included.

use std::fmt::Debug;
use steadyhand_cuda_driver::Device;
use steadyhand_cuda_driver::compile::Compiler;
use steadyhand_fidelity::{Format, relative_l2};
use steadyhand_gr00t::checkpoint::Loader;
use steadyhand_gr00t::ops::{Linear, Site};
use steadyhand_gr00t::precision::{Formats, PrecisionPolicy, Scale};
use steadyhand_gr00t::probe::Recorder;
use steadyhand_gr00t_cuda::builder::Builder;
use steadyhand_gr00t_cuda::elements::Element;
use steadyhand_gr00t_cuda::kernels::Kernels;
use steadyhand_gr00t_cuda::linear::{Fusion, Linear as OnDevice};
use steadyhand_gr00t_cuda::program::Scratch;
use steadyhand_gr00t_cuda::sources::Sources;
use steadyhand_gr00t_cuda::tiling::{SPLITS, Tiling};
use steadyhand_gr00t_cuda::weights::Layout;

/// Operands are exactly what is multiplied and sums are f32: only the order of summation differs. What rounding at
/// random gives: half of f32's unit roundoff (6e-8) times the square root of a sum's length. These values have so few
/// digits that the distance is 0 in every tiling of an H200.
const LIMIT: f64 = 1e-6;

/// The same for e4m3, whose products Hopper's tensor cores add up with fewer bits than f32 has: 1.2e-4 at most, in all
/// tilings of an H200; times 2.
const FP8_LIMIT: f64 = 2.4e-4;

/// Rows, outputs and inputs that fill no tile; of the last there are more tiles than any device has multiprocessors.
const SHAPES: [[usize; 3]; 5] =
    [[1, 10, 70], [51, 200, 640], [201, 136, 1088], [33, 72, 6144], [5000, 1150, 192]];

/// What must succeed for a GEMM to be compared.
fn must<T, E: Debug>(result: Result<T, E>, what: &str) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error:?}"))
}

/// Every tiling of this device and of those before it gives the product.
pub fn of_every_tiling() {
    let device = must(Device::open(0), "open");
    let driver_version = Some(device.properties().driver_version);
    let compiler = must(Compiler::open(driver_version, None), "compiler");
    let kernels = Kernels::new(&device, compiler, Sources::embedded());
    let capability = device.properties().compute_capability;
    let splits: &[usize] = if capability.0 >= 9 { &SPLITS } else { &[1] };
    let kinds = [
        (Format::F32, Scale::None),
        (Format::Bf16, Scale::None),
        (Format::Fp16, Scale::None),
        (Format::Fp8E4m3, Scale::PerChannel),
        (Format::Fp8E4m3, Scale::PerTensor),
    ];
    for (format, scale) in kinds {
        let formats = Formats { scale, ..Formats::new(Format::F32, format, Format::F32) };
        let policy = must(PrecisionPolicy::preset("f32"), "preset").with("", formats);
        let Some(element) = Element::of(format) else { panic!("{format:?}: no element type") };
        let limit = if format == Format::Fp8E4m3 { FP8_LIMIT } else { LIMIT };
        let mut tilings = Tiling::all(element, capability);
        // Those of devices without warpgroups.
        tilings.extend(Tiling::all(element, (8, 9)));
        tilings.retain(|tiling| tiling.shared_bytes() <= device.properties().shared_memory_per_block);
        for shape in SHAPES {
            let mut worst: f64 = 0.0;
            let split = |tiling| splits.iter().map(move |&split| Tiling { split, ..tiling });
            let tilings = tilings.iter().copied().flat_map(split);
            let tilings = tilings.filter(|tiling| tiling.fits(element, shape[2]));
            let recorded: Vec<(Tiling, Product)> = tilings
                .map(|tiling| (tiling, Product::record(&device, &kernels, &policy, tiling, shape)))
                .collect();
            // Several at a time: there are more tilings than a minute compiles one by one.
            let variants = recorded.iter().flat_map(|(_, product)| product.builder.variants());
            must(kernels.prepare(variants), "compile");
            let Some(expected) = recorded.first().map(|(_, product)| product.expected(&policy, shape)) else {
                panic!("{format:?} {shape:?}: no tiling");
            };
            for (tiling, product) in recorded {
                let error = relative_l2(&product.computed(&device, &kernels), &expected);
                worst = worst.max(error);
                assert!(error <= limit, "{format:?} {shape:?} {tiling:?}: {error:.2e}");
            }
            eprintln!("{format:?}, {scale:?}, {shape:?}: at most {worst:.2e} from the exact product");
        }
    }
}

/// A product that is recorded in one tiling.
struct Product<'a> {
    layer: Linear,
    values: Vec<f32>,
    builder: Builder<'a>,
    /// Its weights lie on the device as long as this lives.
    _linear: OnDevice,
}

impl<'a> Product<'a> {
    fn record(
        device: &'a Device,
        kernels: &Kernels,
        policy: &'a PrecisionPolicy,
        tiling: Tiling,
        [rows, n, inner]: [usize; 3],
    ) -> Self {
        let at = Site::new("product");
        let mut loader = Loader::synthetic(7);
        let layer = Linear {
            weight: loader.weight("product.weight", &[n, inner]),
            bias: Some(loader.weight("product.bias", &[n])),
        };
        let mut layout = Layout::new(policy);
        let linear = must(layout.linear(&layer, &at), "layout");
        must(layout.load(device, kernels, "a product"), "load");
        // Quarters are exact in every format.
        let values: Vec<f32> = (0..rows * inner).map(|i| ((i * 37 % 61) as f32 - 30.0) / 4.0).collect();
        let mut builder = Builder::new(device, policy, 1);
        builder.tilings = Some(vec![tiling]);
        let x = must(builder.persistent_tensor(rows, inner, Element::F32), "x");
        must(x.upload(&values), "upload");
        must(builder.linear(&linear, &x, Element::F32, at, Fusion::Store), "record");
        Product { layer, values, builder, _linear: linear }
    }

    /// The device's product.
    fn computed(self, device: &Device, kernels: &Kernels) -> Vec<f32> {
        let mut recorder = Recorder::all();
        let (stream, mut scratch) = (must(device.stream(), "stream"), must(Scratch::new(device), "scratch"));
        let program = must(self.builder.finish(kernels), "compile");
        must(program.probe(&stream, &mut scratch, &mut recorder), "run");
        recorder.tensors.remove("product").map(|(_, values)| values).unwrap_or_default()
    }

    /// The same product in f64.
    fn expected(&self, policy: &PrecisionPolicy, [rows, n, inner]: [usize; 3]) -> Vec<f32> {
        let formats = policy.formats(&Site::new("product"));
        let x = as_multiplied(&self.values, self.values.len(), formats.compute);
        let rows_alike = if formats.scale == Scale::PerTensor { n } else { 1 };
        let weight = self.layer.weight.to_vec(Format::F32);
        let weight = as_multiplied(&weight, rows_alike * inner, formats.compute);
        let bias = self.layer.bias.as_ref().map(|bias| bias.to_vec(Format::F32));
        let mut expected = Vec::with_capacity(rows * n);
        for row in x.chunks_exact(inner) {
            for (weights, bias) in weight.chunks_exact(inner).zip(bias.iter().flatten()) {
                let products = row.iter().zip(weights).map(|(x, w)| x * w);
                expected.push((products.sum::<f64>() + f64::from(*bias)) as f32);
            }
        }
        expected
    }
}

/// Operands as they are multiplied: e4m3 with a scale for every `together` values, others as they are.
fn as_multiplied(values: &[f32], together: usize, format: Format) -> Vec<f64> {
    if format != Format::Fp8E4m3 {
        return values.iter().copied().map(f64::from).collect();
    }
    let scaled = |values: &[f32]| -> Vec<f64> {
        let amax = values.iter().fold(0.0f32, |amax, value| amax.max(value.abs()));
        let (factor, unit) = (format.max() / amax, f64::from(amax / format.max()));
        values.iter().map(|value| f64::from(format.round_saturating(value * factor)) * unit).collect()
    };
    values.chunks(together).flat_map(scaled).collect()
}
