//! `meta/modality.json`: which slice of which column is which group, view or annotation.
//!
//! Where the file is absent, modalities are derived from the features of `info.json`:
//! - state: each numeric feature `observation.X`, whole, as group `X` (`observation.state` → `state`);
//! - action: the feature `action` as group `action`, and each `action.X` as group `X`;
//! - video: each video feature, named by its last component (`observation.images.front` → `front`);
//! - annotation: each `annotation.X` feature as `X`, or else `human.task_description` from `task_index`.

use std::path::Path;

use serde::Deserialize;

use crate::{
    Error, Feature, Result,
    info::Info,
    json::{self, Ordered},
};

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
}

#[derive(Deserialize)]
struct RawModality {
    #[serde(default)]
    state: Ordered<RawGroup>,
    #[serde(default)]
    action: Ordered<RawGroup>,
    #[serde(default)]
    video: Ordered<RawKey>,
    #[serde(default)]
    annotation: Ordered<RawKey>,
}

#[derive(Deserialize)]
struct RawGroup {
    start: usize,
    end: usize,
    original_key: Option<String>,
}

#[derive(Deserialize)]
struct RawKey {
    original_key: Option<String>,
}

impl Modality {
    /// Reads `modality.json`, or derives the modalities where it is absent.
    pub(crate) fn read(path: &Path, info: &Info) -> Result<Modality> {
        let Some(raw) = json::read_optional::<RawModality>(path)? else {
            return Ok(Modality::derive(&info.features));
        };
        let key = |(name, raw): (String, RawKey), prefix: &str| {
            let column = raw.original_key.unwrap_or_else(|| format!("{prefix}{name}"));
            (name, column)
        };
        Ok(Modality {
            state: groups(path, Kind::State, raw.state, info)?,
            action: groups(path, Kind::Action, raw.action, info)?,
            video: raw
                .video
                .0
                .into_iter()
                .map(|entry| key(entry, "observation.images."))
                .map(|(name, column)| View { name, column })
                .collect(),
            annotation: raw
                .annotation
                .0
                .into_iter()
                .map(|entry| key(entry, "annotation."))
                .map(|(name, column)| Annotation { name, column })
                .collect(),
            derived: false,
        })
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
            if feature.is_video() {
                let name = column.rsplit('.').next().unwrap_or(&column).to_owned();
                modality.video.push(View { name, column });
            } else if let Some(name) = column.strip_prefix("annotation.") {
                modality.annotation.push(Annotation { name: name.to_owned(), column });
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
        if modality.annotation.is_empty() && features.iter().any(|f| f.name == "task_index") {
            let (name, column) = ("human.task_description".to_owned(), "task_index".to_owned());
            modality.annotation.push(Annotation { name, column });
        }
        modality
    }

    /// The groups of a kind.
    pub fn groups(&self, kind: Kind) -> &[Group] {
        match kind {
            Kind::State => &self.state,
            Kind::Action => &self.action,
        }
    }

    /// The group of that name; `path` is named in the error.
    pub(crate) fn group(&self, path: &Path, kind: Kind, name: &str) -> Result<&Group> {
        let groups = self.groups(kind);
        groups.iter().find(|g| g.name == name).ok_or_else(|| Error::Unknown {
            path: path.into(),
            what: format!("{} group", kind.name()),
            name: name.into(),
            known: groups.iter().map(|g| g.name.clone()).collect(),
        })
    }

    /// The view of that name; `path` is named in the error.
    pub(crate) fn view(&self, path: &Path, name: &str) -> Result<&View> {
        self.video.iter().find(|v| v.name == name).ok_or_else(|| Error::Unknown {
            path: path.into(),
            what: "video view".into(),
            name: name.into(),
            known: self.video.iter().map(|v| v.name.clone()).collect(),
        })
    }
}

/// Checks the slices against the features they slice.
fn groups(path: &Path, kind: Kind, raw: Ordered<RawGroup>, info: &Info) -> Result<Vec<Group>> {
    raw.0
        .into_iter()
        .map(|(name, raw)| {
            let column = raw.original_key.unwrap_or_else(|| kind.default_column().to_owned());
            let end = info.feature(&column).map_or(usize::MAX, Feature::dim);
            if raw.start >= raw.end || raw.end > end {
                return Err(Error::field(
                    path,
                    format!("{}.{name}", kind.name()),
                    match end {
                        usize::MAX => "start < end".to_owned(),
                        _ => format!("start < end <= {end}, the size of `{column}`"),
                    },
                    format!("start {}, end {}", raw.start, raw.end),
                ));
            }
            Ok(Group { name, start: raw.start, end: raw.end, column })
        })
        .collect()
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
