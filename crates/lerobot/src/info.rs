//! `meta/info.json`: the dataset's version, rate, path patterns and features.

use std::path::Path;

use serde::{Deserialize, de::IgnoredAny};

use crate::{
    Error, Result, json,
    json::{Maybe, Ordered},
};

/// Episodes a chunk folder holds where `info.json` does not say.
const DEFAULT_CHUNK_SIZE: usize = 1000;
/// Frames a second where `info.json` does not say.
const DEFAULT_FPS: f64 = 30.0;

/// One column or video of the dataset, as `info.json` lists it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Feature {
    /// The column's name, such as `observation.state` or `observation.images.ego_view`.
    pub name: String,
    /// `float32`, `int64`, `video`, `image`, …, as written; `unknown` where nothing is.
    pub dtype: String,
    /// The shape of one step's value; `[height, width, 3]` for most videos. Empty where the file has none that
    /// can be read.
    pub shape: Vec<usize>,
    /// The elements' names, in order. None where the file has none, or not one for each element.
    pub names: Option<Vec<String>>,
}

impl Feature {
    /// Whether the feature's values are video frames.
    pub fn is_video(&self) -> bool {
        self.dtype == "video"
    }

    /// Whether the feature's values are image files (PNG, JPEG) in the parquet files.
    pub fn is_image(&self) -> bool {
        self.dtype == "image"
    }

    /// Whether the feature's values are pictures, of a video or one by one.
    pub fn is_visual(&self) -> bool {
        self.is_video() || self.is_image()
    }

    /// Whether the feature's values are numbers in the parquet files.
    pub fn is_numeric(&self) -> bool {
        ["float", "int", "uint", "bool"].iter().any(|kind| self.dtype.starts_with(kind))
    }

    /// The number of elements of one step's value; 1 without a shape.
    pub fn dim(&self) -> usize {
        self.shape.iter().fold(1, |dim, n| dim.saturating_mul(*n))
    }
}

/// The parts of `info.json` that reading needs.
#[derive(Debug)]
pub(crate) struct Info {
    pub(crate) version: String,
    pub(crate) layout: Layout,
    pub(crate) robot_type: Option<String>,
    pub(crate) fps: f64,
    pub(crate) chunk_size: usize,
    pub(crate) data_path: String,
    pub(crate) video_path: Option<String>,
    pub(crate) features: Vec<Feature>,
}

/// How episodes lie in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// v2.x: a file for each episode.
    FilePerEpisode,
    /// v3.x: many episodes a file.
    ManyPerFile,
}

