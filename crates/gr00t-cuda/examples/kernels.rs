//! Times kernels of the model on the GPU at hand: microseconds of one in a chain of the same, each product with
//! weights of its own, so that they come from device memory as in an inference. Products are timed in every tiling.
//!
//! `cargo run --release -p steadyhand-gr00t-cuda --example kernels [bf16|fp16|fp8_e4m3] [ROWS OUT IN]...`

use steadyhand_cuda_driver::Device;
use steadyhand_cuda_driver::compile::Compiler;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::checkpoint::Loader;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::{self, Heads, Operation, Site};
use steadyhand_gr00t::precision::{Formats, PrecisionPolicy, Scale};
use steadyhand_gr00t::synthetic::n1_6;
use steadyhand_gr00t_cuda::Result;
use steadyhand_gr00t_cuda::attention::Segment;
use steadyhand_gr00t_cuda::builder::Builder;
use steadyhand_gr00t_cuda::check;
use steadyhand_gr00t_cuda::dit::{self, Dit, Features};
use steadyhand_gr00t_cuda::elements::Element;
use steadyhand_gr00t_cuda::kernels::Kernels;
use steadyhand_gr00t_cuda::linear::{Fusion, Linear};
use steadyhand_gr00t_cuda::norm::{Norm, NormAt};
use steadyhand_gr00t_cuda::program::Program;
use steadyhand_gr00t_cuda::sources::Sources;
use steadyhand_gr00t_cuda::tiling::{SPLITS, Tiling};
use steadyhand_gr00t_cuda::weights::Layout;

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
    let policy = PrecisionPolicy::preset("bf16")?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let operands = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(Format::Bf16);
    let kernels = Kernels::new(&device, Compiler::open(driver_version, None)?, Sources::embedded());
    let scale = if operands.bits() == 8 { Scale::PerChannel } else { Scale::None };
    let formats = Formats { scale, ..Formats::new(Format::Bf16, operands, Format::F32) };
    let products = policy.clone().with("product", formats);
    let numbers: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    let given: Vec<[usize; 3]> =
        numbers.chunks_exact(3).map(|shape| [shape[0], shape[1], shape[2]]).collect();
    if given.is_empty() {
        measure_others(&device, &kernels, &policy)?;
        measure_dit(&device, &kernels, &policy)?;
    }
    for shape in if given.is_empty() { SHAPES.to_vec() } else { given } {
        measure(&device, &kernels, &products, shape)?;
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
    let element = check::operands(policy, at.path(), Operation::Linear)?.compute;
    let weight = Loader::synthetic(0).weight("product.weight", &[n, inner]);
    let layer = ops::Linear { weight, bias: None };
    let mut layout = Layout::new(policy);
    let copies = (BYTES / (n * inner * element.size())).clamp(4, 100);
    let layers: Vec<Linear> = (0..copies).map(|_| layout.linear(&layer, &at)).collect::<Result<_>>()?;
    layout.load(device, kernels, "the products")?;
    // Rounded once, before what is timed.
    let mut before = Builder::new(device, policy, 1);
    let x = before.persistent_tensor(rows, inner, Element::F32)?;
    x.upload(&vec![0.5; rows * inner])?;
    let x = before.as_operand_of(&layers[0], &x)?;
    let stream = device.stream()?;
    before.finish(kernels)?.enqueue(&stream)?;
    stream.synchronize()?;
    let mut times = Vec::new();
    let tilings = Tiling::all(element, device.properties().compute_capability).into_iter();
    let tilings = tilings.flat_map(|tiling| SPLITS.map(|split| Tiling { split, ..tiling }));
    for tiling in tilings.filter(|tiling| tiling.fits(element, inner)) {
        let mut b = Builder::new(device, policy, 1);
        b.tilings = Some(vec![tiling]);
        for layer in &layers {
            b.linear(layer, &x, Element::Bf16, at.clone(), Fusion::Store)?;
        }
        let best = microseconds(device, b.finish(kernels)?)?;
        times.push((best / copies as f32, tiling));
    }
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let candidates = Tiling::candidates(element, device.properties());
    let processors = device.properties().multiprocessors as usize;
    let chosen = Tiling::choose(&candidates, element, [rows, n, inner], processors);
    let bytes = (n * inner * element.size()) as f32;
    println!("[{rows}, {inner}] x [{inner}, {n}]: {:.2} us at 4.2 TB/s", bytes / 4.2e6);
    for (time, tiling) in times {
        let rate = 2e-6 * (rows * n * inner) as f32 / time;
        let mark = if Some(tiling) == chosen { "<- chosen" } else { "" };
        let Tiling { rows, columns, split, stages, k_groups, .. } = tiling;
        println!(
            "  {time:7.2} us  {rows}x{columns} /{split} stages {stages} k_groups {k_groups}  {rate:.0} TFLOP/s {mark}"
        );
    }
    Ok(())
}

