//! Engines of blocks of a DiT that run one behind the other as one engine.

use crate::bindings::{Binding, Bindings, Bound, Runner, Tensor};
use std::collections::BTreeMap;
use steadyhand_gr00t::export::Blocks;
use steadyhand_gr00t::{Error, Result};

/// What an engine's file or graph says of where it comes from, by key: `checkpoint`, `precision` and others.
pub type Source = BTreeMap<String, String>;

/// What engines of one model have in common.
const COMMON: [&str; 3] = ["checkpoint", "precision", "version"];

/// An engine among others, for [`join`].
#[derive(Debug, Clone, Copy)]
pub struct Link<'l> {
    /// Its file, for errors.
    pub name: &'l str,
    /// What it takes and gives.
    pub bindings: &'l Bindings,
}

/// The bindings of engines that run in this order as one: what is taken from outside, and everything that they give but
/// what is not of one observation each. One engine alone is what it is.
///
/// # Errors
/// Several engines that are not all blocks of a DiT, from the first to the last in their order; one that takes another type
/// or shape than it is given, or than another takes. Names the files.
pub fn join(links: &[Link<'_>]) -> Result<Bindings> {
    let (first, others) = match links {
        [] => return Err(Error::input("engines", "expected at least one, found none")),
        [only] => return Ok(only.bindings.clone()),
        [first, others @ ..] => (first, others),
    };
    let blocks = blocks_of(first)?;
    if blocks.first != 0 {
        return Err(misplaced(first, blocks, "as the first of several engines expected blocks from 0 on"));
    }
    let (mut before, mut end) = (first, blocks.end);
    for link in others {
        let blocks = blocks_of(link)?;
        let Some(next) = end else {
            let what = format!("behind {}, which has the last blocks, expected no engine", before.name);
            return Err(misplaced(link, blocks, &what));
        };
        if blocks.first != next {
            let what = format!("behind {} expected blocks from {next} on", before.name);
            return Err(misplaced(link, blocks, &what));
        }
        (before, end) = (link, blocks.end);
    }
    if let Some(next) = end {
        let what =
            format!("the last of several engines: expected the last blocks, found none from {next} on");
        return Err(Error::input(before.name, what));
    }
    let mut given: Vec<(&str, &Binding)> = Vec::new();
    let mut joined: Vec<Binding> = Vec::new();
    for link in links {
        for input in link.bindings.inputs() {
            let made = given.iter().find(|(_, made)| made.name == input.name);
            let taken = joined.iter().find(|taken| taken.name == input.name);
            match (made, taken) {
                (Some((by, made)), _) if !fits(made, input) => {
                    let what = format!("expected {made}, which {by} gives, found {input}");
                    return Err(Error::input(format!("{}: input {}", link.name, input.name), what));
                }
                (None, Some(taken)) if taken.dtype != input.dtype || taken.shape != input.shape => {
                    let what = format!("expected {taken}, as in {}, found {input}", first.name);
                    return Err(Error::input(format!("{}: input {}", link.name, input.name), what));
                }
                (None, None) => joined.push(input.clone()),
                _ => {}
            }
        }
        given.extend(link.bindings.outputs().map(|output| (link.name, output)));
    }
    let outputs = given.into_iter().filter(|(_, output)| !Blocks::is_time(&output.name));
    joined.extend(outputs.map(|(_, output)| output.clone()));
    Ok(Bindings::new(joined))
}

/// Refuses engines of different models, checkpoints or precisions, as far as their files say it.
///
/// # Errors
/// What differs, with both files.
pub fn check_sources<'s>(sources: impl IntoIterator<Item = (&'s str, &'s Source)>) -> Result<()> {
    let mut first: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for (file, source) in sources {
        for key in COMMON {
            let Some(found) = source.get(key) else { continue };
            let (by, expected) = *first.entry(key).or_insert((file, found));
            if expected != found {
                let line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
                let what = format!("{key}: expected {}, as of {by}, found {}", line(expected), line(found));
                return Err(Error::input(file, what));
            }
        }
    }
    Ok(())
}

