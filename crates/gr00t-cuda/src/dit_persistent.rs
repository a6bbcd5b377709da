//! All blocks of the DiT in one kernel, for one Euler step: `kernels/dit_persistent.cu`.
//!
//! The chain of kernels that `dit.rs` records is the plain version. It runs where this cannot, and where tensors are
//! asked for; both round at the same places, but for norms before a product, whose result this rounds after the product instead.

use super::builder::{Builder, row_stride};
use super::dit::{Dit, KeyValue, Memory, Times};
use super::dit_obstacles::{of_device, of_model};
use super::elements::Element;
use super::kernels::{Argument, Defines, Kernels, Variant, eight_bits};
use super::linear::Linear;
use super::program::Tensor;
use crate::{Error, Result};
use steadyhand_cuda_driver::kernel_params;
use steadyhand_cuda_driver::{
    Buffer, Device, DevicePtr, ElementType, Launch, Stream, TensorMap, Tiles, bytes_of,
};
use steadyhand_gr00t::model::dit::{Attends, NORM_EPS};
use steadyhand_gr00t::precision::PrecisionPolicy;

/// The one shape that the kernel is written for, as in `dit_exchange.cuh`.
pub(super) const HIDDEN: usize = 1536;
pub(super) const FF: usize = 6144;
pub(super) const HEADS: usize = 32;
pub(super) const HEAD_DIM: usize = 48;
pub(super) const MAX_BLOCKS: usize = 32;
/// Rows of state and action tokens that it takes at most.
const MAX_ROWS: usize = 56;
/// Tokens of a memory that it takes at most.
const MAX_KEYS: usize = 256;

/// Blocks of the grid, two in a cluster.
pub(super) const GRID: usize = 128;
pub(super) const CLUSTER: usize = 2;
/// Dynamic shared memory of a block; the kernel does not compile where it needs another amount.
pub(super) const SHARED_BYTES: usize = 231_640;

/// Rows of what blocks of the grid hand to each other.
const ROWS: usize = 64;
const STREAM_BYTES: usize = ROWS * HIDDEN * 2;
/// Streams before GELU's results.
const STREAMS: usize = 6;
/// Of even or odd blocks of the DiT; the kernel does not compile where it needs another amount.
const EXCHANGE_BYTES: usize = STREAMS * STREAM_BYTES + ROWS * FF * 2 + 2 * ROWS * 64 * 8 + 64 * 128;
const PARTIALS_BYTES: usize = GRID * 12_288;
/// Tries of a wait after which the launch ends with an error: a tenth of a second at least.
const PATIENCE: u32 = 1 << 20;
/// Memory that must be left for programs of shapes.
const MARGIN: usize = 1 << 30;

kernel_params! {
    /// What a cross-attention block attends to.
    pub(super) struct DitMemory {
        /// `[keys, ld]`, bf16.
        key: DevicePtr as "const unsigned short*",
        value: DevicePtr as "const unsigned short*",
        ld: u32,
        keys: u32,
    }

    /// An Euler step of the DiT's blocks. What blocks of the grid exchange is fetched as boxes of two tiles of 56 rows of 64
    /// columns: streams, and GELU's results, of even and of odd blocks of the DiT.
    pub(super) struct DitParams {
        even_streams: TensorMap,
        odd_streams: TensorMap,
        even_gelus: TensorMap,
        odd_gelus: TensorMap,
        /// `[grid, weights_each]`, packed by `dit_pack.cu`.
        weights: DevicePtr as "const unsigned char*",
        weights_each: u64,
        /// `[blocks, 4608]`: c1 and c0 of a norm y = inverse (W x - mean c1) + c0 before query, key and value.
        own: DevicePtr as "const float2*",
        /// `[blocks, 6144]`: the same before fc1.
        fc1: DevicePtr as "const float2*",
        /// `[blocks, 2, 1536]`: of the output projection and fc2.
        biases: DevicePtr as "const float*",
        /// `[blocks, 1536]`, bf16: 1 + scale of the modulation.
        scales: DevicePtr as "const unsigned short*",
        /// `[rows, 1536]`, bf16.
        tokens: DevicePtr as "const unsigned short*",
        /// `[rows, 1536]`, bf16.
        out: DevicePtr as "unsigned short*",
        /// Twice what blocks of the grid exchange, then sums of fc2; all ones at first.
        exchange: DevicePtr as "unsigned char*",
        /// Of each even block.
        memories: DevicePtr as "const DitMemory*",
        rows: u32,
        /// Tries after which a wait ends the launch with an error.
        patience: u32,
        /// Even; even ones attend to a memory.
        blocks: u32,
        /// Of attention's scores.
        scale: f32,
        eps: f32,
    }

    /// A matrix for the streams of weights.
    pub(super) struct DitPackParams {
        /// `[features, ld]`, bf16.
        from: DevicePtr as "const unsigned short*",
        /// Its place in the first block's stream.
        to: DevicePtr as "unsigned char*",
        /// Bytes from one block's stream to the next.
        each: u64,
        /// Of the matrix in a stream.
        bytes: u32,
        ld: u32,
        /// As `Matrix`.
        matrix: u32,
    }

    /// A product of 1536 columns after a norm.
    pub(super) struct DitConstantsParams {
        /// `[features, ld]`, bf16.
        weights: DevicePtr as "const unsigned short*",
        /// `[features]`.
        bias: DevicePtr as "const float*",
        /// `[1536]` of the modulation, without the one; null for a norm alone.
        scale: DevicePtr as "const float*",
        shift: DevicePtr as "const float*",
        /// `[features]`: what is multiplied with the mean, and what is added.
        to: DevicePtr as "float2*",
        features: u32,
        ld: u32,
    }
}

