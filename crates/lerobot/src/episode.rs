//! One episode: its groups as matrices, its instruction, its videos.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    EpisodeMeta, Error, Kind, Result, Video,
    dataset::Inner,
    info::Layout,
    parquet::{Column, Table},
    paths::Fields,
};

/// A row-major matrix of f32.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matrix {
    /// The number of rows: steps.
    pub rows: usize,
    /// The number of columns: the group's elements.
    pub cols: usize,
    /// `rows * cols` values.
    pub data: Vec<f32>,
}

impl Matrix {
    /// One row: `[cols]`. Panics when `row` is not below `rows`, as slices do.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..(row + 1) * self.cols]
    }
}

/// One episode with its numeric columns in memory. Videos are opened on demand.
#[derive(Debug)]
pub struct Episode {
    dataset: Arc<Inner>,
    index: usize,
    len: usize,
    data_path: PathBuf,
    /// The columns that groups slice, `[len, dim]`.
    numbers: BTreeMap<String, Matrix>,
    /// The columns that annotations look up, `[len]`.
    task_indices: BTreeMap<String, Vec<i64>>,
    /// The columns that the data file has.
    known: Vec<String>,
}

impl Episode {
    /// Reads the columns of the episode at `index` that the modalities name.
    pub(crate) fn read(dataset: Arc<Inner>, index: usize) -> Result<Episode> {
        let meta = dataset.episode_meta(index)?;
        let data_path = data_path(&dataset, meta)?;
        let what = format!("the data of episode {index}");
        let table = Table::open(&data_path, &what)?;
        let mut rows = match dataset.info.layout {
            Layout::FilePerEpisode => 0..table.rows(),
            Layout::ManyPerFile => find_rows(&table, meta.episode_index)?,
        };
        // A file may hold more rows than the metadata promise, or fewer: the shorter counts.
        rows.end = rows.end.min(rows.start.saturating_add(meta.length));
        let len = rows.len();
        let known = table.columns();
        let has = |column: &str| known.iter().any(|name| name == column);
        let mut numbers = BTreeMap::new();
        for group in dataset.modality.state.iter().chain(&dataset.modality.action) {
            if has(&group.column) && !numbers.contains_key(&group.column) {
                let column = table.column::<f32>(&group.column, rows.clone())?;
                numbers.insert(group.column.clone(), matrix(&data_path, &group.column, column)?);
            }
        }
        let mut task_indices = BTreeMap::new();
        for annotation in &dataset.modality.annotation {
            if has(&annotation.column) && !task_indices.contains_key(&annotation.column) {
                let indices = table.scalars::<i64>(&annotation.column, rows.clone())?;
                task_indices.insert(annotation.column.clone(), indices);
            }
        }
        Ok(Episode { dataset, index, len, data_path, numbers, task_indices, known })
    }

    /// The number of steps: the smaller of the data's rows and the metadata's length.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the episode has no steps.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The episode's position in the dataset.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What the metadata says of this episode.
    pub fn meta(&self) -> Result<&EpisodeMeta> {
        self.dataset.episode_meta(self.index)
    }

    /// A group's values: `[len, dim]`, in the units of the dataset.
    pub fn group(&self, kind: Kind, name: &str) -> Result<Matrix> {
        let group = self.dataset.modality.group(&self.dataset.root, kind, name)?;
        let column = self.numbers.get(&group.column).ok_or_else(|| self.no_column(&group.column))?;
        // An episode without rows has no width to check.
        if self.len > 0 && group.end > column.cols {
            return Err(Error::field(
                &self.data_path,
                group.column.as_str(),
                format!("at least {} values a row for group `{name}`", group.end),
                format!("{} values", column.cols),
            ));
        }
        let rows = (0..self.len).flat_map(|row| &column.row(row)[group.start..group.end]);
        Ok(Matrix { rows: self.len, cols: group.dim(), data: rows.copied().collect() })
    }

    /// The text for `language_key` at a step:
    /// - `annotation.X`: the task that the annotation's column points to at that step;
    /// - `task`: the episode's first task;
    /// - `sub_task`: the first sub-task that covers the step, or an empty text where none does.
    pub fn instruction(&self, language_key: &str, step: usize) -> Result<String> {
        if step >= self.len {
            return Err(Error::StepRange { path: self.data_path.clone(), step, len: self.len });
        }
        let meta = self.dataset.episode_meta(self.index)?;
        match language_key {
            "task" => meta.tasks.first().cloned().ok_or_else(|| {
                let field = format!("tasks of episode {}", self.index);
                Error::field(&self.dataset.root.join("meta"), field, "at least one task", "none")
            }),
            "sub_task" if !meta.sub_tasks.is_empty() => {
                let here = meta.sub_tasks.iter().find(|part| (part.start..part.end).contains(&step));
                Ok(here.map(|part| part.text.clone()).unwrap_or_default())
            }
            _ => self.annotation(language_key, step),
        }
    }

    /// The task that an annotation points to at a step (which exists).
    fn annotation(&self, language_key: &str, step: usize) -> Result<String> {
        let annotations = &self.dataset.modality.annotation;
        let name = language_key.strip_prefix("annotation.");
        let annotation = name.and_then(|name| annotations.iter().find(|a| a.name == name));
        let annotation = annotation.ok_or_else(|| {
            let mut known = vec!["task".to_owned()];
            known.extend(annotations.iter().map(|a| format!("annotation.{}", a.name)));
            Error::Unknown {
                path: self.dataset.root.clone(),
                what: "language key".into(),
                name: language_key.into(),
                known,
            }
        })?;
        let indices =
            self.task_indices.get(&annotation.column).ok_or_else(|| self.no_column(&annotation.column))?;
        let index = indices.get(step).copied().unwrap_or_default();
        self.dataset.tasks.get(&index).cloned().ok_or_else(|| {
            let known = self.dataset.tasks.keys().map(i64::to_string).collect::<Vec<_>>().join(", ");
            let field = format!("{}, row {step}", annotation.column);
            Error::field(&self.data_path, field, format!("a task index of {known}"), index.to_string())
        })
    }

