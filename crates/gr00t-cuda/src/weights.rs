//! The weights on the device: one allocation, every tensor in the layout and the element type of its GEMM.
//!
//! Loading has two steps. First the model's files lay out what they need, which allocates nothing and tells how
//! much memory it takes; then everything is brought there at once, rearranged on the device.

use super::builder::row_stride;
use super::check;
use super::elements::{Element, SiteElements, Stored};
use super::kernels::Kernels;
use super::linear::{Linear, Part, Projection, Scales};
use super::norm::Affine;
use super::pack::{Job, ScaledJob, element_of};
use crate::{Error, Result};
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use steadyhand_cuda_driver::{Buffer, Device, DevicePtr};
use steadyhand_gr00t::checkpoint::Weight;
use steadyhand_gr00t::ops::{self, Operation, Site};
use steadyhand_gr00t::precision::PrecisionPolicy;

/// Rows of a GEMM's weights are padded to its widest tile.
const TILE_COLUMNS: usize = 128;
/// Where a tensor may start.
const TENSOR_ALIGN: usize = 256;
/// A place in the weights' memory, which exists once the weights are loaded.
#[derive(Debug, Clone)]
pub struct Region {
    memory: Arc<OnceLock<Buffer>>,
    first: usize,
}

impl Region {
    /// Where it lies; null before loading.
    pub fn pointer(&self) -> DevicePtr {
        self.memory.get().map_or(DevicePtr::NULL, |memory| memory.at(self.first))
    }
}

/// A table whose rows are read, in its own element type.
#[derive(Debug, Clone)]
pub struct Table {
    /// `[rows, features]` without padding.
    pub region: Region,
    /// Features of a row.
    pub features: usize,
    /// Element type.
    pub element: Element,
}

/// Lays out weights for a policy.
pub struct Layout<'a> {
    policy: &'a PrecisionPolicy,
    memory: Arc<OnceLock<Buffer>>,
    bytes: usize,
    jobs: Vec<Job>,
}

impl<'a> Layout<'a> {
    /// Nothing yet.
    pub fn new(policy: &'a PrecisionPolicy) -> Self {
        Layout { policy, memory: Arc::default(), bytes: 0, jobs: Vec::new() }
    }