#[derive(Deserialize)]
struct RawInfo {
    codebase_version: Maybe<String>,
    #[serde(default)]
    robot_type: Maybe<String>,
    fps: Option<f64>,
    chunks_size: Option<usize>,
    data_path: String,
    video_path: Option<String>,
    #[serde(default)]
    features: Maybe<Ordered<Maybe<RawFeature>>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawFeature {
    dtype: Maybe<String>,
    shape: Maybe<Shape>,
    names: Names,
}

/// The forms in which datasets write a shape.
#[derive(Deserialize)]
#[serde(untagged)]
enum Shape {
    One(usize),
    Dims(Vec<usize>),
}

/// The forms in which datasets write element names.
#[derive(Deserialize, Default, Clone)]
#[serde(untagged)]
enum Names {
    #[default]
    None,
    One(String),
    Number(serde_json::Number),
    List(Vec<Names>),
    /// `{"shoulder": 0, "elbow": 1}`
    Indices(Ordered<usize>),
    /// `{"motors": ["shoulder", "elbow"]}`
    Object(Ordered<Names>),
    Other(IgnoredAny),
}

impl Names {
    /// Appends the names in order.
    fn flatten(&self, out: &mut Vec<String>) {
        match self {
            Names::None | Names::Other(_) => {}
            Names::One(name) => out.push(name.clone()),
            Names::Number(name) => out.push(name.to_string()),
            Names::List(list) => list.iter().for_each(|names| names.flatten(out)),
            Names::Object(Ordered(entries)) => entries.iter().for_each(|(_, names)| names.flatten(out)),
            Names::Indices(Ordered(entries)) => {
                let mut entries = entries.clone();
                entries.sort_by_key(|(_, index)| *index);
                out.extend(entries.into_iter().map(|(name, _)| name));
            }
        }
    }
}

impl RawFeature {
    fn named(self, name: String) -> Feature {
        let mut names = Vec::new();
        self.names.flatten(&mut names);
        let shape = match self.shape.get() {
            Some(Shape::One(dim)) => vec![dim],
            Some(Shape::Dims(dims)) => dims,
            None => Vec::new(),
        };
        let dtype = self.dtype.get().unwrap_or_else(|| "unknown".to_owned());
        let mut feature = Feature { name, dtype, shape, names: None };
        // A video's names are those of its axes, not of its elements.
        let count = if feature.is_visual() { feature.shape.len() } else { feature.dim() };
        feature.names = (!names.is_empty() && names.len() == count).then_some(names);
        feature
    }
}

impl Info {
    /// Reads and checks `meta/info.json`.
    pub(crate) fn read(path: &Path) -> Result<Info> {
        let raw: RawInfo = json::read(path, "info.json, which describes the dataset,")?;
        let version = raw.codebase_version.get().unwrap_or_else(|| "none".to_owned());
        let layout = match version.trim_start_matches('v') {
            v if v.starts_with("2.") => Layout::FilePerEpisode,
            v if v.starts_with("3.") => Layout::ManyPerFile,
            _ => {
                return Err(Error::Unsupported {
                    path: path.into(),
                    what: "codebase_version".into(),
                    found: version,
                    supported: "v2.0, v2.1, v3.0".into(),
                });
            }
        };
        let fps = raw.fps.unwrap_or(DEFAULT_FPS);
        if !(fps.is_finite() && fps > 0.0) {
            return Err(Error::field(path, "fps", "a positive number", fps.to_string()));
        }
        let chunk_size = raw.chunks_size.unwrap_or(DEFAULT_CHUNK_SIZE);
        if chunk_size == 0 {
            return Err(Error::field(path, "chunks_size", "at least 1", "0"));
        }
        let Ordered(features) = raw.features.get().unwrap_or_default();
        Ok(Info {
            version,
            layout,
            robot_type: raw.robot_type.get(),
            fps,
            chunk_size,
            data_path: raw.data_path,
            video_path: raw.video_path,
            features: features
                .into_iter()
                .map(|(name, raw)| raw.get().unwrap_or_default().named(name))
                .collect(),
        })
    }

    /// The feature of that name.
    pub(crate) fn feature(&self, name: &str) -> Option<&Feature> {
        self.features.iter().find(|f| f.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(json: &str, shape: &[usize]) -> Option<Vec<String>> {
        let text = format!(r#"{{"dtype": "float32", "shape": {shape:?}, "names": {json}}}"#);
        serde_json::from_str::<RawFeature>(&text).unwrap().named("x".into()).names
    }

    #[test]
    fn every_form_of_names() {
        let ab = Some(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(names(r#"["a", "b"]"#, &[2]), ab);
        assert_eq!(names(r#"[["a", "b"]]"#, &[2]), ab);
        assert_eq!(names(r#"{"motors": ["a", "b"]}"#, &[2]), ab);
        assert_eq!(names(r#"{"b": 1, "a": 0}"#, &[2]), ab);
        assert_eq!(names(r#"{"left": ["a"], "right": ["b"]}"#, &[2]), ab);
        assert_eq!(names("null", &[2]), None);
        assert_eq!(names("[0, 1]", &[2]), Some(vec!["0".to_owned(), "1".to_owned()]));
        assert_eq!(names(r#"["a", "b"]"#, &[3]), None);
        assert_eq!(names("true", &[2]), None);
    }

    #[test]
    fn odd_features_are_kept_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = r#"{"codebase_version": "v2.1", "robot_type": 7, "fps": 30.0, "data_path": "x", "features": {
            "a": null, "b": {"dtype": "float32", "shape": 3}, "c": {"dtype": null, "shape": "wide", "x": NaN}}}"#;
        std::fs::write(file.path(), text).unwrap();
        let info = Info::read(file.path()).unwrap();
        let found: Vec<_> =
            info.features.iter().map(|f| (f.name.as_str(), f.dtype.as_str(), &f.shape[..])).collect();
        assert_eq!(found, [("a", "unknown", &[][..]), ("b", "float32", &[3]), ("c", "unknown", &[])]);
        assert_eq!((info.fps, info.robot_type), (30.0, None));
    }
}
