//! The range scan: the magnitudes that pass every site of the f32 reference, and what each format makes of them.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::checkpoint::Weight;
use steadyhand_gr00t::ops::cpu::{Intervention, Product};
use steadyhand_gr00t::ops::{Operation, Site};
use steadyhand_gr00t::precision::Calibration;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{Error, Result};

/// By how much a value may exceed the largest one that was seen: the frames are a sample of what the robot will see.
pub const HEADROOM: f32 = 2.0;
/// Share of a tensor's values below a format's smallest normal number from which the tensor counts as underflowing.
pub const UNDERFLOW: f64 = 0.5;
/// Weights read at a time.
const CHUNK: usize = 1 << 20;

/// Magnitudes of a tensor's values over all frames and steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Magnitudes {
    /// The largest.
    pub amax: f32,
    /// Share of the nonzero values below the smallest normal fp16.
    pub below_fp16: f64,
    /// The same for fp8_e4m3 without a scale.
    pub below_fp8: f64,
    /// The same for fp8_e4m3 with a scale that brings `amax` to its largest value.
    pub below_scaled_fp8: f64,
}

/// One site of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteRange {
    /// The site's path.
    pub path: String,
    /// Of a product: its activations.
    pub operands: Option<Magnitudes>,
    /// Of a product: its weights.
    pub weights: Option<Magnitudes>,
    /// What the site's operation gives.
    pub results: Magnitudes,
    /// Whether it is a linear layer, whose operands can be scaled.
    pub linear: bool,
    /// Elements that an inference reads and writes there, Euler steps included, averaged over the frames.
    pub elements: Elements,
}

/// Elements moved at a site in one inference.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elements {
    /// Of the weight, as often as it is read.
    pub weights: f64,
    /// Of the activations that it multiplies.
    pub operands: f64,
    /// Of its results.
    pub results: f64,
}

/// What a format makes of a site's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// Some exceed the largest number, [`HEADROOM`] included: infinite or NaN. The choice is excluded.
    Overflow,
    /// More than [`UNDERFLOW`] of them lie below the smallest normal number.
    Underflow,
}

/// A finding of the scan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The site's path.
    pub path: String,
    /// `operands`, `weights` or `results`.
    pub tensor: &'static str,
    /// The format they do not fit.
    pub format: Format,
    /// What happens to them.
    pub damage: Damage,
    /// Their largest magnitude.
    pub amax: f32,
    /// What they were compared with: the largest number, or the smallest normal one.
    pub limit: f32,
}

/// The ranges of all sites, in the order in which an inference first reaches them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ranges {
    /// One entry a site.
    pub sites: Vec<SiteRange>,
}

impl Magnitudes {
    fn below(&self, format: Format, scaled: bool) -> f64 {
        match (format, scaled) {
            (Format::Fp16, _) => self.below_fp16,
            (Format::Fp8E4m3, true) => self.below_scaled_fp8,
            (Format::Fp8E4m3, false) => self.below_fp8,
            // The other formats that are chosen from have the range of f32.
            _ => 0.0,
        }
    }

    fn damage(&self, format: Format, scaled: bool) -> Option<(Damage, f32)> {
        if !scaled && !format.round(self.amax * HEADROOM).is_finite() {
            return Some((Damage::Overflow, format.max()));
        }
        let under = self.below(format, scaled) > UNDERFLOW;
        under.then_some((Damage::Underflow, format.min_positive_normal()))
    }
}

impl Ranges {
    /// What the site's operands and weights do not fit as `format`; fp8 has a scale in linear layers.
    pub fn operand_findings(&self, path: &str, format: Format) -> Vec<Finding> {
        let Some(site) = self.site(path) else { return Vec::new() };
        let scaled = site.linear && format.bits() == 8;
        let tensors = [("operands", site.operands), ("weights", site.weights)];
        let found = tensors.into_iter().filter_map(|(name, range)| Some((name, range?)));
        found
            .filter_map(|(name, range)| finding(path, name, format, range, range.damage(format, scaled)))
            .collect()
    }

    /// What the site's results do not fit when they are stored as `format`.
    pub fn result_finding(&self, path: &str, format: Format) -> Option<Finding> {
        let results = self.site(path)?.results;
        finding(path, "results", format, results, results.damage(format, false))
    }