fn blocks_of(link: &Link<'_>) -> Result<Blocks> {
    link.bindings.blocks().ok_or_else(|| {
        let inputs: Vec<&str> = link.bindings.inputs().map(|input| input.name.as_str()).collect();
        let what = format!(
            "as one of several engines expected blocks of a DiT (--component dit.blocks.FIRST:END), found an engine of {}",
            inputs.join(", ")
        );
        Error::input(link.name, what)
    })
}

fn misplaced(link: &Link<'_>, blocks: Blocks, expected: &str) -> Error {
    Error::input(link.name, format!("{expected}, found {blocks}"))
}

/// Whether an input takes what another engine gives. Open dimensions are known when both run.
fn fits(made: &Binding, input: &Binding) -> bool {
    let dims = || made.shape.iter().zip(&input.shape);
    made.dtype == input.dtype
        && made.shape.len() == input.shape.len()
        && dims().all(|(made, taken)| made == taken || *made < 0 || *taken < 0)
}

/// Engines one behind the other; tensors between them pass through the host's memory.
pub struct Chain<R> {
    links: Vec<R>,
    bindings: Bindings,
}

impl<R: Runner> Chain<R> {
    /// These engines, with the files that they are from.
    ///
    /// # Errors
    /// As of [`join`].
    pub fn new(links: Vec<(String, R)>) -> Result<Self> {
        let named: Vec<Link<'_>> =
            links.iter().map(|(name, link)| Link { name, bindings: link.bindings() }).collect();
        let bindings = join(&named)?;
        Ok(Chain { links: links.into_iter().map(|(_, link)| link).collect(), bindings })
    }
}

impl<R: Runner> Runner for Chain<R> {
    fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    fn precision(&self) -> Option<String> {
        self.links.first()?.precision()
    }