/// The least time of a program as a graph.
fn microseconds(device: &Device, program: Program) -> Result<f32> {
    let stream = device.stream()?;
    let (start, end) = (device.event()?, device.event()?);
    let graph = stream.capture(&mut || program.enqueue(&stream))?;
    let mut best = f32::INFINITY;
    for _ in 0..REPETITIONS {
        stream.record(&start)?;
        stream.replay(&graph)?;
        stream.record(&end)?;
        stream.synchronize()?;
        best = best.min(end.milliseconds_since(&start)? * 1e3);
    }
    Ok(best)
}

/// Norms and attention of W1, each in a chain of which every kernel reads what the one before it wrote.
fn measure_others(device: &Device, kernels: &Kernels, policy: &PrecisionPolicy) -> Result<()> {
    const CHAIN: usize = 100;
    let at = Site::new("kernel");
    let element = check::storage(policy, at.path())?;
    for (rows, features) in [(51, 1536), (324, 1152), (121, 2048)] {
        let mut b = Builder::new(device, policy, 1);
        let mut x = b.persistent_tensor(rows, features, element)?;
        x.upload(&(0..rows * features).map(|i| (i % 97) as f32 - 48.0).collect::<Vec<_>>())?;
        for _ in 0..CHAIN {
            let norm = NormAt { norm: Norm::Layer, affine: None, eps: 1e-5, site: at.clone() };
            x = b.norm(&x, norm, element)?;
        }
        let time = microseconds(device, b.finish(kernels)?)? / CHAIN as f32;
        println!("norm [{rows}, {features}]: {time:.2} us");
    }
    let heads = |heads, kv_heads, head_dim| Heads { heads, kv_heads, head_dim };
    for (queries, keys, heads, causal) in [
        (51, 51, heads(32, 32, 48), false),
        (51, 81, heads(32, 32, 48), false),
        (324, 324, heads(16, 16, 72), false),
        (121, 121, heads(16, 8, 128), true),
    ] {
        let mut b = Builder::new(device, policy, 1);
        let seen = b.attention_mask(&[Segment { query_start: 0, queries, key_start: 0, keys }], causal)?;
        let Heads { heads: count, kv_heads, head_dim } = heads;
        let mut q = b.persistent_tensor(queries, count * head_dim, element)?;
        q.upload(&(0..queries * q.features).map(|i| (i % 97) as f32 / 97.0).collect::<Vec<_>>())?;
        let k = b.persistent_tensor(keys, kv_heads * head_dim, element)?;
        k.upload(&(0..keys * k.features).map(|i| (i % 89) as f32 / 89.0).collect::<Vec<_>>())?;
        for _ in 0..CHAIN {
            q = b.attention([&q, &k, &k], heads, &seen, element, at.clone())?;
        }
        let time = microseconds(device, b.finish(kernels)?)? / CHAIN as f32;
        println!("attention, {queries} queries, {keys} keys, {heads:?}: {time:.2} us");
    }
    Ok(())
}

/// One Euler step of the DiT, with all tilings to choose from and with some left out.
fn measure_dit(device: &Device, kernels: &Kernels, policy: &PrecisionPolicy) -> Result<()> {
    let model = Model::synthetic(n1_6(), 0)?;
    let mut layout = Layout::new(policy);
    let weights = Dit::lay_out(&mut layout, &model.action_head.dit)?;
    layout.load(device, kernels, "the DiT")?;
    let mut b = Builder::by_step(device, policy);
    let times = dit::times(&mut b, &weights, &[0])?;
    b.finish(kernels)?.enqueue(&device.stream()?)?;
    let all = Tiling::candidates(Element::Bf16, device.properties());
    let some = |keep: fn(&Tiling) -> bool| all.iter().copied().filter(keep).collect::<Vec<_>>();
    for (name, tilings) in [
        ("all tilings", all.clone()),
        ("64x64 alone", some(|t| (t.rows, t.columns) == (64, 64))),
        ("not split", some(|t| t.split == 1)),
    ] {
        let mut b = Builder::new(device, policy, 1);
        b.tilings = Some(tilings);
        let tokens = b.persistent_tensor(121, 2048, Element::Bf16)?;
        let features = Features { tokens, text: 40, images: 81 };
        let memory = dit::memory(&mut b, &weights, &features, 51)?;
        let x = b.persistent_tensor(51, 1536, Element::Bf16)?;
        b.stage("dit", |b| dit::forward(b, &weights, &x, &memory, &times, 0, Element::Bf16))?;
        println!(
            "DiT, one step, with its keys and values; {name}: {:.1} us",
            microseconds(device, b.finish(kernels)?)?
        );
    }
    Ok(())
}
