//! A place whose results are wrong, and what is known of the errors there.

use super::Fault;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::precision::Formats;

/// The first of the local errors that rounding cannot explain, as the faults of a place are suggested by it.
pub(crate) struct Suspect<'a> {
    /// The model.
    pub(crate) model: &'a Model,
    /// The declared formats of the first operation that errs.
    pub(crate) formats: Formats,
    /// The path of the first operation that errs.
    pub(crate) site: &'a str,
    /// Paths of operations before it that may be the ones that err, as their results are not shown.
    pub(crate) unshown: &'a [String],
    /// The layer or block that it belongs to.
    pub(crate) layer: Option<&'a str>,
    /// The longest path that all operations that err lie at or below; empty where they are all over the model.
    pub(crate) common: &'a str,
    /// The largest absolute value of the engine's result there, relative to the right one's.
    pub(crate) peak: f64,
    /// Other ways in which the images may have been made.
    pub(crate) made_otherwise: &'a [Fault],
}

impl Suspect<'_> {
    /// The last part of the path: what kind of operation it is.
    pub(crate) fn name(&self) -> &str {
        self.site.rsplit('.').next().unwrap_or(self.site)
    }

    /// The place alone, and the parts around it that may err as a whole.
    pub(crate) fn places(&self) -> Vec<&str> {
        let mut places = vec![self.site];
        for path in self.layer.into_iter().chain([self.common]) {
            if !path.is_empty() && !places.contains(&path) {
                places.push(path);
            }
        }
        places
    }

    /// Whether the operation at `path`, or one below it, may be the one that errs.
    pub(crate) fn may_be(&self, path: &str) -> bool {
        let within = |site: &str| Site::new(site).is_within(path);
        within(self.site) || self.unshown.iter().any(|site| within(site))
    }
}