    /// Every finding in fp16 and fp8_e4m3 operands and fp16 results.
    pub fn findings(&self) -> Vec<Finding> {
        let of_site = |site: &SiteRange| {
            let mut found = self.operand_findings(&site.path, Format::Fp16);
            found.extend(self.operand_findings(&site.path, Format::Fp8E4m3));
            found.extend(self.result_finding(&site.path, Format::Fp16));
            found
        };
        self.sites.iter().flat_map(of_site).collect()
    }

    fn site(&self, path: &str) -> Option<&SiteRange> {
        self.sites.iter().find(|site| site.path == path)
    }

    /// The scales of fp8 activations that follow: the largest magnitude of each linear layer's operands.
    pub fn calibration(&self, of: &CalibrationSubject) -> Calibration {
        let linear = self.sites.iter().filter(|site| site.linear);
        let amax = linear.filter_map(|site| Some((site.path.clone(), site.operands?.amax))).collect();
        Calibration::new(
            of.checkpoint.clone(),
            &of.embodiment_tag,
            &of.dataset,
            of.frames,
            of.denoising_steps,
            100.0,
            amax,
        )
    }

    /// Bytes that an inference moves under a policy: each product reads its weights and activations in its compute
    /// format, each operation writes its results in its storage format.
    pub fn bytes(&self, policy: &PrecisionPolicy) -> f64 {
        let of_site = |site: &SiteRange| {
            let formats = policy.formats_of(&site.path);
            let [compute, storage] = [formats.compute, formats.storage].map(|f| f64::from(f.bits() / 8));
            let Elements { weights, operands, results } = site.elements;
            (weights + operands) * compute + results * storage
        };
        self.sites.iter().map(of_site).sum()
    }
}

/// What a calibration is of.
#[derive(Debug, Clone)]
pub struct CalibrationSubject {
    /// The weights' fingerprint.
    pub checkpoint: String,
    /// The embodiment.
    pub embodiment_tag: String,
    /// The dataset's hash.
    pub dataset: String,
    /// Observations.
    pub frames: usize,
    /// Euler steps.
    pub denoising_steps: usize,
}

fn finding(
    path: &str,
    tensor: &'static str,
    format: Format,
    range: Magnitudes,
    damage: Option<(Damage, f32)>,
) -> Option<Finding> {
    let (damage, limit) = damage?;
    Some(Finding { path: path.to_owned(), tensor, format, damage, amax: range.amax, limit })
}

/// An intervention that changes nothing and counts what passes the sites.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Frames in the batch at hand.
    frames: Cell<usize>,
    sites: RefCell<Vec<SiteCounts>>,
    places: RefCell<BTreeMap<String, usize>>,
}

#[derive(Debug, Default)]
struct SiteCounts {
    path: String,
    operands: Counts,
    weights: Counts,
    results: Counts,
    linear: bool,
    elements: Elements,
    /// Elements that the product under way reads: of its weight, and of what it multiplies.
    reads: [usize; 2],
}

/// Counts of magnitudes by power of two.
#[derive(Debug, Clone)]
struct Counts {
    exponents: Vec<u64>,
    /// The largest magnitude's bits: their order is that of the magnitudes, NaN above all.
    largest: u32,
}

impl Default for Counts {
    fn default() -> Self {
        Counts { exponents: vec![0; 256], largest: 0 }
    }
}

impl Counts {
    /// Counts of values, those of a large tensor by several threads.
    fn of_values(values: &[f32]) -> Counts {
        let part = |values: &[f32]| {
            let mut counts = Counts::default();
            counts.add(values);
            counts
        };
        match values.len() > CHUNK / 4 {
            true => values.par_chunks(CHUNK / 16).map(part).reduce(Counts::default, Counts::join),
            false => part(values),
        }
    }

    fn add(&mut self, values: &[f32]) {
        for value in values {
            let bits = value.to_bits() & 0x7fff_ffff;
            // Zeros are no values that could underflow.
            self.exponents[(bits >> 23) as usize] += u64::from(bits != 0);
            self.largest = self.largest.max(bits);
        }
    }

