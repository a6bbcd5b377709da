//! The name of a place in the model.

use std::fmt;
use std::ops::Div;

/// A dotted path such as `dit.block.7.attention`, and the Euler step it is visited in.
///
/// The path is what precision policies are written in: it is the same in every step. The tap's name,
/// which [`fmt::Display`] gives, tells the steps apart: `step.2.dit.block.7.attention`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    path: String,
    step: Option<usize>,
}

impl Site {
    /// A site that is visited once in an inference.
    pub fn new(path: &str) -> Self {
        Site { path: path.to_owned(), step: None }
    }

    /// A site inside Euler step `step`.
    pub fn in_step(path: &str, step: usize) -> Self {
        Site { path: path.to_owned(), step: Some(step) }
    }

    /// The site of a tap's name: the inverse of its display.
    pub fn of_tap(name: &str) -> Self {
        let parts = name.strip_prefix("step.").and_then(|rest| rest.split_once('.'));
        match parts.and_then(|(step, path)| Some((step.parse().ok()?, path))) {
            Some((step, path)) => Site::in_step(path, step),
            None => Site::new(name),
        }
    }

    /// The path, without the step.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The Euler step, where there is one.
    pub fn step(&self) -> Option<usize> {
        self.step
    }

    /// The same step with another path.
    pub fn sibling(&self, path: &str) -> Self {
        Site { path: path.to_owned(), step: self.step }
    }

    /// Whether this is the site `path` or lies below it. Everything lies below the empty path.
    pub fn is_within(&self, path: &str) -> bool {
        if path.is_empty() {
            return true;
        }
        self.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl fmt::Display for Site {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Some(step) => write!(formatter, "step.{step}.{}", self.path),
            None => formatter.write_str(&self.path),
        }
    }
}

impl Div<&str> for &Site {
    type Output = Site;

    fn div(self, name: &str) -> Site {
        Site { path: format!("{}.{name}", self.path), step: self.step }
    }
}

impl Div<usize> for &Site {
    type Output = Site;

    fn div(self, index: usize) -> Site {
        self / index.to_string().as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_steps() {
        let block = &Site::in_step("dit.block", 2) / 7;
        assert_eq!((&block / "attention").to_string(), "step.2.dit.block.7.attention");
        assert_eq!(block.path(), "dit.block.7");
        assert!(block.is_within("dit.block") && block.is_within("dit.block.7"));
        assert!(block.is_within(""));
        assert!(!(&block.sibling("dit.block") / 70).is_within("dit.block.7"));
    }
}
