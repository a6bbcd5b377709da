//! How long the parts of an inference take, and what the device can do at best.

use super::builder::Builder;
use super::elements::Element;
use super::engine::CudaEngine;
use super::kernels::Kernels;
use super::linear::Fusion;
use super::weights::Layout;
use crate::Result;
use steadyhand_cuda_driver::{Device, Event, Stream};
use steadyhand_fidelity::Format;
use steadyhand_gr00t::checkpoint::Loader;
use steadyhand_gr00t::engine::{Engine, ModelInput};
use steadyhand_gr00t::ops::{Linear, Site};
use steadyhand_gr00t::precision::{Formats, PrecisionPolicy, Scale};

/// Bytes of a copy that is measured: many times any cache.
const COPY_BYTES: usize = 1 << 30;
/// Copies, or GEMMs, that are measured together.
const REPETITIONS: usize = 20;

/// The time of one stage in each of several inferences.
#[derive(Debug, Clone, PartialEq)]
pub struct StageTime {
    /// Its name, that of a [`topology::Stage`](steadyhand_gr00t::topology::Stage).
    pub name: String,
    /// Milliseconds, one value an inference.
    pub milliseconds: Vec<f32>,
}

impl CudaEngine {
    /// The time of each stage by CUDA events, each stage a graph of its own. Stages that an inference comes
    /// back to, such as the DiT, count once with all their time.
    ///
    /// # Errors
    /// As [`Engine::infer`](steadyhand_gr00t::engine::Engine::infer).
    pub fn stage_times(&mut self, inputs: &[ModelInput], iterations: usize) -> Result<Vec<StageTime>> {
        // The inputs stay on the device for the stages to compute with.
        self.infer(inputs, None)?;
        self.measure_stages(iterations)
    }

    /// Measures the stages of the most recently used program.
    fn measure_stages(&mut self, iterations: usize) -> Result<Vec<StageTime>> {
        let stream = self.stream();
        let Some(program) = self.last_program() else { return Ok(Vec::new()) };
        let mut graphs = Vec::new();
        for (name, steps) in program.stages() {
            graphs.push((name, stream.capture(&mut || program.enqueue_steps(stream, steps.clone()))?));
        }
        let events: Vec<Event> =
            (0..=graphs.len()).map(|_| self.device().event()).collect::<Result<_, _>>()?;
        let mut times: Vec<StageTime> = Vec::new();
        for _ in 0..iterations {
            stream.record(&events[0])?;
            for ((_, graph), event) in graphs.iter().zip(&events[1..]) {
                stream.replay(graph)?;
                stream.record(event)?;
            }
            stream.synchronize()?;
            let mut sums: Vec<(&str, f32)> = Vec::new();
            for ((name, _), pair) in graphs.iter().zip(events.windows(2)) {
                let time = pair[1].milliseconds_since(&pair[0])?;
                match sums.iter_mut().find(|(found, _)| found == name) {
                    Some((_, sum)) => *sum += time,
                    None => sums.push((name, time)),
                }
            }
            for (name, time) in sums {
                match times.iter_mut().find(|found| found.name == name) {
                    Some(found) => found.milliseconds.push(time),
                    None => times.push(StageTime { name: name.to_owned(), milliseconds: vec![time] }),
                }
            }
        }
        Ok(times)
    }
}

/// Bytes read and written in a second by a large copy.
///
/// # Errors
/// No memory is left.
pub fn copy_bandwidth(device: &Device) -> Result<f64> {
    let (from, to) = (device.alloc_zeroed(COPY_BYTES)?, device.alloc_zeroed(COPY_BYTES)?);
    let stream = device.stream()?;
    let seconds = time(device, &stream, &mut || Ok(stream.copy(from.at(0), to.at(0), COPY_BYTES)?))?;
    Ok(2.0 * COPY_BYTES as f64 / seconds)
}

/// Floating-point operations in a second of a GEMM of two `[8192, 8192]` matrices of this format, by the engine's
/// own kernel.
///
/// # Errors
/// No memory is left, or no kernel multiplies the format.
pub fn matrix_rate(device: &Device, kernels: &Kernels, operands: Format) -> Result<f64> {
    const SIZE: usize = 8192;
    let scale = if operands.bits() == 8 { Scale::PerChannel } else { Scale::None };
    let formats = Formats { scale, ..Formats::new(Format::F32, operands, Format::F32) };
    let policy = &PrecisionPolicy::preset("f32")?.with("matrix_rate", formats);
    let weight = Loader::synthetic(0).weight("matrix_rate.weight", &[SIZE, SIZE]);
    let at = Site::new("matrix_rate");
    let mut layout = Layout::new(policy);
    let linear = layout.linear(&Linear { weight: weight.clone(), bias: None }, &at)?;
    layout.load(device, kernels, "a product of two matrices")?;
    let stream = device.stream()?;
    let mut before = Builder::new(device, policy, 1);
    let x = before.persistent_tensor(SIZE, SIZE, Element::F32)?;
    x.upload(&weight.to_vec(Format::F32))?;
    let x = before.as_operand_of(&linear, &x)?;
    before.finish(kernels)?.enqueue(&stream)?;
    let mut b = Builder::new(device, policy, 1);
    let out = if operands == Format::F32 { Element::F32 } else { Element::Bf16 };
    b.linear(&linear, &x, out, at, Fusion::Store)?;
    let program = b.finish(kernels)?;
    let seconds = time(device, &stream, &mut || program.enqueue(&stream))?;
    Ok(2.0 * (SIZE * SIZE * SIZE) as f64 / seconds)
}

/// Seconds of one call of `work`, the median of several.
fn time(device: &Device, stream: &Stream, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let (start, end) = (device.event()?, device.event()?);
    let mut seconds = Vec::new();
    for _ in 0..REPETITIONS {
        stream.record(&start)?;
        work()?;
        stream.record(&end)?;
        stream.synchronize()?;
        seconds.push(f64::from(end.milliseconds_since(&start)?) / 1e3);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[REPETITIONS / 2])
}