    fn join(mut self, other: Counts) -> Counts {
        self.exponents.iter_mut().zip(other.exponents).for_each(|(sum, count)| *sum += count);
        self.largest = self.largest.max(other.largest);
        self
    }

    /// The elements of a weight.
    fn of(weight: &Weight, range: &Range<usize>) -> Counts {
        let chunk = |start: usize| {
            let end = (start + CHUNK).min(range.end);
            let mut values = vec![0.0; end - start];
            weight.read_into(start..end, Format::F32, &mut values);
            let mut counts = Counts::default();
            counts.add(&values);
            counts
        };
        let starts: Vec<usize> = range.clone().step_by(CHUNK).collect();
        starts.into_par_iter().map(chunk).reduce(Counts::default, Counts::join)
    }

    fn magnitudes(&self) -> Option<Magnitudes> {
        let total: u64 = self.exponents.iter().sum();
        let amax = f32::from_bits(self.largest);
        // Smallest normal numbers are powers of two; so is the scale's reach, to within one interval.
        let below = |smallest: f32| {
            let interval = ((smallest.to_bits() >> 23) as usize).min(255);
            let below: u64 = self.exponents[..interval].iter().sum();
            below as f64 / total.max(1) as f64
        };
        let fp8 = Format::Fp8E4m3;
        amax.is_finite().then(|| Magnitudes {
            amax,
            below_fp16: below(Format::Fp16.min_positive_normal()),
            below_fp8: below(fp8.min_positive_normal()),
            below_scaled_fp8: below(amax * (fp8.min_positive_normal() / fp8.max())),
        })
    }
}

impl Scanner {
    /// Begins an inference of so many frames at once.
    pub fn begin(&self, frames: usize) {
        self.frames.set(frames);
    }

    fn at(&self, path: &str, count: impl FnOnce(&mut SiteCounts)) {
        let (mut sites, mut places) = (self.sites.borrow_mut(), self.places.borrow_mut());
        let index = *places.entry(path.to_owned()).or_insert_with(|| {
            sites.push(SiteCounts { path: path.to_owned(), ..SiteCounts::default() });
            sites.len() - 1
        });
        count(&mut sites[index]);
    }

    /// What was found on `frames` inferences.
    ///
    /// # Errors
    /// A site of the reference that gave or multiplied a value that is not finite.
    pub fn finish(self, frames: usize) -> Result<Ranges> {
        let each = 1.0 / frames.max(1) as f64;
        let site = |site: SiteCounts| {
            let range = |name: &str, counts: &Counts| {
                let what = format!("{name}: expected finite values in the f32 reference, found others");
                counts.magnitudes().ok_or_else(|| Error::input(&site.path, what))
            };
            let Elements { weights, operands, results } = site.elements;
            Ok(SiteRange {
                operands: (operands > 0.0).then(|| range("operands", &site.operands)).transpose()?,
                weights: (weights > 0.0).then(|| range("weights", &site.weights)).transpose()?,
                results: range("results", &site.results)?,
                linear: site.linear,
                elements: Elements {
                    weights: weights * each,
                    operands: operands * each,
                    results: results * each,
                },
                path: site.path,
            })
        };
        Ok(Ranges { sites: self.sites.into_inner().into_iter().map(site).collect::<Result<_>>()? })
    }
}

impl Intervention for Scanner {
    fn result(&self, site: &Site, shape: [usize; 3], values: &mut [f32]) {
        let frames = self.frames.get() as f64;
        self.at(site.path(), |site| {
            site.results = std::mem::take(&mut site.results).join(Counts::of_values(values));
            // Each frame by itself would make what all frames share.
            let each = frames / shape[0].max(1) as f64;
            let [weights, operands] = std::mem::take(&mut site.reads).map(|elements| elements as f64);
            site.elements.weights += weights;
            site.elements.operands += operands * each;
            site.elements.results += values.len() as f64 * each;
        });
    }

