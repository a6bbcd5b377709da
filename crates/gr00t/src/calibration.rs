//! Calibration: the range of the activations that each linear layer multiplies, collected over inferences.

use crate::ops::cpu::{Intervention, Product};
use crate::ops::{Operation, Site};
use crate::{Error, Result};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// What a calibration is made of: counts of the magnitudes that linear layers multiply. It changes nothing.
#[derive(Debug, Default)]
pub struct Collector {
    sites: RefCell<BTreeMap<String, Histogram>>,
}

impl Collector {
    /// The bound of each site that `percentile` percent of its values lie within; at 100 the largest value, below it
    /// up to 3 % above the exact bound, the width of the counted intervals.
    ///
    /// # Errors
    /// A percentile outside (0, 100]; a site that multiplied a value that is not finite.
    pub fn amax(&self, percentile: f64) -> Result<BTreeMap<String, f32>> {
        if !(percentile > 0.0 && percentile <= 100.0) {
            let what = format!("expected above 0 and at most 100, found {percentile}");
            return Err(Error::input("percentile", what));
        }
        let bound = |(path, histogram): (&String, &Histogram)| {
            let amax = histogram.bound(percentile);
            match amax.is_finite() {
                true => Ok((path.clone(), amax)),
                false => Err(Error::input(path, "expected finite activations to calibrate on, found others")),
            }
        };
        self.sites.borrow().iter().map(bound).collect()
    }
}

impl Intervention for Collector {
    fn product(&self, site: &Site, product: &Product) {
        if product.operation == Operation::Linear {
            let mut sites = self.sites.borrow_mut();
            let histogram = sites.entry(site.path().to_owned()).or_default();
            product.operands.iter().for_each(|values| histogram.count(values));
        }
    }
}

/// Counts of magnitudes in intervals of 3 %.
#[derive(Debug)]
struct Histogram {
    counts: Vec<u64>,
    largest: f32,
}

/// Bits of a magnitude that an interval leaves out: 5 bits of mantissa stay.
const DROPPED: u32 = 18;

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; 1 << (31 - DROPPED)], largest: 0.0 }
    }
}

impl Histogram {
    fn count(&mut self, values: &[f32]) {
        for value in values {
            let magnitude = value.abs();
            self.counts[(magnitude.to_bits() >> DROPPED) as usize] += 1;
            // A NaN stays: nothing is larger.
            if magnitude > self.largest || magnitude.is_nan() {
                self.largest = magnitude;
            }
        }
    }

    fn bound(&self, percentile: f64) -> f32 {
        if percentile == 100.0 || !self.largest.is_finite() {
            return self.largest;
        }
        let total: u64 = self.counts.iter().sum();
        let wanted = (total as f64 * percentile / 100.0).ceil() as u64;
        let mut within = 0;
        let interval = self.counts.iter().position(|count| {
            within += count;
            within >= wanted
        });
        let edge = |index: usize| f32::from_bits((index as u32 + 1) << DROPPED);
        interval.map_or(self.largest, |index| edge(index).min(self.largest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_what_they_say() {
        let collector = Collector::default();
        let count = |site: &Site, values: &[f32]| {
            let product = Product { operation: Operation::Linear, operands: &[values], weight: None };
            collector.product(site, &product);
        };
        let values: Vec<f32> = (1..=1000).map(|i| i as f32 * if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        count(&Site::in_step("dit.output", 0), &values[..500]);
        count(&Site::in_step("dit.output", 3), &values[500..]);
        assert_eq!(collector.amax(100.0).expect("finite")["dit.output"], 1000.0);
        let most = collector.amax(90.0).expect("finite")["dit.output"];
        assert!((900.0..=900.0 * 1.033).contains(&most), "{most}");
        assert!(collector.amax(0.0).is_err() && collector.amax(100.1).is_err());
        count(&Site::new("euler"), &[1.0, f32::NAN, 2.0]);
        let error = collector.amax(99.0).expect_err("a NaN").to_string();
        assert!(error.starts_with("euler"), "{error}");
    }
}