    /// Opens a view's video. Frame 0 is the episode's first step; there are at least [`Episode::len`] frames.
    pub fn video(&self, view: &str) -> Result<Video> {
        let dataset = &self.dataset;
        let view = dataset.modality.view(&dataset.root, view)?;
        let meta = dataset.episode_meta(self.index)?;
        let info_path = dataset.root.join("meta/info.json");
        let Some(pattern) = &dataset.info.video_path else {
            return Err(Error::field(&info_path, "video_path", "a path pattern", "none"));
        };
        if dataset.info.feature(&view.column).is_none() {
            return Err(Error::Unknown {
                path: info_path,
                what: "video feature".into(),
                name: view.column.clone(),
                known: dataset
                    .info
                    .features
                    .iter()
                    .filter(|f| f.is_video())
                    .map(|f| f.name.clone())
                    .collect(),
            });
        }
        let mut fields = Fields { video_key: Some(&view.column), ..episode_fields(dataset, meta) };
        let Some(place) = &meta.place else {
            let path = dataset.expand("video_path", pattern, fields)?;
            let video = self.open_video(&path, &view.name)?;
            return self.long_enough(video, &path);
        };
        let Some(place) = place.videos.get(&view.column) else {
            let known = place.videos.keys().cloned().collect();
            let path = dataset.root.join("meta/episodes");
            return Err(Error::Unknown { path, what: "video".into(), name: view.column.clone(), known });
        };
        (fields.chunk, fields.file) = (place.chunk, place.file);
        let path = dataset.expand("video_path", pattern, fields)?;
        let (first, end) = (place.from * dataset.info.fps, place.to * dataset.info.fps);
        if !(first.is_finite() && first >= 0.0 && end >= first) {
            return Err(Error::field(
                &dataset.root.join("meta/episodes"),
                format!("timestamps of episode {} in {}", self.index, view.column),
                "0 <= from_timestamp <= to_timestamp",
                format!("{} to {}", place.from, place.to),
            ));
        }
        // Timestamps are multiples of 1/fps up to rounding. `as` saturates.
        let window = (first.round() as usize)..(end.round() as usize);
        let video = self.open_video(&path, &view.name)?.window(window);
        self.long_enough(video, &path)
    }

    fn open_video(&self, path: &Path, view: &str) -> Result<Video> {
        Video::open_as(path, &format!("the `{view}` video of episode {}", self.index))
    }

    /// The video, if it has a frame for each step.
    fn long_enough(&self, video: Video, path: &Path) -> Result<Video> {
        match video.frame_count() {
            frames if frames < self.len => {
                Err(Error::ShortVideo { path: path.into(), frames, episode: self.index, steps: self.len })
            }
            _ => Ok(video),
        }
    }

    /// The data file lacks a column that the modalities name.
    fn no_column(&self, column: &str) -> Error {
        Error::Unknown {
            path: self.data_path.clone(),
            what: "column".into(),
            name: column.into(),
            known: self.known.clone(),
        }
    }
}

/// The values that path patterns may name, without a video's.
fn episode_fields<'a>(dataset: &Inner, meta: &EpisodeMeta) -> Fields<'a> {
    let (chunk, file) = match &meta.place {
        Some(place) => (place.chunk, place.file),
        None => (meta.episode_index / dataset.info.chunk_size, 0),
    };
    Fields { chunk, file, episode: meta.episode_index, video_key: None }
}

/// The parquet file of an episode.
fn data_path(dataset: &Inner, meta: &EpisodeMeta) -> Result<PathBuf> {
    dataset.expand("data_path", &dataset.info.data_path, episode_fields(dataset, meta))
}

/// v3.0: the rows of an episode in a file of many. They stand together.
fn find_rows(table: &Table, episode_index: usize) -> Result<Range<usize>> {
    let column = table.scalars::<i64>("episode_index", 0..table.rows())?;
    let is_here = |index: &i64| usize::try_from(*index) == Ok(episode_index);
    let (first, last) = (column.iter().position(is_here), column.iter().rposition(is_here));
    let (Some(first), Some(last)) = (first, last) else {
        let found = match (column.iter().min(), column.iter().max()) {
            (Some(min), Some(max)) => format!("rows of episodes {min} to {max}"),
            _ => "no rows".to_owned(),
        };
        let expected = format!("rows of episode {episode_index}");
        return Err(Error::field(table.path(), "episode_index", expected, found));
    };
    if !column[first..=last].iter().all(is_here) {
        let expected = format!("the rows of episode {episode_index} together");
        return Err(Error::field(table.path(), "episode_index", expected, "rows of others between them"));
    }
    Ok(first..last + 1)
}

/// A column whose rows all have the same number of values, as a matrix.
fn matrix(path: &Path, name: &str, column: Column<f32>) -> Result<Matrix> {
    let rows = column.lengths.len();
    let cols = column.lengths.first().copied().unwrap_or(0);
    match column.lengths.iter().position(|len| *len != cols || *len == 0) {
        None => Ok(Matrix { rows, cols, data: column.values }),
        Some(row) => {
            let expected = if cols == 0 { "values".into() } else { format!("{cols} values, as in row 0") };
            let found = match column.lengths[row] {
                0 => "null or empty".to_owned(),
                n => format!("{n} values"),
            };
            Err(Error::field(path, format!("{name}, row {row}"), expected, found))
        }
    }
}
