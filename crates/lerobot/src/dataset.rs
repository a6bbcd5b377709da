//! A dataset's metadata, read once when it is opened.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use crate::{
    Episode, Error, Feature, Kind, Modality, Result, StatArray, Stats,
    info::{Info, Layout},
    json,
    parquet::Table,
    paths::{self, Fields},
};

/// An open LeRobot dataset: its metadata in memory, its episodes on disk. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub(crate) inner: Arc<Inner>,
}

/// What a dataset and its episodes share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) info: Info,
    pub(crate) episodes: Vec<EpisodeMeta>,
    /// The texts that task indices stand for.
    pub(crate) tasks: BTreeMap<i64, String>,
    pub(crate) modality: Modality,
    stats: Option<Stats>,
    relative_stats: Option<Stats>,
}

/// What the metadata says of one episode.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EpisodeMeta {
    /// The episode's number, which names its files (v2.x) or marks its rows (v3.0).
    pub episode_index: usize,
    /// The nominal number of steps; [`Episode::len`] is the actual one.
    pub length: usize,
    /// The tasks done in the episode.
    pub tasks: Vec<String>,
    /// The parts of the episode with texts of their own, where the dataset has them.
    pub sub_tasks: Vec<SubTask>,
    /// v3.0: which files hold the episode. Absent in v2.x.
    pub(crate) place: Option<Place>,
}

/// A part of an episode with its own text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct SubTask {
    /// First step.
    pub start: usize,
    /// One past the last step.
    pub end: usize,
    /// The text.
    pub text: String,
}

/// Where a v3.0 episode lies.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    pub(crate) chunk: usize,
    pub(crate) file: usize,
    /// By video key.
    pub(crate) videos: BTreeMap<String, VideoPlace>,
}

/// Where a v3.0 episode lies in a video.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct VideoPlace {
    pub(crate) chunk: usize,
    pub(crate) file: usize,
    /// Seconds from the file's start.
    pub(crate) from: f64,
    /// Seconds from the file's start, exclusive.
    pub(crate) to: f64,
}

#[derive(Deserialize)]
struct RawEpisode {
    episode_index: usize,
    length: usize,
    #[serde(default)]
    tasks: Vec<String>,
    #[serde(default)]
    sub_tasks: Vec<SubTask>,
}

#[derive(Deserialize)]
struct RawTask {
    task_index: i64,
    task: String,
}

impl Dataset {
    /// Opens the dataset in the folder `path`: reads `meta/`, but no data and no video.
    pub fn open(path: impl AsRef<Path>) -> Result<Dataset> {
        let root = path.as_ref().to_path_buf();
        let meta = root.join("meta");
        let info = Info::read(&meta.join("info.json"))?;
        let (episodes, tasks) = match info.layout {
            Layout::FilePerEpisode => (jsonl_episodes(&meta)?, jsonl_tasks(&meta)?),
            Layout::ManyPerFile => (parquet_episodes(&meta, &info)?, parquet_tasks(&meta)?),
        };
        let modality = Modality::read(&meta.join("modality.json"), &info)?;
        let stats = Stats::read(&meta.join("stats.json"))?;
        let relative_stats = Stats::read(&meta.join("relative_stats.json"))?;
        let inner = Inner { root, info, episodes, tasks, modality, stats, relative_stats };
        Ok(Dataset { inner: Arc::new(inner) })
    }

    /// The dataset's folder.
    pub fn path(&self) -> &Path {
        &self.inner.root
    }

    /// `v2.0`, `v2.1`, `v3.0`, as `info.json` says.
    pub fn version(&self) -> &str {
        &self.inner.info.version
    }

    /// Steps a second.
    pub fn fps(&self) -> f64 {
        self.inner.info.fps
    }

    /// The robot's name, where `info.json` has it.
    pub fn robot_type(&self) -> Option<&str> {
        self.inner.info.robot_type.as_deref()
    }

    /// The number of episodes.
    pub fn len(&self) -> usize {
        self.inner.episodes.len()
    }

    /// Whether the dataset has no episodes.
    pub fn is_empty(&self) -> bool {
        self.inner.episodes.is_empty()
    }