    fn run(&mut self, inputs: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>> {
        if let [only] = &mut self.links[..] {
            return only.run(inputs);
        }
        let bound = self.bindings.bind(inputs)?;
        let of = |bound: &Bound<'_>| (bound.binding().name.clone(), bound.tensor().clone());
        let mut tensors: BTreeMap<String, Tensor> = bound.iter().map(of).collect();
        for link in &mut self.links {
            let known = link.bindings().inputs().filter_map(|input| {
                tensors.get(&input.name).map(|tensor| (input.name.clone(), tensor.clone()))
            });
            let known = known.collect();
            tensors.extend(link.run(known)?);
        }
        let outputs = self.bindings.outputs().filter_map(|output| tensors.remove_entry(&output.name));
        Ok(outputs.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::Direction;
    use steadyhand_fidelity::trace::Dtype;

    fn bindings(dtype: Dtype, width: i64, inputs: &[&str], outputs: &[&str]) -> Bindings {
        let of = |name: &&str, direction| Binding {
            name: (*name).to_owned(),
            direction,
            dtype,
            shape: vec![-1, width],
            profile: None,
        };
        let inputs = inputs.iter().map(|name| of(name, Direction::Input));
        Bindings::new(inputs.chain(outputs.iter().map(|name| of(name, Direction::Output))).collect())
    }

    /// `a` is blocks 0 and 1, `b` 2 to 4, `c` the rest.
    fn three() -> [Bindings; 3] {
        [
            bindings(Dtype::F32, 4, &["state_action_tokens", "vl_features"], &["time_embedding", "block.1"]),
            bindings(Dtype::F32, 4, &["block.1", "time_embedding", "vl_features"], &["block.4"]),
            bindings(Dtype::F32, 4, &["block.4", "time_embedding", "vl_features"], &["dit_output"]),
        ]
    }

    fn joined(named: &[(&str, &Bindings)]) -> Result<Bindings> {
        let links: Vec<Link<'_>> = named.iter().map(|(name, bindings)| Link { name, bindings }).collect();
        join(&links)
    }

    fn refusal(named: &[(&str, &Bindings)]) -> String {
        joined(named).expect_err("a refusal").to_string()
    }

    #[test]
    fn all_blocks_in_their_order_are_one_engine() {
        let [a, b, c] = three();
        let whole = joined(&[("a", &a), ("b", &b), ("c", &c)]).expect("all blocks");
        let names = |bindings: &Bindings, way| -> Vec<String> {
            let own = bindings.iter().filter(|binding| binding.direction == way);
            own.map(|binding| binding.name.clone()).collect()
        };
        assert_eq!(names(&whole, Direction::Input), ["state_action_tokens", "vl_features"]);
        assert_eq!(names(&whole, Direction::Output), ["block.1", "block.4", "dit_output"]);
        assert_eq!(joined(&[("b", &b)]).expect("one engine is what it is"), b);
    }

    #[test]
    fn blocks_that_are_no_whole_are_refused_by_file() {
        let [a, b, c] = three();
        assert_eq!(
            refusal(&[("a", &a), ("c", &c), ("b", &b)]),
            "c: behind a expected blocks from 2 on, found dit.blocks.5:"
        );
        assert_eq!(
            refusal(&[("b", &b), ("c", &c)]),
            "b: as the first of several engines expected blocks from 0 on, found dit.blocks.2:5"
        );
        assert_eq!(
            refusal(&[("a", &a), ("b", &b)]),
            "b: the last of several engines: expected the last blocks, found none from 5 on"
        );
        let overlapping = bindings(Dtype::F32, 4, &["block.0", "time_embedding"], &["block.4"]);
        assert_eq!(
            refusal(&[("a", &a), ("o", &overlapping), ("c", &c)]),
            "o: behind a expected blocks from 2 on, found dit.blocks.1:5"
        );
        assert_eq!(
            refusal(&[("a", &a), ("b", &b), ("c", &c), ("d", &c)]),
            "d: behind c, which has the last blocks, expected no engine, found dit.blocks.5:"
        );
        let head = bindings(Dtype::F32, 4, &["noise"], &["action_pred"]);
        let found = refusal(&[("a", &a), ("head", &head)]);
        assert!(found.starts_with("head: as one of several engines expected blocks of a DiT"), "{found}");
    }

    #[test]
    fn engines_of_other_types_and_models_are_refused_by_file() {
        let [a, _, c] = three();
        let narrow = bindings(Dtype::F16, 4, &["block.1", "time_embedding", "vl_features"], &["block.4"]);
        assert_eq!(
            refusal(&[("a", &a), ("n", &narrow), ("c", &c)]),
            "n: input block.1: expected F32 [-1, 4], which a gives, found F16 [-1, 4]"
        );
        let wide = bindings(Dtype::F32, 8, &["vl_features"], &[]);
        let mixed = bindings(Dtype::F32, 4, &["block.1", "time_embedding"], &["block.4"]);
        let mixed = Bindings::new(mixed.iter().chain(wide.iter()).cloned().collect());
        assert_eq!(
            refusal(&[("a", &a), ("m", &mixed), ("c", &c)]),
            "m: input vl_features: expected F32 [-1, 4], as in a, found F32 [-1, 8]"
        );

        let source = |pairs: &[(&str, &str)]| -> Source {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let (one, other) = (
            source(&[("checkpoint", "1"), ("precision", "f32"), ("component", "dit.blocks.0:2")]),
            source(&[("checkpoint", "2"), ("precision", "f32"), ("component", "dit.blocks.2:5")]),
        );
        let said = check_sources([("a", &one), ("b", &other)]).expect_err("a refusal").to_string();
        assert_eq!(said, "b: checkpoint: expected 1, as of a, found 2");
        let narrow = source(&[("checkpoint", "1"), ("precision", "fp16")]);
        let said = check_sources([("a", &one), ("b", &narrow)]).expect_err("a refusal").to_string();
        assert_eq!(said, "b: precision: expected f32, as of a, found fp16");
        check_sources([("a", &one), ("b", &Source::new()), ("c", &one)]).expect("nothing differs");
    }
}
