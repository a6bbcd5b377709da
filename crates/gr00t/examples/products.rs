//! Times every tiling of the model's products on the GPU at hand: microseconds of one product in a chain of
//! products, each with weights of its own, so that they come from device memory as in an inference.
//!
//! `cargo run --release -p steadyhand-gr00t --example products [ROWS OUT IN]...`

use steadyhand_gr00t::Result;
use steadyhand_gr00t::checkpoint::Loader;
use steadyhand_gr00t::cuda::compile::Compiler;
use steadyhand_gr00t::cuda::driver::Device;
use steadyhand_gr00t::cuda::kernels::Kernels;
use steadyhand_gr00t::cuda::linear::{Linear, Then};
use steadyhand_gr00t::cuda::product::Tiling;
use steadyhand_gr00t::cuda::program::Builder;
use steadyhand_gr00t::cuda::weights::Layout;
use steadyhand_gr00t::ops::{self, Site};
use steadyhand_gr00t::precision::PrecisionPolicy;

/// Rows, outputs and inputs of W1's products that take most of the time, and of W2's vision.
const SHAPES: [[usize; 3]; 16] = [
    [51, 1536, 1536],
    [51, 4608, 1536],
    [51, 6144, 1536],
    [51, 1536, 6144],
    [121, 4096, 2048],
    [121, 2048, 2048],
    [121, 12288, 2048],
    [121, 2048, 6144],
    [324, 3456, 1152],
    [324, 1152, 1152],
    [324, 4304, 1152],
    [324, 1152, 4304],
    [648, 3456, 1152],
    [648, 1152, 4304],
    [202, 12288, 2048],
    [81, 24576, 2048],
];
/// Weights that are read before the first is read again.
const BYTES: usize = 400 << 20;
const REPETITIONS: usize = 5;

fn main() -> Result<()> {
    let device = Device::open(0)?;
    let driver_version = Some(device.properties().driver_version);
    let kernels = Kernels::new(&device, Compiler::open(driver_version, None)?);
    let policy = PrecisionPolicy::preset("bf16")?;
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let given: Vec<[usize; 3]> =
        numbers.chunks_exact(3).map(|shape| [shape[0], shape[1], shape[2]]).collect();
    for shape in if given.is_empty() { SHAPES.to_vec() } else { given } {
        measure(&device, &kernels, &policy, shape)?;
    }
    Ok(())
}

fn measure(
    device: &Device,
    kernels: &Kernels,
    policy: &PrecisionPolicy,
    [rows, n, inner]: [usize; 3],
) -> Result<()> {
    let at = Site::new("product");
    let element = steadyhand_gr00t::cuda::elements::elements(policy, &at)?.compute;
    let weight = Loader::synthetic(0).weight("product.weight", &[n, inner]);
    let layer = ops::Linear { weight, bias: None };
    let mut layout = Layout::new(policy);
    let copies = (BYTES / (n * inner * 2)).clamp(4, 100);
    let layers: Vec<Linear> = (0..copies).map(|_| layout.linear(&layer, &at)).collect::<Result<_>>()?;
    layout.load(device, kernels, "the products")?;
    let stream = device.stream()?;
    let (start, end) = (device.event()?, device.event()?);
    let mut times = Vec::new();
    let splits = [1, 2, 4, 8].into_iter();
    for tiling in Tiling::all(element, device.properties().compute_capability) {
        for split in splits.clone().filter(|split| inner / 64 >= *split) {
            let mut b = Builder::new(device, kernels, policy, 1);
            b.tiling = Some(Tiling { split, ..tiling });
            let x = b.persistent_tensor(rows, inner, element)?;
            x.upload(&vec![0.5; rows * inner])?;
            for layer in &layers {
                b.linear(layer, &x, element, at.clone(), Then::Store)?;
            }
            let program = b.finish();
            let graph = stream.capture(&mut || program.enqueue(&stream))?;
            let mut best = f32::INFINITY;
            for _ in 0..REPETITIONS {
                stream.record(&start)?;
                stream.replay(&graph)?;
                stream.record(&end)?;
                stream.synchronize()?;
                best = best.min(end.milliseconds_since(&start)?);
            }
            times.push((best * 1e3 / copies as f32, Tiling { split, ..tiling }));
        }
    }
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let chosen = Tiling::choose(rows, n, inner, element, device.properties());
    let bytes = (n * inner * 2) as f32;
    println!("[{rows}, {inner}] x [{inner}, {n}]: {:.2} us at 4.2 TB/s", bytes / 4.2e6);
    let line = |(time, t): &(f32, Tiling), mark: &str| {
        let rate = 2e-6 * (rows * n * inner) as f32 / time;
        println!(
            "  {time:7.2} us  {}x{} /{} stages {}  {rate:.0} TFLOP/s {mark}",
            t.rows, t.columns, t.split, t.stages
        );
    };
    times.iter().take(4).for_each(|time| line(time, ""));
    times.iter().filter(|(_, tiling)| *tiling == chosen).for_each(|time| line(time, "<- chosen"));
    Ok(())
}