impl Argument for DitParams {
    fn fixed(&self) -> Defines {
        vec![eight_bits(&[])]
    }
}

impl Argument for DitPackParams {
    fn fixed(&self) -> Defines {
        vec![eight_bits(&[])]
    }
}

impl Argument for DitConstantsParams {
    fn fixed(&self) -> Defines {
        vec![eight_bits(&[])]
    }
}

/// Every kernel of this file.
pub(super) fn variants() -> Vec<Variant> {
    vec![variant(), Variant::dit_pack("pack"), Variant::dit_pack("constants")]
}

pub(super) fn variant() -> Variant {
    let sizes = [("SHARED_MEMORY", SHARED_BYTES), ("EXCHANGED", EXCHANGE_BYTES)];
    Variant::dit_persistent(SHARED_BYTES as u32).compiled_for(sizes)
}

/// A matrix's order in the stream of weights, as in `dit_pack.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Matrix {
    /// Query, key and value.
    Own = 0,
    /// 1536 features of 1536.
    Narrow = 1,
    Fc1 = 2,
    Fc2 = 3,
}

impl Matrix {
    /// Bytes of the whole matrix.
    fn bytes(self) -> usize {
        let features = match self {
            Matrix::Own => 3 * HIDDEN,
            Matrix::Narrow => HIDDEN,
            Matrix::Fc1 | Matrix::Fc2 => FF,
        };
        features * HIDDEN * 2
    }
}

/// The DiT's weights and constants as the kernel wants them, and the memory that its blocks share.
pub struct Persistent {
    device: Device,
    /// `[GRID, weights_each]` bytes.
    weights: Buffer,
    weights_each: usize,
    /// `[steps, blocks, 3 * HIDDEN, 2]`, f32.
    own: Buffer,
    /// `[blocks, FF, 2]`, f32.
    fc1: Buffer,
    /// `[blocks, 2, HIDDEN]`, f32.
    biases: Buffer,
    /// `[steps, blocks, HIDDEN]`, bf16.
    scales: Buffer,
    exchange: Buffer,
    blocks: usize,
}

/// Bytes of `own` for one step.
const fn own_bytes(blocks: usize) -> usize {
    blocks * 3 * HIDDEN * 8
}

