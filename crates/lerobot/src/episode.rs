//! One episode: its groups as matrices, its instruction, its videos.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    DecodedBy, EpisodeMeta, Error, Kind, Result, SubTask, Video, VideoDecoder,
    dataset::Inner,
    info::Layout,
    parquet::{Column, Table},
    paths::Fields,
    video::Decoders,
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

/// One episode. Its columns are read when they are first asked for, its videos are opened on demand.
#[derive(Debug)]
pub struct Episode {
    dataset: Arc<Inner>,
    decoder: VideoDecoder,
    index: usize,
    data_path: PathBuf,
    table: Table,
    /// The episode's rows of the table.
    rows: Range<usize>,
    /// The columns that groups slice, `[len, dim]`.
    numbers: Mutex<BTreeMap<String, Arc<Matrix>>>,
    /// The columns that annotations look up, `[len]`.
    task_indices: Mutex<BTreeMap<String, Arc<Vec<i64>>>>,
    /// What decodes the videos that were opened.
    decoders: Mutex<Vec<Decoders>>,
}

impl Episode {
    /// Opens the data of the episode at `index`.
    pub(crate) fn read(dataset: Arc<Inner>, decoder: VideoDecoder, index: usize) -> Result<Episode> {
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
        let (numbers, task_indices, decoders) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Episode { dataset, decoder, index, data_path, table, rows, numbers, task_indices, decoders })
    }

    /// A column of numbers, read once.
    fn numbers(&self, column: &str) -> Result<Arc<Matrix>> {
        kept(&self.numbers, column, || {
            matrix(&self.data_path, column, self.table.column::<f32>(column, self.rows.clone())?)
        })
    }

    /// A column of task indices, read once.
    fn indices(&self, column: &str) -> Result<Arc<Vec<i64>>> {
        kept(&self.task_indices, column, || self.table.scalars::<i64>(column, self.rows.clone()))
    }

    /// The number of steps: the smaller of the data's rows and the metadata's length.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the episode has no steps.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
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
        let column = self.numbers(&group.column)?;
        // An episode without rows has no width to check.
        if !self.is_empty() && group.end > column.cols {
            return Err(Error::field(
                &self.data_path,
                group.column.as_str(),
                format!("at least {} values a row for group `{name}`", group.end),
                format!("{} values", column.cols),
            ));
        }
        let rows = (0..self.len()).flat_map(|row| &column.row(row)[group.start..group.end]);
        Ok(Matrix { rows: self.len(), cols: group.dim(), data: rows.copied().collect() })
    }

    /// The text for `language_key` at a step, for actions of `action_horizon` steps:
    /// - `annotation.X`: the task that the annotation's column points to at that step;
    /// - `task`: the episode's first task, or else the one that the data's `task_index` points to;
    /// - `sub_task`: the first sub-task whose window covers the step, or an empty text where none does. As in the
    ///   official loader a window opens half an action horizon (rounded down) before the sub-task starts.
    pub fn instruction(&self, language_key: &str, step: usize, action_horizon: usize) -> Result<String> {
        if step >= self.len() {
            return Err(Error::StepRange { path: self.data_path.clone(), step, len: self.len() });
        }
        let meta = self.dataset.episode_meta(self.index)?;
        match language_key {
            "task" => match meta.tasks.first() {
                Some(text) => Ok(text.clone()),
                None => self.task("task_index", step),
            },
            "sub_task" if !meta.sub_tasks.is_empty() => {
                let covers = |part: &&SubTask| {
                    (part.start.saturating_sub(action_horizon / 2)..part.end).contains(&step)
                };
                let here = meta.sub_tasks.iter().find(covers);
                Ok(here.map(|part| part.text.clone()).unwrap_or_default())
            }
            _ => self.annotation(language_key, step),
        }
    }

    /// The task that an annotation points to at a step (which exists).
    fn annotation(&self, language_key: &str, step: usize) -> Result<String> {
        let modality = &self.dataset.modality;
        let name = language_key.strip_prefix("annotation.");
        let annotation = name.and_then(|name| modality.annotation.iter().find(|a| a.name == name));
        let annotation = annotation.ok_or_else(|| {
            let mut known = vec!["task".to_owned()];
            known.extend(modality.annotation.iter().map(|a| format!("annotation.{}", a.name)));
            Error::Unknown {
                path: self.dataset.root.clone(),
                what: modality.what("language key"),
                name: language_key.into(),
                known,
            }
        })?;
        self.task(&annotation.column, step)
    }

    /// The task that a column points to at a step (which exists).
    fn task(&self, column: &str, step: usize) -> Result<String> {
        let index = self.indices(column)?.get(step).copied().unwrap_or_default();
        self.dataset.task(index, &self.data_path, format!("{column}, row {step}"))
    }

    /// Opens a view's video (or its images). Frame 0 is the episode's first step; there are at least
    /// [`Episode::len`] frames.
    ///
    /// v2.x counts frames. In v3.0, where episodes share files, a step's frame is the one whose presentation time
    /// is nearest to `from_timestamp` plus the step's `timestamp`.
    pub fn video(&self, view: &str) -> Result<Video> {
        let dataset = &self.dataset;
        let view = dataset.modality.view(&dataset.root, view)?;
        let meta = dataset.episode_meta(self.index)?;
        let info_path = dataset.root.join("meta/info.json");
        let Some(feature) = dataset.info.feature(&view.column) else {
            let visual = dataset.info.features.iter().filter(|f| f.is_visual());
            return Err(Error::Unknown {
                path: info_path,
                what: "video feature".into(),
                name: view.column.clone(),
                known: visual.map(|f| f.name.clone()).collect(),
            });
        };
        if feature.is_image() {
            let table = Table::open(&self.data_path, &format!("the data of episode {}", self.index))?;
            return Ok(Video::of_images(table, &view.column, self.rows.clone()));
        }
        let Some(pattern) = &dataset.info.video_path else {
            return Err(Error::field(&info_path, "video_path", "a path pattern", "none"));
        };
        let mut fields = Fields { video_key: Some(&view.column), ..episode_fields(dataset, meta) };
        let Some(place) = &meta.place else {
            let path = dataset.expand("video_path", pattern, fields)?;
            let video = self.open_video(&path, &view.name)?;
            return match video.frame_count() {
                frames if frames < self.len() => Err(self.short_video(&path, frames)),
                _ => Ok(video),
            };
        };
        let Some(place) = place.videos.get(&view.column) else {
            let known = place.videos.keys().cloned().collect();
            let path = dataset.root.join("meta/episodes");
            return Err(Error::Unknown { path, what: "video".into(), name: view.column.clone(), known });
        };
        (fields.chunk, fields.file) = (place.chunk, place.file);
        let path = dataset.expand("video_path", pattern, fields)?;
        if !(place.from.is_finite() && place.from >= 0.0) {
            return Err(Error::field(
                &dataset.root.join("meta/episodes"),
                format!("from_timestamp of episode {} in {}", self.index, view.column),
                "a time from 0",
                place.from.to_string(),
            ));
        }
        let times: Vec<f64> = self.timestamps()?.into_iter().map(|time| place.from + time).collect();
        let video = self.open_video(&path, &view.name)?;
        video.nearest(&times, 1.0 / dataset.info.fps).map_err(|frames| match frames {
            0 => Error::field(
                &dataset.root.join("meta/episodes"),
                format!("from_timestamp of episode {} in {}", self.index, view.column),
                format!("a time at which {} has a frame", path.display()),
                place.from.to_string(),
            ),
            frames => self.short_video(&path, frames),
        })
    }

    /// What decoded the frames of the videos that were opened so far: FFmpeg's program as soon as one frame came from
    /// it.
    pub fn decoded_by(&self) -> DecodedBy {
        let decoders = self.decoders.lock().unwrap_or_else(PoisonError::into_inner);
        let by_ffmpeg = decoders.iter().any(|decoders| decoders.last() == DecodedBy::Ffmpeg);
        if by_ffmpeg { DecodedBy::Ffmpeg } else { DecodedBy::Native }
    }

    fn open_video(&self, path: &Path, view: &str) -> Result<Video> {
        let what = format!("the `{view}` video of episode {}", self.index);
        let video = Video::open_as(path, &what, self.decoder)?;
        self.decoders.lock().unwrap_or_else(PoisonError::into_inner).push(video.decoders());
        Ok(video)
    }

    fn short_video(&self, path: &Path, frames: usize) -> Error {
        Error::ShortVideo { path: path.into(), frames, episode: self.index, steps: self.len() }
    }

    /// The seconds from the episode's start to each step: the column `timestamp`, or else by the frame rate.
    fn timestamps(&self) -> Result<Vec<f64>> {
        const COLUMN: &str = "timestamp";
        if !self.table.columns().iter().any(|column| column == COLUMN) {
            return Ok((0..self.len()).map(|step| step as f64 / self.dataset.info.fps).collect());
        }
        let times = self.table.scalars::<f64>(COLUMN, self.rows.clone())?;
        match times.iter().position(|time| !time.is_finite()) {
            None => Ok(times),
            Some(row) => {
                let field = format!("{COLUMN}, row {row}");
                Err(Error::field(&self.data_path, field, "a time in seconds", times[row].to_string()))
            }
        }
    }
}

/// The column `name` out of `columns`, read into it where it is not there.
fn kept<T>(
    columns: &Mutex<BTreeMap<String, Arc<T>>>,
    name: &str,
    read: impl FnOnce() -> Result<T>,
) -> Result<Arc<T>> {
    let mut columns = columns.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(column) = columns.get(name) {
        return Ok(Arc::clone(column));
    }
    let column = Arc::new(read()?);
    columns.insert(name.to_owned(), Arc::clone(&column));
    Ok(column)
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
    if let Some(row) = column.null {
        return Err(Error::field(path, format!("{name}, row {row}"), "numbers", "a null among them"));
    }
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
