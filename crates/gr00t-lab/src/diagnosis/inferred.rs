//! A place that an engine does not show, told by what the tensor behind it errs by.

use super::Observed;
use super::examine::Examinations;
use super::explain::right_results;
use super::teacher_forced::LocalError;
use crate::Result;

/// What works on a time encoding and on tensors that differ from token to token.
const BEHIND: &str = "action_encoder.layer2";
/// What it works on that is the same in every token.
const TIME: &str = "action_encoder.time";
/// What leads there besides.
const BUCKET: &str = "timestep";
/// Errors of two Euler steps are others where they lie further apart than this share of the larger.
const OTHER: f64 = 0.1;

/// The place before `path`, not shown, that must be wrong. A layer that works on the actions' features and on the time
/// encoding errs by the same in every token where the encoding is wrong, and by something else in another Euler step; a
/// lost bias errs by the same in every step, too, and a wrong weight of the actions by something else in every token.
///
/// # Errors
/// The input does not fit the model.
pub(super) fn place_before(
    examined: &Examinations,
    path: &str,
    inferences: &[usize],
) -> Result<Option<&'static str>> {
    if path != BEHIND {
        return Ok(None);
    }
    for inference in inferences {
        let right = right_results(examined, *inference, path)?;
        let observed = &examined.of[inference].base.errors;
        let steps: Vec<&LocalError> = observed.iter().filter(|error| error.path == path).collect();
        let mut of_steps: Vec<Vec<f64>> = Vec::new();
        for error in steps {
            let hidden = |site: &String| site == TIME || site == BUCKET;
            let only_time = error.unshown.iter().all(hidden) && error.unshown.iter().any(|site| site == TIME);
            let found = examined.evidence.taps[inference].read(&error.name);
            let (Some(right), Some((shape, found))) = (right.get(&error.name), found) else {
                return Ok(None);
            };
            let features = shape.last().copied().unwrap_or_default().max(1);
            if !only_time || found.len() != right.len() || found.len() < 2 * features {
                return Ok(None);
            }
            let moved: Vec<f64> =
                found.iter().zip(right).map(|(found, right)| f64::from(*found) - f64::from(*right)).collect();
            let mean = mean_of_tokens(&moved, features);
            let apart = moved.iter().zip(mean.iter().cycle()).map(|(moved, mean)| moved - mean);
            let size = norm(right.iter().map(|value| f64::from(*value)));
            // The mean has the roundings of all tokens in it, those of a token are twice as many at most.
            if error.is_fault() && norm(apart) > 2.0 * error.expected * size {
                return Ok(None);
            }
            of_steps.push(mean);
        }
        if !any_differ(&of_steps) {
            return Ok(None);
        }
    }
    Ok(Some(TIME))
}

fn mean_of_tokens(values: &[f64], features: usize) -> Vec<f64> {
    let mut mean = vec![0.0; features];
    let tokens = (values.len() / features) as f64;
    for token in values.chunks_exact(features) {
        mean.iter_mut().zip(token).for_each(|(mean, value)| *mean += value / tokens);
    }
    mean
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

fn any_differ(of_steps: &[Vec<f64>]) -> bool {
    let size = |of: &[f64]| norm(of.iter().copied());
    of_steps.windows(2).any(|pair| {
        let apart = norm(pair[0].iter().zip(&pair[1]).map(|(a, b)| a - b));
        apart > OTHER * size(&pair[0]).max(size(&pair[1]))
    })
}