impl Persistent {
    /// Packs what was loaded, or says what is in the way.
    ///
    /// # Errors
    /// A copy or a kernel fails, a kernel does not compile.
    pub fn prepare(
        device: &Device,
        kernels: &Kernels,
        stream: &Stream,
        policy: &PrecisionPolicy,
        (w, times): (&Dit, &Times),
    ) -> Result<std::result::Result<Self, String>> {
        let matrices = |block: usize| matrices(w, block);
        let obstacle = match of_model(policy, w)? {
            None => of_device(device, kernels, stream)?,
            some => some,
        };
        if let Some(obstacle) = obstacle {
            return Ok(Err(obstacle));
        }
        let blocks = w.blocks.len();
        let all: usize = (0..blocks).flat_map(matrices).map(|(matrix, _)| matrix.bytes()).sum();
        let own = times.steps() * own_bytes(blocks);
        let needed = all + own + blocks * FF * 8 + 2 * EXCHANGE_BYTES + PARTIALS_BYTES + MARGIN;
        let free = device.free_memory()?;
        if free < needed {
            return Ok(Err(format!("needs {needed} bytes of memory, {free} are free")));
        }
        let persistent = Persistent {
            device: device.clone(),
            weights: device.alloc_zeroed(all)?,
            weights_each: all / GRID,
            own: device.alloc_zeroed(own)?,
            fc1: device.alloc_zeroed(blocks * FF * 8)?,
            biases: device.alloc_zeroed(blocks * 2 * HIDDEN * 4)?,
            scales: device.alloc_zeroed(times.steps() * blocks * HIDDEN * 2)?,
            exchange: device.alloc_zeroed(2 * EXCHANGE_BYTES + PARTIALS_BYTES)?,
            blocks,
        };
        persistent.pack(w, stream, kernels)?;
        persistent.compute_constants((w, times), stream, kernels)?;
        persistent.copy_scales(times)?;
        stream.synchronize()?;
        // Nothing has been handed over.
        persistent.exchange.upload(0, &vec![0xff; persistent.exchange.len()])?;
        Ok(Ok(persistent))
    }

    fn pack(&self, w: &Dit, stream: &Stream, kernels: &Kernels) -> Result<()> {
        let mut first = 0;
        for (matrix, linear) in (0..self.blocks).flat_map(|block| matrices(w, block)) {
            let bytes = matrix.bytes() / GRID;
            let params = DitPackParams {
                from: linear.weight.pointer(),
                to: self.weights.at(first),
                each: self.weights_each as u64,
                bytes: bytes as u32,
                ld: row_stride(linear.in_features, Element::Bf16) as u32,
                matrix: matrix as u32,
            };
            run(stream, kernels, "pack", 1024, &params)?;
            first += bytes;
        }
        Ok(())
    }

    fn compute_constants(
        &self,
        (w, times): (&Dit, &Times),
        stream: &Stream,
        kernels: &Kernels,
    ) -> Result<()> {
        let constants = |linear: &Linear, [scale, shift]: [DevicePtr; 2], to: DevicePtr| {
            let params = DitConstantsParams {
                weights: linear.weight.pointer(),
                bias: bias(linear),
                scale,
                shift,
                to,
                features: linear.out_features as u32,
                ld: row_stride(linear.in_features, Element::Bf16) as u32,
            };
            run(stream, kernels, "constants", linear.out_features.div_ceil(8), &params)
        };
        for (index, block) in w.blocks.iter().enumerate() {
            let own = &block.own.gemms[0].0;
            for step in 0..times.steps() {
                let to = self.own.at(step * own_bytes(self.blocks) + index * own_bytes(1));
                constants(own, times.halves(index, step), to)?;
            }
            constants(&block.fc1, [DevicePtr::NULL; 2], self.fc1.at(index * FF * 8))?;
            for (place, linear) in [&block.output, &block.fc2].into_iter().enumerate() {
                stream.copy(bias(linear), self.biases.at((index * 2 + place) * HIDDEN * 4), HIDDEN * 4)?;
            }
        }
        Ok(())
    }

    /// One and the scales of the modulations, rounded as their kernel does it.
    fn copy_scales(&self, times: &Times) -> Result<()> {
        for step in 0..times.steps() {
            for index in 0..self.blocks {
                let scale = times.scale(index, step)?;
                let values: Vec<f32> = scale.iter().map(|scale| 1.0 + scale).collect();
                let first = (step * self.blocks + index) * HIDDEN * 2;
                self.scales.upload(first, &Element::Bf16.encode(&values))?;
            }
        }
        Ok(())
    }

    /// Whether the kernel computes what `tokens` and `memory` ask for.
    pub fn takes(&self, batch: usize, tokens: &Tensor, memory: &Memory) -> bool {
        let narrow = |tensor: &Tensor| tensor.element == Element::Bf16;
        let mut memories = memory.blocks.iter().flatten();
        batch == 1
            && (1..=MAX_ROWS).contains(&tokens.rows)
            && narrow(tokens)
            && tokens.ld == HIDDEN
            && memories.all(|m| {
                let same_rows = (m.key.rows, m.key.ld) == (m.value.rows, m.value.ld);
                narrow(&m.key) && narrow(&m.value) && same_rows && (1..=MAX_KEYS).contains(&m.key.rows)
            })
    }

