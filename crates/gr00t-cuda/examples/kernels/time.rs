//! Times a kernel, a GEMM in every tiling.

use crate::cases::{Case, Weights};
use std::fmt;
use steadyhand_cuda_driver::Device;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t_cuda::Result;
use steadyhand_gr00t_cuda::builder::{Builder, row_stride};
use steadyhand_gr00t_cuda::kernels::Kernels;
use steadyhand_gr00t_cuda::program::Program;
use steadyhand_gr00t_cuda::tiling::Tiling;
use steadyhand_gr00t_cuda::weights::Layout;

/// Bytes of weights that are read before the first are read again: many times any cache.
const BYTES: usize = 400 << 20;
/// Kernels in a chain without weights.
const CHAIN: usize = 100;
const REPETITIONS: usize = 5;

/// Microseconds of one kernel.
pub enum Measured {
    /// It has one form.
    One(f32),
    /// By tiling, the fastest first, and which the engine chooses.
    Tilings(Vec<(f32, Tiling)>, Option<Tiling>),
}

impl Measured {
    /// The time of what the engine launches, and the least time.
    pub fn chosen_and_best(&self) -> (f32, f32) {
        match self {
            Measured::One(time) => (*time, *time),
            Measured::Tilings(times, chosen) => {
                let best = times.first().map_or(0.0, |(time, _)| *time);
                let of_chosen = times.iter().find(|(_, tiling)| Some(*tiling) == *chosen);
                // A choice that was not timed is one that the engine may not make.
                (of_chosen.map_or(f32::INFINITY, |(time, _)| *time), best)
            }
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (chosen, best) = self.chosen_and_best();
        let Measured::Tilings(times, _) = self else { return write!(f, "{chosen:.2} us") };
        write!(f, "{chosen:.2} us, best {best:.2} us of {} tilings", times.len())
    }
}

impl Measured {
    /// A line for each tiling.
    pub fn tilings(&self) -> Vec<String> {
        let Measured::Tilings(times, choice) = self else { return Vec::new() };
        let line = |(time, tiling): &(f32, Tiling)| {
            let Tiling { multiplier, rows, columns, split, stages, k_groups } = tiling;
            let mark = if Some(*tiling) == *choice { " <- chosen" } else { "" };
            format!(
                "  {time:7.2} us  {multiplier:?} {rows}x{columns} /{split} stages {stages} k groups {k_groups}{mark}"
            )
        };
        times.iter().map(line).collect()
    }
}

/// Times a case, whose result was checked.
///
/// # Errors
/// No memory is left; CUDA's.
pub fn measure(
    case: &Case,
    device: &Device,
    kernels: &Kernels,
    policy: &PrecisionPolicy,
    within: f32,
) -> Result<Measured> {
    let Some([rows, n, inner]) = case.gemm() else { return chain(case, device, kernels, policy) };
    let mut layout = Layout::new(policy);
    let first = case.lay_out(&mut layout)?;
    let Weights::Linear(linear) = &first else { return chain(case, device, kernels, policy) };
    let element = linear.element;
    let copies = (BYTES / (n * inner * element.size())).clamp(4, 100);
    let more: Vec<Weights> = (1..copies).map(|_| case.lay_out(&mut layout)).collect::<Result<_>>()?;
    let weights: Vec<&Weights> = std::iter::once(&first).chain(&more).collect();
    layout.load(device, kernels, "the weights of GEMMs")?;
    // Rounded once, before what is timed.
    let mut before = Builder::new(device, policy, 1);
    let mut inputs = case.inputs(&mut before)?;
    inputs[0] = before.as_operand_of(linear, &inputs[0])?;
    let stream = device.stream()?;
    before.finish(kernels)?.enqueue(&stream)?;
    stream.synchronize()?;
    let properties = device.properties();
    let tilings = Tiling::candidates(element, properties);
    let shape = [case.items * rows, n, row_stride(inner, element)];
    let chosen = Tiling::choose(&tilings, element, shape, properties.multiprocessors as usize);
    let estimate =
        |tiling: &Tiling| tiling.nanoseconds(element, shape, properties.multiprocessors as usize) as f32;
    let most = chosen.as_ref().map_or(f32::INFINITY, |tiling| within * estimate(tiling));
    let timed = |tiling: &Tiling| tiling.fits(element, shape[2]) && estimate(tiling) <= most;
    let mut recorded = Vec::new();
    for tiling in tilings.into_iter().filter(timed) {
        let mut b = Builder::new(device, policy, 1);
        b.tilings = Some(vec![tiling]);
        weights.iter().try_for_each(|weights| case.record(&mut b, weights, &inputs))?;
        recorded.push((b, tiling));
    }
    // All at once: one after the other they would take longer to compile than to time.
    kernels.prepare(recorded.iter().flat_map(|(b, _)| b.variants()))?;
    let mut times = Vec::new();
    for (b, tiling) in recorded {
        times.push((microseconds(device, b.finish(kernels)?)? / copies as f32, tiling));
    }
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(Measured::Tilings(times, chosen))
}

fn chain(case: &Case, device: &Device, kernels: &Kernels, policy: &PrecisionPolicy) -> Result<Measured> {
    let mut layout = Layout::new(policy);
    let weights = case.lay_out(&mut layout)?;
    layout.load(device, kernels, &case.to_string())?;
    let mut b = Builder::new(device, policy, 1);
    let inputs = case.inputs(&mut b)?;
    (0..CHAIN).try_for_each(|_| case.record(&mut b, &weights, &inputs))?;
    Ok(Measured::One(microseconds(device, b.finish(kernels)?)? / CHAIN as f32))
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
