//! `meta/modality.json`: which slice of which column is which group, view or annotation.
//!
//! Where the file is absent, modalities are derived from the features of `info.json`; so are annotations where it
//! names none:
//! - state: each numeric feature `observation.X`, whole, as group `X` (`observation.state` → `state`);
//! - action: the feature `action` as group `action`, and each `action.X` as group `X`;
//! - video: each video or colour image feature, named by its last component (`observation.images.front` → `front`);
//! - annotation: each `annotation.X` feature as `X`, or else `human.task_description` from `task_index`.

use std::path::Path;

use serde::Deserialize;

use crate::{
    Error, Feature, Result,
    info::Info,
    json::{self, Maybe, Ordered},
};

/// The most elements of a column whose shape is not said.
const MAX_DIM: usize = 1 << 20;

/// The two kinds of numeric groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What the robot measured.
    State,
    /// What the robot was told to do.
    Action,
}

impl Kind {
    /// `state` or `action`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::State => "state",
            Kind::Action => "action",
        }
    }

    /// The column of a group that names none.
    fn default_column(self) -> &'static str {
        match self {
            Kind::State => "observation.state",
            Kind::Action => "action",
        }
    }
}

/// A named slice of a numeric column.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group {
    /// The group's name, such as `left_arm`.
    pub name: String,
    /// First element in the column.
    pub start: usize,
    /// One past the last element.
    pub end: usize,
    /// The parquet column.
    pub column: String,
}

impl Group {
    /// The number of elements.
    pub fn dim(&self) -> usize {
        self.end - self.start
    }
}

/// A camera.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct View {
    /// The view's name, such as `ego_view`.
    pub name: String,
    /// The feature's name, which is also the `{video_key}` of file paths.
    pub column: String,
}

/// A text that a column's task indices stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Annotation {
    /// The name without the `annotation.` before it.
    pub name: String,
    /// The parquet column with the task indices.
    pub column: String,
}

/// The dataset's groups, views and annotations, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Modality {
    /// State groups.
    pub state: Vec<Group>,
    /// Action groups.
    pub action: Vec<Group>,
    /// Cameras.
    pub video: Vec<View>,
    /// Annotations.
    pub annotation: Vec<Annotation>,
    /// Whether these were derived from `info.json` because `modality.json` is absent.
    pub derived: bool,
    odd: Vec<OddGroup>,
}

/// A group of `modality.json` that cannot be used as it stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OddGroup {
    kind: Kind,
    name: String,
    expected: String,
    found: String,
}

#[derive(Deserialize)]
struct RawModality {
    #[serde(default)]
    state: Maybe<Ordered<Maybe<RawGroup>>>,
    #[serde(default)]
    action: Maybe<Ordered<Maybe<RawGroup>>>,
    #[serde(default)]
    video: Maybe<Ordered<Maybe<RawKey>>>,
    #[serde(default)]
    annotation: Maybe<Ordered<Maybe<RawKey>>>,
}

#[derive(Deserialize)]
struct RawGroup {
    #[serde(default)]
    start: Maybe<usize>,
    #[serde(default)]
    end: Maybe<usize>,
    original_key: Option<String>,
}

#[derive(Deserialize)]
struct RawKey {
    original_key: Option<String>,
}

impl Modality {
    /// Reads `modality.json`, or derives the modalities where it is absent. What is odd there matters to those
    /// who ask for it by name.
    pub(crate) fn read(path: &Path, info: &Info) -> Result<Modality> {
        let Some(raw) = json::read_optional::<RawModality>(path)? else {
            return Ok(Modality::derive(&info.features));
        };
        let mut modality = Modality {
            video: keys(raw.video, "observation.images.", |name, column| View { name, column }),
            annotation: keys(raw.annotation, "annotation.", |name, column| Annotation { name, column }),
            ..Modality::default()
        };
        if modality.annotation.is_empty() {
            modality.annotation = derived_annotations(&info.features);
        }
        modality.state = modality.groups_of(Kind::State, raw.state, info);
        modality.action = modality.groups_of(Kind::Action, raw.action, info);
        Ok(modality)
    }

    /// The groups whose slices fit the features they slice; the others become odd ones.
    fn groups_of(&mut self, kind: Kind, raw: Maybe<Ordered<Maybe<RawGroup>>>, info: &Info) -> Vec<Group> {
        let Ordered(entries) = raw.get().unwrap_or_default();
        let mut groups = Vec::with_capacity(entries.len());
        for (name, raw) in entries {
            match group(kind, &name, raw, info) {
                Ok(group) => groups.push(group),
                Err((expected, found)) => self.odd.push(OddGroup { kind, name, expected, found }),
            }
        }
        groups
    }

    /// The modalities of a dataset without `modality.json` (see the module's rules).
    fn derive(features: &[Feature]) -> Modality {
        let mut modality = Modality { derived: true, ..Modality::default() };
        for feature in features {
            let column = feature.name.clone();
            let group = |name: &str| Group {
                name: name.to_owned(),
                start: 0,
                end: feature.dim(),
                column: feature.name.clone(),
            };
            if feature.is_visual() {
                if feature.is_image() && !colour(&feature.shape) {
                    continue;
                }
                let name = column.rsplit('.').next().unwrap_or(&column).to_owned();
                modality.video.push(View { name, column });
            } else if !feature.is_numeric() || feature.dim() == 0 {
                // Texts and stored images are neither state nor action.
            } else if let Some(name) = column.strip_prefix("observation.") {
                modality.state.push(group(name));
            } else if column == "action" {
                modality.action.push(group("action"));
            } else if let Some(name) = column.strip_prefix("action.") {
                modality.action.push(group(name));
            }
        }
        modality.annotation = derived_annotations(features);
        modality
    }

