//! Sizes of open dimensions, and the shapes that they give.

use super::ffi::Port;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use steadyhand_gr00t::{Error, Result};

/// The smallest, best and largest size of an open dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The smallest that the engine runs.
    pub least: usize,
    /// The one that it is made fastest for.
    pub best: usize,
    /// The largest that it runs.
    pub most: usize,
}

impl Range {
    /// A range; sizes must not fall.
    ///
    /// # Errors
    /// They do.
    pub fn new(least: usize, best: usize, most: usize) -> Result<Self> {
        if least <= best && best <= most && most > 0 {
            return Ok(Range { least, best, most });
        }
        Err(Error::input("range", format!("expected MIN <= BEST <= MAX, found {least}:{best}:{most}")))
    }

    /// One size.
    pub fn only(size: usize) -> Self {
        Range { least: size, best: size, most: size }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.least, self.best, self.most)
    }
}

impl FromStr for Range {
    type Err = Error;

    /// Reads `MIN:BEST:MAX` or `SIZE`.
    ///
    /// # Errors
    /// Another form, or sizes that fall.
    fn from_str(text: &str) -> Result<Self> {
        let sizes: Option<Vec<usize>> = text.split(':').map(|size| size.parse().ok()).collect();
        match sizes.as_deref() {
            Some([size]) => Range::new(*size, *size, *size),
            Some([least, best, most]) => Range::new(*least, *best, *most),
            _ => Err(Error::input("range", format!("expected MIN:BEST:MAX or SIZE, found `{text}`"))),
        }
    }
}

/// An input's name, and its smallest, best and largest shape.
pub(super) type InputShapes = (String, [Vec<usize>; 3]);

/// The shapes of every input, or nothing where no dimension is open. A nameless dimension goes by `INPUT.INDEX`.
///
/// # Errors
/// An open dimension without a range; a range for no open dimension.
pub(super) fn shapes(inputs: &[Port], ranges: &BTreeMap<String, Range>) -> Result<Option<Vec<InputShapes>>> {
    let mut used = BTreeSet::new();
    let mut shapes = Vec::with_capacity(inputs.len());
    for input in inputs {
        let mut sizes: [Vec<usize>; 3] = Default::default();
        for (index, size) in input.shape.iter().enumerate() {
            let range = match usize::try_from(*size) {
                Ok(fixed) => Range::only(fixed),
                Err(_) => {
                    let named = input.dim_names.get(index).filter(|name| !name.is_empty());
                    let name = named.cloned().unwrap_or_else(|| format!("{}.{index}", input.name));
                    let range = ranges.get(&name).copied().ok_or_else(|| {
                        let what =
                            format!("dimension `{name}` is open: expected a range of sizes, found none");
                        Error::input(format!("input {}", input.name), what)
                    })?;
                    used.insert(name);
                    range
                }
            };
            for (to, size) in sizes.iter_mut().zip([range.least, range.best, range.most]) {
                to.push(size);
            }
        }
        shapes.push((input.name.clone(), sizes));
    }
    if let Some(unused) = ranges.keys().find(|name| !used.contains(*name)) {
        let open: Vec<&str> = used.iter().map(String::as_str).collect();
        let open = if open.is_empty() { "none".to_owned() } else { open.join(", ") };
        return Err(Error::input(format!("shape of `{unused}`"), format!("open dimensions are: {open}")));
    }
    Ok(if used.is_empty() { None } else { Some(shapes) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadyhand_fidelity::trace::Dtype;

    fn inputs() -> Vec<Port> {
        let port = |name: &str, shape: &[i64], names: &[&str]| Port {
            name: name.to_owned(),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            dim_names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        vec![port("tokens", &[-1, -1, 128], &["batch", "tokens", ""]), port("nameless", &[-1], &[""])]
    }

    fn ranges(given: &[(&str, &str)]) -> BTreeMap<String, Range> {
        given.iter().map(|(name, range)| ((*name).to_owned(), range.parse().expect("a range"))).collect()
    }

    #[test]
    fn open_dimensions_get_their_ranges() {
        let given = ranges(&[("batch", "1:1:8"), ("tokens", "17"), ("nameless.0", "2:3:4")]);
        let found = shapes(&inputs(), &given).expect("they fit").expect("dimensions are open");
        let expected = [vec![1, 17, 128], vec![1, 17, 128], vec![8, 17, 128]];
        assert_eq!(found[0], ("tokens".to_owned(), expected));
        assert_eq!(found[1].1, [vec![2], vec![3], vec![4]]);
        assert!(shapes(&[], &ranges(&[])).expect("nothing to fit").is_none());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let refusal =
            |given: &[(&str, &str)]| shapes(&inputs(), &ranges(given)).expect_err("a refusal").to_string();
        let found = refusal(&[("batch", "1")]);
        assert_eq!(found, "input tokens: dimension `tokens` is open: expected a range of sizes, found none");
        let found = refusal(&[("batch", "1"), ("tokens", "1"), ("nameless.0", "1"), ("width", "1")]);
        assert_eq!(found, "shape of `width`: open dimensions are: batch, nameless.0, tokens");
        for text in ["2:1:3", "1:2", "0", "a", ""] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }
}