    /// The metadata of the episode at `index` (its position in the dataset, from 0).
    pub fn episode_meta(&self, index: usize) -> Result<&EpisodeMeta> {
        self.inner.episode_meta(index)
    }

    /// The groups, views and annotations.
    pub fn modality(&self) -> &Modality {
        &self.inner.modality
    }

    /// `stats.json`, where the dataset has it.
    pub fn stats(&self) -> Option<&Stats> {
        self.inner.stats.as_ref()
    }

    /// `relative_stats.json` (by action group, `[horizon, dim]`), where the dataset has it.
    pub fn relative_stats(&self) -> Option<&Stats> {
        self.inner.relative_stats.as_ref()
    }

    /// One statistic of a group, sliced from its column's: `[dim]` values. None where `stats.json` lacks it.
    pub fn group_stats(&self, kind: Kind, group: &str, statistic: &str) -> Result<Option<Vec<f64>>> {
        let path = self.inner.root.join("meta/stats.json");
        let group = self.inner.modality.group(&path, kind, group)?;
        let array = self.stats().and_then(|stats| stats.get(&group.column, statistic));
        let Some(StatArray { data, .. }) = array else { return Ok(None) };
        match data.get(group.start..group.end) {
            Some(slice) => Ok(Some(slice.to_vec())),
            None => Err(Error::field(
                &path,
                format!("{}.{statistic}", group.column),
                format!("at least {} values for group `{}`", group.end, group.name),
                format!("{} values", data.len()),
            )),
        }
    }

    /// The columns and videos that `info.json` lists, in its order.
    pub fn features(&self) -> &[Feature] {
        &self.inner.info.features
    }

    /// The texts of the dataset's tasks, by task index.
    pub fn tasks(&self) -> &BTreeMap<i64, String> {
        &self.inner.tasks
    }

    /// The names of a group's elements: those of `info.json`, or else `group[0]`, `group[1]`, ….
    ///
    /// Empty for a group that the dataset does not have.
    pub fn dimension_names(&self, kind: Kind, group: &str) -> Vec<String> {
        let Some(group) = self.inner.modality.groups(kind).iter().find(|g| g.name == group) else {
            return Vec::new();
        };
        let names = self.inner.info.feature(&group.column).and_then(|f| f.names.as_ref());
        match names.and_then(|names| names.get(group.start..group.end)) {
            Some(names) => names.to_vec(),
            None => (0..group.dim()).map(|i| format!("{}[{i}]", group.name)).collect(),
        }
    }

    /// Reads the numeric columns of the episode at `index` (its position in the dataset, from 0).
    pub fn episode(&self, index: usize) -> Result<Episode> {
        Episode::read(self.inner.clone(), index)
    }
}

impl Inner {
    /// The metadata of the episode at `index`.
    pub(crate) fn episode_meta(&self, index: usize) -> Result<&EpisodeMeta> {
        let len = self.episodes.len();
        self.episodes.get(index).ok_or_else(|| Error::EpisodeRange { path: self.root.clone(), index, len })
    }

    /// Fills in one of the path patterns of `info.json` (`field` names it in errors).
    pub(crate) fn expand(&self, field: &str, pattern: &str, fields: Fields) -> Result<PathBuf> {
        match paths::expand(pattern, fields) {
            Ok(relative) => Ok(self.root.join(relative)),
            Err(part) => Err(Error::field(
                &self.root.join("meta/info.json"),
                field,
                "a pattern of {episode_chunk}, {episode_index}, {chunk_index}, {file_index}, {video_key}",
                format!("{part} in `{pattern}`"),
            )),
        }
    }
}

/// v2.x: `episodes.jsonl`.
fn jsonl_episodes(meta: &Path) -> Result<Vec<EpisodeMeta>> {
    let raw: Vec<RawEpisode> =
        json::read_lines(&meta.join("episodes.jsonl"), "the list of episodes (episodes.jsonl)")?;
    let meta = |raw: RawEpisode| EpisodeMeta {
        episode_index: raw.episode_index,
        length: raw.length,
        tasks: raw.tasks,
        sub_tasks: raw.sub_tasks,
        place: None,
    };
    Ok(raw.into_iter().map(meta).collect())
}