    /// The groups of a kind.
    pub fn groups(&self, kind: Kind) -> &[Group] {
        match kind {
            Kind::State => &self.state,
            Kind::Action => &self.action,
        }
    }

    /// The group of that name in the dataset at `root`.
    pub(crate) fn group(&self, root: &Path, kind: Kind, name: &str) -> Result<&Group> {
        let groups = self.groups(kind);
        if let Some(group) = groups.iter().find(|g| g.name == name) {
            return Ok(group);
        }
        if let Some(odd) = self.odd.iter().find(|odd| odd.kind == kind && odd.name == name) {
            let field = format!("{}.{name}", kind.name());
            let path = root.join("meta/modality.json");
            return Err(Error::field(&path, field, odd.expected.as_str(), odd.found.as_str()));
        }
        Err(Error::Unknown {
            path: root.into(),
            what: self.what(&format!("{} group", kind.name())),
            name: name.into(),
            known: groups.iter().map(|g| g.name.clone()).collect(),
        })
    }

    /// What an error calls a name that is not known: where the names come from matters.
    pub(crate) fn what(&self, kind: &str) -> String {
        match self.derived {
            true => format!(
                "{kind} (meta/modality.json, which names groups, views and annotations, is missing; these are \
                 derived from meta/info.json)"
            ),
            false => kind.to_owned(),
        }
    }

    /// The view of that name in the dataset at `root`.
    pub(crate) fn view(&self, root: &Path, name: &str) -> Result<&View> {
        self.video.iter().find(|v| v.name == name).ok_or_else(|| Error::Unknown {
            path: root.into(),
            what: self.what("video view"),
            name: name.into(),
            known: self.video.iter().map(|v| v.name.clone()).collect(),
        })
    }
}

/// Whether images of this shape, channels first or last, have three channels; without a shape they may.
fn colour(shape: &[usize]) -> bool {
    shape.is_empty() || shape.first() == Some(&3) || shape.last() == Some(&3)
}

/// Each `annotation.X` feature as `X`, or else `human.task_description` from `task_index`.
fn derived_annotations(features: &[Feature]) -> Vec<Annotation> {
    let annotation = |feature: &Feature| {
        let name = feature.name.strip_prefix("annotation.")?.to_owned();
        Some(Annotation { name, column: feature.name.clone() })
    };
    let own: Vec<Annotation> = features.iter().filter_map(annotation).collect();
    if !own.is_empty() || features.iter().all(|f| f.name != "task_index") {
        return own;
    }
    vec![Annotation { name: "human.task_description".to_owned(), column: "task_index".to_owned() }]
}

/// The views or annotations of `modality.json`; an entry without a column names its default one.
fn keys<T>(raw: Maybe<Ordered<Maybe<RawKey>>>, prefix: &str, make: impl Fn(String, String) -> T) -> Vec<T> {
    let Ordered(entries) = raw.get().unwrap_or_default();
    let key = |(name, raw): (String, Maybe<RawKey>)| {
        let column = raw.get().and_then(|raw| raw.original_key);
        let column = column.unwrap_or_else(|| format!("{prefix}{name}"));
        make(name, column)
    };
    entries.into_iter().map(key).collect()
}

/// One group, checked against the feature it slices; or what was expected and what was found.
fn group(kind: Kind, name: &str, raw: Maybe<RawGroup>, info: &Info) -> Result<Group, (String, String)> {
    let range = || "numbers `start` and `end`".to_owned();
    let raw = raw.get().ok_or_else(|| (range(), "something else".to_owned()))?;
    let column = raw.original_key.unwrap_or_else(|| kind.default_column().to_owned());
    let (Some(start), Some(end)) = (raw.start.get(), raw.end.get()) else {
        return Err((range(), "none".to_owned()));
    };
    let size = info.feature(&column).filter(|feature| !feature.shape.is_empty()).map(Feature::dim);
    if start < end && end <= size.unwrap_or(MAX_DIM) {
        return Ok(Group { name: name.to_owned(), start, end, column });
    }
    let expected = match size {
        None => format!("start < end <= {MAX_DIM}"),
        Some(size) => format!("start < end <= {size}, the size of `{column}`"),
    };
    Err((expected, format!("start {start}, end {end}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feature(name: &str, dtype: &str, shape: &[usize]) -> Feature {
        Feature { name: name.into(), dtype: dtype.into(), shape: shape.into(), names: None }
    }

    #[test]
    fn modalities_without_a_file() {
        let modality = Modality::derive(&[
            feature("observation.images.front", "video", &[48, 64, 3]),
            feature("observation.images.depth", "image", &[48, 64, 1]),
            feature("observation.state", "float32", &[6]),
            feature("observation.effort", "float64", &[2]),
            feature("action", "float32", &[6]),
            feature("action.base", "float32", &[3]),
            feature("timestamp", "float32", &[1]),
            feature("task_index", "int64", &[1]),
        ]);
        let names = |groups: &[Group]| groups.iter().map(|g| (g.name.clone(), g.dim())).collect::<Vec<_>>();
        assert_eq!(names(&modality.state), [("state".into(), 6), ("effort".into(), 2)]);
        assert_eq!(names(&modality.action), [("action".into(), 6), ("base".into(), 3)]);
        assert_eq!(modality.video.len(), 1);
        assert_eq!(modality.video[0].name, "front");
        assert_eq!(modality.annotation[0].column, "task_index");
        let own = Modality::derive(&[feature("annotation.human.validity", "int64", &[1])]);
        assert_eq!(own.annotation[0].name, "human.validity");
    }
}