    /// What to launch.
    pub(super) fn kernel(&self) -> (Variant, [usize; 3], usize) {
        (variant(), [1, 1, GRID], CLUSTER)
    }

    /// What the blocks attend to, for a program that is recorded.
    ///
    /// # Errors
    /// No memory is left.
    pub fn memories(&self, b: &mut Builder, memory: &Memory) -> Result<DevicePtr> {
        let of = |m: &KeyValue| DitMemory {
            key: m.key.pointer(),
            value: m.value.pointer(),
            ld: m.key.ld as u32,
            keys: m.key.rows as u32,
        };
        let all: Vec<DitMemory> = memory.blocks.iter().flatten().map(of).collect();
        b.constant_bytes(bytes_of(&all))
    }

    /// The argument for an Euler step whose result is `out`, `[rows, HIDDEN]`.
    pub(super) fn params(
        &self,
        tokens: &Tensor,
        memories: DevicePtr,
        step: usize,
        out: &Tensor,
    ) -> Result<DitParams> {
        if (out.rows, out.ld, out.element) != (tokens.rows, HIDDEN, Element::Bf16) {
            let found = format!("{} rows of {} elements of {:?}", out.rows, out.ld, out.element);
            return Err(Error::engine("record the DiT", format!("expected {HIDDEN} in bf16, found {found}")));
        }
        let of = |buffer: &Buffer, bytes: usize| buffer.at(step * bytes);
        let [even_streams, odd_streams] = self.maps(0, STREAMS * ROWS, HIDDEN)?;
        let [even_gelus, odd_gelus] = self.maps(STREAMS * STREAM_BYTES, ROWS, FF)?;
        Ok(DitParams {
            even_streams,
            odd_streams,
            even_gelus,
            odd_gelus,
            weights: self.weights.at(0),
            weights_each: self.weights_each as u64,
            own: of(&self.own, own_bytes(self.blocks)),
            fc1: self.fc1.at(0),
            biases: self.biases.at(0),
            scales: of(&self.scales, self.blocks * HIDDEN * 2),
            tokens: tokens.pointer(),
            out: out.pointer(),
            exchange: self.exchange.at(0),
            memories,
            rows: tokens.rows as u32,
            patience: PATIENCE,
            blocks: self.blocks as u32,
            scale: (HEAD_DIM as f32).sqrt().recip(),
            eps: NORM_EPS as f32,
        })
    }

    /// What is fetched of a part of what is exchanged, of even and odd blocks.
    fn maps(&self, first: usize, rows: usize, columns: usize) -> Result<[TensorMap; 2]> {
        let tiles = columns / 64;
        let boxes =
            Tiles { element: ElementType::Bf16, rows, tiles, ld: columns, box_rows: MAX_ROWS, box_tiles: 2 };
        let map = |parity: usize| {
            TensorMap::of_tiles(&self.device, self.exchange.at(parity * EXCHANGE_BYTES + first), boxes)
        };
        Ok([map(0)?, map(1)?])
    }
}

/// A block's matrices in the order of their use.
pub(super) fn matrices(w: &Dit, index: usize) -> [(Matrix, &Linear); 4] {
    let block = &w.blocks[index];
    let own = if block.attends == Attends::Itself { Matrix::Own } else { Matrix::Narrow };
    [
        (own, &block.own.gemms[0].0),
        (Matrix::Narrow, &block.output),
        (Matrix::Fc1, &block.fc1),
        (Matrix::Fc2, &block.fc2),
    ]
}

fn bias(linear: &Linear) -> DevicePtr {
    linear.bias.as_ref().map_or(DevicePtr::NULL, |bias| bias.pointer())
}

fn run<P: Argument>(
    stream: &Stream,
    kernels: &Kernels,
    entry: &'static str,
    blocks: usize,
    params: &P,
) -> Result<()> {
    let variant = Variant::dit_pack(entry).for_argument(params);
    let launch = Launch {
        grid: [blocks as u32, 1, 1],
        block: variant.block,
        shared_bytes: 0,
        cluster: 1,
        programmatic: false,
        cooperative: false,
    };
    Ok(stream.launch(&kernels.get(&variant)?, &launch, params)?)
}