    fn product(&self, site: &Site, product: &Product) {
        // Each frame by itself would read the whole weight, as those of its embodiment are read here.
        let alone = product.operation == Operation::CategoryLinear;
        let readers = if alone { 1 } else { self.frames.get() };
        self.at(site.path(), |site| {
            site.linear = product.operation == Operation::Linear;
            for values in product.operands {
                site.operands = std::mem::take(&mut site.operands).join(Counts::of_values(values));
                site.reads[1] += values.len();
            }
            if let Some((weight, range)) = &product.weight {
                // A weight is the same in every step and frame.
                if site.elements.weights == 0.0 {
                    site.weights = Counts::of(weight, range);
                }
                site.reads[0] += range.len() * readers;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
    use steadyhand_gr00t::model::Model;
    use steadyhand_gr00t::noise::gaussian;
    use steadyhand_gr00t::processor::PixelValues;
    use steadyhand_gr00t::synthetic::tiny;

    fn scanned(values: &[f32], operation: Operation) -> Ranges {
        let scanner = Scanner::default();
        scanner.begin(1);
        let (site, mut results) = (Site::in_step("dit.block.1.fc1", 2), vec![1.0; 4]);
        scanner.product(&site, &Product { operation, operands: &[values], weight: None });
        scanner.result(&site, [1, 1, 4], &mut results);
        scanner.finish(1).expect("finite")
    }

    #[test]
    fn formats_that_do_not_hold_the_values_are_named() {
        let of = |values: &[f32], operation, format| {
            scanned(values, operation).operand_findings("dit.block.1.fc1", format)
        };
        let large = [0.1, -70000.0, 0.3, 0.2];
        let found = of(&large, Operation::Linear, Format::Fp16);
        assert_eq!((found.len(), found[0].damage, found[0].amax), (1, Damage::Overflow, 70000.0));
        // The largest value is within reach of the scale; the others are not.
        let found = of(&large, Operation::Linear, Format::Fp8E4m3);
        assert_eq!((found[0].damage, found[0].tensor), (Damage::Underflow, "operands"));
        assert_eq!(of(&[1.0, 300.0], Operation::Attention, Format::Fp8E4m3)[0].damage, Damage::Overflow);
        assert!(of(&large, Operation::Linear, Format::Bf16).is_empty());
        assert!(of(&[1.0, 2.0, 0.0, 0.0, 0.0], Operation::Linear, Format::Fp8E4m3).is_empty());
        // 40000 fits; with headroom it does not.
        assert_eq!(of(&[40000.0], Operation::Linear, Format::Fp16)[0].damage, Damage::Overflow);
        assert_eq!(of(&[1e-6, 1e-6, 1.0], Operation::Linear, Format::Fp16)[0].damage, Damage::Underflow);
    }

    #[test]
    fn frames_in_a_batch_count_as_they_do_alone() {
        let model = Model::synthetic(tiny(), 3).expect("consistent sizes");
        let config = &model.config;
        let image_tokens = std::iter::repeat_n(config.image_token(), 6);
        let frame = |seed: u64| ModelInput {
            images: vec![PixelValues { height: 56, width: 84, data: gaussian(seed, 1, 0, 3, 56 * 84).data }]
                .into(),
            input_ids: image_tokens.clone().chain([seed as u32, 9]).collect(),
            state: gaussian(seed, 2, 0, 1, config.max_state_dim),
            embodiment_id: seed as usize % 2,
            noise: gaussian(seed, 3, 0, config.action_horizon, config.max_action_dim),
            rtc: None,
        };
        let frames: Vec<ModelInput> = (1..4).map(frame).collect();
        let scanned = |at_once: usize| {
            let (scanner, f32) = (Scanner::default(), PrecisionPolicy::preset("f32").expect("a preset"));
            let mut engine = CpuEngine::new(model.clone(), f32, 2).with_intervention(&scanner);
            for batch in frames.chunks(at_once) {
                scanner.begin(batch.len());
                engine.infer(batch, None).expect("an inference");
            }
            scanner.finish(frames.len()).expect("finite")
        };
        assert_eq!(scanned(3), scanned(1));
    }

    #[test]
    fn a_reference_that_is_not_finite_is_an_error() {
        let scanner = Scanner::default();
        scanner.begin(1);
        scanner.result(&Site::new("euler"), [1, 1, 2], &mut [1.0, f32::NAN]);
        let error = scanner.finish(1).expect_err("NaN").to_string();
        assert!(error.starts_with("euler: results"), "{error}");
    }
}