    /// Bytes of everything that was laid out.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn reserve(&mut self, bytes: usize) -> Region {
        let first = self.bytes.next_multiple_of(TENSOR_ALIGN);
        self.bytes = first + bytes;
        Region { memory: Arc::clone(&self.memory), first }
    }

    /// A vector in f32, rounded to the storage format of the site.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn vector(&mut self, weight: &Weight, at: &Site) -> Result<Region> {
        let region = self.reserve(weight.len() * 4);
        let format = check::storage(self.policy, at.path())?;
        self.vector_job(weight, 0..weight.len(), region.first, format);
        Ok(region)
    }

    fn vector_job(&mut self, weight: &Weight, elements: Range<usize>, to: usize, format: Element) {
        self.jobs.push(Job {
            weight: weight.clone(),
            first: elements.start,
            rows: 1,
            columns: elements.len(),
            transposed: false,
            to,
            ld: elements.len(),
            first_row: 0,
            element: Element::F32,
            format,
            interleave: 1,
            lane: 0,
            scaled: None,
        });
    }

    /// Scale and shift of a norm.
    ///
    /// # Errors
    /// As [`Layout::vector`].
    pub fn affine(&mut self, affine: &ops::Affine, at: &Site) -> Result<Affine> {
        let weight = self.vector(&affine.weight, at)?;
        Ok(Affine { weight, bias: Some(self.vector(&affine.bias, at)?) })
    }

    /// Scale of an RMSNorm.
    ///
    /// # Errors
    /// As [`Layout::vector`].
    pub fn scale(&mut self, weight: &Weight, at: &Site) -> Result<Affine> {
        Ok(Affine { weight: self.vector(weight, at)?, bias: None })
    }

    /// A table in its own element type: rows are rounded when they are read.
    pub fn table(&mut self, weight: &Weight) -> Table {
        let (rows, features) = (weight.shape()[0], weight.shape()[1]);
        let element = element_of(weight.dtype());
        let region = self.reserve(rows * features * element.size());
        self.jobs.push(Job {
            weight: weight.clone(),
            first: 0,
            rows,
            columns: features,
            transposed: false,
            to: region.first,
            ld: features,
            first_row: 0,
            element,
            format: element,
            interleave: 1,
            lane: 0,
            scaled: None,
        });
        Table { region, features, element }
    }

    /// One linear layer.
    ///
    /// # Errors
    /// As [`Layout::vector`].
    pub fn linear(&mut self, layer: &ops::Linear, at: &Site) -> Result<Linear> {
        let elements = check::operands(self.policy, at.path(), Operation::Linear)?;
        self.joined(&[layer], elements, false)
    }

    /// Gate and up as one GEMM whose columns take turns in eights. Their sites may differ in what the results
    /// are stored in, not in their operands.
    ///
    /// # Errors
    /// As [`Layout::vector`]; operands of different formats; a width that is not a multiple of eight.
    pub fn gate_and_up(&mut self, gate: &ops::Linear, up: &ops::Linear, sites: [&Site; 2]) -> Result<Linear> {
        let elements = check::gate_up_operands(self.policy, sites[0].path(), sites[1].path())?;
        if !gate.weight.shape()[0].is_multiple_of(8) {
            let what = format!("expected a width that is a multiple of 8, found {}", gate.weight.shape()[0]);
            return Err(steadyhand_gr00t::Error::Shape {
                site: sites[0].to_string(),
                operation: "gate_and_up",
                what,
            }
            .into());
        }
        self.joined(&[gate, up], elements, true)
    }

    /// Layers of the same input. Each comes with its site's path and the site that its result is an operand of,
    /// where that is all it is for.
    ///
    /// # Errors
    /// As [`Layout::vector`].
    pub fn projection(&mut self, layers: &[(&ops::Linear, Site, Option<Site>)]) -> Result<Projection> {
        // Layers whose formats agree share a GEMM.
        let mut groups: Vec<(SiteElements, Stored, Vec<usize>)> = Vec::new();
        for (index, (_, site, consumer)) in layers.iter().enumerate() {
            let elements = check::operands(self.policy, site.path(), Operation::Linear)?;
            let out = match consumer {
                Some(consumer) => check::as_operand(self.policy, consumer.path())?,
                None => None,
            };
            let out = out.unwrap_or(elements.storage.into());
            match groups.iter_mut().find(|group| (group.0, group.1) == (elements, out)) {
                Some(group) => group.2.push(index),
                None => groups.push((elements, out, vec![index])),
            }
        }
        let mut projection = Projection { gemms: Vec::new(), parts: Vec::new() };
        let mut places = vec![(0, 0); layers.len()];
        for (gemm, (elements, out, members)) in groups.iter().enumerate() {
            let mut first = 0;
            for member in members {
                places[*member] = (gemm, first);
                first += layers[*member].0.weight.shape()[0];
            }
            let joined: Vec<&ops::Linear> = members.iter().map(|member| layers[*member].0).collect();
            projection.gemms.push((self.joined(&joined, *elements, false)?, *out));
        }
        let part =
            |((layer, site, _), (gemm, first)): (&(&ops::Linear, Site, Option<Site>), (usize, usize))| Part {
                path: site.path().to_owned(),
                gemm,
                first,
                features: layer.weight.shape()[0],
            };
        projection.parts = layers.iter().zip(places).map(part).collect();
        Ok(projection)
    }

    /// Layers one below the other, or with rows that take turns in eights.
    fn joined(&mut self, layers: &[&ops::Linear], elements: SiteElements, in_turns: bool) -> Result<Linear> {
        let in_features = layers[0].weight.shape()[1];
        let out_features: usize = layers.iter().map(|layer| layer.weight.shape()[0]).sum();
        let (weight, ld) = self.reserve_matrix(out_features, in_features, elements.compute);
        let bias = layers[0].bias.is_some().then(|| self.reserve(out_features * 4));
        let scaled = elements.scaling.map(|scaling| {
            let [amaxes, scales] = [self.reserve(out_features * 4), self.reserve(out_features * 4)];
            let job = ScaledJob { by_layer: scaling.by_layer, amaxes: amaxes.first, scales: scales.first };
            (job, Scales { weights: scales, activations: scaling.activations })
        });
        let mut first_row = 0;
        for (index, layer) in layers.iter().enumerate() {
            let rows = layer.weight.shape()[0];
            self.jobs.push(Job {
                weight: layer.weight.clone(),
                first: 0,
                rows,
                columns: in_features,
                transposed: false,
                to: weight.first,
                ld,
                first_row: if in_turns { 0 } else { first_row },
                element: elements.compute,
                format: elements.compute,
                interleave: if in_turns { layers.len() } else { 1 },
                lane: if in_turns { index } else { 0 },
                scaled: scaled.as_ref().map(|(job, _)| *job),
            });
            if let (Some(values), Some(region)) = (&layer.bias, &bias) {
                self.vector_job(values, 0..rows, region.first + first_row * 4, elements.storage);
            }
            first_row += rows;
        }
        let (element, stores_product) = (elements.compute, false);
        let scales = scaled.map(|(_, scales)| scales);
        Ok(Linear { weight, bias, element, scales, out_features, in_features, stores_product })
    }

    /// One embodiment's slice of a category-specific layer.
    ///
    /// # Errors
    /// As [`Layout::vector`].
    pub fn category(&mut self, layer: &ops::CategoryLinear, slot: usize, at: &Site) -> Result<Linear> {
        let elements = check::operands(self.policy, at.path(), Operation::CategoryLinear)?;
        let (in_features, out_features) = (layer.weight.shape()[1], layer.weight.shape()[2]);
        let (weight, ld) = self.reserve_matrix(out_features, in_features, elements.compute);
        self.jobs.push(Job {
            weight: layer.weight.clone(),
            first: slot * in_features * out_features,
            rows: out_features,
            columns: in_features,
            transposed: true,
            to: weight.first,
            ld,
            first_row: 0,
            element: elements.compute,
            format: elements.compute,
            interleave: 1,
            lane: 0,
            scaled: None,
        });
        let bias = self.reserve(out_features * 4);
        let slice = slot * out_features..(slot + 1) * out_features;
        self.vector_job(&layer.bias, slice, bias.first, elements.storage);
        let (element, bias, stores_product) = (elements.compute, Some(bias), true);
        Ok(Linear { weight, bias, element, scales: None, out_features, in_features, stores_product })
    }

    fn reserve_matrix(&mut self, rows: usize, columns: usize, element: Element) -> (Region, usize) {
        let ld = row_stride(columns, element);
        (self.reserve(rows.next_multiple_of(TILE_COLUMNS) * ld * element.size()), ld)
    }

    /// Brings everything to the device.
    ///
    /// # Errors
    /// Too little memory, with how much is needed; a copy or a kernel fails.
    pub fn load(self, device: &Device, kernels: &Kernels, what: &str) -> Result<()> {
        let staging_bytes = self.jobs.iter().map(Job::staging).max().unwrap_or(0);
        device.require(self.bytes + staging_bytes, what)?;
        let memory = self.place(device)?;
        let staging = device.alloc_zeroed(staging_bytes)?;
        let stream = device.stream()?;
        for job in &self.jobs {
            job.run(memory, &staging, &stream, kernels)?;
        }
        Ok(stream.synchronize()?)
    }

    /// Takes the memory for everything, whose values are zeros.
    ///
    /// # Errors
    /// No memory is left; it was taken before.
    pub fn place(&self, device: &Device) -> Result<&Buffer> {
        let taken = self.memory.set(device.alloc_zeroed(self.bytes)?);
        let memory = self.memory.get().filter(|_| taken.is_ok());
        memory.ok_or_else(|| Error::engine("load weights", "they are loaded already"))
    }
}
