//! A place whose results are wrong, and what is known of the errors there.

use steadyhand_gr00t::config::Config;

/// The first of the local errors that rounding cannot explain, as the faults of a place are suggested by it.
pub(crate) struct Suspect<'a> {
    /// Sizes of the model.
    pub(crate) config: &'a Config,
    /// The path of the first operation that errs.
    pub(crate) site: &'a str,
    /// The longest path that all operations that err lie at or below; empty where they are all over the model.
    pub(crate) common: &'a str,
    /// The largest absolute value of the engine's result there, relative to the right one's.
    pub(crate) peak: f64,
}

impl Suspect<'_> {
    /// The last part of the path: what kind of operation it is.
    pub(crate) fn name(&self) -> &str {
        self.site.rsplit('.').next().unwrap_or(self.site)
    }

    /// The place alone, and the part that all errors share.
    pub(crate) fn places(&self) -> impl Iterator<Item = &str> {
        [self.site, self.common].into_iter().filter(|path| !path.is_empty())
    }
}