/// v2.x: `tasks.jsonl`.
fn jsonl_tasks(meta: &Path) -> Result<BTreeMap<i64, String>> {
    let raw: Vec<RawTask> = json::read_lines(&meta.join("tasks.jsonl"), "the list of tasks (tasks.jsonl)")?;
    Ok(raw.into_iter().map(|raw| (raw.task_index, raw.task)).collect())
}

/// v3.0: `tasks.parquet`, whose texts are a pandas index (`__index_level_0__`) or a column `task`.
fn parquet_tasks(meta: &Path) -> Result<BTreeMap<i64, String>> {
    let table = Table::open(&meta.join("tasks.parquet"), "the list of tasks (tasks.parquet)")?;
    let indices = table.scalars::<i64>("task_index", 0..table.rows())?;
    let columns = table.columns();
    let text = if columns.iter().any(|c| c == "__index_level_0__") { "__index_level_0__" } else { "task" };
    let texts = table.scalars::<String>(text, 0..table.rows())?;
    Ok(indices.into_iter().zip(texts).collect())
}

/// v3.0: every `meta/episodes/chunk-XXX/file-XXX.parquet`, by episode index.
fn parquet_episodes(meta: &Path, info: &Info) -> Result<Vec<EpisodeMeta>> {
    let folder = meta.join("episodes");
    let mut episodes = Vec::new();
    for chunk in sorted_entries(&folder)? {
        if !chunk.is_dir() {
            continue;
        }
        for file in sorted_entries(&chunk)? {
            if file.extension().is_some_and(|e| e == "parquet") {
                read_episodes(&Table::open(&file, "a file of episodes")?, info, &mut episodes)?;
            }
        }
    }
    episodes.sort_by_key(|e| e.episode_index);
    Ok(episodes)
}

/// The entries of a folder, by name.
fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io(folder, "the folder of episode metadata", e);
    let mut entries = std::fs::read_dir(folder)
        .map_err(failed)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    entries.sort();
    Ok(entries)
}

/// Appends the episodes of one metadata file.
fn read_episodes(table: &Table, info: &Info, out: &mut Vec<EpisodeMeta>) -> Result<()> {
    let rows = 0..table.rows();
    let indices = |name: &str| -> Result<Vec<usize>> {
        let values = table.scalars::<i64>(name, rows.clone())?;
        values
            .into_iter()
            .map(|v| {
                usize::try_from(v)
                    .map_err(|_| Error::field(table.path(), name, "a number from 0", v.to_string()))
            })
            .collect()
    };
    let columns = table.columns();
    let mut videos: Vec<(&str, Vec<VideoPlace>)> = Vec::new();
    for feature in info.features.iter().filter(|f| f.is_video()) {
        let name = |field: &str| format!("videos/{}/{field}", feature.name);
        // A feature without places (such as a video removed later) is noticed when it is asked for.
        if !columns.contains(&name("chunk_index")) {
            continue;
        }
        let (chunks, files) = (indices(&name("chunk_index"))?, indices(&name("file_index"))?);
        let from = table.scalars::<f64>(&name("from_timestamp"), rows.clone())?;
        let to = table.scalars::<f64>(&name("to_timestamp"), rows.clone())?;
        let places = chunks.into_iter().zip(files).zip(from.into_iter().zip(to));
        let places = places.map(|((chunk, file), (from, to))| VideoPlace { chunk, file, from, to });
        videos.push((&feature.name, places.collect()));
    }
    let episode_index = indices("episode_index")?;
    let length = indices("length")?;
    let (chunk, file) = (indices("data/chunk_index")?, indices("data/file_index")?);
    let tasks = table.column::<String>("tasks", rows.clone())?;
    let mut texts = tasks.values.into_iter();
    let rows = episode_index.into_iter().zip(length).zip(chunk.into_iter().zip(file)).zip(tasks.lengths);
    for (row, (((episode_index, length), (chunk, file)), task_count)) in rows.enumerate() {
        let place = |(key, places): &(&str, Vec<VideoPlace>)| {
            places.get(row).map(|place| ((*key).to_owned(), *place))
        };
        out.push(EpisodeMeta {
            episode_index,
            length,
            tasks: texts.by_ref().take(task_count).collect(),
            sub_tasks: Vec::new(),
            place: Some(Place { chunk, file, videos: videos.iter().filter_map(place).collect() }),
        });
    }
    Ok(())
}
